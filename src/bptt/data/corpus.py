"""A text as two streams of tokens, one to train on and one held out.

The held-out part is the last tenth of the tokens, files put end to end in the order given: what
comes later is predicted from what came before, as in use.

The vocabulary is made of the training part alone. A character that only the held-out part has
becomes the unknown symbol there, as it would in any text still to come; ``Corpus.unknown`` counts
them.

Small texts live in memory. Large ones (64 MiB and up) are encoded once into a cache folder and
mapped from there; resident memory stays flat. A file of bytes is copied there too, although its
bytes are the tokens already: the file is the user's, and a map of it would end the process without
a word (SIGBUS) when somebody shortens it, and change the text under a run when somebody edits it.
Nobody writes to a folder of the cache once it is there.

Limits: where documents begin is kept in memory while it is found out, about 30 bytes a document.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bptt.choices import TOKENS, parse_form
from bptt.data import cache as disk
from bptt.data.encode import Starts, Survey, encoded, part, survey
from bptt.data.source import BLOCK, READINGS, Reading, Source, default_text
from bptt.data.vocabulary import ByteVocabulary, CharVocabulary, Ids, Vocabulary
from bptt.data.words import WordVocabulary, form_of, tokenise, unknown_words
from bptt.errors import ArgumentError, DataError, real
from bptt.files.read import release

Files = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
Progress = Callable[[int, int], None]


class Stream(NamedTuple):
    """Tokens (N,) of the smallest unsigned dtype, and the positions (D,) where documents begin."""

    tokens: Ids
    starts: Starts


@dataclass(frozen=True, eq=False)
class Corpus:
    """The tokens of a text, split, with their vocabulary.

    Args:
        vocabulary: what the ids mean.
        train: the stream to train on.
        valid: the held-out stream, None where nothing is held out.
        unknown: how many tokens are the unknown symbol, both streams together.
        names: the files, or what stands for them.
        documents: how many begin in the text: one a file, and one after each run of separators.

    Example:
        >>> corpus = Corpus.from_text("a rose is a rose is a rose", valid_fraction=0.25)
        >>> corpus.vocabulary.decode(corpus.train.tokens), corpus.vocabulary.decode(corpus.valid[0])
        ('a rose is a rose is', ' a rose')
    """

    vocabulary: Vocabulary
    train: Stream
    valid: Stream | None
    unknown: int
    names: tuple[str, ...]
    documents: int = 1

    @classmethod
    def open(
        cls,
        files: Files | None = None,
        *,
        bytes_mode: bool = False,
        tokens: str = "char",
        vocabulary: Vocabulary | None = None,
        valid_fraction: float = 0.1,
        document_separator: str | None = None,
        line_ends: Reading = "keep",
        cache: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
        in_memory_below: int = 64 << 20,
        block: int = BLOCK,
    ) -> Corpus:
        """Read texts as tokens.

        Args:
            files: one file or several, each at least one document; None or none for the text that
                every CPython carries.
            bytes_mode: tokens are bytes, else the characters of UTF-8.
            tokens: ``"word"``, ``"word:N"`` (the N most frequent) or ``"bpe:N"`` in place of
                characters, see ``bptt.data.words``; ``"byte"`` is ``bytes_mode``.
            vocabulary: use this one (it implies ``bytes_mode`` or ``tokens``); characters it does
                not have become unknown. None makes one of the training part.
            valid_fraction: the share held out at the end, 0 <= valid_fraction < 1.
            document_separator: a document begins after each run of these.
            line_ends: ``"keep"`` leaves them as they are, ``"unix"`` reads each as a line feed.
            cache: folder for encoded large texts; None for the user's cache folder.
            progress: called with (bytes done, bytes in all) as files are read.
            in_memory_below: texts of fewer bytes are kept in memory.
            block: bytes read at once.

        Returns:
            The corpus: of N tokens the first ``int((1 - valid_fraction) N)`` to train on.

        Raises:
            DataError: a file is missing, empty, a directory, not readable, not UTF-8, or changes
                meanwhile; a part has fewer than 2 tokens; the cache cannot be written.
            ArgumentError: a setting is out of range.

        Cost: two passes over the files (one where the vocabulary does not need the first, none
        for one mapped file of bytes); about 30 MB of memory beside the text of a small input.

        Example:
            >>> corpus = Corpus.open(bytes_mode=True)
            >>> corpus.vocabulary.size, len(corpus.train.tokens) > 9 * len(corpus.valid.tokens) - 9
            (256, True)
        """
        sources = sources_of(files, line_ends)
        return cls._read(
            sources,
            as_bytes=_as_bytes(bytes_mode or tokens == "byte", vocabulary),
            form=_form(bytes_mode, tokens, vocabulary),
            vocabulary=vocabulary,
            valid_fraction=_fraction(valid_fraction),
            separator=document_separator,
            folder=disk.default_folder() if cache is None else Path(cache),
            progress=progress,
            in_memory_below=in_memory_below,
            block=block,
        )

    @classmethod
    def from_text(
        cls,
        text: str,
        *,
        bytes_mode: bool = False,
        tokens: str = "char",
        vocabulary: Vocabulary | None = None,
        valid_fraction: float = 0.1,
        document_separator: str | None = None,
        line_ends: Reading = "keep",
    ) -> Corpus:
        """Read a text held in memory, with the settings of ``open``."""
        return cls._read(
            [Source.of_text(text, unix=_unix(line_ends))],
            as_bytes=_as_bytes(bytes_mode or tokens == "byte", vocabulary),
            form=_form(bytes_mode, tokens, vocabulary),
            vocabulary=vocabulary,
            valid_fraction=_fraction(valid_fraction),
            separator=document_separator,
        )

    @classmethod
    def _read(
        cls,
        sources: Sequence[Source],
        *,
        as_bytes: bool,
        form: str | None,
        vocabulary: Vocabulary | None,
        valid_fraction: float,
        separator: str | None,
        folder: Path | None = None,
        progress: Progress | None = None,
        in_memory_below: int = 0,
        block: int = BLOCK,
    ) -> Corpus:
        size = sum(source.size for source in sources)
        names = tuple(source.name for source in sources)
        small = size < in_memory_below or any(s.content is not None for s in sources)
        unix = any(source.unix for source in sources)
        sweeps = (not as_bytes or separator is not None or unix) + 1
        tell = None if progress is None else _Counter(progress, size * sweeps)

        place = None
        if folder is not None and not small:
            settings = {"b": as_bytes, "f": valid_fraction, "s": separator}
            settings |= {"unix": True} if unix else {}  # else the key of texts encoded earlier
            settings |= {} if form is None else {"tokens": form}
            own = folder / disk.key(sources, v=None, **settings)
            place = own
            if vocabulary is not None:
                place = folder / disk.key(sources, v=vocabulary.to_dict(), **settings)
            # A run that goes on brings the vocabulary that was made of this very text.
            for known in dict.fromkeys((own, place)):
                stored = disk.load(known)
                if stored is not None and vocabulary in (None, stored.vocabulary):
                    return cls._split(stored, valid_fraction, names)

        if form is not None:
            read = tokenise(
                sources,
                form,
                fraction=valid_fraction,
                separator=separator,
                vocabulary=vocabulary,
                tell=tell,
            )
            _border(len(read.tokens), valid_fraction, "tokens")
            if place is None:
                stored = disk.Stored(
                    read.tokens,
                    read.starts,
                    read.vocabulary,
                    _unknown(read.tokens, read.vocabulary),
                )
            else:
                stored = disk.store(place, [read.tokens], read.starts, read.vocabulary)
            return cls._split(stored, valid_fraction, names)
        found = survey(sources, as_bytes=as_bytes, separator=separator, block=block, tell=tell)
        border = _border(found.length, valid_fraction, "bytes" if as_bytes else "characters")
        if vocabulary is None:
            vocabulary = _vocabulary(found, border, as_bytes)
        blocks = encoded(sources, vocabulary, as_bytes=as_bytes, block=block, tell=tell)
        if place is not None:
            stored = disk.store(place, blocks, found.starts, vocabulary)
        else:
            stored = _kept(blocks, found, vocabulary)
        return cls._split(stored, valid_fraction, names)

    @classmethod
    def _split(cls, stored: disk.Stored, fraction: float, names: tuple[str, ...]) -> Corpus:
        end = len(stored.tokens)
        border = int((1 - fraction) * end)
        train = Stream(stored.tokens[:border], part(stored.starts, 0, border))
        valid = None
        if fraction > 0:
            valid = Stream(stored.tokens[border:], part(stored.starts, border, end))
        return cls(stored.vocabulary, train, valid, stored.unknown, names, len(stored.starts))

    def fingerprint(self) -> str:
        """A digest of vocabulary, tokens and starts of both parts: equal where training and scores
        would be equal, whatever the files are called.

        Cost: one pass over the tokens, about a second a gigabyte.

        Example:
            >>> Corpus.from_text("to be or not").fingerprint() == Corpus.from_text(
            ...     "to be or not").fingerprint()
            True
        """
        digest = hashlib.blake2b(json.dumps(self.vocabulary.to_dict()).encode(), digest_size=16)
        for stream in (self.train, self.valid):
            for array in stream or ():
                digest.update(f"{len(array)};".encode())
                for begin in range(0, len(array), BLOCK):
                    digest.update(np.ascontiguousarray(array[begin : begin + BLOCK]).data)
                    release(array)
        return digest.hexdigest()


class _Counter:
    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, size: int) -> None:
        self._done += size
        self._progress(self._done, self._total)


def _kept(blocks: Iterable[Ids], found: Survey, vocabulary: Vocabulary) -> disk.Stored:
    tokens = np.empty(found.length, dtype=vocabulary.dtype)
    begin = 0
    for ids in blocks:
        tokens[begin : begin + len(ids)] = ids
        begin += len(ids)
    return disk.Stored(tokens, found.starts, vocabulary, _unknown(tokens, vocabulary))


def _unknown(tokens: Ids, vocabulary: Vocabulary) -> int:
    if vocabulary.unknown_id is None:
        return 0
    return int(np.count_nonzero(tokens == vocabulary.unknown_id))


def _vocabulary(found: Survey, border: int, as_bytes: bool) -> Vocabulary:
    if as_bytes:
        return ByteVocabulary()
    return CharVocabulary.from_points(found.points_before(border))


def sources_of(files: Files | None = None, line_ends: Reading = "keep") -> list[Source]:
    """The files as texts to be read; without one, the text that every CPython carries."""
    unix = _unix(line_ends)
    paths = [] if files is None else _listed(files)
    if not paths:
        return [Source.of_text(default_text(), "the default text", unix)]
    return [Source.of_file(path, unix) for path in paths]


def _unix(line_ends: Reading) -> bool:
    if line_ends not in READINGS:
        raise ArgumentError(
            "line_ends among " + ", ".join(READINGS), f"{line_ends!r:.80}", "pass one of the two"
        )
    return line_ends == "unix"


def _listed(files: Files) -> list[str | os.PathLike[str]]:
    return [files] if isinstance(files, (str, os.PathLike)) else list(files)


def _as_bytes(bytes_mode: bool, vocabulary: Vocabulary | None) -> bool:
    if isinstance(vocabulary, ByteVocabulary):
        return True
    if bytes_mode and vocabulary is not None:
        raise ArgumentError(
            "a ByteVocabulary with bytes_mode",
            type(vocabulary).__name__,
            "leave out bytes_mode, or the vocabulary",
        )
    return bytes_mode


def _form(bytes_mode: bool, tokens: str, vocabulary: Vocabulary | None) -> str | None:
    """The form of tokens longer than a character; None for characters and bytes."""
    name, _ = parse_form(tokens, TOKENS)
    implied = form_of(vocabulary)
    if name in ("char", "byte"):
        if bytes_mode and implied is not None:
            _as_bytes(True, vocabulary)
        return implied
    if bytes_mode:
        raise ArgumentError("bytes_mode or tokens", f"bytes_mode and {tokens}", "pass one of them")
    return tokens


def _fraction(value: float) -> float:
    value = real("valid_fraction", value, "pass for example 0.1")
    if not 0 <= value < 1:
        raise ArgumentError(
            "0 <= valid_fraction < 1", f"valid_fraction={value}", "pass for example 0.1"
        )
    return value


def _border(length: int, fraction: float, unit: str) -> int:
    border = int((1 - fraction) * length)
    if border < 2 or (fraction > 0 and length - border < 2):
        held = f", {border} to train on and {length - border} held out" if fraction else ""
        raise DataError(
            f"a text of at least 2 {unit}" + (" in each part" if fraction else ""),
            f"{length} {unit.removesuffix('s') if length == 1 else unit}{held}",
            "give a longer text"
            + (", or valid_fraction=0 to hold nothing out" if fraction else ""),
        )
    return border


# The characters of a text that a vocabulary does not know, by name.
#
# In a stream of tokens they are one symbol; which ones they were stands in the text only.


def count_unknown(
    files: Files | None, vocabulary: Vocabulary, *, line_ends: Reading = "keep", begin: int = 0
) -> dict[str, int]:
    """Count each unknown character of a text.

    Args:
        files: as ``Corpus.open`` takes them; None or none for the default text.
        vocabulary: what is known.
        line_ends: as ``Corpus.open`` takes it.
        begin: tokens at the beginning that are left out.

    Returns:
        Character (or word) → how often, the most frequent first; empty where nothing can be unknown
        (bytes).

    Raises:
        DataError: as ``Corpus.open``.

    Cost: one pass over the text; a block in memory.

    Example:
        >>> import tempfile
        >>> from bptt.data import CharVocabulary
        >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        ...     _ = file.write("a rose? arose!!".encode())
        ...     file.flush()
        ...     count_unknown(file.name, CharVocabulary.from_text("a rose"))
        {'!': 2, '?': 1}
    """
    if vocabulary.unknown_id is None:
        return {}
    found: Counter[str] = Counter()
    if isinstance(vocabulary, WordVocabulary):
        words = unknown_words(sources_of(files, line_ends), vocabulary, begin)
        return dict(Counter(words).most_common())
    for source in sources_of(files, line_ends):
        for codes in source.blocks():
            here, begin = codes[begin:], max(begin - len(codes), 0)
            strange = here[vocabulary.lookup(here) == vocabulary.unknown_id]
            points, counts = np.unique(strange, return_counts=True)
            for point, count in zip(points.tolist(), counts.tolist(), strict=True):
                found[chr(point)] += count
    return dict(found.most_common())
