"""A sample of lanes and of the loss's time steps: what is in it, and how far off it says it may be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import bptt
from bptt.probes import lag_spectrum
from bptt.probes.watch import coarse_truncations
from bptt.recurrence import trace
from compare import assert_close

TOLERANCE = 1e-11  # float64 sums of some hundred terms, added in another order


def case(steps: int, lanes: int):
    (one,) = trace(nn.GRU(3, 5).double(), torch.randn(steps, lanes, 3, dtype=torch.float64))
    return one, (torch.randn_like(one.after[0]),)


@pytest.mark.parametrize("sources", [1, 3, 8, 63])
@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_a_loss_on_the_last_step_alone_is_never_missed(sources: int, lanes: int) -> None:
    module = nn.GRU(3, 5).double()
    x = torch.randn(64, 4, 3, dtype=torch.float64)

    def measure(**options):
        with bptt.watch(module, **options) as flow:
            module(x)[0][-1].square().sum().backward()
        return flow.spectrum

    chosen, sample = measure(lanes=lanes), measure(lanes=lanes, sources=sources)
    assert chosen.gradient_norm > 0
    assert_close(sample.gradient_norm, chosen.gradient_norm, TOLERANCE)
    assert_close(sample.measured_bias, chosen.measured_bias, TOLERANCE, floor=1.0)


@pytest.mark.parametrize("floor", [None, 1e-13])
def test_both_walks_follow_the_same_time_steps(floor: float | None) -> None:
    one, direct = case(23, 3)
    for sources in (1, 4, 6, 22, 23):
        sample = lag_spectrum(one, direct, sources=sources, floor=floor)
        apart = math.ceil(23 / sources)
        masked = torch.zeros_like(direct[0])
        masked[22 % apart :: apart] = direct[0][22 % apart :: apart]
        whole = lag_spectrum(one, (masked,))
        assert_close(sample.gradient_norm, whole.gradient_norm, TOLERANCE)
        assert_close(sample.measured_bias, whole.measured_bias, TOLERANCE, floor=1.0)


@pytest.mark.parametrize("floor", [None, 1e-13])
def test_the_error_of_a_sample_is_told_from_the_first_k_on(floor: float | None) -> None:
    one, direct = case(40, 4)
    sample = lag_spectrum(one, direct, at=[4, 8, 12, 16, 20], sample_of=32, floor=floor)
    biases = []
    for lanes in ([0, 2], [1, 3]):  # the two halves, each measured for itself
        chosen = torch.tensor(lanes)
        half = lag_spectrum(one.select(chosen), (direct[0][:, chosen],), at=[4, 20])
        biases.append(half.measured_bias)
    error = (biases[0] - biases[1]).abs() / 2
    assert_close(sample.bias_error[0], error[0], 1e-7)  # a half is a difference where bias is small
    assert_close(sample.bias_error[4], error[1], 1e-5)
    assert_close(sample.bias_error[1:4], sample.bias_error[:1].expand(3), 0.0)
    assert sample.bias_error[-1] == 0


def test_watching_a_few_k_on_a_few_lanes() -> None:
    module = nn.GRU(3, 5)
    with bptt.watch(module, lanes=4, at=[4, 8]) as flow:
        module(torch.randn(20, 32, 3))[0].square().mean().backward()
    assert flow.spectrum.bias_error[0] > 0
    assert "by up to 0 %" not in flow.explain()


@pytest.mark.parametrize("floor", [None, 1e-13])
def test_one_step_of_one_lane_does_not_say_how_far_it_is_off(floor: float | None) -> None:
    one, direct = case(9, 3)
    sample = lag_spectrum(one, direct, lanes=1, sources=1, floor=floor)
    assert sample.gradient_norm > 0
    assert sample.bias_error.isnan().all()


class Between(nn.Module):
    """A cell whose state is changed between two calls, or whose output is fed back."""

    def __init__(self, cell: type, how: str) -> None:
        super().__init__()
        self.cell, self.norm, self.how = cell(6, 16), nn.LayerNorm(16), how
        self.out = nn.Linear(16, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(x.shape[1], 16)
        state, found = (h, h) if isinstance(self.cell, nn.LSTMCell) else h, []
        for value in x:
            fed = value if self.how != "fed back" or not found else 0.5 * (value + self.out(h))
            state = self.cell(fed, state)
            h = state[0] if isinstance(state, tuple) else state
            found.append(h)
            changed = self.norm(h) if self.how == "norm" else 0.95 * h
            state = (changed, state[1]) if isinstance(state, tuple) else changed
        return self.out(torch.stack(found))


def test_the_horizon_of_a_training_run_is_that_of_a_full_measurement() -> None:
    """On its grid: the same place or the next in three of four, never more than two places off."""
    away, steps = [], 40
    grid = coarse_truncations(steps)
    for cell in (nn.RNNCell, nn.GRUCell, nn.LSTMCell):
        for how in ("norm", "decay", "fed back"):
            for scale in (1.0, 2.0):  # a short memory and a longer one
                torch.manual_seed(len(away))
                model = Between(cell, how)
                with torch.no_grad():
                    model.cell.weight_hh.mul_(scale)
                x, found = torch.randn(steps, 16, 6), []
                for options in ({}, {"every": 2}):
                    with bptt.watch(model, **options) as flow:
                        (model(x) - x).square().mean().backward()
                    found.append(flow.spectrum)
                full, some = found
                assert (full.sources, some.sources) == (1, 0.1)
                place = next(i for i, k in enumerate(grid) if k >= full.horizon())
                away.append(grid.index(some.horizon()) - place)
    assert max(map(abs, away)) <= 2, away
    assert sum(abs(a) <= 1 for a in away) >= 0.9 * len(away), away
    assert sum(a == 0 for a in away) >= 0.6 * len(away), away
