"""What a layer may be called with, brought into one normal form: time-major, batched, padded.

Every check a layer makes on its input stands here, so that the layers below deal with one shape only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from bptt.errors import ArgumentError, DeviceError, DtypeError, ShapeError, describe
from bptt.ops import native
from bptt.ops.device import autocast_dtype
from bptt.ops.eager import require_batch_sizes


@dataclass(frozen=True)
class Sequence:
    """A call's input in normal form.

    Attributes:
        x: ``(T, B, I)``; with tokens, the embedding ``(V, I)`` that holds their vectors.
        lengths: ``(B,)`` int64 on x's device, or None when every lane is full.
        reset: ``(T, B)`` bool: the state is zero before this step; or None.
        cut: ``(T, B)`` bool: the gradient stops before this step; or None.
        packed: the PackedSequence the call came with, or None.
        batch_sizes: ``(T,)`` how many lanes run at each step if x is the packed rows ``(N, I)``
            themselves, lanes in the packed order; None if x is padded.
        batched: whether the caller's tensor had a batch axis.
        batch_first: whether the caller's batched tensor was ``(B, T, I)``.
        tokens: ``(T, B)`` int64, or None.
    """

    x: Tensor
    lengths: Tensor | None
    reset: Tensor | None
    cut: Tensor | None
    packed: PackedSequence | None
    batched: bool
    batch_first: bool
    tokens: Tensor | None = None
    batch_sizes: Tensor | None = None

    @property
    def lanes(self) -> int:
        """B."""
        if self.batch_sizes is not None:
            return int(self.batch_sizes[0])
        return (self.x if self.tokens is None else self.tokens).shape[1]

    @property
    def plain(self) -> bool:
        """Whether the call uses nothing that torch's own layers lack."""
        marks = self.reset is None and self.cut is None
        return marks and (self.lengths is None or self.packed is not None)

    def sort(self, state: Tensor) -> Tensor:
        """A state ``(L·directions, B, H)`` in the order of x's lanes."""
        order = None if self.packed is None else self.packed.sorted_indices
        return state if order is None or self.batch_sizes is None else state.index_select(1, order)

    def unsort(self, state: Tensor) -> Tensor:
        """A state in the order of x's lanes, as the caller's."""
        order = None if self.packed is None else self.packed.unsorted_indices
        return state if order is None or self.batch_sizes is None else state.index_select(1, order)

    def restore(self, y: Tensor) -> Tensor | PackedSequence:
        """Give an output ``(T, B, H)`` the form the input came in."""
        if self.packed is not None and self.batch_sizes is not None:
            return PackedSequence(y, *self.packed[1:])
        if self.packed is not None and self.lengths is not None:
            lengths = self.lengths
            if self.packed.sorted_indices is not None:
                y = y.index_select(1, self.packed.sorted_indices)
                lengths = lengths.index_select(0, self.packed.sorted_indices)
            data = pack_padded_sequence(y, lengths.cpu()).data
            return PackedSequence(data, *self.packed[1:])
        if not self.batched:
            return y.squeeze(1)
        return y.transpose(0, 1) if self.batch_first else y


def normalise(
    input: Tensor | PackedSequence,
    *,
    input_size: int,
    batch_first: bool,
    weight: Tensor,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    cut: Tensor | None = None,
    keep_packed: bool = False,
) -> Sequence:
    """Check a layer's input and bring it into normal form.

    Args:
        input: ``(T, B, I)``, ``(B, T, I)`` with ``batch_first``, ``(T, I)`` unbatched, or packed.
        input_size: I of the layer.
        batch_first: the layer's setting.
        weight: any weight of the layer; input must share its dtype and device.
        lengths: ``(B,)`` integers in 0…T.
        reset: bool, the input's leading axes.
        cut: bool, the input's leading axes.
        keep_packed: leave a packed input without marks as its rows; pad it otherwise.

    Raises:
        ShapeError, DtypeError, DeviceError, ArgumentError: what does not fit, and what to do.
    """
    packed = None
    if isinstance(input, PackedSequence):
        packed = input
        if lengths is not None:
            raise ArgumentError(
                "one source of lengths",
                "a PackedSequence and lengths=",
                "drop lengths=; the packed sequence holds its own",
            )
        _check_tensor(packed.data, input_size, weight, "input.data", dims=(2,), letters="NI")
        _check_packed(packed)
        if keep_packed and reset is None and cut is None:
            sizes = packed.batch_sizes
            return Sequence(packed.data, None, None, None, packed, True, False, batch_sizes=sizes)
        x, lengths = pad_packed_sequence(packed)
        lengths = lengths.to(x.device)
        batched, batch_first = True, False
    else:
        _check_tensor(input, input_size, weight, "input", (2, 3), "BTI" if batch_first else "TBI")
        batched = input.dim() == 3
        batch_first = batch_first and batched
        x = _time_major(input, batched, batch_first)
        lengths = _check_lengths(lengths, x)
    reset = _check_mark("reset", reset, x, batched, batch_first)
    cut = _check_mark("cut", cut, x, batched, batch_first)
    return Sequence(x, lengths, reset, cut, packed, batched, batch_first)


