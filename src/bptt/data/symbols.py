"""Between texts, code points and single symbols: conversions, checks, one-by-one decoders."""

from __future__ import annotations

import codecs
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt.errors import ArgumentError, DataError, DtypeError

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
