"""Backpropagation through the whole sequence: the exact gradient, for the memory of all steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from bptt.carry import Carry
from bptt.gradients.step import Estimator, Loss, Step, check_call
from bptt.gradients.truncated import Truncated


@dataclass(frozen=True)
class Full(Estimator):
    """The exact gradient of the loss over the whole sequence given.

    The loss at step t reaches t steps back, to the first step; the carry the sequence began with is
    held constant.

    Attributes:
        batch_first: whether time is axis 1 of the inputs.

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

    def backward(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        carry: Carry = None,
        loss: Loss | None = None,
        *,
        reset: Tensor | None = None,
    ) -> Step:
        """See :meth:`Estimator.backward`."""
        axis = 1 if self.batch_first else 0
        check_call(carry, loss, inputs, targets, axis)
        # One chunk as long as the sequence is never cut and never weighted.
        whole = Truncated(k=inputs.shape[axis], batch_first=self.batch_first)
        return whole.backward(model, inputs, targets, carry, loss, reset=reset)
