"""Two processes and one run folder."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bptt.errors import RunError
from bptt.files.lock import HOLDER, held
from bptt.training import RunFolder, Settings, train
from bptt.training.restore import load_model
from processes import interpreter, same_path

HOLD = """
import sys, time
from pathlib import Path
from bptt.files.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def run(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the lazy dog sleeps on and on.\n" * 20, encoding="utf-8")
    size = {"hidden": 4, "batch": 2, "k": 8, "steps": 6}
    return train(Settings(files=(str(text),), out=str(tmp_path / "run"), **size)).run


@pytest.fixture
def other(run):
    """Another process that holds the run folder."""
    command = [*interpreter(), "-c", HOLD, str(run)]
    with subprocess.Popen(command, env=same_path(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def contents(folder):
    return {p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in folder.rglob("*")}


def go_on(run, **changes):
    saved = RunFolder.open(run).read_settings()
    return train(Settings(**{**vars(saved), **changes}), resume=run)


def test_the_second_is_told_who_the_first_is_and_touches_nothing(run, other):
    before = contents(run)
    with pytest.raises(
        RunError, match=rf"held by process {other.pid} on .+ since 2\d\d\d-"
    ) as info:
        go_on(run, steps=12)
    assert "\n" not in str(info.value)
    assert contents(run) == before
    load_model(run)  # reading goes on


def test_the_lock_of_a_dead_process_is_free(run, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert go_on(run, steps=12).steps == 12
            break
        except RunError:  # the kernel needs a moment to close a dead process's files
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_holder_that_has_not_said_who_it_is(run, other):
    (run / HOLDER).write_text("[]")
    with pytest.raises(RunError, match="held by another process"), held(Path(run)):
        pass


def test_the_lock_is_given_back_after_an_error(run):
    with pytest.raises(ZeroDivisionError), held(run):
        1 / 0
    with held(run):
        pass


def test_a_run_is_held_while_it_trains(run):
    def second(session):
        with pytest.raises(RunError, match=f"process {os.getpid()} on"):
            go_on(run)
        tried.append(session.progress.step)

    tried = []
    train(
        Settings(**{**vars(RunFolder.open(run).read_settings()), "steps": 8}),
        resume=run,
        on_step=second,
    )
    assert tried == [7, 8]
