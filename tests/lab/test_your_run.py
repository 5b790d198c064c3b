"""Page *Your run*: a real run, made here, beside what the package reads and measures of it."""

import json
import shutil
import signal
import sys
import time

import pytest

from bptt.cli import main
from bptt.errors import ArgumentError, RunError
from bptt.experiments.judged import diagnose_run
from bptt.lab import your_run as lab
from bptt.lab.pages import your_run as page
from bptt.lab.your_run import choose, list_runs
from bptt.report.chart_svg import CIVIDIS, draw_svg
from bptt.report.figures import chart_heat, heat, series
from bptt.training import checkpoint as checkpoints
from bptt.training.build import open_corpus
from bptt.training.restore import load_model
from bptt.training.run_folder import RunFolder
from lab_driver import LabPage, start

TEXT = "".join(f"the {n} of {n * n} is not the {n % 7}.\n" for n in range(300))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory with one real run in it, ``runs/play``."""
    folder = tmp_path_factory.mktemp("lab-run")
    (folder / "text.txt").write_text(TEXT)
    words = "--hidden 9 --batch 3 --k 12 --steps 40 --log-every 4 --horizon-every 8 --eval-every 10"
    out = folder / "runs/play"
    done = main(
        ["train", str(folder / "text.txt"), "--out", str(out), *words.split(), "--keep", "9",
         "--sample", "0", "--threads", "1", "--json"]
    )  # fmt: skip
    assert done == 0
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(made / "runs/play", tmp_path / "play")


def value(html, name):
    """A value out of a page's text."""
    from ast import literal_eval
    from html import unescape

    return literal_eval(unescape(html.split(f'data-value="{name}">')[1].split("</span>")[0]))


def test_the_course_is_the_metrics(made):
    path = made / "runs/play"
    course = lab.read_course(path)
    records = list(RunFolder.open(path).read_metrics())
    html = lab.draw_course(course)
    assert value(html, "lines") == len(records) > 10
    for name in ("step", "bits", "norm", "horizon", "seconds"):
        assert value(html, f"last_{name}") == series(records, name)[1][-1]
    horizons = [r["horizon"] for r in records if "horizon" in r]
    assert value(html, "horizons") == horizons
    assert len(horizons) > 3
    assert value(html, "held_out") == [r["valid"]["bits"] for r in records if "valid" in r]
    assert html.count("<svg") >= 4
    assert any("GRU" in said and "12 steps back" in said for said in lab.tell(course))


def test_it_is_read_again_only_when_it_has_changed(run):
    first = lab.read_course(run)
    assert lab.read_course(run, first) is first
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 44, "bits": 1.25, "horizon": 7}) + "\n")
        file.write('{"step": 48, "bi')  # being written
    second = lab.read_course(run, first)
    assert second.last("bits") == 1.25
    assert len(second.records) == len(first.records) + 1


def test_the_heat_maps_colours_are_those_of_the_bias(made):
    records = lab.read_course(made / "runs/play").records
    steps, grid, values = heat(records)
    text = draw_svg(chart_heat(records, 3))
    cells = text.split("<path fill=")[1:]
    drawn = {c.split('"')[1]: c.count("Z") for c in cells if c.split('"')[1] in CIVIDIS}
    last = len(CIVIDIS) - 1
    wanted = {CIVIDIS[min(max(round((v / 4 + 1) * last), 0), last)] for v in values.flat}
    assert set(drawn) == wanted
    # Neighbours of one colour in a column are one box: never more boxes than cells.
    assert len(steps) <= sum(drawn.values()) <= len(steps) * len(grid)


def test_one_measurement_alone_is_drawn():
    line = {"step": 10, "horizon": 1, "spectrum": {"truncations": [1], "bias": [0.0]}}
    assert "<svg" in draw_svg(chart_heat([line]))


def test_the_measurement_is_that_of_the_package_on_the_same_seed(made):
    path = made / "runs/play"
    *_, last = lab.measure(path, seed=3)
    found = last.frame
    model, vocabulary, settings = load_model(path)
    stream = open_corpus(settings, vocabulary).valid
    records = list(RunFolder.open(path).read_metrics())
    wanted = diagnose_run(model, settings, stream, records, seed=3)
    # The same calls on the same numbers, in the same order.
    assert found.diagnosis.loss == wanted.loss
    assert found.diagnosis.verdict == wanted.verdict
    assert found.diagnosis.main.watched.spectrum.norms.equal(wanted.main.watched.spectrum.norms)
    assert [step for step, _ in found.texts] == checkpoints.steps(path / "checkpoints")
    assert all(len(text) == lab.LENGTH for _, text in found.texts)
    assert "The prediction of" in lab.draw_reading(found.reading, 3)
    html = lab.draw_measured(found)
    assert value(html, "norms_now") == wanted.main.watched.spectrum.norms.tolist()
    assert value(html, "horizon_now") == wanted.main.watched.horizon
    assert "update" in html
    assert last.done == last.total


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no such file"), (TEXT[:-9] + "seventy.\n", "another text")]
)
def test_a_run_whose_text_is_gone_or_another_still_writes(made, run, content, said):
    text = made / "text.txt"
    text.unlink() if content is None else text.write_text(content)
    try:
        *_, last = lab.measure(run)
    finally:
        text.write_text(TEXT)
    assert last.frame.diagnosis is None
    assert "text.txt" in last.frame.missing
    assert said in last.frame.missing
    assert "Not measured" in lab.draw_measured(last.frame)
    assert last.frame.texts


