"""The textbook network: its gradient is exact, and is the sum of its (loss, use) pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bptt.errors import ArgumentError, BpttError, DtypeError, ShapeError
from bptt.reference import LanguageTrace, LanguageWeights, Weights, language, loss, rnn
from compare import assert_close, assert_equal

TOL = 1e-12
FLOOR = 0.01
NAMES = ("w_x", "w_h", "b", "w_y", "b_y")


def network(T: int, H: int, V: int, seed: int) -> LanguageTrace:
    rng = np.random.default_rng(seed)
    shapes: list[Any] = [(H, V), (H, H), H, (V, H), V]
    weights = LanguageWeights(*(rng.normal(size=shape) for shape in shapes))
    symbols = rng.integers(0, V, size=T + 1)
    return language.forward(symbols[:-1], symbols[1:], rng.normal(size=H), weights)


networks = st.builds(
    network, st.integers(1, 8), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**32 - 1)
)


@given(networks)
def test_equals_autograd(trace: LanguageTrace) -> None:
    leaf = {name: torch.tensor(getattr(trace.weights, name)) for name in NAMES}
    leaf["h0"] = torch.tensor(trace.h0)
    for one in leaf.values():
        one.requires_grad_()
    h = leaf["h0"]
    logits: list[Any] = []
    z: list[Any] = []
    for token in trace.tokens:
        x = torch.nn.functional.one_hot(torch.tensor(token), trace.p.shape[1]).double()
        z.append(leaf["w_x"] @ x + leaf["w_h"] @ h + leaf["b"])
        z[-1].retain_grad()
        h = torch.tanh(z[-1])
        logits.append(leaf["w_y"] @ h + leaf["b_y"])
        logits[-1].retain_grad()
    total = torch.nn.functional.cross_entropy(torch.stack(logits), torch.tensor(trace.targets))
    total.backward()

    expected = {f"d{name}": one.grad for name, one in leaf.items()}
    expected["dz"] = torch.stack([one.grad for one in z])
    expected["ds"] = torch.stack([one.grad for one in logits])
    assert_close(trace.loss, total.item(), TOL, "loss", floor=1.0)
    assert_close(language.backward(trace), expected, TOL, "gradients", floor=FLOOR)


@given(networks)
def test_equals_the_cell_and_the_loss_put_together(trace: LanguageTrace) -> None:
    w = trace.weights
    H = trace.h.shape[1]
    V = trace.p.shape[1]
    cell = rnn.forward(
        np.eye(V)[trace.tokens][:, None],
        trace.h0[None],
        Weights(w.w_x, w.w_h, w.b, np.zeros(H)),
    )
    judged = loss.forward(cell.y @ w.w_y.T + w.b_y, trace.targets[:, None])
    ds = loss.backward(judged)
    gradients = rnn.backward(cell, ds @ w.w_y)

    assert_close(trace.loss, judged.nats, TOL, "loss", floor=1.0)
    assert_close(trace.losses, judged.per_token[:, 0], TOL, "losses", floor=1.0)
    g = language.backward(trace)
    assert_close(
        {"dw_x": g.dw_x, "dw_h": g.dw_h, "db": g.db, "dh0": g.dh0, "ds": g.ds},
        {
            "dw_x": gradients.dw_ih,
            "dw_h": gradients.dw_hh,
            "db": gradients.db_ih,
            "dh0": gradients.dh0[0],
            "ds": ds[:, 0],
        },
        TOL,
        floor=FLOOR,
    )


@pytest.mark.parametrize("T", range(1, 9))
def test_the_pairs_are_counted_and_add_up(T: int) -> None:
    """Each of T losses sees the uses at or before it: T(T+1)/2 pairs, whose sum is BPTT."""
    trace = network(T, 3, 5, seed=T)
    count = 0
    dw_x, dw_h, db = np.zeros((3, 5)), np.zeros((3, 3)), np.zeros(3)
    for t in range(T):
        for k in range(T):
            if k > t:
                with pytest.raises(ArgumentError):
                    language.pair(trace, t, k)
                continue
            one = language.pair(trace, t, k)
            assert np.abs(one.dw_h).max() > 0  # it does contribute
            dw_x, dw_h, db = dw_x + one.dw_x, dw_h + one.dw_h, db + one.db
            count += 1
    assert count == T * (T + 1) // 2
    g = language.backward(trace)
    assert_close([dw_x, dw_h, db], [g.dw_x, g.dw_h, g.db], TOL, "sum over the pairs")


@given(networks, st.data())
def test_a_pair_is_what_autograd_gives_to_that_use_alone(
    trace: LanguageTrace, data: st.DataObject
) -> None:
    """Give every step its own copy of the weights; loss t's gradient by copy k is the pair."""
    T = trace.h.shape[0]
    t = data.draw(st.integers(0, T - 1))
    k = data.draw(st.integers(0, t))
    w = {name: torch.tensor(getattr(trace.weights, name)) for name in NAMES}
    own = {name: w[name].clone().requires_grad_() for name in ("w_x", "w_h", "b")}
    h = torch.tensor(trace.h0)
    for step in range(t + 1):
        use = own if step == k else w
        h = torch.tanh(use["w_x"][:, trace.tokens[step]] + use["w_h"] @ h + use["b"])
    logits = w["w_y"] @ h + w["b_y"]
    (torch.nn.functional.cross_entropy(logits, torch.tensor(trace.targets[t])) / T).backward()
    expected = {f"d{name}": one.grad for name, one in own.items()}
    assert_close(language.pair(trace, t, k), expected, TOL, "pair", floor=FLOOR)


