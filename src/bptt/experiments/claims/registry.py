"""What a claim is, what measuring it gives, and the list of all of them.

A verdict speaks of the published setting. It is never typed in: a claim's function says of each part of
the statement whether it held, and the verdict follows from the parts.

- All parts hold: "holds". Some do, or some were not judged: "holds in part", with the parts named.
- No part holds: "does not hold".
- A part whose published setting or budget was not reached is not judged, with what is missing. A part
  that did not hold at less than the published budget is such a part too, by mechanism and not by hand.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from bptt.errors import ArgumentError, BpttError, real

HOLDS, IN_PART, FAILS = "holds", "holds in part", "does not hold"
NOT_JUDGED, NOT_RUN = "not judged", "not run"
VERDICTS = (HOLDS, IN_PART, FAILS, NOT_JUDGED, NOT_RUN)

# The files that hold claims.
SECTIONS = (
    "exact", "counted", "products", "decay", "reach", "ladder", "cuts", "statements", "truncation",
    "papers",
)  # fmt: skip
# The order in which the ledger shows them, by subject; others follow as they were entered.
ORDER = (
    "A1", "A2", "B1", "B2", "B1x", "D1", "C6", "C22", "C18", "C5", "B3", "B10", "A3", "B4", "A4", "E1",
    "C3", "C19", "E5", "C4", "C8", "B6", "C23", "C7", "D2", "E3", "C16", "E4", "B5", "B11", "B5x",
    "B5b", "C17", "E2", "C12", "C9", "C24", "A7", "A8", "D4", "D5", "C21", "D6", "A10", "B7", "B7x",
    "D7", "C14", "B8", "B9", "C11", "C10", "C13", "C20", "P1", "P10", "P4", "P2", "P3", "P7", "P8",
    "P9", "P11", "P5", "P6",
)  # fmt: skip


class NotRun(BpttError, RuntimeError):
    """A claim needs something that is not here."""


@dataclass(frozen=True)
class Measurement:
    """What re-making a claim gave.

    Attributes:
        text: the figures, in words.
        parts: each part of the statement, and whether it held; None where it was not measured here;
            a text where its published setting was not reached: what was done and what is missing.
        instead: what is true instead; asked for wherever a part did not hold.
        figures: the numbers behind the text, as JSON takes them.
        share: of the published budget that was spent, where that is known after measuring only.
        beside: what was tried in a setting of our own, and whether it held. It is told, and judges
            nothing.

    Example:
        >>> Measurement("0.5 and 0.998", {"the two are equal": False}, "they differ").verdict
        'does not hold'
        >>> Measurement("", {"it shrinks": True, "on the device": None}).verdict
        'holds in part'
        >>> Measurement("", {"it learns": False}).after(0.05).verdict
        'not judged'
    """

    text: str
    parts: Mapping[str, bool | str | None]
    instead: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    share: float | None = None
    beside: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # NumPy's truth values are not Python's: `numpy.True_ is True` is false.
        plain = {
            part: held if held is None or isinstance(held, str) else bool(held)
            for part, held in self.parts.items()
        }
        object.__setattr__(self, "parts", plain)
        if self.share is not None:
            object.__setattr__(self, "share", real("share", self.share))

    @property
    def verdict(self) -> str:
        """Out of the parts alone."""
        held = list(self.parts.values())
        short = any(isinstance(h, str) for h in held)
        if all(h is True for h in held):
            return HOLDS
        if any(h is True for h in held):
            return IN_PART
        if short:
            return NOT_JUDGED  # nothing held yet, and not all was asked
        return FAILS if any(h is False for h in held) else NOT_RUN

    @property
    def where(self) -> str:
        """Which parts hold, which do not, which were not judged or not measured."""
        words = {True: HOLDS, False: FAILS, None: "not measured here"}
        told = [
            f"{part}: {f'{NOT_JUDGED} ({held})' if isinstance(held, str) else words[held]}"
            for part, held in self.parts.items()
        ]
        told += [
            f"in a setting of ours, {part}: {words[held]}" for part, held in self.beside.items()
        ]
        return "; ".join(told)

    def after(self, share: float) -> Measurement:
        """The same, judged after this share of the published budget.

        What did not hold before the whole budget was spent may still come: it is not judged.
        """
        if share >= 1:
            return self
        missing = f"after {share:.2g} of the published budget"
        parts = {part: missing if held is False else held for part, held in self.parts.items()}
        return replace(self, parts=parts)


@dataclass(frozen=True)
class Claim:
    """One published statement and the function that re-makes it.

    Attributes:
        id: as the ledger calls it.
        source: who states it.
        place: where in the source: section, exercise or table.
        statement: in our own words.
        published: the published figure.
        setting: the source's own, which is what is re-made; "none" where it states none.
        rule: how the parts are judged.
        why: why the rule follows from the statement, in one sentence.
        share: of the published budget that is spent; 1 where the statement needs none.
        quick: under a minute on two cores.
        measure: makes the measurement.
    """

    id: str
    source: str
    place: str
    statement: str
    published: str
    setting: str
    rule: str
    why: str
    share: float
    quick: bool
    measure: Callable[[], Measurement]


_REGISTERED: dict[str, Claim] = {}


def claim(
    *,
    id: str,
    source: str,
    place: str,
    statement: str,
    published: str,
    setting: str,
    rule: str,
    why: str,
    share: float = 1.0,
    quick: bool = True,
) -> Callable[[Callable[[], Measurement]], Callable[[], Measurement]]:
    """Enter a function into the ledger; see :class:`Claim` for the arguments."""

    def enter(measure: Callable[[], Measurement]) -> Callable[[], Measurement]:
        known = _REGISTERED.get(id)
        if known is not None and known.measure.__qualname__ != measure.__qualname__:
            raise ArgumentError("one function a claim", f"{id} twice", "give the second its own id")
        words = (source, place, statement, published, setting, rule, why)
        _REGISTERED[id] = Claim(id, *words, real("share", share), quick, measure)
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
