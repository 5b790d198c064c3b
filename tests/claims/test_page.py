"""The page and the figures that a run of the ledger left: one run, and no verdict that goes beyond it."""

import json
import re
from pathlib import Path

import pytest

from bptt.experiments.claims import ledger

DOCS = Path(__file__).parents[2] / "docs"
ROWS = {
    row[0].split("]")[0].strip("["): row
    for line in (DOCS / "claims.md").read_text("utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| id ")
    for row in [re.split(r"(?<!\\) \| ", line.strip("| "))]
}
KEPT = {row["id"]: row for row in json.loads((DOCS / "claims.json").read_text("utf-8"))}


def test_every_row_is_on_the_page():
    assert list(ROWS) == list(ledger())


@pytest.mark.parametrize("id", ledger())
def test_no_row_says_more_than_was_measured(id):
    _, _, published, measured, verdict, *rest = ROWS[id]
    assert published
    assert measured
    if verdict == "**not run**":
        assert id not in KEPT
        return
    budget, date, _ = rest
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", date)
    assert 0 < float(budget) <= 1
    assert verdict != "**does not hold**" or float(budget) == 1
    assert (verdict.strip("*"), date) == (KEPT[id]["verdict"], KEPT[id]["date"])
    words = " ".join(KEPT[id]["measured"].split()).replace("|", r"\|")
    assert " ".join(measured.split()) == words
