"""Page *Remember the first*: the run is the package's own, number for number, and can be stopped."""

import os
import time
from pathlib import Path

import pytest

from bptt.experiments.compare.grid import Budget, Job
from bptt.experiments.compare.job import run_job
from bptt.lab.live import ANSWER
from bptt.lab.pages import remember_first as page
from bptt.lab.remember_first import (
    BATCH,
    CELLS,
    CLIP,
    GATES,
    HIDDEN,
    STARTS,
    Course,
    Setting,
    draw,
    draw_task,
    start_of,
    tell,
    train,
)
from bptt.lab.server import LEFT


def spent(pid, seconds):
    """Share of so many seconds that a process computed, from Linux's own count."""

    def now():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = now()
    time.sleep(seconds)
    return (now() - before) / seconds


def last(setting):
    *_, tick = train(setting)
    return tick.frame


def by_the_package(setting):
    budget = Budget(HIDDEN, BATCH, setting.updates, setting.rate, setting.every)
    return run_job(
        Job("remember-first", setting.steps, setting.cell, setting.start, CLIP, "none", "full", "none",
            setting.seed, budget)
    )  # fmt: skip


@pytest.mark.parametrize("cell", CELLS.values())
def test_it_is_the_run_that_compare_makes(cell):
    """The same scores after the same updates: the measurement in between changes nothing."""
    start = start_of(cell, "orthogonal", "chrono", 7)
    setting = Setting(7, cell, start, "Adam", 1e-2, 30)
    course, record = last(setting), by_the_package(setting)
    assert record["error"] is None
    scores = dict(zip(course.at, course.accuracy, strict=True))
    assert [[u, scores[u]] for u, _ in record["curve"]] == record["curve"]
    assert course.updates == record["updates"]
    assert course.solved == record["solved"]


def test_a_run_that_explodes_skips_what_the_package_skips():
    setting = Setting(60, "rnn-relu", "orthogonal+radius:8", "Adam", 1e-2, 25)
    course, record = last(setting), by_the_package(setting)
    assert course.skipped == record["skipped"] > 0
    assert "not finite" in tell(course)
    assert "nan" not in draw(course)


def test_it_learns_and_says_so():
    setting = Setting(5, "rnn", "orthogonal", "Adam", 1e-2, 200)
    course = last(setting)
    assert course.solved
    assert course.updates < 200
    assert "Solved" in tell(course)
    assert course.horizon[-1] <= 5
    assert len(course.norms[-1]) == 5


@pytest.mark.parametrize(
    ("accuracy", "horizon", "steps", "said"),
    [
        (1.0, (20, 6), 20, True),
        (0.9, (6,), 20, True),
        (1.0, (20,), 20, False),
        (0.2, (6,), 20, False),
    ],
)
def test_right_answers_beside_a_short_horizon_are_explained(accuracy, horizon, steps, said):
    many = len(horizon)
    course = Course(
        Setting(steps), 10 * many, 0, tuple(range(many)), (accuracy,) * many, (0.1,) * many, horizon,
        ((1.0,) * steps,) * many, accuracy >= 0.99,
    )  # fmt: skip
    shown = draw(course).replace("\xa0", " ")
    assert ("do not contradict each other" in shown) is said
    if said:
        assert f"a horizon of {horizon[-1]} of {steps} steps" in shown
        assert ("up to 20 on the way" in shown) is (len(horizon) > 1)
        # It stands under the two numbers, above the pictures.
        assert shown.index("contradict") < shown.index("<figure")


def test_a_small_start_vanishes_and_it_says_so():
    course = last(Setting(30, "rnn", "small", "Adam", 1e-4, 3))
    assert course.shares()[-1] < 1e-4
    assert "vanishes" in tell(course)


@pytest.mark.parametrize("cell", CELLS.values())
@pytest.mark.parametrize("gates", GATES)
def test_every_start_suits_every_cell(cell, gates):
    for matrix in STARTS:
        setting = Setting(5, cell, start_of(cell, matrix, gates, 5), updates=1)
        assert last(setting).updates == 1


@pytest.mark.timing
def test_drawing_answers_in_time():
    setting = Setting(100, "rnn", updates=3)
    *_, tick = train(setting)
    begin = time.perf_counter()
    draw(tick.frame), draw_task(setting)
    assert time.perf_counter() - begin < ANSWER
    assert "class=keep" in draw_task(setting)
    assert "updates" in draw(Course(setting))


def test_the_notebook_runs_as_a_script():
    _, names = page.app.run()
    assert names["setting"] == Setting()


@pytest.mark.browser
def test_it_trains_in_front_of_the_reader(open_page):
    lab = open_page("remember_first").wait("state")
    assert lab.value("state") == "ready"
    lab.press("steps", "ArrowLeft", changes="setting")
    lab.choose("cell", "GRU", changes="setting")
    lab.pick("matrix", "orthogonal", changes="setting")
    lab.pick("gates", "chrono", changes="setting")
    lab.press("rate", "ArrowRight", changes="setting")
    lab.press("updates", "ArrowLeft", 2, changes="setting")
    lab.settle("setting", [15, "gru", "orthogonal+chrono:15", "Adam", 0.01, 100])
    lab.click("train", "Train")
    lab.settle("state", "done", 40_000)
    course = last(Setting(*lab.value("setting")))
    # Another process with another number of threads: a sum in another order may tip a held-out
    # sequence or two of 512 in a hundred updates, and move a norm in its last digits.
    assert lab.value("updates") == course.updates
    assert lab.value("accuracy") == pytest.approx(course.accuracy[-1], abs=0.02)
    assert lab.value("norms") == pytest.approx(course.norms[-1], rel=0.05)
    assert abs(lab.value("horizon") - course.horizon[-1]) <= 1
    assert tell(course)[:12] in lab.page.locator(".words").inner_text()


@pytest.mark.timing  # it stops within a second
@pytest.mark.browser
def test_stop_a_changed_setting_and_two_readers(open_page):
    """Each of two readers stops his own run; a changed setting ends one; both pages go on answering."""
    one, other = open_page("remember_first"), open_page("remember_first")
    for lab in (one, other):
        lab.wait("state")
        lab.press("updates", "ArrowRight", 3, changes="setting")
        lab.press("steps", "ArrowRight", 5, changes="setting")
        lab.click("train", "Train")
    for lab in (one, other):
        lab.settle("state", "running")
    one.reach("done", 6)
    one.click("train", "Stop")
    one.settle("state", "stopped", 1000)
    assert other.value("state") == "running"
    stopped = one.value("done")
    other.press("rate", "ArrowRight", changes="setting")
    other.settle("state", "stopped", 2000)
    assert one.value("done") == stopped
    assert 5 < stopped < 3000


@pytest.mark.browser
def test_leaving_the_page_ends_the_work(open_page, process):
    """A few seconds after the page was left the server computes no more."""
    lab = open_page("remember_first").wait("state")
    lab.press("updates", "ArrowRight", 3, changes="setting")
    lab.press("steps", "ArrowRight", 5, changes="setting")
    lab.click("train", "Train")
    lab.reach("done", 2)
    pid = process[0].pid
    assert spent(pid, 1.0) > 0.2  # it works, whatever else the machine does
    lab.page.goto("about:blank")
    time.sleep(LEFT + 2)
    assert spent(pid, 1.0) < 0.1


@pytest.mark.browser
def test_it_looks_right_everywhere(shoot):
    def train_it(lab):
        lab.press("updates", "ArrowLeft", changes="setting")
        lab.click("train", "Train")
        lab.settle("state", "done", 40_000)

    assert len(shoot("remember_first", "state", before=train_it)) == 4
