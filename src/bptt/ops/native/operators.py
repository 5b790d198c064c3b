"""The torch operators ``bptt::recur`` and ``bptt::recur_backward``.

Defined through ``torch.library.Library``: it costs a third of ``@custom_op`` per call, and a small
layer at batch 1 takes no longer than that.

The backward is itself an operator, so that compiled and exported graphs hold one node each way. It
has no derivative of its own: where a second one is asked for (``create_graph=True``) the first is
taken by autograd through the eager recurrence instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, get_type_hints

import torch
from torch import Tensor

from bptt.errors import ArgumentError, DeviceError
from bptt.ops import eager
from bptt.ops.native.check import CELLS, DIFFERENTIABLE, GATES, LSTM, SAVED, BackwardCall, Call
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


@torch.library.register_vmap("bptt::recur_backward", lib=library)
def _recur_backward_of_each(info: Any, in_dims: tuple[Any, ...], *arguments: Any):
    """Several cotangents, one after the other: each is a backward pass of its own."""
    found = []
    for i in range(info.batch_size):
        one = [
            a.select(dim, i) if isinstance(dim, int) else a
            for a, dim in zip(arguments, in_dims, strict=True)
        ]
        found.append(torch.ops.bptt.recur_backward(*one))
    return tuple(map(torch.stack, zip(*found, strict=True))), (0,) * len(found[0])


@torch.library.register_fake("bptt::recur", lib=library)
def _recur_fake(*arguments: Any):
    call = Call(*arguments)
    _one_device(call)
    x, H = call.x, call.w_hh.shape[1]
    keep = SAVED[call.cell] * H if call.save else 0
    if call.batch_sizes is not None and call.h0 is not None:
        B, N = call.h0.shape[0], x.shape[0]
        c_n = x.new_empty((B, H) if call.cell == LSTM else 0)
        return x.new_empty(N, H), x.new_empty(B, H), c_n, x.new_empty(N, keep)
    T, B = (x if call.tokens is None else call.tokens).shape[:2]
    c_n = x.new_empty((B, H) if call.cell == LSTM else 0)
    return x.new_empty(T, B, H), x.new_empty(B, H), c_n, x.new_empty(T * B, keep)


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
        dx = room(needs[0], *x.shape)
    elif call.batch_major:
        dx = w_hh.new_empty(B, T, x.shape[2]).transpose(0, 1)
    else:
        dx = w_hh.new_empty(x.shape)
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
    if twice:
        found = _differentiable_gradients(call, b_ih, b_hh, needs)
    if not twice or call.record:
        with torch.no_grad():
            # What batches cotangents (vmap, is_grads_batched) has rules for operators alone.
            if ctx.direct and not any(map(_is_batched, (dy, dh_n, dc_n))):
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


def _is_batched(tensor: Tensor | None) -> bool:
    """Whether a tensor stands for several, as a batch of cotangents does."""
    functorch = torch._C._functorch
    return tensor is not None and (
        functorch.is_legacy_batchedtensor(tensor) or functorch.is_functorch_wrapped_tensor(tensor)
    )


def _differentiable_gradients(
    call: BackwardCall, b_ih: Tensor | None, b_hh: Tensor | None, needs: list[bool]
) -> list[Tensor | None]:
    """The same gradients through the eager recurrence, as a graph that can be differentiated again."""
    # Views, so that one tensor passed in two places is still two variables here.
    tensors = (call.x, call.h0, call.c0, call.w_ih, call.w_hh, b_ih, b_hh)
    views = [None if t is None else t.view_as(t) for t in tensors]
    h0, c0, w_ih, b_ih, b_hh = views[1], views[2], views[3], views[5], views[6]
    x, w_hh = cast(Tensor, views[0]), cast(Tensor, views[4])
    xs = x if call.tokens is None else x[call.tokens]
    if w_ih is None:
        w_ih = torch.eye(w_hh.shape[0], dtype=w_hh.dtype, device=w_hh.device)
    zeros = w_hh.new_zeros(xs.shape[1], w_hh.shape[1])
    state = tuple(zeros if s is None else s for s in ((h0, c0) if call.cell == LSTM else (h0,)))
    y, final = eager.recur(
        CELLS[call.cell], xs, state, (w_ih, w_hh, b_ih, b_hh), lengths=call.lengths,
        reset=call.reset, cut=call.cut, reverse=call.reverse, batch_sizes=call.batch_sizes,
    )  # fmt: skip
    cotangents = (call.dy, call.dh_n, call.dc_n)
    pairs = [(o, g) for o, g in zip((y, *final), cotangents, strict=False) if g is not None]
    wanted = [v for v, needed in zip(views, needs, strict=True) if needed and v is not None]
    found = iter(
        torch.autograd.grad(
            [o for o, _ in pairs],
            wanted,
            [g for _, g in pairs],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [next(found) if needed else None for needed in needs]


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


torch.library.register_autograd("bptt::recur", _backward, setup_context=_setup_context, lib=library)
torch.library.register_autocast("bptt::recur", "cpu", torch.float32, lib=library)

__all__ = ["Direct", "library"]
