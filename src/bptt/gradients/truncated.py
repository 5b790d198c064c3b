"""Truncated backpropagation through time: chunks of k steps, the state carried, the gradient cut."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from bptt import carry as carries
from bptt.carry import Carry
from bptt.gradients.chunks import Chunks, differentiate
from bptt.gradients.step import Estimator, Loss, Step, depth_of_chunks
from bptt.numbers import whole


@dataclass(frozen=True)
class Truncated(Estimator):
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
