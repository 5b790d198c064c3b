"""An LSTM: what its forget gate's bias does to the gradient along the cell state."""

import torch
from panels import one, panel

import bptt
from bptt.probes import jacobian_products
from bptt.remedies import start_forget_bias

LAGS = 60


def draw():
    """The block of c of the products of Jacobians, for forget gates at four biases."""
    made, axes = panel()
    numbers = {}
    for key, bias, look in (
        ("zero", 0, ":"),
        ("one", 1, "-."),
        ("three", 3, "--"),
        ("five", 5, "-"),
    ):
        torch.manual_seed(9)
        lstm = bptt.nn.LSTM(8, 32)
        start_forget_bias(lstm, bias)
        run = one(lstm, torch.randn(LAGS + 10, 4, 8))
        found = jacobian_products(run, LAGS, count=4, states=("c_l0",))
        gains = found.singular_values.median(-1).values.median(0).values
        axes.semilogy(range(1, LAGS + 1), gains, look, label=f"bias {bias}")
        numbers[key] = f"{float(gains[LAGS - 1] / gains[LAGS - 11]) ** 0.1:.3f}"
    axes.set(
        title="∂c/∂c by the forget gate's bias",
        xlabel="steps back",
        ylabel="gain, middle direction",
    )
    axes.set_ylim(1e-12, 2)
    axes.legend()
    return [made], numbers
