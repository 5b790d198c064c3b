"""What cannot be measured is refused in a sentence, and what a cell returns beside its states is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import bptt
from bptt.errors import ArgumentError
from bptt.probes import capacity, jacobian_products, lyapunov_spectrum, saturation
from bptt.probes.jacobians import carried
from bptt.recurrence import trace
from compare import assert_close, assert_equal
from models_to_watch import OwnLoop


def traced(module: nn.Module, steps: int, lanes: int = 2):
    (one,) = trace(module.double(), torch.randn(steps, lanes, 3, dtype=torch.float64))
    return one


@pytest.mark.parametrize("steps", [2, 8])
def test_capacity_of_one_block_is_refused(steps: int) -> None:
    """Nothing is left to score on, and scored on what it was fitted to any network explains all."""
    with pytest.raises(ArgumentError, match=r"none at lag 0 of T=.*record a longer sequence"):
        capacity(traced(nn.RNN(3, 40), steps), 1)
    capacity(traced(nn.RNN(3, 40), 9), 1)


def test_capacity_where_every_lane_ends_within_the_first_block() -> None:
    (one,) = trace(bptt.nn.GRU(3, 4), torch.randn(20, 2, 3), lengths=torch.tensor([5, 7]))
    with pytest.raises(ArgumentError, match="none at lag 0"):
        capacity(one, 2)


def test_capacity_over_a_border_is_nothing() -> None:
    reset = torch.zeros(40, 2, dtype=torch.bool)
    reset[::4] = True
    (one,) = trace(bptt.nn.GRU(3, 4), torch.randn(40, 2, 3), reset=reset)
    assert capacity(one, 6).explained[4:].tolist() == [0, 0]


@pytest.mark.parametrize("where", ["after", "inputs"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_capacity_of_what_is_not_finite_is_refused(where: str, value: float) -> None:
    one = traced(nn.RNN(3, 4), 30)
    getattr(one, where)[0][3, 0, 0] = value
    with pytest.raises(ArgumentError, match="NaN or infinity"):
        capacity(one, 4)


def test_capacity_of_tokens_is_refused() -> None:
    one = traced(nn.RNN(3, 4), 30)
    with pytest.raises(ArgumentError, match=r"received torch\.int64.*behind the embedding"):
        capacity(replace(one, inputs=(torch.randint(5, (30, 2, 1)),)), 4)


def test_capacity_knows_no_units() -> None:
    """A power of two in states and inputs changes no bit, though the squares would overflow."""
    one = traced(nn.RNN(3, 4), 60)
    states, inputs = (
        tuple(a * 2.0**700 for a in one.after),
        tuple(i * 2.0**-700 for i in one.inputs),
    )
    assert_equal(capacity(replace(one, after=states, inputs=inputs), 4), capacity(one, 4))


def broken(value: float) -> nn.Module:
    module = nn.RNN(3, 4)
    with torch.no_grad():
        module.weight_hh_l0[0, 0] = value
    return module


def test_jacobians_that_are_not_finite_are_refused() -> None:
    one = traced(broken(torch.nan), 20)
    with pytest.raises(ArgumentError, match="1 steps back"):
        jacobian_products(one, 4)
    with pytest.raises(ArgumentError, match="in steps 0 to 19"):
        lyapunov_spectrum(one)


def test_a_product_that_overflows_is_refused() -> None:
    module = nn.RNN(3, 4, bias=False).double()
    nn.init.zeros_(module.weight_ih_l0)  # the state stays at 0, where tanh is the identity
    with torch.no_grad():
        module.weight_hh_l0.copy_(1e60 * torch.eye(4, dtype=torch.float64))
    one = traced(module, 8)
    assert bool(jacobian_products(one, 5).norms.isfinite().any())
    with pytest.raises(ArgumentError, match=r"6 steps back: .*ask for fewer lags"):
        jacobian_products(one, 6)


def test_saturation_of_states_beyond_float32() -> None:
    module = nn.RNN(3, 4, nonlinearity="relu").double()
    with torch.no_grad():
        module.weight_hh_l0.copy_(10.0 * torch.eye(4))
        module.bias_ih_l0.fill_(9.0)
    gate = saturation(traced(module, 200)).layers[0]["relu"]
    assert float(gate.edges[-1]) > 1e199
    assert_close(float(gate.shares.sum()), 1.0, 1e-12)
    with bptt.watch(module) as flow:
        module(torch.randn(200, 2, 3, dtype=torch.float64))[0][-1].sum().backward()
    assert flow.verdict == "exploding"


class WithReadout(nn.Module):
    """A cell that reads its own state out: (x, h) -> (y, h)."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.cell = nn.RNNCell(3, size, nonlinearity="relu")
        self.read = nn.Linear(size, size)

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        state = self.cell(x, state)
        return self.read(state), state


def test_a_readout_is_no_state() -> None:
    """Beside 8 states 8 outputs are recorded: with an orthogonal map all of the 8 are kept."""
    cell = WithReadout().double()
    with torch.no_grad():
        cell.cell.weight_hh.copy_(torch.eye(8).roll(1, 0))  # a permutation keeps ReLU open
        cell.cell.bias_ih.fill_(5.0)
        cell.cell.bias_hh.fill_(5.0)
    x = torch.randn(40, 2, 3, dtype=torch.float64)
    found = bptt.diagnose(OwnLoop(cell), (x, torch.zeros(())), lambda y, _: y.sum()).main
    assert found.notes == ()
    assert found.jacobians is not None
    assert found.lyapunov is not None
    assert found.capacity is not None
    assert found.jacobians.singular_values.shape[-1] == 8
    ones = torch.ones(8, dtype=torch.float64)
    assert_close(found.jacobians.singular_values[0, 0], ones, 1e-12)
    assert_close(
        found.jacobians.spectral_norm, torch.ones_like(found.jacobians.spectral_norm), 1e-12
    )
    assert_close(found.lyapunov.exponents, torch.zeros_like(ones), 1e-12, floor=1.0)
    # What the states hold is what the cell alone holds, however much its readout repeats.
    (alone,) = trace(cell, x)
    assert_close(found.capacity.explained, capacity(alone, 20).explained, 1e-12)


def test_carried_leaves_a_recurrence_of_states_alone() -> None:
    one = traced(nn.LSTM(3, 4), 5)
    assert carried(one) is one
    assert carried(replace(one, labels=())).sizes == (4, 4)
