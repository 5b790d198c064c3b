"""A chart as SVG for a page, in a millisecond: matplotlib takes a third of a second, a slider has 0.2.

Colours are CSS variables, so a chart follows the page's light and dark. It is 440 units wide and scales:
its letters stay legible on a phone. Lines differ by dash or by the shapes on them as well as by colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from bptt.report.chart import (
    COLORS,
    WIDTH,
    Axes,
    Band,
    Bars,
    Chart,
    Color,
    Heat,
    Label,
    Limits,
    Line,
    Mark,
    Shape,
    drawable,
    fit,
    marked,
    told_apart,
)

LEFT, RIGHT, TOP, BOTTOM = 54, 10, 10, 42
LETTER = 6.6  # how wide a letter is, about
ROW = 15  # between two lines of text
SCALE = 38  # height of the colours' scale under a heat map

# J. R. Nuñez, C. R. Anderton and R. S. Renslow, 2018, Optimizing colormaps with consideration for color
# vision deficiency: cividis, at every sixteenth of its length. It reads the same in light and dark.
CIVIDIS = (
    "#00224e", "#002b62", "#123570", "#213d6e", "#2f476d", "#3b516c", "#48596c", "#53636d", "#5f6c70",
    "#7d7c78", "#8b8778", "#999174", "#a89c70", "#b9a86a", "#cbb55f", "#dcc350", "#f1d53e",
)  # fmt: skip
DASHES = {"": "", "dashed": ' stroke-dasharray="7 4"', "dotted": ' stroke-dasharray="2 4"'}


def paint(color: Color) -> str:
    """A colour as CSS: the page's variable, or what the report uses where there is none."""
    return {"ink": "currentColor", "white": "#fff"}.get(color, f"var(--{color}, {COLORS[color]})")


def draw_svg(chart: Chart) -> str:
    """A chart as a ``<figure>``: title, legend, picture and caption.

    Raises:
        ArgumentError: nothing finite to draw and no limits given.

    Cost: about a millisecond per thousand points.

    Example:
        >>> line = Line("norm", [1, 2, 3], [1, 0.1, 0.01])
        >>> text = draw_svg(Chart("Decay", [line], x="lag", y="gain", log=True))
        >>> text.startswith("<figure"), "10⁻²" in text
        (True, True)
    """
    frame = _frame(chart, fit(chart))
    apart = told_apart(chart.parts)
    shapes = "".join(
        _SHAPES[type(part)](part, frame) + (_shapes(part, frame, apart[n]) if n in apart else "")
        for n, part in enumerate(chart.parts)
        if type(part) in _SHAPES
    )
    heats = [part for part in chart.parts if isinstance(part, Heat)]
    height = chart.height + SCALE * len(heats)
    scale = "".join(_scale(part, height - 22) for part in heats)
    inside = (
        f"{_axes(frame, chart)}"
        # A nested svg clips what lies outside the frame without an id to clash with another chart's.
        f'<svg x="{frame.left:g}" y="{TOP}" width="{frame.width:g}" height="{frame.height:g}" '
        f'viewBox="{frame.left:g} {TOP} {frame.width:g} {frame.height:g}">{shapes}</svg>'
        f"{_words(chart, frame)}{scale}"
    )
    entries = "".join(
        _entry(_swatch(p, apart.get(n)), p.name)
        for n, p in enumerate(chart.parts)
        if isinstance(p, (Line, Band)) and p.name
    )
    return frame_figure(chart.title, inside, height, chart.caption, entries)


def frame_figure(title: str, inside: str, height: float, caption: str, legend: str = "") -> str:
    """Any picture of 440 units' width, given as SVG text, as a ``<figure>`` of the same look."""
    said = escape(f"{title}. {caption}" if caption else title)
    return (
        f'<figure class="chart"><div class="title">{escape(title)}</div>'
        + (f'<ul class="legend">{legend}</ul>' if legend else "")
        + f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{said}" font-size="12.5">'
        f"{inside}</svg>"
        + (f"<figcaption>{escape(caption)}</figcaption>" if caption else "")
        + "</figure>"
    )


@dataclass(frozen=True)
class _Frame:
    """From values to places in the picture: of one number or an array, NaN where there is no place."""

    axes: Axes
    left: float
    width: float
    height: float
    across: Callable[[Any], Any]
    up: Callable[[Any], Any]


def _frame(chart: Chart, axes: Axes) -> _Frame:
    # Room for the words at the ticks, and for the axis' own.
    longest = max((len(line) for _, w in axes.yticks for line in w.split("\n")), default=0)
    left = max(LEFT if chart.y else 0, 7.4 * longest + (24 if chart.y else 8))
    width, height = WIDTH - left - RIGHT, chart.height - TOP - (BOTTOM if chart.x else BOTTOM - ROW)
    across = _axis(axes.xlim, chart.xlog, left, width)
    up = _axis(axes.ylim, chart.log, TOP + height, -height)
    return _Frame(axes, left, width, height, across, up)


