"""The gated recurrent unit, forward and backward in one launch each.

r, z = σ(x-part + W h_{t-1} + b), n = tanh(x-part + r ⊙ (W_n h_{t-1} + b_n)), h_t = n + z ⊙ (h_{t-1} - n).
Backward as in :mod:`bptt.reference.gru`. The candidate's two halves meet in a product with r, so that the
x-part's cotangent and the state's differ there: ``dhp`` is the latter.
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
    sigmoid,
    store,
    tanh,
)

# Widths of H that are kept of a step, in this order.
SAVED = 5  # h_{t-1}, r, z, n, W_n h_{t-1} + b_n


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
    w_r, w_z, w_n = w, w, w  # not looked at where the products are made outside
    if HELD:
        w_r = tl.trans(block(w, 0, unit, unit, H))
        w_z = tl.trans(block(w, 1, unit, unit, H))
        w_n = tl.trans(block(w, 2, unit, unit, H))
    b_r = bias(b, unit, H, BIAS, ACC)[None, :]
    b_z = bias(b + H, unit, H, BIAS, ACC)[None, :]
    b_n = bias(b + 2 * H, unit, H, BIAS, ACC)[None, :]
    h = load(h0, row, unit, H, B, H, ACC)
    for step in range(T):
        t = T - 1 - step if REVERSE else step
        here = mark(marks, t, B, row, MARKED)
        live = (here & 1) != 0
        h = tl.where((here & 2) != 0, tl.zeros_like(h), h)
        x = xp + t * B * 3 * H
        r = sigmoid(
            load(x, row, unit, 3 * H, B, H, ACC)
            + recurrent(h, w_r, hp, 0, 3, row, unit, B, H, ACC, HELD)
            + b_r
        )
        z = sigmoid(
            load(x + H, row, unit, 3 * H, B, H, ACC)
            + recurrent(h, w_z, hp, 1, 3, row, unit, B, H, ACC, HELD)
            + b_z
        )
        inner = recurrent(h, w_n, hp, 2, 3, row, unit, B, H, ACC, HELD) + b_n
        n = tanh(load(x + 2 * H, row, unit, 3 * H, B, H, ACC) + r * inner)
        new = n + z * (h - n)
        keep = saved + t * B * 5 * H
        store(keep, row, unit, 5 * H, B, H, h)
        store(keep + H, row, unit, 5 * H, B, H, r)
        store(keep + 2 * H, row, unit, 5 * H, B, H, z)
        store(keep + 3 * H, row, unit, 5 * H, B, H, n)
        store(keep + 4 * H, row, unit, 5 * H, B, H, inner)
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
    w_r, w_z, w_n = w, w, w  # not looked at where the products are made outside
    if HELD:
        w_r = block(w, 0, unit, unit, H)
        w_z = block(w, 1, unit, unit, H)
        w_n = block(w, 2, unit, unit, H)
    dh = load(dht, row, unit, H, B, H, ACC)
    for step in range(T):
        t = step if REVERSE else T - 1 - step
        here = mark(marks, t, B, row, MARKED)
        live = (here & 1) != 0
        keep = saved + t * B * 5 * H
        h = load(keep, row, unit, 5 * H, B, H, ACC)
        r = load(keep + H, row, unit, 5 * H, B, H, ACC)
        z = load(keep + 2 * H, row, unit, 5 * H, B, H, ACC)
        n = load(keep + 3 * H, row, unit, 5 * H, B, H, ACC)
        inner = load(keep + 4 * H, row, unit, 5 * H, B, H, ACC)
        d = dh + load(dy + t * B * H, row, unit, H, B, H, ACC)
        zero = tl.zeros_like(d)
        # What a lane that does not run had saved may be anything: chosen away, never multiplied.
        dn = tl.where(live, d * (1 - z) * (1 - n * n), zero)
        dz = tl.where(live, d * (h - n) * z * (1 - z), zero)
        dr = tl.where(live, dn * inner * r * (1 - r), zero)
        di = tl.where(live, dn * r, zero)
        x = dxp + t * B * 3 * H
        store(x, row, unit, 3 * H, B, H, dr)
        store(x + H, row, unit, 3 * H, B, H, dz)
        store(x + 2 * H, row, unit, 3 * H, B, H, dn)
        store(dhp + t * B * H, row, unit, H, B, H, di)
        before = d * z
        if HELD:
            before += (
                product(dr, w_r, unit, H, ACC)
                + product(dz, w_z, unit, H, ACC)
                + product(di, w_n, unit, H, ACC)
            )
        before = tl.where((here & 6) != 0, zero, before)
        dh = tl.where(live, before, dh)
    store(dh0, row, unit, H, B, H, dh)
