"""Page *Contraction*: its function against the package, and the page in a browser."""

import math
import statistics
import time

import numpy as np
import pytest
import torch

from bptt.lab.contraction import contraction, draw_factor, draw_products, tell
from bptt.lab.live import ANSWER, charts
from bptt.lab.pages import contraction as page
from bptt.probes.jacobians import MEMORY_LEFT


@pytest.mark.parametrize("activation", ["linear", "tanh", "ReLU"])
@pytest.mark.parametrize("start", ["orthogonal", "Gaussian"])
@pytest.mark.parametrize("stretch", [1, 100])
def test_the_radius_stays_and_no_product_exceeds_the_bound(activation, start, stretch):
    found = contraction(0.7, stretch, 13, activation, start)
    # Eigenvalues of a matrix of condition κ = 100 move by up to 100 times its rounding; 16 units.
    assert found.radius == pytest.approx(0.7, rel=1e-11)
    assert found.products.norms.shape == (8, 13)
    # Rounding of 13 products.
    assert bool((found.products.norms <= found.products.bound * (1 + 1e-12)).all())
    assert found.norm >= found.radius * (1 - 1e-12)
    assert found.bound[-1] == pytest.approx(found.norm**13, rel=1e-12)


def test_a_linear_recurrence_multiplies_its_matrix():
    """Every J_t is W itself, to the last digit, whatever the trajectory does."""
    found = contraction(1.5, 100, 50, "linear", "Gaussian")
    first = found.products.norms[:, 0]
    assert bool((first == first[0]).all())
    assert float(first[0]) == pytest.approx(found.norm, rel=1e-14)
    assert bool((found.products.spectral_radius == found.products.spectral_radius[0]).all())


def test_orthogonal_and_linear_is_the_radius_to_the_power():
    found = contraction(0.9, 1, 30, "linear")
    # 30 products of 16 x 16 matrices, each rounded to 1e-16.
    np.testing.assert_allclose(found.typical, found.by_radius, rtol=1e-13)
    np.testing.assert_allclose(found.bound, found.by_radius, rtol=1e-13)
    assert "They agree" in tell(found)[0]


@pytest.mark.parametrize("stretch", [2, 10, 100])
def test_a_stretched_orthogonal_matrix_is_bounded_by_its_condition(stretch):
    found = contraction(0.8, stretch, 40, "linear")
    limit = stretch * np.array(found.by_radius) * (1 + 1e-12)
    assert bool((np.array(found.typical) <= limit).all())
    assert max(found.typical) > 1  # it grows first, though the radius says 0.8


@pytest.mark.parametrize(("radius", "ends"), [(0.5, True), (1.2, False)])
def test_memory_ends_where_the_ledger_says(radius, ends):
    found = contraction(radius, 1, 30, "linear")
    if not ends:
        assert found.end is None
        assert "Nothing is forgotten" in tell(found)[-1]
        return
    # 0.5^13 = 1.22e-4 and 0.5^14 = 6.1e-5.
    assert found.end == 14
    assert found.typical[found.end - 1] < MEMORY_LEFT <= found.typical[found.end - 2]


def test_the_activation_takes_its_share():
    """tanh's slope is at most 1, so its products cannot beat those of the same matrix alone."""
    linear, tanh = contraction(0.95, 1, 30, "linear"), contraction(0.95, 1, 30, "tanh")
    assert linear.norm == tanh.norm  # the same matrix, to the bit
    assert tanh.typical[-1] < 0.9 * linear.typical[-1]


@pytest.mark.parametrize("steps", [5, 50])
@pytest.mark.parametrize("radius", [0.1, 1.5])
@pytest.mark.parametrize("activation", ["linear", "tanh", "ReLU"])
def test_the_ends_of_the_sliders_can_be_drawn(radius, steps, activation):
    for stretch in (1, 100):
        found = contraction(radius, stretch, steps, activation, "Gaussian")
        assert "nan" not in charts(draw_products(found), draw_factor(found)) + " ".join(tell(found))


def test_global_random_numbers_do_not_matter():
    """Readers' pages run as threads of one process: each has its own generator."""
    torch.manual_seed(3)
    one = contraction(0.9, 10, 5).typical
    torch.manual_seed(4)
    assert contraction(0.9, 10, 5).typical == one
    assert contraction(0.9, 10, 5, seed=1).typical != one


@pytest.mark.timing
def test_a_slider_is_answered_in_time():
    """What runs between a key and the new numbers, at the most steps; the middle of five.

    Processor time of all threads: what others do on the machine is left out. A second thread of torch,
    which waits for its core, would be seen.
    """
    taken = []
    for seed in range(5):
        begin = time.process_time()
        found = contraction(0.9, 10, 50, "tanh", "Gaussian", seed=seed)
        charts(draw_products(found), draw_factor(found)), tell(found)
        taken.append(time.process_time() - begin)
    assert statistics.median(taken) < ANSWER


@pytest.mark.browser
@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_no_bubble_covers_a_sliders_label(open_page, size):
    lab = open_page("contraction", size=size).wait("norm")
    for control in ("radius", "stretch", "steps"):
        assert not lab.covered(control)
        number = lab.page.locator(f'[data-control="{control}"] [role="slider"]').first
        # The number itself stands beside the slider.
        assert number.get_attribute("aria-valuenow") is not None


def test_the_notebook_runs_as_a_script():
    _, names = page.app.run()
    assert names["found"].steps == names["steps"].value == 30
    assert names["found"].typical == contraction(0.9, 1, 30, "tanh", "orthogonal").typical


@pytest.mark.browser
def test_every_control_changes_what_the_package_computes(open_page):
    lab = open_page("contraction").wait("norm")
    now = {"radius": 0.9, "stretch": 1, "steps": 30, "activation": "tanh", "start": "orthogonal"}

    def agree():
        found = contraction(**now)
        # The server is another process on the same machine with one thread more or less: the same
        # numbers up to the order of sums.
        assert lab.value("typical") == pytest.approx(found.typical, rel=1e-9)
        assert lab.value("norm") == pytest.approx(found.norm, rel=1e-9)
        assert lab.value("radius") == pytest.approx(found.radius, rel=1e-9)
        assert lab.value("end") == found.end
        return found

    agree()
    lab.press("radius", "ArrowRight", changes="radius")
    now["radius"] = 0.95
    agree()
    lab.press("radius", "ArrowLeft", changes="radius")
    now["radius"] = 0.9
    agree()
    lab.press("stretch", "ArrowRight", changes="norm")
    now["stretch"] = 1.5
    assert agree().norm > 0.9
    lab.press("steps", "ArrowLeft", changes="typical")
    now["steps"] = 29
    assert len(lab.value("bound")) == 29
    agree()
    for activation in ("linear", "ReLU", "tanh"):
        lab.choose("activation", activation, changes="typical")
        now["activation"] = activation
        agree()
    lab.choose("start", "Gaussian", changes="norm")
    now["start"] = "Gaussian"
    found = agree()
    assert tell(found)[1] in lab.page.locator(".words").inner_text().replace("\xa0", " ")
    assert math.isfinite(found.typical[-1])


@pytest.mark.browser
def test_it_looks_right_everywhere(shoot):
    assert len(shoot("contraction", "norm")) == 4
