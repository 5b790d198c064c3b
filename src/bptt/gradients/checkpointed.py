"""The exact gradient in little memory: keep a few states, run the steps between them again."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from typing import cast

import torch
from torch import Tensor, nn

from bptt import carry as carries
from bptt.carry import Carry
from bptt.gradients.chunks import Chunks
from bptt.gradients.replay import Replay, Snapshot
from bptt.gradients.schedule import plan
from bptt.gradients.segments import run_segment
from bptt.gradients.step import Estimator, Loss, Step
from bptt.numbers import optional


@dataclass(frozen=True)
class Checkpointed(Estimator):
    """The exact gradient of the whole sequence, for the memory of one segment and a few states.

    The sequence is cut into ``segments``. A forward pass keeps the carry before segments, not what
    lies in them; then, from the last segment to the first, each is run again with its graph and
    differentiated, and the gradient by its first carry is handed to the one before. With fewer
    ``states`` than segments, those that were not kept are made again from the one before, in the
    order that needs the fewest runs (:func:`bptt.gradients.schedule.plan`).

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
