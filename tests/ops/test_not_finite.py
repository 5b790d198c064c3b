"""Infinities and NaN go where they go in torch's layers, forward and backward, and nowhere else."""

import itertools

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import bptt
import over_triton
from bptt import ops
from compare import assert_close, assert_equal

INF, NAN = float("inf"), float("nan")
T, B, I, H = 4, 3, 3, 5
KINDS = {
    "rnn-tanh": ("RNN", {}),
    "rnn-relu": ("RNN", {"nonlinearity": "relu"}),
    "gru": ("GRU", {}),
    "lstm": ("LSTM", {}),
}


@pytest.fixture(autouse=True)
def _restored():
    before = ops.backend().setting
    yield
    ops.set_backend(before)


kinds = pytest.mark.parametrize("kind", KINDS)


def pattern(values):
    """0 where a number is finite, ±1 where infinite, 2 where it is none."""
    return [torch.where(v.isnan(), 2, torch.where(v.isinf(), v.sign(), 0)) for v in values]


def setting(lib, kind, dtype, layers=1, both=False, scale=1.0):
    name, extra = KINDS[kind]
    torch.manual_seed(0)
    layer = getattr(lib, name)(I, H, num_layers=layers, bidirectional=both, dtype=dtype, **extra)
    rows = layers * (2 if both else 1)
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(scale)  # so large that gates close altogether
    values = {"x": torch.randn(T, B, I, dtype=dtype)}
    for state in ("h", "c") if name == "LSTM" else ("h",):
        values[state] = torch.randn(rows, B, H, dtype=dtype)
    return layer, values


def run(layer, values, packed=False, **marks):
    """Outputs, states, and the gradients of inputs and weights, for cotangents of both signs."""
    for value in values.values():
        value.requires_grad_()
    x, *states = values.values()
    hx = tuple(states) if len(states) == 2 else states[0]
    if packed:
        x = pack_padded_sequence(x, torch.tensor([2, 4, 3]), enforce_sorted=False)
    y, final = layer(x, hx, **marks)
    outputs = [y.data if packed else y, *(final if isinstance(final, tuple) else [final])]
    generator = torch.Generator().manual_seed(3)
    cotangents = [torch.randn(o.shape, generator=generator).to(o.dtype) for o in outputs]
    leaves = [*values.values(), *layer.parameters()]
    return outputs, list(torch.autograd.grad(outputs, leaves, cotangents))


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("where", ["x", "h", "c", "weight_ih_l0", "weight_hh_l0", "bias_hh_l0"])
def test_the_pattern_is_torchs(kind, dtype, where):
    if where == "c" and kind != "lstm":
        where = "h"
    whole = list(
        itertools.product(
            (INF, -INF, NAN), (1.0, 40.0), ((1, False), (2, True)), (0, 7), (False, True)
        )
    )
    grid = over_triton.some(whole, 16)
    seen = 0
    for value, scale, (layers, both), place, packed in grid:
        found = []
        for lib in (torch.nn, bptt.nn):
            layer, values = setting(lib, kind, dtype, layers, both, scale)
            target = {**values, **dict(layer.named_parameters())}[where]
            with torch.no_grad():
                target.view(-1)[place % target.numel()] = value
            found.append([pattern(part) for part in run(layer, values, packed)])
        seen += sum(int(p.any()) for part in found[0] for p in part)
        assert_equal(found[1], found[0], f"{value} {scale} {layers} {both} {place} {packed}")
    assert seen > 100 * len(grid) / len(whole)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_closed_gate_is_zero(dtype):
    """c0 = inf behind a forget gate of σ(v): NaN from where σ(v) is zero, infinite before."""
    edge = 88.722 if dtype == torch.float32 else 709.782
    found = []
    for lib in (torch.nn, bptt.nn):
        layer = lib.LSTM(1, 64, dtype=dtype)
        with torch.no_grad():
            for p in layer.parameters():
                p.zero_()
            layer.bias_ih_l0[64:128] = -torch.linspace(0.8 * edge, 1.2 * edge, 64, dtype=dtype)
        state = torch.zeros(1, 1, 64, dtype=dtype), torch.full((1, 1, 64), INF, dtype=dtype)
        # oneDNN's gates close a little earlier, where σ(v) is no normal number any more.
        with torch.backends.mkldnn.flags(enabled=False):
            found.append(pattern(layer(torch.zeros(1, 1, 1, dtype=dtype), state)[1]))
    _, c = found[0]
    assert (c == 1).any()
    assert (c == 2).any()
    assert_equal(found[1], found[0])


@kinds
@pytest.mark.parametrize("bad", [INF, -INF, NAN])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("backend", ["native", "eager"])
def test_what_does_not_run_reaches_no_gradient(kind, bad, both, first, empty, backend):
    ops.set_backend(backend)
    layer, values = setting(bptt.nn, kind, torch.float64, both=both)
    layer.batch_first = first
    x, *states = values.values()
    gradients = []
    for value in (0.5, bad):
        x[0 if empty else 2 :, 0] = value
        if empty:
            for state in states:
                state[:, 0] = value
        given = x.transpose(0, 1).contiguous() if first else x
        lengths = torch.tensor([0 if empty else 2, 4, 3])
        y, _ = layer(given, tuple(states) if len(states) == 2 else states[0], lengths=lengths)
        gradients.append(list(torch.autograd.grad(y.square().sum(), list(layer.parameters()))))
    assert_close(gradients[1], gradients[0], 1e-12)


@kinds
@pytest.mark.parametrize("mark", ["reset", "cut", "lengths", "all"])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("where", ["x", "h", "weight_ih_l0", "weight_hh_l0"])
def test_marked_calls_have_one_pattern_on_both_backends(kind, mark, first, where):
    """A state that overflowed before a reset, or at the end of a lane, meets no other lane and step."""
    marks = {name: torch.zeros(T, B, dtype=torch.bool) for name in ("reset", "cut")}
    marks["reset"][2, 0] = marks["cut"][1, 1] = True
    if first:
        marks = {name: m.t() for name, m in marks.items()}
    marks["lengths"] = torch.tensor([4, 2, 3])
    marks = marks if mark == "all" else {mark: marks[mark]}
    grid = itertools.product((INF, NAN), (1.0, 40.0), (False, True), (0, 4, 3 * B * I + 1))
    for value, scale, both, place in over_triton.some(grid, 3):
        found = []
        for name in ("native", "eager"):
            ops.set_backend(name)
            layer, values = setting(bptt.nn, kind, torch.float64, 1, both, scale)
            layer.batch_first = first
            target = {**values, **dict(layer.named_parameters())}[where]
            with torch.no_grad():
                target.view(-1)[place % target.numel()] = value
            if first:
                values["x"] = values["x"].transpose(0, 1).contiguous()
            found.append([pattern(part) for part in run(layer, values, **marks)])
        assert_equal(found[0], found[1], f"{value} {scale} {both} {place}")
