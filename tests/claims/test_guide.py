"""The guide: its Python runs, and every claim it leans on exists."""

import re
from pathlib import Path

from bptt.experiments.claims import ledger

GUIDE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text("utf-8")


def test_every_claim_it_names_is_in_the_ledger():
    named = set(re.findall(r"\[(\w+)\]\(claims\.md\)", GUIDE)) - {"ledger"}
    assert len(named) > 30
    assert named <= set(ledger())


def test_every_claim_it_names_was_measured():
    """On the page that a run of all claims wrote: advice may not wait for its measurement."""
    page = (Path(__file__).parents[2] / "docs" / "claims.md").read_text("utf-8")
    rows = re.findall(r"^\| \[?(\w+)\]?(?:\(#[\w-]+\))? \|.*\| \*\*([a-z ]+)\*\* \|", page, re.M)
    verdicts = dict(rows)
    assert sorted(verdicts) == sorted(ledger())
    named = set(re.findall(r"\[(\w+)\]\(claims\.md\)", GUIDE)) - {"ledger"}
    assert not [id for id in sorted(named) if verdicts[id] == "not run"]


def test_the_page_says_what_the_code_judges_by():
    """A statement, a published figure or a rule that was changed wants its claim measured again."""
    page = (Path(__file__).parents[2] / "docs" / "claims.md").read_text("utf-8")
    for claim in ledger().values():
        for words in (claim.statement, claim.published, claim.rule):
            assert words.replace("|", "\\|") in page, claim.id


def test_every_symptom_names_one():
    sections = re.split(r"^## ", GUIDE, flags=re.M)[1:]
    bare = [text.splitlines()[0] for text in sections if "](claims.md)" not in text]
    assert sections
    assert not bare


def test_its_python_runs():
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", GUIDE, re.M | re.S), 1):
        exec(compile(block, f"guide.md, block {number}", "exec"), {})
