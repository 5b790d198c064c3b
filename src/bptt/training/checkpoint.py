"""Checkpoints: everything a run needs to go on, written so that a folder is whole or not there.

::

    checkpoints/step-N/model.safetensors      the weights
                       training.safetensors   optimiser, carry, random states
                       state.json             step, position in the data, sums, scores
                       manifest.json          size and SHA-256 of each (bptt.files.manifest)

A checkpoint is written to a temporary folder, every file and folder flushed, and renamed; one that is
removed is renamed first. So whatever is named ``step-N`` was whole once, and the manifest tells whether
it still is: every load compares all of it first. No pickle: loading one never runs code from it.

What an interrupted write or removal left behind begins with a dot and goes with the next write. A
damaged checkpoint is never removed: :func:`recover` sets it aside as ``damaged-step-N``.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from bptt.errors import ArgumentError, RunError
from bptt.files import manifest
from bptt.files.folder import Folder, WrongKindError, reason, unread
from bptt.files.read import fit, shown
from bptt.models import CountModel

logger = logging.getLogger(__name__)
Tensors = dict[str, Tensor]
CHECKPOINTS = "checkpoints"
_NAME = re.compile(r"step-(0|[1-9][0-9]*)")
MODEL, TRAINING, STATE = "model.safetensors", "training.safetensors", "state.json"
_TRIES = 10  # looks at a folder that a running training changes meanwhile


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint in memory; ``path`` is the folder it was read from."""

    model: Tensors
    training: Tensors
    state: dict[str, Any]
    path: Path | None = None


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, ascending; none where it is no folder, or a link."""
    try:
        with Folder.open(folder) as opened:
            return _steps(opened)
    except (FileNotFoundError, NotADirectoryError, WrongKindError):
        return []


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint under the step its state names, in place of one that is there.

    Raises:
        RunError: the disk refused; earlier checkpoints are untouched.

    Cost: the bytes of the checkpoint in memory, and one write of them that is waited for.
    """
    name = f"step-{checkpoint.state['step']}"
    with _writing(folder), Folder.open(folder) as opened:
        for left_over in opened.names():
            if left_over.startswith(".step-"):
                opened.remove(left_over)
        with opened.new_folder(name, instead=True) as fresh:
            save_in(fresh, checkpoint)
    return folder / name


def save_in(fresh: Folder, checkpoint: Checkpoint) -> None:
    """Write the files of a checkpoint into a new folder; OSError where the disk refuses."""
    files = {
        MODEL: safetensors.torch.save(_plain(checkpoint.model)),
        TRAINING: safetensors.torch.save(_plain(checkpoint.training)),
        STATE: (json.dumps(checkpoint.state, indent=2) + "\n").encode(),
    }
    files[manifest.NAME] = manifest.seal(files, step=checkpoint.state["step"])
    for name, data in files.items():
        fresh.write(name, data)


def load(folder: Path, step: int) -> Checkpoint:
    """Read one checkpoint, all of it compared with its checksums first.

    What it holds is compared with the model and the text by whoever uses it
    (:mod:`bptt.training.checkpoint`).

    Raises:
        RunError: a file is missing or damaged; it says which, what is wrong, and what would do.
    """
    path = folder / f"step-{step}"
    try:
        with Folder.open(folder) as opened, _opened(opened, step) as inner:
            listed = _listed(inner, step)
            data = {n: manifest.read_checked(inner, listed, n) for n in (MODEL, TRAINING, STATE)}
        state = json.loads(data[STATE].decode("utf-8"))
        if not isinstance(state, dict) or state.get("step") != step:
            raise ValueError(f"{STATE} is of another checkpoint")
        return Checkpoint(_tensors(data, MODEL), _tensors(data, TRAINING), state, path)
    except RecursionError:
        raise _damaged(path, f"{STATE} is nested too deep", _sound(folder, but=step)) from None
    except OSError as error:
        raise _damaged(path, f"it {unread(error)}", _sound(folder, but=step)) from None
    except ValueError as error:
        raise _damaged(path, str(error), _sound(folder, but=step)) from None


def read_state(folder: Path) -> dict[str, Any] | None:
    """The numbers of the newest checkpoint whose ``state.json`` is sound; no tensor is read.

    Returns:
        What ``state.json`` holds; None where there is none.

    Cost: one small file.
    """
    for step in reversed(steps(folder)):
        try:
            with Folder.open(folder) as opened, _opened(opened, step) as inner:
                data = manifest.read_checked(inner, _listed(inner, step), STATE)
            state = json.loads(data.decode("utf-8"))
        except (OSError, ValueError, RecursionError):
            continue  # damaged, or removed meanwhile by a run that trains; an older one will do
        if isinstance(state, dict):
            return state
    return None


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
        if step is not None and not (type(step) is int and 0 <= step < 2**63):
            raise RunError(
                f"a step or null as best_step in {last.path}/{STATE}",
                f"{step!r:.40}",
                "restore the checkpoint from a copy",
            )
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
    with _writing(folder), Folder.open(folder) as opened:
        aside, number = f"{word}-step-{step}", 1
        while opened.status(aside) is not None:
            number += 1
            aside = f"{word}-step-{step}-{number}"
        opened.rename(f"step-{step}", aside)
    return folder / aside


