"""The seam: one layer, one direction, whoever computes it."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt.errors import ArgumentError, DeviceError, DtypeError, ShapeError
from bptt.ops import eager, native, split, triton
from bptt.ops.backend import (
    decide,
    is_eager,
    is_triton,
    may_be_native,
    note_native,
    note_split,
    takes_triton,
)  # fmt: skip
from bptt.ops.cells import BY_MODE
from bptt.ops.eager import State


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
    """Run one recurrent layer over all time steps.

    Args:
        cell: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"GRU"`` or ``"LSTM"``.
        x: ``(T, B, I)``, time-major; a transposed view of a batch-major tensor costs no copy.
        state: ``(h0,)``, for LSTM ``(h0, c0)``, each ``(B, H)``.
        weights: ``(w_ih, w_hh, b_ih, b_hh)``, PyTorch's shapes and gate order; biases may be None.
        lengths: ``(B,)`` int: lane b runs steps ``0 .. lengths[b]-1``; ``y`` beyond is zero, and the
            final state is the one at its last step, of a lane without steps the one it began with.
        reset: ``(T, B)`` bool: before step t the state is set to zero; nothing flows through.
        cut: ``(T, B)`` bool: before step t the state passes on, its gradient does not.
        reverse: from each lane's last step down to its first.
        batch_sizes: ``(T,)`` int64 on the CPU: x is packed, ``(N, I)`` with N valid steps, as a
            PackedSequence holds them, and so is y; states are in its order. Takes no marks.

    Returns:
        ``y (T, B, H)`` and the final state, as ``state``.

    Raises:
        ShapeError, DtypeError, DeviceError, ArgumentError, BackendError: what does not fit.
    """
    _check(cell, x, state, weights, lengths, reset, cut, batch_sizes)
    marked = not (lengths is None and reset is None and cut is None)
    if marked and batch_sizes is not None:
        raise ArgumentError(
            "marks or batch_sizes", "both", "pad the rows (pad_packed_sequence), and pass lengths"
        )
    if lengths is not None:
        lengths = lengths.to(torch.int64)
    options: dict[str, Any] = {"lengths": lengths, "reset": reset, "cut": cut, "reverse": reverse}
    if takes_triton(cell, x, state, weights, marked, split.can_split(x, cut)):
        if batch_sizes is None:
            return triton.recur(cell, x, state, weights, **options)
        return eager.recur_packed(triton.recur, cell, x, state, weights, batch_sizes, reverse)
    options["batch_sizes"] = batch_sizes
    if decide(native.covers(cell, x, state, weights, batch_sizes=batch_sizes)):
        return native.recur(cell, x, state, weights, **options)
    if marked and not is_eager() and split.can_split(x, cut):
        note_split()
        marks: dict[str, Any] = {"lengths": lengths, "reset": reset, "reverse": reverse}
        return split.recur(cell, x, state, weights, **marks)
    return eager.recur(cell, x, state, weights, **options)


def recur_tokens(
    cell: str,
    tokens: Tensor,
    embedding: Tensor,
    state: State,
    weights: tuple[Tensor | None, ...],
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    cut: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, State]:
    """:func:`recur` over the vectors of tokens, ``x[t, b] = embedding[tokens[t, b]]``.

    W_ih x takes V different values at most. So where V is less than T·B the kernel reads them from a
    table, ``embedding W_ihᵀ`` made once, and the three large products of the input side (forward,
    dx, dW_ih) shrink from T·B rows to V.

    Args:
        tokens: ``(T, B)`` int64, each in ``0 … V-1``.
        embedding: ``(V, I)``.
    """
    w_ih, w_hh, b_ih, b_hh, *_ = weights
    _check_marks(lengths, reset, cut)
    options: dict[str, Any] = {"lengths": lengths, "reset": reset, "cut": cut, "reverse": reverse}
    if embedding.shape[0] < tokens.numel():
        reason = native.covers(cell, embedding, state, weights, tokens=tokens)
        if decide(reason):
            table = F.linear(embedding, cast(Tensor, w_ih))
            rest = (None, w_hh, b_ih, b_hh)
            return native.recur_tokens(cell, tokens, table, state, rest, **options)
    return recur(cell, F.embedding(tokens, embedding), state, weights, **options)


def step(
    module: nn.RNNBase, x: Any, hx: Any, reset: Any = None
) -> tuple[Tensor, Tensor | State] | None:
    """A module's call, the shortest way; None where the usual one has to be gone.

    Args:
        module: a layer whose parameters are its own and whose forward is that of :mod:`bptt.nn`; not
            while it is compiled.
        x: its input, whatever was passed.
        hx: its initial state, whatever was passed.
        reset: its marks, whatever was passed. At one step they only say which lanes start from zeros.
    """
    if not may_be_native() or type(x) is not Tensor or x.dim() != 3:
        return None
    own = module.__dict__
    if reset is not None:
        one = x.shape[1 if own["batch_first"] else 0] == 1
        if not one or not native.steps(own) or not _marks_lanes(reset, x, hx):
            return None
        hx = _zeroed(hx, reset.flatten())
    if own["mode"] != "LSTM":
        found = native.step(own, x, hx)
    elif hx is None:
        found = native.step(own, x)
    elif type(hx) is tuple and len(hx) == 2:
        found = native.step(own, x, *hx)
    else:
        return None
    if found is None:
        return None
    note_native()
    return (found[0], found[1:]) if len(found) == 3 else found


def _marks_lanes(reset: Any, x: Tensor, hx: Any) -> bool:
    """Whether this is a mark for each lane of a step, and the state one that it can be applied to."""
    states = hx if type(hx) is tuple else () if hx is None else (hx,)
    return (
        type(reset) is Tensor
        and reset.dtype == torch.bool
        and reset.shape == x.shape[:2]
        and reset.is_cpu
        and all(
            type(s) is Tensor and s.is_cpu and s.dim() == 3 and s.shape[1] == reset.numel()
            for s in states
        )
    )


def _zeroed(hx: Any, lanes: Tensor) -> Any:
    """The state with zeros in some lanes, whatever stood there; hx itself where there are none."""
    if hx is None or not lanes.any():
        return hx
    if type(hx) is tuple:
        return tuple(s.masked_fill(lanes[:, None], 0.0) for s in hx)
    return hx.masked_fill(lanes[:, None], 0.0)


def leaves_to_torch(
    cell: str,
    x: Tensor,
    state: State,
    weights: tuple[Tensor | None, ...],
    batch_sizes: Tensor | None = None,
) -> bool:
    """Whether a call without marks is best left to torch's own layer operator.

    It is where the kernels do not run: the operator keeps its loop over time in C++, and on a GPU it
    is one fused kernel. ``torch.func`` transforms and forward mode cannot all pass it; they take the
    eager recurrence.

    Raises:
        BackendError: the native backend was asked for by name and does not cover the call.
    """
    if is_triton():
        return False
    reason = native.covers(cell, x, state, weights, batch_sizes=batch_sizes)
    return not decide(reason) and not native.transformed() and not native.forward_mode()


def _check(
    cell: str,
    x: Tensor,
    state: State,
    weights: tuple[Tensor | None, ...],
    lengths: Tensor | None,
    reset: Tensor | None,
    cut: Tensor | None,
    batch_sizes: Tensor | None,
) -> None:
    """Raise where an argument is no tensor, there is no such state, or a weight lies elsewhere."""
    if not (isinstance(state, (tuple, list)) and len(state) == BY_MODE[cell].states):
        raise ShapeError(
            "(h0, c0)" if cell == "LSTM" else f"(h0,) for {cell}",
            f"a {type(state).__name__}",
            "pass one state for each that the cell has",
        )
    if not (isinstance(weights, (tuple, list)) and len(weights) >= 4):
        raise ShapeError("(w_ih, w_hh, b_ih, b_hh)", type(weights).__name__, "pass all four")
    for tensor in (x, *state, *weights[:2]):
        if not isinstance(tensor, Tensor):
            raise DtypeError("tensors", type(tensor).__name__, "convert it first")
    for optional in (*weights[2:], lengths, reset, cut, batch_sizes):
        if optional is not None and not isinstance(optional, Tensor):
            raise DtypeError("tensors, or None", type(optional).__name__, "convert it first")
    _check_marks(lengths, reset, cut, batch_sizes)
    for other in (*state, *weights):
        # torch multiplies a tensor by one on "meta" without a word, and the product is whatever lay
        # in memory.
        if other is not None and other.device != x.device:
            raise DeviceError(f"all on {x.device}", f"a tensor on {other.device}", "move it")


def _check_marks(
    lengths: Tensor | None,
    reset: Tensor | None,
    cut: Tensor | None,
    batch_sizes: Tensor | None = None,
) -> None:
    """Raise where lengths or marks are numbers that a conversion would cut or take for true."""
    for name, numbers in (("lengths", lengths), ("batch_sizes", batch_sizes)):
        if numbers is not None and not _is_whole(numbers.dtype):
            raise DtypeError(f"integer {name}", str(numbers.dtype), "convert with .long()")
    for name, mark in (("reset", reset), ("cut", cut)):
        if mark is not None and mark.dtype != torch.bool:
            raise DtypeError(f"{name} of torch.bool", str(mark.dtype), "convert with .bool()")


def _is_whole(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
