"""The eigenvalues an LRU begins with, and how long each lets the gradient live."""

import torch
from panels import panel

import bptt


def draw():
    """Two rings inside the unit circle; what is left after k steps at their radii."""
    first, axes = panel()
    second, decay = panel()
    angle = torch.linspace(0, 2 * torch.pi, 200)
    axes.plot(angle.cos(), angle.sin(), color="C2", linewidth=1)
    numbers = {}
    for key, low, high, mark, look in (
        ("short", 0.0, 0.99, "o", "--"),
        ("long", 0.9, 0.999, "^", "-"),
    ):
        torch.manual_seed(11)
        layer = bptt.nn.LRU(4, 8, state_size=64, r_min=low, r_max=high)
        values = layer.eigenvalues().detach().flatten()
        label = f"r from {low:g} to {high:g}"
        axes.plot(values.real, values.imag, mark, markersize=4, linestyle="none", label=label)
        left = values.abs()[None] ** torch.arange(400)[:, None]
        decay.semilogy(range(400), left.mean(1), look, label=label)
        numbers[key] = f"{100 * float(left[200].mean()):.2g} %"
    axes.set(title="Eigenvalues at the start", aspect="equal", xlim=(-1.1, 2.6))
    axes.legend(loc="center right")
    decay.set(title="Gradient left, mean over units", xlabel="steps back", ylim=(1e-4, 2))
    decay.legend()
    return [first, second], numbers
