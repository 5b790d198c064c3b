"""A picture as a value: its axes, and the lines, bands, bars, marks, words and colours on them.

A chart says what there is to see. :mod:`bptt.report.chart_svg` draws it in a millisecond, for a page that
answers a slider; :mod:`bptt.report.chart_figure` draws it with matplotlib. Both take the limits and the
ticks from here, so both show the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bptt.errors import ArgumentError

# M. Okabe and K. Ito, 2008, Color universal design: colours that stand out from white and from near-black
# alike, so that one picture serves both. The ink is a middle grey for the same reason, 4.5 : 1 on white
# and 4.6 : 1 on black; in a page it is the page's own colour. White is drawn with a black edge.
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"
INK = "#767676"
COLORS = {
    "blue": BLUE, "orange": ORANGE, "green": GREEN, "purple": PURPLE, "sky": SKY, "ink": INK,
    "white": "#ffffff",
}  # fmt: skip
# The same on near-black: 4.5 : 1 or more, and no two of them alike. A page has both as variables of its
# style; a figure in a file, which cannot know where it is shown, has the first.
DARK = {
    "blue": "#4f8ff7", "orange": "#f0904a", "green": "#3fc79a", "purple": "#e59bc8", "sky": "#9fdcf7",
}  # fmt: skip
Color = Literal["blue", "orange", "green", "purple", "sky", "ink", "white"]
CYCLE: tuple[Color, ...] = ("blue", "orange", "green", "purple", "sky")
WIDTH, HEIGHT = 440, 280  # of a picture, in units of its own
Dash = Literal["", "dashed", "dotted", "none"]
Shape = Literal["circle", "square", "triangle", "diamond"]
SHAPES: tuple[Shape, ...] = ("circle", "square", "triangle", "diamond")
Limits = tuple[float, float]
Ticks = Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Line:
    """A curve; values that are not finite (or, on a log axis, not positive) leave a gap.

    ``dots`` marks every point, for few of them; with the dash "none" the dots stand alone.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: Color = "blue"
    dash: Dash = ""
    dots: bool = False
    thin: bool = False


@dataclass(frozen=True)
class Band:
    """The range between two curves."""

    name: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    color: Color = "blue"


@dataclass(frozen=True)
class Bars:
    """Bars of one width that stand on ``base``; if ``sideways``, ``at`` counts upwards."""

    at: Sequence[float]
    sizes: Sequence[float]
    color: Color = "blue"
    width: float = 0.85
    base: float = 0.0
    sideways: bool = False


@dataclass(frozen=True)
class Mark:
    """A straight line across, at ``x`` or at ``y``, with a word to it, on the left if ``start``."""

    word: str
    x: float | None = None
    y: float | None = None
    color: Color = "ink"
    start: bool = False
    dash: Dash = ""


@dataclass(frozen=True)
class Label:
    """A word that begins at a point."""

    word: str
    x: float
    y: float
    color: Color = "ink"


