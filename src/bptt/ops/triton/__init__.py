"""The recurrence as Triton kernels, for a GPU: one launch forward, one backward, whatever the length.

Each program owns a block of lanes and walks all their steps with the weights held on the chip. What does
not depend on the step before is left to torch: the input's product before the launch, and the weights'
gradients, one product over all steps, after it.

Where the weights do not fit on the chip, the same kernels run step by step: torch makes the product with
them, which at that size is most of the work, and one launch does all the rest of the step.

With ``TRITON_INTERPRET=1`` in the environment before Triton is imported, the kernels run on the CPU, line
by line in NumPy: slow, and right or wrong for the same reasons.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from bptt.ops import eager, native
from bptt.ops.cells import BY_MODE
from bptt.ops.device import autocast_dtype
from bptt.ops.eager import State, gradients_as_graph

# Why the kernels are not here; None if they are.
missing = None if importlib.util.find_spec("triton") else "the package triton is not installed"
# A block of lanes: as many rows as a product on the chip takes at least.
LANES = 16
# Bytes of shared memory that a program may have: of an H100, where no GPU is asked.
ON_CHIP = 227 * 1024
MOST_KEPT = 6  # widths of H of a step, an LSTM's
# Units of a tile where a step is a launch: nothing is multiplied there, so it is as wide as it is quick.
TILE = 64


def interpreted() -> bool:
    """Whether the kernels run on the CPU, in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def covers(
    cell: str, x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor | None]
) -> str | None:
    """None if :func:`recur` can run this call, otherwise why not, in one line."""
    if missing is not None:
        return missing
    if cell not in BY_MODE:
        return f"there is no kernel for the cell {cell}"
    if len(weights) > 4 and any(w is not None for w in weights[4:]):
        return "there is no kernel for projected states"
    if x.device.type != "cuda" and not (x.is_cpu and interpreted()):
        return f"Triton's kernels run on a GPU, and x is on {x.device}"
    w_hh = cast(Tensor, weights[1])
    taken = (torch.float32, torch.bfloat16, *([torch.float64] if interpreted() else []))
    if w_hh.dtype not in taken:
        return f"Triton's kernels run float32 and bfloat16, not {w_hh.dtype}"
    if any(t is not None and t.dtype != w_hh.dtype for t in (x, *state, *weights[:4])):
        return "the tensors are of several dtypes"
    if autocast_dtype(x.device) is not None:
        return "under autocast torch's own layer computes in the short dtype"
    if 0 in (*x.shape[:2], w_hh.shape[1]):
        return "there is nothing to run over"
    if native.transformed():
        return "torch.func transforms need the eager recurrence"
    if native.forward_mode():
        return "forward-mode differentiation needs the eager recurrence"
    return None


def holds(cell: str, w_hh: Tensor, places: int) -> bool:
    """Whether a whole sequence is one launch: the recurrent weights fit on the chip, and whatever is kept
    of so many steps and lanes can be counted in 31 bits, as the kernels count."""
    limit = ON_CHIP
    if w_hh.is_cuda:
        own = torch.cuda.get_device_properties(w_hh.device)
        limit = min(limit, getattr(own, "shared_memory_per_block_optin", 0))
    kept = places * MOST_KEPT * w_hh.shape[1]
    return shared_bytes(cell, w_hh.shape[1], w_hh.element_size()) <= limit and kept < 2**31


def shared_bytes(cell: str, units: int, size: int) -> int:
    """What a launch over all steps takes on the chip at most: weights, and a step's tiles beside them.

    The second term is an upper bound of what Triton 3.9 asks for, compiling the kernels for an H100.
    """
    width = padded(units)
    return BY_MODE[cell].gates * width**2 * size + width * (640 + 48 * size)


