"""The gradient by lag, with the horizon marked."""

from __future__ import annotations

from typing import Any

import numpy as np

from bptt.probes import LagSpectrum
from bptt.report.style import BLUE, GREEN, INK, ORANGE, PURPLE, SKY

# Below this share of the largest a norm is drawn no more: five decades fill the panel.
FLOOR = 1e-5
STATES = 4  # states drawn apart, as the h and c of two layers of an LSTM


def draw_lags(axes: Any, spectrum: LagSpectrum, k: int | None = None) -> None:
    """Norm of the gradient j steps back, as a share of the largest, on a logarithmic scale.

    Args:
        axes: matplotlib's.
        spectrum: what to draw.
        k: a truncation to mark.
    """
    norms = spectrum.norms.numpy()
    top = norms.max() or 1.0
    shown = int((norms > FLOOR * top).nonzero()[0][-1]) + 1 if (norms > 0).any() else 1
    axes.semilogy(
        range(shown),
        norms[:shown] / top,
        color=BLUE,
        label="all states" if len(spectrum.state_norms) > 1 else None,
    )
    if len(spectrum.state_norms) > 1:
        for place, (label, values) in enumerate(list(spectrum.state_norms.items())[:STATES]):
            own = np.where(values.numpy()[:shown] > 0, values.numpy()[:shown], np.nan) / top
            look = {"color": (PURPLE, SKY)[place % 2], "linestyle": ("-", ":")[place // 2 % 2]}
            axes.semilogy(range(shown), own, linewidth=1.1, label=label, **look)
    for tolerance, color, name in ((0.05, GREEN, "horizon 5 %"), (0.01, ORANGE, "1 %")):
        at = spectrum.horizon(tolerance)
        label = f"{name}: {at}"
        axes.axvline(at, color=color, linestyle="--", linewidth=1.3, label=label)
    if k is not None:
        axes.axvline(k, color=INK, linestyle=":", linewidth=1.5, label=f"k = {k}")
    shares = norms[:shown][norms[:shown] > 0] / top
    lowest = float(shares.min()) if len(shares) else 1.0
    axes.set_ylim(max(FLOOR, lowest / 20), 3)
    limit = max(shown - 1, spectrum.horizon(0.01), k or 0, 1)
    # Above the panel, where no curve runs through it, in rows of three.
    rows = -(-len(axes.get_legend_handles_labels()[1]) // 3)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=3, columnspacing=1.1, handlelength=1.4,
        borderpad=0.1, borderaxespad=0.1,
    )  # fmt: skip
    axes.set_xlim(0, 1.04 * limit)
    axes.set_title("Gradient by lag", pad=6 + 15 * rows)
    axes.set(xlabel="steps back", ylabel="share of the largest")
