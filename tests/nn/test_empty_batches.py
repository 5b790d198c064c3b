"""A batch without a lane: empty outputs, empty states, and gradients of zero, as torch gives them."""

import numpy as np
import pytest
import torch

import bptt
from bptt import ops
from bptt.errors import ShapeError
from bptt.models import (
    CELLS,
    AttentionModel,
    Classifier,
    CountModel,
    Forecaster,
    LanguageModel,
    WindowModel,
)
from bptt.ops import native
from compare import assert_equal

T, I, H, V = 4, 3, 5, 7
KINDS = {
    "rnn-tanh": ("RNN", {}),
    "rnn-relu": ("RNN", {"nonlinearity": "relu"}),
    "gru": ("GRU", {}),
    "lstm": ("LSTM", {}),
    "lstm-projected": ("LSTM", {"proj_size": 2}),
}
kinds = pytest.mark.parametrize("kind", KINDS)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def flat(value):
    return [value] if isinstance(value, torch.Tensor) else [t for v in value for t in flat(v)]


def everything(layer, x, hx=None, call=None, **options):
    """Outputs and states, and the gradients of the input, the states and the weights."""
    found = flat((call or layer)(x, *([] if hx is None else [hx]), **options))
    leaves = [*([x] if x.requires_grad else []), *flat(() if hx is None else hx)]
    total = sum(f.sum() for f in found)
    return found, list(torch.autograd.grad(total, [*leaves, *layer.parameters()]))


def state(layer, dtype):
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    sizes = [layer.proj_size or H, H][: 2 if layer.mode == "LSTM" else 1]
    made = tuple(torch.zeros(rows, 0, n, dtype=dtype, requires_grad=True) for n in sizes)
    return made if layer.mode == "LSTM" else made[0]


def marks(first):
    shape = (0, T) if first else (T, 0)
    empty = torch.zeros(shape, dtype=torch.bool)
    lengths = torch.zeros(0, dtype=torch.int64)
    return [
        {"lengths": lengths},
        {"reset": empty},
        {"cut": empty},
        {"lengths": lengths, "reset": empty, "cut": empty},
    ]


@kinds
@dtypes
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_layers(kind, dtype, first, both, layers):
    name, extra = KINDS[kind]
    options = {"batch_first": first, "bidirectional": both, "num_layers": layers, "dtype": dtype}
    theirs = getattr(torch.nn, name)(I, H, **options, **extra)
    ours = getattr(bptt.nn, name)(I, H, **options, **extra)
    x = torch.zeros((0, T, I) if first else (T, 0, I), dtype=dtype, requires_grad=True)
    for hx in (None, state(ours, dtype)):
        expected = everything(theirs, x, hx)
        assert_equal(everything(ours, x, hx), expected)
        for call in marks(first):
            assert_equal(everything(ours, x, hx, **call), expected, str(call.keys()))
    assert all(not g.any() and g.shape == p.shape for g, p in zip(
        expected[1][-len(list(ours.parameters())):], ours.parameters(), strict=True))  # fmt: skip


@kinds
@pytest.mark.parametrize("first", [False, True])
def test_tokens(kind, first):
    name, extra = KINDS[kind]
    layer = getattr(bptt.nn, name)(I, H, batch_first=first, num_layers=2, **extra)
    tokens = torch.zeros((0, T) if first else (T, 0), dtype=torch.int64)
    table = torch.randn(V, I, requires_grad=True)
    x = torch.nn.functional.embedding(tokens, table)
    expected = flat(layer(x))
    for call in [{}, *marks(first)]:
        found = flat(layer.forward_tokens(tokens, table, **call))
        assert_equal(found, expected)
        assert not any(
            g.any() for g in torch.autograd.grad(found[0].sum(), [table, *layer.parameters()])
        )


