r"""Line ends: ``\n`` of Unix, ``\r\n`` of Windows, ``\r`` of old Macs; what a text has, and one for all.

A text is read as it is, so that a score is that of its own bytes. Then every ``\r`` is a symbol of its
own, which a model that was trained on ``\n`` does not know. Whoever asks for it gets ``\n`` for all.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt.data.vocabulary import Vocabulary
from bptt.files.read import release

Reading = Literal["keep", "unix"]
READINGS: tuple[Reading, ...] = ("keep", "unix")
RETURN, FEED = 13, 10  # code points, and bytes
BLOCK = 1 << 20


class LineEnds(NamedTuple):
    r"""How many lines of a text end with ``\r\n``, and how many with ``\r`` alone."""

    windows: int
    mac: int


class UnixLines:
    r"""Reads ``\r\n`` and ``\r`` as ``\n`` in a stream that comes in blocks, across their borders too.

    Example:
        >>> unix = UnixLines()
        >>> [bytes(unix(np.frombuffer(block, np.uint8))) for block in (b"a\r", b"\nb\r", b"c\n")]
        [b'a\n', b'b\n', b'c\n']
    """

    def __init__(self) -> None:
        self._after_return = False

    def __call__(self, codes: NDArray[Any]) -> NDArray[Any]:
        """The next block (n,), of code points or bytes; it may become empty."""
        returns = codes == RETURN
        if not len(codes) or not (self._after_return or returns.any()):
            return codes
        second = codes == FEED
        second[1:] &= returns[:-1]
        second[0] &= self._after_return
        self._after_return = bool(returns[-1])
        return np.where(returns, np.array(FEED, codes.dtype), codes)[~second]


def count_line_ends(tokens: NDArray[Any], vocabulary: Vocabulary) -> LineEnds:
    r"""Count the line ends of a stream that are not ``\n``.

    Args:
        tokens: ids (N,), in memory or mapped.
        vocabulary: what they mean.

    Returns:
        The counts; a ``\r`` that is the last token counts as neither.

    Cost: nothing where the vocabulary has no ``\r``, else one pass, a block in memory.

    Example:
        >>> from bptt.data.vocabulary import ByteVocabulary
        >>> vocabulary = ByteVocabulary()
        >>> count_line_ends(vocabulary.encode("a\r\nb\rc\r\n"), vocabulary)
        LineEnds(windows=2, mac=1)
    """
    back, feed = (int(i) for i in vocabulary.lookup(np.array([RETURN, FEED], dtype=np.uint32)))
    windows = mac = 0
    if back == vocabulary.unknown_id:
        return LineEnds(0, 0)
    for begin in range(0, len(tokens) - 1, BLOCK):
        block = tokens[begin : begin + BLOCK + 1]  # one more: what follows the last one
        after = block[1:][block[:-1] == back]
        # A line feed that the vocabulary lacks is no line feed of this stream.
        pairs = 0 if feed == vocabulary.unknown_id else int(np.count_nonzero(after == feed))
        windows, mac = windows + pairs, mac + len(after) - pairs
        release(tokens)
    return LineEnds(windows, mac)
