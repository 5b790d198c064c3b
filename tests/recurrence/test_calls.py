"""What calls may look like: final states alone, marks at a chunk's first step, wrappers, short dtypes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import bptt
from bptt.recurrence import ReplayError, trace
from compare import assert_close

# Sums of some hundred products in another order than autograd's, in float64.
SUM = 1e-12
# A product in bfloat16 errs by 2⁻⁸, and the errors of some hundred partly cancel.
SHORT = 0.02


def norm_of(model: nn.Module) -> float:
    gradients = [p.grad.double() for p in model.parameters() if p.grad is not None]
    return sum(float(g.square().sum()) for g in gradients) ** 0.5


def states(final) -> tuple[Tensor, ...]:
    return final if isinstance(final, tuple) else (final,)


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("calls", [1, 2])
def test_a_loss_on_the_final_state_alone(cell: str, calls: int) -> None:
    """No gradient arrives at the output: autograd says so with None."""
    found = []
    for owner in (nn, bptt.nn):
        torch.manual_seed(1)
        module = getattr(owner, cell)(3, 5).double()
        x = torch.randn(8, 2, 3, dtype=torch.float64)
        with bptt.watch(module, at="every") as flow:
            state = None
            for part in x.chunk(calls):
                _, state = module(part, state)
            sum(s.square().sum() for s in states(state)).backward()
        assert flow.spectrum.steps == 8
        assert_close(flow.spectrum.gradient_norm, norm_of(module), SUM)
        found.append(flow.spectrum)
    assert_close(found[1].norms, found[0].norms, SUM)


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("mark", ["reset", "cut"])
@pytest.mark.parametrize("lanes", [[0], [0, 1, 2]])
def test_a_mark_on_the_first_step_of_a_chained_call(cell: str, mark: str, lanes: list) -> None:
    """Two calls are what one is, wherever the mark stands."""
    module = getattr(bptt.nn, cell)(3, 5).double()
    x = torch.randn(8, 3, 3, dtype=torch.float64)
    weight = torch.randn(8, 3, 5, dtype=torch.float64)
    marks = torch.zeros(8, 3, dtype=torch.bool)
    marks[4, lanes] = True
    found = []
    for sizes in ([8], [4, 4]):
        module.zero_grad()
        with bptt.watch(module, at="every") as flow:
            state, loss = None, 0.0
            for part, m, w in zip(*(v.split(sizes) for v in (x, marks, weight)), strict=True):
                y, state = module(part, state, **{mark: m})
                loss = loss + (y * w).sum()
            loss.backward()
        assert_close(flow.spectrum.gradient_norm, norm_of(module), SUM)
        found.append(flow.spectrum)
    assert found[1].steps == 8
    assert_close(found[1].norms, found[0].norms, SUM)
    assert_close(found[1].measured_bias, found[0].measured_bias, SUM, floor=1.0)


class Wrapper(nn.Module):
    """A torch layer with a head, called a step at a time as ``(x, state) -> (y, state)``."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer, self.out = layer, nn.Linear(5, 2)

    def forward(self, x: Tensor, state=None) -> tuple:
        y, state = self.layer(x, state)
        return self.out(y), state


def step_by_step(model: nn.Module, parts: tuple[Tensor, ...], state=None) -> bptt.probes.watch.Flow:
    model.zero_grad()
    with bptt.watch(model, at="every") as flow:
        loss = 0.0
        for part in parts:
            y, state = model(part, state)
            loss = loss + y.square().sum()
        loss.backward()
    return flow


@pytest.mark.parametrize("owner", [nn, bptt.nn])
@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("layout", ["time-major", "one lane", "batch-major", "unbatched"])
def test_a_wrapped_layer_called_step_by_step(owner, cell: str, given: bool, layout: str) -> None:
    model = Wrapper(getattr(owner, cell)(3, 5, batch_first=layout == "batch-major")).double()
    lanes = 4 if layout == "time-major" else 1
    x = torch.randn(6, lanes, 3, dtype=torch.float64)
    state = torch.zeros(1, lanes, 5, dtype=torch.float64)
    if layout == "batch-major":
        x = x.transpose(0, 1)
    elif layout == "unbatched":
        x, state = x[:, 0], state[:, 0]
    start = ((state, state) if cell == "LSTM" else state) if given else None
    flow = step_by_step(model, x.split(1, 1 if layout == "batch-major" else 0), start)
    (only,) = flow.modules
    assert (only.name, flow.spectrum.steps, flow.spectrum.lanes) == ("layer", 6, (lanes, lanes))
    assert_close(flow.spectrum.gradient_norm, norm_of(model.layer), SUM)
    model.zero_grad()
    with bptt.watch(model, at="every") as whole:
        model(x, start)[0].square().sum().backward()
    assert_close(flow.spectrum.norms, whole.spectrum.norms, SUM)


