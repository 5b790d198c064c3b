"""The torch operators ``bptt::recur`` and ``bptt::recur_backward``.

Defined through ``torch.library.Library``: it costs a third of ``@custom_op`` per call, and a small
layer at batch 1 takes no longer than that.

The backward is itself an operator, so that compiled and exported graphs hold one node each way. It
has no derivative of its own: where a second one is asked for (``create_graph=True``) the first is
taken by autograd through the eager recurrence instead.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from bptt.errors import ArgumentError, DeviceError
from bptt.ops import eager
from bptt.ops.native.check import CELLS, GATES, LSTM, SAVED, output_dtype
from bptt.ops.native.kernels import backward, forward

library = torch.library.Library("bptt", "DEF")
library.define(
    "recur(int cell, Tensor x, Tensor? tokens, Tensor? h0, Tensor? c0, Tensor? w_ih, Tensor w_hh,"
    " Tensor? b_ih, Tensor? b_hh, Tensor? lengths, Tensor? reset, Tensor? cut, Tensor? norms,"
    " bool reverse, bool batch_major, bool save, Tensor? batch_sizes)"
    " -> (Tensor y, Tensor h_n, Tensor c_n, Tensor saved)"
)
library.define(
    "recur_backward(int cell, Tensor? dy, Tensor? dh_n, Tensor? dc_n, Tensor x, Tensor? tokens,"
    " Tensor? h0, Tensor? c0, Tensor? w_ih, Tensor w_hh, Tensor? lengths, Tensor? reset, Tensor? cut,"
    " bool reverse, bool batch_major, Tensor saved, bool[] needs, bool record,"
    " Tensor? batch_sizes)"
    " -> (Tensor dx, Tensor dh0, Tensor dc0, Tensor dw_ih, Tensor dw_hh, Tensor db_ih, Tensor db_hh,"
    " Tensor norms)"
)
library.impl("recur", forward, "CPU")
library.impl("recur_backward", backward, "CPU")


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
def _recur_fake(
    cell,
    x,
    tokens,
    h0,
    c0,
    w_ih,
    w_hh,
    b_ih,
    b_hh,
    lengths,
    reset,
    cut,
    norms,
    reverse,
    batch_major,
    save,
    batch_sizes,
):
    _one_device(x, tokens, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, reset, cut, norms)
    H = w_hh.shape[1]
    keep = SAVED[cell] * H if save else 0
    if batch_sizes is not None:
        B, rows = h0.shape[0], x.shape[0]
        shape: tuple[int, ...] = (rows, H)
    else:
        T, B = (x if tokens is None else tokens).shape[:2]
        rows, shape = T * B, (T, B, H)
    y = x.new_empty(shape, dtype=output_dtype(cell, x))
    c_n = w_hh.new_empty((B, H) if cell == LSTM else 0)
    return y, w_hh.new_empty(B, H), c_n, x.new_empty(rows, keep)


@torch.library.register_fake("bptt::recur_backward", lib=library)
def _recur_backward_fake(
    cell, dy, dh_n, dc_n, x, tokens, h0, c0, w_ih, w_hh, lengths, reset, cut, reverse, batch_major,
    saved, needs, record, batch_sizes,
):  # fmt: skip
    _one_device(x, tokens, h0, c0, w_ih, w_hh, lengths, reset, cut, dy, dh_n, dc_n, saved)
    if batch_sizes is not None:
        T, B = batch_sizes.shape[0], h0.shape[0]
    else:
        T, B = (x if tokens is None else tokens).shape[:2]
    H, width = w_hh.shape[1], GATES[cell] * w_hh.shape[1]

    def room(wanted, *shape):
        return w_hh.new_empty(shape if wanted else 0)

    if not needs[0] or tokens is not None:
        dx = x.new_empty(x.shape if needs[0] else 0)
    elif batch_major:
        dx = x.new_empty(B, T, x.shape[2]).transpose(0, 1)
    else:
        dx = x.new_empty(x.shape)
    return (
        dx,
        room(needs[1], B, H),
        room(needs[2], B, H),
        room(needs[3], width, 0 if w_ih is None else w_ih.shape[1]),
        room(needs[4], width, H),
        room(needs[5], width),
        room(needs[6], width),
        room(record, T, B),
    )


def _one_device(x: Tensor, *others: Tensor | None) -> None:
    # One argument on "meta" is enough for torch to call the fake operator, and what it made for the
    # others' device would be memory that nobody wrote to.
    for other in others:
        if other is not None and other.device != x.device:
            raise DeviceError(f"all on {x.device}", f"a tensor on {other.device}", "move it")


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    (
        ctx.cell, x, tokens, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, reset, cut, ctx.norms,
        ctx.reverse, ctx.batch_major, ctx.save, batch_sizes,
    ) = inputs  # fmt: skip
    saved = output[3]
    ctx.direct = False
    # Not None for outputs without a gradient: the kernel takes null for zeros.
    ctx.set_materialize_grads(False)
    # Not y: it is the caller's, who may write over it. What backward needs of it is in saved.
    ctx.save_for_backward(
        x, tokens, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, reset, cut, saved, batch_sizes
    )


# Places of (x, h0, c0, w_ih, w_hh, b_ih, b_hh) among the operator's arguments.
_DIFFERENTIABLE = (1, 3, 4, 5, 6, 7, 8)
_ARGUMENTS = 17


def _backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None, _: Any):
    (
        x, tokens, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, reset, cut, saved, batch_sizes,
    ) = ctx.saved_tensors  # fmt: skip
    needs = [bool(ctx.needs_input_grad[i]) for i in _DIFFERENTIABLE]
    gradients: list[Tensor | None] = [None] * _ARGUMENTS
    if dy is None and dh_n is None and dc_n is None:
        return tuple(gradients)
    if not ctx.save:
        raise ArgumentError(
            "save=True", "save=False in a call that is differentiated", "pass save=True"
        )
    twice = torch.is_grad_enabled()
    if twice:
        tensors = (x, h0, c0, w_ih, w_hh, b_ih, b_hh)
        options = {
            "lengths": lengths,
            "reset": reset,
            "cut": cut,
            "reverse": ctx.reverse,
            "batch_sizes": batch_sizes,
        }
        found = _differentiable_gradients(
            ctx.cell, tensors, tokens, needs, (dy, dh_n, dc_n), options
        )
        for place, gradient in zip(_DIFFERENTIABLE, found, strict=True):
            gradients[place] = gradient
    if not twice or ctx.norms is not None:
        # A product of ours is made as it was forward, wherever the caller stands meanwhile.
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            # What batches cotangents (vmap, is_grads_batched) has rules for operators alone.
            direct = ctx.direct and not any(map(_is_batched, (dy, dh_n, dc_n)))
            operator = backward if direct else torch.ops.bptt.recur_backward
            *found, norms = operator(
                ctx.cell, dy, dh_n, dc_n, x, tokens, h0, c0, w_ih, w_hh, lengths, reset, cut,
                ctx.reverse, ctx.batch_major, saved, [False] * 7 if twice else needs,
                ctx.norms is not None, batch_sizes,
            )  # fmt: skip
        if ctx.norms is not None:
            ctx.norms.copy_(norms)
        if not twice:
            for place, gradient, needed in zip(_DIFFERENTIABLE, found, needs, strict=True):
                gradients[place] = gradient if needed else None
    return tuple(gradients)


def _is_batched(tensor: Tensor | None) -> bool:
    """Whether a tensor stands for several, as a batch of cotangents does."""
    functorch = torch._C._functorch
    return tensor is not None and (
        functorch.is_legacy_batchedtensor(tensor) or functorch.is_functorch_wrapped_tensor(tensor)
    )


def _differentiable_gradients(
    cell: int,
    tensors: tuple[Tensor | None, ...],
    tokens: Tensor | None,
    needs: list[bool],
    cotangents: tuple[Tensor | None, ...],
    options: dict[str, Any],
) -> list[Tensor | None]:
    """The same gradients through the eager recurrence, as a graph that can be differentiated again."""
    # Views, so that one tensor passed in two places is still two variables here.
    views = [None if t is None else t.view_as(t) for t in tensors]
    h0, c0, w_ih, b_ih, b_hh = views[1], views[2], views[3], views[5], views[6]
    x, w_hh = cast(Tensor, views[0]), cast(Tensor, views[4])
    xs = (x if tokens is None else x[tokens]).to(w_hh.dtype)
    if w_ih is None:
        w_ih = torch.eye(w_hh.shape[0], dtype=w_hh.dtype, device=w_hh.device)
    zeros = w_hh.new_zeros(xs.shape[1], w_hh.shape[1])
    state = tuple(zeros if s is None else s for s in ((h0, c0) if cell == LSTM else (h0,)))
    y, final = eager.recur(CELLS[cell], xs, state, (w_ih, w_hh, b_ih, b_hh), **options)
    pairs = [
        (o, g.to(o.dtype)) for o, g in zip((y, *final), cotangents, strict=False) if g is not None
    ]
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
        output = forward(*inputs)
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
