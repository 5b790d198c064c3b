"""Times taken in turns, so that whatever slows the machine down slows every competitor down."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LEAST = 3  # rounds, however small the budget


@dataclass(frozen=True)
class Times:
    """Seconds of every competitor in every round.

    Attributes:
        rounds: ``rounds[r][i]``, competitor i in round r.
    """

    rounds: list[list[float]]

    def median(self, i: int) -> float:
        """Seconds of competitor i."""
        return statistics.median(each[i] for each in self.rounds)

    def ratios(self, above: int, below: int) -> list[float]:
        """Time of one competitor over that of another, round by round."""
        return [each[above] / each[below] for each in self.rounds]


def take_turns(competitors: list[Callable[[], Any]], seconds: float) -> Times:
    """Run the competitors one after the other, again and again, until the time is used up.

    The order alternates, so that none always runs in the caches another one left. A tenth of the
    time, one round at least, is warm-up. The garbage collector is off meanwhile.
    """
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        warm = 0
        rounds: list[list[float]] = []
        while warm < 1 or time.perf_counter() - began < seconds / 10:
            _round(competitors, backwards=False)
            warm += 1
        began = time.perf_counter()
        while len(rounds) < LEAST or time.perf_counter() - began < seconds:
            rounds.append(_round(competitors, backwards=len(rounds) % 2 == 1))
    finally:
        if collecting:
            gc.enable()
    return Times(rounds)


def _round(competitors: list[Callable[[], Any]], backwards: bool) -> list[float]:
    order = range(len(competitors))
    taken = [0.0] * len(competitors)
    for i in reversed(order) if backwards else order:
        began = time.perf_counter()
        competitors[i]()
        taken[i] = time.perf_counter() - began
    return taken


def quartiles(values: list[float]) -> list[float]:
    """The first and the third."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]
