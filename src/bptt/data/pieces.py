"""Byte-pair encoding: tokens of pieces of text, found by Hugging Face's ``tokenizers``.

It begins with the 256 bytes and joins the pair that occurs most often, again and again, so that nothing
is unknown to it. A run keeps pieces and pairs as plain data; only encoding a text needs the library, the
optional part ``tokens``. Reading tokens back does not.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt.data.vocabulary import KINDS, Ids, StreamDecoder, Vocabulary, as_ids, as_text
from bptt.errors import DataError, DependencyError


def _letters() -> dict[str, int]:
    """The 256 bytes as letters, as byte-level BPE writes them: printable ones are themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


LETTERS = _letters()


@dataclass(frozen=True)
class BpeVocabulary(Vocabulary):
    """Pieces of text that byte-pair encoding found, beginning with the 256 bytes; nothing is unknown.

    Args:
        symbols: V >= 256 distinct pieces, each byte by itself among them; bytes are written as
        letters, as
            byte-level BPE does ("Ġ" is the space).
        merges: the pairs of pieces that are joined, in the order of their rank.

    Raises:
        DataError: the symbols or the pairs are not that.

    Example:
        >>> vocabulary = BpeVocabulary.from_text("a rose is a rose is a rose", 260)
        >>> vocabulary.symbols[256:]
        ('os', 'ros', 'Ġros', 'Ġrose')
        >>> vocabulary.decode(vocabulary.encode("a röse"))
        'a röse'
    """

    symbols: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]
    kind = "bpe"
    unknown_id = None

    def __post_init__(self) -> None:
        known = set(self.symbols)
        right = len(known) == len(self.symbols) and all(
            isinstance(s, str) and s and set(s) <= LETTERS.keys() for s in self.symbols
        )
        whole = right and LETTERS.keys() <= known
        if not whole or not all(
            a in known and b in known and a + b in known for a, b in self.merges
        ):
            raise DataError(
                "distinct pieces, every byte among them, and pairs of them that make others",
                f"{len(self.symbols)} symbols and {len(self.merges)} pairs that do not fit",
                "make the vocabulary from a text with BpeVocabulary.from_text",
            )

    @classmethod
    def from_text(cls, text: str | Iterator[str], size: int) -> BpeVocabulary:
        """Find the pieces of a text, or of several.

        Args:
            text: it.
            size: V at most; fewer where no pair occurs twice.

        Raises:
            DependencyError: ``tokenizers`` is not installed.
        """
        library = _library()
        tokenizer = _made(library, None, [])
        trainer = library.trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=sorted(LETTERS),
        )
        tokenizer.train_from_iterator([text] if isinstance(text, str) else text, trainer)
        found = tokenizer.get_vocab()
        merged = _merges(tokenizer)
        return cls(tuple(sorted(found, key=found.__getitem__)), merged)

    @property
    def size(self) -> int:
        """V."""
        return len(self.symbols)

    @cached_property
    def pieces(self) -> tuple[bytes, ...]:
        """The bytes of each symbol."""
        return tuple(bytes(LETTERS[letter] for letter in symbol) for symbol in self.symbols)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Characters that begin in each: bytes that do not go on with one."""
        return np.array([sum(b & 0xC0 != 0x80 for b in p) for p in self.pieces], dtype=np.int64)

    @cached_property
    def _tokenizer(self) -> Any:
        return _made(_library(), {s: n for n, s in enumerate(self.symbols)}, list(self.merges))

    def lookup(self, codes: NDArray[Any]) -> Ids:
        """Ids of single bytes."""
        ids = {piece: number for number, piece in enumerate(self.pieces)}
        return np.array([ids[bytes([c])] for c in codes.tolist()], dtype=self.dtype)

    def encode(self, text: str | bytes, unknown: Literal["map", "error"] = "map") -> Ids:
        """Ids of a text; ``unknown`` changes nothing here.

        Raises:
            DependencyError: ``tokenizers`` is not installed.
        """
        return np.array(self._tokenizer.encode(as_text(text)).ids, dtype=self.dtype)

    def encode_all(self, texts: Sequence[str]) -> Iterator[Ids]:
        """Ids of each text."""
        for begin in range(0, len(texts), 64):
            for encoding in self._tokenizer.encode_batch(texts[begin : begin + 64]):
                yield np.array(encoding.ids, dtype=self.dtype)

    def decode(self, ids: ArrayLike) -> str:
        """The pieces put end to end, read as UTF-8."""
        return b"".join(self.pieces[i] for i in as_ids(ids, self.size).tolist()).decode(
            "utf-8", "replace"
        )

    def stream_decoder(self) -> StreamDecoder:
        """A decoder that waits until a character is complete."""
        return _PieceDecoder(self.pieces)

    def to_dict(self) -> dict[str, Any]:
        """The kind, the pieces and the pairs."""
        pairs = [list(pair) for pair in self.merges]
        return {"kind": self.kind, "symbols": list(self.symbols), "merges": pairs}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> BpeVocabulary:
        """The inverse of :meth:`to_dict`."""
        symbols, merges = document.get("symbols"), document.get("merges")
        lists = isinstance(symbols, list) and isinstance(merges, list)
        pairs = merges if isinstance(merges, list) else []
        if not lists or not all(
            isinstance(p, list) and len(p) == 2 and all(isinstance(s, str) for s in p)
            for p in pairs
        ):
            raise DataError(
                "lists of symbols and of pairs",
                f"{type(symbols).__name__} and {type(merges).__name__}",
                "restore the file that the vocabulary was written to",
            )
        strings = [s if isinstance(s, str) else "" for s in symbols or []]
        return cls(tuple(strings), tuple((p[0], p[1]) for p in pairs))


KINDS["bpe"] = BpeVocabulary.read


class _PieceDecoder:
    def __init__(self, pieces: tuple[bytes, ...]) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that this piece completes."""
        return self._decoder.decode(self._pieces[int(as_ids(token, len(self._pieces)))])

    def finish(self) -> str:
        """U+FFFD for a character that was broken off."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise DependencyError(
            "the package tokenizers for --tokens bpe",
            "none",
            "install it: pip install 'bptt[tokens]'",
        ) from None
    return tokenizers


def _made(library: Any, vocabulary: dict[str, int] | None, merges: list[tuple[str, str]]) -> Any:
    tokenizer = library.Tokenizer(library.models.BPE(vocab=vocabulary or {}, merges=merges))
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def _merges(tokenizer: Any) -> tuple[tuple[str, str], ...]:
    found = json.loads(tokenizer.to_str())["model"]["merges"]
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in found)
    return tuple((a, b) for a, b in pairs)
