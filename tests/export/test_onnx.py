"""ONNX: two runtimes compute what PyTorch computes, states in and out."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from bptt.errors import ArgumentError
from bptt.export import export_onnx
from bptt.models import LanguageModel
from compare import assert_close

# One rounding of float32 is 6e-8; 50 steps of sums over 32 terms in another order stay far below.
TOL = 1e-5
CELLS = {
    "rnn": lambda *a: torch.nn.RNN(*a),
    "relu": lambda *a: torch.nn.RNN(*a, nonlinearity="relu"),
    "gru": lambda *a: torch.nn.GRU(*a),
    "lstm": lambda *a: torch.nn.LSTM(*a),
}


def runtime(model):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return lambda feed: session.run(None, feed)


def reference(model):
    evaluator = ReferenceEvaluator(model)
    return lambda feed: evaluator.run(None, feed)


def states_of(module, h):
    return dict(zip("hc", h if isinstance(h, tuple) else (h,), strict=False))


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_runtime_equals_torch_with_states_handed_on(cell, layers):
    module = CELLS[cell](5, 32, layers)
    run = runtime(export_onnx(module, torch.randn(3, 1, 5)))
    for B in (1, 8):
        for T in (1, 50):
            h = torch.randn(layers, B, 32)
            h = (h, torch.randn(layers, B, 32)) if cell == "lstm" else h
            x = torch.randn(T, B, 5)
            y, after = module(x, h)
            feed = {"input": x.numpy()} | {k: s.numpy() for k, s in states_of(module, h).items()}
            got = run(feed)
            wanted = [y, *states_of(module, after).values()]
            for name, a, e in zip(("output", "h", "c"), got, wanted, strict=False):
                assert_close(a, e.detach().numpy(), TOL, f"{name} B={B} T={T}")
            assert len(got) == len(wanted)


# onnx's reference evaluator has RNN with tanh, GRU and LSTM, and wants one batch entry at least.
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_reference_evaluator_agrees(cell):
    module = CELLS[cell](3, 7, 2)
    run = reference(export_onnx(module, torch.randn(3, 1, 3)))
    x = torch.randn(6, 2, 3)
    zeros = np.zeros((2, 2, 7), np.float32)
    feed = {"input": x.numpy(), "h": zeros} | ({"c": zeros} if cell == "lstm" else {})
    y, _ = module(x)
    assert_close(run(feed)[0], y.detach().numpy(), TOL, "output")


def test_language_model_and_several_modules():
    model = LanguageModel(11, hidden=6, layers=2, embedding=4)
    torch.nn.init.normal_(model.output.weight)
    tokens = torch.randint(11, (9, 2))
    run = runtime(export_onnx(model, tokens))
    got = run({"input": tokens.numpy(), "h": np.zeros((2, 2, 6), np.float32)})
    assert_close(got[0], model(tokens)[0].detach().numpy(), TOL, "logits")

    first, second = torch.nn.GRU(3, 4), torch.nn.LSTM(4, 5)
    chain = torch.nn.Sequential(first, second, torch.nn.Linear(5, 2))
    model = export_onnx(chain, torch.randn(4, 1, 3))
    assert [i.name for i in model.graph.input] == ["input", "h_0", "h_1", "c_1"]
    x = torch.randn(4, 3, 3)
    feed = {"h_0": (1, 3, 4), "h_1": (1, 3, 5), "c_1": (1, 3, 5)}
    got = runtime(model)(
        {k: np.zeros(s, np.float32) for k, s in feed.items()} | {"input": x.numpy()}
    )
    assert_close(got[0], chain[2](second(first(x)[0])[0]).detach().numpy(), TOL, "output")


def test_file_is_written_once(tmp_path):
    path = tmp_path / "deep" / "net.onnx"
    export_onnx(torch.nn.GRU(2, 3), torch.randn(4, 1, 2), path)
    onnx.checker.check_model(str(path))
    assert [p.name for p in path.parent.iterdir()] == ["net.onnx"]
    with pytest.raises(ArgumentError, match="does not exist yet"):
        export_onnx(torch.nn.GRU(2, 3), torch.randn(4, 1, 2), path)
