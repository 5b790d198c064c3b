"""The gradient on inputs further and further back: a plain recurrence, two with shortcuts, attention."""

import torch
from panels import panel

import bptt
from bptt.models import Attention, Highway, Residual

STEPS, UNITS, FAR = 128, 32, 100


def draw():
    """A random cotangent at the last output of untrained layers."""
    torch.manual_seed(4)
    layers = {
        "rnn": bptt.nn.RNN(UNITS, UNITS),
        "residual": Residual(UNITS, UNITS, scale=STEPS**-0.5 / 2),
        "highway": Highway(UNITS, UNITS, gate_bias=4.0),
        "attention": Attention(UNITS, UNITS, context=STEPS),
    }
    made, axes = panel()
    x = torch.randn(STEPS, 16, UNITS, requires_grad=True)
    numbers = {}
    for name, layer in layers.items():
        output = layer(x)[0][-1]
        (gradient,) = torch.autograd.grad(output, x, torch.randn_like(output))
        norms = gradient.flatten(1).norm(dim=1).flip(0)[1:]
        shares = norms / norms[0]
        axes.semilogy(range(1, STEPS), shares, label=name)
        numbers[name] = f"{float(shares[FAR - 1]):.1g}"
    axes.set(title="∂output/∂input", xlabel="steps back", ylabel="share of one step back")
    axes.set_ylim(1e-12, 1e2)
    axes.legend()
    return [made], numbers
