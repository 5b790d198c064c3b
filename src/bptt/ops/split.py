"""Marks without a loop over time: lanes are split where they end and where they reset.

A lane with resets is several sequences, one after the other, that know nothing of each other. So is a
batch of lanes of several lengths. Together they are one packed batch for torch's own layer, which on a
GPU is one fused kernel; its rows go back to where they came from.

A cut hands the state on and cannot be split: what begins after it needs what ended before.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bptt.ops import eager, native
from bptt.ops.eager import State


@dataclass(frozen=True)
class Pieces:
    """What a batch of marked lanes falls into; all but ``batch_sizes`` on the device of the batch.

    Attributes:
        times, lanes: ``(N,)``, the step and the lane of each valid row, in packed order.
        batch_sizes: ``(longest,)`` on the CPU: how many pieces run at each of their steps.
        of: ``(S,)``, the lane of each piece, the longest first.
        begins: ``(S, 1)``, whether a piece begins with the lane's own state; others begin with zeros.
        last: ``(B,)``, the piece in which a lane ends; 0 where it has none.
        ran: ``(B, 1)``, whether the lane ran a step.
    """

    times: Tensor
    lanes: Tensor
    batch_sizes: Tensor
    of: Tensor
    begins: Tensor
    last: Tensor
    ran: Tensor


def can_split(x: Tensor, cut: Tensor | None) -> bool:
    """Whether a marked call that no kernel covers is one packed call of torch's layer.

    It is on a GPU, where a step of a loop in Python costs some ten launches. Transforms of
    ``torch.func``, forward mode and a compiler take the loop.
    """
    return (
        x.device.type == "cuda"
        and cut is None
        and not native.transformed()
        and not native.forward_mode()
        and not torch.compiler.is_compiling()
    )


def split(steps: int, lanes: int, lengths: Tensor | None, reset: Tensor | None,
          reverse: bool, device: torch.device) -> Pieces:  # fmt: skip
    """The pieces of a batch.

    Args:
        steps, lanes: T and B.
        lengths, reset, reverse: as :func:`bptt.ops.recur` takes them.
        device: where the rows are wanted.

    Cost: one transfer of T·B marks to the CPU, which has to know how many pieces there are, and one back.
    """
    # 0 padding, 1 a step, 2 a step that begins anew: all that the CPU has to know, in one transfer.
    kind = torch.ones(steps, lanes, dtype=torch.uint8, device=device)
    if reset is not None:
        kind += reset.to(torch.uint8)
    if lengths is not None:
        clock = torch.arange(steps, device=device)[:, None]
        kind *= clock < lengths.to(device)
    marks = kind.t().cpu()
    if reverse:
        marks = marks.flip(1)
    # Each lane's valid steps in the order in which it runs them: lane by lane, first to last.
    lane, at = (marks > 0).nonzero(as_tuple=True)
    fresh = marks[lane, at] == 2
    first = torch.ones_like(fresh)
    first[1:] = lane[1:] != lane[:-1]
    piece = (first | fresh).cumsum(0) - 1
    count = int(piece[-1]) + 1 if len(piece) else 0
    sizes = torch.bincount(piece, minlength=count)
    start = (first | fresh).nonzero()[:, 0]
    order = sizes.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(count, device="cpu")
    within = torch.arange(len(piece), device="cpu") - start[piece]
    rows = torch.argsort(within * max(count, 1) + rank[piece])
    batch_sizes = (
        torch.bincount(within) if len(within) else torch.zeros(0, dtype=torch.int64, device="cpu")
    )
    pieces = torch.bincount(lane[start], minlength=lanes)  # of each lane, one after the other
    ran = pieces > 0
    last = rank[(pieces.cumsum(0) - 1).clamp(min=0)] if count else torch.zeros_like(pieces)
    times = steps - 1 - at[rows] if reverse else at[rows]
    begins = (first & ~fresh)[start][order]

    def there(index: Tensor) -> Tensor:
        return index.to(device, non_blocking=True)

    return Pieces(
        there(times), there(lane[rows]), batch_sizes, there(lane[start][order]),
        there(begins[:, None]), there(last), there(ran[:, None]),
    )  # fmt: skip


def recur(
    cell: str,
    x: Tensor,
    state: State,
    weights: tuple[Tensor | None, ...],
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    """Run a marked layer as one packed call; see :func:`bptt.ops.recur` for the meaning of each argument.

    Cost: that of torch's packed layer, a copy of the valid rows there and one back.
    """
    steps, lanes = x.shape[:2]
    pieces = split(steps, lanes, lengths, reset, reverse, x.device)
    if not len(pieces.of):  # no step runs; the loop says so, with a gradient of zero
        return eager.recur(cell, x, state, weights, lengths=lengths, reset=reset, reverse=reverse)
    y = x.new_zeros(steps, lanes, state[0].shape[-1])
    begin = tuple(
        torch.where(pieces.begins, s.index_select(0, pieces.of), 0).unsqueeze(0) for s in state
    )
    flat = [weight for weight in weights if weight is not None]
    run: Any = getattr(torch._VF, cell.lower())
    with warnings.catch_warnings():
        # cuDNN wants the weights of a module behind each other; one layer's of several are copied.
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single")
        rows, *ended = run(
            x[pieces.times, pieces.lanes], pieces.batch_sizes, begin if cell == "LSTM" else begin[0],
            flat, weights[2] is not None, 1, 0.0, torch.is_grad_enabled(), False,
        )  # fmt: skip
    y = y.to(rows.dtype).index_put((pieces.times, pieces.lanes), rows)
    final = tuple(
        torch.where(pieces.ran, e[0].index_select(0, pieces.last), s)
        for e, s in zip(ended, state, strict=True)
    )
    return y, final
