"""The pictures and the page of a comparison, and of forecasters. Nothing is computed here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import cast

import numpy as np

from bptt.data.series import Series
from bptt.experiments.compare.results import AXES, HEADS, Row, cells_of, value_on, varying
from bptt.experiments.ladder import Outcome
from bptt.report import words
from bptt.report.chart import CYCLE, Band, Bars, Chart, Color, Dash, Line, Mark, Part
from bptt.report.figures import Record, chart_lags
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
    named = {
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
            label = named[tuple(record["job"][a] for a in AXES)]
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


# Forecasts of a series.

FORECAST = "Trained and scored by bptt forecast; no model was fitted to a value of the test part."
LOOKS: tuple[tuple[Color, Dash], ...] = (
    ("ink", "dotted"), ("green", "dotted"), ("orange", "dashed"), ("purple", "dashed"), ("blue", ""),
)  # fmt: skip
SHOWN = 8  # forecasts that follow each other in the picture


def chart_forecasts(found: Outcome, series: Series) -> Chart:
    """The end of the test part, forecast again and again, each time a horizon ahead."""
    horizon, last = found.plan.horizon or 1, len(found.rows) - 1
    count = min(SHOWN, last // horizon + 1)
    origins = [last - horizon * n for n in range(count)][::-1]
    begin = found.rows[origins[0]]
    after = np.arange(max(0, begin - horizon), len(series.values))
    seen = np.where(series.known, series.values, np.nan)[after]
    parts: list[Part] = []
    for n, origin in enumerate(origins):
        ahead = (found.rows[origin] + np.arange(1, horizon + 1)).tolist()
        low, middle, high = found.said[origin].T.tolist()
        words = (f"{100 * found.plan.coverage:g} % interval", "forecast") if not n else ("", "")
        parts.append(Band(words[0], ahead, low, high))
        parts.append(Line(words[1], ahead, middle, dots=horizon == 1))
        parts.append(Mark("", x=found.rows[origin], dash="dotted"))
    parts.append(Line(series.name, after.tolist(), seen.tolist(), "ink", thin=True))
    caption = (
        f"The last {count} forecasts of {horizon} steps in the test part; each begins at a dotted line "
        "and knows what lies before it."
    )
    return Chart(
        "What was forecast, and what came", parts, y=series.name, caption=caption,
        xticks=_dates(series, after[0], after[-1]),
    )  # fmt: skip


def chart_after(found: Outcome, series: Series) -> Chart:
    """What comes after the end of the series."""
    horizon, size = found.plan.horizon or 1, len(series.values)
    begin = max(0, size - 3 * horizon)
    ahead = list(range(size, size + horizon))
    low, middle, high = found.after.T.tolist()
    seen = np.where(series.known, series.values, np.nan)[begin:]
    parts: list[Part] = [
        Band(f"{100 * found.plan.coverage:g} % interval", ahead, low, high),
        Line("forecast", ahead, middle, dots=horizon == 1),
        Line(series.name, list(range(begin, size)), seen.tolist(), "ink", thin=True),
        Mark("", x=size - 1, dash="dotted"),
    ]
    return Chart(
        "What comes next", parts, y=series.name, caption="bptt sample prints these numbers.",
        xticks=_dates(series, begin, size + horizon - 1),
    )  # fmt: skip


def chart_ahead(found: Outcome) -> Chart:
    """The error of every forecaster by steps ahead."""
    looks = (*LOOKS[: len(found.scores) - 1], LOOKS[-1])
    parts = [
        Line(
            score.name,
            list(range(1, len(score.ahead) + 1)),
            score.ahead,
            *look,
            dots=len(score.ahead) < 3,
        )
        for score, look in zip(found.scores, looks, strict=True)
    ]
    ahead = [a for score in found.scores for a in score.ahead if math.isfinite(a)]
    most = max(a for score in found.scores[1:] for a in score.ahead if math.isfinite(a))
    above = " What leaves the picture is far worse." if max(ahead) > 1.15 * most else ""
    return Chart(
        "Error by steps ahead", parts, x="steps ahead", y="mean absolute error",
        caption="Over all origins of the test part." + above,
        ylim=(0.0, 1.15 * most),
    )  # fmt: skip


def _dates(series: Series, first: int, last: int) -> list[tuple[float, str]]:
    """Some times along an axis that counts steps."""
    places = np.unique(np.linspace(first, last, 4).round().astype(int))[:-1]
    stamps = [series.calendar.stamp(t).replace(" ", "\n") for t in series.calendar.at(places)]
    return list(zip(places.astype(float).tolist(), stamps, strict=True))


def forecast_page(
    found: Outcome,
    series: Series,
    file: str,
    command: str,
    said: Sequence[str],
    table: Sequence[Sequence[str]],
) -> str:
    """A forecast as one HTML document: numbers, pictures, table, and how far back it learns.

    Args:
        found: what was fitted and scored.
        series: of it.
        file: in which it was found.
        command: that made it, as it was typed.
        said: the verdict, in sentences.
        table: of the scores, its head first.
    """
    kept, reach = found.scores[-1], found.reach
    facts = [
        Fact("kept", kept.name),
        Fact("MASE", "-" if kept.mase is None else f"{kept.mase:.3f}"),
        Fact("interval holds", "-" if kept.held is None else words.percent(kept.held)),
        Fact("steps ahead", str(found.plan.horizon)),
    ]
    drawn = (
        picture("forecasts", chart_forecasts(found, series)),
        picture("after", chart_after(found, series)),
        picture("ahead", chart_ahead(found)),
    )
    sections = [
        Section("", facts=tuple(facts), words=tuple(said), pictures=drawn),
        Section("Side by side", table=tuple(tuple(row) for row in table)),
    ]
    if reach is not None:
        caption = (
            f"How large the gradient is after so many steps back, in windows of {reach.spectrum.steps} "
            f"steps of the training part; trained in windows of k = {found.plan.k}."
        )
        lags = replace(chart_lags(reach.spectrum, found.plan.k), caption=caption)
        sections.append(
            Section(
                "How far back it learns",
                words=(str(found.judged),),
                pictures=(picture("lags", lags),),
            )
        )
    about = [
        ("series", f"{series.name} of {file}"),
        ("date", datetime.now().isoformat(" ", "minutes")),
        ("command", command),
    ]
    title = f"{series.name}, {found.plan.horizon} steps ahead"
    under = f"{len(series.values):,} steps; kept: {kept.name}."
    return page(title, under, sections, FORECAST, about)
