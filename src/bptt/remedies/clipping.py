"""Clipping: what is done to a gradient that is too long, and what was done, said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from bptt.errors import ArgumentError


@dataclass(frozen=True)
class Clipped:
    """What a clip saw and did.

    Attributes:
        norm: scalar tensor, the gradient's norm before clipping.
        threshold: the norm above which it acts; None where nothing was asked for.
    """

    norm: Tensor
    threshold: float | None

    @property
    def acted(self) -> bool:
        """Whether the gradient was changed."""
        if self.threshold is None or not bool(self.norm.isfinite()):
            return False
        return bool(self.norm > self.threshold)


def clip_norm(parameters: Iterable[Tensor], threshold: float | None) -> Clipped:
    """Scale all gradients together so that their global norm is at most ``threshold``.

    g ← g · θ / ‖g‖ where ‖g‖ > θ, the norm taken over all parameters at once, so the direction stays.

    Args:
        parameters: those without a gradient are passed over.
        threshold: θ > 0, or None to measure only.

    Returns:
        The norm before clipping, which is what tells whether a run is healthy. A norm that is not
        finite leaves the gradients as they are: scaling by it would spread the NaN to all of them.

    Raises:
        ArgumentError: the threshold is not positive, or no parameter has a gradient.

    Cost: two reads of the gradients, one write when it acts.

    Example:
        >>> import torch
        >>> w = torch.zeros(2, requires_grad=True); w.grad = torch.tensor([3.0, 4.0])
        >>> clip_norm([w], 1.0).norm, w.grad
        (tensor(5.), tensor([0.6000, 0.8000]))

    Source: R. Pascanu, T. Mikolov and Y. Bengio, 2013, On the difficulty of training recurrent
    neural networks.
    """
    if threshold is not None and not threshold > 0:
        raise ArgumentError("a threshold above 0", f"{threshold}", "leave it out to switch it off")
    parameters = [p for p in parameters if p.grad is not None]
    if not parameters:
        raise ArgumentError("gradients to clip", "none", "call backward() first")
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if threshold is not None and norm.isfinite():
        nn.utils.clip_grads_with_norm_(parameters, threshold, norm)
    return Clipped(norm, threshold)
