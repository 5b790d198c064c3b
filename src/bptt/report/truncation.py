"""What truncating to K steps does to the gradient: its bias and its direction."""

from __future__ import annotations

from typing import Any

import numpy as np

from bptt.probes import LagSpectrum
from bptt.report.numbers import percent
from bptt.report.style import BLUE, GREEN, INK, ORANGE, PURPLE

LEAST = 1e-4  # a bias below a hundredth of a percent is not drawn


def draw_bias(axes: Any, spectrum: LagSpectrum, k: int | None = None) -> None:
    """Relative bias against K, both logarithmic, with the tolerances 5 % and 1 %.

    Args:
        axes: matplotlib's.
        spectrum: what to draw.
        k: the truncation that is trained with; its point is marked.
    """
    at = spectrum.truncations.numpy()
    bias = spectrum.measured_bias.numpy()
    axes.loglog(at, np.where(bias >= LEAST / 2, bias, np.nan), color=BLUE)
    error = np.nan_to_num(spectrum.bias_error.numpy())
    if error.any():
        low, high = np.clip(bias - error, LEAST, None), np.clip(bias + error, LEAST, None)
        axes.fill_between(at, low, high, color=BLUE, alpha=0.18, linewidth=0)
    for tolerance, color in ((0.05, GREEN), (0.01, ORANGE)):
        axes.axhline(tolerance, color=color, linestyle="--", linewidth=1.1)
        place = spectrum.horizon(tolerance)
        label = f"{100 * tolerance:.0f} % from {place} steps on"
        axes.plot([place], [tolerance], "o", color=color, markersize=6, label=label)
    if k is not None:
        value = spectrum.bias_of(k)
        axes.axvline(k, color=INK, linestyle=":", linewidth=1.3)
        label = f"k = {k}: {percent(value)}"
        axes.plot([k], [max(LEAST, value)], "s", color=INK, markersize=6, label=label)
    axes.legend(loc="lower left", handlelength=1.0)
    axes.set_ylim(LEAST / 1.5, max(2.0, 1.5 * float(np.nanmax(bias))))
    axes.set_xlim(0.9, 1.2 * max(float(at[-1]), k or 1))
    axes.set_yticks([1e-4, 1e-3, 1e-2, 1e-1, 1.0], ["0.01 %", "0.1 %", "1 %", "10 %", "100 %"])
    _plain_ticks(axes)
    axes.set(title="Bias of the truncated gradient", xlabel="truncated to K steps")


def draw_cosine(axes: Any, spectrum: LagSpectrum) -> None:
    """Cosine of the angle between truncated and full gradient against K."""
    at, cosine = spectrum.truncations.numpy(), spectrum.measured_cosine.numpy()
    axes.semilogx(at, cosine, color=PURPLE)
    lowest = float(np.nanmin(cosine)) if np.isfinite(cosine).any() else 0.0
    if lowest < 0:
        axes.axhline(0, color=INK, linewidth=1)
        axes.fill_between(at, cosine, 0, where=cosine < 0, color=ORANGE, alpha=0.3, linewidth=0)
    axes.set_ylim(min(0.0, 1.1 * lowest), 1.05)
    axes.set_xlim(0.9, 1.2 * float(at[-1]))
    _plain_ticks(axes)
    axes.set(title="Cosine with the full gradient", xlabel="truncated to K steps")


def _plain_ticks(axes: Any) -> None:
    """1, 10, 100 in place of powers of ten."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
