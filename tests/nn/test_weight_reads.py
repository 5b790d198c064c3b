"""A parametrized weight is computed when it is read: once a call, or as often as torch reads it."""

import copy

import pytest
import torch
from torch.nn.utils import parametrizations, parametrize

import bptt
from compare import assert_close, assert_equal

KINDS = ["RNN", "GRU", "LSTM"]
T, B, I, H = 5, 3, 4, 6


class Counted(torch.nn.Module):
    """Twice the weight, and how often that was computed."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def forward(self, weight):
        self.count += 1
        return 2 * weight


def parametrized(lib, kind, make, only=("weight", "bias"), **options):
    torch.manual_seed(0)
    layer = getattr(lib, kind)(I, H, **options)
    for name, _ in list(layer.named_parameters()):
        if name.startswith(only):
            make(layer, name)
    return layer


def counts(layer):
    return [m.count for m in layer.modules() if isinstance(m, Counted)]


def call(layer, form):
    x = torch.linspace(-1, 1, T * B * I).view(T, B, I)
    if form == "tokens":
        return layer.forward_tokens(torch.arange(T * B).view(T, B) % 3, x[0])
    if form == "packed":
        return layer(torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 4, 1])))
    if form == "lengths":
        return layer(x, lengths=torch.tensor([5, 4, 1]))
    if form == "float16":
        return layer(x.half())
    return layer(x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["plain", "tokens", "packed", "lengths", "float16"])
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 4}, {"num_layers": 2, "bidirectional": True, "bias": False}]
)
def test_each_weight_is_computed_once_a_call(kind, form, options):
    layer = parametrized(
        bptt.nn, kind, lambda m, n: parametrize.register_parametrization(m, n, Counted()), **options
    )
    layer = layer.half() if form == "float16" else layer
    for m in layer.modules():
        if isinstance(m, Counted):
            m.count = 0
    for calls in (1, 2):
        call(layer, form)
        assert set(counts(layer)) == {calls}


@pytest.mark.parametrize("name", ["MinGRU", "LRU"])
def test_linear_layers_compute_each_once_too(name):
    layer = getattr(bptt.nn, name)(I, H, num_layers=2)
    for parameter, _ in list(layer.named_parameters()):
        parametrize.register_parametrization(layer, parameter, Counted())
    for m in layer.modules():
        if isinstance(m, Counted):
            m.count = 0
    layer(torch.randn(T, B, I))
    assert set(counts(layer)) == {1}


def spectral(layer, name):
    parametrizations.spectral_norm(layer, name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", ["plain", "packed"])
@pytest.mark.parametrize(
    ("only", "options"),
    [
        (("weight_hh_l0",), {}),
        (("weight",), {}),
        (("weight",), {"num_layers": 2, "bidirectional": True}),
        (("weight_ih",), {"num_layers": 3, "bias": False}),
    ],
)
def test_spectral_norm_is_torchs(kind, training, form, only, options):
    """Each read is a step of the power iteration; all that comes of it agrees, call by call."""
    theirs, ours = (
        parametrized(lib, kind, spectral, only, **options).train(training)
        for lib in (torch.nn, bptt.nn)
    )
    for _ in range(3):
        found = []
        for layer in (theirs, ours):
            y, states = call(layer, form)
            y = y if form == "plain" else y.data
            gradients = torch.autograd.grad(y.square().sum(), list(layer.parameters()))
            found.append([y, states, list(gradients), list(layer.buffers())])
        assert_close(found[1], found[0], 2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [parametrizations.orthogonal, parametrizations.weight_norm])
def test_other_parametrizations_are_torchs(kind, make):
    found = []
    for lib in (torch.nn, bptt.nn):
        layer = parametrized(lib, kind, make, ("weight_hh",), num_layers=2)
        y, _ = call(layer, "plain")
        gradients = torch.autograd.grad(y.square().sum(), list(layer.parameters()))
        found.append([y, list(gradients)])
    assert_close(found[1], found[0], 2e-5)


def test_a_cached_weight_and_a_copied_layer():
    layer = parametrized(bptt.nn, "GRU", spectral)
    with parametrize.cached():
        first = call(layer, "plain")[0]
        assert_equal(call(layer, "plain")[0], first)
    y, _ = call(layer, "plain")
    y.sum().backward()
    again = copy.deepcopy(layer)
    assert_equal(call(again, "plain")[0], call(layer, "plain")[0])


def test_the_weights_are_those_of_functional_call():
    layer = bptt.nn.GRU(I, H)
    other = {name: 2 * p.detach() for name, p in layer.named_parameters()}
    x = torch.randn(T, B, I)
    found = torch.func.functional_call(layer, other, (x,))[0]
    layer.load_state_dict(other)
    assert_close(found, layer(x)[0], 1e-6)


class Replaced(torch.nn.Module):
    """A parametrization whose state is a new tensor after every read."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, weight):
        self.steps = self.steps + 1
        return weight / (1 + self.steps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_state_that_is_replaced_counts_as_torchs(kind, layers):
    found = []
    for lib in (torch.nn, bptt.nn):
        layer = parametrized(
            lib, kind, lambda m, n: parametrize.register_parametrization(m, n, Replaced()),
            num_layers=layers,
        )  # fmt: skip
        found.append([call(layer, "plain")[0], list(layer.buffers())])
    assert_close(found[1], found[0], 2e-5)
