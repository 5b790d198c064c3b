"""Encoded texts on disk, so that a text of many gigabytes is translated once.

One folder a text, named by a key over everything that shapes the tokens:

====================  ==================================================================
``tokens.bin``        the ids, raw, little-endian, in the smallest dtype
``starts.bin``        where documents begin, raw, int64
``corpus.json``       vocabulary, counts, a CRC-32 for each of the two, and a digest of all that
====================  ==================================================================

A folder appears complete or not at all: it is written under another name, flushed, and renamed.
It is read through once when it is opened, and rebuilt where it does not match its checksums. Who
writes one holds a lock in it, which ends with the process however that ends: a folder that was
left unfinished and is not locked is removed by the next writer.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt.data.encode import Starts
from bptt.data.source import Source
from bptt.data.vocabulary import Ids, Vocabulary
from bptt.errors import BpttError, DataError
from bptt.files.folder import Folder, reason, temporary_name, unread
from bptt.files.lock import taken
from bptt.files.read import open_map

FORMAT = 2  # part of every key: folders of another format are simply not found
LARGEST = 64 << 20  # bytes of corpus.json: every character there is takes 12 in it at most
LEFT_OVER = 24 * 3600  # seconds after which a folder without a lock in it is nobody's any more
PIECE = 1 << 22  # bytes checked at once
LOCK = "lock"
TOKENS, STARTS, CORPUS = "tokens.bin", "starts.bin", "corpus.json"
UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.[0-9a-f]{16}\.tmp")


@dataclass(frozen=True)
class Stored:
    """An encoded text: ids (N,) and starts (D,), memory-mapped; the vocabulary; unknown tokens."""

    tokens: Ids
    starts: Starts
    vocabulary: Vocabulary
    unknown: int


def default_folder() -> Path:
    """Where encoded texts go when no folder is named: ``$XDG_CACHE_HOME/bptt``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bptt"