class OneLane(nn.Module):
    """A step that is written for one lane."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, x: Tensor, h: Tensor | None) -> tuple:
        h = torch.zeros(1, 5, dtype=x.dtype) if h is None else h
        h = torch.tanh(self.inner(h.view(1, 5)) + x)
        return h, h


def test_a_step_that_cannot_be_run_on_more_lanes_is_refused_in_words() -> None:
    with pytest.raises(ReplayError, match="first axis of x, of y and of every state") as caught:
        trace(OneLane(), torch.randn(6, 1, 5))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


class Leaky(Wrapper):
    """The state is changed on its way: the layer's own calls, each for itself, would be nonsense."""

    def forward(self, x: Tensor, state: Tensor) -> tuple:
        y, state = self.layer(x, state)
        return self.out(y), 0.9 * state


@pytest.mark.parametrize(
    ("model", "x", "state"),
    [
        (OneLane(), torch.randn(6, 1, 5).unbind(0), torch.zeros(1, 5)),
        (Leaky(nn.GRU(3, 5)), torch.randn(6, 4, 3).split(1), torch.zeros(1, 4, 5)),
    ],
    ids=["one lane", "leaky"],
)
def test_a_step_that_cannot_be_run_again_is_measured_on_its_graph(model, x, state) -> None:
    model = model.double()
    flow = step_by_step(model, [v.double() for v in x], state.double())
    assert (flow.method, flow.spectrum.steps) == ("graded", 6)
    assert 0 < flow.bias(1) < 1
    parts = model.layer if isinstance(model, Leaky) else model
    used = {n for n, _ in parts.named_parameters()}
    assert {n.removeprefix("layer.") for n in flow.spectrum.parameters} >= used


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}])
def test_layers_in_bfloat16(cell: str, options: dict) -> None:
    module = getattr(nn, cell)(3, 5, **options).bfloat16()
    x = torch.randn(7, 4, 3).bfloat16()
    with bptt.watch(module) as flow:
        module(x)[0].float().square().sum().backward()
    assert_close(flow.spectrum.gradient_norm, norm_of(module), SHORT)
    assert trace(module, x)[0].steps == 7
    before = module.weight_hh_l0.grad.clone()
    with bptt.remedies.Omega().on(module) as done:
        module(x)[0].float().square().sum().backward()
    assert done.acted
    assert module.weight_hh_l0.grad.dtype == torch.bfloat16
    assert not torch.equal(module.weight_hh_l0.grad, before)


class Own(nn.Module):
    """A cell whose state is as short as autocast makes it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 5)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.inner(torch.cat([x, h], -1)))


@pytest.mark.parametrize("make", [nn.RNNCell, nn.GRUCell, nn.LSTMCell, lambda *_: Own()])
def test_cells_under_autocast(make) -> None:
    cell = make(3, 5)
    with bptt.watch(cell) as flow:
        with torch.autocast("cpu", torch.bfloat16):
            state, loss = torch.zeros(4, 5), 0.0
            state = (state, state) if isinstance(cell, nn.LSTMCell) else state
            for value in torch.randn(7, 4, 3):
                state = cell(value, state)
                loss = loss + states(state)[0].float().square().sum()
        loss.backward()
    assert flow.spectrum.steps == 7
    assert_close(flow.spectrum.gradient_norm, norm_of(cell), SHORT)


def test_a_layer_under_autocast() -> None:
    module = nn.GRU(3, 5)
    with bptt.watch(module) as flow:
        with torch.autocast("cpu", torch.bfloat16):
            y, _ = module(torch.randn(7, 4, 3))
        y.float().square().sum().backward()
    assert_close(flow.spectrum.gradient_norm, norm_of(module), SHORT)
