"""Where in a sequence the gradient on the state stands: time by lane."""

import torch
from panels import one, panel

import bptt
from bptt.probes import state_gradients
from bptt.recurrence import trace

STEPS, LANES = 60, 12


def draw():
    """A GRU with a loss at step 45 of every lane, and a reset at another place in each."""
    torch.manual_seed(3)
    gru = bptt.nn.GRU(4, 32)
    reset = torch.zeros(STEPS, LANES, dtype=torch.bool)
    for lane in range(LANES):
        reset[3 * lane + 5, lane] = True
    (recurrence,) = trace(gru, torch.randn(STEPS, LANES, 4), reset=reset)
    direct = torch.zeros(STEPS, LANES, 32)
    direct[45] = 1.0
    norms = state_gradients(recurrence, (direct,)).together
    made, axes = panel()
    shown = (norms / norms.max()).clamp(min=1e-6).log10().masked_fill(norms == 0, torch.nan)
    image = axes.pcolormesh(shown.T.numpy(), cmap="viridis", edgecolors="face", linewidth=0.3)
    axes.set(title="‖∂L/∂h‖, log10 of the largest's share", xlabel="step", ylabel="lane")
    axes.grid(False)
    bar = made.colorbar(image, ax=axes)
    bar.outline.set_visible(False)
    loose = one(gru, torch.randn(STEPS, LANES, 4))
    free = state_gradients(loose, (direct,)).together.mean(1)
    return [made], {"ten": f"{100 * float(free[35] / free[45]):.1g} %"}
