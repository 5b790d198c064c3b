"""What a state holds of past inputs, by start of the recurrent matrix."""

import torch
from panels import one, panel

import bptt
from bptt.probes import capacity
from bptt.remedies import start_recurrent

LAGS = 60


def draw():
    """Share of the variance of x, k steps ago, that a linear map reads out of h."""
    made, axes = panel()
    numbers = {}
    for key, start, look in (
        ("plain", "default", ":"),
        ("gaussian", "gaussian:0.9", "--"),
        ("orthogonal", "orthogonal", "-"),
    ):
        torch.manual_seed(6)
        rnn = bptt.nn.RNN(1, 48)
        start_recurrent(rnn, start)
        with torch.no_grad():
            rnn.weight_ih_l0.mul_(0.3)  # small inputs stay on the straight part of tanh
        found = capacity(one(rnn, torch.randn(600, 8, 1)), LAGS)
        axes.plot(range(LAGS), 100 * found.explained, look, label=start)
        numbers[key] = f"{found.total:.1f}"
    axes.set(title="Memory of the input", xlabel="steps ago", ylabel="variance explained, %")
    axes.legend()
    return [made], numbers
