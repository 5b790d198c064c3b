"""Truncated backpropagation through time: chunks of k steps, the state carried, the gradient cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bptt import carry as carries
from bptt.carry import Carry
from bptt.errors import ArgumentError
from bptt.gradients.reduction import count_terms, reduction_of
from bptt.gradients.step import (
    Estimator,
    Loss,
    Step,
    call_loss,
    check_call,
    depth_of_chunks,
    run_model,
)


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
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1:
            raise ArgumentError("k >= 1", f"k={self.k!r}", "give the number of steps per chunk")

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
        loss = check_call(carry, loss, inputs, targets, axis)
        mean = reduction_of(loss, self.reduction) == "mean"
        terms = count_terms(loss, targets)
        steps = inputs.shape[axis]
        total = torch.zeros((), device=inputs.device)
        for start in range(0, steps, self.k):
            size = min(self.k, steps - start)

            def chunk(value: Any, start: int = start, size: int = size) -> Any:
                return None if value is None else value.narrow(axis, start, size)

            output, carry = run_model(model, chunk(inputs), carry, chunk(reset))
            here = count_terms(loss, chunk(targets))
            if here:
                value = call_loss(loss, output, chunk(targets))
                if mean and here != terms:
                    value = value * (here / terms)
                value.backward()
                total = total + value.detach()
            carry = carries.detach(carry)
        return Step(total, carry, terms, depth_of_chunks(steps, self.k))
