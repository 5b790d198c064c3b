"""The pages of a run folder and of a comparison."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from bptt.experiments.compare.grid import HEADS, Row, cells_of, varying
from bptt.files.write import write_file
from bptt.probes.diagnose import Diagnosis
from bptt.report.chart import CYCLE, Bars, Chart, Dash, Line, Mark, Part
from bptt.report.figures import Record, chart_course, series
from bptt.report.sections import (
    FOOTER,
    Fact,
    Section,
    diagnosis_sections,
    footer,
    page,
    picture,
    subtitle,
)
from bptt.report.words import thousands
from bptt.training.run_folder import RunFolder
from bptt.training.settings import Settings

DASHES: tuple[Dash, ...] = ("", "dashed", "dotted")
COMPARED = "Every row is a point of the grid, trained from each of its seeds by bptt compare."

# The report of a run folder: its course out of ``metrics.jsonl``, and a diagnosis where there is one.


def write_run_report(
    run: str | os.PathLike[str],
    found: Diagnosis | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a run's report as one HTML file.

    Args:
        run: a run folder. Its numbers are drawn as they stand in ``metrics.jsonl``; nothing is
            measured anew.
        found: a diagnosis of its model, shown above its course.
        path: of the file; default ``report.html`` in the folder.

    Returns:
        The path.

    Raises:
        RunError: not a run folder, or the file cannot be written.

    Cost: under a second without a diagnosis.
    """
    folder = RunFolder.open(run)
    settings = folder.read_settings()
    records = list(folder.read_metrics())
    sections = [] if found is None else diagnosis_sections(found)
    sections.append(course_section(records, settings))
    model = describe_model(settings)
    under = f"{model}." if found is None else f"{model}. {subtitle(found)}"
    below = FOOTER if found is None else footer(found)
    text = page(folder.path.resolve().name, under, sections, below)
    return folder.write_report(text) if path is None else write_file(path, text)


def own_k(settings: Settings) -> int | None:
    """How many steps back a run's gradient reaches at most; None if that is drawn or not bounded."""
    if settings.model != "recurrent":
        return None
    if settings.gradient == "truncated":
        return settings.k1
    if settings.gradient == "windowed":
        return min(settings.k2, settings.steps_per_update)
    return settings.steps_per_update if settings.gradient in ("full", "checkpointed") else None


def describe_model(settings: Settings) -> str:
    """The model of a run and how its gradient is taken, in a few words."""
    if settings.model != "recurrent":
        return f"A {settings.model} model; it has no gradient through time"
    k = own_k(settings)
    how = settings.gradient if k is None else f"{settings.gradient}, at most {k} steps back"
    return f"A language model, {settings.cell.upper()}; gradient: {how}"


def course_section(records: Sequence[Record], settings: Settings) -> Section:
    """How the run went."""
    charts = chart_course(records, own_k(settings))
    shown = [name for name in ("loss", "horizon", "heat") if name in charts]
    pictures = tuple(picture(f"run-{name}", charts[name]) for name in shown)
    notes = () if pictures else ("The run has no line of metrics to draw.",)
    return Section("The run", facts=_facts(records), pictures=pictures, notes=notes)


def _facts(records: Sequence[Record]) -> tuple[Fact, ...]:
    facts = []
    for name, key, form in (
        ("steps", "step", thousands),
        ("seconds", "seconds", thousands),
        ("tokens", "tokens", thousands),
        ("bits, training", "bits", "{:.3f}".format),
        ("horizon at the end", "horizon", "{:.0f} steps".format),
        ("factor per step", "decay", "{:.3f}".format),
    ):
        _, values = series(records, key)
        if len(values):
            facts.append(Fact(name, form(float(values[-1]))))
    verdicts = [r["verdict"] for r in records if isinstance(r.get("verdict"), str)]
    if verdicts:
        facts.append(Fact("verdict at the end", verdicts[-1], verdicts[-1]))
    return tuple(facts)


