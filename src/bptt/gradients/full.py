"""Backpropagation through the whole sequence: the exact gradient, for the memory of all steps."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn

from bptt import carry as carries
from bptt.carry import Carry
from bptt.gradients.chunks import Chunks
from bptt.gradients.segments import Segment, run_segment
from bptt.gradients.step import Estimator, Loss, Step
from bptt.numbers import whole


@dataclass(frozen=True)
class Full(Estimator):
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
        return Step(total, carry, chunks.terms, torch.arange(chunks.steps))
