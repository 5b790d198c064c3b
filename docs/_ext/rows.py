"""The rows of the ledger's table, as ``docs/claims.md`` has them; needs nothing but Python."""

from __future__ import annotations

import re
from pathlib import Path

LEDGER = Path(__file__).parents[1] / "claims.md"
ROW = re.compile(r"^\| (?:\[(\w+)\]\(#[\w-]+\)|(\w+)) \| (.*) \|$")


def claims() -> dict[str, dict[str, str]]:
    """The rows of the ledger's table by id."""
    found = {}
    for line in LEDGER.read_text("utf-8").splitlines():
        row = ROW.match(line)
        if row is None or row[2] == "id":  # the table's head
            continue
        cells = re.split(r"(?<!\\) \| ", row[3])
        if len(cells) > 4:
            statement, published, measured, verdict = (c.replace(r"\|", "|") for c in cells[:4])
            found[row[1] or row[2]] = {
                "statement": statement, "published": published, "measured": measured,
                "verdict": verdict.strip("*"), "anchor": f"claim-{row[1].lower()}" if row[1] else "",
            }  # fmt: skip
    return found
