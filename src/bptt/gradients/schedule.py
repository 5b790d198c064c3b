"""Which states to keep and what to run again, so that a chain of segments can be walked backwards.

Pure arithmetic: nothing here knows a tensor. A chain of n segments is reversed from its last to its
first; a segment can be reversed only from the state it began with, and at most c such states are kept
at a time, the first one included. The state that is on its way through the chain is not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import comb
from typing import NamedTuple

from bptt.numbers import whole


class Move(NamedTuple):
    """From the kept state at ``start`` run forward to ``stop``; keep that state, or reverse from it.

    Attributes:
        start: segment before which a kept state stands.
        stop: segment to arrive at; ``stop - start`` segments are run on the way.
        reverse: whether segment ``stop`` is then run and differentiated; otherwise its first state
            is kept. A reversal with ``stop == start`` is the last use of the state at ``start``.
    """

    start: int
    stop: int
    reverse: bool


def plan(segments: int, states: int) -> Iterator[Move]:
    """The moves that reverse a chain with the fewest segments run on the way.

    With c states and at most r passes over any segment, β(c, r) = C(c + r, c) segments can be
    reversed. So for the smallest r with n ≤ β(c, r) the next state to keep stands y segments on, with
    β(c, r-2) ≤ y ≤ β(c, r-1) and β(c-1, r-1) ≤ n - y ≤ β(c-1, r); every such y is optimal.

    Args:
        segments: n, at least 1.
        states: c, at least 1, the state the chain begins with included.

    Raises:
        ArgumentError: a number is less than 1.

    Cost: O(1) memory a kept state; O(moves) time.

    Example:
        >>> [tuple(move) for move in plan(3, 2)]
        [(0, 1, False), (1, 2, True), (1, 1, True), (0, 0, True)]

    Source: A. Griewank and A. Walther, 2000, Algorithm 799: revolve.
    """
    segments, states = _checked(segments, states)
    kept, end = [0], segments  # segments from `end` on are done with
    while kept:
        at = kept[-1]
        count, free = end - at, states - len(kept) + 1
        if count == 1:
            kept.pop()
            end = at
            yield Move(at, at, True)
        elif free == 1:
            end -= 1
            yield Move(at, end, True)
        else:
            kept.append(at + _next(count, free))
            yield Move(at, kept[-1], False)


def advanced(segments: int, states: int) -> int:
    """How many segments :func:`plan` runs forward without reversing them.

    t(n, c) = r n - β(c + 1, r - 1), with r as in :func:`plan`; n - 1 once c ≥ n - 1.

    Example:
        >>> advanced(10, 10), advanced(10, 3), advanced(10, 1)
        (9, 15, 45)
    """
    segments, states = _checked(segments, states)
    passes = _passes(segments, states)
    return passes * segments - comb(states + passes, states + 1)


def _passes(segments: int, states: int) -> int:
    """The smallest r with n ≤ C(c + r, c)."""
    passes = 0
    while comb(states + passes, states) < segments:
        passes += 1
    return passes


def _next(count: int, free: int) -> int:
    """How far on the next state is to be kept, for at least two segments and two states."""
    passes = _passes(count, free)
    least = comb(free + passes - 2, free) if passes >= 2 else 1
    return max(least, count - comb(free - 1 + passes, free - 1))


def _checked(segments: int, states: int) -> tuple[int, int]:
    return whole("segments", segments), whole("states", states)
