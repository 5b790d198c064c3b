"""Page *Unrolled*: its function against the reference, and the page in a browser."""

import re
import statistics
import time

import numpy as np
import pytest

from bptt.errors import ArgumentError
from bptt.lab.live import ANSWER
from bptt.lab.pages import unrolled as page
from bptt.lab.unrolled import draw, draw_sizes, equations, letters, place, summary, tell, unrolled
from bptt.reference import language
from bptt.report.chart_svg import draw_svg
from compare import assert_close


@pytest.mark.parametrize(("word", "hidden"), [("abc", 1), ("gradient", 4), ("aaaaaaaaaa", 6)])
@pytest.mark.parametrize("radius", [0.1, 1.6])
def test_followed_losses_add_up_to_the_gradient(word, hidden, radius):
    """Whatever step is followed: all of them together are the reference's backward pass."""
    T = len(word) - 1
    every = [unrolled(word, hidden, radius, t) for t in range(1, T + 1)]
    whole = language.backward(every[0].trace)
    # Sums of at most 45 terms, each with a few products: some ten roundings of 1e-16.
    assert_close(sum(one.total for one in every) / T, whole.dw_h, 1e-14, floor=1e-3)
    deltas = sum(np.array(one.deltas) for one in every) / T
    assert_close(deltas, whole.dz, 1e-14, floor=1e-3)
    assert_close(every[0].trace.loss, np.mean(every[-1].trace.losses), 1e-15)


def test_what_was_read_is_the_word():
    found = unrolled("bca", 2)
    assert found.trace.tokens.tolist() == [1, 2]
    assert found.trace.targets.tolist() == [2, 0]
    singular = np.linalg.svd(found.trace.weights.w_h)[1]
    # Orthogonal times 0.9; drawn in float64.
    np.testing.assert_allclose(singular, 0.9, rtol=1e-14)


def test_a_loss_sees_nothing_after_it():
    found = unrolled("gradient", 3, follow=4)
    assert [size > 0 for size in found.sizes] == [True] * 4 + [False] * 3
    assert "does not depend" in tell(found, 8)[0]  # back at step 7


def test_other_weights_by_seed_only():
    one = unrolled("word").trace.h
    assert np.array_equal(unrolled("word").trace.h, one)
    assert not np.array_equal(unrolled("word", seed=1).trace.h, one)


@pytest.mark.parametrize(
    ("typed", "read", "told"),
    [
        ("Hello", "hello", ""),
        (" hello ", "hello", ""),
        ("hi", "gradient", "at least 3"),
        ("", "gradient", "at least 3"),
        ("<b>né!", "gradient", "at least 3"),
        ("don't", "dont", "“dont”"),
        ("backpropagation", "backpropag", "first 10"),
    ],
)
def test_what_is_typed_becomes_a_word(typed, read, told):
    word, note = letters(typed)
    assert word == read
    assert told in note
    assert bool(told) == bool(note)


@pytest.mark.parametrize(("word", "follow"), [("no", 1), ("Word", 1), ("word", 0), ("word", 4)])
def test_what_cannot_be_shown_is_refused(word, follow):
    with pytest.raises(ArgumentError):
        unrolled(word, follow=follow)


def test_the_drawing_shows_what_has_been_reached():
    found = unrolled("word", 2)
    exact = dict(re.findall(r"<title>(.*?) = (.*?)</title>", draw(found, 2)))
    h = found.trace.h.tolist()
    assert exact == {f"h{k}[{i + 1}]": repr(h[k - 1][i]) for k in (1, 2) for i in (0, 1)}
    # T = 3, so position 5 is step 2 on the way back: all states, δ of steps 3 and 2.
    assert place(found, 5) == (2, True)
    exact = dict(re.findall(r"<title>(.*?) = (.*?)</title>", draw(found, 5)))
    assert {name for name in exact if name[0] == "δ"} == {"δ3[1]", "δ3[2]", "δ2[1]", "δ2[2]"}
    assert exact["δ2[1]"] == repr(found.deltas[1][0])
    assert len(exact) == 10


