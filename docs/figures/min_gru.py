"""A MinGRU's gradient by lag: gates as they start, and spread over memories of up to 200 steps."""

import torch
from panels import panel

import bptt
from bptt.remedies import start_chrono

STEPS = 120


def draw():
    """A loss at the last step; the gradient on the state before it."""
    made, axes = panel()
    numbers = {}
    for key, look in (("plain", "--"), ("chrono", "-")):
        torch.manual_seed(10)
        layer = bptt.nn.MinGRU(8, 64)
        if key == "chrono":
            start_chrono(layer, 200)
        x = torch.randn(STEPS, 8, 8)
        gains = retained(layer, x)
        axes.semilogy(
            range(1, STEPS), gains, look, label={"plain": "default"}.get(key, "chrono:200")
        )
        numbers[key] = f"{float(gains[49]):.1g}"
    axes.set(title="∂h/∂h, mean over the units", xlabel="steps back", ylabel="share kept")
    axes.set_ylim(1e-12, 2)
    axes.legend()
    return [made], numbers


def retained(layer, x):
    """Mean of the diagonal of the product of Jacobians, by autograd from the last state."""
    states = [layer(x[:t])[1] for t in range(1, len(x))]
    found = []
    for start in states:
        start.detach_().requires_grad_()
    for t in range(1, len(x)):
        h = states[t - 1]
        end = layer(x[t:], h)[1]
        (g,) = torch.autograd.grad(end.sum(), h)
        found.append(float(g.mean()))
    return torch.tensor(found).flip(0)