def _axis(limits: Limits, log: bool, start: float, length: float) -> Callable[[Any], Any]:
    low, high = np.log10(limits) if log else limits

    def place(values: Any) -> Any:
        good = drawable(values, log)
        # Far outside stays outside, and the text short.
        return start + length * np.clip(
            ((np.log10(good) if log else good) - low) / (high - low), -9, 10
        )

    return place


def _mark(mark: Mark, frame: _Frame) -> str:
    at = frame.across(mark.x) if mark.x is not None else frame.up(mark.y)
    if np.isnan(at):
        return ""
    if mark.x is not None:
        path = f"M{at:.1f} {TOP}V{TOP + frame.height:g}"
    else:
        path = f"M{frame.left:g} {at:.1f}H{frame.left + frame.width:g}"
    return _stroked(path, mark.color, 1.0, DASHES.get(mark.dash, ""))


def _band(band: Band, frame: _Frame) -> str:
    x, high = frame.across(band.x), frame.up(band.high)
    low = frame.up(np.maximum(np.asarray(band.low, dtype=float), frame.axes.ylim[0]))
    rows = np.stack([x, low, high])
    rows = rows[:, ~np.isnan(rows).any(0)].T.tolist()
    edge = [f"{a:.1f} {c:.1f}" for a, _, c in rows] + [f"{a:.1f} {b:.1f}" for a, b, _ in rows[::-1]]
    path = "M" + "L".join(edge) + "Z" if rows else ""
    return f'<path d="{path}" fill="{paint(band.color)}" opacity="0.2"/>'


def _bars(bars: Bars, frame: _Frame) -> str:
    path = ""
    for at, size in zip(bars.at, bars.sizes, strict=True):
        near, far, low, high = at - bars.width / 2, at + bars.width / 2, bars.base, bars.base + size
        if bars.sideways:
            near, far, low, high = low, high, near, far
        if math.isfinite(size):
            path += (
                f"M{frame.across(near):.1f} {frame.up(low):.1f}H{frame.across(far):.1f}"
                f"V{frame.up(high):.1f}H{frame.across(near):.1f}Z"
            )
    return f'<path d="{path}" fill="{paint(bars.color)}"/>'


def _heat(heat: Heat, frame: _Frame) -> str:
    """Neighbours of one colour in a column are one piece of a path."""
    low, high, last = heat.scale[0][0], heat.scale[-1][0], len(CIVIDIS) - 1
    shades = np.clip(np.rint((heat.values - low) / (high - low) * last), 0, last).astype(int)
    across, up = frame.across(heat.x).tolist(), frame.up(heat.y).tolist()
    paths: dict[int, str] = {}
    for column, shade in enumerate(shades.tolist()):
        begin = 0
        for end in range(1, len(shade) + 1):
            if end == len(shade) or shade[end] != shade[begin]:
                # Half a unit over each border, so that no seam shows.
                paths[shade[begin]] = paths.get(shade[begin], "") + (
                    f"M{across[column]:.1f} {up[end]:.1f}H{across[column + 1] + 0.4:.1f}"
                    f"V{up[begin] + 0.4:.1f}H{across[column]:.1f}Z"
                )
                begin = end
    return "".join(f'<path fill="{CIVIDIS[c]}" d="{d}"/>' for c, d in sorted(paths.items()))


def _line(line: Line, frame: _Frame) -> str:
    pen, path, dots = "M", "", ""
    x, y = frame.across(line.x).tolist(), frame.up(line.y).tolist()
    for a, b in zip(x, y, strict=True):
        if math.isnan(a + b):
            pen = "M"
            continue
        left, top = f"{a:.1f}", f"{b:.1f}"
        path += f"{pen}{left} {top}"
        pen = "L"
        if line.dots:
            size = 2 if line.thin else 3
            dots += f'<circle cx="{left}" cy="{top}" r="{size}" fill="{paint(line.color)}"/>'
    if line.dash == "none":
        return dots
    width = 1.2 if line.thin else 2.2
    return _stroked(path, line.color, width, f' stroke-linejoin="round"{DASHES[line.dash]}') + dots


# Around a point, in units of the picture.
_OUTLINES: dict[Shape, str] = {
    "circle": "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", "square": "m-3.6 -3.6h7.2v7.2h-7.2z",
    "triangle": "m0 -4.8l4.6 8h-9.2z", "diamond": "m0 -5.2l5.2 5.2l-5.2 5.2l-5.2 -5.2z",
}  # fmt: skip


def _shapes(part: Any, frame: _Frame, shape: Shape) -> str:
    """A few shapes along a line that has a dash in common with another."""
    x, y = frame.across(part.x), frame.up(part.y)
    first, apart = marked(len(x), shape)
    places = zip(x[first::apart].tolist(), y[first::apart].tolist(), strict=True)
    path = "".join(
        f"M{a:.1f} {b:.1f}{_OUTLINES[shape]}" for a, b in places if not math.isnan(a + b)
    )
    return f'<path d="{path}" fill="{paint(part.color)}"/>'


