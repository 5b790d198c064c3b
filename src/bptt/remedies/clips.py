"""What every clip has in common: its face, what it says it did, and how it meets what is not finite.

One rule for all of them. Where the norm of the gradient is NaN or infinite, every gradient stays
exactly as it was, what the clip remembers stays too, and the :class:`Clipped` says ``finite`` False:
scaling by such a norm would spread the NaN to all parameters. The caller then leaves the update out, as
:func:`bptt.training.fit_step` does.

A gradient of zeros stays zeros.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from bptt.errors import ArgumentError, real
from bptt.files.read import shown
from bptt.probes.guard.loop import CLIPS


@dataclass(frozen=True, eq=False)
class Clipped:
    """What a clip saw and did.

    Attributes:
        norm: scalar tensor, the gradient's norm over all parameters before clipping.
        threshold: what it was compared with, in the clip's own unit; None where nothing was.
        share: scalar tensor: share of the elements or units that were changed; None for a clip that
            scales the whole gradient where the norm is above the threshold.
    """

    norm: Tensor
    threshold: float | None
    share: Tensor | None = None

    @property
    def finite(self) -> bool:
        """Whether the norm was; where it was not, nothing was changed."""
        return bool(self.norm.isfinite())

    @property
    def acted(self) -> bool:
        """Whether the gradient was changed."""
        if self.share is not None:
            return bool(self.share > 0)
        if self.threshold is None or not self.finite:
            return False
        return bool(self.norm > self.threshold)

    @property
    def verdict(self) -> str:
        """``"clipped"``, ``"left"``, or ``"left: not finite"``."""
        if not self.finite:
            return "left: not finite"
        return "clipped" if self.acted else "left"


class Clip(ABC):
    """A way to hold a gradient within bounds; instances are values, called once between backward and
    the update."""

    def __call__(self, parameters: Iterable[Tensor]) -> Clipped:
        """Change ``.grad`` in place.

        Args:
            parameters: those without a gradient are passed over.

        Returns:
            the :class:`Clipped`.

        Raises:
            ArgumentError: no parameter has a gradient.
        """
        kept, norm = measure(parameters)
        if not bool(norm.isfinite()):
            return Clipped(norm, None)
        for told in CLIPS:
            told(kept, self.largest_norm, norm, self.by_norm)
        return self._act(kept, norm)

    # For those who watch: whether the threshold is one of the norm, and reached now and then only.
    by_norm: ClassVar[bool] = False

    @property
    def largest_norm(self) -> float | None:
        """The threshold of a clip by norm; of another one infinity; None where nothing is changed."""
        return math.inf

    @abstractmethod
    def _act(self, parameters: list[Tensor], norm: Tensor) -> Clipped:
        """Clip; the norm is finite and every parameter has a gradient."""

    def state_dict(self) -> dict[str, Any]:
        """What the clip remembers from call to call, as JSON takes it; most remember nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what :meth:`state_dict` said."""
        if state:
            raise ArgumentError(
                f"no state for {type(self).__name__}",
                shown(state),
                "resume with the clip the state was saved from",
            )


def measure(parameters: Iterable[Tensor]) -> tuple[list[Tensor], Tensor]:
    """The parameters that have a gradient, and its norm over all of them."""
    kept = [p for p in parameters if p.grad is not None]
    if not kept:
        raise ArgumentError(
            "gradients to clip", "none",
            "call backward() first (docs/mistakes.md#clip-before-backward)",
        )  # fmt: skip
    return kept, nn.utils.get_total_norm([p.grad for p in kept if p.grad is not None])


def scale_to(parameters: list[Tensor], norm: Tensor, length: float) -> None:
    """g ← g/‖g‖ · θ, the norm above zero. In this order nothing overflows, however short g is."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    torch._foreach_div_(gradients, norm)
    torch._foreach_mul_(gradients, length)


def above_zero(
    name: str, value: float, remedy: str = "leave it out to switch it off", of: object = None
) -> float:
    """A threshold as float, kept in that field of a clip or penalty that is being made.

    Raises:
        ArgumentError: it is not a positive number.
    """
    number = real(name, value, remedy)
    if not 0 < number < torch.inf:
        raise ArgumentError(f"a {name} above 0", f"{number!r}", remedy)
    if of is not None:
        object.__setattr__(of, name, number)
    return number


# Clips that remember nothing: by norm, by value, rescaled to a norm, and unit by unit.


