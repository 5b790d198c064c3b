"""One recurrent layer in one direction, in plain torch: a Python loop over time.

This is the path that runs everywhere: every dtype, every device, second derivatives, ``torch.func``.
Autograd differentiates it, so its backward needs no code. The fast paths answer to it.

Axes: ``x (T, B, I)``, state ``(B, H)``, weights in PyTorch's shapes and gate order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from bptt.errors import ShapeError

State: TypeAlias = tuple[Tensor, ...]
Step: TypeAlias = Callable[[Tensor, State], State]


def recur(
    cell: str,
    x: Tensor,
    state: State,
    weights: tuple[Tensor | None, ...],
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    cut: Tensor | None = None,
    reverse: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Run ``cell`` over all time steps; see :func:`bptt.ops.recur` for the meaning of each argument."""
    if batch_sizes is not None:
        return recur_packed(recur, cell, x, state, weights, batch_sizes, reverse)
    w_ih, w_hh, b_ih, b_hh, *projection = cast(tuple[Tensor, ...], weights)
    steps = x.shape[0]
    live = None
    if lengths is not None:
        clock = torch.arange(steps, device=x.device)[:, None]
        live = clock < lengths.to(x.device)
        # A mark in the padding marks nothing: the lane has finished.
        reset, cut = (None if mark is None else mark & live for mark in (reset, cut))
        live = live.unsqueeze(-1)
        # What lies in the padding may be anything, NaN included; it must not meet a live number.
        x = x.masked_fill(~live, 0)
    xp = F.linear(x, w_ih, b_ih)
    if live is not None:
        xp = xp.masked_fill(~live, 0)  # zero times an infinite weight is not zero
    step = _STEPS[cell](w_hh, b_hh, *projection)

    outputs: list[Tensor] = [x] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        if cut is not None:
            here = cut[t].unsqueeze(-1)
            state = tuple(torch.where(here, s.detach(), s) for s in state)
        if reset is not None:
            here = reset[t].unsqueeze(-1)
            state = tuple(s.masked_fill(here, 0) for s in state)
        # A lane that does not run must not be computed on what it holds: a NaN among the unused
        # results would still reach the gradients, as zero times NaN.
        running = state if live is None else tuple(s.masked_fill(~live[t], 0) for s in state)
        new = step(xp[t], running)
        if live is None:
            state, outputs[t] = new, new[0]
        else:
            # A finished lane keeps its state; a reversed one has not begun yet.
            state = tuple(torch.where(live[t], n, s) for n, s in zip(new, state, strict=True))
            outputs[t] = new[0].masked_fill(~live[t], 0)
    return torch.stack(outputs), state


def require_batch_sizes(sizes: Tensor, rows: int, lanes: int | None = None) -> None:
    """Raise ShapeError where these are not the batch_sizes of so many packed rows, of lanes if given."""
    remedy = "pass a PackedSequence made by torch's pack functions"
    if sizes.dim() != 1 or sizes.dtype != torch.int64 or not sizes.is_cpu or not sizes.numel():
        raise ShapeError(
            "batch_sizes (T,) of int64 on the CPU",
            f"{sizes.dtype} of shape {tuple(sizes.shape)} on {sizes.device}",
            remedy,
        )
    counts = sizes.tolist()
    falling = all(now >= later for now, later in pairwise(counts))
    begun = lanes in (None, counts[0])
    if counts[-1] < 1 or not falling or not begun or sum(counts) != rows:
        first = "" if begun else f" from {lanes}"
        raise ShapeError(
            f"batch_sizes that fall{first} to 1 or more and sum to {rows} rows",
            f"{counts}"[:80],
            remedy,
        )


