"""What the course's pages are made of: printed output, answers to open, rows of the ledger.

    ```{ledger} A1 D1
    ```

puts rows of ``claims.md`` on a page: verdict and measurement come from there, by id.

    :::{answer}
    …
    :::

is closed until a reader opens it. Python on a page of ``course/`` is run as the page is read, and what it
prints stands below it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
from html import escape
from pathlib import Path
from typing import Any

import torch
from docutils import nodes
from kept import kept
from rows import LEDGER, claims
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

DOCS = Path(__file__).parents[1]
COURSE = DOCS / "course"
COVERAGE = COURSE / "coverage.csv"
LONGEST = 260  # characters of a measurement that are shown; the ledger has all of them


class Ledger(SphinxDirective):
    """What is usually said, and what came out: rows of the ledger, by id."""

    required_arguments, optional_arguments, final_argument_whitespace = 1, 0, True

    def run(self) -> list[nodes.Node]:
        """One paragraph a row."""
        self.env.note_dependency(str(LEDGER))
        known, lines = claims(), []
        for id in self.arguments[0].split():
            if id not in known:
                raise self.warning(f"the ledger has no row {id}")
            row = known[id]
            place = f"#{row['anchor']}" if row["anchor"] else "../claims.md"
            measured = row["measured"]
            if len(measured) > LONGEST:
                measured = measured[:LONGEST].rsplit(";", 1)[0] + " …"
            lines += [
                f"- [{id}]({place}) {row['statement']} **{row['verdict']}**",
                "",
                f"  {_plain(measured)}",
                "",
            ]
        box = nodes.container(classes=["verdicts"])
        self.state.nested_parse(self.content.__class__(lines), 0, box)
        for item in box.findall(nodes.list_item):
            verdict = next(iter(item.findall(nodes.strong)))
            verdict["classes"].append("verdict-" + verdict.astext().replace(" ", "-"))
        return [box]


def _plain(text: str) -> str:
    """Text of the ledger as Markdown that means only itself."""
    return re.sub(r"([*_`<>\[\]])", r"\\\1", text)


class Answer(SphinxDirective):
    """Closed until it is opened; its Python runs all the same."""

    has_content = True
    optional_arguments, final_argument_whitespace = 1, True

    def run(self) -> list[nodes.Node]:
        """``<details>`` around whatever stands inside."""
        inside = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, inside)
        title = escape(self.arguments[0] if self.arguments else "Answer")
        opening = f'<details class="answer"><summary>{title}</summary>'
        return [
            nodes.raw("", opening, format="html"),
            *inside.children,
            nodes.raw("", "</details>", format="html"),
        ]


class Coverage(SphinxDirective):
    """The table of ``coverage.csv``: lesson, line, what it is, and what delivers it."""

    def run(self) -> list[nodes.Node]:
        """A table for each lesson."""
        self.env.note_dependency(str(COVERAGE))
        with COVERAGE.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        lines = []
        for lesson in sorted({row["lesson"] for row in rows}):
            of = [row for row in rows if row["lesson"] == lesson]
            lines += ["", f"**Lesson {lesson}: {len(of)} entries**", ""]
            lines += ["| line | kind | what | delivered by |", "|--:|---|---|---|"]
            lines += [
                f"| {r['line']} | {r['kind']} | {_plain(r['what'])} | {delivered(r['by'])} |"
                for r in of
            ]
        box = nodes.container(classes=["coverage"])
        self.state.nested_parse(self.content.__class__(lines), 0, box)
        return [box]


def delivered(by: str) -> str:
    """Commands and names of the interface as code, pages as links."""
    shown = []
    for one in by.split("; "):
        if one.endswith(".md"):
            path = one.removeprefix("course/") if one.startswith("course/") else f"../{one}"
            shown.append(f"[{one.removesuffix('.md')}]({path})")
        else:
            shown.append(f"`{one}`")
    return ", ".join(shown)


def print_output(app: Sphinx, doctree: nodes.document) -> None:
    """Run the Python of a page of the course, and put what it prints below it."""
    page = app.env.docname
    if not page.startswith("course/"):
        return
    for number, block in enumerate(list(doctree.findall(nodes.literal_block)), 1):
        if block.get("language") != "python":
            continue
        name = f"{page}, block {number}"
        where = f"output-{page.replace('/', '-')}-{number}"
        text = kept(where, [block.astext()], lambda: _run(block.astext(), name))  # noqa: B023
        if text:
            shown = nodes.literal_block(text, text, language="text", classes=["printed"])
            block.parent.insert(block.parent.index(block) + 1, shown)


def _run(code: str, name: str) -> str:
    """What a program prints."""
    said = io.StringIO()
    torch.manual_seed(0)
    try:
        with contextlib.redirect_stdout(said):
            exec(compile(code, name, "exec"), {})
    except Exception as error:
        raise ExtensionError(f"{name} of its code fails", error) from error
    return said.getvalue().rstrip()


def setup(app: Sphinx) -> dict[str, Any]:
    """Make the directives known."""
    app.add_directive("ledger", Ledger)
    app.add_directive("answer", Answer)
    app.add_directive("coverage", Coverage)
    app.connect("doctree-read", print_output)
    return {"parallel_read_safe": True}
