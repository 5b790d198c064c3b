"""Page *Clipping*: each way is the package's clip on the same run; sliders begin it anew."""

import math
import statistics
import time

import pytest
import torch

from bptt.experiments.compare.job import build_model
from bptt.lab.clipping import BATCH, CELL, HIDDEN, STEPS, WAYS, Setting, compare, draw, tell
from bptt.lab.live import ANSWER
from bptt.lab.pages import clipping as page
from bptt.remedies import build_clip
from bptt.tasks import RememberFirst


def last(setting):
    *_, tick = compare(setting)
    return tick.frame


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_each_way_is_a_plain_loop_with_the_packages_clip(way):
    """Written out: torch's seed, loss.backward, the clip, SGD."""
    setting = Setting(0.5, 0.1, 1.2, updates=12)
    track = last(setting).tracks[way]
    task = RememberFirst(STEPS)
    torch.manual_seed(0)
    model = build_model(task, CELL, HIDDEN, "orthogonal+radius:1.2")
    clip = build_clip(WAYS[way].at(0.5))
    generator = torch.Generator().manual_seed(0)
    losses, before, after = [], [], []
    for _ in range(12):
        x, y, _, _ = task.batch(generator, BATCH)
        model.zero_grad()
        loss = task.loss(model(x)[0], y)
        loss.backward()
        before.append(float(clip(model.parameters()).norm))
        after.append(float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])))
        losses.append(loss.item())
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    # The same operations; SGD's own may be fused, float32 over twelve steep updates.
    assert track.losses == pytest.approx(losses, rel=1e-3)
    assert track.before == pytest.approx(before, rel=1e-3)
    assert track.after == pytest.approx(after, rel=1e-3)


def test_it_explodes_unclipped_and_is_held_by_the_norm():
    found = last(Setting())
    bare, norm = found.tracks[:2]
    assert bare.lost
    assert max(v for v in bare.before if math.isfinite(v)) > 1e6
    # In float32 a norm over five tensors, scaled to 1, comes out within a few of its 1e-7.
    assert max(norm.after) <= 1 + 1e-5
    assert norm.last < math.log(8)
    assert "explodes" in tell(found)[0]
    assert "norm" in tell(found)[1]
    assert "nan" not in draw(found)


def test_rescale_has_one_length_and_value_no_longer_element():
    found = last(Setting(0.3, 0.1, 1.4, updates=10))
    by_name = {t.way.name: t for t in found.tracks}
    assert by_name["rescale"].after == pytest.approx([0.3] * 10, rel=1e-5)
    assert by_name["norm"].after == pytest.approx(
        [min(0.3, v) for v in by_name["norm"].before], rel=1e-5
    )
    value = by_name["value"]
    assert all(a <= b * (1 + 1e-6) for a, b in zip(value.after, value.before, strict=True))


def test_a_run_in_bounds_is_left_alone():
    found = last(Setting(30.0, 0.01, 0.6, updates=10))
    bare, norm = found.tracks[:2]
    assert norm.acted == 0
    assert norm.losses == bare.losses
    assert "the run holds" in tell(found)[0]


@pytest.mark.parametrize("setting", [Setting(0.01, 1.0, 2.4, 25), Setting(30.0, 0.001, 0.6, 2)])
def test_the_ends_of_the_sliders_can_be_drawn(setting):
    for tick in compare(setting):
        assert "nan" not in draw(tick.frame)


@pytest.mark.timing
def test_a_slider_is_answered_in_time():
    """From a slider's move to the first picture, and to the whole run; the middle of five.

    Processor time of all threads, torch's own loading aside: what others do on the machine is left out.
    """
    next(compare(Setting()))
    first, whole = [], []
    for seed in range(5):
        begin = time.process_time()
        run = compare(Setting(seed=seed))
        draw(next(run).frame)
        first.append(time.process_time() - begin)
        *_, tick = run
        draw(tick.frame)
        whole.append(time.process_time() - begin)
    assert statistics.median(first) < ANSWER
    assert statistics.median(whole) < 1.0


def test_the_notebook_runs_as_a_script():
    _, names = page.app.run()
    assert names["setting"] == Setting()
    assert names["work"].state == "done"


@pytest.mark.browser
def test_every_slider_begins_the_run_it_names_and_it_begins_again(open_page):
    lab = open_page("clipping").wait("setting")
    for control, key, threshold, rate, radius in (
        ("radius", "ArrowLeft", 1, 0.03, 1.6),
        ("rate", "ArrowRight", 1, 0.1, 1.6),
        ("threshold", "ArrowLeft", 0.3, 0.1, 1.6),
    ):
        lab.press(control, key, changes="setting")
        lab.settle("state", "done")
        assert lab.value("done") == 120
        assert lab.value("setting") == pytest.approx([threshold, rate, radius])
        found = last(Setting(threshold, rate, radius, updates=5))
        # Two processes may sum in another order; the first updates have not yet blown that up.
        for shown, track in zip(lab.value("before"), found.tracks, strict=True):
            assert shown[:5] == pytest.approx(track.before, rel=1e-2)
        rescaled = lab.value("after")[3]
        assert rescaled == pytest.approx([threshold] * len(rescaled), rel=1e-4)
    before = lab.value("before")
    lab.begin_again()
    lab.settle("state", "done")
    assert lab.value("before") == before


@pytest.mark.browser
def test_it_looks_right_everywhere(shoot):
    assert (
        len(shoot("clipping", "last", before=lambda lab: lab.settle("state", "done", 40_000))) == 4
    )
