"""Arrays that stay in their file, and how little of the file they keep in memory.

A page of a mapped file that was read counts as this process's memory until somebody lets go of it.
On a machine with room to spare nobody does, and a run that has gone once through a text of 40 GB
holds 40 GB. So whoever reads in a mapped stream hands the pages back soon after: the system keeps
them in its cache and gives them again at the price of a page fault.

Limits: pages are handed back where the system knows ``madvise`` (Linux, macOS); elsewhere it
decides alone.
"""

from __future__ import annotations

import mmap
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

RESIDENT = 32 << 20  # bytes that may be touched before they are handed back
AROUND = 4 << 20  # a fault may map the whole folio of the cache, up to 2 MB; a window may cross two


def open_map(file: BinaryIO, dtype: np.dtype[Any]) -> NDArray[Any]:
    """An open file as a read-only array (N,), which stays when it is closed; ValueError where it is
    empty."""
    return np.asarray(np.memmap(file, dtype=dtype, mode="r"))


def release(array: NDArray[Any]) -> None:
    """Hand the pages of a mapped array back to the system; nothing for an array in memory.

    The array is afterwards what it was. Cost: a system call, and a fault for each page read again.
    """
    mapping = _mapping(array)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def windows(stream: NDArray[Any], begins: NDArray[np.int64], span: int) -> NDArray[Any]:
    """Read ``span`` tokens from each of several places.

    Args:
        stream: tokens (N,), in memory or mapped.
        begins: the first token of each window (B,); no window passes the stream's end.
        span: tokens of a window.

    Returns:
        (span, B), a copy: ``stream[begins[b] + t]`` at ``[t, b]``. Of a mapped stream not more than
        about 32 MB are held meanwhile, and none afterwards.

    Cost: O(span B); for a mapped stream a system call for every few windows and a fault for each.

    Example:
        >>> windows(np.arange(10) * 10, np.array([0, 6]), 3).tolist()
        [[0, 60], [10, 70], [20, 80]]
    """
    steps = np.arange(span)[:, None]
    if _mapping(stream) is None:
        return np.asarray(stream[begins + steps])
    read = np.empty((span, len(begins)), dtype=stream.dtype)
    group = max(RESIDENT // (span * stream.itemsize + AROUND), 1)
    for low in range(0, len(begins), group):
        read[:, low : low + group] = stream[begins[low : low + group] + steps]
        release(stream)
    return read


def _mapping(array: Any) -> mmap.mmap | None:
    """The map that an array is a view of, however often it was cut; None where there is none."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return array
