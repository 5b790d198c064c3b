"""A kernel call as one record, the compiled extension, and what memory safety asks of a call.

The order of a call's arguments stands in :class:`Call` and :class:`BackwardCall` alone: the operators'
schemas are made from them. What a user may pass is checked where users come in, in :mod:`bptt.nn` and
:func:`bptt.ops.recur`. Here stands what the kernels, which trust sizes and pointers, must be sure of:
types, devices, shapes, and the values of lengths and tokens.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

# torch first: the extension then shares torch's OpenMP runtime and its pool of threads.
import torch
from torch import Tensor

from bptt.errors import ArgumentError, BackendError, DeviceError, DtypeError, ShapeError, describe
from bptt.ops import cells

_MODULE = "bptt._native"


def _load() -> tuple[Any, str | None]:
    try:
        return importlib.import_module(_MODULE), None
    except ImportError as error:
        return None, f"the compiled extension {_MODULE} cannot be loaded ({error})"


extension, missing = _load()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def isa() -> str | None:
    """The instruction set in use, one of :func:`isas`; None without the extension."""
    return None if extension is None else extension.isa


def isas() -> tuple[str, ...]:
    """The instruction sets this machine runs, best first; ``BPTT_ISA`` picks one when loaded.

    Of "avx512bf16", "avx512", "avx2", "neon" and "baseline". One that is not taken by itself, because
    another is faster, comes last.
    """
    return () if extension is None else tuple(extension.isas.split())


# By the number of a cell in the kernels: its mode, G, and the widths of what is saved and of dz.
CELLS = tuple(cell.mode for cell in cells.CELLS)
GATES = tuple(cell.gates for cell in cells.CELLS)
SAVED = tuple(cell.saved for cell in cells.CELLS)
DZ = tuple(cell.dz for cell in cells.CELLS)
GRU, LSTM = CELLS.index("GRU"), CELLS.index("LSTM")


class Call(NamedTuple):
    """One layer in one direction, forward: what ``bptt::recur`` takes, in its order.

    :func:`bptt.ops.native.recur` says what each is. ``save`` keeps what the backward pass needs.
    """

    cell: int
    x: Tensor
    tokens: Tensor | None
    h0: Tensor | None
    c0: Tensor | None
    w_ih: Tensor | None
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
    lengths: Tensor | None
    reset: Tensor | None
    cut: Tensor | None
    norms: Tensor | None
    reverse: bool
    batch_major: bool
    save: bool
    batch_sizes: Tensor | None


class BackwardCall(NamedTuple):
    """The same layer backward: what ``bptt::recur_backward`` takes, in its order.

    ``needs`` says of each name in :data:`DIFFERENTIABLE` whether its gradient is wanted, ``record``
    whether the norms are.
    """

    cell: int
    dy: Tensor | None
    dh_n: Tensor | None
    dc_n: Tensor | None
    x: Tensor
    tokens: Tensor | None
    h0: Tensor | None
    c0: Tensor | None
    w_ih: Tensor | None
    w_hh: Tensor
    lengths: Tensor | None
    reset: Tensor | None
    cut: Tensor | None
    reverse: bool
    batch_major: bool
    saved: Tensor
    needs: list[bool]
    record: bool
    batch_sizes: Tensor | None


DIFFERENTIABLE = ("x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh")


@dataclass(frozen=True)
class Sizes:
    """Sizes of one call, and how its rows lie in memory.

    Attributes:
        batch_major: lane after lane instead of step after step.
        packed: the number of rows if they are packed, step after step and without padding.
    """

    cell: int
    T: int
    B: int
    H: int
    batch_major: bool
    packed: int | None = None

    @property
    def width(self) -> int:
        """G * H."""
        return GATES[self.cell] * self.H

    @property
    def rows(self) -> int:
        """T * B, or fewer if packed."""
        return self.T * self.B if self.packed is None else self.packed

    def flat(self, tensor: Tensor) -> Tensor:
        """``(T, B, n)``, or packed ``(N, n)``, as its rows in memory order, copied only if need be."""
        if self.batch_major:
            tensor = tensor.transpose(0, 1)
        return tensor.reshape(self.rows, tensor.shape[-1])

    def unflat(self, rows: Tensor) -> Tensor:
        """Rows in memory order as ``(T, B, n)``, or packed as they are; a view."""
        if self.packed is not None:
            return rows
        if self.batch_major:
            return rows.view(self.B, self.T, rows.shape[-1]).transpose(0, 1)
        return rows.view(self.T, self.B, rows.shape[-1])

    def problem(
        self,
        lengths: Tensor | None,
        reset: Tensor | None,
        cut: Tensor | None,
        reverse: bool,
        starts: Tensor | None = None,
    ):
        """What the kernels take as one argument; it holds addresses, so keep the tensors alive."""
        step, lane = (1, self.T) if self.batch_major else (self.B, 1)
        return extension.Problem(
            self.T, self.B, self.H, step, lane,
            pointer(lengths), pointer(reset), pointer(cut), reverse, torch.get_num_threads(),
            pointer(starts),
        )  # fmt: skip


def pointer(tensor: Tensor | None) -> int:
    """The address a kernel takes; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def is_batch_major(rows: Tensor) -> bool:
    """Whether a ``(T, B, ...)`` tensor is a view of a contiguous ``(B, T, ...)`` one."""
    return not rows.is_contiguous() and rows.transpose(0, 1).is_contiguous()


