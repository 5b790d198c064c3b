"""Forward of one layer: one large product for all steps, then the kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from bptt.ops.native.call import (
    LSTM,
    SAVED,
    check,
    check_values,
    dense,
    function,
    hand_on,
    pointer,
    unpack_sizes,
    workspace,
)


def forward(
    cell: int,
    x: Tensor,
    tokens: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor | None,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    cut: Tensor | None,
    norms: Tensor | None,
    reverse: bool,
    batch_major: bool,
    save: bool,
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(y, h_n, c_n, saved)``; ``c_n`` and ``saved`` have no elements where there is nothing in them."""
    sizes = check(
        cell, x, tokens, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, reset, cut, norms, batch_major,
        counts,
    )  # fmt: skip
    B, H, width = sizes.B, sizes.H, sizes.width
    lengths, reset, tokens_ = dense(lengths), dense(reset), dense(tokens)
    starts = None
    if counts is not None:
        lengths, starts = unpack_sizes(sizes, counts)
    problem = sizes.problem(lengths, reset, None, reverse, starts)
    check_values(problem, sizes, lengths, tokens_, x.shape[0])

    # Time-major always: torch's is, and dropout draws its mask in the order of memory. No view, or
    # autograd lets nobody write to it in place.
    y = x.new_empty((sizes.T, B, H) if counts is None else (sizes.rows, H))
    keep = SAVED[cell] * H if save else 0
    saved = x.new_empty(sizes.rows, keep)
    if w_ih is None:
        # Contiguous: rows of an expanded x are a view that lies in one place.
        xp, ldx = dense(x if tokens is not None else sizes.flat(x)), width
    else:
        # The product is written where the kernel will leave what it saves, or else an RNN's output
        # if its rows lie alike, so that each row is fetched once.
        if save:
            rows = saved
        else:
            in_place = width == H and not batch_major
            rows = sizes.flat(y) if in_place else x.new_empty(sizes.rows, width)
        ldx = rows.shape[1]
        xp = rows[:, :width]
        # Padding stays as it is: no row of the product mixes with another, and the kernel reads
        # none beyond a lane's length.
        torch.mm(sizes.flat(x), w_ih.t(), out=xp)
    h_n = x.new_empty(B, H)
    c_n = x.new_empty((B, H) if cell == LSTM else 0)
    h0, c0, w_hh, b_ih, b_hh = dense(h0), dense(c0), dense(w_hh), dense(b_ih), dense(b_hh)
    work = workspace(cell, problem, w_hh.dtype, backward=False)
    function("forward", w_hh.dtype)(
        cell, problem, xp.data_ptr(), ldx, pointer(tokens_), pointer(b_ih), pointer(b_hh),
        w_hh.data_ptr(), pointer(h0), pointer(c0), y.data_ptr(),
        saved.data_ptr() if keep else 0, keep, h_n.data_ptr(), c_n.data_ptr(), work.data_ptr(),
    )  # fmt: skip
    hand_on(lengths, (h0, h_n), (c0, c_n))
    return y, h_n, c_n, saved
