"""Signals, closed terminals and readers that go away: what was trained is in a checkpoint."""

import fcntl
import json
import os
import pty
import signal
import subprocess
import termios
import time

import pytest

from bptt.files.folder import Folder
from bptt.training import RunFolder, train
from bptt.training import checkpoint as checkpoints
from bptt.training.schedule import SIGNALS, until_interrupted
from compare import assert_close
from processes import interpreter, same_path
from small_runs import small

TEXT = "the quick brown fox jumps over the lazy dog; the lazy dog sleeps on.\n" * 40
WORDS = [
    "--hidden",
    "8",
    "--batch",
    "4",
    "--k",
    "8",
    "--sample",
    "0",
    "--log-every",
    "1",
    "--threads",
    "1",
]


def newest(run):
    return checkpoints.newest(RunFolder(run).checkpoints)


def curve(run):
    timed = ("seconds", "tokens_per_second")
    lines = RunFolder(run).read_metrics()
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_every_signal_ends_a_run_in_that_very_step_and_it_goes_on_the_same(number, text, tmp_path):
    def ask(session):
        if session.progress.step == 17:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    whole = train(small(text, tmp_path, "whole"))
    parts = train(small(text, tmp_path, "parts"), on_step=ask)
    assert (parts.interrupted, parts.steps) == (True, 17)
    assert newest(parts.run).state["step"] == 17
    assert signal.getsignal(number) == before
    train(small(text, tmp_path, "parts"), resume=parts.run)
    assert curve(parts.run) == curve(whole.run)
    assert_close(newest(parts.run).model, newest(whole.run).model, 0.0)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
@pytest.mark.parametrize("where", ["before", "within", "after"])
def test_more_signals_wait_until_the_checkpoint_of_the_first_is_written(
    number, where, text, tmp_path, monkeypatch
):
    saved, written = [], checkpoints.save

    def again():
        for each in SIGNALS:
            signal.raise_signal(each)

    def save(folder, checkpoint):
        if checkpoint.state["step"] != 17:
            return written(folder, checkpoint)
        if where == "before":
            again()
        if where == "within":
            with monkeypatch.context() as patched:
                flush, hit = Folder.flush, []
                patched.setattr(Folder, "flush", lambda f: (again(), hit.append(f), flush(f)))
                path = written(folder, checkpoint)
            assert hit
        else:
            path = written(folder, checkpoint)
        if where == "after":
            again()
        saved.append(path)
        return path

    def ask(session):
        if session.progress.step == 17:
            signal.raise_signal(number)

    monkeypatch.setattr(checkpoints, "save", save)
    outcome = train(small(text, tmp_path), on_step=ask)
    assert outcome.interrupted
    assert len(saved) == 1
    assert newest(outcome.run).state["step"] == 17


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_a_signal_that_was_ignored_stays_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with until_interrupted() as asked:
            signal.raise_signal(number)
            assert not asked()
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def start(text, run, *words, **options):
    """A run in a process of its own."""
    command = [*interpreter(), "-m", "bptt", "train", str(text), *WORDS, *words, "--out", str(run)]
    return subprocess.Popen(command, env=same_path(), stdin=subprocess.DEVNULL, **options)


def wait_for(condition, process):
    deadline = time.monotonic() + 100
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lines(run):
    metrics = run / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def check_nothing_is_lost(run):
    """The checkpoint is of the last line that was written."""
    last = [r["step"] for r in RunFolder(run).read_metrics() if "loss" in r][-1]
    state = newest(run).state
    assert state["step"] == last
    assert state["metrics"] == (run / "metrics.jsonl").stat().st_size
    return last


def on_a_terminal(text, run, *words, ignore=False):
    """A run that a shell started on a terminal, and the terminal's other end."""
    ours, theirs = pty.openpty()

    def take():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignore else signal.SIG_DFL)

    command = [*interpreter(), "-m", "bptt", "train", str(text), *WORDS, *words, "--out", str(run)]
    process = subprocess.Popen(
        command, env=same_path(), stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take
    )
    os.close(theirs)
    os.set_blocking(ours, False)

    def read():
        try:
            while os.read(ours, 1 << 16):
                pass
        except BlockingIOError:
            pass

    def trains():
        read()  # a terminal that nobody reads holds up who writes to it
        return lines(run) > 5

    wait_for(trains, process)
    read()
    return process, ours


def test_a_closed_terminal_ends_the_run_and_loses_no_step(text, tmp_path):
    run = tmp_path / "run"
    process, terminal = on_a_terminal(text, run, "--steps", "1000000")
    os.close(terminal)
    assert process.wait(100) == 130
    step = check_nothing_is_lost(run)
    assert step > 5
    again = small(text, tmp_path)
    settings = RunFolder(run).read_settings()
    assert settings.batch == again.batch
    more = {**vars(settings), "steps": step + 3, "minutes": None}
    assert train(type(settings)(**more), resume=run).steps == step + 3


def test_a_run_that_is_to_outlive_its_terminal_does(text, tmp_path):
    run = tmp_path / "run"
    process, terminal = on_a_terminal(text, run, "--steps", "300", ignore=True)
    os.close(terminal)
    assert process.wait(100) == 0
    assert json.loads((run / "result.json").read_text())["step"] == 300
    assert (run / "report.html").exists()


def test_a_reader_that_goes_away_ends_the_run_with_a_checkpoint(text, tmp_path):
    run = tmp_path / "run"
    process = start(
        text, run, "--steps", "1000000", "--eval-every", "7",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(100) == 141
    assert process.stderr.read() == b""
    process.stderr.close()
    assert check_nothing_is_lost(run) % 7 == 0


SLOW_DISK = """
import sys, time
from pathlib import Path
from bptt.cli import main
from bptt.training import checkpoint
save = checkpoint.save
def slow(folder, saved):
    if saved.state["step"]:
        Path(sys.argv[1]).touch()
        time.sleep(1)
    return save(folder, saved)
checkpoint.save = slow
sys.exit(main(sys.argv[2:]))
"""


def test_ctrl_c_again_and_again_while_the_first_is_obeyed(text, tmp_path):
    run, saving = tmp_path / "run", tmp_path / "saving"
    words = ["train", str(text), *WORDS, "--steps", "1000000", "--out", str(run)]
    process = subprocess.Popen(
        [*interpreter(), "-c", SLOW_DISK, str(saving), *words],
        env=same_path(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: lines(run) > 3, process)
    process.send_signal(signal.SIGINT)
    wait_for(saving.exists, process)
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (130, "")
    assert f"interrupted at step {check_nothing_is_lost(run)}; go on: " in out


def test_output_on_a_full_disk_does_not_end_a_run(text, tmp_path):
    run = tmp_path / "run"
    with open("/dev/full", "w") as full:
        process = start(text, run, "--steps", "40", stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=100)
    # What is printed at the end is lost too, and that is said.
    assert process.returncode == 2, err
    assert b"No space left on device" in err
    assert newest(run).state["step"] == 40
    assert (run / "result.json").exists()


def test_a_reporter_that_has_no_reader_ends_the_run_as_an_interrupt_does(text, tmp_path):
    class Gone:
        said = 0

        def begin(self, run, session):
            pass

        def step(self, progress, record):
            self.said += 1

        score = note = step

        def listening(self):
            return self.said < 4

    outcome = train(small(text, tmp_path), reporter=Gone())
    assert outcome.interrupted
    assert newest(outcome.run).state["step"] == outcome.steps < 60
