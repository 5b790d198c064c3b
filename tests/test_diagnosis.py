"""``bptt.diagnose``: measures everything about one step and leaves no trace."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import bptt
from bptt.errors import ArgumentError
from bptt.probes.watch import WatchError
from compare import assert_close
from loops_to_watch import LOOPS, B, I, T
from models_to_watch import Classifier, Tagger

mse = nn.functional.mse_loss


def test_nothing_is_changed() -> None:
    model = Classifier()  # in training mode, with dropout between its layers
    x, target = torch.randn(4, 7, 3), torch.randn(4, 4)
    mse(model(x), target).backward()
    twin = copy.deepcopy(model)
    gradients = [p.grad for p in model.parameters()]
    random = torch.get_rng_state()
    bptt.diagnose(model, (x, target), mse)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    for p, q, gradient in zip(model.parameters(), twin.parameters(), gradients, strict=True):
        assert torch.equal(p, q)
        assert p.grad is gradient
        assert torch.equal(p.grad, q.grad if q.grad is not None else gradient)


def test_after_an_error_too() -> None:
    model = nn.GRU(3, 4)
    model.weight_hh_l0.grad = kept = torch.ones_like(model.weight_hh_l0)
    with pytest.raises(ZeroDivisionError):
        bptt.diagnose(model, (torch.randn(5, 2, 3), None), lambda y, _: 1 / 0)
    assert model.weight_hh_l0.grad is kept


def test_it_is_what_watch_measures() -> None:
    model = Tagger().double()
    x = torch.randn(9, 2, 3, dtype=torch.float64)
    target = torch.randn(9, 2, 4, dtype=torch.float64)
    found = bptt.diagnose(model, (x, target), mse, k=4)
    with bptt.watch(model) as flow:
        mse(model(x), target).backward()
    assert [m.watched.name for m in found.modules] == [m.name for m in flow.modules]
    for one, two in zip(found.modules, flow.modules, strict=True):
        # The same computation in the same order.
        assert_close(one.watched.spectrum.norms, two.spectrum.norms, 1e-15)
        assert one.jacobians is not None
        assert one.lyapunov is not None
        assert one.capacity is not None


def test_a_k_off_the_grid_is_measured() -> None:
    found = bptt.diagnose(nn.GRU(3, 4), (torch.randn(90, 2, 3), torch.zeros(90, 2, 4)), mse, k=70)
    # The default grid has 64 and 76.
    assert 70 in found.main.watched.spectrum.truncations.tolist()
    assert found.main.watched.spectrum.bias_of(70) < 1


def test_a_k_beyond_the_sequence() -> None:
    found = bptt.diagnose(nn.GRU(3, 4), (torch.randn(6, 2, 3), torch.zeros(6, 2, 4)), mse, k=70)
    assert found.main.watched.spectrum.bias_of(70) == 0


def test_one_step_and_one_lane() -> None:
    found = bptt.diagnose(nn.GRU(3, 4), (torch.randn(1, 1, 3), torch.zeros(1, 1, 4)), mse)
    assert found.main.watched.horizon == 1


def test_what_cannot_be_measured_is_named(monkeypatch) -> None:
    monkeypatch.setattr("bptt.probes.diagnose.STATES", 3)
    found = bptt.diagnose(nn.GRU(3, 4), (torch.randn(9, 2, 3), torch.zeros(9, 2, 4)), mse)
    assert found.main.jacobians is None
    assert found.main.lyapunov is None
    assert len(found.main.notes) == 2
    assert "4 states" in found.main.notes[0]


def test_several_arguments() -> None:
    gru = nn.GRU(3, 4)
    found = bptt.diagnose(
        gru, ((torch.randn(5, 2, 3), torch.randn(1, 2, 4)), torch.zeros(5, 2, 4)), mse
    )
    assert found.main.watched.spectrum.steps == 5


@pytest.mark.parametrize("batch", [torch.zeros(3), (1, 2, 3)])
def test_a_batch_that_is_no_pair(batch) -> None:
    with pytest.raises(ArgumentError, match="both as one tuple"):
        bptt.diagnose(nn.GRU(3, 4), batch, mse)


def test_wrong_use() -> None:
    batch = torch.randn(5, 2, 3), torch.randn(5, 2, 4)
    with pytest.raises(ArgumentError, match="k >= 1"):
        bptt.diagnose(nn.GRU(3, 4), batch, mse, k=0)
    with pytest.raises(ArgumentError, match="without any"):
        bptt.diagnose(nn.Linear(3, 4), batch, mse)
    free = torch.ones((), requires_grad=True)
    with pytest.raises(WatchError, match="on a loss of this model's output"):
        bptt.diagnose(nn.GRU(3, 4), batch, lambda y, _: free * 2)


class TwoLayers(nn.Module):
    """Two recurrences whose gradients have nothing to do with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.GRU(3, 4), nn.GRU(3, 4)

    def forward(self, x):
        return self.one(x)[0] + self.two(x)[0]


@pytest.mark.parametrize("broken", ["one", "two"])
def test_a_gradient_that_is_not_finite_is_the_main_one(broken: str) -> None:
    found = bptt.diagnose(TwoLayers(), (torch.randn(9, 2, 3), torch.zeros(9, 2, 4)), mse)
    modules = [
        replace(m, watched=replace(m.watched, spectrum=replace(m.watched.spectrum,
                gradient_norm=math.nan))) if m.watched.name == broken else m
        for m in found.modules
    ]  # fmt: skip
    assert replace(found, modules=tuple(modules)).main.watched.name == broken


def test_a_weight_that_is_not_a_number_is_reported() -> None:
    model = nn.RNN(3, 4)
    with torch.no_grad():
        model.weight_hh_l0[1, 2] = math.nan
    found = bptt.diagnose(model, (torch.randn(20, 2, 3), torch.zeros(20, 2, 4)), mse).main
    assert found.watched.verdict == "exploding"
    assert (found.jacobians, found.lyapunov, found.capacity) == (None, None, None)
    assert [n.split(" not measured: ")[0] for n in found.notes] == [
        "Jacobian products", "Lyapunov exponents", "memory",
    ]  # fmt: skip


def test_memory_of_too_few_steps_is_a_note() -> None:
    found = bptt.diagnose(nn.GRU(3, 4), (torch.randn(8, 2, 3), torch.zeros(8, 2, 4)), mse).main
    assert found.capacity is None
    assert len(found.notes) == 1
    assert "record a longer sequence" in found.notes[0]


@pytest.mark.parametrize("name", ["dropout", "encoder and decoder", "hand", "layer to cell"])
def test_any_loop_is_diagnosed(name: str, tmp_path) -> None:
    """What is chained is judged as one; what needs a closed form is named as missing."""
    model = LOOPS[name]()
    found = bptt.diagnose(model, (torch.randn(T, B, I), None), lambda y, _: y.square().mean(), k=3)
    with bptt.watch(model, at="every") as flow:
        torch.manual_seed(1)
        model(torch.randn(T, B, I)).square().mean().backward()
    assert found.main is found.modules[-1]
    assert len(found.modules) == len(flow.modules) + (len(flow.modules) > 1)
    assert found.main.watched.spectrum.steps == T
    assert "<table>" in found._repr_html_()
    bptt.report.write_report(found, tmp_path / "report.html")
    assert "all together" in (tmp_path / "report.html").read_text() or len(flow.modules) == 1
