"""Where the units stand on their activations: a histogram of every gate, and its saturated share."""

from __future__ import annotations

from typing import Any

import numpy as np

from bptt.probes import Saturation
from bptt.report.style import BLUE, INK, ORANGE


def draw_gates(axes: Any, found: Saturation, layer: int) -> None:
    """The gates of one layer, one histogram above the other; the saturated ends in another colour.

    Args:
        axes: matplotlib's.
        found: what to draw.
        layer: which, from 0.
    """
    gates = found.layers[layer]
    for row, (_, gate) in enumerate(reversed(gates.items())):
        edges, shares = gate.edges.numpy(), gate.shares.numpy()
        # Gates of range 0…1 and states of -1…1 share one axis: place within the range.
        low, high = edges[0], edges[-1]
        places = (edges - low) / (high - low)
        middle = (places[1:] + places[:-1]) / 2
        ends = (middle < 0.05) | (middle > 0.95)
        heights = 0.8 * shares / max(float(shares.max()), 1e-12)
        colors = np.where(ends, ORANGE, BLUE)
        axes.bar(middle, heights, width=0.046, bottom=row, color=colors, linewidth=0)
        axes.text(
            1.03,
            row + 0.1,
            f"{100 * gate.saturated:.0f} %",
            color=ORANGE,
            fontsize=9.5,
            va="bottom",
        )
    names = [_ranged(name, gate) for name, gate in reversed(gates.items())]
    axes.set_yticks([r + 0.3 for r in range(len(names))], names)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([0, 0.5, 1], ["lowest", "middle", "highest value"])
    axes.set(xlim=(-0.02, 1.17), ylim=(-0.05, len(names)))
    axes.grid(False)
    axes.axhline(0, color=INK, linewidth=0.6)
    where = f", layer {layer}" if len(found.layers) > 1 else ""
    axes.set(title=f"Gates and saturation{where}")


def _ranged(name: str, gate: Any) -> str:
    low, high = float(gate.edges[0]), float(gate.edges[-1])
    return f"{name}\n{low:.2g} … {high:.2g}".replace("-", "\N{MINUS SIGN}")
