"""A chart with matplotlib: the look of every figure, and a figure as SVG inside a page or as a file."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt.errors import ArgumentError, DependencyError
from bptt.files.write import write_file
from bptt.report.chart import (
    COLORS,
    CYCLE,
    DARK,
    HEIGHT,
    INK,
    WIDTH,
    Band,
    Bars,
    Chart,
    Heat,
    Label,
    Line,
    Mark,
    Part,
    Shape,
    drawable,
    fit,
    marked,
    told_apart,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A panel of this many inches is as wide as a phone, so that its letters keep their size there.
PANEL = (4.7, 3.1)
DASHES = {"": "-", "dashed": "--", "dotted": ":", "none": "none"}
SIGNS: dict[Shape, str] = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D"}
LINE = 52  # letters of a legend that fit into a line of it

_RULES: dict[str, Any] = {
    "font.size": 10.5,
    "font.family": ["DejaVu Sans"],
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.22,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.9,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.transparent": True,
    # Text stays text: small, searchable, and in the reader's own letters.
    "svg.fonttype": "none",
    # The same figure gives the same bytes.
    "svg.hashsalt": "bptt",
}


@contextmanager
def style() -> Iterator[Any]:
    """matplotlib with this look for the length of the block; hands out ``matplotlib.figure.Figure``."""
    try:
        import matplotlib
        from cycler import cycler
        from matplotlib.figure import Figure
    except ImportError:
        raise DependencyError("matplotlib", "none installed", "pip install matplotlib") from None
    rules: Any = {**_RULES, "axes.prop_cycle": cycler(color=[COLORS[c] for c in CYCLE])}
    with matplotlib.rc_context(rules):
        yield Figure


def panels(figure: type[Figure], count: int, height: float = PANEL[1]) -> tuple[Figure, list[Any]]:
    """A figure of ``count`` panels side by side, and their axes."""
    width = PANEL[0]
    made = figure(figsize=(width * count, height), layout="constrained")
    axes = made.subplots(1, count, squeeze=False)[0]
    return made, list(axes)


def draw_figure(*charts: Chart) -> Figure:
    """Charts as one matplotlib figure, side by side.

    Raises:
        DependencyError: matplotlib is missing.
        ArgumentError: a chart has nothing finite to draw and no limits given.

    Cost: a third of a second where matplotlib is not imported yet, a twentieth a chart after that.
    """
    with style() as figure:
        tallest = max(chart.height for chart in charts)
        made, axes = panels(figure, len(charts), PANEL[1] + (tallest - HEIGHT) * PANEL[0] / WIDTH)
        for place, chart in zip(axes, charts, strict=True):
            draw_axes(place, chart)
    return made


def draw_axes(axes: Any, chart: Chart) -> None:
    """Draw a chart on axes of one's own, made within :func:`style`."""
    bounds = fit(chart)
    if chart.xlog:
        axes.set_xscale("log")
    if chart.log:
        axes.set_yscale("log")
    apart = told_apart(chart.parts)
    for place, part in enumerate(chart.parts):
        _draw(axes, part, chart, apart.get(place))
    axes.set(xlim=bounds.xlim, ylim=bounds.ylim, xlabel=chart.x, ylabel=chart.y)
    for axis, ticks in ((axes.xaxis, bounds.xticks), (axes.yaxis, bounds.yticks)):
        axis.set_ticks([value for value, _ in ticks], [word for _, word in ticks])
    axes.minorticks_off()
    axes.set_axisbelow(True)
    axes.grid(chart.grid)
    if not chart.grid:
        axes.tick_params(axis="y", length=0)
    axes.set_title(chart.title, pad=6 + 15 * _legend(axes))


