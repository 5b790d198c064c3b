"""The ledger as table, document and page: all of it, and a paragraph where something does not hold."""

import io
import json

from rich.console import Console

from bptt.experiments.claims import Result, ledger, not_asked
from bptt.experiments.claims.page import anchor, document, markdown, summary, table

CLAIMS = ledger()
RESULTS = [
    Result("A1", "holds", "a|b [1, 2]", "x: holds", "", 0.25, {1: [1.0, float("inf")]}),
    Result("A3", "does not hold", "0.5", "x: does not hold", "They differ.", 1.0),
    Result("B4", "holds in part", "1", "x: holds; y: does not hold", "Both explode."),
    Result("P5", "not run", "expected a file"),
]


def test_the_document_has_the_keys_that_were_promised():
    rows = json.loads(json.dumps(document(CLAIMS, RESULTS)))
    promised = {"id", "source", "statement", "published", "measured", "verdict", "seconds"}
    assert [row["id"] for row in rows] == ["A1", "A3", "B4", "P5"]
    assert all(promised <= set(row) for row in rows)
    assert rows[0]["figures"] == {"1": [1.0, "inf"]}  # JSON has no infinity
    assert rows[1]["statement"] == CLAIMS["A3"].statement


def test_the_page_lists_all_and_explains_what_does_not_hold():
    known = {r.id: r for r in RESULTS}
    every = [known.get(c.id, not_asked(c)) for c in CLAIMS.values()]
    page = markdown(CLAIMS, every, ["date: 2000-01-01", "machine: a"])
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(CLAIMS)
    assert all(r.count(" | ") == 7 for r in rows)  # eight cells: no bar of a text splits one
    assert r"a\|b" in page
    assert "date: 2000-01-01" in page
    for id, words in (("A3", "They differ."), ("B4", "Both explode.")):
        assert f"({anchor(id)})=" in page
        assert words in page
    assert f"({anchor('A1')})=" not in page
    for claim in CLAIMS.values():
        for words in (claim.place, claim.setting, claim.rule, claim.why):
            assert words in page, claim.id


def test_the_table_shows_brackets_as_they_are():
    console = Console(file=io.StringIO(), width=120)
    console.print(table(CLAIMS, RESULTS))
    text = console.file.getvalue()
    assert "a|b [1, 2]" in text
    assert "does not hold" in text
    assert "not run" in text


def test_the_summary_counts():
    assert summary(RESULTS) == "1 holds, 1 holds in part, 1 does not hold, 1 not run"
