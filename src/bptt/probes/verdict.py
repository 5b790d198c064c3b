"""What a lag spectrum means, in a word: the rules, each number with its reason."""

from __future__ import annotations

import math

from bptt.probes.spectrum import LagSpectrum

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
