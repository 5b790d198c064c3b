"""What a claim is, what measuring it gives, the list of all of them, and how they are run."""

from __future__ import annotations

import difflib
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import torch
from rich.table import Table

from bptt.errors import ArgumentError, BpttError, optional
from bptt.experiments import count_cores, run_in_processes
from bptt.shown.console import plain
from bptt.shown.text import printable

# What a claim is, what measuring it gives, and the list of all of them.
#
# A verdict is never typed in: a claim's function says of each part of the statement whether it held,
# and the verdict follows from the parts. All hold: "holds". None does: "does not hold". Else: "holds
# in part", with the parts named.

HOLDS, IN_PART, FAILS, NOT_RUN = "holds", "holds in part", "does not hold", "not run"

# The files that hold claims.
SECTIONS = (
    "exact", "products", "decay", "reach", "ladder", "cuts", "truncation", "papers",
)  # fmt: skip
# The order in which the ledger shows them, by subject; others follow as they were entered.
ORDER = (
    "A1", "A2", "B1", "B2", "B1x", "D1", "C6", "C5", "B3", "A3", "B4", "A4", "E1", "C3", "C4", "C8",
    "B6", "C7", "D2", "E3", "C16", "B5", "B5x", "B5b", "C17", "E2", "C12", "C9", "A7", "A8", "D4",
    "D5", "A10", "B7", "B7x", "C14", "B8", "B9", "C11", "C10", "C13", "P1", "P10", "P4", "P2", "P3",
    "P7", "P8", "P9", "P11", "P5", "P6",
)  # fmt: skip


class NotRun(BpttError, RuntimeError):
    """A claim needs something that is not here."""


@dataclass(frozen=True)
class Measurement:
    """What re-making a claim gave.

    Attributes:
        text: the figures, in words.
        parts: each part of the statement, and whether it held; None where it was not measured here.
        instead: what is true instead; asked for wherever a part did not hold.
        figures: the numbers behind the text, as JSON takes them.

    Example:
        >>> Measurement("0.5 and 0.998", {"the two are equal": False}, "they differ").verdict
        'does not hold'
        >>> Measurement("", {"it shrinks": True, "on the device": None}).verdict
        'holds in part'
    """

    text: str
    parts: dict[str, bool | None]
    instead: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # NumPy's truth values are not Python's: `numpy.True_ is True` is false.
        plain = {part: None if held is None else bool(held) for part, held in self.parts.items()}
        object.__setattr__(self, "parts", plain)

    @property
    def verdict(self) -> str:
        """Out of the parts alone."""
        held = list(self.parts.values())
        if all(h is None for h in held):
            return NOT_RUN
        if all(h is True for h in held):
            return HOLDS
        return IN_PART if any(h is True for h in held) else FAILS

    @property
    def where(self) -> str:
        """Which parts hold, which do not, which were not measured."""
        words = {True: HOLDS, False: FAILS, None: "not measured here"}
        return "; ".join(f"{part}: {words[held]}" for part, held in self.parts.items())


@dataclass(frozen=True)
class Claim:
    """One published statement and the function that re-makes it.

    Attributes:
        id: as the ledger calls it.
        source: who states it.
        statement: in our own words.
        published: the published figure.
        rule: how the parts are judged.
        quick: under a minute on two cores.
        measure: makes the measurement.
    """

    id: str
    source: str
    statement: str
    published: str
    rule: str
    quick: bool
    measure: Callable[[], Measurement]


_REGISTERED: dict[str, Claim] = {}


def claim(
    *, id: str, source: str, statement: str, published: str, rule: str, quick: bool = True
) -> Callable[[Callable[[], Measurement]], Callable[[], Measurement]]:
    """Enter a function into the ledger; see :class:`Claim` for the arguments."""

    def enter(measure: Callable[[], Measurement]) -> Callable[[], Measurement]:
        known = _REGISTERED.get(id)
        if known is not None and known.measure.__qualname__ != measure.__qualname__:
            raise ArgumentError("one function a claim", f"{id} twice", "give the second its own id")
        _REGISTERED[id] = Claim(id, source, statement, published, rule, quick, measure)
        return measure

    return enter


def ledger() -> dict[str, Claim]:
    """Every claim by its id, in :data:`ORDER`."""
    for section in SECTIONS:
        import_module(f"bptt.experiments.claims.{section}")
    return {id: _REGISTERED[id] for id in sorted(_REGISTERED, key=_place)}


def _place(id: str) -> int:
    return ORDER.index(id) if id in ORDER else len(ORDER)


def find(names: Iterable[str]) -> list[Claim]:
    """The claims of these ids, in any case of letters.

    Raises:
        ArgumentError: an id is unknown; near ones are named.

    Example:
        >>> [c.id for c in find(["a3", "B4"])]
        ['A3', 'B4']
    """
    known = ledger()
    folded = {id.lower(): id for id in known}
    found = []
    for name in names:
        id = folded.get(name.lower())
        if id is None:
            near = difflib.get_close_matches(name.lower(), folded, n=4, cutoff=0.4)
            letter = [low for low in folded if low[:1] == name[:1].lower()][:4]
            words = ", ".join(folded[low] for low in near or letter or list(folded)[:4])
            raise ArgumentError("the id of a claim", repr(name), f"did you mean {words}?")
        found.append(known[id])
    return found


# Running claims: each from the same random state, timed, on every core; a failure is a result too.


