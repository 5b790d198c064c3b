"""One self-contained HTML page out of sections of facts, words and pictures."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptt.errors import DependencyError
from bptt.shown.text import printable

# The look of every figure: colours, sizes, and how a figure becomes SVG inside a page.
#
# The colours are those of Okabe and Ito that stand out from white and from near-black alike, so that one
# picture serves both; the ink is a middle grey for the same reason, and in a page the page's own colour.

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# M. Okabe and K. Ito, 2008, Color universal design.
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY)
# 4.5 : 1 on white and 4.6 : 1 on black.
INK = "#767676"
# A panel of this many inches is as wide as a phone, so that its letters keep their size there.
PANEL = (4.7, 3.1)

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
    rules: Any = {**_RULES, "axes.prop_cycle": cycler(color=list(CYCLE))}
    with matplotlib.rc_context(rules):
        yield Figure


def panels(figure: type[Figure], count: int) -> tuple[Figure, list[Any]]:
    """A figure of ``count`` panels side by side, and their axes."""
    width, height = PANEL
    made = figure(figsize=(width * count, height), layout="constrained")
    axes = made.subplots(1, count, squeeze=False)[0]
    return made, list(axes)


def to_svg(figure: Figure, name: str) -> str:
    """A figure as one ``<svg>`` for a page, which sets its size, ink and two colours; ids of its own.

    Args:
        figure: made within :func:`style`.
        name: unique in the page; put before every id.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    # The page's letters: matplotlib's own are not on every reader's machine.
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = text.replace(INK, "currentColor")
    for color, variable in ((BLUE, "blue"), (ORANGE, "orange")):
        text = text.replace(f": {color}", f": var(--{variable}, {color})")
    return text


@dataclass(frozen=True)
class Fact:
    """A number under its name; ``mood`` is a verdict, which colours it."""

    name: str
    value: str
    mood: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure as SVG, and what it says in words."""

    name: str
    svg: Any
    words: str


@dataclass(frozen=True)
class Section:
    """A part of the page; the first row of its table is the head, two columns of words lead it."""

    title: str
    facts: tuple[Fact, ...] = ()
    words: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()


def picture(name: str, words: str, draw: Callable[[Any], None]) -> Picture:
    """Draw one panel.

    Args:
        name: unique in the page, of letters, digits and hyphens.
        words: its caption.
        draw: given the axes.
    """
    from markupsafe import Markup

    with style() as figure:
        made, (axes,) = panels(figure, 1)
        draw(axes)
        svg = to_svg(made, name)
    return Picture(name, Markup(svg), words)


def page(title: str, subtitle: str, sections: list[Section], footer: str) -> str:
    """The page; all text is escaped, pictures stand in it as they are, without control characters."""
    try:
        import jinja2
    except ImportError:
        raise DependencyError("jinja2", "none installed", "pip install jinja2") from None
    template = Path(__file__).with_name("page.html").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    made = environment.from_string(template)
    text = made.render(title=title, subtitle=subtitle, sections=sections, footer=footer)
    # A number keeps its unit on its line.
    return printable(text).replace(" %", "\N{NO-BREAK SPACE}%")
