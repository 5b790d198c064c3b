"""A GRU: what its update gate's bias does to the gradient's way back."""

import torch
from panels import one, panel

import bptt
from bptt.probes import jacobian_products

LAGS = 60


def draw():
    """The median gain over k steps for update gates at four biases."""
    made, axes = panel()
    numbers = {}
    for key, bias, look in (("zero", 0, ":"), ("one", 1, "-."), ("two", 2, "--"), ("four", 4, "-")):
        torch.manual_seed(8)
        gru = bptt.nn.GRU(8, 32)
        with torch.no_grad():
            gru.bias_ih_l0[32:64] = bias
            gru.bias_hh_l0[32:64] = 0
        found = jacobian_products(one(gru, torch.randn(LAGS + 10, 4, 8)), LAGS, count=4)
        gains = found.singular_values.median(-1).values.median(0).values
        axes.semilogy(range(1, LAGS + 1), gains, look, label=f"bias {bias}")
        numbers[key] = f"{float(gains[LAGS - 1] / gains[LAGS - 11]) ** 0.1:.2f}"
    axes.set(
        title="Update gate open by its bias", xlabel="steps back", ylabel="gain, middle direction"
    )
    axes.set_ylim(1e-12, 2)
    axes.legend()
    return [made], numbers
