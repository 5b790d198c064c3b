"""One run, one verdict: whoever is asked says the same word and numbers, and a command that runs."""

from __future__ import annotations

import json
import math
import random
import re
import shlex
import subprocess
import time
from contextlib import redirect_stdout
from html import unescape
from io import StringIO
from itertools import product
from pathlib import Path

import pytest

from bptt.cli import main
from bptt.experiments.judged import read_verdict
from bptt.integrations import Watcher
from bptt.lab import your_run
from bptt.probes import VERDICTS, Verdict
from bptt.report.advice import Run, next_step
from bptt.training import Settings
from bptt.training.loop import train
from bptt.training.run_folder import RunFolder
from bptt.training.sizes import own_k
from processes import interpreter

SHELLS = "she sells sea shells by the sea shore.\n" * 60


def far() -> str:
    """Lines whose second half repeats the first, twenty letters earlier."""
    draw = random.Random(0)
    halves = ("".join(draw.choice("abcdefgh") for _ in range(20)) for _ in range(120))
    return "".join(f"{half}|{half}\n" for half in halves)


SMALL = {"batch": 4, "horizon_every": 10, "threads": 1}
# A plain RNN that would have to look back 21 steps; a GRU on text; updates a thousand times too large.
RUNS = {
    "vanishing": (far(), {"cell": "rnn", "hidden": 16, "k": 32, "steps": 150, **SMALL}),
    "healthy": (SHELLS, {"cell": "gru", "hidden": 12, "k": 16, "lr": 0.01, "steps": 150, **SMALL}),
    "diverged": (
        SHELLS, {"cell": "rnn", "hidden": 12, "k": 16, "lr": 30.0, "clip": "none", "steps": 60, **SMALL},
    ),
}  # fmt: skip


def words(settings: dict[str, object]) -> list[str]:
    return [w for n, v in settings.items() for w in (f"--{n.replace('_', '-')}", str(v))]


@pytest.fixture(scope="module", params=RUNS)
def told(request, tmp_path_factory):
    """A run, and what the command line said of it."""
    folder = tmp_path_factory.mktemp("run")
    text, settings = RUNS[request.param]
    (folder / "text.txt").write_text(text, encoding="utf-8")
    file, out = str(folder / "text.txt"), str(folder / "run")
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        said = StringIO()
        with redirect_stdout(said):
            assert main(["train", file, "--out", out, "--sample", "0", *words(settings)]) == 0
    return request.param, Path(out), said.getvalue(), file, settings


def callback_says(file: str, folder: Path, settings: dict[str, object]) -> str:
    """The word of a callback on the same training, made once more."""
    said: list[str] = []
    watcher = None

    def after(session) -> None:
        nonlocal watcher
        if watcher is None:
            watcher = Watcher(
                session.model, every=10, guess=math.log(session.corpus.vocabulary.size)
            )
        loss = session.progress.tally.nats / session.progress.tally.steps
        said.extend(numbers["verdict"] for numbers in watcher.news(loss))

    given = {**settings, "clip": None if settings.get("clip") == "none" else 1.0}
    train(Settings(files=(file,), out=str(folder / "again"), **given), on_step=after)
    assert watcher is not None
    watcher.stop()
    return said[-1]


