"""bptt.convert: torch's recurrent layers inside any model become ours."""

import copy
import pickle

import pytest
import torch
from torch import nn

import bptt
from bptt.errors import ArgumentError
from compare import assert_close


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.LSTM(3, 4, bidirectional=True)
        self.rest = nn.ModuleDict({"deep": nn.Sequential(nn.Linear(8, 3))})
        self.rest["rnn"] = nn.RNN(3, 2, nonlinearity="relu")
        self.again = self.encoder

    def forward(self, x):
        return self.rest["rnn"](self.rest["deep"](self.encoder(x)[0]))[0]


def test_nested_modules_keep_identity_weights_and_results():
    model = Tagger()
    x = torch.randn(5, 2, 3)
    before, parameters = model(x), list(model.parameters())
    assert bptt.convert(model) is model
    assert type(model.encoder) is bptt.nn.LSTM
    assert model.again is model.encoder
    assert type(model.rest["rnn"]) is bptt.nn.RNN
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert_close(model(x), before, 1e-6)
    model.encoder(x, reset=torch.zeros(5, 2, dtype=torch.bool))


def test_the_model_itself_and_copies():
    gru = bptt.convert(nn.GRU(3, 4))
    assert type(gru) is bptt.nn.GRU
    x = torch.randn(5, 2, 3)
    for twin in (copy.deepcopy(gru), pickle.loads(pickle.dumps(gru))):
        assert type(twin) is bptt.nn.GRU
        assert_close(twin(x)[0], gru(x)[0], 0.0)


def test_subclasses_are_left_alone():
    class Mine(nn.GRU):
        def forward(self, x):
            return 7

    model = nn.Sequential(Mine(3, 4))
    assert type(bptt.convert(model)[0]) is Mine


def test_parametrized_is_refused():
    gru = nn.GRU(3, 4)
    nn.utils.parametrizations.orthogonal(gru, "weight_hh_l0")
    with pytest.raises(ArgumentError, match="convert the model first"):
        bptt.convert(nn.Sequential(gru))
    ours = bptt.convert(nn.GRU(3, 4))
    nn.utils.parametrizations.orthogonal(ours, "weight_hh_l0")
    ours(torch.randn(5, 2, 3), reset=torch.zeros(5, 2, dtype=torch.bool))[0].sum().backward()


def test_not_a_module():
    with pytest.raises(ArgumentError, match="pass the model itself"):
        bptt.convert("gru")
