"""Vocabularies: which integer stands for which character or byte.

Two kinds. ``CharVocabulary`` numbers the characters of a text; id 0 is always the unknown symbol
U+FFFD, so that a text with a character never seen still has a token for it, and the token says so.
``ByteVocabulary`` numbers the 256 bytes; nothing is unknown to it.

Both translate whole blocks through one NumPy table, indexed by code point or byte; no character
ever becomes a Python object on the way in.

Limits: one character is one Unicode code point, not one grapheme ("e" and a combining accent are
two). A text that itself contains U+FFFD has it counted as unknown.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt.errors import ArgumentError, DataError, DtypeError

# Between texts, code points and single symbols: conversions, checks, one-by-one decoders.

UNKNOWN = "\ufffd"
SHOWN = 5  # unknown characters that an error message spells out
SEARCHED = 10_000  # places it looks at to find them


class StreamDecoder(Protocol):
    """Turns ids into text one at a time, for generation that prints as it goes."""

    def push(self, token: int) -> str:
        """Take one id; return the text that is now certain, which may be empty."""

    def finish(self) -> str:
        """Return what is left: U+FFFD where a character was broken off, else nothing."""


class CharDecoder:
    """Each id is a symbol at once."""

    def __init__(self, symbols: tuple[str, ...]) -> None:
        self._symbols = symbols

    def push(self, token: int) -> str:
        """The symbol of an id."""
        return self._symbols[int(as_ids(token, len(self._symbols)))]

    def finish(self) -> str:
        """Nothing is ever left."""
        return ""


class ByteDecoder:
    """A character of UTF-8 may need up to four ids."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that this byte completes."""
        return self._decoder.decode(bytes([int(as_ids(token, 256))]))

    def finish(self) -> str:
        """U+FFFD for a character that was broken off; the decoder starts anew."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def code_points(text: str) -> NDArray[np.uint32]:
    """The code points (N,) of a text, 4 bytes each."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def as_text(text: object) -> str:
    """A str as it is, bytes read as UTF-8; an error for anything else."""
    if isinstance(text, str):
        return text
    if not isinstance(text, (bytes, bytearray, memoryview)):
        raise DtypeError("str or bytes", type(text).__name__, "pass the text itself")
    try:
        return bytes(text).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            "bytes that are UTF-8",
            f"0x{error.object[error.start]:02x} at offset {error.start}",
            "use a ByteVocabulary",
        ) from None


def as_bytes(text: object) -> bytes:
    """Bytes as they are, a str written as UTF-8; an error for anything else."""
    if isinstance(text, (bytes, bytearray, memoryview)):
        return bytes(text)
    if not isinstance(text, str):
        raise DtypeError("str or bytes", type(text).__name__, "pass the text itself")
    try:
        # A prompt from a command line holds undecodable bytes as surrogates: give them back.
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise DataError(
            "text that UTF-8 can write",
            f"U+{ord(text[error.start]):04X} at {error.start}",
            "remove the surrogate",
        ) from None


def as_ids(ids: ArrayLike, size: int) -> NDArray[Any]:
    """Ids as an array; an error where they are not whole numbers from 0 to ``size - 1``."""
    array = np.asarray(ids)
    if array.size == 0:
        return array.astype(np.intp)
    if array.dtype.kind not in "iu":
        raise DtypeError("integer ids", f"{array.dtype}", "pass the ids that encode returned")
    if int(array.min()) < 0 or int(array.max()) >= size:
        raise ArgumentError(
            f"ids from 0 to {size - 1}",
            f"ids from {array.min()} to {array.max()}",
            "decode with the vocabulary that the ids were made with",
        )
    return array


def name_unknown(text: str, places: NDArray[np.intp]) -> str:
    """The first few distinct characters at these places (P,), for an error message."""
    first: dict[str, int] = {}
    for place in places[:SEARCHED]:
        first.setdefault(text[place], int(place))
        if len(first) == SHOWN:
            break
    named = ", ".join(f"{c!r} (U+{ord(c):04X}) at {at}" for c, at in first.items())
    more = len(places) - len(first)
    return named + (f" and {more} more places" if more else "")


def fault(symbols: object) -> str | None:
    """What keeps a tuple from being the symbols of a character vocabulary, None where nothing."""
    if not isinstance(symbols, tuple) or not all(isinstance(s, str) for s in symbols):
        return f"{type(symbols).__name__}"
    if len(symbols) < 2:
        return f"{len(symbols)} symbols"
    if symbols[0] != UNKNOWN:
        return f"{symbols[0]!r:.20} as the first symbol"
    for symbol in symbols:
        if len(symbol) != 1 or "\ud800" <= symbol <= "\udfff":
            return f"{symbol!r:.20} as a symbol"
    if len(set(symbols)) < len(symbols):
        return f"{len(symbols) - len(set(symbols))} repeated symbols"
    return None


