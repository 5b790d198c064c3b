"""The gradient on the state, step by step, that the backward pass of ``Full`` carries back."""

import torch
from panels import one, panel

import bptt
from bptt.probes import state_gradients
from bptt.remedies import start_recurrent

STEPS = 60


def draw():
    """The same loss at the last step, and three recurrences it comes back through."""
    torch.manual_seed(1)
    x = torch.randn(STEPS, 8, 4)
    made, axes = panel()
    numbers = {}
    for name, gain, look in (("short", 0.7, "-"), ("kept", 1.0, "--"), ("long", 1.6, ":")):
        rnn = bptt.nn.RNN(4, 64, nonlinearity="relu" if gain > 1 else "tanh")
        start_recurrent(rnn, f"orthogonal:{gain}")
        direct = torch.zeros(STEPS, 8, 64)
        direct[-1] = 1 / 8
        norms = state_gradients(one(rnn, x), (direct,)).together.mean(1)
        label = f"{rnn.nonlinearity}, gain {gain}"
        axes.semilogy(range(STEPS), norms.flip(0), look, label=label)
        numbers[name] = f"{float(norms[19] / norms[39]) ** 0.05:.2f}"
    axes.set(title="‖∂L/∂h‖ on its way back", xlabel="steps back", ylabel="norm")
    axes.legend()
    return [made], numbers
