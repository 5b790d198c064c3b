"""The Python on the pages runs as it stands there."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
FOLDERS = ("estimators", "remedies")
PAGES = [page for folder in FOLDERS for page in sorted((DOCS / folder).glob("*.md"))]
PAGES += [DOCS / "diagnose.md", DOCS / "lab.md", DOCS / "tasks.md"]
TABLES = {"remember_first"}  # a command and its result, no Python


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_page(page):
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    assert blocks or page.stem in TABLES
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), {})


def test_there_are_pages():
    assert PAGES