def padded(units: int) -> int:
    """H as a tile has it: a power of two, 16 at least."""
    return max(16, 1 << (units - 1).bit_length())


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
) -> tuple[Tensor, State]:
    """Run one layer; see :func:`bptt.ops.recur` for the meaning of each argument.

    Cost: the input's product, one launch; backward one launch and three products over all steps. Where
    the weights do not fit on the chip, a product and a launch for every step, in both directions. Memory
    as the native kernels': what ``saved`` says in :mod:`bptt.ops.cells`, and the state before each step.
    """
    w_ih, w_hh, b_ih, b_hh, *_ = weights
    marks = None
    if not (lengths is None and reset is None and cut is None):
        marks = torch.ones(x.shape[:2], dtype=torch.uint8, device=x.device)
        for bit, mark in ((2, reset), (4, cut)):
            if mark is not None:
                marks += bit * mark.to(torch.uint8)
        if lengths is not None:
            live = torch.arange(len(x), device=x.device)[:, None] < lengths.to(x.device)
            marks *= live
            # What lies in the padding may be anything, NaN included; it must not meet a live number.
            x = x.masked_fill(~live.unsqueeze(-1), 0)
    xp = F.linear(x, cast(Tensor, w_ih), b_ih)
    state = tuple(s.contiguous() for s in state)
    y, *final = _Recurrence.apply(cell, reverse, marks, x, w_ih, b_ih, xp, w_hh, b_hh, *state)
    return y, tuple(final)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, cell, reverse, marks, x, w_ih, b_ih, xp, w_hh, b_hh, *state):
        kernels, _ = _kernels(cell)
        (steps, lanes, _), units = xp.shape, w_hh.shape[1]
        xp, w_hh = xp.contiguous(), w_hh.contiguous()
        y = xp.new_empty(steps, lanes, units)
        saved = xp.new_empty(steps, lanes, kernels.SAVED * units, dtype=_accumulator(xp))
        walk = _walk if holds(cell, w_hh, steps * lanes) else _step_by_step
        with _on(xp):
            final = walk(cell, reverse, xp, w_hh, b_hh, marks, state, y, saved)
        # What xp was made of costs no memory, for its own backward keeps that too; xp would.
        ctx.save_for_backward(saved, marks, x, w_ih, b_ih, w_hh, b_hh, *state)
        ctx.cell, ctx.reverse = cell, reverse
        return y, *final

    @staticmethod
    def backward(ctx, *cotangents):
        if torch.is_grad_enabled():
            return _differentiable_backward(ctx, cotangents)
        dy, *dfinal = cotangents
        saved, marks, _, _, _, w_hh, b_hh, *_ = ctx.saved_tensors
        steps, lanes, units = dy.shape
        dy, dfinal = dy.contiguous(), [d.contiguous() for d in dfinal]
        dxp = saved.new_empty(steps, lanes, BY_MODE[ctx.cell].gates * units)
        # Only a GRU's candidate has a second cotangent; the others' is not touched.
        dhp = saved.new_empty(steps, lanes, units) if ctx.cell == "GRU" else dxp
        walk = _walk_back if holds(ctx.cell, w_hh, steps * lanes) else _step_back
        with _on(dy):
            dstate = walk(ctx.cell, ctx.reverse, dy, dfinal, w_hh, saved, marks, dxp, dhp)
        dh = _of_state(dxp, dhp, units)
        dw = db = None
        needs = dict(zip(_INPUTS, ctx.needs_input_grad, strict=False))
        if needs["w_hh"]:
            dw = (dh.flatten(0, 1).t() @ _before(saved, marks, units).flatten(0, 1)).to(w_hh.dtype)
        if b_hh is not None and needs["b_hh"]:
            db = dh.sum((0, 1)).to(w_hh.dtype)
        return *_UNASKED, dxp.to(dy.dtype), dw, db, *(d.to(dy.dtype) for d in dstate)


_INPUTS = ("cell", "reverse", "marks", "x", "w_ih", "b_ih", "xp", "w_hh", "b_hh")
_UNASKED = (None,) * 6  # those before xp


