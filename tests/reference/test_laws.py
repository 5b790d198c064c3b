"""What must hold of every cell, whatever its equations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases import CELLS, Case, cases, oracle, random_case
from compare import assert_close, assert_equal

SUMMED = ("dw_ih", "dw_hh", "db_ih", "db_hh")  # over steps and lanes
STEPWISE = ("y", "dx", "state", "cell_state")  # one entry a step
FIRST = ("dh0", "dc0")
FINAL = ("h_n", "c_n")
TOL = 1e-13
FLOOR = 0.1


def joined(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Results of two pieces of time as those of the whole."""
    whole = {}
    for name in first:
        if name in SUMMED:
            whole[name] = first[name] + second[name]
        elif name in STEPWISE:
            whole[name] = np.concatenate([first[name], second[name]])
        else:
            whole[name] = (first if name in FIRST else second)[name]
    return whole


def only(result: dict[str, np.ndarray], *groups: tuple[str, ...]) -> dict[str, np.ndarray]:
    names = [name for group in groups for name in group]
    return {name: value for name, value in result.items() if name in names}


@given(cases(lengths=False, cut=False, min_steps=2), st.data())
def test_reset_at_t_equals_two_sequences(case: Case, data: st.DataObject) -> None:
    T, B, _, _ = case.sizes
    t = data.draw(st.integers(1, T - 1))
    reset = np.zeros((T, B), dtype=bool) if case.reset is None else case.reset.copy()
    reset[t] = True
    whole = oracle(replace(case, reset=reset))

    zero = tuple(np.zeros_like(s) for s in case.state0)
    # The first sequence's final state is nobody's output; the second starts from nothing.
    first = oracle(replace(case.steps(0, t), dstate=zero))
    second = oracle(replace(case.steps(t, T), state0=zero))
    parts = joined(first, second)
    assert_equal(only(whole, STEPWISE, FIRST, FINAL), only(parts, STEPWISE, FIRST, FINAL))
    assert_close(only(whole, SUMMED), only(parts, SUMMED), TOL, floor=FLOOR)  # summed in two parts


@given(cases(lengths=False, reset=False, cut=False, min_steps=2), st.data())
def test_cut_at_t_equals_two_chunks_with_a_carry(case: Case, data: st.DataObject) -> None:
    T, B, _, _ = case.sizes
    t = data.draw(st.integers(1, T - 1))
    cut = np.zeros((T, B), dtype=bool)
    cut[t] = True
    whole = oracle(replace(case, cut=cut))

    zero = tuple(np.zeros_like(s) for s in case.state0)
    first = oracle(replace(case.steps(0, t), dstate=zero))
    carry = tuple(first[name] for name in FINAL if name in first)
    second = oracle(replace(case.steps(t, T), state0=carry))
    parts = joined(first, second)
    assert_equal(only(whole, STEPWISE, FIRST, FINAL), only(parts, STEPWISE, FIRST, FINAL))
    assert_close(only(whole, SUMMED), only(parts, SUMMED), TOL, floor=FLOOR)


@given(cases())
def test_a_cut_changes_no_output(case: Case) -> None:
    assert_equal(
        only(oracle(case), ("y",), FINAL), only(oracle(replace(case, cut=None)), ("y",), FINAL)
    )


@given(cases(empty=False))
def test_each_lane_is_alone(case: Case) -> None:
    """Lengths equal truncation: a lane gives what it gives by itself, cut off at its length."""
    B = case.sizes[1]
    whole = oracle(case)
    lanes = [oracle(case.lane(b)) for b in range(B)]
    for b, alone in enumerate(lanes):
        end = alone["y"].shape[0]
        for name in STEPWISE:
            if name in whole:
                assert_close(whole[name][:end, b], alone[name][:, 0], TOL, name, floor=FLOOR)
                assert_equal(whole[name][end:, b], np.zeros_like(whole[name][end:, b]), name)
        for name in only(whole, FIRST, FINAL):
            assert_close(whole[name][b], alone[name][0], TOL, name, floor=FLOOR)
    for name in SUMMED:
        assert_close(whole[name], sum(a[name] for a in lanes), TOL, name, floor=FLOOR)


@given(cases(lengths=False), st.data())
def test_one_length_for_all_equals_a_shorter_batch(case: Case, data: st.DataObject) -> None:
    T, B, _, _ = case.sizes
    end = data.draw(st.integers(1, T))
    whole = oracle(replace(case, lengths=np.full(B, end)))
    for name in only(whole, STEPWISE):
        assert_equal(whole[name][end:], np.zeros_like(whole[name][end:]), name)
        whole[name] = whole[name][:end]
    assert_equal(whole, oracle(case.steps(0, end)))


@given(cases())
def test_what_stands_on_padded_steps_does_not_matter(case: Case) -> None:
    padded = ~case.valid
    poisoned = replace(
        case,
        x=np.where(padded[:, :, None], np.nan, case.x),
        dy=np.where(padded[:, :, None], np.nan, case.dy),
        reset=padded if case.reset is None else case.reset | padded,
        cut=padded if case.cut is None else case.cut | padded,
    )
    assert_equal(oracle(poisoned), oracle(case))


@given(cases(empty=False), st.booleans())
def test_h0_behind_a_reset_or_a_cut(case: Case, use_reset: bool) -> None:
    T, B, _, _ = case.sizes
    first = np.zeros((T, B), dtype=bool)
    first[0] = True
    if use_reset:
        # Not even a NaN gets through.
        poison = tuple(np.full_like(s, np.nan) for s in case.state0)
        result = oracle(replace(case, reset=first, state0=poison))
        zero = tuple(np.zeros_like(s) for s in case.state0)
        from_zero = oracle(replace(case, reset=first, state0=zero))
        assert_equal(only(result, ("y",)), only(from_zero, ("y",)))
    else:
        result = oracle(replace(case, cut=first))
    for name in only(result, FIRST):
        assert_equal(result[name], np.zeros_like(result[name]), name)


@given(cases())
def test_the_gradient_is_linear_in_what_comes_in(case: Case) -> None:
    doubled = replace(case, dy=2.0 * case.dy, dstate=tuple(2.0 * s for s in case.dstate))
    twice, once = oracle(doubled), oracle(case)
    for name in once:
        if name not in ("y", *FINAL):
            assert_equal(twice[name], 2.0 * once[name], name)  # doubling rounds nothing


@given(cases())
def test_arguments_are_left_as_they_were(case: Case) -> None:
    arrays = [case.x, case.dy, *case.state0, *case.dstate, *vars(case.weights).values()]
    before = [a.copy() for a in arrays]
    oracle(case)
    assert_equal(arrays, before)


@pytest.mark.parametrize("cell", CELLS)
def test_extreme_inputs_saturate_without_warnings(cell: str) -> None:
    case = random_case(cell, 3, 2, 2, 3, seed=5)
    with np.errstate(all="raise", under="ignore"):
        result = oracle(replace(case, x=1e4 * case.x))
    assert all(np.isfinite(value).all() for value in result.values())