@dataclass(frozen=True)
class Result:
    """What became of one claim.

    Attributes:
        id: of the claim.
        verdict: "holds", "holds in part", "does not hold" or "not run".
        measured: the figures in words; for "not run" the reason.
        where: which parts hold.
        instead: what is true instead.
        seconds: it took.
        figures: the numbers behind the words.
        failed: it was not run because its code broke, and not because something is missing here.
    """

    id: str
    verdict: str
    measured: str
    where: str = ""
    instead: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    failed: bool = False


def run_claim(claim: Claim) -> Result:
    """Re-make one claim, on one thread, from seed 0; the caller's random states stay as they were.

    Whatever goes wrong inside becomes "not run" with the reason: one claim must not take the others
    with it, and must not be dropped.
    """
    states = random.getstate(), np.random.get_state()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    began = time.perf_counter()
    try:
        with torch.random.fork_rng():
            random.seed(0)
            np.random.seed(0)
            torch.manual_seed(0)
            found = claim.measure()
            return _result(claim, found, time.perf_counter() - began)
    except NotRun as reason:
        return Result(claim.id, NOT_RUN, str(reason), seconds=time.perf_counter() - began)
    except Exception as error:
        why = f"it failed with {type(error).__name__}: {error}"
        return Result(claim.id, NOT_RUN, why, seconds=time.perf_counter() - began, failed=True)
    finally:
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])


def _result(claim: Claim, found: Measurement, seconds: float) -> Result:
    instead = "" if found.verdict == "holds" else found.instead
    return Result(claim.id, found.verdict, found.text, found.where, instead, seconds, found.figures)


def not_asked(claim: Claim) -> Result:
    """The line of a claim that this run leaves out."""
    return Result(claim.id, NOT_RUN, f"not asked for: `bptt claims {claim.id}` runs it")


def run_claims(
    claims: Sequence[Claim],
    *,
    jobs: int | None = None,
    done: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Re-make claims, several at a time.

    Args:
        claims: which.
        jobs: processes; default one a core. 1 runs them here.
        done: called with each result as it comes.

    Returns:
        The results in the order of the claims.

    Cost: the sum of theirs over the cores.
    """
    jobs = min(optional("jobs", jobs) or count_cores(), len(claims))
    found: dict[str, Result] = {}
    for result in _each(claims, jobs):
        found[result.id] = result
        if done is not None:
            done(result)
    return [found[claim.id] for claim in claims]


def _by_id(id: str) -> Result:
    (claim,) = find([id])
    return run_claim(claim)


def _each(
    claims: Sequence[Claim], jobs: int, work: Callable[[str], Result] = _by_id
) -> Iterator[Result]:
    if jobs <= 1:
        yield from map(run_claim, claims)
        return
    # Long ones first, so that no core waits for one at the end.
    order = sorted(claims, key=lambda claim: claim.quick)
    broken = []
    for id, outcome in run_in_processes(work, [c.id for c in order], jobs):
        if isinstance(outcome, Result):
            yield outcome
        else:
            broken.append(id)
    # A process that dies takes all claims of its pool with it: each again, alone, to find which it was.
    for id in broken:
        for _, outcome in run_in_processes(work, [id], 1):
            if isinstance(outcome, Result):
                yield outcome
            else:
                why = f"its process ended with {type(outcome).__name__}: {outcome}"
                yield Result(id, NOT_RUN, why, failed=True)


# The ledger for readers: a table in the terminal, a JSON document, a Markdown page.

_COLOURS = {HOLDS: "green", IN_PART: "yellow", FAILS: "red", NOT_RUN: "dim"}


def document(claims: Mapping[str, Claim], results: Sequence[Result]) -> list[dict[str, Any]]:
    """What ``--json`` prints: one object a claim."""
    rows = []
    for result in results:
        claim = claims[result.id]
        rows.append(
            {
                "id": claim.id,
                "source": claim.source,
                "statement": claim.statement,
                "published": claim.published,
                "measured": result.measured,
                "verdict": result.verdict,
                "seconds": round(result.seconds, 3),
                "rule": claim.rule,
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
        "backprop on the unrolled graph” (tinkering course), **B** “Chapter 33: Backpropagation Through",
        "Time” (interactive textbook), **C** “RNNs and the Vanishing Gradient Problem” (EngineersOfAI),",
        "**D** “RNNs from Scratch: Backpropagation Through Time and Gradient Clipping” (MathIsimple),",
        "**E** a lesson on vanishing gradients that begins with BPTT multiplying Jacobians; papers by",
        "name.",
        "",
        "This page is written by `bptt claims --markdown docs/claims.md` (`--all` for the long ones,",
        "`--data FOLDER` for P5, P6 and P11, `--known FILE.json` to keep earlier results).",
        "",
        *(f"- {line}" for line in made),
        f"- {summary(results)}",
        "",
        "| id | statement | published | measured | verdict | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for r in results:
        c = claims[r.id]
        cells = [f"[{c.id}](#{anchor(c.id)})" if needs_words(r) else c.id, c.statement, c.published]
        cells += [r.measured, f"**{r.verdict}**", f"{r.seconds:.1f}"]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    lines += ["", "## What is true instead", ""]
    for r in results:
        if needs_words(r):
            lines += _paragraph(claims[r.id], r)
    lines += ["## The rules", ""]
    lines += [f"- **{c.id}** ({c.source}): {c.rule}." for c in claims.values()]
    return printable("\n".join(lines)) + "\n"  # what was kept comes from a file


def needs_words(result: Result) -> bool:
    """Whether a claim gets a paragraph of its own."""
    return result.verdict in (FAILS, IN_PART)


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
