"""Formulas as MathML, made at build time: every browser draws it, without a script from elsewhere.

The letters go along: without a font that knows about mathematics, which not every machine has, browsers
set subscripts on the line. ziamath carries STIX Two Math.

A browser breaks no line inside of one formula. So each is set in parts (``pieces.py``) that may stand
below each other where there is no room, on a phone.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from pieces import parts
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from written import lines_with_math


def _mathml(latex: str, display: str) -> str:
    pieces = parts(latex)
    return " ".join(
        f'<span class="formula-part">{"<wbr>".join(_one(piece, display) for piece in of)}</span>'
        for of in pieces
    )


def _one(latex: str, display: str) -> str:
    try:
        made = convert(latex, display="inline")
    except Exception as error:
        raise ExtensionError(f"a formula that is not understood: {latex}", error) from error
    if display == "block":
        made = made.replace('display="inline"', 'display="inline" displaystyle="true"', 1)
    # A sign at the beginning is still one between two terms.
    return re.sub(r"(<mrow>)<mo(?=[ >])", r'\1<mo form="infix"', made, count=1)


def _inline(visitor, node: nodes.math) -> None:
    visitor.body.append(_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def _block(visitor, node: nodes.math_block) -> None:
    visitor.body.append(f'<div class="formula">{_mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def _take_letters(_: Sphinx, config: Any) -> None:
    package = find_spec("ziamath")
    if package is None or package.origin is None:
        raise ExtensionError("no ziamath, whose font the formulas need: pip install 'bptt[docs]'")
    config.html_static_path.append(str(Path(package.origin).parent / "fonts"))


def _set(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = lines_with_math(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Take the place of MathJax."""
    app.connect("config-inited", _take_letters)
    app.connect("autodoc-process-docstring", _set, priority=400)  # before napoleon's
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True}