_SUFFIX = {torch.float32: "_f32", torch.float64: "_f64", torch.bfloat16: "_bf16"}


def multiplies_bf16() -> bool:
    """Whether the instruction set in use multiplies bfloat16; others do the same slowly, for tests."""
    return extension is not None and extension.multiplies_bf16


def output_dtype(cell: int, x: Tensor) -> torch.dtype:
    """Of y: x's, but torch's GRU under autocast adds its state, in float32, to every output."""
    return torch.float32 if cell == GRU and x.dtype == torch.bfloat16 else x.dtype


def function(name: str, dtype: torch.dtype):
    """A kernel of the extension for an element type."""
    if extension is None:
        raise BackendError("the native backend", str(missing), "build it, or set_backend('auto')")
    return getattr(extension, name + _SUFFIX[dtype])


def takes_input(sizes: Sizes, x: Tensor, w_ih: Tensor | None, tokens: Tensor | None) -> int:
    """How many columns of x the kernel multiplies by w_ih itself, forward and backward; 0 for none."""
    if w_ih is None or tokens is not None:
        return 0
    taken = function("takes_input", x.dtype)(sizes.cell, sizes.B, x.shape[-1], sizes.H)
    return x.shape[-1] if taken else 0


def workspace(cell: int, problem, dtype: torch.dtype, columns: int, *, backward: bool) -> Tensor:
    """The memory that a kernel works in; on the CPU, whatever torch's default device is.

    ``columns`` are :func:`takes_input`'s.
    """
    size = function("workspace", dtype)(cell, problem, backward, columns)
    return torch.empty(size, dtype=torch.uint8, device="cpu")


def require_shape(name: str, tensor: Tensor | None, *expected: int) -> None:
    """Raise ShapeError where a tensor is there and has another shape."""
    if tensor is not None and tensor.shape != expected:
        raise ShapeError(
            f"{name} {expected}", str(tuple(tensor.shape)), "pass a tensor of that shape"
        )


