"""Page *BPTT by hand*: its numbers against each other, against autograd, and in a browser."""

import re
import statistics
import time
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptt.errors import ArgumentError
from bptt.lab.by_hand import (
    W_X,
    W_Y,
    W,
    X,
    Y,
    by_hand,
    check,
    off,
    shown,
    sums,
    table,
    tell,
    written,
)
from bptt.lab.live import ANSWER
from bptt.lab.pages import by_hand as page
from compare import assert_close

TENTHS = st.integers(-20, 20).map(lambda n: n / 10)


def some(count):
    return st.lists(TENTHS, min_size=count, max_size=count)


@given(
    some(4), some(2), some(2), some(3), some(3), st.sampled_from(["every step", "the last step"])
)
def test_by_hand_is_autograd_and_every_row_follows_from_those_above(w, w_x, w_y, x, y, losses):
    found = by_hand(w, w_x, w_y, x, y, losses)
    # Sums of up to 12 products of numbers up to about 30; some roundings of 1e-16 each.
    assert found.difference <= 1e-14 * max(1.0, np.abs(found.delta).max())
    assert_close(np.tanh(found.z), found.h, 1e-15)
    assert_close(found.direct + found.later, found.delta, 1e-15, floor=1.0)
    assert_close(found.delta * found.slope, found.dz, 0)
    assert_close(found.terms.sum(0), found.gradients[0], 1e-15, floor=1.0)
    assert bool((found.terms[0] == 0).all())
    assert bool((found.later[-1] == 0).all())
    if losses == "the last step":
        assert found.losses[:2].tolist() == [0, 0]
        assert found.losses[2] == 0.5 * (found.o[2] - y[2]) ** 2


def test_autograd_disagrees_with_a_wrong_gradient():
    """The difference shown can be other than nothing: the two sides are two programs."""
    found = by_hand()
    found.gradients[0][0, 1] += 1e-9
    assert 0.9e-9 < found.difference < 1.1e-9
    assert "1·10⁻⁹" in check(found, 4)


@pytest.mark.parametrize("sizes", [(3, 2, 2, 3, 3), (4, 2, 2, 2, 2), (4, 1, 2, 3, 3)])
def test_another_count_of_numbers_is_refused(sizes):
    with pytest.raises(ArgumentError):
        by_hand(*([0.5] * n for n in sizes))


def test_slopes_close_when_the_weights_are_large():
    mild, hard = by_hand(losses="the last step"), by_hand([2] * 4, [2, 2], losses="the last step")
    assert np.abs(hard.delta[0]).max() < 0.1 * np.abs(mild.delta[0]).max()


def cells(text):
    """All numbers of a table, in order."""
    found = re.findall(r"<td(?: class=\"sum\")?>([−\d.]+)</td>|<span>([−\d.]+)</span>", text)
    return [Decimal((a or b).replace("−", "-")) for a, b in found]


@given(some(4), some(3), st.integers(2, 6))
def test_what_is_said_about_the_rounding_is_true(w, x, digits):
    found = by_hand(w, x=x)
    numbers = cells(sums(found, digits))
    assert len(numbers) == 16
    unit = Decimal(1).scaleb(-digits)
    apart = []
    for name, row in zip(("w₁₁", "w₁₂", "w₂₁", "w₂₂"), range(0, 16, 4), strict=True):
        places = (sum(numbers[row : row + 3]) - numbers[row + 3]) / unit
        # Four numbers, each off by half a place at most.
        assert abs(places) <= 2
        if places:
            apart.append((name, int(places)))
    assert off(found, digits) == apart
    said = tell(found, digits)[1]
    assert ("exactly" in said) == (not apart)
    assert all(name in said for name, _ in apart)


def test_every_number_is_in_the_table():
    found = by_hand()
    columns = [found.x, found.z, found.h, found.o, found.y, found.error, found.losses]
    columns += [found.direct, found.later, found.delta, found.slope, found.dz]
    wanted = [shown(v, 6).replace("−", "-") for one in columns for v in one.ravel().tolist()]
    assert cells(table(found, 6)) == [Decimal(v) for v in wanted]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_the_arithmetic_written_out_gives_what_stands_after_it(step):
    """With six digits shown, each line worked out anew is right to what those digits allow."""
    found = by_hand()
    lines = re.findall(r'formula">.*? = (.*?) = <b>(.*?)</b>', written(found, step, 6))
    assert len(lines) == 13
    for work, result in lines:
        plain = work.replace("−", "-").replace("·", "*").replace("²", "**2")
        plain = re.sub(r"tanh (.*)", r"np.tanh(\1)", plain)
        value = eval(plain, {"np": np})  # the page's own arithmetic, in a test
        # Three products of numbers below 2, each rounded to half a millionth.
        assert value == pytest.approx(float(result.replace("−", "-")), abs=4e-6)


def test_slider_numbers_are_written_in_tenths():
    assert "0.8·" in written(by_hand(), 2, 5)
    assert "0.80000" not in written(by_hand(), 2, 5)
    assert "(−0.4)·" in written(by_hand(), 2, 5)


@pytest.mark.timing
def test_a_slider_is_answered_in_time():
    taken = []
    for step in (1, 2, 3, 1, 2):
        begin = time.perf_counter()
        found = by_hand()
        table(found, 6), sums(found, 6), check(found, 6), written(found, step, 6), tell(found, 6)
        taken.append(time.perf_counter() - begin)
    assert statistics.median(taken) < ANSWER


def test_the_notebook_runs_as_a_script():
    _, names = page.app.run()
    assert names["found"].terms.tolist() == by_hand().terms.tolist()


@pytest.mark.browser
def test_every_control_changes_what_the_package_computes(open_page):
    lab = open_page("by_hand").wait("difference")
    now = {"w": list(W), "w_x": list(W_X), "w_y": list(W_Y), "x": list(X), "y": list(Y)}
    now["losses"] = "every step"

    def agree():
        found = by_hand(**now)
        # Another process on the same machine: the same numbers up to a few roundings.
        for name, mine in (
            ("h", found.h),
            ("delta", found.delta),
            ("terms", found.terms),
            ("dw", found.gradients[0]),
            ("dw_x", found.gradients[1]),
            ("dw_y", found.gradients[2]),
            ("autograd", found.autograd[0]),
        ):
            assert_close(lab.value(name), mine.tolist(), 1e-14)
        assert lab.value("difference") < 1e-14
        return found

    agree()
    for group, ends in (
        ("w", ("11", "12", "21", "22")),
        ("w_x", "12"),
        ("w_y", "12"),
        ("x", "123"),
        ("y", "123"),
    ):
        for n, end in enumerate(ends):
            # The first target does not move dW: the state before step 1 is zero. All move dw_y.
            lab.press(group + end, "ArrowRight", changes="dw_y")
            now[group][n] = round(now[group][n] + 0.1, 1)
            agree()
    lab.choose("losses", "the last step", changes="dw")
    now["losses"] = "the last step"
    found = agree()
    assert lab.press("digits", "ArrowRight", changes="digits") == 5
    lab.choose("step", "1", changes="step")
    text = " ".join(lab.page.locator(".bptt").all_inner_texts())
    assert "Step 1 backward" in text
    assert shown(found.gradients[0][1, 0], 5) in text
    assert tell(found, 5)[1] in text.replace("\xa0", " ")
    assert lab.press("digits", "ArrowRight", changes="digits") == 6
    lab.look("light", "phone")
    assert lab.overflow() <= 0


@pytest.mark.browser
def test_it_looks_right_everywhere(shoot):
    assert len(shoot("by_hand", "difference")) == 4
