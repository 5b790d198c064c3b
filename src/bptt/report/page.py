"""One self-contained HTML page out of sections of facts, words and pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bptt.errors import DependencyError
from bptt.report.style import panels, style, to_svg
from bptt.shown import printable


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
