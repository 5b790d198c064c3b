"""The exceptions of this package.

Every one of them says three things in one line: what was expected, what came, and what to do.
The constructor asks for all three, so that none can be left out. Most also inherit from the
built-in exception that PyTorch raises in the same place, so that a program written for
``torch.nn`` catches ours without a change.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from bptt.shown.text import printable


class BpttError(Exception):
    """Root of the tree: catch it to catch everything this package raises on purpose.

    In the message, control characters stand as escapes: what it names may come from a file.

    Args:
        expected: what would have been right, e.g. ``"k >= 1"``.
        received: what came instead, e.g. ``"k=0"``.
        remedy: what the reader can do now, as an imperative, e.g. ``"pass the chunk length"``.

    Example:
        >>> print(BpttError("k >= 1", "k=0", "pass the chunk length, e.g. k=64"))
        expected k >= 1, received k=0: pass the chunk length, e.g. k=64
    """

    def __init__(self, expected: str, received: str, remedy: str) -> None:
        super().__init__(printable(f"expected {expected}, received {received}: {remedy}"))
        self.expected = expected
        self.received = received
        self.remedy = remedy

    def __reduce__(self):
        # Exceptions cross process borders (data workers, test runners); the default would rebuild
        # this one from its message alone and fail.
        return type(self), (self.expected, self.received, self.remedy)


class ArgumentError(BpttError, ValueError):
    """A size, rate or name is out of its range."""


class ShapeError(BpttError, ValueError, RuntimeError):
    """A tensor's shape does not fit (``torch.nn`` raises ValueError or RuntimeError here)."""


class DtypeError(BpttError, TypeError, ValueError):
    """A tensor's dtype does not fit."""


class NumberError(ArgumentError, DtypeError):
    """A number is of another type than the argument takes, e.g. 2.5 where steps are counted."""


class DeviceError(BpttError, RuntimeError):
    """Tensors that must meet are on different devices."""


class BackendError(BpttError, RuntimeError):
    """A backend was asked for by name and cannot run this call; nothing falls back in silence."""


class DataError(BpttError, ValueError):
    """A text, a file or a symbol in it cannot be used."""


class RunError(BpttError, RuntimeError):
    """A run folder or a checkpoint cannot be read, written or continued."""


class DependencyError(BpttError, ImportError):
    """An optional package that this call needs is not installed."""


class ConvertWarning(UserWarning):
    """``bptt.convert`` left recurrent layers as they are; the message names them and says why."""


class LoopWarning(UserWarning):
    """``bptt.guard`` saw a mistake in a training loop; the message says what, why, and what to write."""


class LoopError(BpttError, RuntimeError):
    """torch stopped a training loop, and ``bptt.guard`` knows the mistake behind it."""


class NonFiniteError(RunError):
    """A loss, state, gradient or parameter left the float range, and the run stops.

    Attributes:
        origin: what and where, an ``Origin`` of :mod:`bptt.training`; None where the chunk, run
        again, stayed finite.
    """

    origin: Any = None


# The axis letters, one meaning each, in docstrings, einsum strings, C++ and error messages.
#
# ====== =====================================================================
# letter meaning
# ====== =====================================================================
# ``T``  time steps
# ``B``  batch; each batch column of a stream is a *lane*
# ``I``  input size
# ``H``  hidden size
# ``G``  gates a cell stacks along its weight rows: 1 RNN, 3 GRU, 4 LSTM
# ``L``  layers
# ``V``  vocabulary
# ``K``  truncation length, in steps
# ``lag`` how many steps back
# ====== =====================================================================


def describe(shape: Iterable[int], letters: str = "") -> str:
    """Write a shape for an error message, with its letters when they fit.

    Example:
        >>> describe((5, 3, 8), "TBH")
        '(T=5, B=3, H=8)'
        >>> describe((5, 3), "TBH")
        '(5, 3)'
    """
    sizes = tuple(shape)
    if len(sizes) == len(letters):
        return "(" + ", ".join(f"{a}={n}" for a, n in zip(letters, sizes, strict=True)) + ")"
    return "(" + ", ".join(str(n) for n in sizes) + ")"


# Numbers as callers have them: Python's own, or the scalars of NumPy and torch.
#
# A size that comes out of ``argmax``, of a table or of a sum is rarely an ``int``. It is taken as one,
# here and nowhere else, and kept as one, so that what is written to a file or handed to torch is plain.
# What is no such number is refused with its type named, because then the type is what is wrong. Truth
# values are no numbers. This file must not import torch: the command line reads it.


def whole(name: str, value: Any, least: int | None = 1, remedy: str = "give a whole number") -> int:
    """A whole number as int.

    Args:
        name: what the message calls it.
        value: an int, or a scalar of NumPy's or torch's integers.
        least: the smallest that will do; None for any.
        remedy: what to do about another.

    Raises:
        NumberError: it is no whole number.
        ArgumentError: it is below ``least``.

    Example:
        >>> import numpy
        >>> whole("k", numpy.int64(4))
        4
    """
    bound = "" if least is None else f" >= {least}"
    try:
        # numpy.bool_ refuses by itself, the others do not.
        number = None if _is_bool(value) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise NumberError(f"a whole number {name}{bound}", _told(name, value), remedy)
    if least is not None and number < least:
        raise ArgumentError(f"{name}{bound}", f"{name}={number}", remedy)
    return number


def optional(
    name: str, value: Any, least: int | None = 1, remedy: str = "give a whole number"
) -> int | None:
    """:func:`whole`, or None for None."""
    return None if value is None else whole(name, value, least, remedy)


def real(name: str, value: Any, remedy: str = "give a number") -> float:
    """A number as float; NaN and infinities are numbers, text is none.

    Raises:
        NumberError: it is no number.

    Example:
        >>> import numpy
        >>> real("lr", numpy.float32(0.5))
        0.5
    """
    found = plain(value)
    text = isinstance(found, (str, bytes, bytearray)) or hasattr(found, "shape")  # or many numbers
    try:
        number = float(found) if not (text or isinstance(found, bool)) else None
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None:
        raise NumberError(f"a number {name}", _told(name, value), remedy)
    return number


def plain(value: Any) -> Any:
    """A scalar of NumPy's or torch's as Python's own; anything else as it is.

    Example:
        >>> import numpy
        >>> plain(numpy.float64(0.5)), plain(numpy.bool_(True)), plain("gru")
        (0.5, True, 'gru')
    """
    if getattr(value, "shape", None) == () and hasattr(value, "dtype") and hasattr(value, "item"):
        return value.item()
    return value


def _is_bool(value: Any) -> bool:
    return isinstance(plain(value), bool)


def _told(name: str, value: Any) -> str:
    kind = type(value)
    where = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{name}={value!r:.40} of type {where}{kind.__name__}"
