"""The exact gradient in little memory: keep a few states, run the steps between them again."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import ceil, comb, sqrt
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from bptt.errors import optional, whole
from bptt.gradients.chunks import ChunkEstimator, Chunks, differentiate, hidden_state
from bptt.gradients.step import Step
from bptt.nn import carry as carries
from bptt.nn.carry import Carry
from bptt.ops.device import CPU, random_state, set_random_state

# Running a piece of the model again, exactly as it ran the first time.
#
# A call of a model depends on its input and carry, and also on the random generators (dropout) and on
# buffers (running statistics). A :class:`Snapshot` holds all three as they were before a piece, so that
# running from it again draws the same dropout masks and leaves the buffers as they were left before.
#
# Limits: generators of the CPU and of the inputs' device; a model that draws from a generator of its
# own is not replayed. The loss must draw nothing. Forward hooks run at every replay.

# Two runs of the same piece are equal bit by bit on the CPU. Atomic additions on a GPU may differ by
# rounding; another state or another dropout mask differs by far more than this share.
SAME = 1e-3

# Without a graph torch runs these on another path, which rounds otherwise: oneDNN's LSTM, attention in
# evaluation mode. They make their graph and drop it again, so that a replay is one bit by bit.
_OTHER_PATH = (nn.LSTM, nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What a call depends on besides its input; tensors in it are shared with no one who writes.

    Attributes:
        carry: a copy; what the model returned may be a view of a whole chunk's output.
        generators: states of the random generators.
        buffers: copies by name.
    """

    carry: Carry
    generators: list[Tensor]
    buffers: dict[str, Tensor]


class Replay:
    """Takes and restores snapshots of one model, and checks that a replay was one.

    Args:
        device: of the inputs.
        places: about how many snapshots are kept at a time.
    """

    def __init__(self, model: nn.Module, device: torch.device, places: int) -> None:
        self._model = model
        self._devices = list(dict.fromkeys([CPU, device]))
        self._last: Snapshot | None = None
        self._seen: dict[int, list[float]] = {}
        self._places = places
        self._free: dict[Any, list[Tensor]] = {}

    def without_graph(self) -> AbstractContextManager[Any]:
        """The mode for a run whose graph nobody needs, with the results of one with a graph."""
        other = any(isinstance(module, _OTHER_PATH) for module in self._model.modules())
        return nullcontext() if other else torch.no_grad()

    def take(self, carry: Carry) -> Snapshot:
        """A snapshot of now, with this carry."""
        last = self._last
        generators = [random_state(device) for device in self._devices]
        if last is not None:  # what has not changed since is not stored twice
            generators = [
                old if torch.equal(new, old) else self._keep(new)
                for new, old in zip(generators, last.generators, strict=True)
            ]
        buffers: dict[str, Tensor] = {}
        for name, buffer in self._model.named_buffers():
            if buffer.requires_grad:
                raise hidden_state(f"the buffer {name} holds a graph")
            # By value: batch norm writes its statistics without raising the buffer's version.
            old = None if last is None else last.buffers.get(name)
            if old is None:  # most never change: no places for them until they do
                old = buffer.detach().clone()
            elif not _equal(old, buffer):
                old = self._keep(buffer)
            buffers[name] = old
        self._last = Snapshot(carries.apply(self._keep, carry), generators, buffers)
        return self._last

    def restore(self, snapshot: Snapshot) -> Carry:
        """Set generators and buffers as they were; return the carry, as a copy to write on."""
        self.restore_generators(snapshot)
        for name, buffer in self._model.named_buffers():
            value = snapshot.buffers.get(name)  # None: made by a forward pass after this snapshot
            if value is not None and not _equal(value, buffer):
                with torch.no_grad():
                    buffer.copy_(value)
        return copied(snapshot.carry)

    def restore_generators(self, snapshot: Snapshot) -> None:
        """Set the generators alone."""
        for device, state in zip(self._devices, snapshot.generators, strict=True):
            set_random_state(state, device)

    def witness(self, piece: int, output: Any, carry: Carry) -> None:
        """Note how this piece ended, or raise unless it ended as it did when it ran before.

        Compared are norms of output and carry: one pass over them, and a few numbers to keep.
        """
        with torch.no_grad():
            now = [
                float(torch.linalg.vector_norm(t.detach()))
                for t in carries.tensors((output, carry))
                if t.is_floating_point() or t.is_complex()
            ]
        before = self._seen.setdefault(piece, now)
        for a, b in zip(now, before, strict=True):
            # Written so that NaN and infinity, which a diverging model has in both runs, are equal.
            if a != b and abs(a - b) > SAME * max(abs(a), abs(b)):
                raise hidden_state("run again from the same carry it gives another result")

    def forget(self, piece: int) -> None:
        """Drop the note of a piece that will not run again."""
        self._seen.pop(piece, None)

    def _keep(self, tensor: Tensor) -> Tensor:
        """A copy, in one of the places that were set aside in one piece.

        A few kilobytes kept here and there between one segment's large blocks and the next's would
        keep the allocator from using the room again: at 300 segments that was 700 MB.
        """
        key = (tensor.shape, tensor.dtype, tensor.device)
        free = self._free.get(key, [])
        if not free:
            first = key not in self._free
            self._free[key] = free
            shape = (self._places if first else 1, *tensor.shape)
            free += torch.empty(shape, dtype=tensor.dtype, device=tensor.device).unbind()
        place = free.pop()
        with torch.no_grad():
            place.copy_(tensor)
        handle = place.view_as(place)
        weakref.finalize(handle, free.append, place).atexit = False
        return handle


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def copied(carry: Carry) -> Carry:
    """Detached, and sharing memory with nothing that a model might write on."""
    return carries.apply(lambda t: t.detach().clone(), carry)


