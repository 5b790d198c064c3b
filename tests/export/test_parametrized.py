"""Weights that are computed: held orthogonal, normed, or by a parametrization of one's own.

Whatever computes a weight, an export holds the matrix that the layer computes with, and reading it
leaves the model as it was.
"""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import bptt
from bptt import export_c
from bptt.export import export_onnx
from bptt.export.extract import read_network
from bptt.remedies import hold_orthogonal
from c_code import Library
from compare import assert_close
from export.test_onnx import runtime

# float32 weights, some hundred steps of sums in another order: as for weights that are not computed.
TOL = 1e-5
CELLS = {
    "rnn": lambda kind: kind.RNN(3, 6, 2),
    "relu": lambda kind: kind.RNN(3, 6, nonlinearity="relu"),
    "gru": lambda kind: kind.GRU(3, 6, 2),
    "lstm": lambda kind: kind.LSTM(3, 6),
}


class Halved(nn.Module):
    """A parametrization of one's own, with a parameter beside the one that it replaces."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.calls = 0

    def forward(self, weight):
        self.calls += 1
        return self.scale * weight


def own(module):
    parametrize.register_parametrization(module, "weight_hh_l0", Halved())
    parametrize.register_parametrization(module, "weight_hh_l0", Halved())  # one upon the other
    parametrize.register_parametrization(module, "bias_hh_l0", Halved())
    return module


def older(norm):
    def apply(module):
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # torch has newer ones; runs are old, too
            return norm(module, "weight_hh_l0")

    return apply


WAYS = {
    "held orthogonal": hold_orthogonal,
    "orthogonal of torch": lambda m: parametrizations.orthogonal(m, "weight_ih_l0"),
    "spectral norm": lambda m: parametrizations.spectral_norm(m, "weight_hh_l0"),
    "weight norm": lambda m: parametrizations.weight_norm(m, "weight_hh_l0"),
    "one's own": own,
    "older spectral norm": older(nn.utils.spectral_norm),
    "older weight norm": older(nn.utils.weight_norm),
}


class Model(nn.Module):
    """A computed layer between others, the last of them computed too."""

    def __init__(self, way, cell, kind=nn):
        super().__init__()
        self.recurrent = WAYS[way](CELLS[cell](kind))
        self.drop = nn.Dropout(0.5)
        self.out = parametrizations.weight_norm(nn.Linear(6, 4))

    def forward(self, x):
        return self.out(self.drop(self.recurrent(x)[0]))


def trained(model):
    """The model after an update: what a norm's hook left in the attribute is not the weight now."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    model(torch.randn(7, 2, 3)).square().sum().backward()
    optimizer.step()
    return model


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("way", WAYS)
def test_the_export_holds_what_the_layer_computes_with(way, cell):
    model, x = trained(Model(way, cell)), torch.randn(40, 3, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.drop.eval()  # each part keeps the mode it is in
    modes = [module.training for module in model.modules()]
    network = read_network(model, x)
    assert [module.training for module in model.modules()] == modes
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before), (
        "no step of a power method"
    )
    with torch.no_grad():
        wanted = model.eval()(x).double().numpy()
    assert_close(network.run(x.numpy()).output, wanted, TOL, f"{way}, {cell}")


@pytest.mark.parametrize("way", WAYS)
def test_c_and_onnx_compute_it_too(way, tmp_path):
    model, x = trained(Model(way, "gru")).eval(), torch.randn(60, 1, 3)
    with torch.no_grad():
        wanted = model(x)[:, 0].numpy()
    found = Library(export_c(model, x, name="net"), tmp_path).run(x[:, 0].numpy())
    assert_close(found, wanted, TOL, f"{way} in C")
    found = runtime(export_onnx(model, x))({"input": x.numpy(), "h": torch.zeros(2, 1, 6).numpy()})
    assert_close(found[0][:, 0], wanted, TOL, f"{way} in ONNX")


@pytest.mark.parametrize("way", WAYS)
def test_int8_is_that_of_the_plain_matrices(way):
    model, x = trained(Model(way, "gru")).eval(), torch.randn(1200, 1, 3)
    model(x)  # the older norms leave their matrix in the attribute
    plain = nn.ModuleDict({"recurrent": CELLS["gru"](nn), "out": nn.Linear(6, 4)})
    with torch.no_grad():
        for part in ("recurrent", "out"):
            for name, parameter in plain[part].named_parameters():
                parameter.copy_(getattr(getattr(model, part), name))
    sequence = Plain(plain)
    ours, theirs = (export_c(m, x, name="net", precision="int8").files for m in (model, sequence))
    assert ours["net.c"] == theirs["net.c"]


class Plain(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.recurrent, self.out = parts["recurrent"], parts["out"]

    def forward(self, x):
        return self.out(self.recurrent(x)[0])


def test_a_weight_is_computed_once(monkeypatch):
    layer = nn.GRU(3, 6)
    computed = Halved()
    parametrize.register_parametrization(layer, "weight_hh_l0", computed)
    x = torch.randn(5, 1, 3)
    computed.calls = 0
    layer(x)
    a_pass = computed.calls
    computed.calls = 0
    read_network(layer, x)  # which compares with one pass of the layer
    assert computed.calls == a_pass + 1


def test_a_parameter_of_a_parametrization_elsewhere_is_still_refused():
    model = Model("held orthogonal", "gru")
    model.scale = nn.Parameter(torch.ones(4))
    parametrize.register_parametrization(model, "scale", Halved())
    with pytest.raises(bptt.errors.ArgumentError, match=r"parametrizations\.scale"):
        read_network(model, torch.randn(4, 1, 3))


def test_a_hook_of_ones_own_is_still_refused():
    layer = nn.GRU(3, 6)
    layer.register_forward_pre_hook(lambda module, given: None)
    with pytest.raises(bptt.errors.ArgumentError, match="a forward hook"):
        read_network(layer, torch.randn(4, 1, 3))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("way", [way for way in WAYS if "older" not in way])
def test_a_stream_computes_it_too(way, cell):
    layer = WAYS[way](CELLS[cell](bptt.nn)).eval()
    x = torch.randn(9, 2, 3)
    with torch.no_grad():
        wanted = layer(x)[0]
    stream = bptt.Stream(layer, batch=2)
    found = torch.stack([stream.step(step).clone() for step in x])
    assert_close(found.numpy(), wanted.numpy(), TOL, f"{way}, {cell}")
