"""What ``bptt remake --all --json`` measured, on the pages: figures, tables and single numbers by name.

    ```{remade} clipping
    The loss ends at {loss_none} nats; the largest norm is {largest_norm}.
    ```

draws the panels of that remake from ``docs/remade.json`` as SVG, in the page's own ink and letters, with
a caption whose words in braces are its numbers by their keys.

    ```{remakes} S1
    ```

is the table of all remakes of a lesson, or of all of them, measured beside published. In running text
``{made}`clipping loss_none` `` is one number; ``{published}`clipping loss_none` `` the lesson's.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

from bptt.report.remade import each_as_svg, panels_of, said

FILE = Path(__file__).parents[1] / "remade.json"


@lru_cache(maxsize=1)
def kept() -> dict[str, dict[str, Any]]:
    """The document's entries by name."""
    return {entry["name"]: entry for entry in json.loads(FILE.read_text(encoding="utf-8"))}


def number(name: str, key: str, field: str = "measured") -> str:
    """One number for a sentence.

    Raises:
        KeyError: there is no such remake, or it has no such number.
    """
    return said(kept()[name]["numbers"][key][field])


def filled(name: str, words: str) -> str:
    """Words whose keys in braces are replaced by the numbers of a remake."""
    known = kept()[name]["numbers"]
    return re.sub(r"\{(\w+)\}", lambda m: number(name, m[1]) if m[1] in known else m[0], words)


class Remade(SphinxDirective):
    """The figure of one remake, and a caption with its numbers."""

    has_content = True
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Draw, and fill the caption."""
        name = self.arguments[0]
        self.env.note_dependency(str(FILE))
        if name not in kept():
            raise self.warning(f"no remake is called {name}")
        entry = kept()[name]
        words = filled(name, "\n".join(self.content) or entry["shows"])
        if missing := re.search(r"\{(\w+)\}(?!`)", words):
            raise self.warning(f"{name} has no number {missing[1]}")
        panels = "".join(
            f'<div class="panel">{svg}</div>'
            for svg in each_as_svg(panels_of(entry), f"remade-{name}")
        )
        heard = escape(" ".join(words.split()), quote=True)
        caption = nodes.container(classes=["drawn-caption"])
        self.state.nested_parse(StringList(words.splitlines()), 0, caption)
        opening = f'<figure class="drawn"><div class="panels" role="img" aria-label="{heard}">'
        below = nodes.container()
        if self.env.docname.startswith(
            "course/"
        ):  # where a figure stands without its lesson's table
            again = f"`bptt remake {name}` makes it again, with the lesson's settings."
            lines = [*compared(entry), "", again]
            self.state.nested_parse(StringList(lines), 0, below)
        return [
            nodes.raw("", f"{opening}{panels}</div><figcaption>", format="html"),
            *caption.children,
            nodes.raw("", "</figcaption></figure>", format="html"),
            *below.children,
        ]


class Remakes(SphinxDirective):
    """All remakes, or those of one lesson: what each shows, its numbers, what comes out."""

    required_arguments = 0
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse what the document says as Markdown."""
        self.env.note_dependency(str(FILE))
        lesson = self.arguments[0] if self.arguments else None
        lines = [line for e in kept().values() if lesson in (None, e["lesson"]) for line in told(e)]
        made = nodes.container()
        self.state.nested_parse(StringList(lines), 0, made)
        return list(made.children)


def told(entry: dict[str, Any]) -> list[str]:
    """One remake as Markdown: settings, measured beside published, sentences."""
    place = f"{entry['lesson']}, lines {entry['lines'][0]} to {entry['lines'][1]}"
    lines = [f"**`{entry['name']}`** ({place}; {entry['seconds']:.0f} s): {entry['shows']}.", ""]
    lines += [f"*Settings*: {entry['settings']}.", "", *compared(entry)]
    return [*lines, "", " ".join(entry["sentences"]), ""]


def compared(entry: dict[str, Any]) -> list[str]:
    """Measured beside published as a table, and the reason where they differ."""
    lines = []
    printed = [n for n in entry["numbers"].values() if n["published"] is not None]
    if printed:
        lines += ["| | measured | published | agrees |", "|---|--:|--:|---|"]
        for n in printed:
            cells = (
                n["what"],
                said(n["measured"]),
                said(n["published"]),
                "yes" if n["agrees"] else "no",
            )
            lines.append("| " + " | ".join(c.replace("|", r"\|") for c in cells) + " |")
        lines.append("")
    for n in entry["numbers"].values():
        if n["why"]:
            lines += [f"- {n['what']}: {n['why']}."]
    return lines


class Made(SphinxRole):
    """One number of one remake: its name, a blank, the number's key."""

    def __init__(self, field: str) -> None:
        self.field = field

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The number as text."""
        name, _, key = self.text.partition(" ")
        try:
            return [nodes.Text(number(name, key, self.field))], []
        except KeyError:
            message = self.inliner.reporter.warning(f"no number {self.text}", line=self.lineno)
            return [nodes.Text(self.text)], [message]


def setup(app: Sphinx) -> dict[str, bool]:
    """Make directives and roles known."""
    app.add_directive("remade", Remade)
    app.add_directive("remakes", Remakes)
    app.add_role("made", Made("measured"))
    app.add_role("published", Made("published"))
    return {"parallel_read_safe": True}
