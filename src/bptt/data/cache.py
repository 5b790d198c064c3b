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
import shutil
import tempfile
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt.data.documents import Starts
from bptt.data.mapped import open_map, open_regular
from bptt.data.source import Source
from bptt.data.vocabulary import Ids, Vocabulary
from bptt.errors import BpttError, DataError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT = 2  # part of every key: folders of another format are simply not found
LARGEST = 64 << 20  # bytes of corpus.json: every character there is takes 12 in it at most
LEFT_OVER = 24 * 3600  # seconds after which a folder without a lock in it is nobody's any more
PIECE = 1 << 22  # bytes checked at once
LOCK = "lock"
UNFINISHED = re.compile(r"\.[0-9a-f]{32}-.+")


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
    if not folder.is_dir():
        return None
    try:
        meta = _described(folder / "corpus.json")
        vocabulary = Vocabulary.from_dict(meta["vocabulary"])
        tokens = _mapped(folder / "tokens.bin", vocabulary.dtype, meta["tokens"])
        starts = _mapped(folder / "starts.bin", np.dtype("<i8"), meta["starts"])
        return Stored(tokens, starts, vocabulary, int(meta["unknown"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, BpttError) as error:
        warnings.warn(f"{folder} is damaged ({error}) and is made anew", stacklevel=2)
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
        _tidy(folder.parent)
        with _fresh(folder) as fresh:
            tokens, unknown = _write(fresh / "tokens.bin", blocks, vocabulary.unknown_id)
            begins, _ = _write(fresh / "starts.bin", [starts.astype("<i8", copy=False)], None)
            meta = {
                "vocabulary": vocabulary.to_dict(),
                "tokens": tokens,
                "starts": begins,
                "unknown": unknown,
            }
            with open(fresh / "corpus.json", "w", encoding="ascii") as file:
                json.dump({"format": FORMAT, "digest": _digest(meta), "corpus": meta}, file)
                file.flush()
                os.fsync(file.fileno())
            (fresh / LOCK).unlink(missing_ok=True)
            _place(fresh, folder)
    except OSError as error:
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
def _fresh(folder: Path) -> Iterator[Path]:
    """A new hidden folder beside ``folder``, locked while it is written, gone afterwards."""
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    lock = -1
    try:
        if fcntl is not None:
            lock = os.open(fresh / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield fresh
    finally:
        if lock >= 0:
            os.close(lock)
        shutil.rmtree(fresh, ignore_errors=True)


def _tidy(parent: Path) -> None:
    """Remove the folders that killed processes left; those being written are locked, or young."""
    for path in parent.glob(".*-*"):
        if not UNFINISHED.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        try:
            if _is_left_over(path):
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # somebody else was faster


def _is_left_over(path: Path) -> bool:
    old = time.time() - path.stat().st_mtime > LEFT_OVER
    if fcntl is None or not (path / LOCK).exists():  # perhaps just made, and not locked yet
        return old
    handle = os.open(path / LOCK, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _place(fresh: Path, folder: Path) -> None:
    try:
        os.rename(fresh, folder)
    except OSError:
        if not folder.is_dir():
            raise
        # Another process was faster, and its folder will do, or a damaged one is in the way.
        if load(folder) is None:
            shutil.rmtree(folder)
            os.rename(fresh, folder)


def _write(
    path: Path, blocks: Iterable[NDArray[Any]], unknown_id: int | None
) -> tuple[dict[str, int], int]:
    size = unknown = crc = 0
    with open(path, "wb") as file:
        for block in blocks:
            data = np.ascontiguousarray(block).data
            file.write(data)
            crc = zlib.crc32(data, crc)
            size += data.nbytes
            if unknown_id is not None:
                unknown += int(np.count_nonzero(block == unknown_id))
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "crc32": crc}, unknown


def _described(path: Path) -> dict[str, Any]:
    """What ``corpus.json`` says; ValueError where it is not what was once written."""
    size = os.stat(path).st_size
    if size > LARGEST:
        raise ValueError(f"{path.name} has {size} bytes")
    with open_regular(path, size) as file:
        document = json.loads(file.read(LARGEST))
    if document["format"] != FORMAT:
        raise ValueError(f"{path.name} is of format {document['format']!r:.20}, not {FORMAT}")
    meta: dict[str, Any] = document["corpus"]
    if _digest(meta) != document["digest"]:
        raise ValueError(f"{path.name} does not match its digest")
    return meta


def _digest(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode("ascii")).hexdigest()


def _mapped(path: Path, dtype: np.dtype[Any], meta: dict[str, int]) -> NDArray[Any]:
    crc = 0
    with open_regular(path, meta["bytes"]) as file:  # read, not mapped: memory stays flat
        while data := file.read(PIECE):
            crc = zlib.crc32(data, crc)
    if crc != meta["crc32"] or meta["bytes"] % dtype.itemsize:
        raise ValueError(f"{path.name} does not match its checksum")
    return open_map(path, dtype)


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        "a cache folder with room for the encoded text",
        f"{str(folder)!r}: {error.strerror or error}",
        "free space there, or pass another folder as cache",
    )