def normalise_tokens(
    tokens: Tensor,
    embedding: Tensor,
    *,
    input_size: int,
    batch_first: bool,
    weight: Tensor,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    cut: Tensor | None = None,
) -> Sequence:
    """:func:`normalise` for tokens ``(T, B)`` and the embedding ``(V, I)`` of their vectors."""
    _check_tensor(embedding, input_size, weight, "embedding", (2,), "VI")
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64:
        got = str(tokens.dtype) if isinstance(tokens, Tensor) else type(tokens).__name__
        raise DtypeError("tokens as an int64 tensor", got, "convert them with .long()")
    if tokens.dim() not in (1, 2):
        raise ShapeError(
            "tokens with 1 or 2 axes", describe(tokens.shape), "pass (T, B), or (T,) unbatched"
        )
    batched = tokens.dim() == 2
    batch_first = batch_first and batched
    ids = _time_major(tokens, batched, batch_first)
    low, high = _range(ids, 0)
    if low < 0 or high >= embedding.shape[0]:
        raise ArgumentError(
            f"tokens from 0 to V-1={embedding.shape[0] - 1}",
            f"{low} to {high}",
            "encode the text with the vocabulary the embedding was made for",
        )
    lengths = _check_lengths(lengths, ids)
    reset = _check_mark("reset", reset, ids, batched, batch_first)
    cut = _check_mark("cut", cut, ids, batched, batch_first)
    return Sequence(embedding, lengths, reset, cut, None, batched, batch_first, ids)


def _check_packed(packed: PackedSequence) -> None:
    """Anybody can write a PackedSequence's batch_sizes, and torch's own unpacking believes them."""
    if native.transformed() or torch.compiler.is_compiling():
        return
    require_batch_sizes(packed.batch_sizes, packed.data.shape[0])
    lanes = int(packed.batch_sizes[0])
    for order in (packed.sorted_indices, packed.unsorted_indices):
        if order is not None and tuple(order.shape) != (lanes,):
            raise ShapeError(
                f"an order of {lanes} lanes",
                f"{tuple(order.shape)}",
                "pass a PackedSequence made by torch's pack functions",
            )


def _time_major(value: Tensor, batched: bool, batch_first: bool) -> Tensor:
    """The caller's tensor with time and lanes in front, and at least one time step."""
    if value.shape[1 if batch_first else 0] == 0:
        raise ShapeError(
            "at least one time step",
            f"an input of shape {describe(value.shape)}",
            "skip the call when there is nothing to process",
        )
    value = value if batched else value.unsqueeze(1)
    return value.transpose(0, 1) if batch_first else value


def check_state(state: Tensor, expected: tuple[int, ...], batched: bool, x: Tensor, name: str):
    """Check one initial state and give it its batch axis: ``(L·directions, B, H, …)``."""
    if not isinstance(state, Tensor):
        raise DtypeError(
            f"{name} as a tensor of shape {describe(expected)}",
            type(state).__name__,
            "pass a tensor, or leave it out to start from zeros",
        )
    shape = expected if batched else (expected[0], *expected[2:])
    if tuple(state.shape) != shape:
        raise ShapeError(
            f"{name} of shape {describe(shape)} (layers x directions, lanes, hidden)"
            if batched
            else f"{name} of shape {describe(shape)} (layers x directions, hidden) for unbatched input",
            describe(state.shape),
            "give it the batch of this input, or leave it out to start from zeros"
            # A last batch that is smaller, most often: cutting the state to it is no cure.
            + (
                " (docs/mistakes.md#lane-shuffled)" if batched and state.dim() == len(shape) else ""
            ),
        )
    _check_kind(state, x, name)
    return state if batched else state.unsqueeze(1)


