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
from bptt.lab import layout
from bptt.lab.live import Tick
from bptt.models import token_loss
from bptt.models.generate import generate, read_piece
from bptt.probes import Reading
from bptt.probes.diagnose import Diagnosis, diagnose
from bptt.report import on_text, own_k
from bptt.report.advice import health
from bptt.report.chart import Line, Mark, chart, number
from bptt.report.figures import series, spectra
from bptt.report.panels import gate_bars, heat_map, samples
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
POINTS = 600  # of a curve, more are thinned out


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
    held = _held_out(course.records)
    last = {n: course.last(n) for n in ("step", "bits", "horizon", "norm", "tokens", "seconds")}
    facts = {
        "step": _or_none(last["step"], thousands),
        "bits per token": _or_none(last["bits"], lambda v: f"{v:.3f}"),
        "held out": f"{held[1][-1]:.3f}" if held[1] else "not yet",
        "horizon": _or_none(last["horizon"], lambda v: f"{v:.0f} steps"),
        "gradient norm": _or_none(last["norm"], number),
    }
    shown = layout.facts(facts) + _pictures(course, held)
    return shown + layout.values(
        {
            f"{name}run": course.path.name,
            f"{name}lines": len(course.records),
            **{f"{name}last_{key}": value for key, value in last.items()},
            f"{name}horizons": series(course.records, "horizon")[1].tolist(),
            f"{name}held_out": held[1],
        }
    )


def tell(course: Course) -> tuple[str, ...]:
    """What it is, and what its numbers say of its settings."""
    settings, k = course.settings, course.k
    if settings.model == "recurrent":
        how = settings.gradient if k is None else f"{settings.gradient}, at most {k} steps back"
        what = f"A language model, {settings.cell.upper()}; gradient: {how}."
    else:
        what = f"A {settings.model} model; it has no gradient through time."
    said = [what]
    if not course.records:
        said.append("It has no line of metrics yet: leave the page open while it trains.")
    said += [f"{a.rule.capitalize()}: {a.text}" for a in _advice(course)]
    return tuple(said)


def _advice(course: Course) -> tuple[Any, ...]:
    try:
        return health([dict(r) for r in course.records], course.settings)
    except (KeyError, TypeError, ValueError):
        return ()  # lines that another program wrote have no advice; the curves take what fits


def _pictures(course: Course, held: tuple[list[float], list[float]]) -> str:
    records, figures = course.records, []
    if spectra(records):
        figures.append(
            heat_map(
                "How far back it learns, over training",
                records,
                course.k,
                "Colour: the share of the gradient that truncating to K steps leaves out. White line: "
                "the horizon, above which less than 5 % is left"
                + ("; dotted: the K it trains with." if course.k else "."),
            )
        )
    for name, draw in (("bits", _loss), ("horizon", _horizon), ("norm", _norms)):
        if len(series(records, name)[0]):
            figures.append(draw(course, held))
    return layout.charts(*figures) if figures else ""


def _loss(course: Course, held: tuple[list[float], list[float]]) -> str:
    lines = [_line("training", course, "bits")]
    if held[0]:
        lines.append(Line("held out", *held, "orange", "dashed", dots=True))
    return chart(
        "Loss", lines, x="training step", y="bits per token",
        caption="Where the held-out curve rises while the other falls, it learns the text by heart.",
    )  # fmt: skip


def _horizon(course: Course, _: Any) -> str:
    parts: list[Any] = [replace(_line("", course, "horizon"), color="green")]
    reach = series(course.records, "horizon")[1]
    if course.k is not None:
        parts.append(Mark(f"K = {course.k}", y=course.k))
    return chart(
        "Horizon", parts, x="training step", y="steps back",
        ylim=(0, 1.15 * max(float(reach.max()), course.k or 1)),
        caption="The smallest K whose truncated gradient is within 5 % of the full one.",
    )  # fmt: skip


def _norms(course: Course, _: Any) -> str:
    parts: list[Any] = [replace(_line("before clipping", course, "norm"), color="purple")]
    clip = course.settings.clip
    if isinstance(clip, (int, float)):
        parts.append(Mark(f"clipped at {number(clip)}", y=float(clip), color="orange"))
    return chart(
        "Gradient norm", parts, x="training step", y="norm", log=True,
        caption="The mean of the updates between two lines of the metrics.",
    )  # fmt: skip


def _line(name: str, course: Course, key: str) -> Line:
    x, y = series(course.records, key)
    apart = -(-len(x) // POINTS) or 1
    # The last one is what is now.
    return Line(
        name, x[::-1][::apart][::-1].tolist(), y[::-1][::apart][::-1].tolist(), dots=len(x) < 3
    )


def _held_out(records: tuple[Record, ...]) -> tuple[list[float], list[float]]:
    scores = [
        {"step": r.get("step"), "bits": r["valid"].get("bits")}
        for r in records
        if isinstance(r.get("valid"), Mapping)
    ]
    steps, bits = series(scores, "bits")
    return steps.tolist(), bits.tolist()


def _or_none(value: float | None, form: Any) -> str:
    return "not yet" if value is None else form(value)


@dataclass(frozen=True, eq=False)
class Measured:
    """What :func:`measure` has found so far."""

    diagnosis: Diagnosis | None = None
    texts: tuple[tuple[int, str], ...] = field(default=())
    missing: str = ""
    reading: Reading | None = None


def measure(path: Path, seed: int = 0) -> Iterator[Tick[Measured]]:
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
    total, found = len(chosen) + 1, Measured()
    yield Tick(0, total, found)
    try:
        stream = _held_out_text(path, settings, vocabulary)
        found = Measured(_diagnose(model, settings, stream, seed))
        found = replace(found, reading=read_piece(model, vocabulary, stream, seed=seed))
    except BpttError as error:  # its text may be gone; what it writes is to be seen all the same
        found = Measured(missing=str(error))
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


def draw_measured(found: Measured) -> str:
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
        figures = [
            chart(
                "Gradient by lag",
                [
                    Line("", list(range(len(norms))), norms),
                    Mark(f"horizon {main.horizon}", x=main.horizon, color="green"),
                ],
                x="steps back", y="norm", log=True,
                xlim=(0, max(1, *(lag for lag, norm in enumerate(norms) if norm > 0))),
                caption="How much of the loss's gradient is left so many steps back.",
            )
        ] if max(norms) > 0 else []  # fmt: skip
        if gates is not None:
            figures += [
                gate_bars(
                    "Gates" + (f", layer {layer}" if len(gates.layers) > 1 else ""),
                    gates,
                    layer,
                    "Where the activations stand in their range. Orange: at its ends, where a gate "
                    "passes little gradient.",
                )
                for layer in range(min(2, len(gates.layers)))
            ]
        shown += layout.charts(*figures) + layout.words(main.explain())
        shown += layout.values(
            {
                "horizon_now": main.horizon,
                "decay_now": float(main.decay) if main.decay == main.decay else None,
                "norms_now": norms,
                "measured_loss": found.diagnosis.loss,
            }
        )
    if found.texts:
        shown += "<h2>What it writes, checkpoint by checkpoint</h2>" + samples(found.texts)
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
