"""Influence balancing: where truncation goes, and where forward mode arrives."""

import torch
from panels import panel

from bptt.gradients import ForwardMode, Truncated
from bptt.tasks import InfluenceBalancing, half_square, influence_batch

UPDATES, STEPS = 60, 10


def draw():
    """θ over the updates, the state and its influence going on from call to call."""
    x, target = influence_batch(STEPS)
    made, axes = panel()
    numbers = {}
    for name, estimator, look in (
        ("ForwardMode", ForwardMode(online=True, reduction="sum"), "-"),
        ("Truncated(10)", Truncated(STEPS, reduction="sum"), "--"),
    ):
        model, carry, path = InfluenceBalancing(), None, []
        optimizer = torch.optim.SGD(model.parameters(), 1e-4)
        for _ in range(UPDATES):
            optimizer.zero_grad()
            step = estimator.backward(model, x, target, carry, half_square)
            optimizer.step()
            carry = step.carry
            path.append(float(model.theta.detach()))
        axes.plot(range(1, UPDATES + 1), path, look, label=name)
        numbers[name] = f"{path[-1]:.2f}".replace("-", "\N{MINUS SIGN}")
    axes.axhline(model.optimum, color="C2", linewidth=1.2, linestyle=":", label="optimum")
    axes.set(title="Influence balancing", xlabel="update", ylabel="θ")
    axes.legend()
    return [made], {"exact": numbers["ForwardMode"], "truncated": numbers["Truncated(10)"]}
