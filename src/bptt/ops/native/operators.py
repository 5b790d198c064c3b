"""The torch operators ``bptt::recur`` and ``bptt::recur_backward``.

Defined through ``torch.library.Library``: it costs a third of ``@custom_op`` per call, and a small
layer at batch 1 takes no longer than that.

The backward is itself an operator, so that compiled and exported graphs hold one node each way. It
has no derivative of its own: where a second one is asked for (``create_graph=True``) the first is
taken by autograd through the eager recurrence instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast, get_type_hints

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from bptt.errors import ArgumentError, DeviceError
from bptt.ops import eager
from bptt.ops.native.check import (
    CELLS,
    DIFFERENTIABLE,
    GATES,
    LSTM,
    SAVED,
    BackwardCall,
    Call,
    dense,
    extension,
    is_batch_major,
    output_dtype,
)
from bptt.ops.native.kernels import backward, forward

_KINDS = {
    int: "int", bool: "bool", Tensor: "Tensor", Tensor | None: "Tensor?", list[bool]: "bool[]",
}  # fmt: skip


def _schema(record: type) -> str:
    """A record's fields as an operator's arguments."""
    return ", ".join(f"{_KINDS[kind]} {name}" for name, kind in get_type_hints(record).items())


library = torch.library.Library("bptt", "DEF")
library.define(f"recur({_schema(Call)}) -> (Tensor y, Tensor h_n, Tensor c_n, Tensor saved)")
library.define(
    f"recur_backward({_schema(BackwardCall)})"
    f" -> ({', '.join(f'Tensor d_{name}' for name in DIFFERENTIABLE)}, Tensor norms)"
)
library.impl("recur", lambda *arguments: forward(Call(*arguments)), "CPU")
library.impl("recur_backward", lambda *arguments: backward(BackwardCall(*arguments)), "CPU")


eager.map_one_by_one("bptt::recur_backward", library)


@torch.library.register_fake("bptt::recur", lib=library)
def _recur_fake(*arguments: Any):
    call = Call(*arguments)
    _one_device(call)
    if torch.onnx.is_in_onnx_export():  # which tries again, by the compiler, what a layer refused
        raise ArgumentError(
            "torch's own operators, inside torch.onnx.export",
            "a call with lengths, reset or cut",
            "leave them out there: torch's layers, which bptt.revert(model) gives, take none",
        )
    x, w_hh = call.x, call.w_hh
    H = w_hh.shape[1]
    keep = SAVED[call.cell] * H if call.save else 0
    if call.batch_sizes is not None and call.h0 is not None:
        B, rows = call.h0.shape[0], x.shape[0]
        shape: tuple[int, ...] = (rows, H)
    else:
        T, B = (x if call.tokens is None else call.tokens).shape[:2]
        rows, shape = T * B, (T, B, H)
    y = x.new_empty(shape, dtype=output_dtype(call.cell, x))
    c_n = w_hh.new_empty((B, H) if call.cell == LSTM else 0)
    return y, w_hh.new_empty(B, H), c_n, x.new_empty(rows, keep)


@torch.library.register_fake("bptt::recur_backward", lib=library)
def _recur_backward_fake(*arguments: Any):
    call = BackwardCall(*arguments)
    _one_device(call)
    x, w_hh, needs = call.x, call.w_hh, call.needs
    if call.batch_sizes is not None and call.h0 is not None:
        T, B = call.batch_sizes.shape[0], call.h0.shape[0]
    else:
        T, B = (x if call.tokens is None else call.tokens).shape[:2]
    H, width = w_hh.shape[1], GATES[call.cell] * w_hh.shape[1]

    def room(wanted, *shape):
        return w_hh.new_empty(shape if wanted else 0)

    if not needs[0] or call.tokens is not None:
        dx = x.new_empty(x.shape if needs[0] else 0)
    elif call.batch_major:
        dx = x.new_empty(B, T, x.shape[2]).transpose(0, 1)
    else:
        dx = x.new_empty(x.shape)
    return (
        dx,
        room(needs[1], B, H),
        room(needs[2], B, H),
        room(needs[3], width, 0 if call.w_ih is None else call.w_ih.shape[1]),
        room(needs[4], width, H),
        room(needs[5], width),
        room(needs[6], width),
        room(call.record, T, B),
    )


def _one_device(call: Call | BackwardCall) -> None:
    # One argument on "meta" is enough for torch to call the fake operator, and what it made for the
    # others' device would be memory that nobody wrote to. Counts of packed rows are always the CPU's.
    for other in call[:-1]:
        if isinstance(other, Tensor) and other.device != call.x.device:
            raise DeviceError(f"all on {call.x.device}", f"a tensor on {other.device}", "move it")


# What the two records have in common, and backward reads again.
_KEPT = ("x", "tokens", "h0", "c0", "w_ih", "w_hh", "lengths", "reset", "cut", "batch_sizes")


def _products(x: Tensor, tokens: Tensor | None, w_ih: Tensor | None, w_hh: Tensor) -> list[int]:
    """Steps of all lanes, padding included, and flops a step of the two products of a cell."""
    rows = x.shape[0] if x.dim() == 2 and tokens is None else math.prod(x.shape[:2])
    if tokens is not None:
        rows = tokens.numel()
    return [rows, 0 if w_ih is None else 2 * w_ih.numel(), 2 * w_hh.numel()]


@register_flop_formula(torch.ops.bptt.recur, get_raw=True)
def _recur_flops(
    cell: int, x: Tensor, tokens: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Tensor, *_: Any, **__: Any
) -> int:
    """Those of the products, which torch counts for its own layers: of a GRU 6·T·B·H·(I + H)."""
    rows, input_side, hidden_side = _products(x, tokens, w_ih, w_hh)
    return rows * (input_side + hidden_side)


@register_flop_formula(torch.ops.bptt.recur_backward, get_raw=True)
def _recur_backward_flops(
    cell: int, dy: Any, dh_n: Any, dc_n: Any, x: Tensor, tokens: Any, h0: Any, c0: Any, w_ih: Any,
    w_hh: Tensor, lengths: Any, reset: Any, cut: Any, reverse: bool, batch_major: bool, saved: Any,
    needs: list[bool], record: bool, batch_sizes: Tensor | None, **_: Any,
) -> int:  # fmt: skip
    rows, input_side, hidden_side = _products(x, tokens, w_ih, w_hh)
    if batch_sizes is None:
        first = (x if tokens is None else tokens).shape[1]
    else:
        first = int(batch_sizes[-1 if reverse else 0])
    back = rows if needs[1] else rows - first  # products that carry a gradient one step back
    total = input_side * rows * (needs[0] + needs[3])
    return total + hidden_side * (back + rows * needs[4])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    call = Call(*inputs)
    ctx.cell, ctx.reverse, ctx.batch_major, ctx.save = (
        call.cell, call.reverse, call.batch_major, call.save,
    )  # fmt: skip
    ctx.norms, ctx.direct = call.norms, False
    # Not None for outputs without a gradient: the kernel takes null for zeros.
    ctx.set_materialize_grads(False)
    # Not y: it is the caller's, who may write over it. What backward needs of it is in saved.
    ctx.save_for_backward(*(getattr(call, n) for n in _KEPT), call.b_ih, call.b_hh, output[3])


def _backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None, _: Any):
    *kept, b_ih, b_hh, saved = ctx.saved_tensors
    needs = [bool(ctx.needs_input_grad[Call._fields.index(name)]) for name in DIFFERENTIABLE]
    if dy is None and dh_n is None and dc_n is None:
        return (None,) * len(Call._fields)
    if not ctx.save:
        raise ArgumentError(
            "save=True", "save=False in a call that is differentiated", "pass save=True"
        )
    twice = torch.is_grad_enabled()
    call = BackwardCall(
        **dict(zip(_KEPT, kept, strict=True)),
        cell=ctx.cell, dy=dy, dh_n=dh_n, dc_n=dc_n, reverse=ctx.reverse,
        batch_major=ctx.batch_major, saved=saved, needs=[False] * len(needs) if twice else needs,
        record=ctx.norms is not None,
    )  # fmt: skip
    found: Sequence[Tensor | None] = ()
    # A product of ours is made as it was forward, wherever the caller stands meanwhile.
    with torch.autocast("cpu", enabled=False):
        if twice:
            found = _differentiable_gradients(call, b_ih, b_hh, needs)
        if not twice or call.record:
            with torch.no_grad():
                # What batches cotangents (vmap, is_grads_batched) has rules for operators alone.
                if ctx.direct and not any(map(eager.is_batched, (dy, dh_n, dc_n))):
                    *gradients, norms = backward(call)
                else:
                    *gradients, norms = torch.ops.bptt.recur_backward(*call)
            if call.record:
                ctx.norms.copy_(norms)
            found = found or gradients
    needed = {
        name: gradient
        for name, gradient, wanted in zip(DIFFERENTIABLE, found, needs, strict=True)
        if wanted
    }
    return tuple(needed.get(name) for name in Call._fields)


def _differentiable_gradients(
    call: BackwardCall, b_ih: Tensor | None, b_hh: Tensor | None, needs: list[bool]
) -> list[Tensor | None]:
    """The same gradients through the eager recurrence, as a graph that can be differentiated again."""
    # Views, so that one tensor passed in two places is still two variables here.
    tensors = (call.x, call.h0, call.c0, call.w_ih, call.w_hh, b_ih, b_hh)
    views = [None if t is None else t.view_as(t) for t in tensors]
    h0, c0, w_ih, b_ih, b_hh = views[1], views[2], views[3], views[5], views[6]
    x, w_hh = cast(Tensor, views[0]), cast(Tensor, views[4])
    xs = (x if call.tokens is None else x[call.tokens]).to(w_hh.dtype)
    if w_ih is None:
        w_ih = torch.eye(w_hh.shape[0], dtype=w_hh.dtype, device=w_hh.device)
    zeros = w_hh.new_zeros(xs.shape[1], w_hh.shape[1])
    state = tuple(zeros if s is None else s for s in ((h0, c0) if call.cell == LSTM else (h0,)))
    y, final = eager.recur(
        CELLS[call.cell], xs, state, (w_ih, w_hh, b_ih, b_hh), lengths=call.lengths,
        reset=call.reset, cut=call.cut, reverse=call.reverse, batch_sizes=call.batch_sizes,
    )  # fmt: skip
    return eager.gradients_as_graph((y, *final), (call.dy, call.dh_n, call.dc_n), views, needs)


class Direct(torch.autograd.Function):
    """``bptt::recur`` without the dispatcher, which takes as long as a small layer's whole sequence.

    For calls that nobody traces: the same forward, backward and saved tensors.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        """The operator's outputs."""
        output = forward(Call(*inputs))
        _setup_context(ctx, inputs, output)
        ctx.direct = True
        return output

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        """The gradients of the operator's arguments."""
        return _backward(ctx, *cotangents)