def damage(folder: Path, step: int) -> str | None:
    """What is wrong with a checkpoint, beginning with the file's name; None where it is sound."""
    try:
        with Folder.open(folder) as opened, _opened(opened, step) as inner:
            listed = _listed(inner, step)
            for name in (MODEL, TRAINING, STATE):
                manifest.check(inner, listed, name)
    except OSError as error:
        return f"it {unread(error)}"
    except ValueError as error:
        return str(error)
    return None


def prune(folder: Path, keep: int, best_step: int | None) -> None:
    """Remove all but the newest ``keep`` checkpoints and the best one."""
    with _writing(folder), Folder.open(folder) as opened:
        for step in _steps(opened)[:-keep]:
            if step != best_step:
                # Renamed first: whoever reads, or comes after a crash, finds all of it or nothing.
                opened.remove(opened.set_aside(f"step-{step}"))


def _steps(folder: Folder) -> list[int]:
    matches = (_NAME.fullmatch(name) for name in folder.names())
    return sorted(int(match[1]) for match in matches if match)


def _opened(folder: Folder, step: int) -> Folder:
    try:
        return folder.folder(f"step-{step}")
    except OSError as error:
        raise ValueError(f"it {unread(error)}") from None


def _listed(folder: Folder, step: int) -> dict[str, Any]:
    listed = manifest.read(folder)
    if listed.get("step") != step:
        raise ValueError(f"{manifest.NAME} is that of step {listed.get('step')!r:.20}")
    return listed


def _tensors(data: dict[str, bytes], name: str) -> Tensors:
    try:
        return safetensors.torch.load(data[name])
    # A sealed header may name a dtype that torch or safetensors lacks, or sizes that fit no tensor.
    except (SafetensorError, LookupError, ValueError, RuntimeError, TypeError, OverflowError) as e:
        raise ValueError(f"{name} holds no tensors ({e!s:.80})") from None


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


def _plain(tensors: Tensors) -> Tensors:
    # A clone each: safetensors refuses tensors that share memory, as tied or expanded ones do.
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except WrongKindError as error:
        raise RunError(
            f"folders of files in {folder}",
            reason(error),
            "move it away; nothing in a run folder may lead out of it",
        ) from None
    except OSError as error:
        raise RunError(
            f"room and the right to write in {folder}",
            reason(error),
            "free the disk and go on with --resume; earlier checkpoints are intact",
        ) from None


# What a checkpoint holds, compared with what a model and a run need, before any of it is used.
#
# Checksums show damage and not malice: a file that somebody wrote and sealed fits its own. So
# names, shapes and dtypes of all tensors are compared with those that this model, this optimiser
# and this carry have, and the kinds and ranges of all numbers with those of the fields they are
# meant for. What does not fit is named by file and entry, and nothing was changed then.

REMEDIES = {
    MODEL: "restore the checkpoint, config.toml and vocabulary.json from a copy",
    STATE: "restore the checkpoint from a copy, or move its folder away to go on from an older one",
}


def load_weights(model: nn.Module, saved: Checkpoint) -> None:
    """Give a model the weights of a checkpoint.

    Raises:
        RunError: they are not this model's, which then is what it was.
    """
    expected = model.state_dict()
    free = list(expected) if isinstance(model, CountModel) else []  # how much was counted decides
    compare_tensors(saved, MODEL, saved.model, expected, any_shape=free)
    try:
        model.load_state_dict(saved.model)
    except RuntimeError as error:
        refuse(saved, MODEL, "counts of a text", str(error).splitlines()[-1].strip())


def compare_tensors(
    saved: Checkpoint,
    file: str,
    found: Tensors,
    expected: Mapping[str, Tensor],
    *,
    any_shape: list[str] | None = None,
    finite: bool = False,
) -> None:
    """Raise RunError unless the tensors have these names, shapes and dtypes.

    Args:
        saved: the checkpoint, for the message.
        file: of it.
        found: the tensors that it holds.
        expected: tensors as they should be; their values do not count.
        any_shape: names whose shape is not compared.
        finite: whether every number has to be.
    """
    for name, wanted in expected.items():
        came = found.get(name)
        if came is None:
            refuse(saved, file, f"a tensor {name}", "none")
        same = came.shape == wanted.shape or name in (any_shape or ())
        if came.dtype != wanted.dtype or not same:
            refuse(saved, file, f"{_described(wanted)} as {name}", _described(came))
        if finite and came.is_floating_point() and not bool(came.isfinite().all()):
            worst = "NaN" if bool(came.isnan().any()) else "an infinite one"
            refuse(saved, file, f"finite numbers as {name}", worst)
    for name in found:
        if name not in expected:
            refuse(saved, file, "no tensor but this run's", shown(name, 80))


def compare_values(saved: Checkpoint, state: Any, hint: Any, name: str = "") -> None:
    """Raise RunError unless ``state.json`` says values of these types, see :mod:`bptt.files.read`."""
    try:
        fit(state, hint, name)
    except ArgumentError as error:
        refuse(saved, STATE, error.expected, error.received)


def refuse(saved: Checkpoint, file: str, expected: str, received: str) -> NoReturn:
    """Raise the RunError that names a file of a checkpoint, and what in it does not fit."""
    fit = "weights that fit the settings, " if file == MODEL else ""
    raise RunError(
        f"{fit}{expected} in {_place(saved, file)}", received, REMEDIES.get(file, REMEDIES[STATE])
    )


def _place(saved: Checkpoint, file: str) -> str:
    return f"{file} of the checkpoint" if saved.path is None else str(saved.path / file)


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
