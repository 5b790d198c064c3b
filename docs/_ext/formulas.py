"""Formulas as MathML, made at build time: every browser draws it, without a script from elsewhere.

The letters go along: without a font that knows about mathematics, which not every machine has, browsers
set subscripts on the line. ziamath carries STIX Two Math.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def _mathml(latex: str, display: str) -> str:
    try:
        return convert(latex, display=display)
    except Exception as error:
        raise ExtensionError(f"a formula that is not understood: {latex}", error) from error


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


def setup(app: Sphinx) -> dict[str, bool]:
    """Take the place of MathJax."""
    app.connect("config-inited", _take_letters)
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True}
