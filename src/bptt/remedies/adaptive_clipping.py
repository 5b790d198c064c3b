"""Clips whose threshold follows from the norms seen so far: by percentile, and by z-score.

Beside them every clip from one word: ``"norm:1"``, ``"auto:10"``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from bptt.choices import CLIPS, clip_form, parse_form
from bptt.errors import ArgumentError, optional, real, whole
from bptt.files.read import fit
from bptt.remedies.clips import (
    Clip,
    ClipNorm,
    Clipped,
    ClipUnits,
    ClipValue,
    NoClip,
    Rescale,
    above_zero,
    scale_to,
)


@dataclass
class _Norms:
    """Newest last."""

    seen: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class AutoClip(Clip):
    """Clip to a percentile of the gradient norms seen so far, this one among them.

    θ_t = the p-th percentile of ‖g_1‖ … ‖g_t‖ (before clipping); g_t ← g_t · θ_t/‖g_t‖ where longer.
    Scaling the loss scales every θ: there is no threshold to tune. Norms that are not finite are not
    remembered.

    Attributes:
        percentile: p, above 0 and at most 100. With 10, about nine updates of ten are clipped.
        window: how many of the newest norms count; None for all, as in the paper.

    Cost: O(window) and 8 bytes a norm.

    Example:
        >>> import torch
        >>> clip, w = AutoClip(50), torch.zeros(1, requires_grad=True)
        >>> for g in (1.0, 3.0, 2.0, 9.0):
        ...     w.grad = torch.tensor([g]); done = clip([w])
        >>> done.threshold                      # the median of 1, 3, 2, 9
        2.5

    Source: P. Seetharaman, G. Wichern, B. Pardo and J. Le Roux, 2020, AutoClip: adaptive gradient
    clipping for source separation networks.
    """

    percentile: float = 10.0
    window: int | None = 10_000
    _norms: _Norms = field(default_factory=_Norms, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "percentile", real("percentile", self.percentile))
        object.__setattr__(self, "window", optional("window", self.window, remedy="leave it out"))
        if not 0 < self.percentile <= 100:
            raise ArgumentError(
                "a percentile above 0, at most 100", f"{self.percentile!r}", "give it in per cent"
            )

    def _act(self, parameters: list[Tensor], norm: Tensor) -> Clipped:
        seen = self._norms.seen
        seen.append(norm.item())
        if self.window is not None and len(seen) > self.window:
            del seen[0]
        threshold = float(np.percentile(seen, self.percentile))
        if threshold == 0:  # most gradients were zeros: no length to clip to
            return Clipped(norm, None)
        if threshold < seen[-1]:
            scale_to(parameters, norm, threshold)
        return Clipped(norm, threshold)

    def state_dict(self) -> dict[str, Any]:
        """The norms seen."""
        return {"norms": list(self._norms.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what :meth:`state_dict` said."""
        fit(state, {"norms": list[float]}, "state")
        kept = state["norms"] if self.window is None else state["norms"][-self.window :]
        self._norms.seen[:] = [float(n) for n in kept]


@dataclass
class _Moments:
    """Of the norms, after clipping."""

    calls: int = 0
    mean: float = 0.0
    variance: float = 0.0


@dataclass(frozen=True)
class ZClip(Clip):
    """Clip only the norms that stand out from the recent ones.

    z_t = (‖g_t‖ - μ)/σ. Where z_t > z*, the gradient is scaled to the norm μ + σ z*²/z_t: the further
    out, the closer to the mean. Then μ ← αμ + (1-α)n and σ² ← ασ² + (1-α)(n - μ)², with n the norm
    after clipping. The first ``warm_up`` norms are only averaged. Scaling the loss scales μ and σ.

    Attributes:
        z: z* > 0.
        decay: α, from 0 to below 1.
        warm_up: updates that are measured and not clipped, at least 2.

    Cost: that of :class:`ClipNorm`.

    Example:
        >>> import torch
        >>> clip, w = ZClip(2.5, warm_up=3), torch.zeros(1, requires_grad=True)
        >>> for g in (0.9, 1.0, 1.1, 100.0):
        ...     w.grad = torch.tensor([g]); done = clip([w])
        >>> done.acted, bool(w.grad < 1.1)
        (True, True)

    Source: A. Kumar, L. Owen, N. Roy Chowdhury and F. Güra, 2025, ZClip: adaptive spike mitigation
    for LLM pre-training.
    """

    z: float = 2.5
    decay: float = 0.97
    warm_up: int = 25
    _moments: _Moments = field(default_factory=_Moments, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        above_zero("z", self.z, of=self)
        object.__setattr__(self, "decay", real("decay", self.decay))
        warm_up = whole("warm_up", self.warm_up, 2, "a deviation needs two norms")
        object.__setattr__(self, "warm_up", warm_up)
        if not 0 <= self.decay < 1:
            raise ArgumentError("decay from 0 to below 1", f"{self.decay!r}", "try 0.97")

    def _act(self, parameters: list[Tensor], norm: Tensor) -> Clipped:
        moments, now = self._moments, norm.item()
        moments.calls += 1
        if moments.calls <= self.warm_up:
            # Welford's running mean and variance: no norm has to be kept.
            before = now - moments.mean
            moments.mean += before / moments.calls
            moments.variance += (before * (now - moments.mean) - moments.variance) / moments.calls
            return Clipped(norm, None)
        deviation = math.sqrt(moments.variance)
        threshold = moments.mean + self.z * deviation
        if now > threshold > 0:
            excess = (now - moments.mean) / deviation if deviation else math.inf
            now = moments.mean + deviation * self.z**2 / excess
            scale_to(parameters, norm, now)
        moments.mean = self.decay * moments.mean + (1 - self.decay) * now
        off = (now - moments.mean) ** 2
        moments.variance = self.decay * moments.variance + (1 - self.decay) * off
        return Clipped(norm, threshold if threshold > 0 else None)

    def state_dict(self) -> dict[str, Any]:
        """Calls, mean and variance."""
        return dict(vars(self._moments))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what :meth:`state_dict` said."""
        fit(state, {"calls": int, "mean": float, "variance": float}, "state")
        self._moments.calls = state["calls"]
        self._moments.mean, self._moments.variance = float(state["mean"]), float(state["variance"])


_CLIPS: dict[str, Callable[[float], Clip]] = {
    "norm": ClipNorm,
    "value": ClipValue,
    "rescale": Rescale,
    "auto": AutoClip,
    "z": ZClip,
    "unit": ClipUnits,
}


def build_clip(form: str | float | None) -> Clip:
    """A clip from its form.

    Args:
        form: ``"norm:1"``, ``"value:1"``, ``"rescale:1"``, ``"auto:10"`` (percentile), ``"z:2.5"``,
            ``"unit:0.01"`` (ratio), each with these numbers as defaults; a number is a norm;
            ``"none"`` or None measures only.

    Raises:
        ArgumentError: an unknown form, or a number out of range.

    Example:
        >>> build_clip("norm:0.5"), build_clip("auto"), build_clip(None)
        (ClipNorm(threshold=0.5), AutoClip(percentile=10.0, window=10000), NoClip())
    """
    name, number = parse_form(clip_form(form), CLIPS)
    return NoClip() if number is None else _CLIPS[name](number)
