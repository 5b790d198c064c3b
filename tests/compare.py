"""The one comparator of the test-suite. It raises; it never returns a verdict that can be ignored.

An element is close when |actual − expected| ≤ tol · max|expected|, the maximum taken over the whole
array: rounding errors scale with the largest numbers that were added up, not with each result. NaN
equals nothing, an infinity equals only itself, shapes and dtypes must match, and a comparison of
nothing at all fails.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class Mismatch(AssertionError):
    """Two values that should have been close are not."""


def assert_close(
    actual: Any,
    expected: Any,
    tol: float,
    name: str = "value",
    *,
    floor: float = 0.0,
    check_dtype: bool = True,
) -> None:
    """Raise ``Mismatch`` unless ``actual`` is ``expected`` up to rounding.

    Args:
        actual: an array, a tensor, a number, or mappings, sequences and dataclasses of these.
            NumPy and torch may meet; their dtypes are compared by name.
        expected: the same structure.
        tol: largest error allowed, in units of the largest finite |expected| of the same array;
            0 asks for equality. Integers and bools must be equal whatever it is.
        name: what the message calls the value.
        floor: the unit is at least this; for results that cancel to nearly nothing, where the
            terms that were added up are known to be about this large.
        check_dtype: False lets float32 meet float64; shapes must match all the same.

    Raises:
        Mismatch: naming the worst element, both its values, and the tolerance.
        ValueError: tol or floor is negative or not a number.
    """
    if not tol >= 0 or not floor >= 0:
        raise ValueError(f"expected tol >= 0 and floor >= 0, received {tol} and {floor}")
    leaves = list(_pairs(actual, expected, name))
    if not leaves:
        raise Mismatch(f"{name}: nothing to compare, both sides are empty")
    for path, a, e in leaves:
        _compare(path, a, e, tol, floor, check_dtype)


def assert_equal(actual: Any, expected: Any, name: str = "value") -> None:
    """Raise ``Mismatch`` unless both are equal in every element (tol = 0; −0 equals 0)."""
    assert_close(actual, expected, 0.0, name)


def _pairs(actual: Any, expected: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Walk both structures at once, down to the arrays."""
    a, e = _opened(actual), _opened(expected)
    if isinstance(a, Mapping) and isinstance(e, Mapping):
        if set(a) != set(e):
            raise Mismatch(
                f"{path}: keys differ, missing {sorted(map(str, set(e) - set(a)))}, "
                f"unexpected {sorted(map(str, set(a) - set(e)))}"
            )
        for key in e:
            yield from _pairs(a[key], e[key], f"{path}[{key!r}]")
    elif _is_sequence(a) and _is_sequence(e):
        if len(a) != len(e):
            raise Mismatch(f"{path}: {len(a)} entries where {len(e)} were expected")
        for k, (one, other) in enumerate(zip(a, e, strict=True)):
            yield from _pairs(one, other, f"{path}[{k}]")
    else:
        yield path, a, e


def _opened(value: Any) -> Any:
    """A dataclass as the mapping of its fields, anything else as it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return value


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _compare(
    path: str, actual: Any, expected: Any, tol: float, floor: float, check_dtype: bool
) -> None:
    if not _is_numeric(actual) or not _is_numeric(expected):
        # Names, None and the like; a structure against an array ends here too.
        if type(actual) is not type(expected) or actual != expected:
            raise Mismatch(f"{path}: received {_short(actual)}, expected {_short(expected)}")
        return
    a, a_dtype = _as_array(actual)
    e, e_dtype = _as_array(expected)
    if a.shape != e.shape:
        raise Mismatch(f"{path}: received shape {a.shape}, expected {e.shape}")
    if check_dtype and a_dtype != e_dtype:
        raise Mismatch(f"{path}: received dtype {a_dtype}, expected {e_dtype}")
    if a.size == 0:
        return
    if a.dtype.kind in "biu" and e.dtype.kind in "biu":
        _require(path, a, e, a != e, np.where(a != e, 1.0, 0.0), "must be equal")
        return

    finite = np.isfinite(e)
    unit = max(float(np.abs(e[finite]).max()) if finite.any() else 0.0, floor)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(a - e)
    # inf − inf is NaN although equal infinities are equal; every other NaN is a failure, and an
    # infinite error is one even where tol · unit overflows.
    error = np.where(a == e, 0.0, error)
    wrong = ~(error <= tol * unit) | ~np.isfinite(error)
    error = np.where(np.isnan(error), np.inf, error)
    share = "" if unit == 0 else f" = {float(error.max()) / unit:.2e} of the unit"
    _require(
        path, a, e, wrong, error,
        f"off by {float(error.max()):.2e}{share}; tolerance {tol:.1e} · unit {unit:.2e}",
    )  # fmt: skip


def _require(
    path: str,
    actual: NDArray[Any],
    expected: NDArray[Any],
    wrong: NDArray[np.bool_],
    error: NDArray[Any],
    why: str,
) -> None:
    if wrong.any():
        worst = tuple(int(k) for k in np.unravel_index(int(np.argmax(error)), error.shape))
        raise Mismatch(
            f"{path}: worst element at {worst}: received {actual[worst]!r}, "
            f"expected {expected[worst]!r}, {why}; {int(wrong.sum())} of {wrong.size} elements fail"
        )


def _is_numeric(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return True
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.kind in "biufc"
    return isinstance(value, (bool, int, float, complex))


def _as_array(value: Any) -> tuple[NDArray[Any], str]:
    """The value as NumPy holds it best, and the name of the dtype it had."""
    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        tensor = value.detach().cpu().resolve_conj()
        if tensor.dtype in (torch.float16, torch.bfloat16, torch.float32):
            tensor = tensor.double()  # exact, and NumPy knows no bfloat16
        return tensor.numpy(), dtype
    array = np.asarray(value)
    dtype = str(array.dtype)
    # The difference is taken in double, so that it does not round or overflow itself.
    return (array.astype(np.float64) if array.dtype.kind == "f" else array), dtype


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
