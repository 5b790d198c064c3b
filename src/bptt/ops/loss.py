"""Softmax and cross-entropy in one pass over the logits, which makes the gradient on the way."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bptt.choices import IGNORED
from bptt.ops import native
from bptt.ops.dropout import runs_here
from bptt.ops.eager import is_batched


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax(logits)[target] over the targets that are scored, those that are not -100.

    Args:
        logits: ``(…, V)``.
        targets: int64, their leading axes.

    Returns:
        A scalar, NaN where no target is scored. Each row's sum is taken in float32 and the sum over rows
        in float64; on every number of threads the same to the bit. Where the compiled kernels do not run
        (see :func:`bptt.ops.dropout`), what torch's own function returns.

    Raises:
        ArgumentError: a target is neither in 0 … V-1 nor -100.

    Cost: one read of the logits and one write of their gradient, where torch takes three and three.

    Example:
        >>> cross_entropy(torch.zeros(3, 4), torch.tensor([0, 1, -100]))  # log 4
        tensor(1.3863)
    """
    rows, wanted = logits.flatten(0, -2), targets.flatten()
    if not _covers(rows, wanted):
        return F.cross_entropy(rows, wanted)
    if torch.is_grad_enabled() and rows.requires_grad:
        return _CrossEntropy.apply(rows, wanted)
    return _mean(native.cross_entropy(rows, wanted, IGNORED)[0], _scored(wanted))


def summed_nats(logits: Tensor, targets: Tensor) -> float:
    """Sum of -log softmax(logits)[target] over the targets that are scored, for a score; no gradient.

    Args:
        logits, targets: as in :func:`cross_entropy`.
    """
    rows, wanted = logits.detach().flatten(0, -2), targets.flatten()
    if _covers(rows, wanted):
        return native.cross_entropy(rows, wanted, IGNORED)[0].sum().item()
    # In double: a long text has more terms than a float can count.
    return F.cross_entropy(rows.double(), wanted, reduction="sum", ignore_index=IGNORED).item()


def _covers(rows: Tensor, wanted: Tensor) -> bool:
    return (
        runs_here(rows)
        and rows.shape[0] > 0
        and rows.shape[1] > 0
        and wanted.dtype == torch.int64
        and wanted.shape == rows.shape[:1]
        and wanted.is_cpu
        and type(wanted) is Tensor
        and not torch.is_autocast_enabled("cpu")
    )


def _scored(wanted: Tensor) -> int:
    return int(wanted.ne(IGNORED).sum())


def _mean(nats: Tensor, terms: int) -> Tensor:
    """NaN where there are no terms."""
    return (nats.sum() / terms).float()


class _CrossEntropy(torch.autograd.Function):
    """The gradient is made with the loss, and multiplied by the loss's own where that is not 1."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, wanted: Tensor) -> Tensor:
        """The loss."""
        terms = _scored(wanted)
        nats, gradient = native.cross_entropy(rows, wanted, IGNORED, 1 / max(terms, 1))
        ctx.save_for_backward(rows, wanted, gradient)
        return _mean(nats, terms)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None]:
        """Of the logits."""
        rows, wanted, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():  # differentiated again
            with torch.enable_grad():
                again = F.cross_entropy(rows, wanted)
                return torch.autograd.grad(again, rows, dy, create_graph=True)[0], None
        if not is_batched(dy) and dy.item() == 1:
            return gradient, None
        return gradient * dy, None


__all__ = ["cross_entropy", "summed_nats"]