def _check_tensor(value, input_size: int, weight: Tensor, name: str, dims, letters: str) -> None:
    if not isinstance(value, Tensor):
        raise DtypeError(
            f"{name} as a tensor or PackedSequence",
            type(value).__name__,
            "convert it, e.g. torch.as_tensor(input, dtype=torch.float32)",
        )
    if value.dim() not in dims:
        raise ShapeError(
            f"{name} with {' or '.join(map(str, dims))} axes ({', '.join(letters)})",
            f"{value.dim()} axes, shape {describe(value.shape)}",
            "add or remove axes, e.g. input.unsqueeze(-1) for one feature a step",
        )
    if value.shape[-1] != input_size:
        raise ShapeError(
            f"{name}'s last axis to be input_size={input_size}",
            describe(value.shape, letters),
            "build the layer with that input_size, or pass the features it was built for",
        )
    _check_kind(value, weight, name)


def _check_kind(value: Tensor, like: Tensor, name: str) -> None:
    if value.device != like.device:
        raise DeviceError(
            f"{name} on {like.device}", f"{value.device}", f"move it: {name}.to('{like.device}')"
        )
    if value.dtype != like.dtype and autocast_dtype(like.device) is None:
        raise DtypeError(
            f"{name} of {like.dtype}",
            str(value.dtype),
            f"convert it with {name}.to({like.dtype}), or the layer with .to({value.dtype})",
        )


def as_lengths(lengths: Any) -> Tensor:
    """Lengths as they come, a tensor, an array or a list of integers, as an int64 tensor."""
    given = _as_tensor("integer lengths", lengths)
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise DtypeError("integer lengths", str(given.dtype), "convert them with .long()")
    return given.to(torch.int64)


def as_marks(name: str, marks: Any) -> Tensor:
    """Marks as they come, a tensor, an array or nested lists of truth values, as a bool tensor."""
    given = _as_tensor(f"{name} as a bool tensor", marks)
    if given.dtype != torch.bool:
        raise DtypeError(
            f"{name} as a bool tensor", str(given.dtype), f"convert it, e.g. {name}.bool()"
        )
    return given


def _as_tensor(expected: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(value, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:  # text, ragged lists
        raise DtypeError(
            expected, f"{type(value).__name__} {value!r:.40}", "pass a tensor, an array or a list"
        ) from error


def _check_lengths(lengths: Tensor | None, x: Tensor) -> Tensor | None:
    if lengths is None:
        return None
    steps, lanes = x.shape[:2]
    lengths = as_lengths(lengths)
    if tuple(lengths.shape) != (lanes,):
        raise ShapeError(
            f"lengths of shape (B={lanes},)", describe(lengths.shape), "give one length a lane"
        )
    low, high = _range(lengths, steps)
    if low < 0 or high > steps:
        raise ArgumentError(
            f"lengths from 0 to T={steps}",
            f"{low} to {high}",
            "pad the input to the longest lane",
        )
    return lengths.to(x.device, torch.int64)


def _check_mark(
    name: str, mark: Tensor | None, x: Tensor, batched: bool, batch_first: bool
) -> Tensor | None:
    if mark is None:
        return None
    steps, lanes = x.shape[:2]
    mark = as_marks(name, mark)
    expected = (steps,) if not batched else (lanes, steps) if batch_first else (steps, lanes)
    if tuple(mark.shape) != expected:
        letters = "T" if not batched else "BT" if batch_first else "TB"
        raise ShapeError(
            f"{name} of the input's leading axes, {describe(expected, letters)}",
            describe(mark.shape),
            "give one mark for every step of every lane",
        )
    if not batched:
        mark = mark.unsqueeze(1)
    return (mark.transpose(0, 1) if batch_first else mark).to(x.device)


def _range(numbers: Tensor, fine: int) -> tuple[int, int]:
    """Least and greatest of some integers; a number that is fine where there is none to look at."""
    # Under torch.func and torch.export a tensor has no values.
    if native.transformed() or torch.compiler.is_exporting() or not numbers.numel():
        return fine, fine
    low, high = numbers.aminmax()
    return int(low), int(high)