# Which states to keep and what to run again, so that a chain of segments can be walked backwards.
#
# Pure arithmetic: nothing here knows a tensor. A chain of n segments is reversed from its last to its
# first; a segment can be reversed only from the state it began with, and at most c such states are kept
# at a time, the first one included. The state that is on its way through the chain is not counted.


class Move(NamedTuple):
    """From the kept state at ``start`` run forward to ``stop``; keep that state, or reverse from it.

    Attributes:
        start: segment before which a kept state stands.
        stop: segment to arrive at; ``stop - start`` segments are run on the way.
        reverse: whether segment ``stop`` is then run and differentiated; otherwise its first state
            is kept. A reversal with ``stop == start`` is the last use of the state at ``start``.
    """

    start: int
    stop: int
    reverse: bool


def plan(segments: int, states: int) -> Iterator[Move]:
    """The moves that reverse a chain with the fewest segments run on the way.

    With c states and at most r passes over any segment, β(c, r) = C(c + r, c) segments can be
    reversed. So for the smallest r with n ≤ β(c, r) the next state to keep stands y segments on, with
    β(c, r-2) ≤ y ≤ β(c, r-1) and β(c-1, r-1) ≤ n - y ≤ β(c-1, r); every such y is optimal.

    Args:
        segments: n, at least 1.
        states: c, at least 1, the state the chain begins with included.

    Raises:
        ArgumentError: a number is less than 1.

    Cost: O(1) memory a kept state; O(moves) time.

    Example:
        >>> [tuple(move) for move in plan(3, 2)]
        [(0, 1, False), (1, 2, True), (1, 1, True), (0, 0, True)]

    Source: A. Griewank and A. Walther, 2000, Algorithm 799: revolve.
    """
    segments, states = _checked(segments, states)
    kept, end = [0], segments  # segments from `end` on are done with
    while kept:
        at = kept[-1]
        count, free = end - at, states - len(kept) + 1
        if count == 1:
            kept.pop()
            end = at
            yield Move(at, at, True)
        elif free == 1:
            end -= 1
            yield Move(at, end, True)
        else:
            kept.append(at + _next(count, free))
            yield Move(at, kept[-1], False)


def advanced(segments: int, states: int) -> int:
    """How many segments :func:`plan` runs forward without reversing them.

    t(n, c) = r n - β(c + 1, r - 1), with r as in :func:`plan`; n - 1 once c ≥ n - 1.

    Example:
        >>> advanced(10, 10), advanced(10, 3), advanced(10, 1)
        (9, 15, 45)
    """
    segments, states = _checked(segments, states)
    passes = _passes(segments, states)
    return passes * segments - comb(states + passes, states + 1)


def _passes(segments: int, states: int) -> int:
    """The smallest r with n ≤ C(c + r, c)."""
    passes = 0
    while comb(states + passes, states) < segments:
        passes += 1
    return passes


def _next(count: int, free: int) -> int:
    """How far on the next state is to be kept, for at least two segments and two states."""
    passes = _passes(count, free)
    least = comb(free + passes - 2, free) if passes >= 2 else 1
    return max(least, count - comb(free - 1 + passes, free - 1))


def _checked(segments: int, states: int) -> tuple[int, int]:
    return whole("segments", segments), whole("states", states)


# The exact gradient by segments: each is differentiated alone, from the last to the first.
#
# The carry between two segments is cut into a leaf, and what arrives at the leaf is handed to the
# segment before as the gradient of its last carry. So no more than one graph is needed at a time, and
# the gradient is that of the whole sequence.


@dataclass(eq=False)
class Segment:
    """One segment's graph: from the carry it began with to its loss and its last carry."""

    leaf: Carry
    end: Carry
    value: Tensor | None

    def differentiate(self, arriving: list[Tensor | None]) -> list[Tensor | None]:
        """Backward from the loss and from the last carry; return what arrives at the first one.

        Args:
            arriving: the gradient of the rest of the loss by each tensor of ``end``; empty at the
                sequence's end.
        """
        pairs: list[tuple[Tensor, Tensor | None]] = []
        if self.value is not None:
            pairs.append((self.value, None))
        if arriving:
            ends = zip(carries.tensors(self.end), arriving, strict=True)
            pairs += [(t, g) for t, g in ends if g is not None and t.requires_grad]
        if pairs:
            differentiate([t for t, _ in pairs], [g for _, g in pairs])
        return [leaf.grad for leaf in carries.tensors(self.leaf)]


