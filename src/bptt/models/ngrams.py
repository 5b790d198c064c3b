"""How an n-gram becomes a number, and numbers become smoothed counts.

The context x_{t-1} … x_{t-j} has the code
(…(x_{t-1} V + x_{t-2}) V + …) V + x_{t-j}, the newest token most significant, and the n-gram the
key code V + w. Integer division therefore drops the oldest token, and a level's contexts extend
those of the level before. Where one more token would not fit into 63 bits, the code is replaced
by its rank among the contexts that occur, and goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt.errors import DataError, DtypeError, ShapeError, describe

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
BLOCK = 1 << 22  # tokens counted at once
LIMIT = 2**63 - 1  # the largest code


class Counted(NamedTuple):
    """Keys that occur, and how often."""

    keys: Ints  # ascending
    counts: Ints


class Level(NamedTuple):
    """The smoothed n-grams of one length, as the table stores them."""

    contexts: Ints
    backoff: Floats
    lengths: Ints
    symbols: Ints
    masses: Floats


def ranked(size: int, contexts: Sequence[int]) -> list[bool]:
    """For each level, given its number of contexts, whether longer codes go on from ranks."""
    cells, ranked = 1, []
    for count in contexts:
        ranked.append(cells * size * size > LIMIT)
        cells = (count if ranked[-1] else cells) * size
    return ranked


def code(older: Iterable[NDArray[Any]], size: int, contexts: list[Ints], length: int) -> Ints:
    """Codes of contexts whose tokens ``older`` gives, newest first; ``length`` contexts."""
    code = np.zeros(length, np.int64)
    from_ranks = ranked(size, [len(level) for level in contexts])
    for level, tokens in enumerate(older):
        if from_ranks[level]:
            code = np.searchsorted(contexts[level], code)
        code *= size
        code += tokens
    return code


def checked_text(tokens: NDArray[Any], starts: NDArray[Any] | None) -> Ints:
    """The starts of documents, 0 among them; an error where tokens or starts do not fit."""
    if tokens.ndim != 1 or not len(tokens):
        raise ShapeError("tokens (N,), N >= 1", describe(tokens.shape), "pass one long text")
    if tokens.dtype.kind not in "iu":
        raise DtypeError("integer tokens", str(tokens.dtype), "encode the text first")
    if starts is None:
        return np.zeros(1, np.int64)
    if starts.ndim != 1:
        raise ShapeError("starts (D,)", describe(starts.shape), "pass positions, ascending")
    if starts.dtype.kind not in "iu":
        raise DtypeError("integer starts", str(starts.dtype), "turn flags into np.flatnonzero")
    starts = starts.astype(np.int64)
    if len(starts) and (
        starts[0] < 0 or starts[-1] >= len(tokens) or bool((np.diff(starts) <= 0).any())
    ):
        raise DataError(
            f"starts ascending in 0 .. {len(tokens) - 1}", "others", "pass each position once"
        )
    return starts if len(starts) and starts[0] == 0 else np.insert(starts, 0, 0)


def count(
    tokens: NDArray[Any],
    starts: Ints,
    size: int,
    contexts: list[Ints],
    level: int,
    tell: Callable[[int, int], None],
) -> Counted:
    """How often each n-gram with a context of ``level`` tokens occurs within a document."""
    done = Counted(np.empty(0, np.int64), np.empty(0, np.int64))
    waiting: list[Counted] = []
    for begin in range(0, len(tokens), BLOCK):
        low, high = max(begin, level), min(begin + BLOCK, len(tokens))
        if low < high:
            target = tokens[low:high].astype(np.int64)
            if level == 0 and not 0 <= int(target.min()) <= int(target.max()) < size:
                wrong = target[(target < 0) | (target >= size)][0]
                raise DataError(
                    f"tokens in 0 .. {size - 1}", str(wrong), "use the vocabulary of this text"
                )
            older = (tokens[low - back : high - back] for back in range(1, level + 1))
            keys = code(older, size, contexts, high - low) * size + target
            near = starts[(starts > low - level) & (starts < high)]
            young = (near[:, None] + np.arange(level) - low).ravel()
            inside = np.ones(high - low, bool)
            inside[young[(young >= 0) & (young < len(inside))]] = False
            waiting.append(Counted(*np.unique(keys[inside], return_counts=True)))
        # Merging only when as much waits as is done keeps the total work O(N log N).
        last = high == len(tokens)
        if waiting and (last or sum(len(run.keys) for run in waiting) >= len(done.keys)):
            done, waiting = merged([done, *waiting]), []
        tell(level, high)
    return done


def merged(runs: list[Counted]) -> Counted:
    """Counts added up over runs; keys ascending."""
    runs = [run for run in runs if len(run.keys)]
    if len(runs) < 2:
        return runs[0] if runs else Counted(np.empty(0, np.int64), np.empty(0, np.int64))
    keys, counts = (np.concatenate(column) for column in zip(*runs, strict=True))
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return Counted(keys[first], np.add.reduceat(counts, first))


def continuations(
    tokens: NDArray[Any],
    starts: Ints,
    size: int,
    contexts: list[Ints],
    level: int,
    longer: Ints,
) -> Counted:
    """In how many ways each n-gram goes on to the left, given the next level's n-grams."""
    base = longer // size // size
    if ranked(size, [len(one) for one in contexts])[level]:
        base = contexts[level][base]
    keys, counts = np.unique(base * size + longer % size, return_counts=True)
    # An n-gram that begins a document goes on to the left in one way more.
    place = starts[starts + level < np.append(starts[1:], len(tokens))] + level
    older = (tokens[place - back] for back in range(1, level + 1))
    first = code(older, size, contexts, len(place)) * size + tokens[place].astype(np.int64)
    first = np.unique(first)
    return merged([Counted(keys, counts), Counted(first, np.ones_like(first))])


def smoothed(counted: Counted, size: int) -> Level:
    """What is left of each count after discounting, and the mass that each context hands on."""
    keys, counts = counted
    context = keys // size
    first = np.flatnonzero(np.diff(context, prepend=-1))
    lengths = np.diff(np.append(first, len(keys)))
    if not len(keys):
        empty = np.empty(0)
        return Level(keys, empty, lengths, keys, empty)
    discount = discounts(counts)[np.minimum(counts, 3) - 1]
    total = np.add.reduceat(counts, first)
    masses = (counts - discount) / np.repeat(total, lengths)
    backoff = np.add.reduceat(discount, first) / total
    return Level(context[first], backoff, lengths, keys % size, masses)


def discounts(counts: Ints) -> Floats:
    """D(1), D(2), D(3)."""
    n = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(np.float64)
    if n.all():
        i = np.arange(1, 4)
        found = i - (i + 1) * n[0] / (n[0] + 2 * n[1]) * n[1:] / n[:3]
        if bool(((found > 0) & (found < i)).all()):
            return found
    return np.array([0.5, 1.0, 1.5])
