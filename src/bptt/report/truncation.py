"""What truncating to K steps does to the gradient: its bias and its direction."""

from __future__ import annotations

from typing import Any

import numpy as np

from bptt.probes import LagSpectrum
from bptt.report.style import BLUE, GREEN, INK, ORANGE, PURPLE

LEAST = 1e-4  # a bias below a hundredth of a percent is drawn at the floor


def draw_bias(axes: Any, spectrum: LagSpectrum, k: int | None = None) -> None:
    """Relative bias against K, both logarithmic, with the tolerances 5 % and 1 %.

    Args:
        axes: matplotlib's.
        spectrum: what to draw.
        k: the truncation that is trained with; its point is marked.
    """
    at = spectrum.truncations.numpy()
    bias = np.clip(spectrum.measured_bias.numpy(), LEAST, None)
    axes.loglog(at, bias, color=BLUE)
    error = spectrum.bias_error.numpy()
    if error.any():
        low, high = np.clip(bias - error, LEAST, None), bias + error
        axes.fill_between(at, low, high, color=BLUE, alpha=0.18, linewidth=0)
    for tolerance, color in ((0.05, GREEN), (0.01, ORANGE)):
        axes.axhline(tolerance, color=color, linestyle="--", linewidth=1.1)
        place = spectrum.horizon(tolerance)
        axes.plot([place], [tolerance], "o", color=color, markersize=6)
        axes.annotate(
            f"{100 * tolerance:.0f} % from {place} on", (place, tolerance), xytext=(6, 5),
            textcoords="offset points", color=color, fontsize=9.5,
        )  # fmt: skip
    if k is not None:
        value = max(LEAST, spectrum.bias_of(k))
        axes.axvline(k, color=INK, linestyle=":", linewidth=1.3)
        axes.plot([k], [value], "s", color=INK, markersize=6)
        axes.annotate(
            f"k = {k}: {100 * spectrum.bias_of(k):.2g} %", (k, value), xytext=(-7, -4),
            textcoords="offset points", color=INK, fontsize=9.5, ha="right", va="top",
        )  # fmt: skip
    axes.set_ylim(LEAST / 1.5, max(2.0, 1.5 * float(bias.max())))
    axes.set_xlim(0.9, 1.7 * max(float(at[-1]), k or 1))
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
