"""Page *Bottleneck*: its function against what is known of it, and the page in a browser."""

import statistics
import time

import pytest
import torch

from bptt.lab.bottleneck import bottleneck, draw_memory, draw_recall, tell
from bptt.lab.live import ANSWER, charts
from bptt.lab.pages import bottleneck as page
from bptt.models.attention import AttentionModel


@pytest.mark.parametrize("start", ["orthogonal", "Gaussian"])
@pytest.mark.parametrize("hidden", [1, 4, 16])
def test_a_state_holds_no_more_than_its_size(hidden, start):
    """Jaeger's bound; the share is scored on other bits than it is fitted to, 800 of each kind."""
    for radius in (0.5, 1.0):
        found = bottleneck(hidden, radius, 50, 0.1, start)
        assert all(0 <= share <= 1 for share in found.recalled)
        # Lags of which nothing is left score 0 ± 1/800 and count from 0 up: 50 of them, less than 0.1.
        assert found.total <= hidden + 0.1


def test_one_number_that_fades_is_known_in_closed_form():
    """h_t = ρ h_{t-1} + s x_t, nearly linear at a small input: lag k explains (1 - ρ²) ρ^2k."""
    found = bottleneck(1, 0.8, 10, 0.01)
    for k, share in enumerate(found.recalled):
        # 800 bits to score on, so a share is off by a few times 1/√800 = 0.035 where it is middling.
        assert share == pytest.approx((1 - 0.64) * 0.64**k, abs=0.08)


def test_a_larger_input_drowns_what_is_old():
    small, large = bottleneck(16, 0.95, 40, 0.1), bottleneck(16, 0.95, 40, 3)
    assert large.total < 0.7 * small.total


def test_a_short_radius_forgets_sooner():
    assert bottleneck(16, 0.3, 40).end < bottleneck(16, 0.95, 40).end


@pytest.mark.parametrize(("width", "lags"), [(4, 10), (8, 40), (32, 50)])
def test_attention_keeps_everything_at_a_price(width, lags):
    found = bottleneck(4, 0.9, lags, width=width)
    # Two symbols, two keys and values apart: a line through them is exact but for the ridge of 1e-6.
    assert found.attended > 1 - 1e-5
    assert found.kept == 2 * lags * width


def test_the_price_is_the_size_of_what_the_model_hands_on():
    model = AttentionModel(2, width=8, heads=1, layers=1, context=41)
    _, carry = model(torch.zeros(40, 1, dtype=torch.int64))
    assert bool(carry.visible.all())  # all forty are there
    assert bottleneck(2, 0.9, 40).kept == carry.keys.numel() + carry.values.numel()


@pytest.mark.parametrize("lags", [10, 50])
@pytest.mark.parametrize("radius", [0.1, 1.2])
@pytest.mark.parametrize("size", [0.01, 3])
@pytest.mark.parametrize("hidden", [1, 32])
def test_the_ends_of_the_sliders_can_be_drawn(hidden, size, radius, lags):
    found = bottleneck(hidden, radius, lags, size, "Gaussian", 4)
    assert "nan" not in charts(draw_recall(found), draw_memory(found)) + " ".join(tell(found))


def test_global_random_numbers_do_not_matter():
    torch.manual_seed(3)
    one = bottleneck(4, lags=10)
    torch.manual_seed(4)
    two = bottleneck(4, lags=10)
    assert (one.recalled, one.attended) == (two.recalled, two.attended)
    assert bottleneck(4, lags=10, seed=1).recalled != one.recalled


@pytest.mark.timing
def test_a_slider_is_answered_in_time():
    """At the largest state and the most bits; the middle of five."""
    taken = []
    for seed in range(5):
        begin = time.perf_counter()
        found = bottleneck(32, 0.95, 50, 0.1, "orthogonal", 32, seed=seed)
        charts(draw_recall(found), draw_memory(found)), tell(found)
        taken.append(time.perf_counter() - begin)
    assert statistics.median(taken) < ANSWER


def test_the_notebook_runs_as_a_script():
    _, names = page.app.run()
    assert names["found"].recalled == bottleneck().recalled


@pytest.mark.browser
def test_every_control_changes_what_the_package_computes(open_page):
    lab = open_page("bottleneck").wait("recalled")
    now = {"hidden": 16, "radius": 0.95, "lags": 40, "size": 0.1, "start": "orthogonal", "width": 8}

    def agree():
        found = bottleneck(**now)
        # Another process with other threads: the same numbers up to the order of sums, times the
        # condition of the readout, up to 1e6 by its ridge.
        assert lab.value("recalled") == pytest.approx(found.recalled, abs=1e-6)
        assert lab.value("attended") == pytest.approx(found.attended, abs=1e-6)
        assert lab.value("kept") == found.kept
        return found

    agree()
    for control, key, changes, value in (
        ("hidden", "ArrowRight", "recalled", 24),
        ("radius", "ArrowLeft", "recalled", 0.9),
        ("size", "ArrowRight", "recalled", 0.3),
        ("lags", "ArrowLeft", "kept", 35),
        ("width", "ArrowRight", "kept", 16),
    ):
        lab.press(control, key, changes=changes)
        now[control] = value
        agree()
    lab.choose("start", "Gaussian", changes="recalled")
    now["start"] = "Gaussian"
    found = agree()
    assert tell(found)[2] in lab.page.locator(".words").inner_text().replace("\xa0", " ")


@pytest.mark.browser
def test_it_looks_right_everywhere(shoot):
    assert len(shoot("bottleneck", "recalled")) == 4