def clip_norm(parameters: Iterable[Tensor], threshold: float | None) -> Clipped:
    """Scale all gradients together so that their global norm is at most ``threshold``.

    g ← g · θ / ‖g‖ where ‖g‖ > θ, the norm taken over all parameters at once, so the direction stays.
    The divisor is torch's ‖g‖ + 1e-6, so that the norm ends just below θ.

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
    if threshold is not None:
        threshold = real("threshold", threshold, "leave it out to switch it off")
        if not threshold > 0:
            raise ArgumentError(
                "a threshold above 0", f"{threshold}", "leave it out to switch it off"
            )
    kept, norm = measure(parameters)
    if threshold is not None and norm.isfinite():
        _hold(kept, norm, threshold)
    return Clipped(norm, threshold)


def _hold(parameters: list[Tensor], norm: Tensor, threshold: float) -> None:
    # Not left to torch: its ‖g‖ + 1e-6 also shrinks a gradient that is within a tiny threshold.
    if bool(norm > threshold):
        nn.utils.clip_grads_with_norm_(parameters, threshold, norm)


@dataclass(frozen=True)
class NoClip(Clip):
    """Measure the norm and change nothing."""

    @property
    def largest_norm(self) -> float | None:
        """None."""
        return None

    def _act(self, parameters: list[Tensor], norm: Tensor) -> Clipped:
        return Clipped(norm, None)


@dataclass(frozen=True)
class ClipNorm(Clip):
    """:func:`clip_norm` as a value: g ← g · θ / ‖g‖ where ‖g‖ > θ.

    Attributes:
        threshold: θ > 0.

    Example:
        >>> w = torch.zeros(2, requires_grad=True); w.grad = torch.tensor([3.0, 4.0])
        >>> ClipNorm(1.0)([w]).verdict
        'clipped'
    """

    threshold: float = 1.0
    by_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        above_zero("threshold", self.threshold, of=self)

    @property
    def largest_norm(self) -> float | None:
        """θ."""
        return self.threshold

    def _act(self, parameters: list[Tensor], norm: Tensor) -> Clipped:
        _hold(parameters, norm, self.threshold)
        return Clipped(norm, self.threshold)


@dataclass(frozen=True)
class ClipValue(Clip):
    """Hold every element within ±limit; the direction changes.

    Attributes:
        limit: > 0.

    Example:
        >>> w = torch.zeros(2, requires_grad=True); w.grad = torch.tensor([3.0, -0.5])
        >>> ClipValue(1.0)([w]).share, w.grad
        (tensor(0.5000), tensor([ 1.0000, -0.5000]))

    Source: T. Mikolov, 2012, Statistical language models based on neural networks.
    """

    limit: float = 1.0

    def __post_init__(self) -> None:
        above_zero("limit", self.limit, of=self)

    def _act(self, parameters: list[Tensor], norm: Tensor) -> Clipped:
        gradients = [p.grad for p in parameters if p.grad is not None]
        beyond = torch.stack([(g.abs() > self.limit).sum() for g in gradients]).sum()
        torch._foreach_clamp_min_(gradients, -self.limit)
        torch._foreach_clamp_max_(gradients, self.limit)
        return Clipped(norm, self.limit, beyond / sum(g.numel() for g in gradients))


@dataclass(frozen=True)
class Rescale(Clip):
    """Give the gradient the same norm in every step, long or short: g ← g · θ / ‖g‖; zeros stay.

    A plateau is crossed at full speed and a minimum is overshot: lower the rate towards the end.

    Attributes:
        norm: θ > 0.

    Example:
        >>> w = torch.zeros(2, requires_grad=True); w.grad = torch.tensor([0.03, 0.04])
        >>> _ = Rescale(1.0)([w]); w.grad
        tensor([0.6000, 0.8000])

    Source: E. Hazan, K. Levy and S. Shalev-Shwartz, 2015, Beyond convexity: stochastic quasi-convex
    optimization (normalised gradient descent).
    """

    norm: float = 1.0

    def __post_init__(self) -> None:
        above_zero("norm", self.norm, of=self)

    def _act(self, parameters: list[Tensor], norm: Tensor) -> Clipped:
        there = bool(norm > 0)
        if there:
            scale_to(parameters, norm, self.norm)
        return Clipped(norm, self.norm, torch.tensor(float(there), device=norm.device))


@dataclass(frozen=True)
class ClipUnits(Clip):
    """Hold each unit's gradient to a share of the unit's own weights (adaptive gradient clipping).

    A unit is a row of a weight matrix, its incoming weights; a bias vector counts as one. Row i:
    G_i ← G_i · λ max(‖W_i‖, ε) / ‖G_i‖ where ‖G_i‖ exceeds that share. Scaling weights and gradients
    together scales the result (above ε).

    Attributes:
        ratio: λ > 0.
        floor: ε > 0, so that weights that begin at zero can move.

    Example:
        >>> w = torch.tensor([[3.0, 4.0], [3.0, 4.0]], requires_grad=True)
        >>> w.grad = torch.tensor([[6.0, 8.0], [0.0, 0.1]])
        >>> ClipUnits(0.1)([w]).share, w.grad
        (tensor(0.5000), tensor([[0.3000, 0.4000],
                [0.0000, 0.1000]]))

    Source: A. Brock, S. De, S. L. Smith and K. Simonyan, 2021, High-performance large-scale image
    recognition without normalization.
    """

    ratio: float = 0.01
    floor: float = 1e-3

    def __post_init__(self) -> None:
        above_zero("ratio", self.ratio, of=self)
        above_zero("floor", self.floor, of=self)

    @torch.no_grad()
    def _act(self, parameters: list[Tensor], norm: Tensor) -> Clipped:
        beyond, units = norm.new_zeros(()), 0
        for p in parameters:
            grad = cast(Tensor, p.grad)
            weights, gradient = _unit_norms(p), _unit_norms(grad)
            most = self.ratio * weights.clamp_min(self.floor)
            over = gradient > most
            grad.mul_(torch.where(over, most / gradient, 1.0))
            beyond, units = beyond + over.sum(), units + over.numel()
        return Clipped(norm, self.ratio, beyond / units)


def _unit_norms(value: Tensor) -> Tensor:
    axes = tuple(range(1 if value.dim() > 1 else 0, value.dim()))
    return torch.linalg.vector_norm(value, dim=axes or None, keepdim=bool(axes))
