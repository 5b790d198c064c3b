"""A lag spectrum in sentences: the verdict and the numbers behind it."""

from __future__ import annotations

import math

from bptt.probes.saturation import Saturation
from bptt.probes.spectrum import LagSpectrum
from bptt.probes.verdict import EXPLODES_ABOVE, GROWTH, VANISHES_BELOW, growth, verdict


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