def check(call: Call | BackwardCall) -> Sizes:
    """Raise unless the kernels can run on exactly these tensors; return the call's sizes."""
    cell, x, w_hh, w_ih, h0, c0 = call.cell, call.x, call.w_hh, call.w_ih, call.h0, call.c0
    tokens, counts = call.tokens, call.batch_sizes
    b_ih, b_hh, norms = (
        (call.b_ih, call.b_hh, call.norms) if isinstance(call, Call) else (None, None, None)
    )
    if not 0 <= cell < len(CELLS):
        raise ArgumentError(f"a cell number 0..{len(CELLS) - 1}", str(cell), "use bptt.ops.recur")
    if x is None or w_hh is None:  # the dispatcher lets None pass for a tensor
        raise DtypeError("x and w_hh as tensors", "None", "pass both")
    if w_hh.dtype not in (torch.float32, torch.float64):
        raise DtypeError("float32 or float64", str(w_hh.dtype), "convert, or use the eager backend")
    for tensor in (x, h0, c0, w_ih, w_hh, b_ih, b_hh, norms):
        if tensor is None:
            continue
        short = tensor is x and tensor.dtype == torch.bfloat16 and w_hh.dtype == torch.float32
        if tensor.dtype != w_hh.dtype and not short:
            raise DtypeError(f"{w_hh.dtype} like w_hh", str(tensor.dtype), "convert one of them")
        if not tensor.is_cpu:
            raise DeviceError(
                "a CPU tensor", str(tensor.device), "move it, or use the eager backend"
            )
    for name, tensor, dtype in (
        ("tokens", tokens, torch.int64),
        ("lengths", call.lengths, torch.int64),
        ("reset", call.reset, torch.bool),
        ("cut", call.cut, torch.bool),
        ("batch_sizes", counts, torch.int64),
    ):
        if tensor is None:
            continue
        if tensor.dtype != dtype:
            raise DtypeError(f"{name} of {dtype}", str(tensor.dtype), f"convert it to {dtype}")
        if not tensor.is_cpu:
            raise DeviceError(f"{name} on the CPU", str(tensor.device), "move it")
    if w_hh.ndim != 2:
        raise ShapeError("w_hh (G*H, H)", describe(w_hh.shape), "pass torch's weight_hh")
    H, width = w_hh.shape[1], GATES[cell] * w_hh.shape[1]
    require_shape("w_hh", w_hh, width, H)
    if tokens is not None:
        if tokens.ndim != 2:
            raise ShapeError("tokens (T, B)", describe(tokens.shape), "pass time-major tokens")
        if w_ih is not None:
            raise ArgumentError("no w_ih with tokens", "w_ih", "multiply the table by it instead")
        require_shape("table", x, x.shape[0], width)
        T, B = tokens.shape
    elif counts is not None:
        if x.ndim != 2 or counts.ndim != 1 or w_ih is None or h0 is None:
            raise ShapeError(
                "packed x (N, I), batch_sizes (T,), w_ih and h0",
                f"{describe(x.shape)} and {describe(counts.shape)}",
                "use bptt.ops.recur",
            )
        require_shape("w_ih", w_ih, width, x.shape[1])
        T, B = counts.shape[0], h0.shape[0]
    else:
        if x.ndim != 3:
            raise ShapeError("x (T, B, I)", describe(x.shape), "pass a time-major batch")
        T, B = x.shape[0], x.shape[1]
        if w_ih is None:
            require_shape("xp", x, T, B, width)
        else:
            require_shape("w_ih", w_ih, width, x.shape[2])
    if T < 1 or H < 1 or (B < 1 and counts is not None):
        raise ShapeError(
            "at least one step and one hidden unit, packed also one lane",
            describe((T, B, H), "TBH"),
            "skip the call when there is nothing to run over",
        )
    require_shape("h0", h0, B, H)
    require_shape("c0", c0, B, H)
    require_shape("b_ih", b_ih, width)
    require_shape("b_hh", b_hh, width)
    require_shape("lengths", call.lengths, B)
    require_shape("reset", call.reset, T, B)
    require_shape("cut", call.cut, T, B)
    require_shape("norms", norms, T, B)
    if c0 is not None and cell != LSTM:
        raise ArgumentError("one state", f"c0 with {CELLS[cell]}", "pass h0 alone")
    return Sizes(cell, T, B, H, call.batch_major, None if counts is None else x.shape[0])


