"""Backpropagation through time: the whole sequence at once, in chunks, and in windows that overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from bptt.errors import ArgumentError, whole
from bptt.gradients.checkpointed import Replay, Segment, Snapshot, run_segment
from bptt.gradients.chunks import ChunkEstimator, Chunks, differentiate
from bptt.gradients.step import Step, depth_of_chunks
from bptt.nn import carry as carries
from bptt.nn.carry import Carry

# Backpropagation through the whole sequence: the exact gradient, for the memory of all steps.


@dataclass(frozen=True)
class Full(ChunkEstimator):
    """The exact gradient of the loss over the whole sequence given.

    dL/dθ = sum over t of sum over s ≤ t of ∂ℓ_t/∂h_t · (∂h_t/∂h_{t-1} ⋯ ∂h_{s+1}/∂h_s) · ∂h_s/∂θ: the
    loss at step t reaches t steps back, to the first step; the carry the sequence began with is held
    constant.

    Attributes:
        batch_first: whether time is axis 1 of the inputs.
        segments: calls of the model the sequence is run in. More than one changes the order of the
            sums alone; what they are for is :class:`Checkpointed`, which equals them bit for bit.
        reduction: ``"mean"`` or ``"sum"``; default: what the loss says of itself, else a mean. Asked
            for with several segments only.

    Cost: one forward and one backward pass; memory O(T·B·H).

    Example:
        >>> import torch, bptt
        >>> gru = torch.nn.GRU(3, 5)
        >>> x, target = torch.randn(7, 2, 3), torch.randn(7, 2, 5)
        >>> step = Full().backward(gru, x, target, loss=torch.nn.functional.mse_loss)
        >>> step.depth.tolist()
        [0, 1, 2, 3, 4, 5, 6]

    Source: P. J. Werbos, 1990, Backpropagation through time: what it does and how to do it.
    """

    batch_first: bool = False
    segments: int = 1
    reduction: str | None = None

    def __post_init__(self) -> None:
        segments = whole("segments", self.segments, remedy="leave it out for one call")
        object.__setattr__(self, "segments", segments)

    def _take(self, chunks: Chunks, carry: Carry) -> Step:
        graphs: list[Segment] = []
        total = chunks.zero
        for start, stop in chunks.pieces(ceil(chunks.steps / self.segments)):
            output, segment = run_segment(chunks, start, stop, carry, constant=start == 0)
            del output
            graphs.append(segment)
            carry = segment.end
        carry = carries.detach(carry)
        arriving: list[Tensor | None] = []
        while graphs:
            segment = graphs.pop()
            arriving = segment.differentiate(arriving)
            if segment.value is not None:
                total = total + segment.value.detach()
        return Step(total, carry, chunks.terms, torch.arange(chunks.steps, device="cpu"))


# Truncated backpropagation through time: chunks of k steps, the state carried, the gradient cut.


@dataclass(frozen=True)
class Truncated(ChunkEstimator):
    """Backward within chunks of ``k`` steps; the state goes on from chunk to chunk, the gradient not.

    The gradient returned is sum over chunks of dL_chunk/dθ with h at the chunk's start held constant.
    The loss at step t reaches t mod k steps back: those early in a chunk reach hardly at all.

    Attributes:
        k: steps per chunk, at least 1. A sequence shorter than k is one chunk: the exact gradient.
        batch_first: whether time is axis 1 of the inputs.
        reduction: ``"mean"`` or ``"sum"``; default: what the loss says of itself, else a mean.

    Cost: the time of full backpropagation; memory of one chunk, O(k·B·H).

    Example:
        >>> import torch, bptt
        >>> gru = torch.nn.GRU(3, 5)
        >>> x, target = torch.randn(7, 2, 3), torch.randn(7, 2, 5)
        >>> step = Truncated(k=4).backward(gru, x, target, loss=torch.nn.functional.mse_loss)
        >>> step.depth.tolist(), step.terms
        ([0, 1, 2, 3, 0, 1, 2], 70)

    Source: R. J. Williams and J. Peng, 1990, An efficient gradient-based algorithm for on-line
    training of recurrent network trajectories.
    """

    k: int
    batch_first: bool = False
    reduction: str | None = None

    def __post_init__(self) -> None:
        k = whole("k", self.k, remedy="give the number of steps per chunk")
        object.__setattr__(self, "k", k)

    def _take(self, chunks: Chunks, carry: Carry) -> Step:
        total = chunks.zero
        for start, stop in chunks.pieces(self.k):
            output, carry = chunks.run(start, stop, carry)
            value = chunks.score(output, start, stop)
            del output
            if value is not None:
                differentiate([value])
                total = total + value.detach()
            carry = carries.detach(carry)
        return Step(total, carry, chunks.terms, depth_of_chunks(chunks.steps, self.k))


# Truncation with overlap: every k1 steps, backward through the last k2 steps.


@dataclass(frozen=True)
class Windowed(ChunkEstimator):
    """Every ``k1`` steps, backward through the last ``k2``, for the newest ``k1`` losses alone.

    The chunk that begins at step c is differentiated over a window that begins at
    s(c) = max(0, c - (k2 - k1)), with the state there held constant. So the loss at step t reaches
    t - s(t - t mod k1) steps back: at least k2 - k1 and at most k2 - 1, wherever that many steps have
    been. Each loss is scored once. Plain truncation, ``Truncated(k)``, is ``Windowed(k, k)``.

    Steps of the window that ran before are run again from a snapshot of the state (with the same
    dropout masks; buffers end as after one pass), never differentiated through an old graph.

    Attributes:
        k1: steps between backward passes, at least 1.
        k2: steps of a window, at least k1.
        batch_first: whether time is axis 1 of the inputs.
        reduction: ``"mean"`` or ``"sum"``; default: what the loss says of itself, else a mean.

    A window never begins before the call's own first step: over a stream handed in by several calls
    the first k2 - k1 losses of each reach less far, and ``step.depth`` says so. Make a call several k2
    long.

    Cost: k2/k1 times the time of ``Truncated(k1)``; memory of one window, O(k2·B·H), whatever T.

    Example:
        >>> import torch, bptt
        >>> from bptt.gradients import Windowed
        >>> gru = torch.nn.GRU(3, 5)
        >>> x, target = torch.randn(7, 2, 3), torch.randn(7, 2, 5)
        >>> step = Windowed(k1=2, k2=5).backward(gru, x, target, loss=torch.nn.functional.mse_loss)
        >>> step.depth.tolist()
        [0, 1, 2, 3, 3, 4, 3]

    Source: R. J. Williams and J. Peng, 1990, An efficient gradient-based algorithm for on-line
    training of recurrent network trajectories, there BPTT(h; h').
    """

    k1: int
    k2: int
    batch_first: bool = False
    reduction: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("k1", self.k1), ("k2", self.k2)):
            object.__setattr__(self, name, whole(name, value, remedy="give a number of steps"))
        if self.k2 < self.k1:
            raise ArgumentError(
                "k2 >= k1",
                f"k1={self.k1}, k2={self.k2}",
                "a window holds the k1 steps it scores; to update less often raise k2 too",
            )

    def _take(self, chunks: Chunks, carry: Carry) -> Step:
        replay = Replay(chunks.model, chunks.inputs.device, places=2 * (self.k2 // self.k1) + 3)
        ring: deque[tuple[int, int, Snapshot]] = deque()  # pieces a window may need again
        total = chunks.zero
        for start, stop in chunks.pieces(self.k1):
            while ring and ring[0][0] < start - (self.k2 - self.k1):
                replay.forget(ring.popleft()[0])
            if ring:
                now = replay.take(None)
                carry = replay.restore(ring[0][2])
                for first, last, snapshot in ring:
                    replay.restore_generators(snapshot)
                    output, carry = chunks.run(first, last, carry)
                    replay.witness(first, output, carry)
                replay.restore_generators(now)
            values = []
            for first, last in self._split(start, stop):
                if self.k2 > self.k1:
                    ring.append((first, last, replay.take(carry)))
                output, carry = chunks.run(first, last, carry)
                if self.k2 > self.k1:
                    replay.witness(first, output, carry)
                value = chunks.score(output, first, last)
                if value is not None:
                    values.append(value)
                    total = total + value.detach()
            if values:
                differentiate(values)
            del output, values
            carry = carries.detach(carry)
        return Step(total, carry, chunks.terms, self._depth(chunks.steps))

    def _split(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """A chunk in two where later windows will begin inside it.

        The pieces are what is run at a time, the first time and again: a dropout mask is drawn for
        one call of the model, and only the same call draws it again.
        """
        inside = start + (self.k1 - self.k2) % self.k1
        if start < inside < stop:
            yield start, inside
            start = inside
        yield start, stop

    def _depth(self, steps: int) -> Tensor:
        step = torch.arange(steps, device="cpu")
        chunk = step - step % self.k1
        return step - (chunk - (self.k2 - self.k1)).clamp(min=0)
