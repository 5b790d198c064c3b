"""The ledger for readers: a table in the terminal, a JSON document, a Markdown page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from bptt.experiments.claims.registry import FAILS, HOLDS, IN_PART, NOT_JUDGED, NOT_RUN, Claim
from bptt.experiments.claims.run import Result
from bptt.shown.console import plain
from bptt.shown.text import printable

_COLOURS = {
    HOLDS: "green", IN_PART: "yellow", FAILS: "red", NOT_JUDGED: "blue", NOT_RUN: "dim",
}  # fmt: skip


def document(claims: Mapping[str, Claim], results: Sequence[Result]) -> list[dict[str, Any]]:
    """What ``--json`` prints: one object a claim."""
    rows = []
    for result in results:
        claim = claims[result.id]
        rows.append(
            {
                "id": claim.id,
                "source": claim.source,
                "place": claim.place,
                "statement": claim.statement,
                "published": claim.published,
                "measured": result.measured,
                "verdict": result.verdict,
                "seconds": round(result.seconds, 3),
                "setting": claim.setting,
                "rule": claim.rule,
                "why": claim.why,
                "share": result.share,
                "date": result.date,
                "where": result.where,
                "instead": result.instead,
                "quick": claim.quick,
                "figures": _plain(result.figures),
            }
        )
    return rows


def _plain(value: Any) -> Any:
    """What JSON can say: it has no word for infinity and NaN."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def table(claims: Mapping[str, Claim], results: Sequence[Result]) -> Table:
    """The terminal's."""
    view = Table(show_lines=True)
    view.add_column("id")
    for head in ("statement, published", "measured"):
        view.add_column(head, ratio=1)
    view.add_column("verdict", max_width=13)
    view.add_column("s", justify="right")
    for result in results:
        claim = claims[result.id]
        words = (f"{claim.statement} ({claim.published})", result.measured)
        view.add_row(
            claim.id,
            *words,
            plain(result.verdict, _COLOURS[result.verdict]),
            f"{result.seconds:.1f}",
        )
    return view


def summary(results: Sequence[Result]) -> str:
    """How many of each verdict.

    Example:
        >>> summary([Result("A1", HOLDS, ""), Result("A3", FAILS, "")])
        '1 holds, 1 does not hold'
    """
    counts = {v: sum(r.verdict == v for r in results) for v in _COLOURS}
    return ", ".join(f"{n} {v}" for v, n in counts.items() if n)


def markdown(claims: Mapping[str, Claim], results: Sequence[Result], made: Sequence[str]) -> str:
    """The page ``docs/claims.md``.

    Args:
        claims: the whole ledger.
        results: one for each of its claims.
        made: lines on when, with what and on which machine.
    """
    lines = [
        "# The ledger of claims",
        "",
        "What lessons and papers state about backpropagation through time, re-made. Each verdict",
        "follows from the measurement by the rule beside it; none is typed in. Sources: **A** “BPTT:",
        "backprop on the unrolled graph” (tinkering course), **B** “Chapter 33: Backpropagation "
        "Through",
        "Time” (interactive textbook), **C** “RNNs and the Vanishing Gradient Problem” "
        "(EngineersOfAI),",
        "**D** “RNNs from Scratch: Backpropagation Through Time and Gradient Clipping” (MathIsimple),",
        "**E** a lesson on vanishing gradients that begins with BPTT multiplying Jacobians; papers by",
        "name.",
        "",
        "A verdict speaks of the published setting. **Not judged** says that the published setting or",
        "budget was not reached, and what is missing; nothing here is said not to hold at less than "
        "the",
        "published budget. The column *budget* has the share of it that was spent; 1 also where a",
        "statement needs none.",
        "",
        "This page is written by `bptt claims --markdown docs/claims.md` (`--all` for the long ones,",
        "`--data FOLDER` for P5, P6 and P11, `--resume FOLDER` to stop and go on).",
        "",
        *(f"- {line}" for line in made),
        f"- {summary(results)}",
        "",
        "| id | statement | published | measured | verdict | budget | date | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        c = claims[r.id]
        cells = [f"[{c.id}](#{anchor(c.id)})" if needs_words(r) else c.id, c.statement, c.published]
        cells += [r.measured, f"**{r.verdict}**", budget(r), r.date, f"{r.seconds:.1f}"]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    lines += ["", "## What is true instead", ""]
    for r in results:
        if needs_words(r):
            lines += _paragraph(claims[r.id], r)
    lines += ["## The rules", ""]
    for c in claims.values():
        lines += [
            f"- **{c.id}** ({c.source}; {c.place}). Setting of the source: {c.setting}. Rule: "
            f"{c.rule}. "
            f"It follows: {c.why}."
        ]
    return printable("\n".join(lines)) + "\n"  # what was kept comes from a file


def needs_words(result: Result) -> bool:
    """Whether a claim gets a paragraph of its own."""
    return result.verdict in (FAILS, IN_PART, NOT_JUDGED)


def budget(result: Result) -> str:
    """Of the published budget, what was spent.

    Example:
        >>> budget(Result("P2", NOT_JUDGED, "", share=10 / 210))
        '0.048'
    """
    return "" if result.verdict == NOT_RUN else f"{result.share:.2g}"


def anchor(id: str) -> str:
    """The heading's address on the page."""
    return f"claim-{id.lower()}"


def _paragraph(claim: Claim, result: Result) -> list[str]:
    return [
        f"({anchor(claim.id)})=",
        f"### {claim.id}: {result.verdict}",
        "",
        f"{claim.statement} (Source: {claim.source}; published: {claim.published}.)",
        "",
        result.instead or "No more is known than the figures say.",
        "",
        f"Parts: {result.where}.",
        "",
    ]


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")
