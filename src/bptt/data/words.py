"""Tokens longer than a character: the words of a text, or the pieces of :mod:`bptt.data.pieces`.

A word is what stands between spaces, with the space before it; a punctuation mark with the space before
it is one too, and so is any other space or line break. So nothing is lost: the words of a text, put end
to end, are the text.

Limits: the text is held in memory as a whole, about 10 bytes a character; no word crosses the border of
two documents. A vocabulary of pieces is made of as many characters as are trained on, which may be a
token more or less than the training part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice, pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt.choices import TOKENS, parse_form
from bptt.data.encode import SeparatorFinder, Starts
from bptt.data.pieces import BpeVocabulary
from bptt.data.source import Source
from bptt.data.vocabulary import (
    KINDS,
    SHOWN,
    UNKNOWN,
    CharDecoder,
    Ids,
    StreamDecoder,
    Vocabulary,
    as_ids,
    as_text,
    code_points,
)
from bptt.errors import ArgumentError, DataError

_WORD = re.compile(r" ?\w+| ?[^\w\s]|\s", re.UNICODE)


def split_words(text: str) -> list[str]:
    r"""The words of a text, each with the space before it; put end to end they are the text.

    Example:
        >>> split_words("The cat  sat,\nhungry.")
        ['The', ' cat', ' ', ' sat', ',', '\n', 'hungry', '.']
    """
    return _WORD.findall(text)


@dataclass(frozen=True)
class WordVocabulary(Vocabulary):
    """Words numbered in the order given, id 0 what is unknown.

    Args:
        symbols: V >= 2 distinct words, the first of them U+FFFD, which stands for all others.

    Raises:
        DataError: the symbols are not that.

    Cost: O(V).

    Example:
        >>> vocabulary = WordVocabulary.from_text("a rose is a rose")
        >>> vocabulary.symbols
        ('�', ' rose', ' a', ' is', 'a')
        >>> vocabulary.encode("a rose was a rose").tolist()
        [4, 1, 0, 2, 1]
        >>> vocabulary.decode([4, 1, 0])
        'a rose�'
    """

    symbols: tuple[str, ...]
    kind = "words"
    unknown_id = 0

    def __post_init__(self) -> None:
        found = _fault(self.symbols)
        if found:
            raise DataError(
                "a tuple of 2 or more distinct words that begins with U+FFFD",
                found,
                "make the vocabulary from a text with WordVocabulary.from_text",
            )

    @classmethod
    def from_text(cls, text: str, most: int | None = None) -> WordVocabulary:
        """Number the words of a text, the most frequent first, of equal ones by their letters.

        Args:
            text: it.
            most: symbols at most, the unknown one among them.
        """
        words, counts = np.unique(np.array(split_words(text), dtype=object), return_counts=True)
        return cls._most_frequent(words.tolist(), counts, most)

    @classmethod
    def _most_frequent(
        cls, words: Sequence[str], counts: NDArray[Any], most: int | None
    ) -> WordVocabulary:
        ranked = sorted(
            (-int(n), word) for word, n in zip(words, counts, strict=True) if n and word != UNKNOWN
        )
        return cls((UNKNOWN, *(word for _, word in ranked[: None if most is None else most - 1])))

    @property
    def size(self) -> int:
        """V, the unknown one included."""
        return len(self.symbols)

    @cached_property
    def ids(self) -> dict[str, int]:
        """The number of each word."""
        return {word: number for number, word in enumerate(self.symbols)}

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Characters of each, 1 for the unknown one."""
        return np.array([len(word) for word in self.symbols], dtype=np.int64)

    def lookup(self, codes: NDArray[Any]) -> Ids:
        """Ids of words of one character, by their code points."""
        return np.array([self.ids.get(chr(c), 0) for c in codes.tolist()], dtype=self.dtype)

    def encode(self, text: str | bytes, unknown: Literal["map", "error"] = "map") -> Ids:
        """Ids of the words of a text; unknown ones are 0, or a DataError."""
        if unknown not in ("map", "error"):
            raise ArgumentError('unknown "map" or "error"', f"{unknown!r}", "pass one of the two")
        words = split_words(as_text(text))
        found = np.array([self.ids.get(word, 0) for word in words], dtype=self.dtype)
        if unknown == "error" and not found.all():
            strange = list(dict.fromkeys(w for w, n in zip(words, found, strict=True) if n == 0))
            raise DataError(
                f"words of the vocabulary ({self.size} of them, each with the space before it)",
                ", ".join(f"{word!r:.40}" for word in strange[:SHOWN]),
                "leave them out",
            )
        return found

    def decode(self, ids: ArrayLike) -> str:
        """The words of ids, put end to end."""
        return "".join(self.symbols[i] for i in as_ids(ids, self.size).tolist())

    def stream_decoder(self) -> StreamDecoder:
        """A decoder that gives each word at once."""
        return CharDecoder(self.symbols)

    def to_dict(self) -> dict[str, Any]:
        """The kind, and the words as a list."""
        return {"kind": self.kind, "symbols": list(self.symbols)}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> WordVocabulary:
        """The inverse of :meth:`to_dict`."""
        symbols = document.get("symbols")
        return cls(tuple(symbols) if isinstance(symbols, list) else ())


