"""The exact gradient in little memory: keep a few states, run the steps between them again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, comb, sqrt
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from bptt.errors import optional, whole
from bptt.gradients.chunks import Chunks, differentiate
from bptt.gradients.replay import Replay, Snapshot, copied
from bptt.gradients.step import Estimator, Loss, Step
from bptt.nn import carry as carries
from bptt.nn.carry import Carry

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
class Checkpointed(Estimator):
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

    def backward(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        carry: Carry = None,
        loss: Loss | None = None,
        *,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Step:
        """See :meth:`Estimator.backward`."""
        chunks = Chunks.of(
            model, inputs, targets, carry, loss, reset=reset, lengths=lengths,
            batch_first=self.batch_first, reduction=self.reduction,
        )  # fmt: skip
        wanted = self.segments or ceil(sqrt(chunks.steps))
        pieces = list(chunks.pieces(ceil(chunks.steps / wanted)))
        last = len(pieces) - 1
        states = min(self.states or len(pieces), len(pieces))
        replay = Replay(model, inputs.device, places=states)
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
        return Step(total, carry, chunks.terms, torch.arange(chunks.steps))