# The picture and the page of a comparison. Nothing is computed here.


def chart_comparison(
    rows: Sequence[Row], title: str, metric: str, levels: Mapping[str, float]
) -> Chart:
    """The scores: over the length where there are several, else a bar for every point of the grid.

    Args:
        rows: from :func:`bptt.experiments.compare.summarise`.
        title: above it.
        metric: name of the score.
        levels: lines to draw, by name: chance, goal.
    """
    names = [axis for axis in varying(rows) if axis != "length"]
    rows = [row for row in rows if row.scores]
    labels = [" ".join(str(getattr(row, name)) for name in names) for row in rows]
    caption = "Dots: the seeds. Lines and bars: their means."
    parts: list[Part] = []
    if len({row.length for row in rows}) > 1:
        for place, label in enumerate(dict.fromkeys(labels)):
            own = [row for row, of in zip(rows, labels, strict=True) if of == label]
            look = CYCLE[place % len(CYCLE)], DASHES[place // len(CYCLE) % len(DASHES)]
            lengths, means = [float(r.length or 0) for r in own], [cast(float, r.mean) for r in own]
            parts.append(Line(label, lengths, means, *look, dots=True))
            parts += [
                Line("", [at] * len(row.scores), row.scores, "ink", "none", dots=True, thin=True)
                for at, row in zip(lengths, own, strict=True)
            ]
        parts += [Mark(name, y=v, dash="dashed", start=True) for name, v in levels.items()]
        low, high = _range([*levels.values(), *(s for row in rows for s in row.scores)], 0.1)
        first, last = _range([float(row.length or 0) for row in rows], 0.03)
        return Chart(
            title, parts, x="length", y=metric, caption=caption, xlim=(first, last), ylim=(low, high)
        )  # fmt: skip
    places = list(range(len(rows), 0, -1))  # the first on top
    means = [cast(float, row.mean) for row in rows]
    parts.append(Bars(places, means, "sky", 0.6, sideways=True))
    for place, row in zip(places, rows, strict=True):
        seeds = [place] * len(row.scores)
        parts.append(Line("", row.scores, seeds, "ink", "none", dots=True, thin=True))
    parts += [Mark(name, x=value, dash="dashed") for name, value in levels.items()]
    low, high = _range([0.0, *levels.values(), *(s for row in rows for s in row.scores)], 0.04)
    return Chart(
        title, parts, x=metric, caption=caption, grid=False, height=90 + 26 * len(rows),
        xlim=(low, high), ylim=(0.4, len(rows) + 0.9),
        yticks=tuple(zip(places, labels, strict=True)),
    )  # fmt: skip


def _range(values: Sequence[float], room: float) -> tuple[float, float]:
    apart = room * (max(values) - min(values)) or 0.5
    return (min(values) - apart, max(values) + apart)


def comparison_page(
    rows: Sequence[Row], title: str, command: str, chart: Chart, levels: Mapping[str, float]
) -> str:
    """A comparison as one HTML document that needs nothing else: numbers, picture, table.

    Args:
        rows: from :func:`bptt.experiments.compare.summarise`.
        title: of the page.
        command: that made it, as it was typed.
        chart: of the scores.
        levels: what is known of the task, by name: chance, goal.
    """
    axes = varying(rows)
    table = ((*axes, *HEADS), *(tuple(cells_of(row, axes)) for row in rows))
    facts = [Fact(name, f"{level:.3g}") for name, level in levels.items()]
    solved = f"{sum(row.solved for row in rows)} of {sum(row.seeds for row in rows)}"
    facts.append(Fact("jobs that solved it", solved))
    shown = (picture("scores", chart),) if any(row.scores for row in rows) else ()
    sections = [Section("", facts=tuple(facts), pictures=shown), Section("The grid", table=table)]
    return page(title, command, sections, COMPARED)
