"""Forward and backward of one layer: a kernel for what is sequential, large products for the rest.

Where x is bfloat16 and the weights are float32, factors of products are rounded to bfloat16, and so is
what is kept for backward; sums, states and the arithmetic of the gates are float32. y is then
bfloat16, a GRU's float32; states and the gradients of states and weights are float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bptt.errors import ArgumentError, DtypeError
from bptt.ops.native.check import (
    DZ,
    GRU,
    LSTM,
    SAVED,
    BackwardCall,
    Call,
    Sizes,
    check,
    check_backward,
    check_values,
    dense,
    extension,
    function,
    hand_on,
    output_dtype,
    pointer,
    takes_input,
    unpack_sizes,
    workspace,
)


def dropout(x: Tensor, threshold: int, key: int) -> Tensor:
    """x with the elements zeroed whose number, of the key's, is below the threshold, and scaled."""
    if x.dtype != torch.float32 or not x.is_cpu:
        raise DtypeError("float32 on the CPU", f"{x.dtype} on {x.device}", "use bptt.ops.dropout")
    x = dense(x)
    y = torch.empty_like(x)
    extension.dropout(
        x.data_ptr(), y.data_ptr(), x.numel(), threshold, key, torch.get_num_threads()
    )
    return y


def cross_entropy(
    logits: Tensor, targets: Tensor, ignored: int, scale: float | None = None
) -> tuple[Tensor, Tensor | None]:
    """The loss of each row ``(N,)``, float64; with a scale also its gradient times that, ``(N, V)``.

    Args:
        logits: float32 ``(N, V)``.
        targets: int64 ``(N,)``, each 0 … V-1 or ``ignored``.

    Raises:
        ArgumentError: a target is no class.
    """
    rows, symbols = logits.shape
    if logits.dtype != torch.float32 or targets.dtype != torch.int64 or targets.shape != (rows,):
        raise DtypeError(
            "logits (N, V) in float32 and targets (N,) in int64",
            f"{logits.dtype} {tuple(logits.shape)} and {targets.dtype} {tuple(targets.shape)}",
            "use bptt.ops.cross_entropy",
        )
    logits, targets = dense(logits), dense(targets)
    nats = torch.empty(rows, dtype=torch.float64, device="cpu")
    gradient = None if scale is None else torch.empty_like(logits)
    bad = extension.cross_entropy(
        logits.data_ptr(), rows, symbols, targets.data_ptr(), ignored, scale or 0.0,
        pointer(gradient), nats.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    if bad >= 0:
        raise ArgumentError(
            f"targets in 0 .. {symbols - 1}, or {ignored} for none",
            str(int(targets[bad])),
            "give each target the number of its class",
        )
    return nats, gradient


# Forward of one layer: one large product for all steps, then the kernel.


def forward(call: Call) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(y, h_n, c_n, saved)``; ``c_n`` and ``saved`` have no elements where there is nothing in them."""
    sizes = check(call)
    cell, x, w_ih, counts, save = call.cell, call.x, call.w_ih, call.batch_sizes, call.save
    B, H, width = sizes.B, sizes.H, sizes.width
    lengths, reset, tokens = dense(call.lengths), dense(call.reset), dense(call.tokens)
    starts = None
    if counts is not None:
        lengths, starts = unpack_sizes(sizes, counts)
    problem = sizes.problem(lengths, reset, None, call.reverse, starts)
    check_values(problem, sizes, lengths, tokens, x.shape[0])

    # Time-major always: torch's is, and dropout draws its mask in the order of memory. No view, or
    # autograd lets nobody write to it in place.
    shape = (sizes.T, B, H) if counts is None else (sizes.rows, H)
    y = x.new_empty(shape, dtype=output_dtype(cell, x))
    keep = SAVED[cell] * H if save else 0
    saved = x.new_empty(sizes.rows, keep)
    columns = takes_input(sizes, x, w_ih, tokens)
    if columns:
        xp, ldx, w_ih = dense(sizes.flat(x)), columns, dense(w_ih)
    elif w_ih is None:
        # Contiguous: rows of an expanded x are a view that lies in one place.
        xp, ldx = dense(x if tokens is not None else sizes.flat(x)), width
    else:
        # The product is written where the kernel will leave what it saves, or else an RNN's output
        # if its rows lie alike, so that each row is fetched once.
        if save:
            rows = saved
        else:
            in_place = width == H and not sizes.batch_major
            rows = sizes.flat(y) if in_place else x.new_empty(sizes.rows, width)
        ldx = rows.shape[1]
        xp = rows[:, :width]
        # Padding stays as it is: no row of the product mixes with another, and the kernel reads
        # none beyond a lane's length.
        torch.mm(sizes.flat(x), w_ih.to(x.dtype).t(), out=xp)
    h0, c0, w_hh = dense(call.h0), dense(call.c0), dense(call.w_hh)
    b_ih, b_hh = dense(call.b_ih), dense(call.b_hh)
    h_n = w_hh.new_empty(B, H)
    c_n = w_hh.new_empty((B, H) if cell == LSTM else 0)
    work = workspace(cell, problem, x.dtype, columns, backward=False)
    function("forward", x.dtype)(
        cell, problem, xp=xp.data_ptr(), ldx=ldx, tokens=pointer(tokens), b_ih=pointer(b_ih),
        b_hh=pointer(b_hh), w_hh=w_hh.data_ptr(), h0=pointer(h0), c0=pointer(c0), y=y.data_ptr(),
        saved=saved.data_ptr() if keep else 0, lds=keep, hn=h_n.data_ptr(), cn=c_n.data_ptr(),
        work=work.data_ptr(), w_ih=pointer(w_ih) if columns else 0, I=columns,
    )  # fmt: skip
    hand_on(lengths, (h0, h_n), (c0, c_n))
    return y, h_n, c_n, saved


# Backward of one layer: the kernel gives dz for all steps, large products do the rest.


def backward(call: BackwardCall) -> tuple[Tensor, ...]:
    """Gradients of :data:`DIFFERENTIABLE` and ‖dL/dh_t‖ ``(T, B)``.

    Those that ``needs`` (and ``record``) do not ask for have no elements.
    """
    sizes = check(call)
    cell, x, w_ih, reverse, counts = call.cell, call.x, call.w_ih, call.reverse, call.batch_sizes
    T, B, H, width = sizes.T, sizes.B, sizes.H, sizes.width
    lengths, reset, tokens = dense(call.lengths), dense(call.reset), dense(call.tokens)
    cut = dense(call.cut)
    starts = None
    if counts is not None:
        lengths, starts = unpack_sizes(sizes, counts)
    check_backward(sizes, call)
    need_x, need_h0, need_c0, need_w_ih, need_w_hh, need_b_ih, need_b_hh = call.needs
    problem = sizes.problem(lengths, reset, cut, reverse, starts)
    check_values(problem, sizes, lengths, tokens, x.shape[0])

    def room(wanted: bool, *shape: int) -> Tensor:
        return call.w_hh.new_empty(shape if wanted else 0)

    columns = takes_input(sizes, x, w_ih, tokens)
    dz = x.new_empty(0 if columns else sizes.rows, DZ[cell] * H)
    dh0, dc0 = room(need_h0, B, H), room(need_c0, B, H)
    db = room(need_b_ih or need_b_hh, DZ[cell] * H)
    norms = room(call.record, T, B)
    dy = call.dy
    if dy is not None and (dy.is_neg() or (H > 1 and dy.stride(-1) != 1)):
        dy = dense(dy)
    dh_n, dc_n, h0, c0 = dense(call.dh_n), dense(call.dc_n), dense(call.h0), dense(call.c0)
    w_hh, saved = dense(call.w_hh), dense(call.saved)
    states = saved[:, -H:]  # h_t of each row
    # dh0 is what makes the last product of the chain; only LSTM's c0 comes without it.
    work = workspace(cell, problem, x.dtype, columns, backward=True)
    given: dict[str, int] = {}
    if columns:
        rows, w_ih = dense(sizes.flat(x)), dense(w_ih)
        dx = x.new_empty(sizes.rows if need_x else 0, columns)
        dw_ih, dw_hh = room(need_w_ih, width, columns), room(need_w_hh, width, H)
        given = {
            "w_ih": pointer(w_ih), "I": columns, "x": rows.data_ptr(), "dx": dx.data_ptr(),
            "dw_ih": dw_ih.data_ptr(), "dw_hh": dw_hh.data_ptr(),
        }  # fmt: skip
    step, lane = (0, 0) if dy is None else dy.stride()[:2]
    function("backward", x.dtype)(
        cell, problem, dy=pointer(dy), dy_step=step, dy_lane=lane, dhn=pointer(dh_n),
        dcn=pointer(dc_n), saved=pointer(saved), lds=saved.shape[-1], h0=pointer(h0),
        c0=pointer(c0), w_hh=w_hh.data_ptr(), dz=dz.data_ptr(), dh0=dh0.data_ptr(),
        dc0=dc0.data_ptr(), db=db.data_ptr(), norms=norms.data_ptr(), work=work.data_ptr(),
        **given,
    )  # fmt: skip

    hand_on(lengths, (dh_n, dh0), (dc_n, dc0))
    x_side = dz[:, :width]
    if columns:
        dx = sizes.unflat(dx) if need_x else x.new_empty(0)
    elif not need_x:
        dx = x.new_empty(0)
    elif tokens is not None:
        sums = w_hh.new_zeros(x.shape)
        add = function("scatter_add", x.dtype)
        add(problem, tokens.data_ptr(), dz.data_ptr(), dz.shape[1], width, sums.data_ptr())
        dx = sums.to(x.dtype)
    elif w_ih is None:
        dx = sizes.unflat(x_side.contiguous() if cell == GRU else x_side.clone())
    else:
        dx = sizes.unflat(torch.mm(x_side, w_ih.to(x.dtype)))
        if lengths is not None and counts is None and not _is_finite(w_ih):
            # dz is zero in the padding, and zero times an infinite weight is none.
            dx.masked_fill_(_padding(sizes, lengths), 0)
    if not columns:
        dw_ih = (
            _input_weight(sizes, x_side, x, lengths).to(w_hh.dtype) if need_w_ih else room(False)
        )
    db_ih = db[:width].clone() if need_b_ih else room(False)
    if not need_b_hh:
        db_hh = room(False)
    elif cell == GRU:
        db_hh = torch.cat((db[: 2 * H], db[3 * H :]))
    else:
        db_hh = db.clone()
    if h0 is not None:
        h0 = h0.to(x.dtype)
    if columns:
        pass
    elif not need_w_hh:
        dw_hh = room(False)
    elif counts is not None and h0 is not None and lengths is not None and starts is not None:
        before = _packed_before(counts)
        lanes = torch.arange(B, device=dz.device)
        first = starts[lengths - 1] + lanes if reverse else lanes
        left, h = (dz[before], states[B:]) if reverse else (dz[B:], states[before])
        dw_hh = _outer_sum(sizes, left, h, dz[first], h0)
    else:
        dw_hh = _hidden_weight(sizes, dz, states, h0, lengths, reset, reverse)
    return dx, dh0, dc0, dw_ih, dw_hh.to(w_hh.dtype), db_ih, db_hh, norms


def _input_weight(sizes: Sizes, dz: Tensor, x: Tensor, lengths: Tensor | None) -> Tensor:
    """Sum over steps of dz_t x_t^T."""
    rows = sizes.flat(x)
    dw = torch.mm(dz.t(), rows)
    if lengths is not None and sizes.packed is None and not _is_finite(dw):
        # dz is zero in the padding, but zero times what may lie there, NaN included, need not be.
        dw = torch.mm(dz.t(), sizes.flat(x.masked_fill(_padding(sizes, lengths), 0)))
    return dw


def _packed_before(counts: Tensor) -> Tensor:
    """For each packed row from the second step on, the row of the same lane one step before."""
    first = int(counts[0])
    rows = torch.arange(first, int(counts.sum()), device=counts.device)
    return rows - torch.repeat_interleave(counts[:-1], counts[1:])


def _hidden_weight(
    sizes: Sizes,
    dz: Tensor,
    states: Tensor,
    h0: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> Tensor:
    """Sum over steps of dz_t h_{t-1}^T, read in place: the rows of h, shifted by a step, are h_{t-1}.

    ``dz`` is ours to spoil: rows whose h_{t-1} is not in ``states`` are cleared instead of copying
    the states.
    """
    T, B = sizes.T, sizes.B
    first = T - 1 if reverse else 0
    by_step = sizes.unflat(dz)
    cleared: list[tuple[Tensor, Tensor, Tensor]] = []  # array, rows, what stood there
    if reset is not None:
        rows = (reset.t() if sizes.batch_major else reset).reshape(-1).nonzero().squeeze(1)
        if rows.numel():
            cleared.append((dz, rows, dz[rows]))
            dz.index_fill_(0, rows, 0)
    start = None
    if h0 is not None:
        if reverse and lengths is not None:
            start = by_step[lengths - 1, torch.arange(B, device=dz.device)]
        else:
            start = by_step[first].clone()
    shift = B
    if sizes.batch_major:
        # One row back from a lane's first row is another lane's last.
        cleared.append(
            (by_step, torch.tensor(first, device=by_step.device), by_step[first].clone())
        )
        by_step[first] = 0
        shift = 1
    late, early = slice(shift, None), slice(None, sizes.rows - shift)
    left, h = (dz[early], states[late]) if reverse else (dz[late], states[early])
    dw = _outer_sum(sizes, left, h, start, h0)
    if (cleared or lengths is not None) and not _is_finite(dw):
        # Zero times what a cleared row met, another lane's or an ended sequence's, need not be zero.
        for array, rows, values in reversed(cleared):
            array[rows] = values
        before = sizes.flat(_states_before(sizes, states, h0, lengths, reset, reverse))
        dw = _outer_sum(sizes, dz, before, None, None)
    return dw


def _states_before(
    sizes: Sizes,
    states: Tensor,
    h0: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
) -> Tensor:
    """h_{t-1} of every step ``(T, B, H)``; zero after a reset and in the padding."""
    h = sizes.unflat(states)
    initial = torch.zeros_like(h[0]) if h0 is None else h0
    before = torch.cat((h[1:], initial[None]) if reverse else (initial[None], h[:-1]))
    if lengths is not None:
        if reverse:
            before[lengths - 1, torch.arange(sizes.B, device=lengths.device)] = initial
        before.masked_fill_(_padding(sizes, lengths), 0)
    if reset is not None:
        before.masked_fill_(reset.unsqueeze(-1), 0)
    return before


def _padding(sizes: Sizes, lengths: Tensor) -> Tensor:
    """The steps beyond each lane's length, ``(T, B, 1)``."""
    return (torch.arange(sizes.T, device=lengths.device)[:, None] >= lengths).unsqueeze(-1)


def _is_finite(tensor: Tensor) -> bool:
    """Whether every element is; false as well where their sum overflows, which costs time alone."""
    return math.isfinite(tensor.sum())


def _outer_sum(
    sizes: Sizes, left: Tensor, h: Tensor, start: Tensor | None, h0: Tensor | None
) -> Tensor:
    """left^T h + start^T h0: the hidden weight's gradient, from dz and the states before."""
    H = sizes.H
    dw = left.new_empty(sizes.width, H)
    # GRU: the candidate's hidden side is the fourth part of dz, not the third.
    parts = ((0, 0, 2 * H), (2 * H, 3 * H, H)) if sizes.cell == GRU else ((0, 0, sizes.width),)
    for to, at, n in parts:
        out = dw[to : to + n]
        torch.mm(left[:, at : at + n].t(), h, out=out)
        if start is not None and h0 is not None:
            out.addmm_(start[:, at : at + n].t(), h0)
    return dw
