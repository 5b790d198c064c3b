"""What a checkpoint holds, compared with what a model and a run need, before any of it is used.

Checksums show damage and not malice: a file that somebody wrote and sealed fits its own. So names, shapes
and dtypes of all tensors are compared with those that this model, this optimiser and this carry have, and
the kinds and ranges of all numbers with those of the fields they are meant for. What does not fit is
named by file and entry, and nothing was changed then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from torch import Tensor, nn

from bptt.errors import ArgumentError, RunError
from bptt.files.values import fit, shown
from bptt.models import CountModel
from bptt.training.checkpoint import MODEL, STATE, Checkpoint, Tensors

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
    """Raise RunError unless ``state.json`` says values of these types, see :mod:`bptt.files.values`."""
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
