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
from torch.utils.flop_counter import register_flop_formula

from bptt.errors import ArgumentError, ShapeError, describe
from bptt.ops import eager, native
from bptt.ops.cells import BY_MODE
from bptt.ops.device import autocast_dtype
from bptt.ops.eager import State, gradients_as_graph
from bptt.ops.native.check import require_shape

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
    """Whether the kernels run on the CPU, in Triton's interpreter; a yes is what Triton takes for one."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


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

    Raises:
        ShapeError: a tensor is not of its shape.
        ArgumentError: a weight's or a state's storage was freed.

    Cost: the input's product, one launch; backward one launch and three products over all steps. Where
    the weights do not fit on the chip, a product and a launch for every step, in both directions. Memory
    as the native kernels': what ``saved`` says in :mod:`bptt.ops.cells`, and the state before each step.
    """
    w_ih, w_hh, b_ih, b_hh, *_ = weights
    _require_shapes(cell, x, state, weights, lengths, reset, cut)
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
    h0, c0 = state[0], state[1] if cell == "LSTM" else None
    y, h_n, c_n, _ = torch.ops.bptt.triton_recur(
        cell, reverse, marks, x, w_ih, w_hh, b_ih, b_hh, h0, c0
    )
    return y, (h_n,) if c0 is None else (h_n, c_n)


def _require_shapes(cell, x, state, weights, lengths, reset, cut) -> None:
    """The kernels trust sizes. Of lengths the values matter to none: a lane runs the steps there are."""
    w_ih, w_hh, b_ih, b_hh, *_ = weights
    H = w_hh.shape[-1]
    width = BY_MODE[cell].gates * H
    require_shape("w_hh", w_hh, width, H)
    if x.ndim != 3:
        raise ShapeError("x (T, B, I)", describe(x.shape), "pass a time-major batch")
    T, B, I = x.shape
    require_shape("w_ih", w_ih, width, I)
    require_shape("b_ih", b_ih, width)
    require_shape("b_hh", b_hh, width)
    for name, tensor in zip(("h0", "c0"), state, strict=False):
        require_shape(name, tensor, B, H)
    require_shape("lengths", lengths, B)
    require_shape("reset", reset, T, B)
    require_shape("cut", cut, T, B)


# A call is two operators, so that what compiles, exports or maps a model sees it whole, and what rounds
# products (autocast) does not reach into it.
library = torch.library.Library("bptt", "FRAGMENT")
library.define(
    "triton_recur(str cell, bool reverse, Tensor? marks, Tensor x, Tensor w_ih, Tensor w_hh,"
    " Tensor? b_ih, Tensor? b_hh, Tensor h0, Tensor? c0)"
    " -> (Tensor y, Tensor h_n, Tensor c_n, Tensor saved)"
)
library.define(
    "triton_recur_backward(str cell, bool reverse, Tensor? marks, Tensor dy, Tensor dh_n, Tensor? dc_n,"
    " Tensor x, Tensor w_ih, Tensor w_hh, Tensor saved, bool[] needs) -> (Tensor dx, Tensor dw_ih,"
    " Tensor dw_hh, Tensor db_ih, Tensor db_hh, Tensor dh0, Tensor dc0)"
)
_FIRST = 3  # arguments before x, which have no gradient


def _room(cell: str, x: Tensor, w_hh: Tensor, h0: Tensor, c0: Tensor | None) -> list[Tensor]:
    """What is written forward: y, the final states (a GRU's or RNN's second is empty), what is kept."""
    (steps, lanes, _), units = x.shape, w_hh.shape[1]
    kept = _kernels(cell)[0].SAVED * units
    return [
        x.new_empty(steps, lanes, units),
        h0.new_empty(h0.shape),
        h0.new_empty(0 if c0 is None else c0.shape),
        x.new_empty(steps, lanes, kept, dtype=_accumulator(x)),
    ]


def _forward(cell, reverse, marks, x, w_ih, w_hh, b_ih, b_hh, h0, c0):
    for tensor in (x, w_ih, w_hh, b_ih, b_hh, h0, c0):
        if tensor is not None and tensor.numel() and not tensor.untyped_storage().nbytes():
            raise ArgumentError(
                "tensors that lie in memory", "one whose storage was freed",
                "bring its storage back before the call",
            )  # fmt: skip
    y, h_n, c_n, saved = room = _room(cell, x, w_hh, h0, c0)
    w_hh, b_hh, marks, h0, c0 = _in_rows(w_hh, b_hh, marks, h0, c0)
    state, final = ([h0], [h_n]) if c0 is None else ([h0, c0], [h_n, c_n])
    walk = _walk if holds(cell, w_hh, y.shape[0] * y.shape[1]) else _step_by_step
    with _on(x):
        xp = F.linear(x, w_ih, b_ih).contiguous()
        walk(cell, reverse, xp, w_hh, b_hh, marks, state, final, y, saved)
    return tuple(room)


