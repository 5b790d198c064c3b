"""Influence balancing: truncation goes the wrong way, real-time recurrent learning arrives."""

import pytest
import torch

from bptt.errors import ArgumentError
from bptt.gradients import ForwardMode, Truncated
from bptt.tasks import InfluenceBalancing, half_square, influence_batch

RATE, ITERATIONS = 1e-4, 3000  # the paper's


def test_the_optimum_is_where_the_chain_comes_to_rest_at_the_target():
    model = InfluenceBalancing()
    assert model.optimum == -1 / 6
    n = len(model.signs)
    rest = torch.linalg.solve(torch.eye(n).double() - model.matrix, model.signs * model.optimum)
    assert abs(float(rest[0]) - 1) < 1e-12
    model = InfluenceBalancing(start=model.optimum)
    with torch.no_grad():
        y, _ = model(influence_batch(400)[0])
    # 400 steps: what is left of the transient is below (400 choose 22)·2⁻⁴⁰⁰.
    assert abs(float(y[-1]) - 1) < 1e-12


def test_rtrl_arrives_at_the_optimum():
    model = InfluenceBalancing()
    sgd = torch.optim.SGD(model.parameters(), lr=RATE)
    x, target = influence_batch(ITERATIONS)
    for _ in ForwardMode(reduction="sum").steps(model, x, target, loss=half_square):
        sgd.step()
        sgd.zero_grad()
    assert abs(float(model.theta.detach()) - model.optimum) < 1e-4


@pytest.mark.parametrize("k", [1, 10])
def test_truncation_goes_the_other_way(k):
    model = InfluenceBalancing()
    sgd = torch.optim.SGD(model.parameters(), lr=RATE)
    estimator, carry = Truncated(k, reduction="sum"), None
    x, target = influence_batch(k)
    for _ in range(ITERATIONS // k):
        carry = estimator.backward(model, x, target, carry, half_square).carry
        sgd.step()
        sgd.zero_grad()
    # Every step is away from -1/6, and the loss that it was to reduce has grown from ½.
    assert float(model.theta.detach()) > 0.05
    assert float((carry[0, 0, 0] - 1).square() / 2) > 0.75


def test_bad_sizes():
    with pytest.raises(ArgumentError, match="not equal"):
        InfluenceBalancing(plus=3, minus=3)
