"""The three regimes, along real trajectories: linear beside tanh."""

from panels import panel

from bptt.lab.contraction import contraction
from bptt.probes.jacobians import MEMORY_LEFT
from bptt.report.chart import INK, number

STEPS = 50


def draw():
    """What is left of a gradient over k steps at three radii of an orthogonal matrix."""
    figures, numbers = [], {}
    for activation in ("linear", "tanh"):
        made, axes = panel()
        for key, radius, look in (("low", 0.7, ":"), ("one", 1.0, "-"), ("high", 1.2, "--")):
            found = contraction(radius, 1, STEPS, activation)
            axes.semilogy(range(1, STEPS + 1), found.typical, look, label=f"ρ = {radius}")
            if activation == "tanh":
                numbers[key] = number(found.typical[-1], 2)
        axes.axhline(MEMORY_LEFT, color=INK, linewidth=1, linestyle=":")
        axes.set(title=activation, xlabel="steps back, k", ylabel="gain", ylim=(1e-9, 1e5))
        axes.legend()
        figures.append(made)
    return figures, numbers