def _in_rows(*tensors: Tensor | None) -> list[Tensor | None]:
    """As the kernels read what they are handed: one element behind the other, without gaps."""
    return [None if t is None else t.contiguous() for t in tensors]


def _backward(cell, reverse, marks, dy, dh_n, dc_n, x, w_ih, w_hh, saved, needs):
    # A product of ours is made as it was forward, wherever the caller stands meanwhile.
    with torch.autocast(dy.device.type, enabled=False), _on(dy):
        return _exact_backward(cell, reverse, marks, dy, dh_n, dc_n, x, w_ih, w_hh, saved, needs)


def _exact_backward(cell, reverse, marks, dy, dh_n, dc_n, x, w_ih, w_hh, saved, needs):
    steps, lanes, units = dy.shape
    marks, dy, dh_n, dc_n, w_hh = _in_rows(marks, dy, dh_n, dc_n, w_hh)
    dfinal = [dh_n] if dc_n is None else [dh_n, dc_n]
    dstate = [saved.new_empty(d.shape) for d in dfinal]
    dxp = saved.new_empty(steps, lanes, BY_MODE[cell].gates * units)
    # Only a GRU's candidate has a second cotangent; the others' is not touched.
    dhp = saved.new_empty(steps, lanes, units) if cell == "GRU" else dxp
    walk = _walk_back if holds(cell, w_hh, steps * lanes) else _step_back
    walk(cell, reverse, dy, dfinal, dstate, w_hh, saved, marks, dxp, dhp)
    dh, short = _of_state(dxp, dhp, units), dxp.to(dy.dtype)
    wanted = (
        lambda: short @ w_ih,
        lambda: short.flatten(0, 1).t() @ x.flatten(0, 1),
        lambda: dh.flatten(0, 1).t() @ _before(saved, marks, units).flatten(0, 1),
        lambda: dxp.sum((0, 1)),
        lambda: dh.sum((0, 1)),
    )
    found = [make() if need else dy.new_empty(0) for make, need in zip(wanted, needs, strict=True)]
    found += [*dstate, *([] if len(dstate) == 2 else [dy.new_empty(0)])]
    return tuple(gradient.to(dy.dtype) for gradient in found)


for device in ("CPU", "CUDA"):
    library.impl("triton_recur", _forward, device)
    library.impl("triton_recur_backward", _backward, device)


@torch.library.register_fake("bptt::triton_recur", lib=library)
def _forward_fake(cell, reverse, marks, x, w_ih, w_hh, b_ih, b_hh, h0, c0):
    return tuple(_room(cell, x, w_hh, h0, c0))


@torch.library.register_fake("bptt::triton_recur_backward", lib=library)
def _backward_fake(cell, reverse, marks, dy, dh_n, dc_n, x, w_ih, w_hh, saved, needs):
    width = w_hh.shape[0]
    shapes = (x.shape, w_ih.shape, w_hh.shape, (width,), (width,))
    rooms = [dy.new_empty(s if need else 0) for s, need in zip(shapes, needs, strict=True)]
    dc0 = dy.new_empty(0 if dc_n is None else dc_n.shape)
    return (*rooms, dy.new_empty(dh_n.shape), dc0)


eager.map_one_by_one("bptt::triton_recur_backward", library)


# Those of the products, as the native kernels' are counted.
@register_flop_formula(torch.ops.bptt.triton_recur, get_raw=True)
def _flops(cell, reverse, marks, x, w_ih, w_hh, *_: Any, **__: Any) -> int:
    return 2 * x.shape[0] * x.shape[1] * (w_ih.numel() + w_hh.numel())


@register_flop_formula(torch.ops.bptt.triton_recur_backward, get_raw=True)
def _backward_flops(
    cell, reverse, marks, dy, dh_n, dc_n, x, w_ih, w_hh, saved, needs, **_: Any
) -> int:
    input_side, hidden_side = w_ih.numel() * (needs[0] + needs[1]), w_hh.numel() * (1 + needs[2])
    return 2 * dy.shape[0] * dy.shape[1] * (input_side + hidden_side)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.cell, ctx.reverse, marks, *given = inputs
    ctx.set_materialize_grads(False)  # what is kept has none, and is the largest of the outputs
    ctx.save_for_backward(output[-1], marks, *given)


