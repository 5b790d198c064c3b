"""The comparator must fail when it must: each test here would pass unseen if it did not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compare import Mismatch, assert_close, assert_equal

ONES = np.ones((2, 3))


@dataclass(frozen=True)
class Result:
    y: Any
    h_n: Any


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (ONES, ONES),
        (torch.ones(2, 3, dtype=torch.float64), ONES),
        (1.0, np.float64(1.0)),
        (np.array([np.inf, 1.0]), np.array([np.inf, 1.0])),
        (np.array([-0.0]), np.array([0.0])),
        ({"a": (ONES, [torch.ones(1)])}, {"a": (ONES, [torch.ones(1)])}),
        (Result(ONES, None), Result(ONES, None)),
        (Result(ONES, "x"), {"y": ONES, "h_n": "x"}),
        (np.zeros((0, 3)), np.zeros((0, 3))),
        (torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
        (torch.ones(2, requires_grad=True), np.ones(2, dtype=np.float32)),
        (np.array([True, False]), torch.tensor([True, False])),
        (np.array([1 + 2j]), np.array([1 + 2j])),
    ],
)
def test_equal_things_pass(actual: Any, expected: Any) -> None:
    assert_close(actual, expected, 1e-12)
    assert_equal(actual, expected)


@pytest.mark.parametrize(
    ("actual", "expected", "word"),
    [
        (ONES, ONES[:1], "shape"),
        (ONES, np.ones((3, 2)), "shape"),
        (np.ones(1), 1.0, "shape"),
        (ONES.astype(np.float32), ONES, "dtype"),
        (torch.ones(2, 3), ONES, "dtype"),
        (np.ones(2, dtype=np.int64), np.ones(2), "dtype"),
        (np.array([np.nan]), np.array([np.nan]), "worst element"),
        (np.array([1.0, np.nan]), np.array([1.0, 1.0]), "worst element at (1,)"),
        (np.array([1.0, 1.0]), np.array([1.0, np.nan]), "worst element at (1,)"),
        (np.array([np.inf]), np.array([-np.inf]), "worst element"),
        (np.array([1e308]), np.array([np.inf]), "worst element"),
        (np.array([np.inf]), np.array([1e308]), "worst element"),
        (np.array([1e-300]), np.array([0.0]), "worst element"),
        (np.array([1, 2]), np.array([1, 3]), "worst element at (1,)"),
        (np.array([True]), np.array([False]), "worst element"),
        (np.array([1 + 2j]), np.array([1 - 2j]), "worst element"),
        ({"a": ONES}, {"b": ONES}, "keys differ"),
        ({"a": ONES}, {"a": ONES, "b": ONES}, "missing ['b']"),
        ({"a": ONES, "b": ONES}, {"a": ONES}, "unexpected ['b']"),
        ((ONES,), (ONES, ONES), "1 entries"),
        ((ONES, ONES), (ONES,), "2 entries"),
        (ONES, None, "expected None"),
        (None, ONES, "received None"),
        ("a", "b", "received 'a'"),
        ((ONES,), ONES, "received"),
        ({}, {}, "nothing to compare"),
        ((), (), "nothing to compare"),
        ({"a": [ONES, {"b": ONES}]}, {"a": [ONES, {"b": 2 * ONES}]}, "value['a'][1]['b']"),
        (Result(ONES, ONES), Result(ONES, 0 * ONES), "value['h_n']"),
    ],
)
@pytest.mark.parametrize("compare", [lambda a, e: assert_close(a, e, 1e-12), assert_equal])
def test_different_things_fail(
    compare: Callable[[Any, Any], None], actual: Any, expected: Any, word: str
) -> None:
    with pytest.raises(Mismatch) as caught:
        compare(actual, expected)
    assert word in str(caught.value)


def test_the_unit_is_the_largest_expected_magnitude() -> None:
    expected = np.array([1000.0, 1.0])
    assert_close(expected + np.array([0.0, 0.9]), expected, 1e-3)
    with pytest.raises(Mismatch, match=r"worst element at \(1,\).*1 of 2 elements fail"):
        assert_close(expected + np.array([0.5, 1.1]), expected, 1e-3)
    # What was received must not widen the tolerance: 9 is within 0.95 of 10, but not of 1.
    with pytest.raises(Mismatch):
        assert_close(np.array([10.0]), np.array([1.0]), 0.95)


def test_an_infinity_does_not_widen_the_tolerance() -> None:
    with pytest.raises(Mismatch, match=r"worst element at \(1,\)"):
        assert_close(np.array([np.inf, 2.0]), np.array([np.inf, 1.0]), 1e-3)


def test_floor_only_raises_the_unit() -> None:
    assert_close(np.array([1e-14]), np.array([0.0]), 1e-12, floor=1.0)
    with pytest.raises(Mismatch):
        assert_close(np.array([1e-11]), np.array([0.0]), 1e-12, floor=1.0)
    assert_close(np.array([100.0 + 1e-11]), np.array([100.0]), 1e-12, floor=1.0)


def test_dtype_can_be_waived_but_not_the_shape() -> None:
    assert_close(ONES.astype(np.float32), ONES, 1e-7, check_dtype=False)
    with pytest.raises(Mismatch, match="shape"):
        assert_close(np.ones(2, dtype=np.float32), ONES, 1e-7, check_dtype=False)


def test_float32_differences_are_taken_in_double() -> None:
    big = np.array([3e38], dtype=np.float32)
    with pytest.raises(Mismatch, match="off by 6"):
        assert_close(-big, big, 1e-3)


@pytest.mark.parametrize("tol", [-1e-9, float("nan")])
def test_a_senseless_tolerance_is_refused(tol: float) -> None:
    with pytest.raises(ValueError, match="tol >= 0"):
        assert_close(ONES, ONES, tol)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8),
    st.integers(0, 7),
    st.sampled_from([1e-12, 1e-6, 1e-2]),
)
def test_one_wrong_element_is_always_found(values: list[float], where: int, tol: float) -> None:
    expected = np.array([1.0, *values])
    where = where % expected.size
    unit = np.abs(expected).max()
    inside, outside = expected.copy(), expected.copy()
    inside[where] += 0.5 * tol * unit
    outside[where] += 2.0 * tol * unit
    assert_close(inside, expected, tol)
    with pytest.raises(Mismatch) as caught:
        assert_close(outside, expected, tol, "x")
    assert f"x: worst element at ({where},)" in str(caught.value)
