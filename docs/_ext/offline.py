"""These pages are read offline: a script, style, font or picture from elsewhere is a warning."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

LOADED = re.compile(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//[^"]*"')
LINKED = re.compile(r'<link\b(?![^>]*rel="canonical")[^>]*\bhref="(?:https?:)?//[^"]*"')


def check(app: Sphinx, error: Exception | None) -> None:
    """Look through every page that was written."""
    if error is not None or app.builder.format != "html":
        return
    for page in sorted(Path(app.outdir).rglob("*.html")):
        text = page.read_text("utf-8")
        for found in [*LOADED.findall(text), *LINKED.findall(text)]:
            logging.getLogger(__name__).warning("%s loads %s", page.name, found)


def setup(app: Sphinx) -> dict[str, bool]:
    """Check when everything is written."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
