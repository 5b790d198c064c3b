"""Page *Your run*: a run folder opened, its course and what can be measured of its model; and a text
dropped on the page, trained on while its folder is read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import IO, Any, cast

import torch

from bptt.data import Stream
from bptt.errors import ArgumentError, BpttError, RunError
from bptt.experiments.judged import diagnose_run, read_verdict, whole_text
from bptt.lab import live as layout
from bptt.lab.live import Tick
from bptt.models.language import generate, read_piece
from bptt.probes import Reading
from bptt.probes.diagnose import Diagnosis
from bptt.report import on_text, own_k
from bptt.report.advice import Run, health, next_step
from bptt.report.chart import number
from bptt.report.figures import chart_course, held_out, series
from bptt.report.pages import describe_model, module_charts
from bptt.report.words import percent, thousands
from bptt.training import checkpoint as checkpoints
from bptt.training.checkpoint import load_weights
from bptt.training.restore import load_model, open_own_text
from bptt.training.run_folder import RunFolder
from bptt.training.settings import Settings

Record = Mapping[str, Any]
SAMPLES, LENGTH = 8, 160  # checkpoints that write, and how many characters
SHOWN = ("lags", "gates0", "gates1")  # of the pictures of a module


@dataclass(frozen=True, eq=False)
class Course:
    """What stands in a run folder's small files.

    Attributes:
        path: the folder.
        settings: it was trained with.
        records: the lines of its metrics.
        stamp: size and time of the metrics file; another one means that there is more to read.
    """

    path: Path
    settings: Settings
    records: tuple[Record, ...]
    stamp: tuple[int, int]

    @property
    def k(self) -> int | None:
        """How far back its gradient reaches at most, steps; see :func:`bptt.report.own_k`."""
        return own_k(self.settings)

    @property
    def run(self) -> Run:
        """What a command has to know of it."""
        return Run(str(self.path), self.settings, whole_text(self.records, self.settings))

    def last(self, name: str) -> float | None:
        """The last value of a number; None if it was never written."""
        _, found = series(self.records, name)
        return float(found[-1]) if len(found) else None


def read_course(path: Path, before: Course | None = None) -> Course:
    """Read a run folder; one that has not changed since ``before`` is not read again.

    Raises:
        RunError: it is none, or broken, in one line.

    Cost: a look at the file, and reading it where it has grown.
    """
    run = RunFolder.open(path)
    stamp = _stamp(run.metrics)
    if before is not None and before.path == path and before.stamp == stamp:
        return before
    return Course(path, run.read_settings(), tuple(run.read_metrics()), stamp)


def _stamp(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError:
        return (0, 0)
    return (found.st_size, found.st_mtime_ns)


def draw_course(course: Course, name: str = "") -> str:
    """The course as HTML text: facts, curves, the heat map; ``name`` goes before its values' names."""
    held = held_out(course.records)[1].tolist()
    last = {n: course.last(n) for n in ("step", "bits", "horizon", "norm", "tokens", "seconds")}
    facts = {
        "step": _or_none(last["step"], thousands),
        "bits per token": _or_none(last["bits"], lambda v: f"{v:.3f}"),
        "held out": f"{held[-1]:.3f}" if held else "not yet",
        "horizon": _or_none(last["horizon"], lambda v: f"{v:.0f} steps"),
        "gradient norm": _or_none(last["norm"], number),
    }
    pictures = chart_course(course.records, course.k, course.settings.clip).values()
    shown = layout.facts(facts) + (layout.charts(*pictures) if pictures else "")
    return shown + layout.values(
        {
            f"{name}run": course.path.name,
            f"{name}lines": len(course.records),
            **{f"{name}last_{key}": value for key, value in last.items()},
            f"{name}horizons": series(course.records, "horizon")[1].tolist(),
            f"{name}held_out": held,
        }
    )


def tell(course: Course) -> tuple[str, ...]:
    """What it is, and what its numbers say of its settings."""
    said = [f"{describe_model(course.settings)}."]
    if not course.records:
        said.append("It has no line of metrics yet: leave the page open while it trains.")
    judged = read_verdict(course.records)
    if judged is not None:
        step = next_step(judged, course.run)
        said += [f"Verdict: {judged}", f"{step.text} Next: {step.command}"]
    said += [f"{a.rule.capitalize()}: {a.text}" for a in _advice(course)]
    return tuple(said)


def _advice(course: Course) -> tuple[Any, ...]:
    try:
        return health([dict(r) for r in course.records], course.settings)
    except (KeyError, TypeError, ValueError):
        return ()  # lines that another program wrote have no advice; the curves take what fits


def _or_none(value: float | None, form: Any) -> str:
    return "not yet" if value is None else form(value)


