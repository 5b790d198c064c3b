"""What a claim is, what measuring it gives, and the list of all of them.

A verdict is never typed in: a claim's function says of each part of the statement whether it held,
and the verdict follows from the parts. All hold: "holds". None does: "does not hold". Else: "holds
in part", with the parts named.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from bptt.errors import ArgumentError, BpttError

HOLDS, IN_PART, FAILS, NOT_RUN = "holds", "holds in part", "does not hold", "not run"

# The files that hold claims, in the order in which the ledger shows them.
SECTIONS = (
    "exact",
    "sizes",
    "products",
    "arithmetic",
    "decay",
    "gates",
    "divergence",
    "recall",
    "paths",
    "reach",
    "limits",
    "ladder",
    "clipping",
    "cuts",
    "streams",
    "unbiased",
    "adaptive",
    "papers",
    "music",
)


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
    """Every claim by its id, in the order of the files."""
    for section in SECTIONS:
        import_module(f"bptt.claims.{section}")
    return dict(_REGISTERED)


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
