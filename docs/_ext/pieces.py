"""A formula in the parts that it may be broken into; needs nothing but Python."""

from __future__ import annotations

import re

# Commands, what \\left and \\right stand before with them, and letters.
TOKEN = re.compile(r"\\(?:left|right)(?![a-zA-Z])\s*(?:\\[a-zA-Z]+|\\.|.)|\\[a-zA-Z]+|\\.|.", re.S)
OPENS = {"{", "(", "[", r"\lVert", r"\lvert", r"\langle", r"\begin", r"\lfloor", r"\lceil"}
CLOSES = {"}", ")", "]", r"\rVert", r"\rvert", r"\rangle", r"\end", r"\rfloor", r"\rceil"}
BREAKS = {"=", "+", "-", r"\cdot", r"\approx", r"\le", r"\ge", r"\leftarrow"}


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
