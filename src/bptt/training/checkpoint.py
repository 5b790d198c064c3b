"""Checkpoints: everything a run needs to go on, written so that a folder is whole or not there.

::

    checkpoints/step-N/model.safetensors      the weights
                       training.safetensors   optimiser, carry, random state
                       state.json             step, position in the data, sums, scores

A checkpoint is written to a temporary folder, flushed and renamed; what is left of one that was
interrupted is removed by the next. No pickle: loading one never runs code from it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bptt.errors import RunError

Tensors = dict[str, Tensor]
_NAME = re.compile(r"step-(\d+)")
_MODEL, _TRAINING, _STATE = "model.safetensors", "training.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint in memory."""

    model: Tensors
    training: Tensors
    state: dict[str, Any]


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, ascending."""
    if not folder.is_dir():
        return []
    matches = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint under the step its state names.

    Raises:
        RunError: the disk refused; earlier checkpoints are untouched.
    """
    step = checkpoint.state["step"]
    target = folder / f"step-{step}"
    temporary = folder / f".step-{step}.tmp"
    try:
        for left_over in folder.glob(".step-*.tmp"):
            shutil.rmtree(left_over)
        temporary.mkdir()
        _save_tensors(checkpoint.model, temporary / _MODEL)
        _save_tensors(checkpoint.training, temporary / _TRAINING)
        (temporary / _STATE).write_text(json.dumps(checkpoint.state, indent=2) + "\n", "utf-8")
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
        if target.exists():  # the same step again, after a resume that trained no further
            shutil.rmtree(target)
        os.replace(temporary, target)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(
            f"room for a checkpoint in {folder}",
            str(error),
            "free the disk and go on with --resume; earlier checkpoints are intact",
        ) from None
    return target


def load(folder: Path, step: int) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        RunError: a file is missing or damaged.
    """
    path = folder / f"step-{step}"
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        if not isinstance(state, dict):
            raise ValueError(f"{_STATE} holds no state")
        return Checkpoint(load_file(path / _MODEL), load_file(path / _TRAINING), state)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        others = [f"step-{s}" for s in steps(folder) if s != step]
        remedy = f"remove it to go on from {others[-1]}" if others else "start the run again"
        raise RunError(f"a whole checkpoint at {path}", str(error), remedy) from None


def newest(folder: Path) -> Checkpoint:
    """The checkpoint of the last step."""
    found = steps(folder)
    if not found:
        raise RunError(
            f"a checkpoint in {folder}",
            "none",
            "train longer; the first comes with the first score",
        )
    return load(folder, found[-1])


def best(folder: Path) -> Checkpoint:
    """The checkpoint with the best held-out score; where none was scored, the newest."""
    last = newest(folder)
    step = last.state.get("best_step")
    return load(folder, step) if step in steps(folder) else last


def prune(folder: Path, keep: int, best_step: int | None) -> None:
    """Remove all but the newest ``keep`` checkpoints and the best one."""
    for step in steps(folder)[:-keep]:
        if step != best_step:
            shutil.rmtree(folder / f"step-{step}")


def _save_tensors(tensors: Tensors, path: Path) -> None:
    # A clone each: safetensors refuses tensors that share memory, as tied or expanded ones do.
    save_file(
        {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, path
    )


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
