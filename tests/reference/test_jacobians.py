"""∂h_t/∂h_{t−1} against finite differences, and against the backward pass it must compose to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptt.errors import ArgumentError
from bptt.reference import Weights, rnn
from cases import Case, cases, module, oracle_trace, random_case
from compare import assert_close, assert_equal

STEP = 1e-6  # central differences err by STEP² and by rounding / STEP, both far below the tolerance


def final_state(case: Case) -> np.ndarray:
    """(B, H), for an LSTM (B, 2H): the state after the case's last step."""
    trace = oracle_trace(case)
    return np.concatenate([trace.h_n, trace.c_n], axis=1) if case.cell == "lstm" else trace.h_n


def with_state(case: Case, state: np.ndarray) -> Case:
    parts = np.split(state, len(case.state0), axis=1)
    return replace(case, state0=tuple(parts))


@given(cases(("rnn_tanh", "gru", "lstm"), lengths=False), st.data())
def test_equals_finite_differences(case: Case, data: st.DataObject) -> None:
    """Cuts are drawn too: they stop the gradient and leave the map itself alone."""
    T, B, _, _ = case.sizes
    t = data.draw(st.integers(0, T - 1))
    before = np.concatenate(case.state0, axis=1) if t == 0 else final_state(case.steps(0, t))
    one_step = case.steps(t, t + 1)
    size = before.shape[1]
    expected = np.zeros((B, size, size))
    for j in range(size):
        nudge = STEP * np.eye(size)[j]
        up = final_state(with_state(one_step, before + nudge))
        down = final_state(with_state(one_step, before - nudge))
        expected[:, :, j] = (up - down) / (2 * STEP)
    assert_close(
        module(case.cell).jacobian(oracle_trace(case), t), expected, 1e-8, case.cell, floor=1.0
    )


@given(cases())
def test_composes_to_the_backward_pass(case: Case) -> None:
    """δ_{t−1} = dy_{t−1} + J_tᵀ δ_t wherever step t runs, and without the product at a cut."""
    T, B, _, H = case.sizes
    trace = oracle_trace(case)
    gradients = module(case.cell).backward(trace, case.dy, *case.dstate)
    cut = np.zeros((T, B), dtype=bool) if case.cut is None else case.cut

    def arriving(t: int, b: int) -> np.ndarray:
        """What reaches the outputs of step t: for an LSTM, c's part without the way through h."""
        if case.cell != "lstm":
            return gradients.state[t, b]
        by_h = gradients.state[t, b] * trace.o[t, b] * (1 - np.tanh(trace.c[t, b]) ** 2)
        return np.concatenate([gradients.state[t, b], gradients.cell_state[t, b] - by_h])

    for t in range(1, T):
        jacobian = module(case.cell).jacobian(trace, t)
        for b in range(B):
            if case.valid[t, b]:
                direct = np.zeros(jacobian.shape[1])
                direct[:H] = case.dy[t - 1, b]
                back = jacobian[b].T @ arriving(t, b)
                expected = direct if cut[t, b] else direct + back
                assert_close(arriving(t - 1, b), expected, 1e-12, case.cell, floor=1.0)


@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "gru", "lstm"])
def test_reset_gives_zero_and_padding_the_identity(cell: str) -> None:
    case = random_case(cell, 3, 2, 2, 3, seed=1)
    reset = np.array([[False, False], [True, False], [False, True]])
    trace = oracle_trace(replace(case, lengths=np.array([3, 1]), reset=reset))
    size = 6 if cell == "lstm" else 3
    assert_equal(
        module(case.cell).jacobian(trace, 1), np.stack([np.zeros((size, size)), np.eye(size)])
    )
    assert_equal(module(case.cell).jacobian(trace, 2)[1], np.eye(size))


def test_of_a_tanh_rnn_is_the_textbook_formula() -> None:
    case = random_case("rnn_tanh", 4, 1, 2, 3, seed=2)
    trace = oracle_trace(case)
    for t in range(4):
        formula = np.diag(1 - trace.y[t, 0] ** 2) @ case.weights.w_hh
        assert_equal(rnn.jacobian(trace, t)[0], formula)


@given(st.integers(1, 8), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_of_a_linear_rnn_multiply_to_a_power(T: int, H: int, seed: int) -> None:
    """∂h_t/∂h_k = W^(t−k), so the gradient sent back over it is (Wᵀ)^(t−k) δ_t."""
    rng = np.random.default_rng(seed)
    w_hh = rng.normal(size=(H, H)) / np.sqrt(H)
    weights = Weights(rng.normal(size=(H, 2)), w_hh, rng.normal(size=H), rng.normal(size=H))
    trace = rnn.forward(
        rng.normal(size=(T, 1, 2)), rng.normal(size=(1, H)), weights, nonlinearity="linear"
    )
    dh_n = rng.normal(size=(1, H))
    gradients = rnn.backward(trace, np.zeros((T, 1, H)), dh_n)
    product = np.eye(H)
    for k in reversed(range(T)):
        power = np.linalg.matrix_power(w_hh, T - 1 - k)
        assert_close(product, power, 1e-12, floor=0.1)
        assert_close(gradients.state[k, 0], power.T @ dh_n[0], 1e-12, floor=0.1)
        product = product @ rnn.jacobian(trace, k)[0]


@pytest.mark.parametrize("radius", [0.5, 1.0, 2.0])
def test_eigenvalues_decide_whether_a_linear_gradient_lives(radius: float) -> None:
    """Along an eigenvector the gradient changes by |λ| a step, exactly."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    w_hh = basis @ np.diag([radius, 0.1, -0.2]) @ basis.T
    weights = Weights(np.zeros((3, 1)), w_hh, np.zeros(3), np.zeros(3))
    trace = rnn.forward(np.zeros((11, 1, 1)), np.zeros((1, 3)), weights, nonlinearity="linear")
    dh_n = basis[:, :1].T
    gradients = rnn.backward(trace, np.zeros((11, 1, 3)), dh_n)
    norms = np.linalg.norm(gradients.state[:, 0], axis=1)
    assert_close(norms[::-1].copy(), radius ** np.arange(11.0), 1e-12)


@pytest.mark.parametrize("t", [-1, 3, 1.0, True, "0"])
@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "lstm"])
def test_a_step_that_does_not_exist_is_refused(cell: str, t: Any) -> None:
    case = random_case(cell, 3, 1, 1, 1, seed=0)
    with pytest.raises(ArgumentError):
        module(case.cell).jacobian(oracle_trace(case), t)