def test_the_present_term_is_lit():
    found = unrolled("gradient", 3, follow=5)
    lit = re.findall(r'<span class="lit">(.*?)</span>', equations(found, 2 * 7 + 1 - 3))
    assert lit == ["δ<sub>3</sub>h<sub>2</sub>ᵀ"]
    assert 'class="lit' in equations(found, 1)
    assert "δ<sub>3</sub>h" not in equations(found, 3)


def test_numbers_are_those_of_the_reference_to_the_last_digit_shown():
    found = unrolled("gradient", 2)
    k = 3
    text = equations(found, k)
    assert f"{found.trace.losses[k - 1]:.4f} nats" in text
    picture = draw(found, k)
    for value in found.trace.h[k - 1]:
        assert f"{value:.2f}".replace("-", "\u2212") in picture


@pytest.mark.parametrize("word", ["abc", "zzzzzzzzzz"])
@pytest.mark.parametrize("radius", [0.1, 1.6])
def test_every_position_can_be_drawn(word, radius):
    for follow in range(1, len(word)):
        found = unrolled(word, 6, radius, follow)
        for position in range(1, 2 * found.steps + 1):
            text = (
                draw(found, position)
                + draw_svg(draw_sizes(found, position))
                + equations(found, position)
            )
            text += " ".join((*summary(found, position).values(), *tell(found, position)))
            assert "nan" not in text
            assert "inf" not in text


@pytest.mark.timing
def test_a_slider_is_answered_in_time():
    taken = []
    for seed in range(5):
        begin = time.perf_counter()
        found = unrolled("zzzzzzzzzz", 6, seed=seed)
        draw(found, 14), draw_svg(draw_sizes(found, 14)), equations(found, 14), tell(found, 14)
        taken.append(time.perf_counter() - begin)
    assert statistics.median(taken) < ANSWER


def test_the_notebook_runs_as_a_script():
    _, names = page.app.run()
    assert names["found"].word == "gradient"
    assert names["found"].deltas == unrolled("gradient", 4, 0.9).deltas


@pytest.mark.browser
def test_every_control_changes_what_the_reference_computes(open_page):
    lab = open_page("unrolled").wait("deltas")
    now = {"word": "gradient", "hidden": 4, "radius": 0.9, "follow": 7}

    def agree():
        found = unrolled(**now)
        # Another process on the same machine: the same numbers up to the order of sums.
        assert_close(lab.value("states"), found.trace.h.tolist(), 1e-12)
        assert_close(lab.value("deltas"), found.deltas, 1e-11)
        assert_close(lab.value("total"), found.total.tolist(), 1e-11)
        return found

    agree()
    assert lab.press("position", "ArrowRight", changes="step") == 2
    assert lab.press("position", "End", changes="back") is True
    assert lab.value("step") == 1
    assert "h₀ = 0, so this term is zero" in lab.page.locator(".equations").last.inner_text()
    lab.press("radius", "ArrowLeft", changes="states")
    now["radius"] = 0.8
    agree()
    lab.press("hidden", "ArrowRight", changes="states")
    now["hidden"] = 5
    agree()
    lab.press("follow", "ArrowLeft", changes="deltas")
    now["follow"] = 6
    found = agree()
    assert lab.value("back") is True  # the place is kept
    assert tell(found, 14)[0] in lab.page.locator(".words").inner_text().replace("\xa0", " ")
    box = lab.page.locator('[data-control="word"] input')
    box.fill("Hello!")
    box.press("Enter")
    lab.settle("word", "hello")
    now |= {"word": "hello", "follow": 4}
    agree()
    assert "“hello”" in lab.page.locator(".words").first.inner_text()


@pytest.mark.browser
def test_it_looks_right_everywhere(shoot, open_page):
    assert len(shoot("unrolled", "deltas")) == 4
