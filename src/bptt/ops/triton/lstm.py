"""Long short-term memory, forward and backward in one launch each.

i, f, o = σ(x-part + W h_{t-1} + b) each, g = tanh(…), c_t = f ⊙ c_{t-1} + i ⊙ g, h_t = o ⊙ tanh(c_t).
Backward as in :mod:`bptt.reference.lstm`.
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
SAVED = 6  # h_{t-1}, c_{t-1}, i, f, g, o


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
    w_i, w_f, w_g, w_o = w, w, w, w  # not looked at where the products are made outside
    if HELD:
        w_i = tl.trans(block(w, 0, unit, unit, H))
        w_f = tl.trans(block(w, 1, unit, unit, H))
        w_g = tl.trans(block(w, 2, unit, unit, H))
        w_o = tl.trans(block(w, 3, unit, unit, H))
    b_i = bias(b, unit, H, BIAS, ACC)[None, :]
    b_f = bias(b + H, unit, H, BIAS, ACC)[None, :]
    b_g = bias(b + 2 * H, unit, H, BIAS, ACC)[None, :]
    b_o = bias(b + 3 * H, unit, H, BIAS, ACC)[None, :]
    h = load(h0, row, unit, H, B, H, ACC)
    c = load(c0, row, unit, H, B, H, ACC)
    for step in range(T):
        t = T - 1 - step if REVERSE else step
        here = mark(marks, t, B, row, MARKED)
        live = (here & 1) != 0
        fresh = (here & 2) != 0
        h = tl.where(fresh, tl.zeros_like(h), h)
        c = tl.where(fresh, tl.zeros_like(c), c)
        x = xp + t * B * 4 * H
        i = sigmoid(
            load(x, row, unit, 4 * H, B, H, ACC)
            + recurrent(h, w_i, hp, 0, 4, row, unit, B, H, ACC, HELD)
            + b_i
        )
        f = sigmoid(
            load(x + H, row, unit, 4 * H, B, H, ACC)
            + recurrent(h, w_f, hp, 1, 4, row, unit, B, H, ACC, HELD)
            + b_f
        )
        g = tanh(
            load(x + 2 * H, row, unit, 4 * H, B, H, ACC)
            + recurrent(h, w_g, hp, 2, 4, row, unit, B, H, ACC, HELD)
            + b_g
        )
        o = sigmoid(
            load(x + 3 * H, row, unit, 4 * H, B, H, ACC)
            + recurrent(h, w_o, hp, 3, 4, row, unit, B, H, ACC, HELD)
            + b_o
        )
        keep = saved + t * B * 6 * H
        store(keep, row, unit, 6 * H, B, H, h)
        store(keep + H, row, unit, 6 * H, B, H, c)
        store(keep + 2 * H, row, unit, 6 * H, B, H, i)
        store(keep + 3 * H, row, unit, 6 * H, B, H, f)
        store(keep + 4 * H, row, unit, 6 * H, B, H, g)
        store(keep + 5 * H, row, unit, 6 * H, B, H, o)
        cell = f * c + i * g
        new = o * tanh(cell)
        c = tl.where(live, cell, c)
        h = tl.where(live, new, h)
        store(y + t * B * H, row, unit, H, B, H, tl.where(live, new, tl.zeros_like(new)))
    store(ht, row, unit, H, B, H, h)
    store(ct, row, unit, H, B, H, c)


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
    w_i, w_f, w_g, w_o = w, w, w, w  # not looked at where the products are made outside
    if HELD:
        w_i = block(w, 0, unit, unit, H)
        w_f = block(w, 1, unit, unit, H)
        w_g = block(w, 2, unit, unit, H)
        w_o = block(w, 3, unit, unit, H)
    dh = load(dht, row, unit, H, B, H, ACC)
    dc = load(dct, row, unit, H, B, H, ACC)
    for step in range(T):
        t = step if REVERSE else T - 1 - step
        here = mark(marks, t, B, row, MARKED)
        live = (here & 1) != 0
        stops = (here & 6) != 0
        keep = saved + t * B * 6 * H
        c = load(keep + H, row, unit, 6 * H, B, H, ACC)
        i = load(keep + 2 * H, row, unit, 6 * H, B, H, ACC)
        f = load(keep + 3 * H, row, unit, 6 * H, B, H, ACC)
        g = load(keep + 4 * H, row, unit, 6 * H, B, H, ACC)
        o = load(keep + 5 * H, row, unit, 6 * H, B, H, ACC)
        squashed = tanh(f * c + i * g)
        d = dh + load(dy + t * B * H, row, unit, H, B, H, ACC)
        zero = tl.zeros_like(d)
        inner = dc + d * o * (1 - squashed * squashed)
        di = tl.where(live, inner * g * i * (1 - i), zero)
        df = tl.where(live, inner * c * f * (1 - f), zero)
        dg = tl.where(live, inner * i * (1 - g * g), zero)
        do = tl.where(live, d * squashed * o * (1 - o), zero)
        x = dxp + t * B * 4 * H
        store(x, row, unit, 4 * H, B, H, di)
        store(x + H, row, unit, 4 * H, B, H, df)
        store(x + 2 * H, row, unit, 4 * H, B, H, dg)
        store(x + 3 * H, row, unit, 4 * H, B, H, do)
        before = zero
        if HELD:
            before = product(di, w_i, unit, H, ACC) + product(df, w_f, unit, H, ACC)
            before += product(dg, w_g, unit, H, ACC) + product(do, w_o, unit, H, ACC)
        dh = tl.where(live, tl.where(stops, zero, before), dh)
        dc = tl.where(live, tl.where(stops, zero, inner * f), dc)
    store(dh0, row, unit, H, B, H, dh)
    store(dc0, row, unit, H, B, H, dc)
