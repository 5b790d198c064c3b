"""Classifier and forecaster: pooling, padding, the residual, running on alone."""

import pytest
import torch
from torch import nn

import bptt
from bptt.errors import ArgumentError, ShapeError
from bptt.models import Classifier, Forecaster
from bptt.recurrence import trace
from compare import assert_close

T, B, I, H = 6, 3, 2, 5
LENGTHS = torch.tensor([6, 1, 4])
CELLS = {
    "gru": lambda: bptt.nn.GRU(I, H, num_layers=2),
    "lstm": lambda: bptt.nn.LSTM(I, H, proj_size=3),
    "both": lambda: bptt.nn.GRU(I, H, bidirectional=True),
    "batch first": lambda: bptt.nn.RNN(I, H, batch_first=True),
    "mingru": lambda: bptt.nn.MinGRU(I, H),
    "lru": lambda: bptt.nn.LRU(I, H),
}


def filled(model):
    for p in model.output.parameters():
        nn.init.normal_(p)
    return model.eval()


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("pool", ["last", "mean"])
def test_padding_has_no_effect(cell, pool):
    model = filled(Classifier(CELLS[cell](), 4, pool))
    x = torch.randn(T, B, I)
    spoilt = x.clone()
    for lane, length in enumerate(LENGTHS):
        spoilt[length:, lane] = torch.nan
    turn = (lambda v: v.transpose(0, 1)) if cell == "batch first" else (lambda v: v)
    with torch.no_grad():
        together, _ = model(turn(spoilt), lengths=LENGTHS)
        for lane, length in enumerate(LENGTHS):
            alone, _ = model(turn(x[:length, lane : lane + 1]))
            # The same sums over another batch size, float32.
            assert_close(together[lane], alone[0], 1e-5)
    assert together.shape == (B, 4)


def test_pooling_is_what_it_says():
    model = filled(Classifier(bptt.nn.GRU(I, H), 4, "mean"))
    x = torch.randn(T, B, I)
    with torch.no_grad():
        y, _ = model.layer(x)
        assert_close(model(x)[0], model.output(y.mean(0)), 1e-5)
        model.pool = "last"
        assert_close(model(x)[0], model.output(y[-1]), 1e-6)
        model.pool = "none"
        assert_close(model(x)[0], model.output(y), 1e-6)


def test_torchs_layers_do_where_no_lengths_are_given():
    model = filled(Classifier(nn.LSTM(I, H), 4))
    logits, (h, _) = model(torch.randn(T, B, I))
    assert_close(logits.detach(), model.output(h[0]).detach(), 1e-6)
    with pytest.raises(ArgumentError, match=r"bptt\.convert"):
        model(torch.randn(T, B, I), lengths=LENGTHS)


def test_the_carry_goes_on():
    model = filled(Forecaster(bptt.nn.GRU(I, H), 2))
    x = torch.randn(T, B, I)
    with torch.no_grad():
        whole, end = model(x)
        first, carry = model(x[:2])
        second, last = model(x[2:], carry)
    assert_close(torch.cat([first, second]), whole, 1e-5)
    assert_close(last, end, 1e-5)


def test_an_untrained_forecast_is_the_present():
    x = torch.randn(T, B, I)
    model = Forecaster(bptt.nn.GRU(I, H), 1)
    assert_close(model(x)[0].detach(), x[..., :1], 0.0)
    assert_close(
        Forecaster(bptt.nn.GRU(I, H), 1, residual=False)(x)[0].detach(), 0 * x[..., :1], 0.0
    )


def test_running_on_alone_feeds_each_forecast_back():
    model = filled(Forecaster(bptt.nn.GRU(I, H), I))
    x = torch.randn(T, B, I)
    found = model.forecast(x, 3)
    known = x
    with torch.no_grad():
        for _ in range(3):
            known = torch.cat([known, model(known)[0][-1:]])
    assert_close(found, known[T:], 1e-5)
    assert not found.requires_grad


def test_its_recurrence_can_be_watched():
    model = Classifier(bptt.nn.GRU(I, H), 4, "none")
    with bptt.watch(model) as flow:
        nn.init.normal_(model.output.weight)
        model(torch.randn(T, B, I))[0][-1].sum().backward()
    assert 1 <= flow.horizon <= T
    assert trace(model.layer, torch.randn(T, B, I))[0].steps == T


def test_refusals():
    with pytest.raises(ArgumentError, match="pool"):
        Classifier(nn.GRU(I, H), 4, "max")
    with pytest.raises(ArgumentError, match="features="):
        Classifier(nn.Linear(I, H), 4)
    with pytest.raises(ArgumentError, match="empty lane"):
        Classifier(bptt.nn.GRU(I, H), 4)(torch.randn(T, B, I), lengths=torch.tensor([0, 1, 2]))
    with pytest.raises(ShapeError, match="residual=False"):
        Forecaster(bptt.nn.GRU(I, H), 3)(torch.randn(T, B, I))
    with pytest.raises(ShapeError, match="all that is read"):
        Forecaster(bptt.nn.GRU(I, H), 1).forecast(torch.randn(T, B, I), 2)
    with pytest.raises(ArgumentError, match="classes"):
        Classifier(nn.GRU(I, H), 0)
