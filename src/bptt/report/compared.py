"""The picture and the page of a comparison. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from bptt.experiments.compare.results import AXES, HEADS, Row, cells_of, value_on, varying
from bptt.report.chart import CYCLE, Bars, Chart, Color, Dash, Line, Mark, Part
from bptt.report.figures import (
    Record,
)
from bptt.report.pages import Fact, Picture, Section, page, picture

DASHES: tuple[Dash, ...] = ("", "dashed", "dotted")
COMPARED = "Every row is a point of the grid, trained from each of its seeds by bptt compare."


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
    labels = [" ".join(value_on(row, name) for name in names) for row in rows]
    caption = "Dots: the seeds. Lines and bars: their means."
    parts: list[Part] = []
    if len({row.length for row in rows}) > 1:
        for place, label in enumerate(dict.fromkeys(labels)):
            own = [row for row, of in zip(rows, labels, strict=True) if of == label]
            look = _look(place)
            lengths, means = [float(r.length or 0) for r in own], [cast(float, r.mean) for r in own]
            parts.append(Line(label, lengths, means, *look, dots=True))
            parts += [
                Line("", [at] * len(row.scores), row.scores, "ink", "none", dots=True, thin=True)
                for at, row in zip(lengths, own, strict=True)
            ]
        parts += [Mark(name, y=v, dash=_dash(name), start=True) for name, v in levels.items()]
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
        parts.append(Line("", row.scores, seeds, "orange", "none", dots=True, thin=True))
    parts += [Mark(name, x=value, dash=_dash(name)) for name, value in levels.items()]
    low, high = _range([0.0, *levels.values(), *(s for row in rows for s in row.scores)], 0.04)
    return Chart(
        title, parts, x=metric, caption=caption, grid=False, height=90 + 26 * len(rows),
        xlim=(low, high), ylim=(0.4, len(rows) + 0.9),
        yticks=tuple(zip(places, labels, strict=True)),
    )  # fmt: skip


def chart_progress(
    records: Sequence[Record], rows: Sequence[Row], metric: str, levels: Mapping[str, float]
) -> list[Chart]:
    """How the loss and the score of every job went, over its updates; empty where nothing was scored.

    Args:
        records: of the jobs, from :func:`bptt.experiments.compare.results.run_grid`.
        rows: of the same jobs, which say in what they differ.
        metric: name of the score.
        levels: lines to draw beside the scores, by name: chance, goal.
    """
    names = varying(rows)
    words = {
        tuple(getattr(row, a) for a in AXES): " ".join(value_on(row, name) for name in names)
        for row in rows
    }
    charts = []
    for key, title, axis in (("losses", "Training loss", "loss"), ("curve", "Held out", metric)):
        parts: list[Part] = []
        looks: dict[str, tuple[Color, Dash]] = {}
        for record in records:
            points = [(at, value) for at, value in record.get(key, []) if value is not None]
            if not points:
                continue
            at, values = zip(*points, strict=True)
            label = words[tuple(record["job"][a] for a in AXES)]
            place, known = len(looks), label in looks
            look = looks.setdefault(label, _look(place))
            name = "" if known else label
            parts.append(Line(name, at, values, *look, dots=len(at) < 3, thin=True))
        if not parts:
            continue
        limits: tuple[float, float] | None = None
        if key == "curve":
            shown = [v for part in parts if isinstance(part, Line) for v in part.y]
            limits = _range([*levels.values(), *shown], 0.1)  # room for the words at the levels
            parts += [Mark(name, y=v, dash=_dash(name), start=True) for name, v in levels.items()]
        caption = "A line for every seed; a loss is the mean since the point before."
        charts.append(Chart(title, parts, x="updates", y=axis, caption=caption, ylim=limits))
    return charts


def _look(place: int) -> tuple[Color, Dash]:
    """Lines differ by dash as well as by colour; fifteen of them."""
    return CYCLE[place % len(CYCLE)], DASHES[place % len(DASHES)]


def _dash(level: str) -> Dash:
    return "dotted" if level == "chance" else "dashed"


def _range(values: Sequence[float], room: float) -> tuple[float, float]:
    apart = room * (max(values) - min(values)) or 0.5
    return (min(values) - apart, max(values) + apart)


def comparison_page(
    rows: Sequence[Row],
    title: str,
    command: str,
    charts: Sequence[Chart],
    levels: Mapping[str, float],
    date: str = "",
) -> str:
    """A comparison as one HTML document that needs nothing else: numbers, picture, table.

    Args:
        rows: from :func:`bptt.experiments.compare.summarise`.
        title: of the page.
        command: that made it, as it was typed.
        charts: of the scores, and of how they went.
        levels: what is known of the task, by name: chance, goal.
        date: when it was made.
    """
    axes = varying(rows)
    table = ((*axes, *HEADS), *(tuple(cells_of(row, axes)) for row in rows))
    facts = [Fact(name, f"{level:.3g}") for name, level in levels.items()]
    solved = f"{sum(row.solved for row in rows)} of {sum(row.seeds for row in rows)}"
    facts.append(Fact("jobs that solved it", solved))
    scored = [row for row in rows if row.mean is not None]
    if scored:
        more = levels.get("goal", 1.0) >= levels.get("chance", 0.0)  # of an error less is better
        best = sorted(scored, key=lambda row: cast(float, row.mean), reverse=more)[0]
        name = " ".join(value_on(best, axis) for axis in axes)
        facts[:0] = [Fact("best", name or best.cell), Fact("its score", f"{best.mean:.3g}")]
    shown: tuple[Picture, ...] = ()
    if any(row.scores for row in rows):
        shown = tuple(
            picture(f"scores-{n}" if n else "scores", chart) for n, chart in enumerate(charts)
        )
    sections = [Section("", facts=tuple(facts), pictures=shown), Section("The grid", table=table)]
    about = [("date", date)] if date else []
    cells = ", ".join(dict.fromkeys(row.cell for row in rows))
    under = f"{len(rows)} points of a grid; models: {cells}."
    return page(title, under, sections, COMPARED, [*about, ("command", command)])
