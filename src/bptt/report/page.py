"""One self-contained HTML page out of sections of facts, words and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bptt.errors import DependencyError
from bptt.report.chart import Chart
from bptt.report.chart_figure import draw_figure, to_svg
from bptt.shown.text import printable


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


def picture(name: str, chart: Chart) -> Picture:
    """A chart as a picture of the page; its caption stands under it.

    Args:
        name: unique in the page, of letters, digits and hyphens.
        chart: what to draw.
    """
    from markupsafe import Markup

    return Picture(name, Markup(to_svg(draw_figure(chart), name)), chart.caption)


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
