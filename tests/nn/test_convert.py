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
    with pytest.warns(
        bptt.ConvertWarning, match=r"left as they are: 0 \(Mine has its own forward\)"
    ):
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


class Extended(nn.LSTM):
    """Its forward is torch's own."""

    def repeated(self, h):
        return h.repeat(1, 2, 1)


class Sized(nn.GRU):
    """A subclass with arguments of its own."""

    def __init__(self, size):
        super().__init__(size, size, batch_first=True)
        self.size = size


@pytest.mark.parametrize("make", [lambda: Extended(3, 4), lambda: Sized(3)])
def test_subclasses_with_torchs_forward_are_converted(make):
    layer = make()
    kind, name = type(layer), type(layer).__mro__[1].__name__
    x = torch.randn(5, 2, 3)
    expected, parameters = layer(x)[0], list(layer.parameters())
    assert bptt.convert(layer) is layer
    assert isinstance(layer, kind)
    assert isinstance(layer, getattr(bptt.nn, name))
    assert type(layer).__name__ == kind.__name__
    assert all(a is b for a, b in zip(layer.parameters(), parameters, strict=True))
    assert_close(layer(x)[0], expected, 1e-6)
    layer(x, reset=torch.zeros(5, 2, dtype=torch.bool))
    # Again, and through copies: the class is one and the same.
    for twin in (bptt.convert(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(twin) is type(layer)
        assert_close(twin(x)[0], expected, 1e-6)
    assert type(bptt.convert(make())) is type(layer)
    with bptt.watch(layer) as flow:
        layer(x)[0].square().sum().backward()
    assert flow.horizon >= 0


class OwnCheck(nn.RNN):
    def check_input(self, input, batch_sizes):
        return None


def test_what_is_left_is_named_once_with_the_reason():
    on_instance = nn.GRU(3, 4)
    on_instance.forward = lambda x: x
    model = nn.ModuleDict(
        {
            "checks": OwnCheck(3, 4),
            "patched": on_instance,
            "fine": nn.GRU(3, 4),
            "linear": nn.Linear(3, 4),
        }
    )
    model["deep"] = nn.Sequential(nn.RNNBase("GRU", 3, 4))
    with pytest.warns(bptt.ConvertWarning) as said:
        bptt.convert(model)
    assert len(said) == 1
    message = str(said[0].message)
    for part in (
        "checks (OwnCheck has its own check_input)", "patched (GRU has its own forward)",
        "deep.0 (a bare RNNBase)",
    ):  # fmt: skip
        assert part in message
    assert "fine" not in message
    assert "linear" not in message
    assert "\n" not in message
    assert type(model["fine"]) is bptt.nn.GRU
    assert type(model["checks"]) is OwnCheck


def test_nothing_is_said_where_nothing_is_left(recwarn):
    class Ours(bptt.nn.GRU):
        def forward(self, x):
            return super().forward(x)[0]

    bptt.convert(nn.Sequential(Ours(3, 4), nn.LSTM(4, 4), nn.GRUCell(3, 4)))
    assert not recwarn.list


def test_a_parametrized_subclass_is_refused():
    layer = Extended(3, 4)
    nn.utils.parametrizations.orthogonal(layer, "weight_hh_l0")
    with pytest.raises(ArgumentError, match="convert the model first"):
        bptt.convert(nn.Sequential(layer))
