"""Arguments that do not fit are refused, with what was expected, what came, and what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bptt.errors import ArgumentError, BpttError, DtypeError, ShapeError
from bptt.reference import Weights, lstm, rnn
from cases import GATES, Case, module, oracle, oracle_trace, random_case
from compare import assert_equal

T, B, I, H = 4, 2, 3, 5
CELLS = ("rnn_tanh", "gru", "lstm")
NO = np.zeros((T, B), dtype=bool)


def weights_with(cell: str, **changes: Any) -> Weights:
    return replace(random_case(cell, T, B, I, H, seed=0).weights, **changes)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"x": np.zeros((T, B))}, ShapeError, "x of shape (T≥1, B≥1, I≥1), received (4, 2)"),
        ({"x": np.zeros((0, B, I))}, ShapeError, "received (T=0, B=2, I=3)"),
        ({"x": np.zeros((T, B, I), dtype=complex)}, DtypeError, "dtype complex128"),
        ({"x": [[[1.0]], [[1.0, 2.0]]]}, ShapeError, "a regular array"),
        ({"x": np.zeros((T, B, I + 1))}, ShapeError, "w_ih of shape"),
        ({"h0": np.zeros((B + 1, H))}, ShapeError, "h0 of shape (B=2, H=5), received (B=3, H=5)"),
        ({"h0": np.zeros((1, B, H))}, ShapeError, "h0"),
        ({"lengths": [T]}, ShapeError, "lengths of shape (B=2)"),
        ({"lengths": [T, T + 1]}, ArgumentError, "in 0..4, received 5"),
        ({"lengths": [-1, T]}, ArgumentError, "in 0..4, received -1"),
        ({"lengths": [1.0, 2.0]}, DtypeError, "lengths to hold integers"),
        ({"reset": NO[:1]}, ShapeError, "reset of shape (T=4, B=2)"),
        ({"reset": NO.T}, ShapeError, "reset"),
        ({"reset": NO.astype(int)}, DtypeError, "reset to be bool"),
        ({"cut": NO.astype(float)}, DtypeError, "cut to be bool"),
        ({"cut": NO[:, :, None]}, ShapeError, "cut"),
    ],
)
def test_forward(cell: str, changes: dict[str, Any], error: type[BpttError], says: str) -> None:
    case = random_case(cell, T, B, I, H, seed=0)
    state0 = ("h0", "c0")[: len(case.state0)]
    arguments = {"x": case.x, "weights": case.weights} | dict(zip(state0, case.state0, strict=True))
    with pytest.raises(error) as caught:
        module(cell).forward(**(arguments | changes))
    assert says in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", ["w_ih", "w_hh", "b_ih", "b_hh"])
@pytest.mark.parametrize("misfit", ["row more", "column more", "axis more", "other gates"])
def test_weights(cell: str, name: str, misfit: str) -> None:
    good = getattr(weights_with(cell), name)
    bad = {
        "row more": np.concatenate([good, good[:1]]),
        "column more": np.repeat(good, 2, axis=-1),
        "axis more": good[None],
        "other gates": np.concatenate([good] * 2),
    }[misfit]
    case = replace(random_case(cell, T, B, I, H, seed=0), weights=weights_with(cell, **{name: bad}))
    with pytest.raises(ShapeError):
        oracle_trace(case)


def test_weights_of_another_cell() -> None:
    case: Case = random_case("gru", T, B, I, H, seed=0)
    for other in ("rnn_tanh", "lstm"):
        wrong = replace(case, weights=weights_with(other))
        with pytest.raises(ShapeError, match=f"with G={GATES['gru']}"):
            oracle_trace(wrong)


@pytest.mark.parametrize("cell", CELLS)
def test_backward(cell: str) -> None:
    case = random_case(cell, T, B, I, H, seed=0)
    trace = oracle_trace(case)
    for dy in (case.dy[1:], case.dy[:, :1], case.dy[:, :, :1], case.dy[0]):
        with pytest.raises(ShapeError, match="dy of shape"):
            module(cell).backward(trace, dy)
    with pytest.raises(ShapeError, match="dh_n of shape"):
        module(cell).backward(trace, case.dy, case.dstate[0][None])
    with pytest.raises(DtypeError, match="dy to hold real numbers"):
        module(cell).backward(trace, case.dy.astype(str))


def test_lstm_also_checks_c() -> None:
    case = random_case("lstm", T, B, I, H, seed=0)
    with pytest.raises(ShapeError, match="c0 of shape"):
        lstm.forward(case.x, case.state0[0], case.state0[1][:1], case.weights)
    with pytest.raises(ShapeError, match="dc_n of shape"):
        lstm.backward(oracle_trace(case), case.dy, dc_n=np.zeros((B, H + 1)))


def test_an_unknown_nonlinearity() -> None:
    case = random_case("rnn_tanh", T, B, I, H, seed=0)
    unknown: Any = "sigmoid"
    with pytest.raises(ArgumentError, match="received 'sigmoid'"):
        rnn.forward(case.x, case.state0[0], case.weights, nonlinearity=unknown)


@pytest.mark.parametrize("cell", CELLS)
def test_the_trace_outlives_changes_to_its_arguments(cell: str) -> None:
    case = random_case(cell, T, B, I, H, seed=0)
    expected = oracle(case)
    trace = oracle_trace(case)
    for one in (case.x, *case.state0, *vars(case.weights).values()):
        one[:] = 9.0
    gradients = vars(module(cell).backward(trace, case.dy, *case.dstate))
    assert_equal(gradients, {name: expected[name] for name in gradients})


@pytest.mark.parametrize("cell", CELLS)
def test_float32_and_integers_are_taken_up_to_float64(cell: str) -> None:
    case = random_case(cell, T, B, I, H, seed=0)
    ones = np.ones_like(case.x)
    assert_equal(
        oracle(replace(case, x=ones.astype(np.float32))), oracle(replace(case, x=ones.astype(int)))
    )
