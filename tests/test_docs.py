"""The Python on the pages of estimators and of the diagnosis runs as it stands there."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [*sorted((DOCS / "estimators").glob("*.md")), DOCS / "diagnose.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_page(page):
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    assert blocks
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), {})


def test_there_are_pages():
    assert PAGES
