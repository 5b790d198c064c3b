"""Numbers as a reader likes them."""

from __future__ import annotations

import math

from bptt.probes import LagSpectrum


def has_gradient(spectrum: LagSpectrum) -> bool:
    """Whether there is a gradient to measure a truncation by: neither nothing, nor not finite.

    Without one no truncation has a bias, and a horizon as long as the sequence says nothing of it.
    """
    return 0 < spectrum.gradient_norm < math.inf


def verdict_in_words(spectrum: LagSpectrum, verdict: str) -> str:
    """The verdict, but of a gradient that is nothing nobody should read that it is healthy."""
    return "no gradient" if spectrum.gradient_norm == 0 else verdict


def percent(value: float) -> str:
    """A share with two significant digits, and no more than two after the point.

    Example:
        >>> percent(0.1234), percent(0.0512), percent(0.00012), percent(0.0)
        ('12 %', '5.1 %', '0.01 %', '0 %')
    """
    if not math.isfinite(value):
        return "-"
    size = 100 * abs(value)
    if size == 0 or size >= 9.95:
        return f"{100 * value:.0f} %"
    return f"{100 * value:.1f} %" if size >= 0.995 else f"{100 * value:.2f} %"


def thousands(number: float) -> str:
    """A count with thin spaces between its thousands.

    Example:
        >>> thousands(12345) == "12\u2009345"
        True
    """
    return f"{number:,.0f}".replace(",", "\u2009")