def _legend(axes: Any) -> int:
    """The legend above the panel, where no curve runs through it; how many rows it has."""
    names = axes.get_legend_handles_labels()[1]
    if not names:
        return 0
    columns = next(n for n in (3, 2, 1) if n == 1 or _letters(names, n) <= LINE)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, columnspacing=1.1, handlelength=1.4,
        borderpad=0.1, borderaxespad=0.1,
    )  # fmt: skip
    return -(-len(names) // columns)


def _letters(names: Sequence[str], columns: int) -> int:
    """How wide a legend is: its columns are filled from the top, and a sample is 4 letters wide."""
    rows = -(-len(names) // columns)
    return sum(max(map(len, names[i : i + rows])) + 4 for i in range(0, len(names), rows))


def _draw(axes: Any, part: Part, chart: Chart, shape: Shape | None = None) -> None:
    if isinstance(part, Heat):
        _draw_heat(axes, part)
        return
    color = COLORS[part.color]
    if isinstance(part, Line):
        axes.plot(
            drawable(part.x, chart.xlog), drawable(part.y, chart.log), color=color,
            linestyle=DASHES[part.dash], linewidth=1.1 if part.thin else 1.9,
            marker=SIGNS[shape] if shape else "o" if part.dots else None,
            markevery=marked(len(part.x), shape) if shape and not part.dots else None,
            markersize=3 if part.thin else 4.5, markeredgewidth=0, label=part.name or None,
            path_effects=_edge() if part.color == "white" else None,
        )  # fmt: skip
    elif isinstance(part, Band):
        low, high = (np.asarray(v, dtype=float) for v in (part.low, part.high))
        if chart.log:  # a band that ends at nothing goes down to the edge
            low = np.where(low > 0, low, fit(chart).ylim[0])
        axes.fill_between(
            part.x, low, drawable(high, chart.log), color=color, alpha=0.2, linewidth=0,
            label=part.name or None,
        )  # fmt: skip
    elif isinstance(part, Bars):
        draw, start = (axes.barh, "left") if part.sideways else (axes.bar, "bottom")
        draw(part.at, part.sizes, part.width, color=color, linewidth=0, **{start: part.base})
    elif isinstance(part, Mark):
        _draw_mark(axes, part)
    elif isinstance(part, Label):
        axes.text(part.x, part.y, part.word, color=color, fontsize=9.5, va="bottom")


def _draw_mark(axes: Any, mark: Mark) -> None:
    color = COLORS[mark.color]
    look = {
        "color": color, "linestyle": DASHES[mark.dash], "linewidth": 1.3 if mark.dash else 0.8,
        "path_effects": _edge() if mark.color == "white" else None,
    }  # fmt: skip
    if mark.x is not None:
        axes.axvline(mark.x, label=mark.word or None, **look)
    elif mark.y is not None:
        axes.axhline(mark.y, **look)
        axes.annotate(
            mark.word, (0.01 if mark.start else 1, mark.y), xycoords=axes.get_yaxis_transform(),
            xytext=(0, 3), textcoords="offset points", ha="left" if mark.start else "right",
            color=color, fontsize=9.5, path_effects=look["path_effects"], annotation_clip=True,
        )  # fmt: skip


def _draw_heat(axes: Any, heat: Heat) -> None:
    image = axes.pcolormesh(
        heat.x, heat.y, heat.values.T, cmap="cividis", vmin=heat.scale[0][0], vmax=heat.scale[-1][0],
        rasterized=True,
    )  # fmt: skip
    bar = axes.figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_ticks([value for value, _ in heat.scale], labels=[word for _, word in heat.scale])
    bar.set_label(heat.name)
    bar.outline.set_visible(False)


def _edge() -> list[Any]:
    """Black around white: seen on every colour of a heat map."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3, foreground="black")]


def to_svg(figure: Figure, name: str) -> str:
    """A figure as one ``<svg>`` for a page, which sets its size, ink and colours; ids of its own.

    Args:
        figure: made within :func:`style`.
        name: unique in the page; put before every id.
    """
    text = _svg(figure)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    # The page's letters: matplotlib's own are not on every reader's machine.
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = text.replace(INK, "currentColor")
    for variable in DARK:
        color = COLORS[variable]
        text = text.replace(f": {color}", f": var(--{variable}, {color})")
    return text


def _svg(figure: Figure) -> str:
    """The same text for the same figure."""
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure; the ending of the name says in which format.

    Raises:
        ArgumentError: matplotlib knows no such format.
        RunError: the file cannot be written.
    """
    if path.suffix == ".svg":
        write_file(path, _svg(figure) + "\n")
        return
    known = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ArgumentError(
            f"a figure that ends in one of .{', .'.join(sorted(known))}",
            repr(path.name),
            "choose another name with --figure",
        )
    drawn = io.BytesIO()
    with style():
        figure.savefig(drawn, format=path.suffix[1:].lower())
    write_file(path, drawn.getvalue())
