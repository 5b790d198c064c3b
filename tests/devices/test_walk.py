"""Every model, cell, estimator and probe steps on a second device, where a tensor of the CPU is an error.

The device is :mod:`second_device`'s, whose numbers are real: results are compared. On torch's own
``meta`` device, which has no numbers, only what reads none can be walked: layers, forward and backward.
"""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree

import bptt
from bptt import gradients, remedies
from bptt.experiments.trials import diagnose
from bptt.models import AttentionModel, LanguageModel, WindowModel, token_loss
from bptt.probes import (
    capacity,
    jacobian_products,
    lag_spectrum,
    lyapunov_spectrum,
    saturation,
    state_gradients,
)
from bptt.recurrence import trace
from bptt.training.fit import fit_step
from second_device import SecondDevice, There, here, there

CELLS = ("rnn", "rnn-relu", "gru", "lstm", "mingru", "lru")
ESTIMATORS = {
    "full": gradients.Full(),
    "truncated": gradients.Truncated(4),
    "windowed": gradients.Windowed(3, 7),
    "checkpointed": gradients.Checkpointed(3),
    "adaptive": gradients.Adaptive(0.05),
    "randomized": gradients.Randomized(3, 0.5),
    "forward": gradients.ForwardMode(),
    "uoro": gradients.ForwardMode("uoro"),
}


def both(make, run):
    """What ``run(model, to)`` returns on the CPU and on the second device, and that it is the same."""
    torch.manual_seed(0)
    model = make()
    found = []
    with SecondDevice():
        for one, to in ((model, lambda value: value), (there(copy.deepcopy(model)), there)):
            torch.manual_seed(1)
            found.append(_pytree.tree_leaves(plain(run(one, to))))
    placed = [isinstance(leaf, There) for leaf in found[1]]
    for mine, other in zip(*(here(leaves) for leaves in found), strict=True):
        if isinstance(mine, (str, bool)) or mine is None:
            assert other == mine
        elif isinstance(mine, torch.Tensor):
            torch.testing.assert_close(other, mine, rtol=1e-3, atol=1e-4, equal_nan=True)
        else:
            assert other == pytest.approx(mine, rel=1e-3, abs=1e-5, nan_ok=True)
    return placed


def plain(value):
    """A nest of numbers and tensors out of whatever was measured."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [plain(getattr(value, f.name)) for f in dataclasses.fields(value)]
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return [plain(v) for v in value.values()]
    known = isinstance(value, (torch.Tensor, int, float, str)) or value is None
    return value.detach() if isinstance(value, torch.Tensor) else value if known else None


TOKENS, TARGETS = torch.randint(7, (8, 2)), torch.randint(7, (8, 2))
RESET = torch.rand(8, 2) < 0.2
X, Y = torch.randn(9, 3, 3), torch.randn(9, 3, 4)


def differentiated(estimator, **marks):
    def run(model, to):
        given = {name: to(mark) for name, mark in marks.items()}
        step = estimator.backward(model, to(TOKENS), to(TARGETS), None, token_loss, **given)
        return step.loss, step.carry, step.terms, step.depth, [p.grad for p in model.parameters()]

    return run


def pairs():
    """Every estimator on a GRU and every cell under truncation; all others take longer."""
    for name in ESTIMATORS:
        for cell in CELLS:
            slow = name != "truncated" and (cell != "gru" or name in ("forward", "uoro"))
            yield pytest.param(name, cell, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("name", "cell"), [*pairs()])
def test_every_estimator_and_cell(name, cell):
    model = LanguageModel(7, cell, hidden=3)
    # One measures, and two go step by step: with marks these are slow, and walk no other code.
    marks = {} if name in ("adaptive", "forward", "uoro") else {"reset": RESET}
    placed = both(lambda: model, differentiated(ESTIMATORS[name], **marks))
    assert placed[0], "the loss lies on the device"
    assert all(placed[-len(list(model.parameters())) :])


@pytest.mark.parametrize("reset", [None, RESET], ids=["plain", "reset"])
def test_the_other_models(reset):
    marks = {} if reset is None else {"reset": reset}
    run = differentiated(ESTIMATORS["full"], **marks)
    both(lambda: WindowModel(7, hidden=5, layers=1, embedding=3, window=3), run)
    both(lambda: AttentionModel(7, layers=1, width=8, context=6), run)


class Loop(nn.Module):
    """A cell in a loop, perhaps with something between its steps."""

    def __init__(self, kind, between):
        super().__init__()
        self.cell, self.between = kind(3, 4), nn.LayerNorm(4) if between else nn.Identity()

    def forward(self, x):
        state, outputs = None, []
        for now in x:
            new = self.cell(now, state)
            state = (self.between(new[0]), new[1]) if isinstance(new, tuple) else self.between(new)
            outputs.append(state[0] if isinstance(new, tuple) else state)
        return torch.stack(outputs)


class First(nn.Module):
    """A layer's outputs alone."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


