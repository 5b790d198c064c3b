"""A stream is the whole-sequence call, step by step."""

import pytest
import torch
from torch import nn

import bptt
from bptt import ops
from bptt.errors import ArgumentError, DtypeError, ShapeError
from bptt.models import LanguageModel
from bptt.ops import native
from compare import assert_close

KINDS = {
    "rnn": (nn.RNN, {}),
    "relu": (bptt.nn.RNN, {"nonlinearity": "relu"}),
    "gru": (bptt.nn.GRU, {}),
    "lstm": (nn.LSTM, {}),
    "no bias": (bptt.nn.GRU, {"bias": False}),
}
# A step sums its products in another order than the whole sequence's matrix product does.
TOL = {torch.float32: 2e-6, torch.float64: 1e-13}


@pytest.fixture(params=["compiled", "plain torch"])
def way(request, monkeypatch):
    before = ops.backend().setting
    if request.param == "plain torch":
        monkeypatch.setattr(native, "missing", "for this test")
        ops.set_backend("eager")
    yield
    ops.set_backend(before)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_equal_the_sequence(kind, batch, dtype):
    layer, options = KINDS[kind]
    for hidden, layers in ((1, 1), (7, 2), (33, 3)):
        model = layer(4, hidden, layers, dtype=dtype, **options)
        stream = bptt.Stream(model, batch=batch)
        x = torch.randn(9, batch, 4, dtype=dtype)
        steps = torch.stack([stream.step(x[t]).clone() for t in range(9)])
        whole, final = model(x)
        assert_close(steps, whole.detach(), TOL[dtype])
        final = tuple(s.detach() for s in final) if isinstance(final, tuple) else final.detach()
        assert_close(stream.state, final, TOL[dtype])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_language_model(cell):
    model = LanguageModel(11, cell=cell, hidden=9, layers=2, dropout=0.5).train()
    nn.init.normal_(model.output.weight)
    nn.init.normal_(model.output.bias)
    stream = bptt.Stream(model, batch=2)
    tokens = torch.randint(11, (12, 2))
    assert_close(stream.warm_up(tokens[:5]), model.eval()(tokens[:5])[0][-1].detach(), 2e-6)
    model.train()
    steps = torch.stack([stream.step(tokens[t]).clone() for t in range(5, 12)])
    assert model.training
    assert_close(steps, model.eval()(tokens)[0][5:].detach(), 2e-6)


@pytest.mark.usefixtures("way")
def test_reset_and_state():
    gru = bptt.nn.GRU(4, 5)
    stream = bptt.Stream(gru, batch=2)
    x = torch.randn(6, 2, 4)
    for t in range(3):
        stream.step(x[t])
    kept = stream.state
    stream.reset(torch.tensor([False, True]))
    y = stream.step(x[3]).clone()
    assert_close(y[0], gru(x[:4])[0][-1, 0].detach(), 2e-6)
    assert_close(y[1], gru(x[3:4])[0][-1, 1].detach(), 2e-6)
    stream.state = kept
    assert_close(stream.step(x[3]), gru(x[:4])[0][-1].detach(), 2e-6)
    stream.reset()
    assert not stream.state.any()


def test_weights_are_taken_when_asked():
    gru = bptt.nn.GRU(4, 5)
    stream = bptt.Stream(gru)
    x = torch.randn(1, 4)
    before = stream.step(x).clone()
    with torch.no_grad():
        for parameter in gru.parameters():
            parameter.mul_(2)
    stream.reset()
    assert_close(stream.step(x), before, 0.0)
    stream.reset()
    stream.refresh()
    assert_close(stream.step(x), gru(x[None])[0][0].detach(), 2e-6)


def test_inputs_that_lie_oddly():
    gru = bptt.nn.GRU(4, 5)
    wide = torch.randn(1, 8)
    stream = bptt.Stream(gru)
    assert_close(stream.step(wide[:, ::2]), gru(wide[None, :, ::2])[0][0].detach(), 2e-6)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.GRU(2, 3, bidirectional=True), "one direction"),
        (nn.LSTM(2, 3, proj_size=1), "proj_size"),
        (nn.Linear(2, 3), "LanguageModel over one"),
        (nn.GRU(2, 3).half(), "float32 or float64"),
    ],
)
def test_what_cannot_be_streamed(model, words):
    with pytest.raises(ArgumentError, match=words):
        bptt.Stream(model)


@pytest.mark.usefixtures("way")
def test_a_layer_that_takes_lanes_first_is_warmed_up_time_first_too():
    gru = nn.GRU(3, 5, batch_first=True)
    x = torch.randn(4, 4, 3)  # as many steps as lanes, so that no shape tells them apart
    stream = bptt.Stream(gru, batch=4)
    whole = gru(x.transpose(0, 1))[0].detach()
    assert_close(stream.warm_up(x[:2]), whole[:, 1], 2e-6)
    assert_close(stream.step(x[2]), whole[:, 2], 2e-6)


def test_a_warm_up_that_fails_leaves_the_model_in_training():
    model = nn.GRU(3, 5, num_layers=2, dropout=0.5).train()
    with pytest.raises((RuntimeError, ValueError)):
        bptt.Stream(model).warm_up(torch.randn(4, 1, 2))
    assert model.training


def test_bad_steps():
    stream = bptt.Stream(nn.GRU(2, 3))
    with pytest.raises(ShapeError, match=r"\(B=1, I=2\)"):
        stream.step(torch.zeros(2))
    with pytest.raises(DtypeError, match="float32"):
        stream.step(torch.zeros(1, 2).double())
    with pytest.raises(ShapeError, match="state"):
        stream.state = torch.zeros(1, 2, 3)
    with pytest.raises(ShapeError, match="mark each stream once"):
        stream.reset(torch.tensor([True, False]))
    with pytest.raises(ArgumentError, match="batch >= 1"):
        bptt.Stream(nn.GRU(2, 3), batch=0)
    tokens = bptt.Stream(LanguageModel(5, hidden=3))
    for wrong in (torch.tensor([5]), torch.tensor([-1])):
        with pytest.raises(ArgumentError, match="tokens from 0 to V-1=4"):
            tokens.step(wrong)
    with pytest.raises(DtypeError, match=r"\.long"):
        tokens.step(torch.tensor([1.0]))