@dataclass(frozen=True, eq=False)
class Measurement:
    """What :func:`measure` knows so far: a diagnosis, or why there is none, and samples by step."""

    diagnosis: Diagnosis | None = None
    texts: tuple[tuple[int, str], ...] = field(default=())
    missing: str = ""
    reading: Reading | None = None


def measure(path: Path, seed: int = 0) -> Iterator[Tick[Measurement]]:
    """Diagnose the model with the best held-out score; let checkpoint after checkpoint write a sample.

    Args:
        path: a run folder with a checkpoint.
        seed: of the places of the held-out text that are measured, and of the samples.

    Raises:
        RunError, DataError, ArgumentError: the folder is broken, or its text is gone.

    Cost: some seconds; a tick after the diagnosis and after every sample.
    """
    run = RunFolder.open(path)
    with torch.random.fork_rng([]):  # a model is built from a seed of its own
        model, vocabulary, settings = load_model(path)
    if settings.model != "recurrent":
        raise ArgumentError(
            "a run of a recurrent model", f"one of --model {settings.model}", "open another run"
        )
    saved = checkpoints.steps(run.checkpoints)
    chosen = sorted({saved[round(i * (len(saved) - 1) / (SAMPLES - 1))] for i in range(SAMPLES)})
    total, found = len(chosen) + 1, Measurement()
    yield Tick(0, total, found)
    try:
        stream = _held_out_text(path, settings, vocabulary)
        found = Measurement(diagnose_run(model, settings, stream, run.read_metrics(), seed=seed))
        found = replace(found, reading=read_piece(model, vocabulary, stream, seed=seed))
    except BpttError as error:  # its text may be gone; what it writes is to be seen all the same
        found = Measurement(missing=str(error))
    yield Tick(1, total, found)
    for done, step in enumerate(chosen, 2):
        load_weights(model, checkpoints.load(run.checkpoints, step))
        text = "".join(generate(model, vocabulary, length=LENGTH, temperature=0.8, seed=seed))
        found = replace(found, texts=(*found.texts, (step, text)))
        yield Tick(done, total, found)


def _held_out_text(path: Path, settings: Settings, vocabulary: Any) -> Stream:
    remedy = "restore it under that name and measure again, or train a new run on this text"
    corpus = open_own_text(path, settings, vocabulary, remedy)
    return corpus.valid if corpus.valid is not None else corpus.train


def draw_measured(found: Measurement) -> str:
    """A diagnosis and samples as HTML text."""
    shown = layout.values(
        {"sampled": [step for step, _ in found.texts], "samples": repr(found.texts)}
    )
    if found.missing:
        shown += layout.words(f"Not measured: {found.missing}")
    if found.diagnosis is not None:
        main, verdict = found.diagnosis.main.watched, found.diagnosis.verdict
        spectrum, gates = main.spectrum, main.saturation
        shown += layout.facts(
            {
                "verdict": verdict.word,
                "horizon, 5 %": f"{main.horizon} steps",
                "factor per step": f"{main.decay:.3f}",
                "saturated": "unknown" if gates is None else percent(gates.share),
            }
        )
        norms = spectrum.norms.tolist()
        pictures = module_charts(found.diagnosis.main, found.diagnosis.k)
        shown_here = [pictures[name] for name in SHOWN if name in pictures]
        shown += layout.charts(*shown_here) + layout.words(
            f"{verdict.reason} {verdict.sure} {found.diagnosis.explain()}"
        )
        shown += layout.values(
            {
                "verdict_now": verdict.word,
                "horizon_now": main.horizon,
                "decay_now": float(main.decay) if main.decay == main.decay else None,
                "norms_now": norms,
                "measured_loss": found.diagnosis.loss,
            }
        )
    if found.texts:
        shown += "<h2>What it writes, checkpoint by checkpoint</h2>" + layout.samples(found.texts)
    return shown


def draw_reading(reading: Reading | None, at: int) -> str:
    """One prediction on its text, and what the telling units do, as HTML text.

    Args:
        at: the symbol that is predicted, from 1; one beyond the text is the last.
    """
    if reading is None:
        return ""
    place = max(0, min(at, len(reading.losses)) - 1)
    shown = layout.values(
        {
            "read_at": place,
            "read_symbols": "".join(reading.symbols),
            "read_row": [round(v, 9) for v in reading.row(place).tolist()],
        }
    )
    figures = [
        f'<figure class="chart"><div class="title">{escape(name.capitalize())}</div>{html}'
        f"<figcaption>{escape(said)}</figcaption></figure>"
        for name, html, said in on_text.pictures(reading, [place])
    ]
    return shown + "<h2>On the text</h2>" + layout.charts(*figures)


# Which run folders the lab may open: those below the directory it was started in, and the one given.
# A page never sends a path: it chooses a name among those listed here.

DEPTH = 4  # folders below the directory
MOST = 60  # runs listed, the newest
PATIENCE = 4000  # folders looked into
SKIPPED = {"node_modules", "site-packages", "checkpoints", "__pycache__"}


