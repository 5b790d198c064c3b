"""The result of :func:`bptt.probes.lag_spectrum`: numbers, and the questions they answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bptt.errors import ArgumentError, real, whole

# One factor per step out of a gradient's fall by lag.

# Lags that carry less than this share of the largest norm do not tell what the gradient does.
CARRIES = 1e-3
# Slopes are taken between pairs: no more points than this, evenly spaced, keep that quick.
POINTS = 128


def fit_decay(factors: Tensor, norms: Tensor) -> float:
    """The factor by which the gradient changes per step back.

    exp of the Theil–Sen slope of log Π_{i<j} factors_i against the lag j: the median of the slopes
    between all pairs of lags, which a few odd lags cannot move. Lags count up to the last one whose
    norm is a thousandth of the largest.

    Args:
        factors: ``(lags - 1,)`` the change from lag j to j + 1, among steps that have a step before.
        norms: ``(lags,)``.

    Returns:
        The factor; NaN where there are fewer than two lags, 0 where nothing passes one step.

    Example:
        >>> fit_decay(torch.full((9,), 0.5), 0.5 ** torch.arange(10.0))
        0.5

    Source: P. K. Sen, 1968, Estimates of the regression coefficient based on Kendall's tau.
    """
    if not len(factors):
        return math.nan
    carries = (norms >= CARRIES * norms.max()).nonzero()
    last = min(int(carries[-1, 0]) if len(carries) else 0, len(factors))
    logs = factors[: max(last, 1)].double().log()
    good = logs.isfinite()
    if not bool(good[0]):
        return float(factors[0])
    stop = int(good.long().cumprod(0).sum())
    level = torch.cat([logs.new_zeros(1), logs[:stop].cumsum(0)])
    at = torch.arange(len(level), dtype=torch.float64, device="cpu")
    if len(level) > POINTS:
        kept = torch.linspace(0, len(level) - 1, POINTS, device="cpu").long()
        level, at = level[kept], at[kept]
    i, j = torch.triu_indices(len(level), len(level), 1, device="cpu")
    slopes = (level[j] - level[i]) / (at[j] - at[i])
    # torch's median is the lower of the two middle ones; the quantile takes their mean.
    return math.exp(float(slopes.quantile(0.5)))


@dataclass(frozen=True, eq=False)
class LagSpectrum:
    """What :func:`lag_spectrum` found. Tensors are float64 on the CPU, gradients in the loss's units.

    Attributes:
        name: of the recurrent module.
        steps: T, of the longest lane.
        norms: ``(lags,)``: norm over all steps, lanes and states of the gradient j steps back,
            (Σ_t ‖δ_t^j‖²)^½, for j = 0, 1, … up to T or the cap; 0 from where it is below rounding.
        state_norms: state's label → ``(lags,)``, the same for each state apart (an LSTM's h and c).
        factors: ``(followed - 1,)``: by how much a lag's gradient changes in the next step back, over
            those steps that have a step before them: 1 for an orthogonal map, however short the sequence.
            As long as the lags were followed, above rounding.
        decay: the robust factor per step, see :func:`bptt.probes.fit_decay`; NaN with one lag.
        truncations: ``(n,)`` int64, ascending: the K that were measured.
        measured_bias: ``(n,)``: ‖g_K - g‖ / ‖g‖ at those K.
        measured_cosine: ``(n,)``: cosine of the angle between g_K and g at those K.
        block_norms: ``(n,)``: norm of the parameter gradient of the lags from one measured K to the
            next: up to K=64 that of the single lag K - 1.
        parameters: name → ``(n,)``: ‖g_K - g‖ / ‖g‖ of each parameter alone; NaN where its g is 0.
        layers: layer → ``(n,)``: the same for each layer's parameters together.
        gradient_norm: ‖g‖.
        state_gradient_norms: ``(T,)``: ‖∂L/∂h_t‖ over lanes and states, all lags together.
        lanes: how many lanes were measured, of how many.
        sources: the share of the loss's time steps that were followed; 1 unless sampled.
        bias_error: ``(n,)``: standard error of ``measured_bias`` from sampling, half the difference
            between two halves of the sample, at the first K and every fourth from there, held until
            the next; zeros where nothing was sampled, NaN where the sample is one step of one lane.
        missing_dot: ``(n,)``: (g - g_K)·g, so that spectra can be put together.
    """

    name: str
    steps: int
    norms: Tensor
    state_norms: dict[str, Tensor]
    factors: Tensor
    decay: float
    truncations: Tensor
    measured_bias: Tensor
    measured_cosine: Tensor
    block_norms: Tensor
    parameters: dict[str, Tensor]
    layers: dict[int, Tensor]
    gradient_norm: float
    state_gradient_norms: Tensor
    lanes: tuple[int, int]
    sources: float
    bias_error: Tensor
    missing_dot: Tensor | None = None

    @property
    def bias(self) -> Tensor:
        """``(lags,)``: bias[K - 1] of the gradient truncated to K; between measured K interpolated on
        its logarithm."""
        tiny = torch.finfo(torch.float64).tiny
        return self._spread(self.measured_bias.clamp(min=tiny).log()).exp()

    @property
    def cosine(self) -> Tensor:
        """``(lags,)``: cosine[K - 1] of truncated and full gradient; between measured K interpolated
        linearly."""
        return self._spread(self.measured_cosine)

    def horizon(self, tolerance: float = 0.05) -> int:
        """The smallest K from which on the relative bias is at most ``tolerance``, in steps.

        It is one of the K that were measured: what lies between two of them is not seen, and the
        true one may lie anywhere above the next smaller K measured. By default that leaves it exact
        up to K=64 and beyond at most 19 % too large. With ``at`` of your own it is as coarse as
        that, and never below its smallest K; of a ``bptt.watch(every=n)`` without ``at`` it is up to
        60 % too large, beyond 8 up to 42 %, and more or less where the sample of losses says so: most
        often by none of that grid's K, in trials by two at most. If no measured K is good enough, T.

        Raises:
            ArgumentError: the tolerance is not between 0 and 1.
        """
        tolerance = real("tolerance", tolerance, "pass a share, e.g. 0.05 for 5 %")
        if not 0 < tolerance < 1:
            raise ArgumentError(
                "a tolerance between 0 and 1", f"{tolerance}", "pass a share, e.g. 0.05 for 5 %"
            )
        good = (self.measured_bias <= tolerance).tolist()
        horizon = self.steps
        for k, fine in zip(reversed(self.truncations.tolist()), reversed(good), strict=True):
            if not fine:
                break
            horizon = k
        return horizon

    def bias_of(self, k: int) -> float:
        """Relative bias at a measured K; 0 from the sequence's length on.

        Raises:
            ArgumentError: this K was not measured.
        """
        return self._at(k, self.measured_bias, 0.0)

    def cosine_of(self, k: int) -> float:
        """Cosine at a measured K; 1 from the sequence's length on. Raises: as :meth:`bias_of`."""
        return self._at(k, self.measured_cosine, 1.0)

    def _at(self, k: int, values: Tensor, beyond: float) -> float:
        k = whole("K", k, remedy="count steps: K=1 is a loss's own step alone")
        if k >= self.steps:
            return beyond
        found = (self.truncations == k).nonzero()
        if not len(found):
            raise ArgumentError(
                "a K that was measured", f"K={k}", f"ask for it: at=[{k}], or at='every'"
            )
        return float(values[found[0, 0]])

    def _spread(self, values: Tensor) -> Tensor:
        lags = len(self.norms)
        at = torch.arange(1, lags + 1, device="cpu")
        if len(self.truncations) == 1:
            return values.expand(lags).clone()
        right = torch.searchsorted(self.truncations, at).clamp(1, len(self.truncations) - 1)
        low, high = self.truncations[right - 1], self.truncations[right]
        share = ((at - low) / (high - low)).clamp(0, 1).to(values.dtype)
        return torch.lerp(values[right - 1], values[right], share)
