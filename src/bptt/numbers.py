"""Numbers as callers have them: Python's own, or the scalars of NumPy and torch.

A size that comes out of ``argmax``, of a table or of a sum is rarely an ``int``. It is taken as one,
here and nowhere else, and kept as one, so that what is written to a file or handed to torch is plain.
What is no such number is refused with its type named, because then the type is what is wrong. Truth
values are no numbers. This file must not import torch: the command line reads it.
"""

from __future__ import annotations

import operator
from typing import Any

from bptt.errors import ArgumentError, NumberError


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
