"""A page as a notebook shows it: cells that run one after another, and below each what it displays.

    ```{cell}
    model = torch.nn.GRU(3, 5)
    model
    ```

The last line's value stands below the cell as a notebook would show it: what its ``_repr_html_`` says, a
figure as a picture, else its text; before it, what was printed. All cells of a page share their names.
"""

from __future__ import annotations

import ast
import contextlib
import io
from html import escape
from typing import Any

import torch
from docutils import nodes
from kept import kept
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from bptt.report.chart_figure import to_svg


def run(cells: list[str], name: str) -> list[str]:
    """Run cells one after another; what the last one prints, and what it displays as HTML.

    Raises:
        ExtensionError: a cell fails.
    """
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    printed = shown = ""
    for number, cell in enumerate(cells, 1):
        tree, said, value = ast.parse(cell), io.StringIO(), None
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        where = f"{name}, cell {number}"
        try:
            with contextlib.redirect_stdout(said):
                exec(compile(tree, where, "exec"), names)
                if isinstance(last, ast.Expr):
                    value = eval(compile(ast.Expression(last.value), where, "eval"), names)
        except Exception as error:
            raise ExtensionError(f"{where} fails", error) from error
        printed, shown = said.getvalue().rstrip(), _display(value, f"{name}-{number}")
    return [printed, shown]


def _display(value: Any, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, Figure):
        return f'<figure class="drawn"><div class="panel wide">{to_svg(value, name)}</div></figure>'
    if hasattr(value, "_repr_html_"):
        return value._repr_html_()
    return f"<pre>{escape(repr(value))}</pre>"


class Cell(SphinxDirective):
    """One cell, and what it displays."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """The code, then its output."""
        cells = self.env.temp_data.setdefault("cells", [])
        code = "\n".join(self.content)
        cells.append(code)
        page = self.env.docname
        name = f"{page.replace('/', '-')}"
        printed, shown = kept(f"cell-{name}-{len(cells)}", cells, lambda: run(list(cells), name))
        found: list[nodes.Node] = [nodes.literal_block(code, code, language="python")]
        if printed:
            found.append(
                nodes.literal_block(printed, printed, language="text", classes=["printed"])
            )
        if shown:
            found.append(nodes.raw("", f'<div class="displayed">{shown}</div>', format="html"))
        return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the directive known."""
    app.add_directive("cell", Cell)
    return {"parallel_read_safe": True}
