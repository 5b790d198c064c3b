"""The directive ``drawn``: a figure that the package's own functions compute and draw at every build.

    ```{drawn} lyapunov
    The largest exponent crosses zero at a gain of {crossing}.
    ```

runs ``docs/figures/lyapunov.py``, whose ``draw()`` returns the panels and the numbers of the caption. The
panels stand in the page as SVG, in the page's own ink and letters, light and dark alike. A file with
several figures is called with the name of one: ``said:adam`` runs ``draw("adam")`` of ``said.py``.

A figure is drawn anew where what it is made from has changed (``kept.py``): its file, the files that it
names, the package.
"""

from __future__ import annotations

import ast
import importlib.util
import logging
from html import escape
from pathlib import Path
from typing import Any

import torch
from docutils import nodes
from kept import kept
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from bptt.report.chart_figure import style, to_svg

FIGURES = Path(__file__).parents[1] / "figures"


def draw(name: str) -> tuple[list[str], dict[str, str]]:
    """Run one figure's file: its panels as SVG, and the numbers that its caption may name."""
    file, _, part = name.partition(":")
    specification = importlib.util.spec_from_file_location(f"figure_{file}", FIGURES / f"{file}.py")
    assert specification is not None
    assert specification.loader is not None
    module: Any = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    torch.manual_seed(0)
    with style():
        figures, numbers = module.draw(part) if part else module.draw()
        slug = name.replace(":", "-")
        svgs = [to_svg(figure, f"{slug}-{place}") for place, figure in enumerate(figures)]
    return svgs, numbers


def made_from(name: str) -> list[Path]:
    """A figure's own file, those of the same folder that it imports, and those that it reads."""
    file = FIGURES / f"{name.partition(':')[0]}.py"
    found, reads = [file], list[str]()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (FIGURES / f"{node.module}.py").is_file():
            found.append(FIGURES / f"{node.module}.py")
        if isinstance(node, ast.Constant) and str(node.value).endswith((".json", ".csv")):
            reads.append(str(node.value))
    return found + [FIGURES.parent / Path(read).name for read in reads]


class Drawn(SphinxDirective):
    """One figure: panels side by side where there is room, and a caption with computed numbers."""

    has_content = True
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Draw, and fill the caption."""
        name = self.arguments[0]
        files = made_from(name)
        for file in files:
            self.env.note_dependency(str(file))
        svgs, numbers = kept(f"figure-{name.replace(':', '-')}", [name, *files], lambda: draw(name))
        words = "\n".join(self.content)
        for key, value in numbers.items():
            if "{" + key + "}" not in words:
                raise self.warning(f"the caption of {name} does not name {{{key}}}")
            words = words.replace("{" + key + "}", value)
        if "{" in words.replace("\\", "") and "$" not in words:
            raise self.warning(f"the caption of {name} names a number that draw() does not return")
        heard = escape(" ".join(words.split()), quote=True)
        panels = "".join(f'<div class="panel">{svg}</div>' for svg in svgs)
        opening = f'<figure class="drawn"><div class="panels" role="img" aria-label="{heard}">'
        caption = nodes.container(classes=["drawn-caption"])
        self.state.nested_parse(self.content.__class__(words.splitlines()), 0, caption)
        return [
            nodes.raw("", f"{opening}{panels}</div><figcaption>", format="html"),
            *caption.children,
            nodes.raw("", "</figcaption></figure>", format="html"),
        ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the directive known."""
    app.add_directive("drawn", Drawn)
    logging.getLogger("bptt").setLevel(logging.WARNING)  # what a figure's training says is no news
    return {"parallel_read_safe": True}
