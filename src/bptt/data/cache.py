"""Encoded texts on disk, so that a text of many gigabytes is translated once.

One folder a text, named by a key over everything that shapes the tokens:

====================  ==================================================================
``tokens.bin``        the ids, raw, little-endian, in the smallest dtype
``starts.bin``        where documents begin, raw, int64
``corpus.json``       vocabulary, counts, dtype, a CRC-32 for each of the two
====================  ==================================================================

A folder appears complete or not at all: it is written under another name, flushed, and renamed.
It is read through once when it is opened, and rebuilt where it does not match its checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt.data.documents import Starts
from bptt.data.source import Source
from bptt.data.vocabulary import Ids, Vocabulary
from bptt.errors import BpttError, DataError

FORMAT = 1  # part of every key: folders of another format are simply not found
PIECE = 1 << 22  # bytes checked at once


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
        meta = json.loads((folder / "corpus.json").read_bytes())
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
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise _unwritable(folder.parent, error) from None
    try:
        tokens, unknown = _write(fresh / "tokens.bin", blocks, vocabulary.unknown_id)
        begins, _ = _write(fresh / "starts.bin", [starts.astype("<i8", copy=False)], None)
        meta = {
            "vocabulary": vocabulary.to_dict(),
            "tokens": tokens,
            "starts": begins,
            "unknown": unknown,
        }
        with open(fresh / "corpus.json", "w", encoding="ascii") as file:
            json.dump(meta, file)
            file.flush()
            os.fsync(file.fileno())
        _place(fresh, folder)
    except OSError as error:
        raise _unwritable(folder.parent, error) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    stored = load(folder)
    if stored is None:
        raise DataError(
            f"{folder} to hold what was just written to it",
            "something else",
            "check the disk, or pass another cache folder",
        )
    return stored


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


def _mapped(path: Path, dtype: np.dtype[Any], meta: dict[str, int]) -> NDArray[Any]:
    crc = size = 0
    with open(path, "rb", buffering=0) as file:  # read, not mapped: resident memory stays flat
        while data := file.read(PIECE):
            crc = zlib.crc32(data, crc)
            size += len(data)
    if (size, crc) != (meta["bytes"], meta["crc32"]) or size % dtype.itemsize:
        raise ValueError(f"{path.name} does not match its checksum")
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        "a cache folder with room for the encoded text",
        f"{str(folder)!r}: {error.strerror or error}",
        "free space there, or pass another folder as cache",
    )
