"""What every clip has in common: its face, what it says it did, and how it meets what is not finite.

One rule for all of them. Where the norm of the gradient is NaN or infinite, every gradient stays
exactly as it was, what the clip remembers stays too, and the :class:`Clipped` says ``finite`` False:
scaling by such a norm would spread the NaN to all parameters. The caller then skips the update::

    if clip(model.parameters()).finite:
        optimizer.step()

A gradient of zeros stays zeros.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bptt.errors import ArgumentError
from bptt.files.values import shown
from bptt.numbers import real


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
        return self._act(kept, norm)

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
        raise ArgumentError("gradients to clip", "none", "call backward() first")
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
