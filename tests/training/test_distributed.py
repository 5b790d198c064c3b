"""Several processes compute what one computes: gradients, scores, decisions, and what is saved."""

import os
import random
import signal
import subprocess
import time

import numpy as np
import pytest
import torch

import ranks
from bptt.errors import ArgumentError, RunError
from bptt.training import RunFolder, Settings, train
from bptt.training import checkpoint as checkpoints
from bptt.training.distributed import Group, folder_to_go_on_with, own_part
from compare import assert_close

TEXT = "the quick brown fox jumps over the lazy dog; the lazy dog sleeps on.\n" * 60


def options(text, tmp_path, name="run", **changes):
    """Five lanes, which two processes share as two and three; documents, so that lanes reset."""
    given = {"hidden": 10, "batch": 5, "k": 8, "steps": 100, "log_every": 10, "dropout": 0.0}
    return {
        "files": (str(text),), "out": str(tmp_path / name), "documents": ";", "horizon_every": 0,
        **given, **changes,
    }  # fmt: skip


def worst(found, expected):
    """The largest relative error of a gradient in a run."""
    errors = [
        np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(found, expected, strict=True)
    ]
    return max(errors)


# Relative, of the whole gradient, at every one of 100 updates, each process count with its own weights
# all along: rounding of sums in another order, as the loop hands it on.
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


def compare(size, dtype, text, tmp_path, **changes):
    one = ranks.together(1, ranks.gradients, options(text, tmp_path, "one", **changes), dtype)[0]
    found = ranks.together(size, ranks.gradients, options(text, tmp_path, "n", **changes), dtype)
    for rank, each in enumerate(found):
        assert each["rank"] == rank
        assert len(each["gradients"]) == 100
        assert worst(each["gradients"], one["gradients"]) <= TOLERANCE[dtype]
        assert each["tokens"] == one["tokens"]
        assert_close(each["scores"], one["scores"], 10 * TOLERANCE[dtype])
        assert_close(each["final"], one["final"], 10 * TOLERANCE[dtype])
        # Among themselves they agree to the bit.
        assert all(map(np.array_equal, each["gradients"], found[0]["gradients"]))
        assert_close(each["weights"], found[0]["weights"], 0.0)


def test_two_processes_give_the_gradient_of_one(text, tmp_path):
    compare(2, "float64", text, tmp_path, optimizer="adamw")
    compare(2, "float32", text, tmp_path / "f", optimizer="sgd", lr=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "changes",
    [
        {"cell": "lstm", "layers": 2, "optimizer": "sgd", "lr": 0.5},
        {"gradient": "randomized", "chunk": 24, "optimizer": "sgd", "lr": 0.1},
        {"gradient": "windowed", "chunk": 24, "clip": "auto:20", "optimizer": "sgd", "lr": 0.5},
        {"partition": "random", "clip": "z:2", "optimizer": "sgd", "lr": 0.5},
    ],
    ids=lambda c: c.get("gradient", c.get("cell", "random-chunks")),
)
def test_four_processes_give_the_gradient_of_one(changes, dtype, text, tmp_path):
    compare(4, dtype, text, tmp_path, **changes)


def test_adaptive_goes_by_one_k(text, tmp_path):
    changes = {"gradient": "adaptive", "chunk": 16, "steps": 3}
    found = ranks.together(2, ranks.train_with, options(text, tmp_path, **changes))
    assert [f["steps"] for f in found] == [3, 3]


def test_the_groups_own_functions():
    found = ranks.together(2, ranks.helpers)
    for each in found:
        assert each["lanes"] == [[[float(lane)] * 3 for lane in range(5)]]
        assert each["marks"] == [[True, False, True, True, False]]
        assert each["complex"] == [[[0j], [1j]]]
        assert each["total"] == [1.0, 1.0]
        assert each["any"] == (True, False)
        assert (each["of_first"], each["largest"]) == (7.0, 4)
        assert each["first"] == found[0]["first"]
        assert each["all"] == ["", "x"]
        assert each["weight"] == [0.25 * 1 + 0.75 * 2, 0.25 * 2 + 0.75 * 4]
        assert each["only"] == [0.25]  # the other process counts as zero
        assert each["never"] is None
        assert "the same colour in every process, received 0 in process 0, 1 in" in each["same"]
        assert each["tensors"] == {"a": [1.5, -0.0], "b": 3, "e": []}
        assert each["error"] == "expected a text, received none: give one"


