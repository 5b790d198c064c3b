"""What every cell of the reference shares: its weights, the calendar of a batch, and the checks.

Time runs along axis 0 and lanes along axis 1, always. Arrays that come in are copied to float64,
so that a trace stays true when the caller changes an array later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt.errors import ArgumentError, DtypeError, ShapeError, describe, whole

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Weights:
    """The parameters of one recurrent layer, under PyTorch's names, shapes and gate order.

    Rows stack the gates: G = 1 for an RNN, 3 (r, z, n) for a GRU, 4 (i, f, g, o) for an LSTM.
    Shapes are checked where the weights are used, because only a cell knows its G.

    Args:
        w_ih: (G·H, I), from the input.
        w_hh: (G·H, H), from the state.
        b_ih: (G·H,), added to the input's part.
        b_hh: (G·H,), added to the state's part; pass zeros for a layer without biases.

    Example:
        >>> w = Weights(np.ones((6, 1)), np.ones((6, 2)), np.zeros(6), np.zeros(6))
        >>> w.w_hh.shape  # a GRU with H=2: three gates of two rows each
        (6, 2)
    """

    w_ih: Array
    w_hh: Array
    b_ih: Array
    b_hh: Array


@dataclass(frozen=True, eq=False)
class Schedule:
    """What happens to each lane before each step, as masks (T, B, 1) that broadcast over H.

    A lane past its length has no calendar: ``reset`` and ``cut`` are False on padded steps.

    Args:
        valid: the lane runs this step.
        reset: its state becomes zero before the step.
        cut: its state goes on, but no gradient flows back from this step to the one before.
    """

    valid: Mask
    reset: Mask
    cut: Mask


@dataclass(frozen=True, eq=False)
class Gradients:
    """∂L/∂(everything) for an RNN or a GRU; every field has the shape of what it differentiates.

    Args:
        dx: (T, B, I); zero on padded steps.
        dh0: (B, H); zero where a reset or a cut stands before the first step.
        dw_ih: (G·H, I), summed over all steps and lanes, because all of them use the same weight.
        dw_hh: (G·H, H), likewise.
        db_ih: (G·H,), likewise.
        db_hh: (G·H,), likewise.
        state: (T, B, H), ∂L/∂h_t in total: through y_t, and through every later step.
    """

    dx: Array
    dh0: Array
    dw_ih: Array
    dw_hh: Array
    db_ih: Array
    db_hh: Array
    state: Array


def real(name: str, value: ArrayLike, shape: tuple[int | None, ...], letters: str = "") -> Array:
    """Copy ``value`` to float64, or raise if it is not real or has not the shape asked for.

    Args:
        name: what the error calls it.
        value: anything NumPy can read.
        shape: the size of each axis, None where any size of at least 1 will do.
        letters: one axis letter each, for the error message.

    Returns:
        A float64 array of its own, sharing no memory with ``value``.

    Raises:
        DtypeError: it holds something else than real numbers.
        ShapeError: it has another number of axes, another size, or an axis of size 0.

    Example:
        >>> real("h0", [[1, 2]], (1, 2), "BH")
        array([[1., 2.]])
        >>> real("h0", [[1, 2]], (1, 3), "BH")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        bptt.errors.ShapeError: expected h0 of shape (B=1, H=3), received (B=1, H=2): pass h0 ...
    """
    array = _regular(name, value)
    if array.dtype.kind not in "fiu":
        raise DtypeError(
            f"{name} to hold real numbers", f"dtype {array.dtype}", "convert it to float64"
        )
    _require_shape(name, array, shape, letters)
    return np.array(array, dtype=np.float64)


def integers(
    name: str,
    value: ArrayLike,
    shape: tuple[int | None, ...],
    low: int,
    high: int,
    letters: str = "",
) -> NDArray[np.int64]:
    """Copy ``value`` to int64, or raise unless it is integer, of that shape and in [low, high].

    Raises:
        DtypeError: it is not of an integer dtype.
        ShapeError: it has not the shape asked for.
        ArgumentError: an entry lies outside [low, high].
    """
    array = _regular(name, value)
    if array.dtype.kind not in "iu":
        raise DtypeError(f"{name} to hold integers", f"dtype {array.dtype}", "convert it to int64")
    _require_shape(name, array, shape, letters)
    if array.min() < low or array.max() > high:
        worst = array.min() if array.min() < low else array.max()
        raise ArgumentError(
            f"every entry of {name} in {low}..{high}", str(worst), f"correct that entry of {name}"
        )
    return array.astype(np.int64)


def check_weights(weights: Weights, gates: int, inputs: int) -> tuple[Weights, int]:
    """Copy the weights to float64 and return them with H, or raise if their shapes disagree.

    Raises:
        ShapeError: w_hh is not (G·H, H), or another weight does not fit it.
        DtypeError: a weight is not real.
    """
    w_hh = real("w_hh", weights.w_hh, (None, None))
    rows, hidden = w_hh.shape
    if rows != gates * hidden:
        raise ShapeError(
            f"w_hh of shape (G·H, H) with G={gates}",
            describe(w_hh.shape),
            "stack the gates along the rows, in PyTorch's order",
        )
    checked = Weights(
        w_ih=real("w_ih", weights.w_ih, (rows, inputs)),
        w_hh=w_hh,
        b_ih=real("b_ih", weights.b_ih, (rows,)),
        b_hh=real("b_hh", weights.b_hh, (rows,)),
    )
    return checked, hidden


def check_step(t: int, steps: int) -> int:
    """Return ``t`` as an int, or raise unless it is one of the steps 0..T−1.

    Raises:
        ArgumentError: there is no such step; negative numbers do not count from the end.
    """
    t = whole("t", t, None, f"pass one of 0..{steps - 1}")
    if not 0 <= t < steps:
        raise ArgumentError(f"a step in 0..{steps - 1}", str(t), "count the steps from 0")
    return t


def schedule(
    steps: int,
    lanes: int,
    lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    cut: ArrayLike | None = None,
) -> Schedule:
    """Turn lengths, resets and cuts into one mask per step and lane.

    Args:
        steps: T.
        lanes: B.
        lengths: (B,) integers in 0..T, the steps each lane runs; None means all T.
        reset: (T, B) bool, state to zero before the step; None means never.
        cut: (T, B) bool, gradient stops before the step; None means never.

    Returns:
        The masks, each (T, B, 1).

    Raises:
        ShapeError, DtypeError, ArgumentError: an argument has another shape, dtype or range.

    Example:
        >>> s = schedule(3, 2, lengths=[3, 1])
        >>> s.valid[:, :, 0].astype(int).tolist()
        [[1, 1], [1, 0], [1, 0]]
    """
    if lengths is None:
        ends = np.full(lanes, steps, dtype=np.int64)
    else:
        ends = integers("lengths", lengths, (lanes,), 0, steps, "B")
    valid = np.zeros((steps, lanes, 1), dtype=np.bool_)
    for t in range(steps):
        valid[t, :, 0] = t < ends
    return Schedule(
        valid=valid,
        reset=_mask("reset", reset, steps, lanes) & valid,
        cut=_mask("cut", cut, steps, lanes) & valid,
    )


def sigmoid(a: Array) -> Array:
    """σ(a) = 1 / (1 + e^−a), written so that the exponential never overflows.

    Example:
        >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
        [0.0, 0.5, 1.0]
    """
    # e^−|a| lies in (0, 1]. For negative a, multiply above and below by e^a: σ = e^a / (1 + e^a).
    e = np.exp(-np.abs(a))
    return np.where(a >= 0, 1.0 / (1.0 + e), e / (1.0 + e))


def _regular(name: str, value: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ShapeError(f"{name} as a regular array", str(error), "make its rows equal") from error


def _mask(name: str, value: ArrayLike | None, steps: int, lanes: int) -> Mask:
    if value is None:
        return np.zeros((steps, lanes, 1), dtype=np.bool_)
    array = _regular(name, value)
    if array.dtype.kind != "b":
        raise DtypeError(f"{name} to be bool", f"dtype {array.dtype}", "compare or cast it to bool")
    _require_shape(name, array, (steps, lanes), "TB")
    return array[:, :, None].copy()


def _require_shape(
    name: str, array: NDArray[Any], shape: tuple[int | None, ...], letters: str
) -> None:
    fits = array.ndim == len(shape) and all(
        n >= 1 and (want is None or n == want) for n, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        names = letters if len(letters) == len(shape) else [""] * len(shape)
        sizes = [
            f"{a}≥1" if want is None else f"{a}={want}" if a else str(want)
            for a, want in zip(names, shape, strict=True)
        ]
        raise ShapeError(
            f"{name} of shape ({', '.join(sizes)})",
            describe(array.shape, letters),
            f"pass {name} in that shape; time is axis 0, lanes are axis 1",
        )
