"""A text of any size as tokens, in two sweeps over its blocks.

The first sweep counts the tokens and notes where every character occurs first, so that the
characters of the training part are known whatever the training part turns out to be; the second
translates. Neither holds more than a block of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt.data.source import BLOCK, Source
from bptt.data.vocabulary import Ids, Vocabulary, code_points
from bptt.errors import DataError

# Where documents begin in a stream of tokens.
#
# A document begins at the start of every file and, where a separator is given, after every run of
# separators: blank lines, however many, end one document and not several empty ones.

Starts = NDArray[np.int64]


class SeparatorFinder:
    """Finds a separator in a stream that comes in blocks, across block borders too.

    Args:
        pattern: the separator (S,), S >= 1, as code points or as bytes, like the blocks.

    Cost: O(N S) at worst and O(N) on ordinary text; 8 bytes kept per occurrence.

    Example:
        >>> finder = SeparatorFinder(np.array([0, 0]))
        >>> for block in ([5, 6, 0], [0, 7], [0, 0, 0, 8]):
        ...     finder.feed(np.array(block))
        >>> finder.starts()
        array([4, 8])
    """

    def __init__(self, pattern: NDArray[Any]) -> None:
        if len(pattern) == 0:
            raise DataError(
                "a document separator of at least one character",
                "an empty one",
                'pass for example "\\n\\n", or None for one document a file',
            )
        self._pattern = pattern
        self._tail = pattern[:0]
        self._seen = 0
        self._found: list[NDArray[np.int64]] = []

    def feed(self, block: NDArray[Any]) -> None:
        """Take the next block (n,)."""
        size = len(self._pattern)
        window = np.concatenate((self._tail, block)) if len(self._tail) else block
        places = np.flatnonzero(window[: max(len(window) - size + 1, 0)] == self._pattern[0])
        for step in range(1, size):
            places = places[window[places + step] == self._pattern[step]]
        if len(places):
            self._found.append(places + (self._seen - len(self._tail)))
        # One element too few for a whole separator: no occurrence is found twice.
        self._tail = window[len(window) - min(size - 1, len(window)) :].copy()
        self._seen += len(block)

    def starts(self) -> Starts:
        """The positions (D,) at which a document begins after a run of separators."""
        if not self._found:
            return np.empty(0, dtype=np.int64)
        places, size = np.concatenate(self._found), len(self._pattern)
        last = np.append(np.diff(places) > size, True)
        after: Starts = places[last] + size
        return after[: np.searchsorted(after, self._seen)]


def part(starts: Starts, begin: int, end: int) -> Starts:
    """The starts of the stream's part ``[begin, end)``, counted from its beginning.

    A part that begins inside a document begins with a start all the same: what came before it is
    not there to carry a state from.

    Example:
        >>> part(np.array([0, 4, 9]), 2, 9)
        array([0, 2])
    """
    low, high = np.searchsorted(starts, (begin, end))
    inside = starts[low:high]
    if not len(inside) or inside[0] != begin:
        inside = np.insert(inside, 0, begin)
    return inside - begin if begin else inside


Tell = Callable[[int], None]
CODE_POINTS = 0x110000  # Unicode ends here


@dataclass(frozen=True)
class Survey:
    """What one sweep over the texts finds out.

    Args:
        length: N tokens, all texts together.
        starts: where documents begin (D,), ascending, 0 first.
        points: the distinct code points (P,); empty where bytes are counted.
        first: the position (P,) at which each occurs first.
    """

    length: int
    starts: Starts
    points: NDArray[np.uint32]
    first: NDArray[np.int64]

    def points_before(self, end: int) -> NDArray[np.uint32]:
        """The code points that occur in the first ``end`` tokens."""
        return self.points[self.first < end]


def survey(
    sources: Sequence[Source],
    *,
    as_bytes: bool = False,
    separator: str | None = None,
    block: int = BLOCK,
    tell: Tell | None = None,
) -> Survey:
    """Count tokens, find the documents and the first place of every character.

    Args:
        sources: the texts in order, each a document or several.
        as_bytes: tokens are bytes, else characters.
        separator: after a run of these a document begins.
        block: bytes read at once.
        tell: called with the number of bytes after each read.

    Returns:
        The survey.

    Raises:
        DataError: as ``Source.blocks``; an empty separator.

    Cost: one pass; bytes as they are, without a separator, are not even read. 9 MB beside a few blocks.

    Example:
        >>> found = survey([Source.of_text("abba"), Source.of_text("cab")])
        >>> found.length, found.starts.tolist(), found.first.tolist()
        (7, [0, 4], [0, 1, 4])
        >>> "".join(map(chr, found.points_before(4)))
        'ab'
    """
    first = np.full(0 if as_bytes else CODE_POINTS, -1, dtype=np.int64)
    starts: list[NDArray[np.int64]] = []
    length = 0
    for source in sources:
        starts.append(np.array([length]))
        finder = None if separator is None else SeparatorFinder(_pattern(separator, as_bytes))
        if as_bytes and finder is None and not source.unix:
            length += source.size
            continue
        begin = length
        for codes in source.blocks(as_bytes, block, tell):
            if not as_bytes:
                _note_first(first, codes, length)
            if finder is not None:
                finder.feed(codes)
            length += len(codes)
        if finder is not None:
            starts.append(finder.starts() + begin)
    points = np.flatnonzero(first >= 0)
    return Survey(length, np.concatenate(starts), points.astype(np.uint32), first[points])


def encoded(
    sources: Sequence[Source],
    vocabulary: Vocabulary,
    *,
    as_bytes: bool = False,
    block: int = BLOCK,
    tell: Tell | None = None,
) -> Iterator[Ids]:
    """Yield the ids of the texts in order, a block (n,) at a time.

    Example:
        >>> from bptt.data.vocabulary import CharVocabulary
        >>> blocks = encoded([Source.of_text("ab?")], CharVocabulary.from_text("ab"))
        >>> [ids.tolist() for ids in blocks]
        [[1, 2, 0]]
    """
    for source in sources:
        for codes in source.blocks(as_bytes, block, tell):
            yield vocabulary.lookup(codes)


def _note_first(first: NDArray[np.int64], codes: NDArray[Any], before: int) -> None:
    # After the first blocks nearly every character is known: one gather, and nothing to sort.
    places = np.flatnonzero(first.take(codes) < 0)
    if len(places):
        fresh, index = np.unique(codes[places], return_index=True)
        first[fresh] = before + places[index]


def _pattern(separator: str, as_bytes: bool) -> NDArray[np.unsignedinteger]:
    if as_bytes:
        return np.frombuffer(separator.encode("utf-8", "surrogateescape"), dtype=np.uint8)
    return code_points(separator)