@dataclass(frozen=True)
class Heat:
    """Values as colours: ``values[i, j]`` fills ``x[i]`` to ``x[i + 1]`` and ``y[j]`` to ``y[j + 1]``.

    ``scale`` names values, the lowest and the highest colour among them, in ascending order.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    values: np.ndarray
    scale: Ticks


Part = Line | Band | Bars | Mark | Label | Heat


@dataclass(frozen=True)
class Chart:
    """One picture.

    Attributes:
        title: above it; also what a screen reader says first.
        parts: drawn in this order; a Line or Band is in the legend unless its name is empty.
        x, y: what the axes count, with units.
        caption: under it, and read by a screen reader too.
        log, xlog: whether the y axis, the x axis is logarithmic.
        xlim, ylim: default what lines and bands span. What lies outside is cut off.
        xticks, yticks: default round numbers. A line break in a word begins a second line.
        grid: whether faint lines lead from the ticks into the picture.
        height: where the width is 440.
    """

    title: str
    parts: Sequence[Part]
    x: str = ""
    y: str = ""
    caption: str = ""
    log: bool = False
    xlog: bool = False
    xlim: Limits | None = None
    ylim: Limits | None = None
    xticks: Ticks | None = None
    yticks: Ticks | None = None
    grid: bool = True
    height: float = HEIGHT


@dataclass(frozen=True)
class Axes:
    """Limits and ticks of a chart, filled in where it does not give them."""

    xlim: Limits
    ylim: Limits
    xticks: Ticks
    yticks: Ticks


def fit(chart: Chart) -> Axes:
    """The limits and ticks to draw a chart with.

    Raises:
        ArgumentError: nothing finite to draw and no limits given.

    Example:
        >>> axes = fit(Chart("Decay", [Line("norm", [1, 3], [1, 0.01])], log=True))
        >>> axes.xlim, [word for _, word in axes.yticks]
        ((1, 3), ['10⁻²', '10⁻¹', '1'])
    """
    lines = [part for part in chart.parts if isinstance(part, Line)]
    bands = [part for part in chart.parts if isinstance(part, Band)]
    levels = [p.y for p in chart.parts if isinstance(p, Mark) and p.y is not None]
    xs = [v for p in lines for v in p.x] + [v for p in bands for v in p.x]
    ys = [v for p in lines for v in p.y] + [v for p in bands for v in (*p.low, *p.high)] + levels
    xlim, ylim = chart.xlim or _span(xs, chart.xlog, 0), chart.ylim or _span(ys, chart.log, 0.04)
    xticks = chart.xticks if chart.xticks is not None else ticks(*xlim, log=chart.xlog, about=6)
    yticks = chart.yticks if chart.yticks is not None else ticks(*ylim, log=chart.log, about=5)
    return Axes(xlim, ylim, _within(xticks, xlim), _within(yticks, ylim))


MARKED = 6  # shapes along a curve, about


def told_apart(parts: Sequence[Part]) -> dict[int, Shape]:
    """The lines, by place, that need a shape on them, because a line before has the same dash.

    Whoever sees no colours tells lines apart by dash and shape: no two named lines of a chart share
    both, up to five of one dash.

    Example:
        >>> told_apart([Line("a", [1], [1]), Line("b", [1], [2]), Line("c", [1], [3], dash="dotted")])
        {1: 'circle'}
    """
    found: dict[int, Shape] = {}
    before: dict[tuple[Dash, bool], int] = {}
    for place, part in enumerate(parts):
        if isinstance(part, Line) and part.name:
            kind = (part.dash, part.dots)
            nth = before[kind] = before.get(kind, -1) + 1
            if nth:
                found[place] = SHAPES[(nth - 1) % len(SHAPES)]
    return found


def marked(count: int, shape: Shape) -> tuple[int, int]:
    """At which of a curve's points its shape stands: the first, and how many further the next.

    Curves of other shapes begin elsewhere, so that curves that coincide are both seen.
    """
    apart = max(1, count // MARKED)
    return SHAPES.index(shape) * apart // len(SHAPES), apart


def _within(marks: Ticks, limits: Limits) -> Ticks:
    room = 1e-9 * (limits[1] - limits[0])
    return [mark for mark in marks if limits[0] - room <= mark[0] <= limits[1] + room]


def _span(values: list[float], log: bool, room: float) -> Limits:
    good = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    if not good:
        raise ArgumentError("a finite value to draw", "none", "give xlim and ylim")
    low, high = min(good), max(good)
    if log:
        return (low / 1.5, high * 1.5)
    apart = (high - low) * room if high > low else 0.5
    return (low - apart, high + apart)


def ticks(low: float, high: float, *, log: bool = False, about: int = 6) -> Ticks:
    """Round numbers within limits, and their words."""
    if log:
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        if last > first:
            every = max(1, math.ceil((last - first) / 6))
            return [(10.0**n, _power(n)) for n in range(first, last + 1) if n % every == 0]
    step = (high - low) / about
    size = 10.0 ** math.floor(math.log10(step))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [round(n * step, 12) for n in range(first, last + 1)]
    return [(v, _plain(v)) for v in values if v > 0 or not log]


def octaves(low: float, high: float) -> Ticks:
    """Powers of two within limits, for an axis of steps back."""
    return [(float(v), str(v)) for v in (2**n for n in range(21)) if low <= v <= high]


def _power(n: int) -> str:
    return str(10**n) if n in (0, 1) else f"10{raised(n)}"


def _plain(value: float) -> str:
    if 1e4 <= abs(value) < 1e9 and value == round(value):
        return f"{value:,.0f}".replace(",", "\u2009")
    return f"{value:g}"


def raised(exponent: int) -> str:
    """An exponent in small raised digits.

    Example:
        >>> "ρ" + raised(-30)
        'ρ⁻³⁰'
    """
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def number(value: float, digits: int = 3) -> str:
    """A number for a sentence, powers of ten written out.

    Example:
        >>> number(0.00234), number(3.07e22), number(-5e-12, 2)
        ('0.00234', '3.07·10²²', '-5·10⁻¹²')
    """
    head, e, tail = f"{value:.{digits}g}".partition("e")
    return f"{head}·10{raised(int(tail))}" if e else head


def drawable(values: Any, log: bool) -> np.ndarray:
    """Values as an array, with NaN where an axis has no place for one."""
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array) & ((array > 0) | (not log)), array, np.nan)