def _gradients(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None, _: None):
    saved, marks, x, w_ih, w_hh, _, _, h0, c0 = ctx.saved_tensors
    zeros = torch.zeros_like(h0)
    dy = zeros.expand(len(saved), *h0.shape) if dy is None else dy
    dh_n = zeros if dh_n is None else dh_n
    dc_n = zeros if dc_n is None and c0 is not None else dc_n
    needs = list(ctx.needs_input_grad[_FIRST:])
    if torch.is_grad_enabled():
        with torch.autocast(h0.device.type, enabled=False):
            found = _differentiable_gradients(ctx, (dy, dh_n, dc_n), needs)
    else:
        found = torch.ops.bptt.triton_recur_backward(
            ctx.cell, ctx.reverse, marks, dy, dh_n, dc_n, x, w_ih, w_hh, saved, needs[:5]
        )
    wanted = (g if need else None for g, need in zip(found, needs, strict=True))
    return *(None,) * _FIRST, *wanted


torch.library.register_autograd("bptt::triton_recur", _gradients, setup_context=_keep, lib=library)


def _differentiable_gradients(
    ctx: Any, cotangents: tuple[Tensor | None, ...], needs: list[bool]
) -> list[Tensor | None]:
    """The same gradients through the loop in plain torch, as a graph that can be differentiated again."""
    _, marks, *given = ctx.saved_tensors
    options: dict[str, Tensor] = {}
    if marks is not None:
        options = {
            "lengths": (marks & 1).sum(0),
            "reset": (marks & 2).ne(0),
            "cut": (marks & 4).ne(0),
        }
    # Views, so that one tensor passed in two places is still two variables here.
    views = [None if t is None else t.view_as(t) for t in given]
    x, *weights = views[:5]
    state = tuple(s for s in views[5:] if s is not None)
    y, final = eager.recur(
        ctx.cell, cast(Tensor, x), state, tuple(weights), reverse=ctx.reverse, **options
    )
    return gradients_as_graph((y, *final), cotangents, views, needs)


def _walk(cell, reverse, xp, w_hh, b_hh, marks, state, final, y, saved) -> None:
    """All steps in one launch."""
    kernels, relu = _kernels(cell)
    steps, lanes, units = y.shape
    kernels.forward[(_blocks(lanes, LANES), 1)](
        xp, w_hh, w_hh, _any(b_hh, w_hh), state[0], state[-1], _any(marks, w_hh), y, final[0], final[-1],
        saved, steps, lanes, units, RELU=relu, REVERSE=reverse, MARKED=marks is not None,
        BIAS=b_hh is not None, HELD=True, HP=padded(units), **_types(xp),
    )  # fmt: skip


def _step_by_step(cell, reverse, xp, w_hh, b_hh, marks, state, final, y, saved) -> None:
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
    for to, reached in zip(final, now, strict=True):
        to.copy_(reached)


def _walk_back(cell, reverse, dy, dfinal, dstate, w_hh, saved, marks, dxp, dhp) -> None:
    """Backward over all steps in one launch."""
    kernels, relu = _kernels(cell)
    steps, lanes, units = dy.shape
    kernels.backward[(_blocks(lanes, LANES), 1)](
        dy, dfinal[0], dfinal[-1], w_hh, saved, _any(marks, w_hh), dxp, dhp, dstate[0], dstate[-1],
        steps, lanes, units, RELU=relu, REVERSE=reverse, MARKED=marks is not None, HELD=True,
        HP=padded(units), **_types(dy),
    )  # fmt: skip


def _step_back(cell, reverse, dy, dfinal, dstate, w_hh, saved, marks, dxp, dhp) -> None:
    """A launch and a product for each step."""
    kernels, relu = _kernels(cell)
    steps, lanes, units = dy.shape
    now = [d.to(saved.dtype) for d in dfinal]
    # Where a lane does not run, or nothing passes.
    stops = None if marks is None else marks.ne(1).unsqueeze(-1)
    tile = min(TILE, padded(units))
    for t in range(steps) if reverse else reversed(range(steps)):
        before = [torch.empty_like(d) for d in now]
        kernels.backward[(_blocks(lanes, LANES), _blocks(units, tile))](
            dy[t], now[0], now[-1], w_hh, saved[t], w_hh if marks is None else marks[t], dxp[t], dhp[t],
            before[0], before[-1], 1, lanes, units, RELU=relu, REVERSE=False,
            MARKED=marks is not None, HELD=False, HP=tile, **_types(dy),
        )  # fmt: skip
        # What came by the gates. It is stopped after the product: zero times an infinite weight is NaN.
        came = _of_state(dxp[t], dhp[t], units).to(w_hh.dtype) @ w_hh
        before[0] += came if stops is None else came.masked_fill(stops[t], 0)
        now = before
    for to, reached in zip(dstate, now, strict=True):
        to.copy_(reached)


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
