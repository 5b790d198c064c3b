"""The lags add up to the gradient that autograd finds, for every kind of recurrent module."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import bptt
from bptt.recurrence import assemble, flat
from bptt.recurrence.record import Recorder
from compare import assert_close
from models_to_watch import Classifier, Loop, OwnCell, OwnLoop, Tagger

# Sums of some hundred products in another order than autograd's, in float64.
SUM = 1e-12
LAYERS = [
    (owner, cell, options)
    for owner in ("torch", "bptt")
    for cell in ("RNN", "GRU", "LSTM")
    for options in (
        {},
        {"bias": False, "batch_first": True},
        {"num_layers": 3, "dropout": 0.4, "batch_first": True},
        {"num_layers": 2, "bidirectional": True, "dropout": 0.5},
    )
] + [("torch", "LSTM", {"proj_size": 3, "num_layers": 2}), ("bptt", "LSTM", {"proj_size": 2})]


def layer(owner: str, cell: str, options: dict) -> nn.RNNBase:
    return getattr(nn if owner == "torch" else bptt.nn, cell)(4, 5, **options).double()


def lag_gradients(one, direct) -> dict[str, torch.Tensor]:
    """Σ over the lags of each lag's own parameter gradient, a lag at a time."""
    linear, B = one.linearize(), one.lanes
    delta = flat(direct)
    link = one.link.flatten().unsqueeze(-1)
    total = {n: torch.zeros_like(p) for n, p in one.step.parameters.items()}
    while True:
        n = delta[0].shape[0]
        for name, value in linear.gradient(delta, slice(0, n)).items():
            total[name] += value
        if n <= B:
            return total
        passed = tuple(torch.where(link[B:n], d[B:n], 0) for d in delta)
        delta = linear.back(passed, slice(B, n))


def watched(model: nn.Module, step) -> list:
    """The recurrences of one step, after its backward pass."""
    found: list = []
    recorder = Recorder(model, lambda: True, lambda calls: found.extend(assemble(calls)))
    step()
    recorder.remove()
    return found


def check(model: nn.Module, step) -> list:
    """Each parameter of each recurrence: its lags' sum is its ``.grad``."""
    found = watched(model, step)
    modules = dict(model.named_modules())
    for one in found:
        module = modules[next(n for n in (one.name, one.name.rpartition(".")[0]) if n in modules)]
        for name, value in lag_gradients(one.recurrence, one.direct).items():
            assert_close(value, module.get_parameter(name).grad, SUM, f"{one.name}.{name}")
    return found


def loss_of(*outputs: torch.Tensor) -> torch.Tensor:
    return sum((torch.randn_like(o) * o).sum() + o.square().sum() for o in outputs)


@pytest.mark.parametrize(("owner", "cell", "options"), LAYERS)
@pytest.mark.parametrize("sizes", [(7, 3), (1, 1)])
def test_layers(owner: str, cell: str, options: dict, sizes: tuple[int, int]) -> None:
    """Output and final state both in the loss, an initial state given."""
    module = layer(owner, cell, options)
    T, B = sizes
    x = torch.randn(*((B, T) if module.batch_first else (T, B)), 4, dtype=torch.float64)
    rows = module.num_layers * (2 if module.bidirectional else 1)
    h = torch.randn(rows, B, module.proj_size or 5, dtype=torch.float64)
    state = (h, torch.randn(rows, B, 5, dtype=torch.float64)) if cell == "LSTM" else h

    def step() -> None:
        y, final = module(x, state)
        loss_of(y, *(final if cell == "LSTM" else (final,))).backward()

    assert len(check(module, step)) == (rows if module.bidirectional else 1)


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True}]
)
def test_lengths_resets_and_cuts(cell: str, options: dict) -> None:
    module = layer("bptt", cell, options)
    x = torch.randn(7, 3, 4, dtype=torch.float64)
    x[5:, 1] = torch.nan  # whatever lies in the padding
    lengths = torch.tensor([7, 5, 1])
    for _ in range(3):
        reset, cut = torch.rand(7, 3) < 0.2, torch.rand(7, 3) < 0.2
        module.zero_grad()

        def step(reset: torch.Tensor = reset, cut: torch.Tensor = cut) -> None:
            y, final = module(x, lengths=lengths, reset=reset, cut=cut)
            loss_of(y, *(final if cell == "LSTM" else (final,))).backward()

        check(module, step)


@pytest.mark.parametrize("owner", ["torch", "bptt"])
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "dropout": 0.5}, {"bidirectional": True}]
)
def test_packed(owner: str, options: dict) -> None:
    module = layer(owner, "GRU", options)
    x = torch.randn(7, 3, 4, dtype=torch.float64)
    packed = pack_padded_sequence(x, torch.tensor([4, 7, 2]), enforce_sorted=False)
    check(module, lambda: loss_of(module(packed)[0].data).backward())


@pytest.mark.parametrize("model", [Classifier, Tagger])
def test_layers_inside_a_model(model: type[nn.Module]) -> None:
    one = model().double()
    check(one, lambda: loss_of(one(torch.randn(7, 5, 3, dtype=torch.float64))).backward())


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_cells_in_a_loop(cell: type[nn.Module]) -> None:
    model = Loop(cell).double()
    x = torch.randn(7, 2, 3, dtype=torch.float64)
    (found,) = check(model, lambda: loss_of(model(x)).backward())
    assert found.recurrence.steps == 7


def test_a_users_own_cell() -> None:
    model = OwnLoop(OwnCell()).double()
    x = torch.randn(7, 2, 3, dtype=torch.float64)
    (found,) = check(model, lambda: loss_of(model(x)).backward())
    assert found.name == "cell"
    assert found.recurrence.steps == 7


def test_a_cell_whose_states_are_cleared_by_the_caller() -> None:
    """As recurrent policies do where an episode ended: state * (1 - done)."""
    lstm = nn.LSTM(3, 5).double()
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    done = torch.rand(6, 2) < 0.3

    def step() -> None:
        state = tuple(torch.zeros(1, 2, 5, dtype=torch.float64) for _ in "hc")
        total = []
        for t in range(6):
            keep = (~done[t]).double().view(1, 2, 1)
            y, state = lstm(x[t : t + 1], tuple(s * keep for s in state))
            total.append(y)
        loss_of(torch.cat(total)).backward()

    found = check(lstm, step)
    assert torch.equal(found[0].recurrence.link[1:, :2], ~done[1:])


def test_chunks_that_hand_the_state_on() -> None:
    """Undetached, the calls are one sequence; detached, two side by side."""
    gru = bptt.nn.GRU(4, 5, num_layers=2).double()
    x = torch.randn(9, 2, 4, dtype=torch.float64)
    for detached in (False, True):
        gru.zero_grad()

        def step(detached: bool = detached) -> None:
            y1, h = gru(x[:4])
            y2, h = gru(x[4:], h.detach() if detached else h)
            loss_of(y1, y2, h).backward()

        (found,) = check(gru, step)
        assert found.recurrence.steps == (5 if detached else 9)


def test_tokens() -> None:
    model = bptt.models.LanguageModel(9, "lstm", hidden=5, layers=2, dropout=0.3).double()
    nn.init.normal_(model.output.weight)
    tokens = torch.randint(9, (7, 3))
    check(model, lambda: loss_of(model(tokens, reset=torch.rand(7, 3) < 0.2)[0]).backward())
