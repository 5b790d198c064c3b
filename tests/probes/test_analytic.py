"""Cases whose answer is known without the code: linear maps, orthogonal maps, influence balancing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import bptt
from bptt.probes import (
    capacity,
    fit_decay,
    jacobian_products,
    lag_spectrum,
    lyapunov_spectrum,
    saturation,
    state_gradients,
    verdict,
)
from bptt.probes.flow import explain
from bptt.probes.states import _unbroken
from bptt.recurrence import trace
from compare import assert_close

# Products of up to a few hundred matrices in float64.
POWERS = 1e-10


class Linear(nn.Module):
    """s' = W s + θ x: the user's own cell, with one parameter."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.scale = nn.Parameter(torch.ones(1, dtype=weight.dtype))

    def forward(self, x: torch.Tensor, state: torch.Tensor | None) -> torch.Tensor:
        before = torch.zeros_like(x) if state is None else state
        return before @ self.weight.t() + self.scale * x


def at_last(T: int, B: int, vector: torch.Tensor) -> tuple[torch.Tensor]:
    """A loss whose gradient stands at the last state only."""
    direct = torch.zeros(T, B, len(vector), dtype=vector.dtype)
    direct[-1] = vector
    return (direct,)


def test_a_linear_maps_lags_are_its_powers() -> None:
    T, S = 12, 5
    weight = torch.randn(S, S, dtype=torch.float64)
    (one,) = trace(Linear(weight), torch.randn(T, 1, S, dtype=torch.float64))
    vector = torch.randn(S, dtype=torch.float64)
    spectrum = lag_spectrum(one, at_last(T, 1, vector))
    powers = [torch.linalg.matrix_power(weight.t(), j) @ vector for j in range(T)]
    expected = torch.stack(powers).norm(dim=1)
    # Each norm is checked in its own size: the largest may be many times the smallest.
    assert_close(spectrum.norms / expected, torch.ones(T, dtype=torch.float64), POWERS)
    assert_close(spectrum.factors, expected[1:] / expected[:-1], POWERS)
    gradients = state_gradients(one, at_last(T, 1, vector))
    assert_close(gradients.together[:, 0].flip(0) / expected, torch.ones_like(expected), POWERS)


def test_an_orthogonal_map_keeps_everything() -> None:
    T, S = 40, 6
    weight = torch.linalg.qr(torch.randn(S, S, dtype=torch.float64))[0]
    (one,) = trace(Linear(weight), torch.randn(T, 3, S, dtype=torch.float64))
    spectrum = lag_spectrum(one, (torch.randn(T, 3, S, dtype=torch.float64),))
    # The loss stands at every step, so fewer and fewer terms are left: the factor must not see that.
    assert_close(spectrum.decay, 1.0, POWERS)
    assert verdict(spectrum) == "healthy"
    found = lyapunov_spectrum(one)
    assert_close(found.exponents, torch.zeros(S, dtype=torch.float64), POWERS, floor=1.0)
    products = jacobian_products(one, 5)
    ones = torch.ones_like(products.singular_values)
    assert_close(products.singular_values, ones, POWERS)


@pytest.mark.parametrize(
    ("factor", "word"), [(0.7, "vanishing"), (0.97, "healthy"), (1.1, "exploding")]
)
def test_verdict_and_decay_of_a_scaled_rotation(factor: float, word: str) -> None:
    weight = factor * torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    (one,) = trace(Linear(weight), torch.randn(60, 2, 4, dtype=torch.float64))
    spectrum = lag_spectrum(one, (torch.randn(60, 2, 4, dtype=torch.float64),))
    assert_close(spectrum.decay, factor, POWERS)
    assert verdict(spectrum) == word
    text = explain(spectrum)
    assert word in text
    assert f"{factor:.3g}" in text
    exponents = lyapunov_spectrum(one, count=2).exponents
    assert_close(exponents, torch.full((2,), math.log(factor), dtype=torch.float64), POWERS)


def test_influence_balancing() -> None:
    """W = ½I + ½ superdiagonal, 11 inputs for and 12 against: near steps point the wrong way."""
    n, T = 23, 300
    weight = 0.5 * (torch.eye(n) + torch.diag(torch.ones(n - 1), 1)).double()
    signs = torch.ones(n, dtype=torch.float64)
    signs[11:] = -1
    (one,) = trace(Linear(weight), signs.expand(T, 1, n))
    first = torch.zeros(n, dtype=torch.float64)
    first[0] = 1
    spectrum = lag_spectrum(one, at_last(T, 1, first), at="every")
    wrong = [k for k in range(1, T) if spectrum.cosine_of(k) < 0]
    assert wrong == list(range(1, 48))
    assert spectrum.cosine_of(60) > 0.99
    found = jacobian_products(one, 1)
    # The one eigenvalue is n-fold: its n-th root of the rounding is all that can be asked of it.
    assert_close(found.spectral_radius, torch.full_like(found.spectral_radius, 0.5), 0.5)
    assert_close(found.spectral_norm, torch.full_like(found.spectral_norm, 0.998), 5e-4)


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
def test_singular_values_are_those_of_autograds_jacobian(cell: str) -> None:
    module = getattr(nn, cell)(2, 3, num_layers=2).double()
    (one,) = trace(module, torch.randn(6, 2, 2, dtype=torch.float64))
    found = jacobian_products(one, 4, ends=torch.tensor([[5, 1], [2, 0]]))
    sizes = list(one.sizes)

    def steps(start: int, stop: int, lane: int):
        def run(flat: torch.Tensor) -> torch.Tensor:
            states = tuple(s.unsqueeze(0) for s in flat.split(sizes))
            for t in range(start, stop):
                states = one.step(tuple(i[t, lane : lane + 1] for i in one.inputs), states)
            return torch.cat(states, -1)[0]

        before = torch.cat([b[start, lane] for b in one.before])
        return torch.linalg.svdvals(torch.autograd.functional.jacobian(run, before))

    for k in range(1, 5):
        assert_close(found.singular_values[0, k - 1], steps(6 - k, 6, 1), POWERS, floor=1.0)
    for k in range(1, 4):
        assert_close(found.singular_values[1, k - 1], steps(3 - k, 3, 0), POWERS, floor=1.0)
    assert bool(found.singular_values[1, 3].isnan().all())  # the lane has no such step


