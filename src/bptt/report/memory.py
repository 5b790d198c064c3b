"""What the state still knows of the input of k steps ago, beside what the gradient reaches."""

from __future__ import annotations

from typing import Any

from bptt.probes import Capacity, LagSpectrum
from bptt.report.style import BLUE, GREEN


def draw_memory(axes: Any, found: Capacity, spectrum: LagSpectrum) -> None:
    """Share of the variance of x_{t-k} that a linear map reads out of h_t, by k."""
    explained = found.explained.numpy()
    axes.bar(range(len(explained)), explained, color=BLUE, width=0.85, linewidth=0)
    horizon = spectrum.horizon()
    if horizon <= len(explained):
        label = f"horizon 5 %: {horizon}"
        axes.axvline(horizon, color=GREEN, linestyle="--", linewidth=1.3, label=label)
        axes.legend(loc="upper right")
    axes.set(xlim=(-0.7, len(explained) - 0.3), ylim=(0, 1.02))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.set(title="Memory of the input", xlabel="steps ago", ylabel="variance explained")
