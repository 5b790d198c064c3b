"""Bytes that are on the disk when a call returns, and files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Write a new file and wait until the disk has it.

    Raises:
        OSError: no room, no right, or a disk that fails. Some disks say so only when flushed, which
            is why nothing counts as written before.
    """
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes) -> None:
    """Give a file new contents: whoever reads it, or comes after a crash, finds the old or the new."""
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary, data)
    os.replace(temporary, path)
    flush(path.parent)


def flush(folder: Path) -> None:
    """Wait until the disk has the names in a folder: a rename is in the folder, not in the file."""
    if os.name == "nt":  # opens no folders; NTFS writes a rename to its own journal
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