def test_everybody_says_the_same(told, tmp_path, capsys) -> None:
    word, run, printed, file, settings = told
    verdict = read_verdict(RunFolder.open(run).read_metrics())
    assert verdict is not None
    assert verdict.word == word
    # The line at the end of the training.
    line = f"verdict: {verdict}"
    assert line in printed.splitlines()
    command = re.search(r"^next: (.+)$", printed, re.M)[1]
    # The run's report.
    page = unescape((run / "report.html").read_text("utf-8"))
    page = re.sub(r"<[^>]+>", "", page.replace("\N{NO-BREAK SPACE}", " "))
    assert f"{verdict.reason} {verdict.sure}" in page
    assert command in page
    # A diagnosis, and its page.
    html = tmp_path / "page.html"
    assert main(["diagnose", str(run), "--json", "--html", str(html)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == verdict.as_dict()
    assert found["next"]["command"] == command
    assert [m["verdict"] for m in found["modules"]] == [word]
    assert found["modules"][0]["horizon"] == verdict.horizon
    assert f"{word}." in found["modules"][0]["explain"]
    other = set(VERDICTS) - {word}
    page = unescape(html.read_text("utf-8")).replace("\N{NO-BREAK SPACE}", " ")
    assert f"{verdict.reason} {verdict.sure}" in page
    for wrong in other:
        assert f">{wrong}<" not in page
        assert f"gradient is {wrong}" not in page
        assert f"gradient is {wrong}" not in found["modules"][0]["explain"]
    # In the terminal.
    assert main(["diagnose", str(run)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"verdict: {word} {verdict.reason} {verdict.sure}" in shown
    assert f"next: {command}" in shown
    # The lab: what it reads, and what it measures.
    course = your_run.read_course(run)
    assert f"Verdict: {verdict}" in your_run.tell(course)
    *_, last = your_run.measure(run)
    assert last.frame.diagnosis.verdict == verdict
    assert f"{verdict.reason} {verdict.sure}" in unescape(your_run.draw_measured(last.frame))
    # A callback in somebody's own training: its batches are those of the updates, of two lanes each.
    assert callback_says(file, tmp_path, settings) == word


def test_a_run_that_a_number_stopped(tmp_path, capsys) -> None:
    """The error ends the command; whoever asks afterwards hears the same."""
    text = tmp_path / "text.txt"
    text.write_text(SHELLS, encoding="utf-8")
    out = str(tmp_path / "run")
    small = ["--cell", "rnn-relu", "--hidden", "8", "--clip", "none", "--lr", "1e9", "--k", "16"]
    assert main(["train", str(text), "--out", out, *small, "--batch", "4", "--steps", "90"]) == 2
    assert "expected a finite loss" in capsys.readouterr().err
    verdict = read_verdict(RunFolder.open(out).read_metrics())
    assert verdict is not None
    assert verdict.word == "diverged"
    assert any(
        said.startswith("Verdict: diverged")
        for said in your_run.tell(your_run.read_course(Path(out)))
    )
    if (
        main(["diagnose", out, "--json"]) == 0
    ):  # else the weights themselves are not finite, which it says
        assert json.loads(capsys.readouterr().out)["verdict"]["word"] == "diverged"
    else:
        assert "diverged" in capsys.readouterr().err


# Advice for every verdict, with a command that runs for that run.

KINDS = {
    "gru": {},
    "rnn, no clip": {"cell": "rnn", "clip": None},
    "rnn-relu": {"cell": "rnn-relu"},
    "lstm, orthogonal": {"cell": "lstm", "init": "orthogonal"},
    "lru": {"cell": "lru"},
    "mingru": {"cell": "mingru", "forget_bias": None},
    "windowed": {"gradient": "windowed"},
    "full": {"gradient": "full", "chunk": 16},
    "checkpointed": {"gradient": "checkpointed", "chunk": 16},
    "randomized": {"gradient": "randomized"},
    "adaptive": {"gradient": "adaptive"},
    "sgd": {"optimizer": "sgd", "lr": 0.5},
}


def verdict_of(word: str, k: int | None, *, near: int = 20, switch: str = "") -> Verdict:
    left = None if k is None else 0.4
    return Verdict(word, "So it is.", 40, near, 30, 50, 64, k, left, 4, 4, bool(switch), switch)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """A run of two updates of each kind, made when it is asked for."""
    made: dict[str, tuple[str, Settings]] = {}

    def make(kind: str) -> tuple[str, Settings]:
        if kind not in made:
            folder = tmp_path_factory.mktemp("kind")
            (folder / "text.txt").write_text(SHELLS, encoding="utf-8")
            settings = Settings(
                files=(str(folder / "text.txt"),), out=str(folder / "run"),
                **{"hidden": 8, "batch": 4, "k": 8, "steps": 2, "log_every": 1, **KINDS[kind]},
            )  # fmt: skip
            train(settings)
            made[kind] = str(folder / "run"), RunFolder.open(folder / "run").read_settings()
        return made[kind]

    return make


QUICK = ("gru", "rnn, no clip", "windowed")


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        pytest.param(w, k, marks=() if k in QUICK else pytest.mark.slow)
        for w, k in product(VERDICTS, KINDS)
    ],
)
def test_every_verdict_has_a_command_that_runs(word, kind, run_of, tmp_path, capsys) -> None:
    path, settings = run_of(kind)
    tokens = len(SHELLS)
    for near in (20, 1):  # with a k that is much too long, too
        k = own_k(settings)
        judged = verdict_of(word, k if k is None or near > 1 else 64, near=near)
        step = next_step(judged, Run(path, settings, tokens))
        assert step.text
        given = shlex.split(step.command)
        assert given[0] == "bptt"
        if given[1] == "diagnose":
            given[given.index("--try-for") + 1 :] = ["0.001"]
            given += ["--steps", "8", "--lanes", "2"]
        else:
            assert given[1] == "train"
            if "--resume" in given:  # the run itself stays as it is
                assert word == "healthy"
                assert main([*given[1:-1], "2", "--sample", "0"]) == 0
                continue
            given += ["--steps", "1", "--sample", "0", "--out", str(tmp_path / f"out{near}")]
        assert main(given[1:]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("word", VERDICTS)
def test_every_verdict_has_a_command_in_python(word) -> None:
    for k, switch in ((None, ""), (8, ""), (8, "start_recurrent(model, 'orthogonal')")):
        step = next_step(verdict_of(word, k, switch=switch if word == "vanishing" else ""))
        assert step.text
        compile(step.command, "next", "exec")


def test_no_room_for_a_longer_k() -> None:
    """A text of 40 tokens cannot be cut into longer chunks: what is named is what can be done."""
    settings = Settings(batch=1, k=30, chunk=30, valid_fraction=0.0, hidden=8)
    step = next_step(verdict_of("cut short", 30), Run("run", settings, 40))
    assert step.command == "bptt diagnose run --try-for 5"
    step = next_step(verdict_of("cut short", 30), Run("run", settings, 4000))
    assert step.command == "bptt train --config run/config.toml --k 40 --chunk 40"


def test_what_was_written_is_read_again() -> None:
    one = verdict_of("healthy", 8)
    assert Verdict.read(json.loads(json.dumps(one.as_dict()))) == one
    for name, bad in (
        ("word", "well"), ("reason", 3), ("horizon", -1), ("k", 0), ("left_out", math.nan),
        ("settled", 1), ("batches", 2.5), ("agree", True), ("switch", None),
    ):  # fmt: skip
        assert Verdict.read({**one.as_dict(), name: bad}) is None
    assert Verdict.read(["healthy"]) is None
    assert read_verdict([{"judged": one.as_dict()}, {"loss": 1.0}]) is None  # it went on since
    assert read_verdict([{"loss": 1.0}, {"judged": one.as_dict()}]) == one


def test_the_page_lists_every_verdict_with_its_rule_and_its_advice() -> None:
    page = (Path(__file__).parents[1] / "docs" / "verdicts.md").read_text("utf-8")
    parts = re.split(r"^## ", page, flags=re.M)
    found = {part.splitlines()[0].lower(): " ".join(part.split()) for part in parts[1:]}
    order = [name for name in found if name in VERDICTS]
    assert order == list(VERDICTS)
    for word, kind in VERDICTS.items():
        assert f"**Rule.** {kind.rule}" in found[word]
        assert f"**Advice.** {kind.advice}" in found[word]
        assert f"{{drawn}} verdicts:{word.replace(' ', '_')}" in found[word]


@pytest.mark.timing
def test_diagnose_of_the_default_run_answers_in_15_seconds(tmp_path, capsys) -> None:
    """The default model, text and k; how long it trained changes nothing of the time."""

    out = str(tmp_path / "run")
    assert main(["train", "--steps", "200", "--sample", "0", "--out", out]) == 0
    clock = time.perf_counter()
    done = subprocess.run(
        [*interpreter(), "-m", "bptt", "diagnose", out], capture_output=True, text=True, check=True
    )
    took = time.perf_counter() - clock
    with capsys.disabled():
        print(f"\nbptt diagnose on the default run: {took:.1f} s")
    assert "verdict: " in done.stdout
    assert took < 15
