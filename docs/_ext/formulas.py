"""Formulas as MathML, made at build time: every browser draws it, without a script from elsewhere.

The letters go along: without a font that knows about mathematics, which not every machine has, browsers
set subscripts on the line. ziamath carries STIX Two Math.

A browser breaks no line inside of one formula. So each is set in parts that may stand below each other
where there is no room, on a phone: what ``\\qquad`` separates, and within that what begins with a relation
or a sum's sign that stands in no bracket.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

# Commands, what \\left and \\right stand before with them, and letters.
TOKEN = re.compile(r"\\(?:left|right)(?![a-zA-Z])\s*(?:\\[a-zA-Z]+|\\.|.)|\\[a-zA-Z]+|\\.|.", re.S)
OPENS = {"{", "(", "[", r"\lVert", r"\lvert", r"\langle", r"\begin", r"\lfloor", r"\lceil"}
CLOSES = {"}", ")", "]", r"\rVert", r"\rvert", r"\rangle", r"\end", r"\rfloor", r"\rceil"}
BREAKS = {"=", "+", "-", r"\approx", r"\le", r"\ge", r"\leftarrow"}


def parts(latex: str) -> list[list[str]]:
    """A formula's parts: what ``\\qquad`` separates, each cut before its relations and sums' signs.

    Example:
        >>> parts(r"a = (b + c) + d,\\qquad e = f")
        [['a ', '= (b + c) ', '+ d,'], [' e ', '= f']]
    """
    found: list[list[str]] = [[""]]
    depth = 0
    for token in TOKEN.findall(latex):
        depth += token in OPENS or bool(re.match(r"\\left(?![a-zA-Z])", token))
        depth -= token in CLOSES or bool(re.match(r"\\right(?![a-zA-Z])", token))
        if depth == 0 and token == r"\qquad":
            found.append([""])
            continue
        if depth == 0 and token in BREAKS and _ends_a_term(found[-1][-1]):
            found[-1].append("")
        found[-1][-1] += token
    return found if depth == 0 else [[latex]]


def _ends_a_term(text: str) -> bool:
    """Whether a sign that follows stands between two terms: no first one, no exponent's, no limit's."""
    text = text.rstrip()
    return bool(text) and text[-1] not in "=+-(,_^" and not re.search(r"\\(to|in|,|;|quad)$", text)


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


def setup(app: Sphinx) -> dict[str, bool]:
    """Take the place of MathJax."""
    app.connect("config-inited", _take_letters)
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True}