BLOCK = 1 << 20  # code points translated at once: indexing widens them to 8 bytes each

Ids = NDArray[np.unsignedinteger[Any]]


class Vocabulary(ABC):
    """A bijection between ids ``0 .. size-1`` and symbols.

    Example:
        >>> Vocabulary.from_dict({"kind": "bytes"}).size
        256
    """

    kind: str
    unknown_id: int | None

    @property
    @abstractmethod
    def size(self) -> int:
        """V, the number of symbols, the unknown one included."""

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        """Characters of each symbol (V,); None where a token is a character or a byte."""
        return None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned dtype that holds every id, little-endian: uint8, uint16, uint32."""
        return np.dtype("<u1" if self.size <= 1 << 8 else "<u2" if self.size <= 1 << 16 else "<u4")

    @abstractmethod
    def lookup(self, codes: NDArray[Any]) -> Ids:
        """Ids (N,) of code points (N,) or bytes (N,); the unknown id where there is none."""

    @abstractmethod
    def encode(self, text: str | bytes, unknown: Literal["map", "error"] = "map") -> Ids:
        """Ids (N,) of a text."""

    @abstractmethod
    def decode(self, ids: ArrayLike) -> str:
        """The text of ids (N,)."""

    @abstractmethod
    def stream_decoder(self) -> StreamDecoder:
        """A decoder that takes ids one at a time."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """A JSON-safe form that ``from_dict`` reads back."""

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Vocabulary:
        """Read back what ``to_dict`` wrote, trusting nothing in it.

        Args:
            document: ``{"kind": "characters", "symbols": str}``, ``{"kind": "bytes"}``, or one of
            words or of
                pieces.

        Returns:
            The vocabulary, equal to the one written.

        Raises:
            DataError: the document is none of these, or its symbols are not distinct characters that
                begin with U+FFFD.

        Cost: O(V).

        Example:
            >>> Vocabulary.from_dict(CharVocabulary.from_text("abba").to_dict()).symbols
            ('�', 'a', 'b')
        """
        kind = document.get("kind") if isinstance(document, Mapping) else None
        if isinstance(kind, str) and kind in KINDS:
            found = KINDS[kind](document)
            if isinstance(found, cls):
                return found
        if kind == "bytes" and issubclass(ByteVocabulary, cls):
            return ByteVocabulary()
        symbols = document.get("symbols") if isinstance(document, Mapping) else None
        if kind == "characters" and isinstance(symbols, str) and issubclass(CharVocabulary, cls):
            return CharVocabulary(tuple(symbols))
        raise DataError(
            'a vocabulary {"kind": "characters", "symbols": text} or {"kind": "bytes"}',
            f"{type(document).__name__} with kind {kind!r:.40} and symbols of type "
            f"{type(symbols).__name__}",
            "restore the file that the vocabulary was written to",
        )


# Vocabularies of longer tokens, by their kind; ``bptt.data.words`` has them.
KINDS: dict[str, Callable[[Mapping[str, Any]], Vocabulary]] = {}


@dataclass(frozen=True)
class CharVocabulary(Vocabulary):
    """Characters numbered in the order given, id 0 the unknown symbol U+FFFD.

    Args:
        symbols: V >= 2 distinct characters, the first of them U+FFFD; none a lone surrogate.

    Raises:
        DataError: the symbols are not that.

    Cost: O(V) to make; a table of (largest code point + 2) ids when first used, 4.5 MB at most.

    Example:
        >>> vocabulary = CharVocabulary.from_text("hello")
        >>> vocabulary.symbols
        ('�', 'e', 'h', 'l', 'o')
        >>> vocabulary.encode("hole!")
        array([2, 4, 3, 1, 0], dtype=uint8)
        >>> vocabulary.decode([2, 4, 3, 1, 0])
        'hole�'
    """

    symbols: tuple[str, ...]
    kind = "characters"
    unknown_id = 0

    def __post_init__(self) -> None:
        found = fault(self.symbols)
        if found:
            raise DataError(
                "a tuple of 2 or more distinct characters that begins with U+FFFD",
                found,
                "make the vocabulary from a text with CharVocabulary.from_text",
            )

    @classmethod
    def from_points(cls, points: NDArray[np.integer[Any]]) -> CharVocabulary:
        """Number the code points (N,), in ascending order and without repeats, after U+FFFD."""
        distinct = np.unique(np.asarray(points, dtype="<u4"))
        distinct = distinct[distinct != ord(UNKNOWN)]
        return cls((UNKNOWN, *distinct.tobytes().decode("utf-32-le", "surrogatepass")))

    @classmethod
    def from_text(cls, text: str) -> CharVocabulary:
        """Number the characters that occur in a text held in memory."""
        return cls.from_points(code_points(text))

    @property
    def size(self) -> int:
        """V, the number of symbols, the unknown one included."""
        return len(self.symbols)

    @cached_property
    def _points(self) -> NDArray[np.uint32]:
        return code_points("".join(self.symbols))

    @cached_property
    def _table(self) -> Ids:
        # One entry past the largest known code point stays 0: larger ones are clipped onto it.
        table = np.zeros(int(self._points.max()) + 2, dtype=self.dtype)
        table[self._points] = np.arange(self.size)
        return table

    def lookup(self, codes: NDArray[Any]) -> Ids:
        """Ids (N,) of code points (N,), 0 where there is none."""
        return self._table.take(codes, mode="clip")

    def encode(self, text: str | bytes, unknown: Literal["map", "error"] = "map") -> Ids:
        """Translate a text into ids.

        Args:
            text: N characters, or bytes that are UTF-8.
            unknown: ``"map"`` gives unknown characters id 0, ``"error"`` raises.

        Returns:
            ids (N,), of ``dtype``.

        Raises:
            DataError: ``unknown="error"`` and a character has no id of its own; or bytes that are
                not UTF-8.

        Cost: O(N); N ids, and 16 MB beside them.

        Example:
            >>> CharVocabulary.from_text("no").encode("snow", unknown="error")
            Traceback (most recent call last):
            bptt.errors.DataError: expected characters of the vocabulary (3 symbols), received \