def run_segment(chunks: Chunks, start: int, stop: int, carry: Carry, *, constant: bool):
    """Run a segment with its graph.

    Args:
        carry: its first carry; values only, no graph is followed.
        constant: whether nothing stands before it, so that no gradient by its carry is needed.

    Returns:
        The model's output, and the :class:`Segment`.
    """
    leaf = copied(carry)
    if not constant:
        leaf = carries.apply(_ask_for_gradient, leaf)
    # A copy, because a model may write on the carry it is given, and a leaf may not be written on.
    output, end = chunks.run(start, stop, carries.apply(lambda t: t.clone(), leaf))
    return output, Segment(leaf, end, chunks.score(output, start, stop))


def _ask_for_gradient(tensor: Tensor) -> Tensor:
    return tensor.requires_grad_(tensor.is_floating_point() or tensor.is_complex())


@dataclass(frozen=True)
class Checkpointed(ChunkEstimator):
    """The exact gradient of the whole sequence, for the memory of one segment and a few states.

    The sequence is cut into ``segments``. A forward pass keeps the carry before segments, not what
    lies in them; then, from the last segment to the first, each is run again with its graph and
    differentiated, and the gradient by its first carry is handed to the one before. With fewer
    ``states`` than segments, those that were not kept are made again from the one before, in the
    order that needs the fewest runs (:func:`bptt.gradients.checkpointed.plan`).

    Attributes:
        segments: pieces the sequence is cut into; default ⌈√T⌉, about as many states as steps in a
            graph. 1 is :class:`Full`.
        states: carries kept at a time, the first included; default: as many as segments.
        batch_first: whether time is axis 1 of the inputs.
        reduction: ``"mean"`` or ``"sum"``; default: what the loss says of itself, else a mean.

    What is exact: the result equals ``Full(segments=…)``, which keeps all graphs, bit for bit, dropout
    and loss included, for any number of states. It equals plain ``Full()`` in exact arithmetic; in
    floating point that one sums a weight's gradient over all steps in one matrix product, this one
    segment by segment, and the two differ by rounding (1e-12 in float64).

    Cost: with all states one more forward pass, 4/3 of the time where a backward pass costs two
    forward ones; memory O((T/segments + states)·B·H). With c states and n ≤ C(c + r, c) segments at
    most r more passes.

    Example:
        >>> import torch, bptt
        >>> from bptt.gradients import Checkpointed
        >>> gru = torch.nn.GRU(3, 5)
        >>> x, target = torch.randn(7, 2, 3), torch.randn(7, 2, 5)
        >>> estimator = Checkpointed(segments=4, states=2)
        >>> estimator.backward(gru, x, target, loss=torch.nn.functional.mse_loss).depth.tolist()
        [0, 1, 2, 3, 4, 5, 6]

    Source: T. Chen et al., 2016, Training deep nets with sublinear memory cost; A. Gruslys et al.,
    2016, Memory-efficient backpropagation through time; A. Griewank and A. Walther, 2000, Algorithm
    799: revolve.
    """

    segments: int | None = None
    states: int | None = None
    batch_first: bool = False
    reduction: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("segments", self.segments), ("states", self.states)):
            number = optional(name, value, remedy="give a number, or leave it out")
            object.__setattr__(self, name, number)

    def _take(self, chunks: Chunks, carry: Carry) -> Step:
        wanted = self.segments or ceil(sqrt(chunks.steps))
        pieces = list(chunks.pieces(ceil(chunks.steps / wanted)))
        last = len(pieces) - 1
        states = min(self.states or len(pieces), len(pieces))
        replay = Replay(chunks.model, chunks.inputs.device, places=states)
        kept = {0: replay.take(carry)}
        total = chunks.zero
        arriving: list[Tensor | None] = []
        end: Snapshot | None = None
        for start, stop, reverse in plan(len(pieces), states):
            carry = replay.restore(kept[start])
            with replay.without_graph():
                for i in range(start, stop):
                    output, carry = chunks.run(*pieces[i], carry)
                    replay.witness(i, output, carry)
                    del output
                    carry = carries.detach(carry)
            if not reverse:
                kept[stop] = replay.take(carry)
                continue
            output, segment = run_segment(chunks, *pieces[stop], carry, constant=stop == 0)
            replay.witness(stop, output, segment.end)
            if stop == last:  # the first run of the last segment: here the sequence ends
                end = replay.take(segment.end)
            if start == stop:
                del kept[start]
            del output
            arriving = segment.differentiate(arriving)
            if segment.value is not None:
                total = total + segment.value.detach()
            del segment
        carry = replay.restore(cast(Snapshot, end))  # every plan reverses the last segment
        return Step(total, carry, chunks.terms, torch.arange(chunks.steps, device="cpu"))
