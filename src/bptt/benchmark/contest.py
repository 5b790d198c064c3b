"""Two sides of a measurement. What is timed is what is compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

Results: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class Side:
    """One competitor.

    Attributes:
        run: the work that is timed.
        results: the same work, its results handed over by name; untimed.
    """

    run: Callable[[], Any]
    results: Callable[[], Results]


@dataclass(frozen=True)
class Contest:
    """Two sides that must agree before they are timed.

    Attributes:
        ours, peer: the sides.
        flops: of the matrix products in one run.
        terms: the longest sum behind one number of the results, in products; sets the tolerance.
        controls: our own variants, timed in the same rounds, by name.
        extras: what else the row says, known without timing.
        describe: from the median of our time over each control's to keys of the row.
    """

    ours: Side
    peer: Side
    flops: float
    terms: int
    controls: dict[str, Callable[[], Any]] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    describe: Callable[[dict[str, float]], dict[str, float]] = lambda ratios: {}


def side(run: Callable[[], Results]) -> Side:
    """A side whose run hands its results over by itself."""
    return Side(run, run)
