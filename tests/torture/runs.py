"""Small runs, the processes that train them, and when two runs are the same."""

import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bptt.training import RunFolder, Settings, train
from bptt.training import checkpoint as checkpoints

TEXT = "the quick brown fox jumps over the lazy dog; the lazy dog sleeps on.\n" * 12
CLOCK = {
    "seconds",
    "tokens_per_second",
    "metrics",
}  # with the seconds, the length of a line changes

# Between them every kind of state: moments, momentum, dropout, random cuts, clips and an estimator that
# remember, the carry of several layers, early stop.
VARIANTS = (
    {"gradient": "adaptive", "k": 4, "chunk": 12, "dropout": 0.2, "clip": "auto:20", "patience": 90},
    {"gradient": "randomized", "k": 4, "cell": "lstm", "layers": 2, "clip": "z:1", "documents": ";",
     "optimizer": "sgd", "lr": 0.1, "momentum": 0.9},
    {"partition": "random", "k": 8, "init": "np", "cell": "rnn", "regularise": "omega:0.1"},
)  # fmt: skip


def settings(folder: Path, name: str, **changes) -> Settings:
    """A run of 48 updates with 13 checkpoints, in a second or two."""
    text = folder / "text.txt"
    if not text.exists():
        text.write_text(TEXT, encoding="utf-8")
    options = {"hidden": 6, "batch": 3, "k": 8, "steps": 48, "eval_every": 4, "log_every": 3}
    more = {"horizon_every": 7, "keep": 2, "lr": 0.01, "threads": 1}
    return Settings(files=(str(text),), out=str(folder / name), **{**options, **more, **changes})


def begin_or_go_on(chosen: Settings) -> None:
    """What somebody does after a crash: go on, or begin where there is nothing to go on from."""
    out = Path(chosen.out)
    if out.exists():
        random.seed(os.getpid())  # the run brings its own state
        np.random.seed(os.getpid())
        train(RunFolder.open(out).read_settings(), resume=out, on_step=_draw)
    else:
        train(chosen, on_step=_draw)


def _draw(session):
    """What a user's own code may do in a run."""
    random.gauss(0, 1)
    np.random.standard_normal()


def child(work: Callable[[], int | None], log: Path) -> int:
    """Fork a process that does the work, its output in a file; return its id.

    A fork of a process that has torch already starts at once; a new interpreter takes two seconds.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    random.seed(0)  # else Python seeds itself anew in every fork
    np.random.seed(0)
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        status = work() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(pid: int, log: Path) -> int:
    """Wait for a child: its exit status, or -9 if it was killed; anything else is a failure."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 2, -signal.SIGKILL), f"{status}: {log.read_text()}"
    return status


def course(run: Path) -> list[dict]:
    """The metrics without what depends on the clock."""
    return [_timeless(record) for record in RunFolder(run).read_metrics()]


def assert_same_run(ours: Path, theirs: Path, *, interrupted: bool = False) -> None:
    """Bit for bit: metrics, weights, and everything else their last checkpoints hold; also which they
    are, unless ours was interrupted and has some from those moments."""
    assert course(ours) == course(theirs)
    lines = RunFolder(ours).metrics.read_text().splitlines()
    assert len(lines) == len(course(theirs)), "no line is torn, none is there twice"
    a, b = (checkpoints.newest(RunFolder(run).checkpoints) for run in (ours, theirs))
    for mine, other in ((a.model, b.model), (a.training, b.training)):
        assert mine.keys() == other.keys()
        different = [name for name in mine if not torch.equal(mine[name], other[name])]
        assert different == [], different
    assert _timeless(a.state) == _timeless(b.state)
    a, b = (checkpoints.best(RunFolder(run).checkpoints) for run in (ours, theirs))
    assert _timeless(a.state) == _timeless(b.state)
    kept = [checkpoints.steps(RunFolder(run).checkpoints) for run in (ours, theirs)]
    assert interrupted or kept[0] == kept[1]
    assert [p.name for p in RunFolder(ours).checkpoints.iterdir() if "step-" not in p.name] == []


def _timeless(record):
    if not isinstance(record, dict):
        return record
    # Where the text lay is as it should be another place for a run in another folder.
    other = {*CLOCK, "files"}
    return {key: _timeless(value) for key, value in record.items() if key not in other}
