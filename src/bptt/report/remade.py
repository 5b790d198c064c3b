"""What a remake of a lesson measured, drawn, printed and put on a page."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from bptt.experiments.lessons import Curve, Level, Note, Panel, Remade, Remake, Table
from bptt.experiments.lessons.registry import curves_csv, document, numbers_csv, word
from bptt.report.chart import CYCLE, Bars, Chart, Color, Label, Line, Mark, Part, number
from bptt.report.chart_figure import draw_figure, style, to_svg
from bptt.shown.text import as_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Lines differ by dash as well as by colour, and of two that are equal both are seen.
DASHES = ("", "dashed", "dotted")


def chart(panel: Panel) -> Chart:
    """A panel as a chart.

    Example:
        >>> panel = Panel("Decay", [Curve("norm", [1, 2], [1.0, 0.1])], x="steps back", log=True)
        >>> chart(panel).parts[0].color
        'blue'
    """
    parts: list[Part] = []
    plain = [curve for curve in panel.curves if not curve.tone]
    for curve in panel.curves:
        place = plain.index(curve) if not curve.tone else 0
        color = cast(Color, curve.tone or CYCLE[place % len(CYCLE)])
        dash = cast(Any, curve.dash or DASHES[place % len(DASHES)])
        if curve.kind == "bars":
            width = 0.7 if len(curve.x) > 1 else 0.8
            parts.append(Bars(curve.x, curve.y, color, width))
        else:
            dots = curve.kind == "dots"
            parts.append(Line(curve.name, curve.x, curve.y, color, "none" if dots else dash, dots))
    for level in panel.levels:
        tone = cast(Color, level.tone)
        parts.append(Mark(level.word, level.x, level.y, tone, level.start, "dotted"))
    parts += [Label(note.word, note.x, note.y, cast(Color, note.tone)) for note in panel.notes]
    return Chart(
        panel.title, parts, x=panel.x, y=panel.y, log=panel.log, xlim=panel.xlim, ylim=panel.ylim,
        xticks=() if panel.bare else panel.xticks, yticks=() if panel.bare else None,
        grid=not panel.bare,
    )  # fmt: skip


def draw(panels: Sequence[Panel]) -> Figure:
    """Panels as one matplotlib figure, side by side.

    Raises:
        DependencyError: matplotlib is missing.
    """
    figure = draw_figure(*map(chart, panels))
    for axes, panel in zip(figure.axes, panels, strict=True):
        if panel.bare:
            axes.set_axis_off()
            axes.title.set_visible(True)
    return figure


def each_as_svg(panels: Sequence[Panel], name: str) -> list[str]:
    """Every panel as an ``<svg>`` of its own for a page, its ids under this name."""
    with style():
        return [to_svg(draw([panel]), f"{name}-{place}") for place, panel in enumerate(panels)]


def panels_of(entry: Mapping[str, Any]) -> list[Panel]:
    """The panels of one entry of a document that ``bptt remake --json`` printed."""
    return [
        Panel(
            **{
                **panel,
                "curves": [Curve(**curve) for curve in panel["curves"]],
                "levels": [Level(**level) for level in panel["levels"]],
                "notes": [Note(**note) for note in panel["notes"]],
            }
        )
        for panel in (_without_gaps(panel) for panel in entry["panels"])
    ]


def _without_gaps(panel: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's null in a curve is a point that is not there."""
    nan = float("nan")
    curves = [
        {**c, **{axis: [nan if v is None else v for v in c[axis]] for axis in ("x", "y")}}
        for c in panel["curves"]
    ]
    return {**panel, "curves": curves}


def said(value: float | str | None, digits: int = 5) -> str:
    """A number or a word for a table; whole numbers in full.

    Example:
        >>> said(2.0764036), said(15.0), said(7.9e-13), said("lllll"), said(None)
        ('2.0764', '15', '7.9·10⁻¹³', 'lllll', '')
    """
    if value is None or isinstance(value, str):
        return value or ""
    if abs(value) < 1e6 and value == round(value):
        return f"{value:.0f}"
    return number(value, digits)


def rows(result: Remade) -> list[tuple[str, str, str, str]]:
    """What, measured, published, and whether it came out; for a table."""
    return [(n.what, said(n.measured), said(n.published), word(n.agrees)) for n in result.numbers]


def reasons(result: Remade) -> list[str]:
    """What each number has to say beside itself: why a published one does not come out."""
    return [f"{n.what}: {n.why}" for n in result.numbers if n.why]


def files(one: Remake, result: Remade) -> Iterator[tuple[str, str | bytes]]:
    """What ``--out`` writes of one remake: its JSON, CSV, what the program printed, SVG and PNG."""
    entry = document([one], [result])[0]
    yield f"{one.name}.json", as_json(entry, indent=1, ensure_ascii=False) + "\n"
    if result.failed:
        return
    yield f"{one.name}.csv", numbers_csv(result)
    if result.lines or result.tables:
        yield f"{one.name}.txt", "\n".join([*result.lines, *map(_plain, result.tables)]) + "\n"
    if result.panels:
        yield f"{one.name}-curves.csv", curves_csv(result)
        figure = draw(result.panels)
        for kind in ("svg", "png"):
            yield f"{one.name}.{kind}", _bytes(figure, kind)


def _bytes(figure: Figure, kind: str) -> bytes:
    """A figure as a file; the same bytes for the same figure."""
    drawn = io.BytesIO()
    options: dict[str, Any] = {"metadata": {"Date": None, "Creator": None}} if kind == "svg" else {}
    with style():
        figure.savefig(drawn, format=kind, **options)
    return drawn.getvalue()


def _plain(table: Table) -> str:
    """A table as lines of text."""
    cells = [tuple(table.heads), *map(tuple, table.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.heads))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
    return "\n".join(["", table.title, *lines])
