"""Runs of a small model on a small text, for the tests of training."""

from bptt.training import Settings


def small(text, tmp_path, name="run", **changes):
    options = {"hidden": 12, "batch": 4, "k": 8, "steps": 60, "log_every": 3, "lr": 0.01}
    return Settings(files=(text,), out=str(tmp_path / name), **{**options, **changes})
