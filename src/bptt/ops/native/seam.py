"""One recurrent layer in one direction through the compiled kernels.

Limits: CPU, float32 and float64, products in bfloat16 under autocast, no LSTM projection, no
forward-mode differentiation and no ``torch.func`` transforms. :func:`covers` says so in a line for a
call that is not covered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from bptt.errors import ArgumentError
from bptt.ops.native.check import (
    CELLS,
    LSTM,
    Call,
    extension,
    is_batch_major,
    isa,
    missing,
    multiplies_bf16,
)

if missing is None:
    from bptt.ops.native import operators
    from bptt.ops.native.kernels import forward

State = tuple[Tensor, ...]


def transformed() -> bool:
    """Whether the call stands inside a ``torch.func`` transform."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def forward_mode() -> bool:
    """Whether the call is differentiated in forward mode."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def precision() -> str:
    """What autocast makes of a call that the kernels cover, in a few words; empty without it."""
    if not torch.is_autocast_enabled("cpu"):
        return ""
    if _in_bf16():
        return ", with products in bfloat16"
    short = torch.get_autocast_dtype("cpu")
    if short != torch.bfloat16:
        return f", in float32 under autocast: there is no kernel for {short}"
    return f", in float32 under autocast: {isa()} has no fast products in bfloat16"


def _in_bf16() -> bool:
    """Whether autocast lowers products, and the instruction set in use has them."""
    return (
        torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and multiplies_bf16()
    )


def covers(
    cell: str,
    x: Tensor,
    state: Sequence[Tensor | None],
    weights: Sequence[Tensor | None],
    *,
    tokens: Tensor | None = None,
    batch_sizes: Tensor | None = None,
) -> str | None:
    """None if :func:`recur` can run this call, otherwise why not, in one line."""
    if missing is not None:
        return missing
    if cell not in CELLS:
        return f"there is no kernel for the cell {cell}"
    if len(weights) > 4 and any(w is not None for w in weights[4:]):
        return "there is no kernel for projected states"
    w_hh = cast(Tensor, weights[1])
    autocast = torch.is_autocast_enabled("cpu")
    if not autocast and w_hh.dtype not in (torch.float32, torch.float64):
        return f"the kernels run float32 and float64, not {w_hh.dtype}"
    for tensor in (x, *state, *weights[:4]):
        if tensor is None:
            continue
        if not tensor.is_cpu:
            return f"the kernels run on the CPU, and there is a tensor on {tensor.device}"
        if autocast and (tensor.dtype == torch.float64 or not tensor.is_floating_point()):
            return "under autocast the kernels run float32"
        if not autocast and tensor.dtype != w_hh.dtype:
            return "the tensors are of several dtypes"
        if tensor.layout != torch.strided:
            return "the kernels take dense tensors"
    steps = x if tokens is None else tokens
    if steps.shape[0] == 0 or w_hh.shape[1] == 0:
        return "there is nothing to run over"
    if transformed():
        return "torch.func transforms need the eager recurrence"
    if forward_mode():
        return "forward-mode differentiation needs the eager recurrence"
    return None


def recur(
    cell: str,
    x: Tensor,
    state: Sequence[Tensor | None],
    weights: Sequence[Tensor | None],
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    cut: Tensor | None = None,
    reverse: bool = False,
    tokens: Tensor | None = None,
    norms: Tensor | None = None,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Run ``cell`` over all time steps in one kernel call; the meaning is :func:`bptt.ops.recur`'s.

    Args:
        x: ``(T, B, I)``; in bfloat16 beside float32 weights, products are made in bfloat16. With
            ``w_ih`` None, ``(T, B, G*H)``: the input already projected. With ``tokens``,
            ``(V, G*H)``: the table whose row ``tokens[t, b]`` is the projected input.
        state: ``(h0,)`` or ``(h0, c0)``, each ``(B, H)`` or None for zeros, at no cost.
        tokens: ``(T, B)`` int64, rows of the table ``x``.
        norms: ``(T, B)``, filled by the backward pass with ‖dL/dh_t‖ of each lane, the gradient
            that arrives at each state from the outputs and from all later steps.
        batch_sizes: ``(T,)`` int64: x is packed rows ``(N, I)``, as a PackedSequence holds them, and
            so is y; states are in the packed order.

    Returns:
        ``y (T, B, H)`` and the final state. ``x`` (or ``tokens``) may lie in memory batch-major or
        time-major: neither costs a copy. ``y`` is time-major, as torch's is.
    """
    w_ih, w_hh, b_ih, b_hh = weights[:4]
    if w_hh is None:
        raise ArgumentError(
            "weights (w_ih, w_hh, b_ih, b_hh)", "w_hh None", "pass torch's weight_hh"
        )
    if _in_bf16():
        rest = ([None if t is None else t.float() for t in part] for part in (state, weights[:4]))
        with torch.autocast("cpu", enabled=False):
            return recur(
                cell, x.bfloat16(), *rest, lengths=lengths, reset=reset, cut=cut, reverse=reverse,
                tokens=tokens, norms=norms, batch_sizes=batch_sizes,
            )  # fmt: skip
    h0 = state[0] if state else None
    c0 = state[1] if len(state) > 1 else None
    number = CELLS.index(cell)
    batch_major = batch_sizes is None and is_batch_major(x if tokens is None else tokens)
    save = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, h0, c0, w_ih, w_hh, b_ih, b_hh)
    )
    if lengths is not None:
        lengths = lengths.to(torch.int64)
    call = Call(
        number, x, tokens, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, reset, cut, norms, reverse,
        batch_major, save, batch_sizes,
    )  # fmt: skip
    if _watched() or any(type(t) not in _PLAIN for t in call if isinstance(t, Tensor)):
        y, h_n, c_n, _ = torch.ops.bptt.recur(*call)
    elif save:
        y, h_n, c_n, _ = operators.Direct.apply(*call)
    else:
        y, h_n, c_n, _ = forward(call)
    return y, ((h_n, c_n) if number == LSTM else (h_n,))


