"""Lanes split at their marks into one packed batch: outputs and every gradient are the recurrence's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bptt
from bptt import ops
from bptt.ops import eager, native, split, triton
from cases import cases, random_case
from compare import assert_close
from ops.test_against_reference import CELLS, TOL32, TOL64, check, solve


def run(cell, x, state, weights, *, cut=None, **marks):
    assert cut is None
    return split.recur(cell, x, state, weights, **marks)


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, TOL64), (torch.float32, TOL32)])
@given(case=cases(cut=False))
def test_outputs_and_gradients_are_the_references(dtype, tol, case):
    check(run, case, dtype, tol)


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("cell", CELLS)
def test_it_is_the_kernels_to_some_roundings(cell, dtype, tol):
    """Of numbers near 1, in sums of some twenty terms."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        steps, lanes, inputs, hidden = (int(rng.integers(1, most)) for most in (12, 6, 8, 20))
        case = replace(
            random_case(cell, steps, lanes, inputs, hidden, seed=seed),
            lengths=rng.integers(0, steps + 1, lanes), reset=rng.random((steps, lanes)) < 0.3,
        )  # fmt: skip
        expected = solve(native.recur, case, dtype)
        for name, value in solve(run, case, dtype).items():
            assert_close(value, expected[name], tol, name, floor=1)


@given(case=cases(cut=False), batch_major=st.booleans())
def test_backwards_in_time_it_is_the_loop(case, batch_major):
    def reverse(way):
        return lambda *call, **marks: way(*call, **{**marks, "reverse": True})

    expected = solve(reverse(eager.recur), case, batch_major=batch_major)
    for name, value in solve(reverse(run), case, batch_major=batch_major).items():
        assert_close(value, expected[name], TOL64, name, floor=0.1)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("lengths", "reset"),
    [
        ([0, 0, 0], None),
        ([0, 5, 1], None),
        (None, "all"),
        (None, "first"),
        ([5, 0, 3], "all"),
        (None, "none"),
    ],
)
def test_the_edges(cell, lengths, reset):
    case = random_case(cell, 5, 3, 2, 4, seed=1)
    marks = {"all": np.ones((5, 3), bool), "none": np.zeros((5, 3), bool), None: None}
    marks["first"] = np.arange(5)[:, None] + np.zeros((1, 3)) == 0
    given = None if lengths is None else np.array(lengths)
    check(run, replace(case, lengths=given, reset=marks[reset]), torch.float64, TOL64)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_what_lies_in_the_padding_is_not_read(kind):
    torch.manual_seed(0)
    layer = getattr(bptt.nn, kind)(3, 4)
    x = torch.randn(6, 2, 3)
    x[4:, 1] = float("nan")
    weights = tuple(layer.parameters())
    state = tuple(torch.randn(2, 4) for _ in range(1 + (kind == "LSTM")))
    y, final = split.recur(layer.mode, x, state, weights, lengths=torch.tensor([6, 4]))
    grads = torch.autograd.grad(sum(s.sum() for s in (y, *final)), weights)
    assert all(bool(t.isfinite().all()) for t in (y, *final, *grads))
    assert bool((y[4:, 1] == 0).all())


@pytest.mark.parametrize(("cell", "gates"), [("RNN_TANH", 1), ("GRU", 3), ("LSTM", 4)])
def test_where_no_lane_runs_every_gradient_is_there_and_zero(cell, gates):
    shapes = [(3, 2, 2), *[(2, 4)] * (1 + (cell == "LSTM")), (gates * 4, 2), (gates * 4, 4)]
    x, *state, w_ih, w_hh = leaves = [torch.randn(s, requires_grad=True) for s in shapes]
    weights = (w_ih, w_hh, None, None)
    y, ended = split.recur(cell, x, tuple(state), weights, lengths=torch.tensor([0, 0]))
    for gradient in torch.autograd.grad(y.sum(), leaves):
        assert not gradient.any()
    before = [s.clone() for s in state]
    for part, began in zip(ended, before, strict=True):
        assert torch.equal(part, began)
        with torch.no_grad():
            part.fill_(7)
    # What a lane ends with is no view of what it began with.
    assert all(map(torch.equal, state, before))


def test_a_projected_lstm():
    torch.manual_seed(0)
    layer = bptt.nn.LSTM(3, 5, proj_size=2).double()
    x, reset = torch.randn(7, 3, 3).double(), torch.rand(7, 3) < 0.3
    state = torch.randn(3, 2).double(), torch.randn(3, 5).double()
    w_ih, w_hh, b_ih, b_hh, w_hr = layer.parameters()
    weights = (w_ih, w_hh, b_ih, b_hh, w_hr)
    expected = eager.recur("LSTM", x, state, weights, reset=reset)
    found = split.recur("LSTM", x, state, weights, reset=reset)
    for one, other in zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True):
        assert_close(one, other, TOL64)


def test_the_marks_travel_once(monkeypatch):
    """A transfer waits for the device; a second one in the middle of a layer would wait for the first."""
    transfers = []
    original = torch.Tensor.cpu
    monkeypatch.setattr(
        torch.Tensor, "cpu", lambda self, *a, **k: transfers.append(self.shape) or original(self)
    )
    split.split(
        9, 4, torch.tensor([9, 3, 0, 5]), torch.rand(9, 4) < 0.5, False, torch.device("cpu")
    )
    assert transfers == [(4, 9)]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_layers_take_it_where_no_kernel_runs(kind, bidirectional, monkeypatch):
    """As on a GPU: no kernel covers the call, and the layer is split. Stacked, in both directions."""
    torch.manual_seed(0)
    layer = getattr(bptt.nn, kind)(3, 4, num_layers=2, bidirectional=bidirectional).double()
    x = torch.randn(8, 3, 3).double()
    marks = {"lengths": torch.tensor([8, 2, 5]), "reset": torch.rand(8, 3) < 0.3}
    expected, states = layer(x, **marks)
    for kernels in (native, triton):
        monkeypatch.setattr(kernels, "covers", lambda *call, **options: "x is on another device")
    monkeypatch.setattr(split, "can_split", lambda x, cut: cut is None)
    found, ended = layer(x, **marks)
    assert ops.backend().runs == "torch"
    assert_close(found, expected, TOL64)
    for one, other in zip(
        ended if kind == "LSTM" else [ended], states if kind == "LSTM" else [states], strict=True
    ):
        assert_close(one, other, TOL64)
    layer(x, **marks, cut=marks["reset"])
    assert ops.backend().runs == "eager"  # a state that goes on cannot be split
    try:
        ops.set_backend("eager")
        layer(x, **marks)
        assert ops.backend().runs == "eager"  # asked for by name
    finally:
        ops.set_backend("auto")
