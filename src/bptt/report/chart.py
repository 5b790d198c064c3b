"""Line charts as SVG text, made in a millisecond: matplotlib takes a third of a second, a slider has 0.2.

The colours and the ink are those of :mod:`bptt.report.page`; in a page they are CSS variables, so a
chart follows light and dark. A chart is 440 units wide and scales: its letters stay legible on a phone.
Lines differ by dash as well as by colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from bptt.errors import ArgumentError
from bptt.report.page import BLUE, GREEN, ORANGE, PURPLE, SKY

Color = Literal["blue", "orange", "green", "purple", "sky", "ink"]
COLORS = {"blue": BLUE, "orange": ORANGE, "green": GREEN, "purple": PURPLE, "sky": SKY}

WIDTH, HEIGHT = 440, 280
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 10, 42


def paint(color: Color) -> str:
    """A colour as CSS: the page's variable, or what the report uses where there is none."""
    return "currentColor" if color == "ink" else f"var(--{color}, {COLORS[color]})"


@dataclass(frozen=True)
class Line:
    """A curve; values that are not finite (or, on a log axis, not positive) leave a gap.

    ``dots`` marks every point, for few of them.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: Color = "blue"
    dash: Literal["", "dashed", "dotted"] = ""
    dots: bool = False


@dataclass(frozen=True)
class Band:
    """The range between two curves."""

    name: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    color: Color = "blue"


@dataclass(frozen=True)
class Mark:
    """A straight line across, at ``x`` or at ``y``, with a word above it, on the left if ``start``."""

    word: str
    x: float | None = None
    y: float | None = None
    color: Color = "ink"
    start: bool = False


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


def chart(
    title: str,
    parts: Sequence[Line | Band | Mark],
    *,
    x: str,
    y: str,
    caption: str = "",
    log: bool = False,
    xlim: tuple[float, float] | None = None,
    ylim: tuple[float, float] | None = None,
) -> str:
    """A ``<figure>``: title, legend, picture and caption.

    Args:
        title: above it; also what a screen reader says first.
        parts: drawn in this order; a Line or Band is in the legend unless its name is empty.
        x, y: what the axes count, with units.
        caption: one sentence under it, told to a screen reader too.
        log: whether the y axis is logarithmic.
        xlim, ylim: default what the lines and bands span. What lies outside is cut off.

    Raises:
        ArgumentError: nothing finite to draw and no limits given.

    Cost: about a millisecond per thousand points.

    Example:
        >>> text = chart("Decay", [Line("norm", [1, 2, 3], [1, 0.1, 0.01])], x="lag", y="gain", log=True)
        >>> text.startswith("<figure"), "10⁻²" in text
        (True, True)
    """
    frame = _Frame(
        xlim or _span([v for p in parts for v in _xs(p)], False),
        ylim or _span([v for p in parts for v in _ys(p)], log),
        log,
    )
    shapes = "".join(_shape(part, frame) for part in parts)
    words = "".join(_word(part, frame) for part in parts if isinstance(part, Mark))
    legend = "".join(_entry(p) for p in parts if not isinstance(p, Mark) and p.name)
    return (
        f'<figure class="chart"><div class="title">{escape(title)}</div>'
        + (f'<ul class="legend">{legend}</ul>' if legend else "")
        + f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}. '
        f'{escape(caption)}" font-size="12.5">{_axes(frame, x, y)}'
        # A nested svg clips what lies outside the frame without an id to clash with another chart's.
        f'<svg x="{LEFT}" y="{TOP}" width="{frame.width}" height="{frame.height}" '
        f'viewBox="{LEFT} {TOP} {frame.width} {frame.height}">{shapes}</svg>{words}</svg>'
        + (f"<figcaption>{escape(caption)}</figcaption>" if caption else "")
        + "</figure>"
    )


@dataclass(frozen=True)
class _Frame:
    """From values to places in the picture."""

    xlim: tuple[float, float]
    ylim: tuple[float, float]
    log: bool
    width: int = WIDTH - LEFT - RIGHT
    height: int = HEIGHT - TOP - BOTTOM

    def across(self, value: float) -> float:
        low, high = self.xlim
        return LEFT + (value - low) / (high - low) * self.width

    def up(self, value: float) -> float:
        low, high = self.ylim
        if self.log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        # Far outside stays outside, and the text short.
        share = min(max((value - low) / (high - low), -9.0), 10.0)
        return TOP + (1 - share) * self.height

    def drawable(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.log)


def _xs(part: Line | Band | Mark) -> Sequence[float]:
    return () if isinstance(part, Mark) else part.x


def _ys(part: Line | Band | Mark) -> Sequence[float]:
    if isinstance(part, Mark):
        return () if part.y is None else (part.y,)
    return part.y if isinstance(part, Line) else (*part.low, *part.high)


def _span(values: list[float], log: bool) -> tuple[float, float]:
    good = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    if not good:
        raise ArgumentError("a finite value to draw", "none", "give xlim and ylim")
    low, high = min(good), max(good)
    if log:
        return (low / 1.5, high * 1.5)
    room = (high - low) * 0.04 or 0.5
    return (low, high) if high > low else (low - room, high + room)


def _shape(part: Line | Band | Mark, frame: _Frame) -> str:
    color = paint(part.color)
    if isinstance(part, Mark):
        if part.x is not None:
            at = f"{frame.across(part.x):.1f}"
            path = f"M{at} {TOP}V{TOP + frame.height}"
        elif part.y is not None and frame.drawable(part.y):
            path = f"M{LEFT} {frame.up(part.y):.1f}H{LEFT + frame.width}"
        else:
            return ""
        return f'<path d="{path}" stroke="{color}" stroke-width="1" fill="none"/>'
    if isinstance(part, Band):
        rows = [
            (frame.across(a), frame.up(max(b, frame.ylim[0])), frame.up(c))
            for a, b, c in zip(part.x, part.low, part.high, strict=True)
            if math.isfinite(b) and frame.drawable(c)
        ]
        edge = [f"{a:.1f} {c:.1f}" for a, _, c in rows] + [
            f"{a:.1f} {b:.1f}" for a, b, _ in rows[::-1]
        ]
        path = "M" + "L".join(edge) + "Z" if rows else ""
        return f'<path d="{path}" fill="{color}" opacity="0.2"/>'
    pen, path, dots = "M", "", ""
    for a, b in zip(part.x, part.y, strict=True):
        if not frame.drawable(b):
            pen = "M"
            continue
        left, top = f"{frame.across(a):.1f}", f"{frame.up(b):.1f}"
        path += f"{pen}{left} {top}"
        pen = "L"
        if part.dots:
            dots += f'<circle cx="{left}" cy="{top}" r="3" fill="{color}"/>'
    return f'<path d="{path}" stroke="{color}" fill="none" {_stroke(part)}/>{dots}'


def _stroke(part: Line) -> str:
    dash = {"": "", "dashed": ' stroke-dasharray="7 4"', "dotted": ' stroke-dasharray="2 4"'}[
        part.dash
    ]
    return f'stroke-width="2.2" stroke-linejoin="round"{dash}'


def _word(mark: Mark, frame: _Frame) -> str:
    if not mark.word:
        return ""
    if mark.x is not None:
        if not frame.xlim[0] <= mark.x <= frame.xlim[1]:
            return ""
        left = frame.across(mark.x)
        late = left > LEFT + 0.6 * frame.width
        place, anchor = (left - 5 if late else left + 5, TOP + 12.0), "end" if late else "start"
    elif mark.y is not None and frame.ylim[0] <= mark.y <= frame.ylim[1]:
        place = (
            LEFT + 6.0 if mark.start else LEFT + frame.width,
            max(frame.up(mark.y) - 5, TOP + 10.0),
        )
        anchor = "start" if mark.start else "end"
    else:
        return ""
    return (
        f'<text x="{place[0]:.1f}" y="{place[1]:.1f}" text-anchor="{anchor}" class="mark" '
        f'fill="{paint(mark.color)}">{escape(mark.word)}</text>'
    )


def _entry(part: Line | Band) -> str:
    if isinstance(part, Band):
        swatch = f'<rect y="3" width="26" height="8" fill="{paint(part.color)}" opacity="0.3"/>'
    else:
        swatch = f'<path d="M0 7H26" stroke="{paint(part.color)}" {_stroke(part)}/>'
    return (
        f'<li><svg width="26" height="14" aria-hidden="true">{swatch}</svg>{escape(part.name)}</li>'
    )


def _axes(frame: _Frame, x: str, y: str) -> str:
    grid = text = ""
    for value in _ticks(*frame.xlim):
        at = f"{frame.across(value):.1f}"
        text += (
            f'<text x="{at}" y="{TOP + frame.height + 17}" text-anchor="middle">{value:g}</text>'
        )
    for value, word in _y_ticks(frame):
        up = frame.up(value)
        grid += f"M{LEFT} {up:.1f}H{LEFT + frame.width}"
        text += f'<text x="{LEFT - 7}" y="{up + 4:.1f}" text-anchor="end">{word}</text>'
    middle = TOP + frame.height / 2
    return (
        f'<path d="{grid}" stroke="currentColor" opacity="0.18" fill="none"/>'
        f'<path d="M{LEFT} {TOP}V{TOP + frame.height}H{LEFT + frame.width}" stroke="currentColor" '
        f'opacity="0.6" fill="none"/><g fill="currentColor">{text}'
        f'<text x="{LEFT + frame.width / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>'
        f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{escape(y)}</text>'
        f"</g>"
    )


def _ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers within the limits."""
    step = (high - low) / about
    size = 10.0 ** math.floor(math.log10(step))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= step)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _y_ticks(frame: _Frame) -> list[tuple[float, str]]:
    low, high = frame.ylim
    if not frame.log:
        return [(v, f"{v:g}") for v in _ticks(low, high, 5)]
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last <= first:  # within one decade
        return [(v, f"{v:g}") for v in _ticks(low, high, 5) if v > 0]
    every = max(1, math.ceil((last - first) / 6))
    return [(10.0**n, _power(n)) for n in range(first, last + 1) if n % every == 0]


def _power(n: int) -> str:
    return str(10**n) if n in (0, 1) else f"10{raised(n)}"