_PLAIN = (Tensor, torch.nn.Parameter)


def _watched() -> bool:
    """Whether something wants to see an operator: a compiler, an exporter, a tracer, a mode."""
    return (
        torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or _dispatched() > 0
        or _traced() is not None
    )


def steps(own: dict[str, Any]) -> bool:
    """Whether :func:`step` may be asked for this layer, in this moment."""
    # Functions that are transformed, replaced or timed must be torch's own.
    return not (
        missing is not None
        or torch.is_autocast_enabled("cpu")
        or _dispatched()
        or _traced() is not None
        or _transforms()
        or forward_ad._current_level >= 0
        or _replaced()
        or _timed()
        or (own["num_layers"] > 1 and own["dropout"] > 0 and own["training"])
    )


def step(own: dict[str, Any], x: Tensor, h0: Any = None, c0: Any = None) -> Any:
    """A whole stack of layers, or None where the call is not of the plainest kind.

    A step takes the kernels a few microseconds, and every look that Python takes costs a tenth of one.
    So one native function looks at all tensors, and answers None, with nothing done, unless each is a
    plain one that fits, and several steps of one size that the kernels take whole. The caller then goes
    the usual way.

    Args:
        own: the ``__dict__`` of an ``nn.RNNBase``, whose own parameters are the weights.
        x: ``(T, B, I)``, or ``(B, T, I)`` where the module says batch_first.
        h0, c0: each ``(L·directions, B, H)`` or None for zeros; c0 None but for an LSTM.

    Returns:
        ``y, h_n`` and for an LSTM ``c_n``, as the module returns them.
    """
    if not steps(own):
        return None
    layers, cell = own["num_layers"], _NUMBERS[own["mode"]]
    found = extension.step(
        cell, layers, own, torch.get_num_threads(), torch.is_grad_enabled(), x, h0, c0
    )
    if found is None:
        return None
    batch_first = own["batch_first"]
    if len(found) > 3:
        outputs, weights, biased = found[:4], found[4], own["bias"]
        form = operators.Form(cell, biased, batch_first, 2 if own["bidirectional"] else 1)
        found = operators.Steps.apply(form, outputs, x, h0, c0, *weights)
    if batch_first and x.shape[1] > 1:  # y is time-major in memory, as torch's is
        return (found[0].transpose(0, 1), *found[1:])
    return found


_NUMBERS = {mode: number for number, mode in enumerate(CELLS)}
_transforms = torch._C._are_functorch_transforms_active
_replaced = torch._C._len_torch_function_stack
_timed = torch.autograd._profiler_enabled
_dispatched = torch._C._len_torch_dispatch_stack
_traced = torch._C._get_tracing_state


def recur_tokens(
    cell: str,
    tokens: Tensor,
    table: Tensor,
    state: Sequence[Tensor | None],
    weights: Sequence[Tensor | None],
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    cut: Tensor | None = None,
    reverse: bool = False,
    norms: Tensor | None = None,
) -> tuple[Tensor, State]:
    """:func:`recur` over tokens: the kernel reads each step's projected input from ``table``.

    Args:
        tokens: ``(T, B)`` int64 in ``0 .. V-1``.
        table: ``(V, G*H)``, e.g. ``embedding @ w_ih.T``; made once per call instead of once per
            token, and its gradient is a sum over the tokens of each row.
        weights: ``(None, w_hh, b_ih, b_hh)``; a bias already in the table is None here.
    """
    _, w_hh, b_ih, b_hh = weights[:4]
    return recur(
        cell, table, state, (None, w_hh, b_ih, b_hh),
        lengths=lengths, reset=reset, cut=cut, reverse=reverse, tokens=tokens, norms=norms,
    )  # fmt: skip
