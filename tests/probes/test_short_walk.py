"""The walk that stops early: where it does not stop it is the exact one; where it does, it says how."""

from __future__ import annotations

import pytest
import torch

from bptt.errors import ArgumentError
from bptt.probes import lag_spectrum
from bptt.recurrence import trace
from compare import assert_close

TOLERANCE = 1e-11  # float64 sums of some hundred terms, added in another order
NOTHING = 1e-13  # a floor below what float64 tells apart: every lag is followed


def case(cell: str, steps: int, lanes: int, reset: bool = False):
    torch.manual_seed(steps)
    module = getattr(torch.nn, cell)(3, 5, num_layers=2).double()
    (recurrence,) = trace(module, torch.randn(steps, lanes, 3, dtype=torch.float64))
    if reset and steps > 2:
        recurrence.link[steps // 2, 0] = False
    direct = tuple(torch.randn_like(a) for a in recurrence.after)
    return recurrence, direct


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize(("steps", "lanes"), [(1, 1), (7, 3), (23, 2)])
def test_it_is_the_exact_walk_where_nothing_is_left_out(cell, steps, lanes):
    recurrence, direct = case(cell, steps, lanes, reset=True)
    exact = lag_spectrum(recurrence, direct, at="every")
    short = lag_spectrum(recurrence, direct, at="every", floor=NOTHING)
    assert_close(short.gradient_norm, exact.gradient_norm, TOLERANCE)
    assert_close(short.norms, exact.norms, TOLERANCE)
    assert_close(short.measured_bias, exact.measured_bias, TOLERANCE, floor=1.0)
    assert_close(short.measured_cosine, exact.measured_cosine, TOLERANCE, floor=1.0)
    assert_close(short.factors, exact.factors, TOLERANCE)
    assert_close(short.block_norms, exact.block_norms, TOLERANCE, floor=1.0)
    assert_close(short.state_gradient_norms, exact.state_gradient_norms, TOLERANCE)
    assert (short.lanes, short.sources) == ((lanes, lanes), 1.0)
    assert not short.bias_error.any()


@pytest.mark.parametrize("sources", [2, 4, 5, 6])
@pytest.mark.parametrize("kept", [1, 2, 3])
def test_times_that_are_followed_are_those_of_a_masked_loss(sources, kept):
    steps = 23
    recurrence, direct = case("GRU", steps, 3, reset=True)
    short = lag_spectrum(recurrence, direct, at="every", floor=NOTHING, sources=sources, lanes=kept)
    apart = -(-steps // sources)
    times = torch.arange((steps - 1) % apart, steps, apart)
    assert len(times) <= sources
    assert short.sources == len(times) / steps
    masked = tuple(torch.zeros_like(d) for d in direct)
    for whole, part in zip(direct, masked, strict=True):
        part[times] = whole[times]
    chosen = torch.arange(kept) * 3 // kept
    exact = lag_spectrum(
        recurrence.select(chosen), tuple(m.index_select(1, chosen) for m in masked), at="every"
    )
    assert_close(short.measured_bias, exact.measured_bias, TOLERANCE, floor=1.0)
    assert_close(short.gradient_norm, exact.gradient_norm, TOLERANCE)
    assert_close(short.state_gradient_norms, exact.state_gradient_norms, TOLERANCE)
    if len(times) > 1:
        assert short.bias_error.any()  # of a sample it is said how far it may be off


def test_what_is_not_followed_is_within_the_floor():
    recurrence, direct = case("RNN", 60, 4)
    exact = lag_spectrum(recurrence, direct, at="every")
    short = lag_spectrum(recurrence, direct, at="every", floor=1e-3)
    followed = int((short.norms > 0).sum())
    assert 2 < followed < 60
    # The rule bounds the state gradients to come; ‖∂h/∂θ‖ varies over the steps, by far less than 10.
    error = float((short.measured_bias - exact.measured_bias).abs().max())
    assert 0 < error < 1e-2


@pytest.mark.parametrize("options", [{"floor": 0.0}, {"floor": 1.0}, {"floor": 0.1, "cap": 3}])
def test_options_that_do_not_fit(options):
    recurrence, direct = case("RNN", 7, 2)
    with pytest.raises(ArgumentError, match="expected a floor between 0 and 1, and no cap"):
        lag_spectrum(recurrence, direct, **options)