def test_an_interrupt_of_one_ends_all_and_any_number_goes_on(text, tmp_path):
    """1 → 2 → 1 processes; dropout 0, so that the number of processes makes no difference."""
    whole = train(Settings(**options(text, tmp_path, "whole", steps=30)))
    given = options(text, tmp_path, steps=30)
    (first,) = ranks.together(1, ranks.train_with, given, None, (0, 7))
    assert (first["steps"], first["interrupted"]) == (7, True)
    second = ranks.together(2, ranks.train_with, given, given["out"], (1, 19))
    assert [(s["steps"], s["interrupted"]) for s in second] == [(19, True)] * 2
    (last,) = ranks.together(1, ranks.train_with, given, given["out"])
    assert last["steps"] == 30
    a, b = (checkpoints.newest(RunFolder(r).checkpoints) for r in (whole.run, given["out"]))
    assert_close(b.model, a.model, 1e-5)  # float32, AdamW
    assert_close(b.training["carry.0"], a.training["carry.0"], 1e-5)
    assert b.training["carry.0"].shape == (1, 5, 10)
    lines = [[r["step"] for r in RunFolder(r).read_metrics()] for r in (whole.run, given["out"])]
    assert lines[0] == lines[1]


def test_what_one_process_alone_sees_all_of_them_meet(text, tmp_path):
    found = ranks.together(
        2, ranks.train_with, options(text, tmp_path, documents=None), None, None,
        ranks.Spoil(step=6, rank=1, lane=2),
    )  # fmt: skip
    for each in found:
        assert "finite loss and gradient at step 7" in each["error"]
        assert "began with out of range, in lane 4:" in each["error"]  # of 2, 3 and 4 the third
        assert each["steps"] == [1, 2, 3, 4, 5, 6]


def test_refusals_come_from_every_process(text, tmp_path):
    (tmp_path / "run").mkdir()
    for each in ranks.together(2, ranks.train_with, options(text, tmp_path)):
        assert "a run folder that does not exist yet" in each["error"]
    for each in ranks.together(2, ranks.train_with, options(text, tmp_path, "new", batch=1)):
        assert "one lane a process: --batch 2, received --batch 1 for 2 processes" in each["error"]


def test_a_checkpoint_is_split_by_lane_whatever_the_number(text, tmp_path):
    done = train(Settings(**options(text, tmp_path, steps=3)))
    saved = checkpoints.newest(RunFolder(done.run).checkpoints)
    whole = saved.training["carry.0"]
    for size in range(1, 6):
        parts = [own_part(Group(r, size), saved, 5, 0) for r in range(size)]
        assert_close(torch.cat([p.training["carry.0"] for p in parts], 1), whole, 0.0)
        states = {bytes(p.training["random"].numpy()) for p in parts}
        assert len(states) == size  # each draws its own dropout
        assert torch.equal(parts[0].training["random"], saved.training["random"])


def test_restarts_need_a_name_and_go_on_only_with_their_own(text, tmp_path, monkeypatch):
    settings = Settings(**options(text, tmp_path, steps=3))
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "2")
    with pytest.raises(ArgumentError, match="--out RUN with torchrun --max-restarts"):
        train(Settings(files=(text,), steps=3))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    first = train(settings)
    with pytest.raises(RunError, match="does not exist yet"):
        train(settings)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert folder_to_go_on_with(settings, Group()) == first.run
    assert train(settings).steps == 3
    other = Settings(**options(text, tmp_path, steps=4))
    with pytest.raises(RunError, match="does not exist yet"):  # somebody else's run
        train(other)
    for step in checkpoints.steps(RunFolder(first.run).checkpoints):
        folder = RunFolder(first.run).checkpoints / f"step-{step}"
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    assert train(settings).steps == 3  # lost before its first checkpoint: begun again


# Under torchrun itself.


def words(text, out, **changes):
    given = {"hidden": 10, "batch": 5, "k": 8, "steps": 60, "eval-every": 5, "log-every": 5}
    pairs = [(f"--{k}", str(v)) for k, v in {**given, "lr": 0.01, **changes}.items()]
    return ["train", text, "--out", out, "--documents", ";", *[w for p in pairs for w in p]]


