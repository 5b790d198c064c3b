"""The parts every page is laid out with: head, controls, facts, words, charts, and values for tests.

All of it is HTML text under one class, ``bptt``, styled by ``lab.css``; marimo's elements stand in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from bptt.lab.server import available
from bptt.report.chart import Chart
from bptt.report.chart_svg import draw_svg
from bptt.report.words import thousands

# What a slider must answer within, seconds (median of a few, measured by the tests).
ANSWER = 0.2


def head(slug: str) -> Any:
    """The page's title and line, and the way to the other pages."""
    pages = available()
    at = [page.slug for page in pages].index(slug)
    links = ['<a href="/">All pages</a>']
    if at > 0:
        links.append(f'<a rel="prev" href="/{pages[at - 1].slug}/">← {pages[at - 1].title}</a>')
    if at + 1 < len(pages):
        links.append(f'<a rel="next" href="/{pages[at + 1].slug}/">{pages[at + 1].title} →</a>')
    page = pages[at]
    return _html(
        f"<nav>{''.join(links)}</nav><h1>{escape(page.title)}</h1><p class='lead'>{escape(page.line)}</p>"
    )


def controls(title: str = "", /, **elements: Any) -> Any:
    """Sliders and their like side by side; under each other on a phone.

    Args:
        title: of a group of many small ones, which stand closer.
        elements: marimo's, by name; a test finds one as ``[data-control="NAME"]``.
    """
    cells = "".join(
        f'<div class="control" role="group" aria-label="{escape(name.replace("_", " "))}" '
        f'data-control="{escape(name)}">{element.text}</div>'
        for name, element in elements.items()
    )
    if title:
        columns = 4 if len(elements) % 4 == 0 else 3
        return _html(
            # No <h2>: marimo makes an outline of those, which floats over the page.
            f'<div class="group" role="heading" aria-level="2">{escape(title)}</div>'
            f'<div class="controls small by{columns}">{cells}</div>'
        )
    return _html(f'<div class="controls">{cells}</div>')


def beside(*elements: Any) -> Any:
    """Buttons that belong together, as one control."""
    import marimo

    return marimo.Html(f'<div class="beside">{"".join(e.text for e in elements)}</div>')


def facts(entries: Mapping[str, str]) -> str:
    """Numbers under their names, large."""
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in entries.items()
    )
    return f'<dl class="facts">{cells}</dl>'


def words(*paragraphs: str) -> str:
    """Text; read out by a screen reader when it changes."""
    text = "".join(f"<p>{escape(p)}</p>" for p in paragraphs)
    return f'<div class="words" aria-live="polite">{text}</div>'


def charts(*figures: Chart | str) -> str:
    """Charts side by side, under each other where there is no room; other figures come as HTML text."""
    drawn = "".join(draw_svg(f) if isinstance(f, Chart) else f for f in figures)
    return f'<div class="charts">{drawn}</div>'


def samples(texts: Iterable[tuple[int, str]]) -> str:
    """What a model writes, checkpoint by checkpoint."""
    rows = "".join(
        f"<dt>step {thousands(step)}</dt><dd>{escape(text)}</dd>" for step, text in texts
    )
    return f'<dl class="samples">{rows}</dl>' if rows else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose rows begin with their name."""
    head = "".join(f"<th scope=col>{escape(h)}</th>" for h in heads)
    body = "".join(
        f"<tr><th scope=row>{escape(name)}</th>{''.join(f'<td>{escape(c)}</td>' for c in cells)}</tr>"
        for name, *cells in rows
    )
    return f'<div class="rows"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def values(numbers: Mapping[str, Any]) -> str:
    """Values to the last digit, unseen: ``[data-value="NAME"]`` holds ``repr`` of what the page shows."""
    return "".join(
        f'<span hidden data-value="{escape(name)}">{escape(repr(value))}</span>'
        for name, value in numbers.items()
    )


def show(*parts: str) -> Any:
    """Put parts of HTML text under each other, as a cell's output."""
    return _html("".join(parts))


def _html(text: str) -> Any:
    import marimo

    # A number keeps its unit on its line.
    return marimo.Html(f'<div class="bptt">{text.replace(" %", chr(0xA0) + "%")}</div>')
