"""forward_tokens is forward over the embedded tokens, with a table or without one."""

import pytest
import torch
from torch import nn

import bptt
from bptt.errors import ArgumentError, DtypeError, ShapeError
from compare import assert_close

TOL = 1e-12
LAYERS = {"rnn": bptt.nn.RNN, "gru": bptt.nn.GRU, "lstm": bptt.nn.LSTM}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("symbols", [3, 500], ids=["table", "more symbols than tokens"])
@pytest.mark.parametrize("both", [False, True])
def test_equals_embedding_then_forward(kind, symbols, both):
    layer = LAYERS[kind](4, 5, num_layers=2, bidirectional=both, dtype=torch.float64)
    embedding = nn.Embedding(symbols, 4, dtype=torch.float64)
    tokens = torch.randint(symbols, (6, 3))
    marks = {"reset": torch.rand(6, 3) < 0.3, "lengths": torch.tensor([6, 2, 5])}
    results = []
    for call in (
        lambda: layer(embedding(tokens), **marks),
        lambda: layer.forward_tokens(tokens, embedding.weight, **marks),
    ):
        y, final = call()
        final = final if kind == "lstm" else (final,)
        total = y.square().sum() + sum(f.sum() for f in final)
        wanted = [embedding.weight, *layer.parameters()]
        results.append((y, *final, torch.autograd.grad(total, wanted)))
    assert_close(results[1], results[0], TOL)


def test_batch_first_and_unbatched():
    layer = bptt.nn.GRU(4, 5, batch_first=True)
    embedding = torch.randn(3, 4)
    tokens = torch.randint(3, (2, 6))
    y, h = layer.forward_tokens(tokens, embedding)
    assert_close((y, h), layer(embedding[tokens]), 1e-6)
    alone = layer.forward_tokens(tokens[0], embedding)
    assert_close(alone, layer(embedding[tokens[0]]), 1e-6)


def test_bad_tokens():
    layer, embedding = bptt.nn.GRU(4, 5), torch.randn(3, 4)
    good = torch.zeros(6, 2, dtype=torch.int64)
    for tokens, table, kind, words in [
        (good + 3, embedding, ArgumentError, "tokens from 0 to V-1=2, received 3 to 3"),
        (good - 1, embedding, ArgumentError, "-1 to -1"),
        (good.int(), embedding, DtypeError, "torch.int32"),
        (good[None], embedding, ShapeError, "1 or 2 axes"),
        (good, embedding.T, ShapeError, "input_size=4"),
        (good[:0], embedding, ShapeError, "at least one time step"),
    ]:
        with pytest.raises(kind, match=words):
            layer.forward_tokens(tokens, table)