def quiet(command, **environment):
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100,
        env={**os.environ, "PYTHONFAULTHANDLER": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, what_each_said(done.stderr)
    return done


def what_each_said(log):
    """A log of torchrun without its own trace, so that a worker's last words are not cut away."""
    own = ("torch/distributed/", "elastic_launch(", "launch_agent(", "run(args)", "main()")
    return "\n".join(line for line in log.splitlines() if not any(o in line for o in own))


def last_numbers(run):
    folder = RunFolder(run)
    timed = ("seconds", "tokens_per_second")
    lines = [{k: v for k, v in r.items() if k not in timed} for r in folder.read_metrics()]
    return lines, checkpoints.newest(folder.checkpoints)


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(text, tmp_path):
    """Dropout too: with the same number of processes the run is the same to the bit."""
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    quiet(ranks.torchrun(2, words(text, whole, dropout=0.2)))
    command = ranks.torchrun(2, words(text, parts, dropout=0.2, steps=60), restarts=3)
    log = (tmp_path / "log").open("w+")
    running = subprocess.Popen(command, stdout=log, stderr=log)
    draw = random.Random(4)
    for _ in range(2):
        folder = RunFolder(parts).checkpoints
        before = checkpoints.steps(folder)[-1:]
        deadline = time.monotonic() + 60
        while checkpoints.steps(folder)[-1:] == before or not checkpoints.steps(folder):
            assert time.monotonic() < deadline
            if running.poll() is not None:
                break
            time.sleep(0.005)
        time.sleep(draw.random() / 20)
        victims = ranks.workers_of(running.pid)
        if victims and running.poll() is None:
            os.kill(draw.choice(victims), signal.SIGKILL)
    running.wait(timeout=100)
    log.seek(0)
    said = log.read()
    log.close()
    assert running.returncode == 0, said[-2000:]
    assert "SIGKILL" in said or "exitcode: -9" in said  # there was a killed one
    (lines, saved), (expected_lines, expected) = last_numbers(parts), last_numbers(whole)
    assert lines == expected_lines
    assert_close(saved.model, expected.model, 0.0)
    assert_close(saved.training, expected.training, 0.0)


LEAVING = """
import atexit, sys
from bptt.__main__ import run
class Late:
    def __del__(self):
        print("taken down")
late = Late()
atexit.register(print, "at exit")
sys.argv = ["bptt", *sys.argv[1:]]
sys.exit(run())
"""


@pytest.mark.parametrize(("word", "status"), [("--version", 0), ("trian", 2)])
@pytest.mark.parametrize("under", [True, False])
def test_a_process_of_torchruns_leaves_before_the_interpreter_is_taken_down(under, word, status):
    environment = {k: v for k, v in os.environ.items() if k != "TORCHELASTIC_RUN_ID"}
    done = subprocess.run(
        [*ranks.python(), "-c", LEAVING, word], capture_output=True, text=True,
        env=environment | ({"TORCHELASTIC_RUN_ID": "here"} if under else {}),
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert (done.returncode, said[-2:] == ["at exit", "taken down"]) == (status, not under)
    assert "at exit" in said
    assert ("did you mean bptt train?" in done.stderr) == (status == 2)


@pytest.mark.slow
def test_one_two_four_and_one_process_go_on_with_one_run(text, tmp_path):
    """Four budgets are four schedules: the same stops in one process give the run to compare with."""
    parts, alone = str(tmp_path / "parts"), str(tmp_path / "alone")
    for size, steps in ((1, 15), (2, 30), (4, 45), (1, 60)):
        settings = {**options(text, tmp_path, steps=steps), "eval_every": 5, "log_every": 5}
        train(Settings(**{**settings, "out": alone}), resume=alone if steps > 15 else None)
        if size == 1:
            train(Settings(**{**settings, "out": parts}), resume=parts if steps > 15 else None)
        else:
            given = ["train", "--resume", parts, "--steps", str(steps), "--json"]
            done = quiet(ranks.torchrun(size, given))
            assert done.stdout.count("\n") == 1  # of several processes one reports
    (lines, saved), (expected_lines, expected) = last_numbers(parts), last_numbers(alone)
    assert saved.state["step"] == 60
    assert [r["step"] for r in lines] == [r["step"] for r in expected_lines]
    assert_close(saved.model, expected.model, 1e-4)  # float32, AdamW, sums in another order
    assert_close(saved.training["carry.0"], expected.training["carry.0"], 1e-4)