def _differentiable_backward(ctx: Any, cotangents: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """The same gradients through the loop in plain torch, as a graph that can be differentiated again."""
    _, marks, x, w_ih, b_ih, *own = ctx.saved_tensors
    given: dict[str, Tensor] = {}
    if marks is not None:
        given = {
            "lengths": (marks & 1).sum(0),
            "reset": (marks & 2).ne(0),
            "cut": (marks & 4).ne(0),
        }
    # Views, so that one tensor passed in two places is still two variables here.
    views = [F.linear(x, w_ih, b_ih), *(None if t is None else t.view_as(t) for t in own)]
    xp, w_hh, b_hh, *state = cast(list[Tensor], views)
    passed = torch.eye(w_hh.shape[0], dtype=w_hh.dtype, device=w_hh.device)
    y, final = eager.recur(
        ctx.cell, xp, tuple(state), (passed, w_hh, None, b_hh), reverse=ctx.reverse, **given
    )
    needs = ctx.needs_input_grad[len(_UNASKED) :]
    return *_UNASKED, *gradients_as_graph((y, *final), cotangents, views, needs)


def _walk(cell, reverse, xp, w_hh, b_hh, marks, state, y, saved) -> list[Tensor]:
    """All steps in one launch; the final states."""
    kernels, relu = _kernels(cell)
    (steps, lanes, units), final = y.shape, [torch.empty_like(s) for s in state]
    kernels.forward[(_blocks(lanes, LANES), 1)](
        xp, w_hh, w_hh, _any(b_hh, w_hh), state[0], state[-1], _any(marks, w_hh), y, final[0], final[-1],
        saved, steps, lanes, units, RELU=relu, REVERSE=reverse, MARKED=marks is not None,
        BIAS=b_hh is not None, HELD=True, HP=padded(units), **_types(xp),
    )  # fmt: skip
    return final


def _step_by_step(cell, reverse, xp, w_hh, b_hh, marks, state, y, saved) -> list[Tensor]:
    """A product and a launch for each step; states between steps are not rounded to a short dtype."""
    kernels, relu = _kernels(cell)
    steps, lanes, units = y.shape
    now = [s.to(saved.dtype) for s in state]
    fresh = None if marks is None else (marks & 2).ne(0).unsqueeze(-1)
    tile = min(TILE, padded(units))
    for t in reversed(range(steps)) if reverse else range(steps):
        h = now[0] if fresh is None else now[0].masked_fill(fresh[t], 0)
        hp = h.to(w_hh.dtype) @ w_hh.t()
        new = [torch.empty_like(s) for s in now]
        kernels.forward[(_blocks(lanes, LANES), _blocks(units, tile))](
            xp[t], w_hh, hp, _any(b_hh, w_hh), now[0], now[-1], w_hh if marks is None else marks[t],
            y[t], new[0], new[-1], saved[t], 1, lanes, units, RELU=relu, REVERSE=False,
            MARKED=marks is not None, BIAS=b_hh is not None, HELD=False, HP=tile, **_types(xp),
        )  # fmt: skip
        now = new
    return [s.to(y.dtype) for s in now]


def _walk_back(cell, reverse, dy, dfinal, w_hh, saved, marks, dxp, dhp) -> list[Tensor]:
    """Backward over all steps in one launch; the cotangents of the first states."""
    kernels, relu = _kernels(cell)
    steps, lanes, units = dy.shape
    dstate = [torch.empty_like(d, dtype=saved.dtype) for d in dfinal]
    kernels.backward[(_blocks(lanes, LANES), 1)](
        dy, dfinal[0], dfinal[-1], w_hh, saved, _any(marks, w_hh), dxp, dhp, dstate[0], dstate[-1],
        steps, lanes, units, RELU=relu, REVERSE=reverse, MARKED=marks is not None, HELD=True,
        HP=padded(units), **_types(dy),
    )  # fmt: skip
    return dstate


def _step_back(cell, reverse, dy, dfinal, w_hh, saved, marks, dxp, dhp) -> list[Tensor]:
    """A launch and a product for each step."""
    kernels, relu = _kernels(cell)
    steps, lanes, units = dy.shape
    now = [d.to(saved.dtype) for d in dfinal]
    stops = None if marks is None else (marks & 6).ne(0).unsqueeze(-1)
    tile = min(TILE, padded(units))
    for t in range(steps) if reverse else reversed(range(steps)):
        before = [torch.empty_like(d) for d in now]
        kernels.backward[(_blocks(lanes, LANES), _blocks(units, tile))](
            dy[t], now[0], now[-1], w_hh, saved[t], w_hh if marks is None else marks[t], dxp[t], dhp[t],
            before[0], before[-1], 1, lanes, units, RELU=relu, REVERSE=False,
            MARKED=marks is not None, HELD=False, HP=tile, **_types(dy),
        )  # fmt: skip
        # What came by the gates; a lane that did not run sent nothing, and what stops goes no farther.
        dh = _of_state(dxp[t], dhp[t], units)
        sent = dh if stops is None else dh.masked_fill(stops[t], 0)
        before[0] += sent.to(w_hh.dtype) @ w_hh
        now = before
    return now


def _of_state(dxp: Tensor, dhp: Tensor, units: int) -> Tensor:
    """Cotangents of what the state was multiplied to."""
    return dxp if dhp.shape == dxp.shape else torch.cat([dxp[..., : 2 * units], dhp], -1)


def _before(saved: Tensor, marks: Tensor | None, units: int) -> Tensor:
    """h_{t-1} of every step that ran; zero where none did, for zero times anything is wanted."""
    h = saved[..., :units]
    return h if marks is None else h.masked_fill((marks & 1 == 0).unsqueeze(-1), 0)


@lru_cache
def _kernels(cell: str) -> tuple[Any, bool]:
    """The file of a cell, and whether its function is ReLU; Triton is imported by the first call."""
    from bptt.ops.triton import gru, lstm, rnn

    files = {"RNN_TANH": rnn, "RNN_RELU": rnn, "GRU": gru, "LSTM": lstm}
    return files[cell], cell == "RNN_RELU"


def _on(tensor: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, wherever the tensors are."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


def _any(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel has to be handed a tensor, also where it will not look at it."""
    return other if tensor is None else tensor


def _accumulator(like: Tensor) -> torch.dtype:
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def _types(like: Tensor) -> dict[str, Any]:
    import triton.language as tl

    accumulator = tl.float64 if _accumulator(like) == torch.float64 else tl.float32
    return {"ACC": accumulator, "BB": LANES}
