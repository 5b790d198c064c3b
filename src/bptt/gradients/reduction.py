"""Loss terms: counted, so that a loss over chunks adds up to the loss over the whole.

A mean over a chunk is not its part of the mean over the sequence. Each chunk's mean must be weighted
by its share of what the whole mean divides by, or the gradient of a short last chunk counts for too
much: the number of terms, or the sum of their class weights.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from bptt.errors import ArgumentError


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
    return int((targets != _option(loss, "ignore_index", -100)).sum())


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
    scored = targets[targets != _option(loss, "ignore_index", -100)]
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