class Form(NamedTuple):
    """What tensors of a stack of layers mean: the cell's number, and how the module was made."""

    cell: int
    biased: bool
    batch_first: bool
    directions: int


class Steps(torch.autograd.Function):
    """A stack of layers whose outputs, ``extension.step``'s, are there already.

    Its tensors are x, h0, c0 (``(L·directions, B, H)`` or None) and each layer's weights, direction after
    direction, as the kernels take them.
    """

    @staticmethod
    def forward(ctx: Any, form: Form, outputs: Any, *tensors: Any):
        """The outputs, which now have a gradient."""
        y, h_n, c_n, saved = outputs
        ctx.form = form
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(saved, *tensors)
        return (y, h_n) if c_n is None else (y, h_n, c_n)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None = None):
        """The gradients of the tensors."""
        none = (None,) * 2
        saved, *tensors = ctx.saved_tensors
        needs = ctx.needs_input_grad[len(none) :]
        if dy is None and dh_n is None and dc_n is None:
            return (*none, *[None] * len(tensors))
        if torch.is_grad_enabled():
            with torch.autocast("cpu", enabled=False):  # as forward, which ran without
                return (*none, *_step_twice(ctx.form, tensors, needs, (dy, dh_n, dc_n)))
        found = None
        if not any(map(eager.is_batched, (dy, dh_n, dc_n))):
            x, h0, c0, *weights = tensors
            turned = dy is not None and is_batch_major(dy)
            found = extension.step_back(
                *ctx.form, torch.get_num_threads(),
                dy.transpose(0, 1) if turned and dy is not None else dense(dy), turned,
                dense(dh_n), dense(dc_n), saved, needs, x, h0, c0, tuple(weights),
            )  # fmt: skip
        if found is None:
            with torch.autocast("cpu", enabled=False):  # as forward, which ran without
                found = _step_by_operators(ctx.form, tensors, needs, (dy, dh_n, dc_n), saved)
        return (*none, *found)


