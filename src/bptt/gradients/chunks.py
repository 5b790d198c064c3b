"""A checked call of an estimator, run and scored one piece of time after another.

What the chunked estimators share stands here: cutting inputs, targets and marks, calling the model,
and weighing each piece's loss so that the pieces add up to the loss the user named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bptt.carry import Carry
from bptt.errors import ArgumentError
from bptt.gradients.reduction import class_weight, count_terms, reduction_of, weigh_terms
from bptt.gradients.step import Loss, call_loss, check_call, check_lengths, run_model
from bptt.nn.inputs import as_marks


@dataclass(frozen=True, eq=False)
class Chunks:
    """One call's model, data and loss, by pieces ``start … stop-1`` of the time axis.

    Attributes:
        axis: the time axis of inputs, targets and reset.
        mean: whether the loss is a mean over its terms; a sum otherwise.
        terms: number of terms over the whole sequence.
        weight: what a mean over the whole sequence divides by; of a sum, the number of terms.
    """

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    loss: Loss
    axis: int
    reset: Tensor | None
    lengths: Tensor | None
    mean: bool
    terms: int
    weight: float

    @classmethod
    def of(
        cls,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        carry: Carry,
        loss: Loss | None,
        *,
        reset: Tensor | None,
        lengths: Tensor | None,
        batch_first: bool,
        reduction: str | None,
    ) -> Chunks:
        """Check a call of :meth:`Estimator.backward`."""
        axis = 1 if batch_first else 0
        loss = check_call(carry, loss, inputs, targets, axis)
        lengths = check_lengths(lengths, inputs, axis)
        reset = None if reset is None else as_marks("reset", reset)
        mean = reduction_of(loss, reduction) == "mean"
        terms = count_terms(loss, targets)
        weight = weigh_terms(loss, targets) if mean else terms
        return cls(model, inputs, targets, loss, axis, reset, lengths, mean, terms, weight)

    @property
    def steps(self) -> int:
        """T."""
        return self.inputs.shape[self.axis]

    @property
    def zero(self) -> Tensor:
        """What a sum of losses begins with."""
        return torch.zeros((), device=self.inputs.device)

    def pieces(self, size: int) -> Iterator[tuple[int, int]]:
        """``(start, stop)`` of consecutive pieces of ``size`` steps, the last one perhaps shorter."""
        for start in range(0, self.steps, size):
            yield start, min(start + size, self.steps)

    def run(self, start: int, stop: int, carry: Carry) -> tuple[Any, Carry]:
        """The model's output on a piece, and its carry after it."""
        lengths = self.lengths
        if lengths is not None:
            # A lane that has ended before the piece has no step in it, and keeps its state.
            lengths = (lengths - start).clamp(0, stop - start)
        inputs, reset = self._cut(self.inputs, start, stop), None
        if self.reset is not None:
            reset = self._cut(self.reset, start, stop)
        return run_model(self.model, inputs, carry, reset, lengths)

    def score(self, output: Any, start: int, stop: int) -> Tensor | None:
        """A piece's part of the loss over the whole sequence; None where no term is scored."""
        target = self._cut(self.targets, start, stop)
        # Where nothing is ignored or weighed anywhere, no value has to be looked at.
        even = self.terms == self.targets.numel() and class_weight(self.loss) is None
        weigh = weigh_terms if self.mean else count_terms
        here = target.numel() if even else weigh(self.loss, target)
        if not here:
            return None
        value = call_loss(self.loss, output, target)
        return value * (here / self.weight) if self.mean and here != self.weight else value

    def _cut(self, value: Tensor, start: int, stop: int) -> Tensor:
        return value.narrow(self.axis, start, stop - start)


def differentiate(
    roots: Sequence[Tensor], cotangents: Sequence[Tensor | None] | None = None
) -> None:
    """``torch.autograd.backward``, which tells a state kept behind the carry for what it is."""
    try:
        torch.autograd.backward(roots, cotangents)
    except RuntimeError as error:
        if "second time" not in str(error):
            raise
        raise hidden_state("its loss reaches into the graph of an earlier chunk") from error


def hidden_state(symptom: str) -> ArgumentError:
    """The error for a model whose calls depend on more than their input and their carry."""
    return ArgumentError(
        "a model whose whole state is in the carry",
        f"one that keeps some of it elsewhere: {symptom}",
        "hand all state in and out as the carry; keep no graph on the module (self.h = h.detach())",
    )