WATCHED = {
    "torch": lambda: First(nn.GRU(3, 4)),
    "stacked": lambda: First(bptt.nn.LSTM(3, 4, 2)),
    "both ways": lambda: First(bptt.nn.GRU(3, 2, bidirectional=True)),
    "mingru": lambda: First(bptt.nn.MinGRU(3, 4)),
    "lru": lambda: First(bptt.nn.LRU(3, 4)),
    "cell": lambda: Loop(nn.GRUCell, False),
    "graded": lambda: Loop(nn.LSTMCell, True),
    "graded rnn": lambda: Loop(nn.RNNCell, True),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in ("torch", "graded", "cell") else pytest.mark.slow)
        for n in WATCHED
    ],
)
def test_watch_on_layers_cells_and_any_graph(name):
    def run(model, to):
        with bptt.watch(model, lanes=2) as flow:
            F.mse_loss(model(to(X)), to(Y)).backward()
        return flow.method, flow.horizon, flow.spectrum

    both(WATCHED[name], run)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "lru", "graded"])
def test_a_diagnosis(name):
    both(WATCHED[name], lambda model, to: diagnose(model, (to(X), to(Y)), F.mse_loss, k=5))


@pytest.mark.parametrize(
    "kind",
    [nn.RNN, bptt.nn.GRU, nn.LSTM, bptt.nn.MinGRU, bptt.nn.LRU, nn.GRUCell],
    ids=lambda k: k.__name__,
)
def test_every_probe(kind):
    def run(model, to):
        one = trace(model, to(X))[0]
        direct = tuple(torch.ones_like(after) for after in one.after)
        found = [state_gradients(one, direct), lag_spectrum(one, direct), capacity(one, lags=2)]
        found += [jacobian_products(one, lags=3, count=4), lyapunov_spectrum(one)]
        return (
            found if "LRU" in kind.__name__ or "Min" in kind.__name__ else [*found, saturation(one)]
        )

    both(lambda: kind(3, 4), run)


@pytest.mark.parametrize(
    "form", ["none", "norm:0.1", "value:0.01", "rescale", "auto", "z", "unit:0.01"]
)
def test_every_clip(form):
    def run(model, to):
        F.mse_loss(model(to(X))[0], to(Y)).backward()
        seen = remedies.build_clip(form)(list(model.parameters()))
        return seen, [p.grad for p in model.parameters()]

    both(lambda: nn.GRU(3, 4), run)


@pytest.mark.parametrize("form", ["omega:1", "floss:1"])
@pytest.mark.parametrize("hold", [False, True])
def test_every_penalty_and_a_held_matrix(form, hold):
    def run(model, to):
        model = remedies.hold_orthogonal(model) if hold else model
        descent = torch.optim.SGD(model.parameters(), lr=0.1)
        penalties = () if hold else (remedies.build_regulariser(form),)
        batch = to(X), to(Y)
        fit_step(model, descent, batch, gradients.Truncated(5), F.mse_loss, penalties=penalties)
        return list(model.parameters())

    both(lambda: bptt.nn.RNN(3, 4), run)


@pytest.mark.parametrize(
    "form",
    ["small", "gaussian", "identity", "orthogonal", "np", "radius:0.9", "norm:0.9", "chrono:20",
     "forget:1"],
)  # fmt: skip
def test_every_start(form):
    def run(model, to):
        remedies.start_recurrent(model, form)
        return list(model.parameters())

    assert all(both(lambda: bptt.nn.LSTM(3, 4), run))


@pytest.mark.filterwarnings("ignore::bptt.errors.LoopWarning")
def test_the_guard():
    def run(model, to):
        descent, state = torch.optim.SGD(model.parameters(), lr=0.1), None
        with bptt.guard(model, descent) as guard:
            for _ in range(6):
                descent.zero_grad()
                y, state = model(to(X), state)
                state = state.detach()
                F.mse_loss(y, to(Y)).backward()
                descent.step()
                guard.lengths([9, 3, 7])
        return [finding.code for finding in guard.findings], state

    both(lambda: bptt.nn.GRU(3, 4), run)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "MinGRU", "LRU"])
def test_layers_on_the_device_that_has_no_numbers(kind):
    layer = getattr(bptt.nn, kind)(3, 4).to("meta")
    for marks in ({}, {"reset": torch.zeros(5, 2, dtype=torch.bool, device="meta")}):
        y, _ = layer(torch.empty(5, 2, 3, device="meta"), **marks)
        y.sum().backward()
        assert y.is_meta
        assert y.shape == (5, 2, 4)
        assert all(p.grad.is_meta for p in layer.parameters())