@pytest.mark.parametrize("mode", ["RNN_TANH", "RNN_RELU", "GRU", "LSTM"])
@pytest.mark.parametrize("save", [False, True])
def test_the_operations(mode, save):
    gates = {"GRU": 3, "LSTM": 4}.get(mode, 1)
    weights = tuple(torch.randn(s, requires_grad=save) for s in (
        (gates * H, I), (gates * H, H), (gates * H,), (gates * H,)))  # fmt: skip
    begin = tuple(torch.zeros(0, H) for _ in range(2 if mode == "LSTM" else 1))
    y, final = ops.recur(mode, torch.zeros(T, 0, I), begin, weights)
    assert (y.shape, [f.shape for f in final]) == ((T, 0, H), [(0, H)] * len(begin))
    tokens, table = torch.zeros(T, 0, dtype=torch.int64), torch.randn(V, I)
    y, final = ops.recur_tokens(mode, tokens, table, begin, weights)
    assert (y.shape, [f.shape for f in final]) == ((T, 0, H), [(0, H)] * len(begin))
    projected = torch.randn(V, gates * H, requires_grad=save)
    y, _ = native.recur_tokens(mode, tokens, projected, begin, (None, *weights[1:]))
    assert y.shape == (T, 0, H)
    if save:
        assert not torch.autograd.grad(y.sum(), projected)[0].any()


def test_they_run_on_the_kernels_where_the_others_do():
    before = ops.backend().setting
    if before == "eager":
        assert ops.backend().runs == "eager"
        return
    ops.set_backend("native")
    bptt.nn.GRU(I, H)(torch.zeros(T, 0, I))
    assert ops.backend().runs == "native"


@pytest.mark.parametrize("kind", ["MinGRU", "LRU"])
@pytest.mark.parametrize("steps", [1, 4, 70])
def test_linear_layers(kind, steps):
    layer = getattr(bptt.nn, kind)(I, H, num_layers=2)
    x = torch.zeros(steps, 0, I, requires_grad=True)
    for call in [{}, {"lengths": torch.zeros(0, dtype=torch.int64)}, {
        "reset": torch.zeros(steps, 0, dtype=torch.bool)}]:  # fmt: skip
        found, gradients = everything(layer, x, **call)
        assert [f.shape[:2] for f in found] == [(steps, 0), (2, 0)]
        assert not any(g.any() for g in gradients)
    tokens = torch.zeros(steps, 0, dtype=torch.int64)
    assert layer.forward_tokens(tokens, torch.randn(V, I))[0].shape == (steps, 0, H)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "MinGRU", "LRU"])
@pytest.mark.parametrize("shape", [(0, 2, I), (0, 0, I), (0, I)])
@pytest.mark.parametrize("first", [False, True])
def test_no_step_is_refused_as_torch_does(kind, shape, first):
    layer = getattr(bptt.nn, kind)(I, H, batch_first=first)
    shape = (shape[1], shape[0], I) if first and len(shape) == 3 else shape
    with pytest.raises(ShapeError, match="at least one time step"):
        layer(torch.zeros(shape))
    if kind in ("RNN", "GRU", "LSTM"):
        with pytest.raises(RuntimeError):
            getattr(torch.nn, kind)(I, H, batch_first=first)(torch.zeros(shape))


@pytest.mark.parametrize("cell", list(CELLS))
def test_a_language_model(cell):
    model = LanguageModel(V, cell, hidden=H)
    logits, _ = model(torch.zeros(T, 0, dtype=torch.int64))
    assert logits.shape == (T, 0, V)
    gradients = torch.autograd.grad(logits.sum(), list(model.parameters()), allow_unused=True)
    assert not any(g is not None and g.any() for g in gradients)


def test_other_models():
    tokens = torch.zeros(T, 0, dtype=torch.int64)
    counted = CountModel(V, 2)
    counted.fit(np.arange(40) % V)
    for model in (AttentionModel(V), WindowModel(V), counted):
        assert model(tokens)[0].shape == (T, 0, V)
    for call in ({}, {"lengths": torch.zeros(0, dtype=torch.int64)}):
        x = torch.zeros(T, 0, I)
        assert Forecaster(bptt.nn.GRU(I, H))(x, **call)[0].shape == (T, 0, 1)
        assert Classifier(bptt.nn.GRU(I, H), 2)(x, **call)[0].shape == (0, 2)