def _rows(form: Form, tensors: Sequence[Tensor | None]) -> list[tuple[Tensor | None, ...]]:
    """``(w_ih, w_hh, b_ih, b_hh)`` of each layer and direction."""
    each = 4 if form.biased else 2
    weights = tensors[3:]
    rows = [tuple(weights[i : i + each]) for i in range(0, len(weights), each)]
    return rows if form.biased else [(*row, None, None) for row in rows]


def _step_twice(
    form: Form,
    tensors: Sequence[Tensor | None],
    needs: Sequence[bool],
    cotangents: tuple[Tensor | None, ...],
) -> list[Tensor | None]:
    """A step's gradients through the eager recurrence, to be differentiated again."""
    cell, _, batch_first, directions = form
    views = [None if t is None else t.view_as(t) for t in tensors]
    x = cast(Tensor, views[0])
    below = x.transpose(0, 1) if batch_first else x
    finals, outputs = [], []
    for number, row in enumerate(_rows(form, views)):
        w_hh = cast(Tensor, row[1])
        zeros = w_hh.new_zeros(below.shape[1], w_hh.shape[1])
        given = views[1:3] if cell == LSTM else views[1:2]
        state = tuple(zeros if s is None else s[number] for s in given)
        direction = number % directions
        y, final = eager.recur(CELLS[cell], below, state, row, reverse=bool(direction))
        finals.append(final)
        outputs.append(y)
        if direction + 1 == directions:
            below, outputs = torch.cat(outputs, -1), []
    y = below.transpose(0, 1) if batch_first and len(below) == 1 else below  # as the extension's
    ended = tuple(torch.stack(parts) for parts in zip(*finals, strict=True))
    return eager.gradients_as_graph((y, *ended), cotangents, views, needs)