's' (U+0073) at 0, 'w' (U+0077) at 3: leave them out
        """
        if unknown not in ("map", "error"):
            raise ArgumentError('unknown "map" or "error"', f"{unknown!r}", "pass one of the two")
        characters = as_text(text)
        ids = np.empty(len(characters), dtype=self.dtype)
        for begin in range(0, len(characters), BLOCK):
            block = characters[begin : begin + BLOCK]
            ids[begin : begin + BLOCK] = self.lookup(code_points(block))
        if unknown == "error" and not ids.all():
            raise DataError(
                f"characters of the vocabulary ({self.size} symbols)",
                name_unknown(characters, np.flatnonzero(ids == 0)),
                "leave them out",
            )
        return ids

    def decode(self, ids: ArrayLike) -> str:
        """Translate ids (N,) into text; ArgumentError or DtypeError where they are not ids."""
        return str(self._points[as_ids(ids, self.size)].tobytes(), "utf-32-le")

    def stream_decoder(self) -> StreamDecoder:
        """A decoder that gives each symbol at once."""
        return CharDecoder(self.symbols)

    def to_dict(self) -> dict[str, Any]:
        """The kind, and the symbols as one string."""
        return {"kind": self.kind, "symbols": "".join(self.symbols)}


@dataclass(frozen=True)
class ByteVocabulary(Vocabulary):
    """The 256 bytes, each its own id; nothing is unknown.

    Example:
        >>> vocabulary = ByteVocabulary()
        >>> vocabulary.encode("é")
        array([195, 169], dtype=uint8)
        >>> vocabulary.decode([195, 169, 255])
        'é�'
        >>> stream = vocabulary.stream_decoder()
        >>> [stream.push(195), stream.push(169), stream.push(195), stream.finish()]
        ['', 'é', '', '�']
    """

    kind = "bytes"
    unknown_id = None

    @property
    def size(self) -> int:
        """V = 256."""
        return 256

    def lookup(self, codes: NDArray[Any]) -> Ids:
        """The bytes (N,) themselves."""
        return codes.astype(np.uint8, copy=False)

    def encode(self, text: str | bytes, unknown: Literal["map", "error"] = "map") -> Ids:
        """Bytes as ids (N,); a str becomes its UTF-8. ``unknown`` changes nothing here."""
        return np.frombuffer(as_bytes(text), dtype=np.uint8).copy()

    def decode(self, ids: ArrayLike) -> str:
        """The bytes read as UTF-8, U+FFFD where they are none."""
        return as_ids(ids, 256).astype(np.uint8).tobytes().decode("utf-8", "replace")

    def stream_decoder(self) -> StreamDecoder:
        """A decoder that waits until a character is complete."""
        return ByteDecoder()

    def to_dict(self) -> dict[str, Any]:
        """The kind alone."""
        return {"kind": self.kind}
