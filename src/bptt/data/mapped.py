"""Arrays that stay in their file, and how little of the file they keep in memory.

A page of a mapped file that was read counts as this process's memory until somebody lets go of it.
On a machine with room to spare nobody does, and a run that has gone once through a text of 40 GB
holds 40 GB. So whoever reads here and there in a mapped stream counts what it may have touched,
and hands the pages back from time to time: the system keeps them in its cache and gives them again
at the price of a page fault.

Limits: pages are handed back where the system knows ``madvise`` (Linux, macOS); elsewhere it
decides alone.
"""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESIDENT = 16 << 20  # bytes that may be touched before they are handed back
AROUND = 1 << 16  # Linux maps up to this much around a page that is asked for


def open_regular(path: Path, size: int) -> Any:
    """A file opened for reading; ValueError where it is not an ordinary file of ``size`` bytes.

    A pipe would be waited for and a device never ends: neither is opened.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path.name} is not an ordinary file")
    if status.st_size != size:
        raise ValueError(f"{path.name} has {status.st_size} bytes, not {size}")
    return open(path, "rb", buffering=0)


def open_map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A file as a read-only array (N,); ValueError where it is empty."""
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def release(array: NDArray[Any]) -> None:
    """Hand the pages of a mapped array back to the system; nothing for an array in memory.

    The array is afterwards what it was. Cost: a system call, and a fault for each page read again.
    """
    mapping = _mapping(array)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


class Footprint:
    """Counts what has been read of a mapped array, and releases it when it may be much.

    Args:
        array: the stream (N,) that is read; of one in memory nothing is counted.

    Example:
        >>> Footprint(np.zeros(9)).read(places=2, span=8)
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = None if _mapping(array) is None else array
        self._touched = 0

    def read(self, places: int, span: int) -> None:
        """Note that ``span`` bytes were read at each of so many places, wherever they lie."""
        if self._array is None:
            return
        self._touched += places * (span + 2 * AROUND)
        if self._touched > RESIDENT:
            release(self._array)
            self._touched = 0


def _mapping(array: Any) -> mmap.mmap | None:
    """The map that an array is a view of, however often it was cut; None where there is none."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return array
