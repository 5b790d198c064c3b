"""How much memory there is, asked before a size that was typed wrong takes all of it.

A size of 10⁹ where 10³ was meant does not fail: the system promises the memory, and ends some
process, often another one, when it is touched. So what a call is going to need at the very least
is worked out from its sizes, and refused where the machine does not have that much.

Limits: a lower bound is compared with all the memory of the machine (or of its container), used or
not. A call that passes can still run out of it.
"""

from __future__ import annotations

import os
from pathlib import Path

from bptt.errors import ArgumentError

MOST_THREADS = 1024  # OpenMP ends the process where the system does not give it the threads
UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_CONTAINERS = (  # where Linux says what a container may use
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def total() -> int | None:
    """Bytes of memory that this process could have at most; None where the system does not say."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    for path in _CONTAINERS:
        try:
            found = min(found, int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # no container, or one without a limit
            continue
    return found


def require(needed: int, what: str, remedy: str) -> None:
    """Raise where a call needs more memory than there is.

    Args:
        needed: bytes, at the least.
        what: that needs them, with its sizes, e.g. ``"--hidden 1000000"``.
        remedy: what to do about it, as an imperative.

    Raises:
        ArgumentError: there is less.

    Example:
        >>> require(10**30, "hidden=10**15", "pass a smaller hidden")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        bptt.errors.ArgumentError: expected a size that fits into memory (...), received \
hidden=10**15, which needs 1000000000000 EB: pass a smaller hidden
    """
    there = total()
    if there is not None and needed > there:
        raise ArgumentError(
            f"a size that fits into memory ({written(there)} here)",
            f"{what}, which needs {written(needed)}",
            remedy,
        )


def written(size: int) -> str:
    """A number of bytes for a reader.

    Example:
        >>> written(4_100_000_000), written(12)
        ('4.1 GB', '12 B')
    """
    power = min((len(str(size)) - 1) // 3, len(UNITS) - 1)
    tenths = size * 10 // 1000**power  # in whole numbers: a size may be larger than any float
    if power > 0 and tenths < 1000:
        return f"{tenths // 10}.{tenths % 10} {UNITS[power]}"
    return f"{tenths // 10 if tenths < 10**40 else 'endless'} {UNITS[power]}"
