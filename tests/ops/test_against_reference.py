"""Both ways to run the recurrence, against the NumPy reference: outputs and every gradient."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bptt.ops import eager, native
from cases import NAMES, cases, leaves, oracle, random_case
from compare import assert_close

RUNNERS = {"native": native.recur, "eager": eager.recur}
CELLS = {"rnn_tanh": "RNN_TANH", "rnn_relu": "RNN_RELU", "gru": "GRU", "lstm": "LSTM"}
# Rounding of sums of at most a few hundred terms of order one, in units of the largest result.
TOL64, TOL32 = 1e-12, 2e-5


def solve(run, case, dtype=torch.float64, batch_major=False):
    """What ``oracle`` returns, computed by one of the runners."""
    x, state, weights = leaves(case)
    x, state, weights = (
        x.detach().to(dtype).requires_grad_(),
        tuple(s.detach().to(dtype).requires_grad_() for s in state),
        [w.detach().to(dtype).requires_grad_() for w in weights],
    )
    given = x.transpose(0, 1).contiguous().transpose(0, 1) if batch_major else x
    marks = {
        name: None if getattr(case, name) is None else torch.tensor(getattr(case, name))
        for name in ("lengths", "reset", "cut")
    }
    y, final = run(CELLS[case.cell], given, state, tuple(weights), **marks)
    total = (y * torch.tensor(case.dy, dtype=dtype)).sum()
    for s, ds in zip(final, case.dstate, strict=True):
        total = total + (s * torch.tensor(ds, dtype=dtype)).sum()
    grads = torch.autograd.grad(total, [x, *state, *weights], allow_unused=True)
    grads = [
        torch.zeros_like(v) if g is None else g
        for g, v in zip(grads, [x, *state, *weights], strict=True)
    ]
    result = {"y": y, "h_n": final[0], "dx": grads[0], "dh0": grads[1]}
    if case.cell == "lstm":
        result |= {"c_n": final[1], "dc0": grads[2]}
    result |= {f"d{name}": g for name, g in zip(NAMES, grads[-4:], strict=True)}
    return {name: value.detach() for name, value in result.items()}


def check(run, case, dtype, tol, **how):
    actual = solve(run, case, dtype, **how)
    expected = oracle(case)
    # Gradients that cancel to almost nothing are judged by the size of the terms added up.
    for name, value in actual.items():
        assert_close(value, expected[name], tol, name, floor=0.1, check_dtype=False)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("batch_major", [False, True])
@given(case=cases())
def test_any_case_in_double(runner, batch_major, case):
    check(RUNNERS[runner], case, torch.float64, TOL64, batch_major=batch_major)


@given(case=cases())
def test_any_case_in_single(case):
    check(native.recur, case, torch.float32, TOL32)


# Around the widths of vectors, panels and row blocks, where the edges of the kernels are.
EDGES = [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 48, 65]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("hidden", EDGES)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_sizes_around_the_edges_of_the_kernels(cell, hidden, threads):
    rng = np.random.default_rng(hidden)
    for lanes in (1, 5, 6, 7, 13):
        case = random_case(cell, 4, lanes, 3, hidden, seed=hidden)
        case = replace(
            case,
            lengths=rng.integers(1, 5, size=lanes),
            reset=rng.random((4, lanes)) < 0.2,
            cut=rng.random((4, lanes)) < 0.2,
        )
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            check(native.recur, case, torch.float64, TOL64)
            check(native.recur, case, torch.float32, TOL32)
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("cell", CELLS)
def test_a_reversed_run_is_a_run_over_the_reversed_sequence(cell):
    case = random_case(cell, 6, 3, 4, 5, seed=1)
    x, state, weights = leaves(case)
    for run in RUNNERS.values():
        forward = run(CELLS[cell], x.flip(0), state, tuple(weights))
        backward = run(CELLS[cell], x, state, tuple(weights), reverse=True)
        assert_close(backward[0].flip(0), forward[0], TOL64)
        assert_close(backward[1], forward[1], TOL64)


@given(case=cases(), reverse=st.booleans())
def test_native_is_eager_in_reverse_too(case, reverse):
    def run(recur):
        return lambda *args, **marks: recur(*args, **marks, reverse=reverse)

    assert_close(solve(run(native.recur), case), solve(run(eager.recur), case), TOL64, floor=0.1)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("lanes", [24, 130])  # 130 are dealt out in more pieces than threads
def test_results_do_not_depend_on_the_number_of_threads(cell, lanes):
    case = random_case(cell, 20, lanes, 16, 64, seed=3)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(solve(native.recur, case, torch.float32))
            for _ in range(3):  # whoever took which piece
                assert_close(solve(native.recur, case, torch.float32), results[-1], 0.0)
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for name in ("y", "h_n"):
            assert_close(result[name], results[0][name], 0.0, name)
        assert_close(result, results[0], 1e-6)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("hidden", EDGES)
def test_the_kernel_that_takes_the_input_at_the_edges(cell, hidden):
    """Gates that share a panel, and panels that end narrow, beside the kernel that is given products."""
    for lanes, inputs in ((4, 5), (13, 33), (5, 16)):
        case = random_case(cell, 7, lanes, inputs, hidden, seed=hidden)
        for dtype, tol in ((torch.float64, TOL64), (torch.float32, TOL32)):
            assert_close(
                solve(native.recur, case, dtype), solve(eager.recur, case, dtype), tol, floor=0.1
            )


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_too_small_for_a_float_are_zero_and_nothing_else_is(cell):
    smallest, tiny = torch.finfo(torch.float32).tiny, 1e-42  # the second is no normal number
    case = random_case(cell, 400, 4, 3, 20, seed=2)
    x, state, weights = leaves(case)
    weights = [w.detach() * 0.1 for w in weights]
    found = {}
    for dtype in (torch.float32, torch.float64):
        inputs = x.detach().to(dtype).requires_grad_()
        norms = torch.full((400, 4), torch.nan, dtype=dtype)
        y, _ = native.recur(
            CELLS[cell], inputs, [s.detach().to(dtype) for s in state],
            [w.to(dtype) for w in weights], norms=norms,
        )  # fmt: skip
        found[dtype] = (*torch.autograd.grad(y[-1].sum(), inputs), norms)
    for single, double in zip(found[torch.float32], found[torch.float64], strict=True):
        assert ((single == 0) | (single.abs() >= smallest)).all()
        # At every step, of norms as well, the squares of which a float does not hold.
        length = double.flatten(1).norm(dim=1)
        assert ((single - double).flatten(1).norm(dim=1) <= 1e-3 * length + 1e3 * smallest).all()
    assert (found[torch.float32][0][0] == 0).all()
    assert torch.tensor(tiny) * 1 != 0  # the caller's own arithmetic is what it was


@pytest.mark.parametrize("cell", CELLS)
def test_state_gradient_norms_are_recorded_on_the_way(cell):
    case = replace(
        random_case(cell, 6, 3, 2, 5, seed=2),
        lengths=np.array([6, 2, 4]),
        reset=np.random.default_rng(0).random((6, 3)) < 0.2,
    )
    expected = np.linalg.norm(oracle(case)["state"], axis=-1)
    norms = torch.full((6, 3), torch.nan, dtype=torch.float64)

    def run(*args, **marks):
        return native.recur(*args, **marks, norms=norms)

    check(run, case, torch.float64, TOL64)
    assert_close(norms[case.valid], expected[case.valid], TOL64)


@pytest.mark.parametrize("cell", CELLS)
def test_nan_in_one_lane_stays_there_and_padding_is_never_read(cell):
    case = random_case(cell, 5, 4, 3, 9, seed=4)
    x = case.x.copy()
    x[2, 1] = np.nan
    clean, dirty = (
        solve(native.recur, replace(case, x=value), torch.float32) for value in (case.x, x)
    )
    others = [0, 2, 3]
    assert_close(dirty["y"][:, others], clean["y"][:, others], 0.0)
    assert dirty["y"][2:, 1].isnan().all()
    assert dirty["y"][:2, 1].isfinite().all()

    lengths = np.array([5, 2, 5, 5])
    short = replace(case, lengths=lengths)
    padded = solve(native.recur, replace(short, x=x), torch.float64)
    assert_close(padded, solve(native.recur, short, torch.float64), 0.0)
