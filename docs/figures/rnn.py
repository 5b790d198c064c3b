"""A plain RNN: the gradient by the size of its matrix, and by that of its input."""

import torch
from panels import one, panel

import bptt
from bptt.probes import jacobian_products
from bptt.remedies import start_recurrent

LAGS = 40


def draw():
    """The median gain over k steps: orthogonal matrices of three gains; inputs of three sizes."""
    numbers = {}
    first, axes = panel()
    for gain, look in ((0.9, ":"), (1.0, "-"), (1.1, "--")):
        axes.semilogy(range(1, LAGS + 1), _gains(gain, 0.3), look, label=f"gain {gain}")
    axes.set(
        title="By the matrix, small inputs", xlabel="steps back", ylabel="gain of the gradient"
    )
    axes.legend()
    second, axes = panel()
    for key, size, look in (("small", 0.1, "-"), ("middle", 0.5, "--"), ("large", 2.0, ":")):
        found = _gains(1.0, size)
        axes.semilogy(range(1, LAGS + 1), found, look, label=f"inputs of size {size}")
        numbers[key] = f"{float(found[19]):.1g}"
    axes.set(title="By the input, orthogonal matrix", xlabel="steps back")
    axes.legend()
    return [first, second], numbers


def _gains(gain, size):
    torch.manual_seed(7)
    rnn = bptt.nn.RNN(32, 32)
    start_recurrent(rnn, f"orthogonal:{gain}")
    with torch.no_grad():
        rnn.weight_ih_l0.copy_(torch.eye(32))
    found = jacobian_products(one(rnn, size * torch.randn(LAGS + 10, 4, 32)), LAGS, count=4)
    return found.norms.median(0).values