def _step_by_operators(
    form: Form,
    tensors: Sequence[Tensor | None],
    needs: Sequence[bool],
    cotangents: tuple[Tensor | None, ...],
    saved: Tensor,
) -> list[Tensor | None]:
    """A step's gradients layer by layer: operators have rules for several cotangents at once."""
    cell, _, batch_first, directions = form
    dy, dh_n, dc_n = cotangents
    x, h0, c0 = cast(Tensor, tensors[0]), tensors[1], tensors[2]
    rows = _rows(form, tensors)
    H = cast(Tensor, rows[0][1]).shape[1]
    lanes, steps = x.shape[:2] if batch_first else x.shape[1::-1]
    turned = batch_first and steps > 1
    if dy is not None and batch_first and not turned:
        dy = dy.transpose(0, 1)  # as the extension's
    kept = SAVED[cell] * H
    # In a saved row the next layer's input: the state, or behind what both directions save both outputs,
    # which are step after step in any case.
    input_at = kept - H if directions == 1 else directions * kept
    by_row: list[Any] = []
    for layer in reversed(range(len(rows) // directions)):
        batch_major = turned and (layer == 0 or directions == 1)
        if not layer:
            below = x.transpose(0, 1) if batch_first else x
        elif batch_major:
            below = saved[layer - 1].view(lanes, steps, -1).transpose(0, 1)[..., input_at:]
        else:
            below = saved[layer - 1].view(steps, lanes, -1)[..., input_at:]
        arrives, dx = dy, None
        for direction in reversed(range(directions)):
            row = layer * directions + direction

            def of(states: Tensor | None, row: int = row) -> Tensor | None:
                return None if states is None else states[row]

            own = arrives
            if own is not None and directions > 1:
                own = own[..., direction * H : (direction + 1) * H]
            *found, _ = torch.ops.bptt.recur_backward(
                *BackwardCall(
                    cell=cell, dy=own, dh_n=of(dh_n),
                    dc_n=of(dc_n), x=below, tokens=None, h0=of(h0), c0=of(c0), w_ih=rows[row][0],
                    w_hh=cast(Tensor, rows[row][1]), lengths=None, reset=None, cut=None,
                    reverse=bool(direction), batch_major=batch_major,
                    saved=saved[layer][:, direction * kept : (direction + 1) * kept],
                    needs=[True, True, cell == LSTM, True, True, True, True], record=False,
                    batch_sizes=None,
                )
            )  # fmt: skip
            dx = found[0] if dx is None else dx + found[0]
            by_row.insert(0, found)
        dy = dx
    gradients = [cast(Tensor, dy).transpose(0, 1) if batch_first else cast(Tensor, dy)]
    gradients += [torch.stack([row[i] for row in by_row]) for i in (1, 2)]
    each = 4 if form.biased else 2
    gradients += [gradient for row in by_row for gradient in row[3 : 3 + each]]
    return [
        gradient if needed and tensor is not None else None
        for gradient, tensor, needed in zip(gradients, tensors, needs, strict=True)
    ]


torch.library.register_autograd("bptt::recur", _backward, setup_context=_setup_context, lib=library)
torch.library.register_autocast("bptt::recur", "cpu", torch.float32, lib=library)

__all__ = ["Direct", "Form", "Steps", "library"]
