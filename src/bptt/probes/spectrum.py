"""The result of :func:`bptt.probes.lag_spectrum`: numbers, and the questions they answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bptt.errors import ArgumentError, real, whole
from bptt.probes.states import Saturation

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


# What a lag spectrum means, in a word: the rules, each number with its reason.

# A factor of 0.9 a step leaves a tenth after 22 steps: what is farther back is not learnt from.
VANISHES_BELOW = 0.9
# A factor of 1.02 a step is tenfold within 116 steps; less is lost in the noise of one batch.
EXPLODES_ABOVE = 1.02
# A gradient that has grown tenfold on its way back drowns what the nearer steps say.
GROWTH = 10.0


def growth(spectrum: LagSpectrum) -> float:
    """The largest product of the factors on the way back: 1 if the gradient never grows."""
    largest = level = 1.0
    for factor in spectrum.factors.tolist():
        level *= factor
        largest = max(largest, level)
    return largest


def verdict(spectrum: LagSpectrum) -> str:
    """``"exploding"``, ``"vanishing"`` or ``"healthy"``.

    Exploding: the gradient is not finite, or grows tenfold on its way back, or by more than 2 % a
    step. Vanishing: it falls by more than a tenth a step, and to under the horizon's 5 % before the
    sequence ends. Healthy: neither, which is also said of a gradient that is nothing: ask
    ``gradient_norm`` whether there is one.

    Example:
        >>> import torch
        >>> from bptt.probes import lag_spectrum
        >>> from bptt.recurrence import trace
        >>> rnn = torch.nn.RNN(3, 5)
        >>> _ = torch.nn.init.zeros_(rnn.weight_hh_l0)
        >>> (one,) = trace(rnn, torch.randn(7, 2, 3))
        >>> verdict(lag_spectrum(one, (torch.ones(7, 2, 5),)))
        'vanishing'
    """
    if not math.isfinite(spectrum.gradient_norm) or not bool(spectrum.norms.isfinite().all()):
        return "exploding"
    if growth(spectrum) >= GROWTH or spectrum.decay > EXPLODES_ABOVE:
        return "exploding"
    if spectrum.decay < VANISHES_BELOW and spectrum.horizon() < spectrum.steps:
        return "vanishing"
    return "healthy"


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


# A lag spectrum in sentences: the verdict and the numbers behind it.


def explain(spectrum: LagSpectrum, gates: Saturation | None = None) -> str:
    """What the gradient does, with evidence, a sentence each.

    Example:
        >>> import torch
        >>> from bptt.probes import lag_spectrum
        >>> from bptt.recurrence import trace
        >>> (one,) = trace(torch.nn.GRU(3, 5), torch.randn(7, 2, 3))
        >>> explain(lag_spectrum(one, (torch.ones(7, 2, 5),))).count(".") > 2
        True
    """
    word = verdict(spectrum)
    if not math.isfinite(spectrum.gradient_norm):
        return "The gradient is exploding: it is not finite. Clip it, or lower the learning rate."
    if spectrum.gradient_norm == 0:
        return "No gradient reaches the recurrent module's parameters: its norm is 0."
    horizon, T = spectrum.horizon(), spectrum.steps
    lines = [f"The gradient is {word}." if word != "healthy" else "The gradient is healthy."]
    if horizon >= T:
        lines.append(_reach(spectrum))
    else:
        lines.append(f"Truncated to {horizon} steps of {T} it is within 5 % of the full one.")
    lines.append(_share(spectrum))
    if math.isfinite(spectrum.decay):
        lines.append(_factor(spectrum.decay))
    largest = growth(spectrum)
    if largest >= GROWTH:
        lines.append(
            f"On its way back it grows to {largest:.3g} times its size (limit {GROWTH:g})."
        )
    wrong = (spectrum.measured_cosine < 0).nonzero()
    if len(wrong):
        k = int(spectrum.truncations[wrong[-1, 0]])
        lines.append(
            f"Truncated to {k} steps or fewer it can point the wrong way (cosine below 0)."
        )
    if gates is not None:
        units = "values are at or near the flat ends of their activation"
        lines.append(f"{100 * gates.share:.0f} % of the units' {units}.")
    if spectrum.lanes[0] < spectrum.lanes[1] or spectrum.sources < 1:
        error = float(spectrum.bias_error.nan_to_num(-1.0).max())  # NaN: no two halves to compare
        by = f"by up to {100 * error:.2g} %" if error >= 0 else "by what one step cannot tell"
        some = f"{spectrum.lanes[0]} of {spectrum.lanes[1]} lanes"
        if spectrum.sources < 1:
            followed = round(spectrum.sources * spectrum.steps)
            some += f" and the losses of {followed} of {spectrum.steps} steps"
        lines.append(f"Measured on {some}: the biases are uncertain {by}.")
    return " ".join(lines)


def _reach(spectrum: LagSpectrum) -> str:
    """How far a gradient reaches of which no measured truncation says enough."""
    T, at = spectrum.steps, spectrum.truncations.tolist()
    shorter = [
        pair for pair in zip(at, spectrum.measured_bias.tolist(), strict=True) if pair[0] < T
    ]
    if T == 1:
        return "It has one step, and so nothing to truncate."
    if not shorter:
        return f"No truncation of its {T} steps was measured."
    k, bias = shorter[-1]
    return (
        f"Truncated to {k} steps of {T}, the longest truncation measured, it is still off by "
        f"{100 * bias:.2g} %: it reaches farther back than that."
    )


def _share(spectrum: LagSpectrum) -> str:
    """How much comes from farther back than the place where it says most: bias between 5 and 50 %."""
    pairs = list(zip(spectrum.truncations.tolist(), spectrum.measured_bias.tolist(), strict=True))
    telling = [(k, b) for k, b in pairs if 0.1 <= b <= 0.3]
    k, bias = telling[len(telling) // 2] if telling else min(pairs, key=lambda p: abs(p[1] - 0.17))
    return f"{100 * bias:.2g} % of the gradient comes from more than {k} steps back."


def _factor(decay: float) -> str:
    text = f"The factor per step is {decay:.3g}"
    if decay < VANISHES_BELOW:
        return f"{text}, below {VANISHES_BELOW:g}: a tenth is left after {_steps_to_tenth(decay)} steps."
    if decay > EXPLODES_ABOVE:
        return f"{text}, above {EXPLODES_ABOVE:g}."
    return f"{text}."


def _steps_to_tenth(decay: float) -> int:
    return max(1, math.ceil(math.log(0.1) / math.log(decay))) if decay > 0 else 1