def recur_packed(
    run: Callable[..., tuple[Tensor, State]],
    cell: str,
    x: Tensor,
    state: State,
    weights: tuple[Tensor | None, ...],
    batch_sizes: Tensor,
    reverse: bool,
) -> tuple[Tensor, State]:
    """Packed rows by whoever takes lengths: padded before, packed again after.

    By indexing, which has derivatives of every kind; torch's own unpacking has not.

    Raises:
        ShapeError: as :func:`require_batch_sizes`.
    """
    if not torch.compiler.is_compiling():
        require_batch_sizes(batch_sizes, x.shape[0], state[0].shape[0])
    counts = batch_sizes.to(x.device)[:, None]
    lane = torch.arange(int(batch_sizes[0]), device=x.device)
    valid = lane < counts
    rows = (counts.cumsum(0) - counts + lane).masked_fill(~valid, 0)
    y, state = run(cell, x[rows], state, weights, lengths=valid.sum(0), reverse=reverse)
    # Row by row, the valid steps of lanes that are sorted by length are the packed rows.
    return y[valid], state


def _rnn_step(activation: Callable[[Tensor], Tensor]):
    """h_t = act(xp_t + W_hh h_{t-1} + b_hh)."""

    def build(w_hh: Tensor, b_hh: Tensor | None) -> Step:
        def step(xp: Tensor, state: State) -> State:
            return (activation(xp + F.linear(state[0], w_hh, b_hh)),)

        return step

    return build


def _gru_step(w_hh: Tensor, b_hh: Tensor | None) -> Step:
    """r, z = sigma(xp_rz + W_rz h + b_rz);  n = tanh(xp_n + r * (W_n h + b_n));  h' = n + z * (h - n).

    The hidden bias of ``n`` stands inside the reset gate, as in PyTorch and cuDNN.
    """

    def step(xp: Tensor, state: State) -> State:
        (h,) = state
        xr, xz, xn = xp.chunk(3, -1)
        hr, hz, hn = F.linear(h, w_hh, b_hh).chunk(3, -1)
        r = torch.sigmoid(xr + hr)
        z = torch.sigmoid(xz + hz)
        n = torch.tanh(xn + r * hn)
        return (n + z * (h - n),)

    return step


def _lstm_step(w_hh: Tensor, b_hh: Tensor | None, w_hr: Tensor | None = None) -> Step:
    """c' = sigma(f) * c + sigma(i) * tanh(g);  h' = sigma(o) * tanh(c'), projected by W_hr if given."""

    def step(xp: Tensor, state: State) -> State:
        h, c = state
        i, f, g, o = (xp + F.linear(h, w_hh, b_hh)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h if w_hr is None else F.linear(h, w_hr)), c

    return step


_STEPS: dict[str, Callable[..., Step]] = {
    "RNN_TANH": _rnn_step(torch.tanh),
    "RNN_RELU": _rnn_step(torch.relu),
    "GRU": _gru_step,
    "LSTM": _lstm_step,
}


def gradients_as_graph(
    outputs: tuple[Tensor, ...],
    cotangents: tuple[Tensor | None, ...],
    inputs: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Of each input that is needed, as a graph that can be differentiated again; None of the others."""
    pairs = [(o, g.to(o.dtype)) for o, g in zip(outputs, cotangents, strict=False) if g is not None]
    wanted = [v for v, needed in zip(inputs, needs, strict=True) if needed and v is not None]
    found = iter(
        torch.autograd.grad(
            [o for o, _ in pairs],
            wanted,
            [g for _, g in pairs],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [
        next(found) if needed and v is not None else None
        for v, needed in zip(inputs, needs, strict=True)
    ]


# What else a backward pass of one's own has to know of.


def is_batched(tensor: Tensor | None) -> bool:
    """Whether a tensor stands for several, as a batch of cotangents does (vmap, is_grads_batched)."""
    functorch = torch._C._functorch
    return tensor is not None and (
        functorch.is_legacy_batchedtensor(tensor) or functorch.is_functorch_wrapped_tensor(tensor)
    )


def map_one_by_one(name: str, library: torch.library.Library) -> None:
    """Let a backward operator take several cotangents, one after the other, a pass for each."""
    operator = getattr(torch.ops.bptt, name.partition("::")[2])

    def each(info: Any, in_dims: tuple[Any, ...], *arguments: Any):
        found = []
        for i in range(info.batch_size):
            one = [
                a.select(dim, i) if isinstance(dim, int) else a
                for a, dim in zip(arguments, in_dims, strict=True)
            ]
            found.append(operator(*one))
        return tuple(map(torch.stack, zip(*found, strict=True))), (0,) * len(found[0])

    torch.library.register_vmap(name, each, lib=library)