@pytest.mark.parametrize(
    "broken", ["config.toml", "vocabulary.json", "metrics.jsonl", "checkpoints"]
)
def test_a_broken_folder_is_told_in_a_sentence(run, broken):
    if broken == "checkpoints":
        shutil.rmtree(run / broken)
        with pytest.raises(RunError, match="a checkpoint"):
            list(lab.measure(run))
        lab.draw_course(lab.read_course(run))
        return
    for text in ("\x00\xff[[", "[]", "", '{"step": "x"}\n{"spectrum": 3}\n[1]\n'):
        (run / broken).write_text(text)
        if broken == "metrics.jsonl":  # lines that fit are drawn, others are not
            course = lab.read_course(run)
            lab.draw_course(course)
            assert lab.tell(course)
            continue
        with pytest.raises(RunError, match="expected") as told:
            # Settings may all be left out; the vocabulary is read with the model.
            list(lab.measure(lab.read_course(run).path))
        assert "\n" not in str(told.value)


def test_only_runs_below_the_directory_are_listed(made, tmp_path):
    (made / "hidden").symlink_to(tmp_path, target_is_directory=True)
    shutil.copytree(made / "runs/play", tmp_path / "outside")
    assert list(list_runs(made)) == ["runs/play"]
    both = list_runs(made, str(tmp_path / "outside"))
    assert both == {"…/outside": tmp_path / "outside", "runs/play": made / "runs/play"}
    assert list(list_runs(made, str(made / "runs/play"))) == ["runs/play"]
    assert list(list_runs(made / "runs/play").values()) == [made / "runs/play"]
    for name in ("../outside", str(tmp_path / "outside"), "/etc", None):
        with pytest.raises(RunError, match="the name of a listed run"):
            choose(list_runs(made), name)
    (made / "hidden").unlink()


def test_a_text_is_trained_on(tmp_path):
    ticks = list(lab.train_text(TEXT.encode(), tmp_path, updates=20))
    assert ticks[-1].done == ticks[-1].total == 20
    course = ticks[-1].frame
    assert course.records == tuple(RunFolder.open(tmp_path / "run").read_metrics())
    assert course.settings.steps == 20


def test_who_stops_listening_ends_the_training(tmp_path):
    work = lab.train_text(TEXT.encode(), tmp_path, updates=10**6)
    while next(work).frame is None:
        pass
    work.close()
    lines = (tmp_path / "run/metrics.jsonl").read_text()
    time.sleep(0.5)
    assert (tmp_path / "run/metrics.jsonl").read_text() == lines


def test_a_text_that_cannot_be_trained_on_is_told(tmp_path):
    for text in (b"", b"a" * (lab.LARGEST + 1)):
        with pytest.raises(ArgumentError, match="a text of 2,000 to"):
            next(lab.train_text(text, tmp_path))
    with pytest.raises(RunError, match="a training that ends well"):
        list(lab.train_text(b"\xff\xfe" * 2000, tmp_path))


def test_the_notebook_runs_as_a_script(made, monkeypatch):
    monkeypatch.chdir(made)
    _, names = page.app.run()
    assert list(names["listed"]) == ["runs/play"]
    assert names["course"].last("step") == 40
    monkeypatch.chdir(made / "runs/play/checkpoints")
    _, names = page.app.run()
    assert not names["listed"]


@pytest.mark.browser
def test_a_run_in_the_browser(chromium, made, tmp_path):
    place = shutil.copytree(made, tmp_path / "place")
    copy = shutil.copytree(made / "runs/play", tmp_path / "given")
    child, address = start("--port", "0", "--run", str(copy), cwd=place, env=here())
    view = LabPage(chromium, address, "your_run")
    try:
        view.wait("lines").wait("text_bytes")
        records = list(RunFolder.open(copy).read_metrics())
        assert view.value("run") == "given"
        assert view.value("last_bits") == series(records, "bits")[1][-1]
        # Live: another line is on the page without anybody doing anything.
        with (copy / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 44, "bits": 1.25, "horizon": 9}) + "\n")
        view.settle("last_bits", 1.25)
        assert view.value("horizons")[-1] == 9
        view.click("measure", "Measure the model")
        view.settle("state", "done", timeout=60_000)
        *_, last = lab.measure(copy)
        assert view.value("norms_now") == last.frame.diagnosis.main.watched.spectrum.norms.tolist()
        assert view.value("samples") == repr(last.frame.texts)
        reading = last.frame.reading
        view.settle("read_at", reading.farthest())
        assert view.value("read_symbols") == "".join(reading.symbols)
        assert view.pick("run", "runs/play", changes="run") == "play"
        view.settle("last_step", 40.0)
        file = place / "drop.txt"
        file.write_text(TEXT)
        view.page.locator('[data-control="text"] input[type="file"]').set_input_files(file)
        view.settle("text_bytes", len(TEXT))
        view.click("train", "Train on it")
        view.settle("training_state", "done", timeout=90_000)
        assert view.value("training_last_step") == lab.UPDATES
        for scheme in ("light", "dark"):
            for size in ("desktop", "phone"):
                view.look(scheme, size)
                view.whole()
                assert view.overflow() <= 0
                view.page.screenshot(path=shots(tmp_path) / f"your_run-{scheme}-{size}.png")
        assert view.faults == []
    finally:
        view.close()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
    assert (child.returncode, out.strip(), err) == (0, "bptt lab: stopped", "")


def here():
    """The environment, with every folder of packages in full: the child runs elsewhere."""
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path if p)}


def shots(folder):
    import os
    from pathlib import Path

    place = Path(os.environ.get("BPTT_LAB_SHOTS", folder))
    place.mkdir(parents=True, exist_ok=True)
    return place
