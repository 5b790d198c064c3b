"""Products of Jacobians along a trajectory, beside the bound; and radius beside norm."""

import torch
from panels import one, panel

import bptt
from bptt.probes import jacobian_products
from bptt.remedies import start_recurrent
from bptt.report.chart_figure import draw_figure
from bptt.report.figures import chart_products

LAGS = 40


def draw():
    """An RNN of radius 0.9; and a matrix of radius 0.5 whose norm is near one."""
    torch.manual_seed(2)
    rnn = bptt.nn.RNN(4, 32)
    start_recurrent(rnn, "gaussian+radius:0.9")
    found = jacobian_products(one(rnn, torch.randn(LAGS + 20, 8, 4)), LAGS)
    first = draw_figure(chart_products(found))
    chain = bptt.nn.RNN(1, 23)
    with torch.no_grad():
        chain.weight_hh_l0.copy_(0.5 * torch.eye(23) + 0.5 * torch.diag(torch.ones(22), 1))
        for parameter in (chain.weight_ih_l0, chain.bias_ih_l0, chain.bias_hh_l0):
            parameter.zero_()
    rest = jacobian_products(one(chain, torch.zeros(LAGS, 1, 1)), LAGS, count=1)
    second, axes = panel()
    lags = range(1, LAGS + 1)
    axes.semilogy(lags, rest.norms[0], label="largest singular value")
    axes.semilogy(lags, [rest.weight_radius**k for k in lags], "--", label="radius to the power k")
    axes.set(title="A matrix of radius 0.5", xlabel="steps back", ylabel="gain", ylim=(1e-5, 3))
    axes.legend()
    return [first, second], {
        "radius": f"{rest.weight_radius:.2f}",
        "norm": f"{rest.weight_norm:.3f}",
        "ten": f"{rest.norms[0, 9]:.2f}",
        "power": f"{rest.weight_radius**10:.3f}",
    }