def key(sources: Sequence[Source], **settings: Any) -> str:
    """Name the encoding of these files, as they are now, under these settings."""
    files = [(os.path.abspath(source.name), source.size, source.mtime_ns) for source in sources]
    text = json.dumps([FORMAT, files, settings], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def load(folder: Path) -> Stored | None:
    """Open an encoded text; None where there is none or (with a warning) where it is damaged.

    Cost: one pass over the file to compare checksums; the arrays stay on disk.
    """
    if not os.path.lexists(folder):
        return None
    try:
        with (
            Folder.open(folder.parent, follow=True) as parent,
            parent.folder(folder.name) as opened,
        ):
            meta = _described(opened)
            vocabulary = Vocabulary.from_dict(meta["vocabulary"])
            tokens = _mapped(opened, TOKENS, vocabulary.dtype, meta["tokens"])
            starts = _mapped(opened, STARTS, np.dtype("<i8"), meta["starts"])
            return Stored(tokens, starts, vocabulary, int(meta["unknown"]))
    except OSError as error:
        what = f"{error.filename} {unread(error)}"
    except (ValueError, KeyError, TypeError, RecursionError, BpttError) as error:
        what = str(error)
    warnings.warn(f"{folder} is damaged ({what}) and is made anew", stacklevel=2)
    return None


def store(folder: Path, blocks: Iterable[Ids], starts: Starts, vocabulary: Vocabulary) -> Stored:
    """Write an encoded text and open it.

    Args:
        folder: its place; its parent is made where missing.
        blocks: the ids in order.
        starts: where documents begin (D,).
        vocabulary: what the ids mean.

    Returns:
        The text, memory-mapped.

    Raises:
        DataError: the folder cannot be written, or the disk is full; nothing is left behind.

    Cost: one write of N ids; memory of one block.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with Folder.open(folder.parent, follow=True) as parent:
            _tidy(parent)
            with _fresh(parent, folder) as fresh:
                tokens, unknown = _write(fresh, TOKENS, blocks, vocabulary.unknown_id)
                begins, _ = _write(fresh, STARTS, [starts.astype("<i8", copy=False)], None)
                meta = {
                    "vocabulary": vocabulary.to_dict(),
                    "tokens": tokens,
                    "starts": begins,
                    "unknown": unknown,
                }
                document = {"format": FORMAT, "digest": _digest(meta), "corpus": meta}
                fresh.write(CORPUS, json.dumps(document).encode("ascii"))
                fresh.flush()
    except (OSError, RuntimeError) as error:  # the second where a file system has no locks
        raise _unwritable(folder.parent, error) from None
    stored = load(folder)
    if stored is None:
        raise DataError(
            f"{folder} to hold what was just written to it",
            "something else",
            "check the disk, or pass another cache folder",
        )
    return stored


@contextmanager
def _fresh(parent: Folder, folder: Path) -> Iterator[Folder]:
    """A new hidden folder, locked while it is written, which takes its place at the end, or goes."""
    name = temporary_name(folder.name)
    try:
        with parent.make(name) as fresh:
            lock = taken(fresh, LOCK)
            try:
                yield fresh
                if (
                    lock is not None and os.name == "nt"
                ):  # there an open file can be neither removed
                    lock.release()  # nor carried along by its folder's new name
                fresh.remove(LOCK)
                _place(parent, name, folder)
            finally:
                if lock is not None:
                    lock.release()
    finally:
        with suppress(OSError):
            parent.remove(name)


def _tidy(parent: Folder) -> None:
    """Remove the folders that killed processes left; those being written are locked, or young."""
    for name in filter(UNFINISHED.fullmatch, parent.names()):
        try:
            with parent.folder(name) as left:
                over = _is_left_over(left)
            if over:
                parent.remove(name)
        except (OSError, RuntimeError):
            continue  # no folder, or somebody else was faster


def _is_left_over(folder: Folder) -> bool:
    if folder.status(LOCK) is None:  # perhaps just made, and not locked yet
        return time.time() - folder.path.lstat().st_mtime > LEFT_OVER
    lock = taken(folder, LOCK)
    if lock is None:
        return False
    lock.release()
    return True


def _place(parent: Folder, name: str, folder: Path) -> None:
    """Give it its name; another process may have been faster, or something damaged be in the way."""
    if parent.status(folder.name) is not None and load(folder) is None:
        parent.remove(folder.name)
    try:
        parent.rename(name, folder.name)
    except OSError:
        there = parent.status(folder.name)
        if there is None or not stat.S_ISDIR(there.st_mode):
            raise


def _write(
    folder: Folder, name: str, blocks: Iterable[NDArray[Any]], unknown_id: int | None
) -> tuple[dict[str, int], int]:
    size = unknown = crc = 0
    with folder.create(name) as file:
        for block in blocks:
            data = np.ascontiguousarray(block).data
            file.write(data)
            crc = zlib.crc32(data, crc)
            size += data.nbytes
            if unknown_id is not None:
                unknown += int(np.count_nonzero(block == unknown_id))
    return {"bytes": size, "crc32": crc}, unknown


def _described(folder: Folder) -> dict[str, Any]:
    """What ``corpus.json`` says; ValueError where it is not what was once written."""
    document = json.loads(folder.read(CORPUS, LARGEST))
    if document["format"] != FORMAT:
        raise ValueError(f"{CORPUS} is of format {document['format']!r:.20}, not {FORMAT}")
    meta: dict[str, Any] = document["corpus"]
    if _digest(meta) != document["digest"]:
        raise ValueError(f"{CORPUS} does not match its digest")
    return meta


def _digest(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode("ascii")).hexdigest()


def _mapped(folder: Folder, name: str, dtype: np.dtype[Any], meta: dict[str, int]) -> NDArray[Any]:
    crc, size = 0, meta["bytes"]
    with folder.reader(name) as file:
        there = os.fstat(file.fileno()).st_size
        if there != size:
            raise ValueError(f"{name} has {there} bytes, not {size!r:.20}")
        while data := file.read(PIECE):  # read, not mapped: memory stays flat
            crc = zlib.crc32(data, crc)
        if crc != meta["crc32"] or size % dtype.itemsize:
            raise ValueError(f"{name} does not match its checksum")
        return open_map(file, dtype)


def _unwritable(folder: Path, error: Exception) -> DataError:
    what = reason(error) if isinstance(error, OSError) else str(error)
    return DataError(
        "a cache folder with room for the encoded text",
        f"{str(folder)!r}: {what}",
        "free space there, or pass another folder as cache",
    )