def test_the_bound_holds_and_is_met_by_a_linear_relu() -> None:
    module = nn.RNN(4, 4, nonlinearity="relu").double()
    with torch.no_grad():
        module.weight_hh_l0.copy_(0.9 * torch.eye(4).double())
        module.bias_hh_l0.fill_(5.0)  # every unit open
    (one,) = trace(module, torch.randn(10, 2, 4, dtype=torch.float64))
    found = jacobian_products(one, 6)
    assert found.bound is not None
    assert_close(found.norms, found.bound.expand_as(found.norms), POWERS)
    assert_close(found.weight_radius, 0.9, POWERS)


def test_an_lstms_cell_state_apart() -> None:
    """With W_hh = 0 nothing passes but c, by the forget gate."""
    module = nn.LSTM(2, 3).double()
    nn.init.zeros_(module.weight_hh_l0)
    (one,) = trace(module, torch.randn(8, 1, 2, dtype=torch.float64))
    found = jacobian_products(one, 1, ends=torch.tensor([[7, 0]]), states=("c_l0",))
    forget = one.linearize().layers[0].gates["forget"][7]
    assert_close(found.singular_values[0, 0], forget.sort(descending=True).values, POWERS)
    spectrum = lag_spectrum(one, (torch.ones(8, 1, 3).double(), torch.zeros(8, 1, 3).double()))
    assert set(spectrum.state_norms) == {"h_l0", "c_l0"}
    assert float(spectrum.state_norms["h_l0"][1:].max()) == 0
    assert_close(spectrum.state_norms["c_l0"][1:], spectrum.norms[1:], POWERS)


def test_capacity_of_a_shift_register() -> None:
    """Five units that hand a scalar on: four steps and the present are held, and no more."""
    shift = torch.diag(torch.ones(4), -1).double()
    signal = torch.zeros(400, 2, 5, dtype=torch.float64)
    signal[:, :, 0] = torch.randn(400, 2)
    (one,) = trace(Linear(shift), signal)
    found = capacity(one, 8)
    assert_close(found.explained[:5], torch.ones(5, dtype=torch.float64), 1e-4)  # the ridge's cost
    assert float(found.explained[5:].max()) < 0.05
    assert 4.9 < found.total < 5.2


def test_saturation_counts_flat_units() -> None:
    module = nn.RNN(1, 4).double()
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
        module.bias_ih_l0.copy_(torch.tensor([9.0, -9.0, 0.0, 0.1]))
    (one,) = trace(module, torch.randn(5, 2, 1, dtype=torch.float64))
    found = saturation(one)
    gate = found.layers[0]["h"]
    assert (gate.low, gate.high, found.share) == (0.25, 0.25, 0.5)
    assert gate.units.tolist() == [1, 1, 0, 0]
    assert_close(float(gate.shares.sum()), 1.0, 1e-15)


def test_decay_is_not_moved_by_odd_lags() -> None:
    factors = torch.full((40,), 0.9, dtype=torch.float64)
    factors[::13] *= 3.0
    norms = torch.cat([torch.ones(1, dtype=torch.float64), factors.cumprod(0)])
    assert 0.88 < fit_decay(factors, norms) < 1.0
    assert math.isnan(fit_decay(torch.zeros(0), torch.ones(1)))
    assert fit_decay(torch.zeros(1), torch.tensor([1.0, 0.0])) == 0


def test_one_step_and_one_lane() -> None:
    gru = nn.GRU(2, 3)
    with bptt.watch(gru) as flow:
        gru(torch.randn(1, 1, 2))[0].sum().backward()
    assert flow.horizon == 1
    assert flow.spectrum.norms.shape == (1,)
    assert flow.bias(1) == 0
    assert flow.verdict == "healthy"
    assert flow.explain()


def test_capacity_counts_steps_from_the_newest_border() -> None:
    """By a plain loop: one more step at every link, none at a border."""
    link = torch.rand(23, 3, generator=torch.Generator().manual_seed(0)) < 0.8
    link[0] = False
    count = _unbroken(link)
    for lane in range(3):
        steps = 0
        for t in range(23):
            steps = steps + 1 if link[t, lane] else 0
            assert count[t, lane] == steps