# How each kind of part is drawn; a label is a word and nothing else.
_SHAPES: dict[type, Callable[..., str]] = {
    Line: _line, Band: _band, Bars: _bars, Mark: _mark, Heat: _heat,
}  # fmt: skip


def _stroked(path: str, color: Color, width: float, more: str) -> str:
    text = f'<path d="{path}" stroke="{paint(color)}" fill="none" stroke-width="{width:g}"{more}/>'
    if color != "white":
        return text
    # White on black: seen on every colour of a heat map.
    under = f'<path d="{path}" stroke="#000" fill="none" stroke-width="{width + 1.8:g}"/>'
    return under + text


def _words(chart: Chart, frame: _Frame) -> str:
    """What is written into the picture. Words of upright marks that would overlap go a row down."""
    text, taken = "", list[tuple[int, float, float]]()
    (low, high), (least, most) = frame.axes.xlim, frame.axes.ylim
    right = frame.left + frame.width
    for part in chart.parts:
        if not isinstance(part, (Mark, Label)) or not part.word:
            continue
        anchor = "start"
        if isinstance(part, Label):
            x, y = frame.across(part.x), frame.up(part.y)
        elif part.x is not None and low <= part.x <= high:
            at, width = frame.across(part.x), LETTER * len(part.word)
            late = at > frame.left + 0.6 * frame.width
            x, anchor = (at - 5, "end") if late else (at + 5, "start")
            begin, end = (x - width, x) if late else (x, x + width)
            row = 0
            while any(r == row and begin < e and b < end for r, b, e in taken):
                row += 1
            taken.append((row, begin, end))
            y = TOP + 12.0 + ROW * row
        elif part.y is not None and least <= part.y <= most:
            x, anchor = (frame.left + 6.0, "start") if part.start else (right, "end")
            y = max(frame.up(part.y) - 5, TOP + 10.0)
        else:
            continue
        text += (
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="mark" '
            f'fill="{paint(part.color)}">{escape(part.word)}</text>'
        )
    return text


def _swatch(part: Line | Band, shape: Shape | None = None) -> str:
    if isinstance(part, Band):
        return f'<rect y="3" width="26" height="8" fill="{paint(part.color)}" opacity="0.3"/>'
    if part.dash == "none":
        return f'<circle cx="13" cy="7" r="3" fill="{paint(part.color)}"/>'
    line = _stroked("M0 7H26", part.color, 1.2 if part.thin else 2.2, DASHES[part.dash])
    if shape is None:
        return line
    return f'{line}<path d="M13 7{_OUTLINES[shape]}" fill="{paint(part.color)}"/>'


def swatch(color: Color, name: str) -> str:
    """An entry of a legend, for a colour that fills areas."""
    return _entry(f'<rect y="1" width="26" height="12" fill="{paint(color)}" opacity="0.5"/>', name)


def _entry(shape: str, name: str) -> str:
    return f'<li><svg width="26" height="14" aria-hidden="true">{shape}</svg>{escape(name)}</li>'


def _axes(frame: _Frame, chart: Chart) -> str:
    grid = text = ""
    bottom, right = TOP + frame.height, frame.left + frame.width
    for value, word in frame.axes.xticks:
        text += _text(frame.across(value), bottom + 17, word, "middle")
    for value, word in frame.axes.yticks:
        up, lines = frame.up(value), word.split("\n")
        if chart.grid:
            grid += f"M{frame.left:g} {up:.1f}H{right:g}"
        for row, line in enumerate(lines):
            low = up + 4 + ROW * (row - (len(lines) - 1) / 2)
            text += _text(frame.left - 7, low, line, "end")
    middle = TOP + frame.height / 2
    text += _text(frame.left + frame.width / 2, bottom + 36, chart.x, "middle") if chart.x else ""
    return (
        f'<path d="{grid}" stroke="currentColor" opacity="0.18" fill="none"/>'
        f'<path d="M{frame.left:g} {TOP}V{bottom:g}H{right:g}" stroke="currentColor" opacity="0.6" '
        f'fill="none"/><g fill="currentColor">{text}'
        f'<text transform="translate(13 {middle:g}) rotate(-90)" text-anchor="middle">'
        f"{escape(chart.y)}</text></g>"
    )


def _text(x: float, y: float, word: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(word)}</text>'


def _scale(heat: Heat, top: float) -> str:
    """What the colours mean."""
    wide, left = 200, 150
    each = wide / len(CIVIDIS)
    boxes = "".join(
        f'<rect x="{left + i * each:.1f}" y="{top:g}" width="{each + 0.4:.1f}" height="9" fill="{c}"/>'
        for i, c in enumerate(CIVIDIS)
    )
    return (
        f'{boxes}<g fill="currentColor">'
        f"{_text(left - 6, top + 9, f'{heat.name}: {heat.scale[0][1]}', 'end')}"
        f"{_text(left + wide + 6, top + 9, heat.scale[-1][1], 'start')}</g>"
    )