def list_runs(root: str | os.PathLike[str], given: str | None = None) -> dict[str, Path]:
    """Run folders by name, the given one first, then the newest.

    Args:
        root: look below this directory, at most 4 folders deep; links are not followed.
        given: another folder, allowed wherever it is.

    Returns:
        name → folder; the name is the path below ``root``, and "…/NAME" of one that is not below it.

    Cost: lists at most 4000 folders.

    Example:
        >>> import tempfile
        >>> list_runs(tempfile.mkdtemp())
        {}
    """
    top = Path(root).resolve()
    found = []
    for looked, (place, folders, files) in enumerate(os.walk(top)):
        here = Path(place)
        if is_run(here, files):
            found.append(here)
            folders.clear()  # no run within a run
        deep = len(here.relative_to(top).parts) >= DEPTH
        folders[:] = (
            []
            if deep or looked >= PATIENCE
            else [f for f in sorted(folders) if not f.startswith(".") and f not in SKIPPED]
        )
    found.sort(key=_changed, reverse=True)
    first = [] if given is None else [Path(given).resolve()]
    runs = first + [run for run in found[:MOST] if run not in first]
    return {_name(run, top): run for run in runs}


def _name(run: Path, top: Path) -> str:
    below = run.is_relative_to(top) and run != top
    # Short, for a phone; "…" is no folder's name below the directory.
    return str(run.relative_to(top)) if below else f"…/{run.name}"


def is_run(folder: Path, files: list[str] | None = None) -> bool:
    """Whether it looks like a run folder; the files themselves may still be broken."""
    names = set(os.listdir(folder)) if files is None else set(files)
    return {"config.toml", "metrics.jsonl"} <= names


def choose(runs: dict[str, Path], name: str | None) -> Path:
    """The folder of a listed name.

    Raises:
        RunError: it is not listed.
    """
    if name is None or name not in runs:
        raise RunError(
            "the name of a listed run",
            repr(name),
            "start bptt lab where your runs are, or with --run",
        )
    return runs[name]


def _changed(run: Path) -> float:
    try:
        return (run / "metrics.jsonl").stat().st_mtime
    except OSError:
        return 0.0


# A text dropped on a page: ``bptt train`` on it in a process of its own, its run folder read meanwhile.
#
# A process of its own, because training seeds torch's random numbers, which all pages share, and so that
# a page goes on answering while it trains.

UPDATES = 300
LARGEST = 4_000_000  # bytes; more would take longer to read than to learn from
SMALLEST = 2_000
# A model that learns something of a text in a quarter of a minute on one core.
SMALL = {
    "hidden": 64, "batch": 8, "k": 32, "log-every": 5, "horizon-every": 20, "eval-every": 50,
    "keep": 20, "threads": 1, "sample": 0,
}  # fmt: skip


def train_text(
    text: bytes, folder: Path, *, updates: int = UPDATES, cell: str = "gru"
) -> Iterator[Tick[Course | None]]:
    """Train a small model on a text.

    Args:
        text: UTF-8.
        folder: an empty one; the text and the run are put there.
        updates: to make.
        cell: rnn, gru, lstm, mingru or lru.

    Yields:
        Ticks, ten a second, with the run's course. Whoever stops listening ends the training.

    Raises:
        ArgumentError: the text is too short or too long.
        RunError: the training failed; with its own words.
    """
    if not SMALLEST <= len(text) <= LARGEST:
        raise ArgumentError(
            f"a text of {SMALLEST:,} to {LARGEST:,} bytes", f"{len(text):,}", "drop another one"
        )
    file, run = folder / "text.txt", folder / "run"
    file.write_bytes(text)
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    words = [str(file), "--out", str(run), "--cell", cell, "--steps", str(updates), *options]
    # This interpreter as it was started, and deaf to a Ctrl-C that is meant for the lab.
    python = [sys.executable, *(["-S"] if sys.flags.no_site else [])]
    child = subprocess.Popen(
        [*python, "-m", "bptt", "train", *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    course: Course | None = None
    try:
        while True:
            running = child.poll() is None
            before = course
            course = _course(run, course)
            step = 0 if course is None else int(course.last("step") or 0)
            yield Tick(min(step, updates), updates, course, fresh=course is not before)
            if not running:
                break
            time.sleep(0.1)
        if child.returncode:
            said = cast(IO[str], child.stderr).read().strip().splitlines() or ["no word"]
            raise RunError("a training that ends well", said[-1], "drop another text")
    finally:
        if child.poll() is None:
            child.kill()  # it is the page's own, and what it has written is whole
        child.wait()
        if child.stderr is not None:
            child.stderr.close()


def _course(run: Path, before: Course | None) -> Course | None:
    """None until the folder is there."""
    return read_course(run, before) if (run / "metrics.jsonl").is_file() else None
