"""A checked call of an estimator, run and scored one piece of time after another.

What the chunked estimators share stands here: cutting inputs, targets and marks, calling the model,
and weighing each piece's loss so that the pieces add up to the loss the user named.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt.choices import IGNORED
from bptt.errors import ArgumentError
from bptt.gradients.step import (
    Estimator,
    Loss,
    Step,
    call_loss,
    check_call,
    check_lengths,
    run_model,
)
from bptt.nn.carry import Carry
from bptt.nn.inputs import as_marks

# Loss terms: counted, so that a loss over chunks adds up to the loss over the whole.
#
# A mean over a chunk is not its part of the mean over the sequence. Each chunk's mean must be weighted
# by its share of what the whole mean divides by, or the gradient of a short last chunk counts for too
# much: the number of terms, or the sum of their class weights.


def reduction_of(loss: object, named: str | None) -> str:
    """Whether a loss is a mean or a sum: as the caller named it, else as the loss says, else a mean."""
    reduction = named if named is not None else _option(loss, "reduction", "mean")
    if reduction not in ("mean", "sum"):
        raise ArgumentError(
            "a loss reduced by 'mean' or 'sum'",
            repr(reduction),
            "build the loss with reduction='mean', or name it: Truncated(k, reduction='sum')",
        )
    return reduction


def count_terms(loss: object, targets: Tensor) -> int:
    """Number of terms a loss scores: all targets, but not those a class loss is told to ignore.

    Class losses of torch ignore the target -100 unless told otherwise, and no class has that number.
    """
    if targets.is_floating_point() or targets.is_complex():
        return targets.numel()
    return int((targets != _option(loss, "ignore_index", IGNORED)).sum())


def weigh_terms(loss: object, targets: Tensor) -> float:
    """What a mean over these targets divides by: their number, or the sum of their class weights.

    The class losses of torch that average by weight do so for targets that name a class; where a
    target is a distribution over classes they divide by the number of terms.

    Raises:
        ArgumentError: label smoothing gives a loss to targets whose weights are all zero, which a mean
            over them alone cannot tell.
    """
    weight = class_weight(loss)
    if weight is None or targets.is_floating_point() or targets.is_complex():
        return count_terms(loss, targets)
    scored = targets[targets != _option(loss, "ignore_index", IGNORED)]
    total = float(weight.detach().double()[scored].sum())
    if not total and scored.numel() and _option(loss, "label_smoothing", 0.0):
        raise ArgumentError(
            "targets of a weight above 0 in every piece, for a smoothed mean",
            "a piece with none",
            "sum instead: reduction='sum', divided by what the mean divides by",
        )
    return total


def class_weight(loss: object) -> Tensor | None:
    """The class weights a mean is weighted by; of other losses' weights the mean knows nothing."""
    known = isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) or (
        isinstance(loss, partial) and loss.func in (F.cross_entropy, F.nll_loss)
    )
    return _option(loss, "weight", None) if known else None


def _option(loss: object, name: str, default: Any) -> Any:
    """What a loss says of itself: a module as an attribute, a partial among its keywords."""
    if isinstance(loss, partial):
        return loss.keywords.get(name, default)
    return getattr(loss, name, default)


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
        weighed = mean and class_weight(loss) is not None
        weight = weigh_terms(loss, targets) if weighed else terms
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
        "hand all state in and out as the carry; keep no graph on the module (self.h = h.detach(); "
        "docs/mistakes.md#missing-detach)",
    )


class ChunkEstimator(Estimator):
    """An estimator that goes over the time axis in pieces.

    A subclass is a frozen dataclass with the two fields below, and says how it takes the pieces.

    Attributes:
        batch_first: whether time is axis 1 of the inputs.
        reduction: ``"mean"`` or ``"sum"``; default: what the loss says of itself, else a mean.
    """

    batch_first: bool
    reduction: str | None

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
        return self._take(chunks, carry)

    @abstractmethod
    def _take(self, chunks: Chunks, carry: Carry) -> Step:
        """Add the gradient of a call that was checked to the ``.grad`` of its model's parameters."""
