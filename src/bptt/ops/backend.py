"""Which backend runs the recurrence: the compiled kernels or plain torch, and why."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bptt.errors import ArgumentError, BackendError
from bptt.ops import native, triton

SETTINGS = ("auto", "native", "triton", "eager")


@dataclass(frozen=True)
class Backend:
    """What runs the recurrence.

    Attributes:
        setting: ``"auto"``, ``"native"``, ``"triton"`` or ``"eager"``, as set.
        runs: ``"native"``, ``"triton"``, ``"eager"``, or ``"torch"`` for torch's own layer over lanes
            that were split at their marks: what the last call ran on, or before any call, what a
            float32 call on the CPU will.
        why: the reason, in one line.
        isa: the kernels' instruction set; None where the extension is not there.
    """

    setting: str
    runs: str
    why: str
    isa: str | None

    def __str__(self) -> str:
        return f"{self.runs} ({self.why})"


_setting = "auto"
_by_environment = False  # whether BPTT_BACKEND chose it
_last: tuple[str, str] | None = None
_said = False


def set_backend(name: str) -> None:
    """Choose the backend: ``"auto"`` takes the kernels where they cover the call and the eager path
    elsewhere; ``"native"``, ``"triton"`` and ``"eager"`` run as asked or raise, and never fall back.

    The environment variable ``BPTT_BACKEND`` sets the same at import.

    Raises:
        ArgumentError: for another name.
        BackendError: for ``"native"`` where the compiled extension is not there, for ``"triton"`` where
            that package is not.
    """
    global _setting, _last, _by_environment
    if name not in SETTINGS:
        raise ArgumentError(f"one of {', '.join(SETTINGS)}", repr(name), "name one of these")
    if name == "native" and native.missing is not None:
        raise BackendError(
            "the native backend", native.missing, "install with a C++ compiler, or use 'auto'"
        )
    if name == "triton" and triton.missing is not None:
        raise BackendError("the backend triton", triton.missing, "install it, or use 'auto'")
    _setting, _last, _by_environment = name, None, False


def backend() -> Backend:
    """Which backend runs, and why.

    Example:
        >>> backend().setting
        'auto'
    """
    if _last is not None:
        runs, why = _last
    elif _setting in ("eager", "triton"):
        runs, why = _setting, "asked for"
    elif native.missing is not None:
        runs, why = "eager", native.missing
    else:
        runs, why = _native()
    return Backend(_setting, runs, why, native.isa())


_ASKED = ("native", "asked for")
_CHOSEN = ("native", f"the kernels cover the call, compiled for {native.isa()}")


def _native() -> tuple[str, str]:
    """What a call on the kernels says: with what autocast made of it, where nobody asked for them."""
    if _setting == "native":
        return _ASKED
    precision = native.precision()
    return (_CHOSEN[0], _CHOSEN[1] + precision) if precision else _CHOSEN


def is_eager() -> bool:
    """Whether plain torch was asked for by name."""
    return _setting == "eager"


def is_triton() -> bool:
    """Whether Triton's kernels were asked for by name."""
    return _setting == "triton"


def may_be_native() -> bool:
    """Whether nothing was asked for by name that the kernels are not."""
    return _setting != "eager" and _setting != "triton"


def note_native() -> None:
    """A call ran on the kernels, which it may: :func:`decide` would have found no reason against it.

    It ran without autocast.
    """
    global _last
    _last = _ASKED if _setting == "native" else _CHOSEN


def takes_triton(
    cell: str, x: Tensor, state: Any, weights: Any, marked: bool, splits: bool
) -> bool:
    """Whether a call runs on Triton's kernels: where it was asked for, and on a GPU where it has marks.

    Weights that do not fit on the chip make a launch of every step. There a call that can be split at its
    marks is left to torch's own layer, which is one.

    Raises:
        BackendError: it was asked for by name and does not cover the call.
    """
    global _last
    asked = _setting == "triton"
    if not asked and not (_setting == "auto" and marked and x.device.type == "cuda"):
        return False
    reason = triton.covers(cell, x, state, weights)
    if reason is not None:
        if asked:
            raise _uncovered("a call Triton's kernels cover", reason)
        return False
    if not asked and splits and not triton.holds(cell, weights[1], x.shape[0] * x.shape[1]):
        return False
    _last = ("triton", "asked for" if asked else "Triton's kernels cover the call")
    return True


def require_backend(device: torch.device, *, amp: bool = False) -> None:
    """Raise where the backend that was asked for by name runs nothing on a device.

    Args:
        device: where a model is to be trained. amp: under autocast.

    Raises:
        BackendError: it does not run there; told before anything is written.
    """
    covers = {"native": native.covers, "triton": triton.covers}.get(_setting)
    if covers is None:
        return
    x, weight = torch.empty(1, 1, 1, device=device), torch.empty(3, 1, device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=amp):
        reason = covers("GRU", x, (x[0],), (weight, weight, None, None))
    if reason is not None:
        raise _uncovered(f"a backend that runs on {device}", f"{_setting}: {reason}")


def _uncovered(expected: str, reason: str) -> BackendError:
    remedy = "use set_backend('auto') for this call"
    return BackendError(expected, reason, "unset BPTT_BACKEND" if _by_environment else remedy)


def note_split() -> None:
    """A marked call ran on torch's own layer, its lanes split at their marks."""
    global _last
    _last = ("torch", "lanes are split at their marks into one packed batch")


def decide(reason: str | None) -> bool:
    """Whether a call runs native, given why the kernels do not cover it (None: they do).

    Raises:
        BackendError: native was asked for by name and does not cover the call.
    """
    global _last, _said
    if _setting in ("eager", "triton"):
        chosen = (_setting, "asked for")
    elif reason is None:
        chosen = _native()
    elif _setting == "native":
        raise _uncovered("a call the native backend covers", reason)
    else:
        chosen = ("eager", reason)
    if not torch.compiler.is_compiling():
        _last = chosen
        if native.missing is not None and _setting == "auto" and not _said:
            _said = True
            warnings.warn(
                f"bptt runs in plain torch, more slowly: {native.missing}; reinstall with a C++ compiler "
                "for the kernels, or set_backend('eager') to silence this",
                RuntimeWarning,
                stacklevel=4,
            )
    return chosen[0] == "native"


if os.environ.get("BPTT_BACKEND"):
    set_backend(os.environ["BPTT_BACKEND"])
    _by_environment = True
