"""A run folder opened: its course out of ``metrics.jsonl``, and what can be measured of its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import torch

from bptt.data import RandomChunks, Stream
from bptt.errors import ArgumentError, BpttError
from bptt.lab import live as layout
from bptt.lab.live import Tick
from bptt.models import token_loss
from bptt.models.language import generate, read_piece
from bptt.probes import Reading
from bptt.probes.diagnose import Diagnosis, diagnose
from bptt.report import on_text, own_k
from bptt.report.advice import health
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
# A batch of this size is measured in seconds; bptt diagnose takes a larger one.
STEPS, LANES = 128, 4
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
        found = Measurement(_diagnose(model, settings, stream, seed))
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


def _diagnose(model: torch.nn.Module, settings: Settings, stream: Stream, seed: int) -> Diagnosis:
    steps = min(STEPS, len(stream.tokens) - 1)
    chunk = RandomChunks(*stream, batch=LANES, chunk=steps, seed=seed).take()
    return diagnose(model, (chunk.inputs, chunk.targets), token_loss, k=own_k(settings))


def draw_measured(found: Measurement) -> str:
    """A diagnosis and samples as HTML text."""
    shown = layout.values(
        {"sampled": [step for step, _ in found.texts], "samples": repr(found.texts)}
    )
    if found.missing:
        shown += layout.words(f"Not measured: {found.missing}")
    if found.diagnosis is not None:
        main = found.diagnosis.main.watched
        spectrum, gates = main.spectrum, main.saturation
        shown += layout.facts(
            {
                "verdict": main.verdict,
                "horizon, 5 %": f"{main.horizon} steps",
                "factor per step": f"{main.decay:.3f}",
                "saturated": "unknown" if gates is None else percent(gates.share),
            }
        )
        norms = spectrum.norms.tolist()
        pictures = module_charts(found.diagnosis.main, found.diagnosis.k)
        shown_here = [pictures[name] for name in SHOWN if name in pictures]
        shown += layout.charts(*shown_here) + layout.words(main.explain())
        shown += layout.values(
            {
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