def test_a_three_step_network_by_hand() -> None:
    """One number a weight, three steps, the chain rule written out: no loop on either side."""
    a, r, o = 0.7, -0.4, 1.3  # W_x of symbol 1, W_h, W_y of symbol 1; all else is zero
    weights = LanguageWeights(
        np.array([[0.0, a]]), np.array([[r]]), np.zeros(1), np.array([[0.0], [o]]), np.zeros(2)
    )
    trace = language.forward([1, 0, 1], [1, 1, 0], np.zeros(1), weights)

    h1 = np.tanh(a)
    h2 = np.tanh(r * h1)
    h3 = np.tanh(a + r * h2)
    p1, p2, p3 = (1 / (1 + np.exp(-o * h)) for h in (h1, h2, h3))  # softmax over two is a sigmoid
    losses = [-np.log(p1), -np.log(p2), -np.log(1 - p3)]
    e1, e2, e3 = (p1 - 1) / 3, (p2 - 1) / 3, p3 / 3
    z3 = o * e3 * (1 - h3**2)
    z2 = (o * e2 + r * z3) * (1 - h2**2)
    z1 = (o * e1 + r * z2) * (1 - h1**2)

    g = language.backward(trace)
    assert_close(trace.losses, np.array(losses), 1e-15)
    assert_close(trace.loss, sum(losses) / 3, 1e-15)
    assert_close(g.dz[:, 0], np.array([z1, z2, z3]), 1e-14)
    assert_close(g.dw_h, np.array([[z2 * h1 + z3 * h2]]), 1e-14)
    assert_close(g.dw_x, np.array([[z2, z1 + z3]]), 1e-14)
    assert_close(g.db, np.array([z1 + z2 + z3]), 1e-14)
    assert_close(g.dw_y[1], np.array([e1 * h1 + e2 * h2 + e3 * h3]), 1e-14)
    assert_close(g.dh0, np.array([r * z1]), 1e-14)


@given(networks)
def test_the_gradient_by_w_x_is_the_same_product_of_jacobians(trace: LanguageTrace) -> None:
    w = trace.weights
    T, H = trace.h.shape
    dw_x = np.zeros_like(w.w_x)
    for t in range(T):
        by_h = w.w_y.T @ (trace.p[t] - np.eye(trace.p.shape[1])[trace.targets[t]]) / T
        for k in range(t + 1):
            product = np.eye(H)  # ∂h_t/∂h_k
            for j in range(k + 1, t + 1):
                product = np.diag(1 - trace.h[j] ** 2) @ w.w_h @ product
            dw_x[:, trace.tokens[k]] += (1 - trace.h[k] ** 2) * (product.T @ by_h)
    assert_close(dw_x, language.backward(trace).dw_x, TOL, floor=FLOOR)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"tokens": [0, 4]}, ArgumentError),
        ({"tokens": [-1, 0]}, ArgumentError),
        ({"targets": [0, 4]}, ArgumentError),
        ({"tokens": [0.0, 1.0]}, DtypeError),
        ({"targets": [0]}, ShapeError),
        ({"tokens": [], "targets": []}, BpttError),
        ({"h0": np.zeros(3)}, ShapeError),
        ({"weights": {"w_x": np.zeros((2, 3))}}, ShapeError),
        ({"weights": {"w_h": np.zeros((2, 3))}}, ShapeError),
        ({"weights": {"b": np.zeros(3)}}, ShapeError),
        ({"weights": {"w_y": np.zeros((4, 3))}}, ShapeError),
        ({"weights": {"b_y": np.zeros(2)}}, ShapeError),
    ],
)
def test_misfits_are_refused(change: dict[str, Any], error: type[BpttError]) -> None:
    shapes: dict[str, Any] = {"w_x": (2, 4), "w_h": (2, 2), "b": 2, "w_y": (4, 2), "b_y": 4}
    weights = {name: np.zeros(shape) for name, shape in shapes.items()}
    arguments: dict[str, Any] = {"tokens": [0, 1], "targets": [1, 2], "h0": np.zeros(2)}
    weights |= change.pop("weights", {}) if "weights" in change else {}
    with pytest.raises(error):
        language.forward(**(arguments | change), weights=LanguageWeights(**weights))


def test_the_trace_outlives_changes_to_its_arguments() -> None:
    trace = network(3, 2, 4, seed=0)
    mine = {name: getattr(trace.weights, name).copy() for name in NAMES}
    again = language.forward(trace.tokens, trace.targets, trace.h0, LanguageWeights(**mine))
    before = language.backward(again)
    for one in mine.values():
        one[:] = 9.0
    assert_equal(language.backward(again), before)
