"""Loss terms: counted, so that a loss over chunks adds up to the loss over the whole.

A mean over a chunk is not its part of the mean over the sequence. Each chunk's mean must be weighted
by its share of the terms, or the gradient of a short last chunk counts for too much.
"""

from __future__ import annotations

from torch import Tensor

from bptt.errors import ArgumentError


def reduction_of(loss: object, named: str | None) -> str:
    """Whether a loss is a mean or a sum: as the caller named it, else as the loss says, else a mean."""
    reduction = named if named is not None else getattr(loss, "reduction", "mean")
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
    ignored = getattr(loss, "ignore_index", -100)
    return int((targets != ignored).sum())
