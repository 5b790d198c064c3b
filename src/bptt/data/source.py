"""A text as it lies on disk (or in memory), read in blocks and never as one Python string.

Everything that can be wrong with a file is found and named here: missing, empty, a folder, not
readable, a loop of links, not UTF-8. A byte order mark and the line ends stay as they are, unless Unix
line ends are asked for.

Limits: ordinary files only; a pipe can be read once, and a text is read twice.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt.data.vocabulary import Vocabulary, code_points
from bptt.errors import DataError
from bptt.files.read import look_at_text, release, unusable_text

# Line ends: ``\n`` of Unix, ``\r\n`` of Windows, ``\r`` of old Macs.
#
# A text is read as it is, so that a score is that of its own bytes. Then every ``\r`` is a symbol of its
# own, which a model that was trained on ``\n`` does not know. Whoever asks for it gets ``\n`` for all.

Reading = Literal["keep", "unix"]
READINGS: tuple[Reading, ...] = ("keep", "unix")
RETURN, FEED = 13, 10  # code points, and bytes
COUNTED = 1 << 20  # tokens looked at together


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
    for begin in range(0, len(tokens) - 1, COUNTED):
        block = tokens[begin : begin + COUNTED + 1]  # one more: what follows the last one
        after = block[1:][block[:-1] == back]
        # A line feed that the vocabulary lacks is no line feed of this stream.
        pairs = 0 if feed == vocabulary.unknown_id else int(np.count_nonzero(after == feed))
        windows, mac = windows + pairs, mac + len(after) - pairs
        release(tokens)
    return LineEnds(windows, mac)


# The text that is there without a download: the language reference that CPython carries.
#
# ``pydoc_data.topics`` is what ``help("assert")`` prints: about 80 topics of English prose, grammar
# and examples, 460,000 to 510,000 characters. The topics stand in the order of their names, a blank
# line between two, as one document: they are chapters of one book and short, and a reset at each
# would hide what a state carried over long distances is worth.
#
# Limits: the text is another in each version of Python, so scores compare within one version only.


def default_text() -> str:
    r"""The topics of CPython's documentation, joined with blank lines in the order of their names.

    Returns:
        The text, lines ended by ``\n``.

    Raises:
        DataError: this Python came without the topics.

    Cost: 0.5 MB; a few milliseconds.

    Example:
        >>> default_text().splitlines()[0]
        'The "assert" statement'
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            "the text pydoc_data.topics, part of CPython's standard library",
            "a Python without it",
            "name a text file, or install the whole standard library",
        ) from None
    return "\n\n".join(topics[name] for name in sorted(topics))


BLOCK = 1 << 18  # bytes read at once; larger blocks leave the processor's cache and are slower


@dataclass(frozen=True)
class Source:
    """One text: a file, or bytes in memory.

    Args:
        name: how messages call it; the path of a file.
        size: bytes.
        mtime_ns: when the file was last written, 0 in memory.
        content: the bytes, for a text in memory.
        unix: read every line end as a line feed.

    Example:
        >>> text = Source.of_text("größe")
        >>> [block.tolist() for block in text.blocks(block=3)]
        [[103, 114], [246, 223], [101]]
        >>> [block.tolist() for block in text.blocks(as_bytes=True, block=4)]
        [[103, 114, 195, 182], [195, 159, 101]]
    """

    name: str
    size: int
    mtime_ns: int = 0
    content: bytes | None = None
    unix: bool = False

    @classmethod
    def of_file(cls, path: str | os.PathLike[str], unix: bool = False) -> Source:
        """Look at a file without reading it; DataError where it cannot be a text."""
        status = look_at_text(path)
        return cls(os.fspath(path), status.st_size, status.st_mtime_ns, unix=unix)

    @classmethod
    def of_text(cls, text: str, name: str = "the text given", unix: bool = False) -> Source:
        """Wrap a text in memory; DataError where it is empty."""
        content = text.encode("utf-8", "surrogatepass")
        if not content:
            raise DataError("a text", f"{name}, which is empty", "give at least two characters")
        return cls(name, len(content), content=content, unix=unix)

    def blocks(
        self,
        as_bytes: bool = False,
        block: int = BLOCK,
        tell: Callable[[int], None] | None = None,
    ) -> Iterator[NDArray[Any]]:
        """Yield the text in order, as bytes (n,) or as code points (n,), unsigned.

        Args:
            as_bytes: the raw bytes; otherwise the bytes are UTF-8.
            block: bytes read at once.
            tell: called with the number of bytes after each read.

        Raises:
            DataError: the bytes are not UTF-8 (with the file and the offset of the first bad
                byte), or the file cannot be read or was changed since it was first looked at.

        Cost: one pass over the file; about 10 bytes of memory per byte of a block.
        """
        read = self._blocks(as_bytes, block, tell)
        if not self.unix:
            yield from read
            return
        unix = UnixLines()
        yield from (codes for codes in map(unix, read) if len(codes))

    def _blocks(
        self, as_bytes: bool, block: int, tell: Callable[[int], None] | None
    ) -> Iterator[NDArray[Any]]:
        decoder = codecs.getincrementaldecoder("utf-8")("strict")
        before = 0  # bytes in the blocks already handed to the decoder
        for data in self._reads(block):
            if before + len(data) > self.size:
                raise self._changed()  # now: something may go on appending without an end
            if as_bytes:
                yield np.frombuffer(data, dtype=np.uint8)
            else:
                yield from self._decoded(decoder, data, before)
            before += len(data)
            if tell is not None:
                tell(len(data))
        if not as_bytes:
            yield from self._decoded(decoder, b"", before)
        if before != self.size or not self._unchanged():
            raise self._changed()

    def _decoded(
        self, decoder: codecs.IncrementalDecoder, data: bytes, before: int
    ) -> Iterator[NDArray[Any]]:
        pending = len(decoder.getstate()[0])  # the head of a character the last block broke off
        if data and not pending and data.isascii():
            yield np.frombuffer(data, dtype=np.uint8)  # bytes are code points: three times as fast
            return
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise DataError(
                "UTF-8 text",
                f"{self.name!r} with the byte 0x{error.object[error.start]:02x} at offset "
                f"{before - pending + error.start}",
                "re-encode it as UTF-8, or read its bytes: --bytes, in Python bytes_mode=True",
            ) from None
        if text:
            yield code_points(text)

    def _reads(self, block: int) -> Iterator[bytes]:
        if self.content is not None:
            for begin in range(0, self.size, block):
                yield self.content[begin : begin + block]
            return
        try:
            with open(self.name, "rb", buffering=0) as file:
                while data := file.read(block):
                    yield data
        except OSError as error:
            raise unusable_text(self.name, error) from None

    def _changed(self) -> DataError:
        return DataError(
            f"{self.name!r} to stay as it is while it is read",
            f"a file that is not the one of {self.size} bytes any more",
            "wait until nothing writes to it and start again",
        )

    def _unchanged(self) -> bool:
        if self.content is not None:
            return True
        try:
            status = os.stat(self.name)
        except OSError as error:
            raise unusable_text(self.name, error) from None
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)
