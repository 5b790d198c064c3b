"""What the Triton kernels share: squashing functions, tiles of two axes, and what a mark says.

A tile is ``(lanes, units)``. Units beyond H and lanes beyond B are loaded as zero and never stored, and a
product leaves them zero, so no kernel has to know of them again.
"""

# Triton reads these files as its own language: what stands in a kernel is not run by Python.
# mypy: ignore-errors

import triton
import triton.language as tl

# Bits of a mark: the lane runs this step; the state is zero before it; the gradient stops before it.
LIVE, RESET, CUT = 1, 2, 4


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x); e^-x may be infinite, and the quotient is then zero."""
    return 1 / (1 + tl.exp(-x))


# The interpreter, which makes something else of a kernel, multiplies the bits of bfloat16 as whole
# numbers: it is handed the same values in float32, in which their products are exact.
WIDE: tl.constexpr = tl.constexpr(not isinstance(sigmoid, triton.JITFunction))


@triton.jit
def tanh(x):
    """2σ(2x) - 1, which is right to a rounding of 1; so near zero a fraction that is right to one of x.

    The fraction is Lambert's, x / (1 + x² / (3 + x² / (5 + …))), ended after 13.
    """
    s = x * x
    near = x * (135135 + s * (17325 + s * (378 + s))) / (135135 + s * (62370 + s * (3150 + s * 28)))
    return tl.where(tl.abs(x) < 0.25, near, 2 / (1 + tl.exp(-2 * x)) - 1)


@triton.jit
def load(base, row, unit, stride, lanes, units, ACC: tl.constexpr):
    """A tile of a matrix whose rows are ``stride`` apart, in the accumulator's dtype."""
    mask = (row < lanes)[:, None] & (unit < units)[None, :]
    return tl.load(base + row[:, None] * stride + unit[None, :], mask=mask, other=0).to(ACC)


@triton.jit
def store(base, row, unit, stride, lanes, units, tile):
    """Put a tile where :func:`load` would find it."""
    mask = (row < lanes)[:, None] & (unit < units)[None, :]
    tl.store(base + row[:, None] * stride + unit[None, :], tile, mask=mask)


@triton.jit
def bias(base, unit, units, HAS: tl.constexpr, ACC: tl.constexpr):
    """One number a unit, or zero where the layer has no bias."""
    if HAS:
        return tl.load(base + unit, mask=unit < units, other=0).to(ACC)
    return tl.zeros(unit.shape, ACC)


@triton.jit
def block(base, gate, unit, other, units):
    """A gate's square of W_hh as it stands: ``[unit, other]``, row ``gate·H + unit``."""
    mask = (unit < units)[:, None] & (other < units)[None, :]
    return tl.load(
        base + (gate * units + unit)[:, None] * units + other[None, :], mask=mask, other=0
    )


@triton.jit
def product(state, weight, unit, units, ACC: tl.constexpr):
    """A tile times a square in the weight's dtype, added up in the accumulator's."""
    if WIDE:
        made = tl.dot(state.to(weight.dtype).to(ACC), weight.to(ACC), out_dtype=ACC)
    else:
        made = tl.dot(state.to(weight.dtype), weight, input_precision="ieee", out_dtype=ACC)
    # Infinity times the zeros beyond H is NaN, and the next product would carry it to every unit.
    return tl.where((unit < units)[None, :], made, tl.zeros_like(made))


@triton.jit
def recurrent(
    state, weight, made, gate, gates, row, unit, lanes, units, ACC: tl.constexpr, HELD: tl.constexpr
):
    """A gate's product of the state: made here with a square that is held, or outside and read."""
    if HELD:
        return product(state, weight, unit, units, ACC)
    return load(made + gate * units, row, unit, gates * units, lanes, units, ACC)


@triton.jit
def mark(base, at, lanes, row, MARKED: tl.constexpr):
    """The marks of a step, ``(lanes, 1)``; without any, every lane runs."""
    if MARKED:
        return tl.load(base + at * lanes + row, mask=row < lanes, other=0)[:, None]
    return tl.full((row.shape[0], 1), 1, tl.uint8)