def unpack_sizes(sizes: Sizes, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths ``(B,)`` and the first row of each step ``(T,)`` of packed rows, checked.

    Raises:
        ShapeError: the counts are no PackedSequence's batch_sizes, or do not sum to the rows.
    """
    counts = counts.contiguous()
    lengths, starts = counts.new_empty(sizes.B), counts.new_empty(sizes.T)
    rows = extension.unpack_sizes(
        sizes.T, sizes.B, counts.data_ptr(), lengths.data_ptr(), starts.data_ptr()
    )
    if rows != sizes.rows:
        raise ShapeError(
            f"batch_sizes from B={sizes.B} falling to 1 or more, summing to {sizes.rows} rows",
            f"{counts.tolist()}"[:80],
            "pass a PackedSequence made by torch's pack functions",
        )
    return lengths, starts


def check_values(
    problem, sizes: Sizes, lengths: Tensor | None, tokens: Tensor | None, V: int
) -> None:
    """Raise unless every length is in 0..T and every token that is read in 0..V-1."""
    if lengths is not None and sizes.B:
        low, high = (int(end) for end in lengths.aminmax())
        if low < 0 or high > sizes.T:
            raise ArgumentError(
                f"lengths in 0..{sizes.T}", f"{low} to {high}", "pad x to the longest lane"
            )
    if tokens is not None:
        i = extension.bad_token(problem, pointer(tokens), V)
        if i >= 0:
            t, b = divmod(i, sizes.B)
            raise ArgumentError(
                f"tokens in 0..{V - 1}",
                f"{int(tokens[t, b])} at step {t}, lane {b}",
                "check the vocabulary",
            )


def hand_on(lengths: Tensor | None, *pairs: tuple[Tensor | None, Tensor]) -> None:
    """Lanes without a step: the kernels pass them by, so what goes in comes out, zeros for None."""
    if lengths is None:
        return
    empty = lengths == 0
    if not empty.any():
        return
    for source, target in pairs:
        if target.numel():
            target[empty] = 0 if source is None else source[empty]


@overload
def dense(tensor: Tensor) -> Tensor: ...
@overload
def dense(tensor: None) -> None: ...
@overload
def dense(tensor: Tensor | None) -> Tensor | None: ...
def dense(tensor: Tensor | None) -> Tensor | None:
    """The tensor as its address shows it: contiguous, and no view that only promises to negate."""
    if tensor is None:
        return None
    return (tensor.resolve_neg() if tensor.is_neg() else tensor).contiguous()


def check_backward(sizes: Sizes, call: BackwardCall) -> None:
    """Raise unless what goes back fits what went forward. Autograd hands on what fits; others may not."""
    H, w_hh, saved = sizes.H, call.w_hh, call.saved
    if not isinstance(saved, Tensor):
        raise DtypeError("saved as a tensor", "None", "pass what the forward operator returned")
    output = output_dtype(sizes.cell, call.x)
    for tensor, dtype in (
        (call.dy, output), (call.dh_n, w_hh.dtype), (call.dc_n, w_hh.dtype), (saved, call.x.dtype),
    ):  # fmt: skip
        if tensor is not None and (tensor.dtype != dtype or not tensor.is_cpu):
            raise DtypeError(
                f"{dtype} on the CPU{' like w_hh' if dtype == w_hh.dtype else ''}",
                f"{tensor.dtype} on {tensor.device}",
                "pass what the forward operator returned",
            )
    rows = (sizes.T, sizes.B) if sizes.packed is None else (sizes.packed,)
    require_shape("dy", call.dy, *rows, H)
    require_shape("saved", saved, sizes.rows, SAVED[sizes.cell] * H)
    require_shape("dh_n", call.dh_n, sizes.B, H)
    if sizes.cell == LSTM:  # others have no cell state, and nobody looks at what stands here
        require_shape("dc_n", call.dc_n, sizes.B, H)
    if len(call.needs) != len(DIFFERENTIABLE):
        raise ArgumentError(
            f"{len(DIFFERENTIABLE)} needs",
            f"{len(call.needs)}",
            "say of each input whether it is needed",
        )