def _fault(symbols: object) -> str | None:
    if not isinstance(symbols, tuple) or not all(isinstance(s, str) for s in symbols):
        return f"{type(symbols).__name__} of something else"
    if len(symbols) < 2 or symbols[0] != UNKNOWN:
        return f"{len(symbols)} symbols" + (f", first {symbols[0]!r:.20}" if symbols else "")
    if not all(symbols) or any("\ud800" <= c <= "\udfff" for s in symbols for c in s):
        return "an empty one, or a surrogate"
    repeated = len(symbols) - len(set(symbols))
    return f"{repeated} repeated symbols" if repeated else None


KINDS["words"] = WordVocabulary.read


# A text as words or pieces.


@dataclass(frozen=True)
class Tokenised:
    """A text read: ids (N,), where documents begin (D,), and what the ids mean."""

    tokens: Ids
    starts: Starts
    vocabulary: Vocabulary


def tokenise(
    sources: Sequence[Source],
    form: str,
    *,
    fraction: float,
    separator: str | None = None,
    vocabulary: Vocabulary | None = None,
    tell: Any = None,
) -> Tokenised:
    """Read texts as words or pieces.

    Args:
        sources: the texts in order.
        form: ``"word"``, ``"word:N"`` or ``"bpe:N"``.
        fraction: held out at the end; the vocabulary is made of what is before it.
        separator: a document begins after each run of these.
        vocabulary: use this one; None makes one.
        tell: called with the number of bytes after each read.

    Raises:
        DataError: as ``Source.blocks``; a text of fewer than two tokens to train on.
        DependencyError: byte-pair encoding without ``tokenizers``.

    Cost: a pass over the text, and for pieces the joining of pairs: seconds a megabyte.
    """
    name, number = parse_form(form, TOKENS)
    texts = list(chain.from_iterable(_documents(s, separator, tell) for s in sources))
    ids: list[Ids] = []
    if name == "bpe":
        if vocabulary is None:
            whole = sum(map(len, texts))
            kept = _first(texts, int((1 - fraction) * whole))
            vocabulary = BpeVocabulary.from_text(kept, int(number or 0))
        require_kind(vocabulary, BpeVocabulary)
        ids = list(vocabulary.encode_all(texts))  # type: ignore[attr-defined]
    else:
        seen: dict[str, int] = {}
        for text in texts:
            found = [seen.setdefault(word, len(seen)) for word in split_words(text)]
            ids.append(np.array(found, dtype=np.uint32))
        if vocabulary is None:
            whole = sum(map(len, ids))
            counts = np.bincount(
                np.concatenate(ids)[: int((1 - fraction) * whole)], minlength=len(seen)
            )
            most = None if number is None else int(number)
            vocabulary = WordVocabulary._most_frequent(list(seen), counts, most)
        require_kind(vocabulary, WordVocabulary)
        known = vocabulary.ids  # type: ignore[attr-defined]
        table = np.array([known.get(word, 0) for word in seen], dtype=vocabulary.dtype)
        ids = [table[block] for block in ids]
    lengths = [len(block) for block in ids if len(block)]
    starts = np.cumsum([0, *lengths[:-1]], dtype=np.int64)
    return Tokenised(np.concatenate(ids), starts, vocabulary)


def require_kind(vocabulary: Vocabulary, kind: type[Vocabulary]) -> None:
    """Raise ArgumentError where a vocabulary is of another kind than the tokens that were asked for."""
    if not isinstance(vocabulary, kind):
        raise ArgumentError(
            f"a {kind.__name__} for these tokens",
            type(vocabulary).__name__,
            "leave out tokens, or the vocabulary",
        )


def unknown_words(
    sources: Sequence[Source], vocabulary: WordVocabulary, begin: int = 0
) -> Iterator[str]:
    """The words of texts that a vocabulary does not know, but for the first ``begin`` words."""
    texts = chain.from_iterable(_documents(source, None, None) for source in sources)
    words = chain.from_iterable(map(split_words, texts))
    return (word for word in islice(words, begin, None) if vocabulary.ids.get(word, 0) == 0)


def form_of(vocabulary: Vocabulary | None) -> str | None:
    """The form that a vocabulary implies; None for one of characters or bytes."""
    if isinstance(vocabulary, WordVocabulary):
        return "word"
    return f"bpe:{vocabulary.size}" if isinstance(vocabulary, BpeVocabulary) else None


def _documents(source: Source, separator: str | None, tell: Any) -> Iterator[str]:
    blocks = [block.astype("<u4") for block in source.blocks(tell=tell)]
    whole = np.concatenate(blocks) if blocks else np.empty(0, "<u4")
    starts: list[int] = []
    if separator is not None:
        finder = SeparatorFinder(code_points(separator))
        finder.feed(whole)
        starts = finder.starts().tolist()
    for begin, end in pairwise([0, *starts, len(whole)]):
        if begin < end:
            yield whole[begin:end].tobytes().decode("utf-32-le", "surrogatepass")


def _first(texts: Sequence[str], length: int) -> Iterator[str]:
    """The first characters of texts in order."""
    for text in texts:
        if length <= 0:
            return
        yield text[:length]
        length -= len(text)
