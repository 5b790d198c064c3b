"""h_t = φ(x_t W_ihᵀ + b_ih + W_hh h_{t-1} + b_hh), φ = tanh or ReLU; forward and backward in one launch.

With δ_t the gradient that reaches h_t: dz_t = δ_t ⊙ φ'(z_t), δ_{t-1} = ∂ℓ/∂h_{t-1} + W_hhᵀ dz_t, as in
:mod:`bptt.reference.rnn`. The products over all steps, dW_hh = Σ dz_t h_{t-1}ᵀ, are left to torch.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from bptt.ops.triton.tiles import (
    bias,
    block,
    load,
    mark,
    product,
    recurrent,
    store,
    tanh,
)

# Widths of H that are kept of a step, in this order.
SAVED = 2  # h_{t-1}, h_t


@triton.jit
def _forward(z, RELU: tl.constexpr):
    if RELU:
        # In this order a NaN stays one, as torch has it.
        return tl.where(z < 0, tl.zeros_like(z), z)
    return tanh(z)


@triton.jit
def _backward(d, h, RELU: tl.constexpr):
    if RELU:
        # In this order a NaN lets the cotangent pass, as torch has it.
        return tl.where(h <= 0, tl.zeros_like(d), d)
    return d * (1 - h * h)


@triton.jit
def forward(
    xp, w, hp, b, h0, c0, marks, y, ht, ct, saved, T, B, H,
    RELU: tl.constexpr, REVERSE: tl.constexpr, MARKED: tl.constexpr, BIAS: tl.constexpr,
    HELD: tl.constexpr, ACC: tl.constexpr, BB: tl.constexpr, HP: tl.constexpr,
):  # fmt: skip
    """All steps of a block of lanes: outputs, final states, and what backward reads of each step.

    Without HELD it is one step of a block of units, and ``hp`` is the product with the state.
    """
    row, unit = tl.program_id(0) * BB + tl.arange(0, BB), tl.program_id(1) * HP + tl.arange(0, HP)
    weight = w  # not looked at where the products are made outside
    if HELD:
        weight = tl.trans(block(w, 0, unit, unit, H))
    shift = bias(b, unit, H, BIAS, ACC)
    h = load(h0, row, unit, H, B, H, ACC)
    for step in range(T):
        t = T - 1 - step if REVERSE else step
        here = mark(marks, t, B, row, MARKED)
        live = (here & 1) != 0
        h = tl.where((here & 2) != 0, tl.zeros_like(h), h)
        z = recurrent(h, weight, hp, 0, 1, row, unit, B, H, ACC, HELD) + shift[None, :]
        z += load(xp + t * B * H, row, unit, H, B, H, ACC)
        new = _forward(z, RELU)
        keep = saved + t * B * 2 * H
        store(keep, row, unit, 2 * H, B, H, h)
        store(keep + H, row, unit, 2 * H, B, H, new)
        h = tl.where(live, new, h)
        store(y + t * B * H, row, unit, H, B, H, tl.where(live, new, tl.zeros_like(new)))
    store(ht, row, unit, H, B, H, h)


@triton.jit
def backward(
    dy, dht, dct, w, saved, marks, dxp, dhp, dh0, dc0, T, B, H,
    RELU: tl.constexpr, REVERSE: tl.constexpr, MARKED: tl.constexpr,
    HELD: tl.constexpr, ACC: tl.constexpr, BB: tl.constexpr, HP: tl.constexpr,
):  # fmt: skip
    """From the last step to the first: cotangents of the pre-activations and of the first states.

    Without HELD it is one step, and what comes by the product is added outside.
    """
    row, unit = tl.program_id(0) * BB + tl.arange(0, BB), tl.program_id(1) * HP + tl.arange(0, HP)
    weight = w  # not looked at where the products are made outside
    if HELD:
        weight = block(w, 0, unit, unit, H)
    dh = load(dht, row, unit, H, B, H, ACC)
    for step in range(T):
        t = step if REVERSE else T - 1 - step
        here = mark(marks, t, B, row, MARKED)
        live = (here & 1) != 0
        keep = saved + t * B * 2 * H
        h = load(keep + H, row, unit, 2 * H, B, H, ACC)
        d = dh + load(dy + t * B * H, row, unit, H, B, H, ACC)
        dz = tl.where(live, _backward(d, h, RELU), tl.zeros_like(d))
        store(dxp + t * B * H, row, unit, H, B, H, dz)
        before = tl.zeros_like(dz)
        if HELD:
            before = product(dz, weight, unit, H, ACC)
        before = tl.where((here & 6) != 0, tl.zeros_like(before), before)
        dh = tl.where(live, before, dh)
    store(dh0, row, unit, H, B, H, dh)
