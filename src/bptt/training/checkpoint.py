"""Checkpoints: everything a run needs to go on, written so that a folder is whole or not there.

::

    checkpoints/step-N/model.safetensors      the weights
                       training.safetensors   optimiser, carry, random states
                       state.json             step, position in the data, sums, scores
                       manifest.json          size and SHA-256 of each (bptt.training.manifest)

A checkpoint is written to a temporary folder, every file and folder flushed, and renamed; one that is
removed is renamed first. So whatever is named ``step-N`` was whole once, and the manifest tells whether
it still is: every load compares all of it first. No pickle: loading one never runs code from it.

What an interrupted write or removal left behind begins with a dot and goes with the next write. A
damaged checkpoint is never removed: :func:`recover` sets it aside as ``damaged-step-N``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from bptt.errors import RunError
from bptt.training import disk, manifest

logger = logging.getLogger(__name__)
Tensors = dict[str, Tensor]
_NAME = re.compile(r"step-(0|[1-9][0-9]*)")
_MODEL, _TRAINING, _STATE = "model.safetensors", "training.safetensors", "state.json"
_TRIES = 10  # looks at a folder that a running training changes meanwhile


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
    """Write a checkpoint under the step its state names, in place of one that is there.

    Raises:
        RunError: the disk refused; earlier checkpoints are untouched.

    Cost: the bytes of the checkpoint in memory, and one write of them that is waited for.
    """
    step = checkpoint.state["step"]
    target, temporary = folder / f"step-{step}", folder / f".step-{step}.tmp"
    with _writing(folder):
        for left_over in folder.glob(".step-*"):
            shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink()
        try:
            temporary.mkdir()
            files = {
                _MODEL: safetensors.torch.save(_plain(checkpoint.model)),
                _TRAINING: safetensors.torch.save(_plain(checkpoint.training)),
                _STATE: (json.dumps(checkpoint.state, indent=2) + "\n").encode(),
            }
            files[manifest.NAME] = manifest.seal(files, step=step)
            for name, data in files.items():
                disk.write(temporary / name, data)
            disk.flush(temporary)
            _remove(target)
            os.replace(temporary, target)
            disk.flush(folder)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return target


def load(folder: Path, step: int) -> Checkpoint:
    """Read one checkpoint, all of it compared with its checksums first.

    Raises:
        RunError: a file is missing or damaged; it says which, what is wrong, and what would do.
    """
    path = folder / f"step-{step}"
    try:
        _check(path, step)
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        if not isinstance(state, dict) or state.get("step") != step:
            raise ValueError(f"{_STATE} is of another checkpoint")
        model, training = (safetensors.torch.load_file(path / n) for n in (_MODEL, _TRAINING))
        return Checkpoint(model, training, state)
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise _damaged(path, str(error), _sound(folder, but=step)) from None


def newest(folder: Path) -> Checkpoint:
    """The checkpoint of the last step; a run that trains meanwhile does no harm."""

    def look() -> Checkpoint:
        return load(folder, _found(folder)[-1])

    return _steadily(folder, look)


def best(folder: Path) -> Checkpoint:
    """The checkpoint with the best held-out score; where none was scored, the newest.

    Where the best one is gone, the newest is taken, and the log says so.
    """

    def look() -> Checkpoint:
        last = load(folder, _found(folder)[-1])
        step = last.state.get("best_step")
        if step is None or step == last.state["step"]:
            return last
        if step in steps(folder):
            return load(folder, step)
        logger.warning(
            "step-%s, the best of %s, is not there: step-%s, the newest, is taken",
            step, folder, last.state["step"],
        )  # fmt: skip
        return last

    return _steadily(folder, look)


def recover(folder: Path) -> Checkpoint:
    """The newest sound checkpoint, to go on from. Only for whoever holds the run folder.

    Every checkpoint is compared with its checksums. One that is damaged is named in the log and renamed
    to ``damaged-step-N``, so that it neither counts as kept nor stands in the way.

    Raises:
        RunError: there is none, or none that is sound; nothing is renamed then.
    """
    found = _found(folder)
    problems = {step: problem for step in found if (problem := damage(folder, step))}
    sound = [step for step in found if step not in problems]
    if not sound:
        raise _damaged(folder / f"step-{found[-1]}", problems[found[-1]], None)
    with _writing(folder):
        for step, problem in problems.items():
            aside = set_aside(folder, step, "damaged")
            logger.warning("step-%d is damaged: %s; set aside as %s", step, problem, aside)
    if sound[-1] != found[-1]:
        logger.warning("going on from step-%d, the newest sound checkpoint", sound[-1])
    return load(folder, sound[-1])


def set_aside(folder: Path, step: int, word: str) -> Path:
    """Rename a checkpoint to ``WORD-step-N``, so that it neither counts as kept nor stands in the way."""
    with _writing(folder):
        aside = folder / f"{word}-step-{step}"
        number = 1
        while aside.exists():
            number += 1
            aside = folder / f"{word}-step-{step}-{number}"
        os.rename(folder / f"step-{step}", aside)
    return aside


def damage(folder: Path, step: int) -> str | None:
    """What is wrong with a checkpoint, beginning with the file's name; None where it is sound."""
    try:
        _check(folder / f"step-{step}", step)
    except ValueError as error:
        return str(error)
    return None


def prune(folder: Path, keep: int, best_step: int | None) -> None:
    """Remove all but the newest ``keep`` checkpoints and the best one."""
    with _writing(folder):
        for step in steps(folder)[:-keep]:
            if step != best_step:
                _remove(folder / f"step-{step}")


def _check(path: Path, step: int) -> None:
    if not path.is_dir():
        raise ValueError("it is not a folder" if path.exists() else "it is missing")
    listed = manifest.read(path)
    if listed.get("step") != step:
        raise ValueError(f"{manifest.NAME} is that of step {listed.get('step')!r:.20}")
    for name in (_MODEL, _TRAINING, _STATE):
        manifest.check(path, listed, name)


def _found(folder: Path) -> list[int]:
    found = steps(folder)
    if not found:
        raise RunError(f"a checkpoint in {folder}", "none", "restore it from a copy, or start anew")
    return found


def _sound(folder: Path, but: int) -> int | None:
    others = (step for step in reversed(steps(folder)) if step != but)
    return next((step for step in others if damage(folder, step) is None), None)


def _damaged(path: Path, problem: str, sound: int | None) -> RunError:
    remedy = "restore it from a copy, or start the run again; no other checkpoint is sound"
    if sound is not None:
        remedy = f"move that folder away, and step-{sound}, which is sound, takes its place"
    return RunError(f"a whole checkpoint at {path}", problem, remedy)


def _steadily(folder: Path, look: Any) -> Checkpoint:
    """Look again where a checkpoint went while it was read, because the run wrote a newer one."""
    for _ in range(_TRIES):
        before = steps(folder)
        try:
            return look()
        except RunError:
            if steps(folder) == before:
                raise
    return look()


def _remove(path: Path) -> None:
    # Renamed first: whoever reads, or comes after a crash, finds all of it or nothing.
    if path.is_dir():
        going = path.with_name(f".{path.name}.old")
        os.replace(path, going)
        shutil.rmtree(going)


def _plain(tensors: Tensors) -> Tensors:
    # A clone each: safetensors refuses tensors that share memory, as tied or expanded ones do.
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"room and the right to write in {folder}",
            error.strerror or str(error),
            "free the disk and go on with --resume; earlier checkpoints are intact",
        ) from None
