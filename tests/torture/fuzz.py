"""Hostile input for everything that reads: files, settings, results, arguments.

Each input is a sound one, changed at random, so that it gets past the first check; it is made from
the reader's name and a number, and ``one(name, number)`` makes it again. The contract: success, or a
BpttError of one line; from the command line exit status 0 or 2. Another exception, a message of
several lines, or more than ``PATIENCE`` seconds fail.

The mutation is our own. Hypothesis, which tests the laws elsewhere, makes a thousand examples a second
at best and a million are wanted; a coverage-guided fuzzer (atheris) sees the Python that it instruments,
and what parses here is ``json``, ``tomllib``, ``safetensors`` and NumPy.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import tyro

from bptt.errors import BpttError
from torture import commands, readers  # noqa: F401 - they enter themselves
from torture.registry import READERS, Reader
from torture.samples import TEXT

__all__ = ["READERS", "Reader", "one", "prepared", "torture"]

PATIENCE = 30.0  # seconds of computing for an input that takes milliseconds
# Seconds of waiting: a pipe without a writer. A process that is frozen waits too, so be lenient.
WAIT = 600.0


class Hung(BaseException):
    """An input took longer than PATIENCE; not an Exception, so that no reader can swallow it."""


def one(name: str, number: int, folder: Path) -> None:
    """Make input ``number`` of a reader and read it; AssertionError where the contract is broken."""
    random = Random(f"{name} {number}")
    _alarms(PATIENCE, WAIT)
    try:
        READERS[name].read(random, folder)
    except BpttError as error:
        broken = "\n" in str(error) or not str(error)
        if broken:
            raise AssertionError(f"{name} {number}: {error!s:.500}") from error
    except (AssertionError, Hung, Exception) as error:
        raise AssertionError(f"{name} {number}: {type(error).__name__}: {error!s:.500}") from error
    finally:
        _alarms(0, 0)


def _alarms(computing: float, waiting: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, computing)
        signal.setitimer(signal.ITIMER_REAL, waiting)


@contextlib.contextmanager
def prepared() -> Any:
    """A folder with what the commands want to find, and an alarm for what never ends."""

    def hung(number: int, frame: object) -> None:
        raise Hung(f"more than {PATIENCE} seconds of computing, or {WAIT} of waiting")

    names = [name for name in ("SIGALRM", "SIGPROF") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), hung) for name in names}
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name, np.errstate(all="ignore"):
        folder = Path(name)
        (folder / "text.txt").write_text(TEXT, encoding="utf-8")
        try:
            yield folder
        finally:
            logging.disable(logging.NOTSET)
            for signal_name, handler in before.items():
                signal.signal(getattr(signal, signal_name), handler)


def torture(inputs: int = 1_000_000, seed: int = 0, only: str | None = None) -> str:
    """So many inputs over all readers by their shares, each reader in a folder of its own."""
    total, lines = sum(r.share for r in READERS.values()), []
    for name, (_, share) in READERS.items():
        if only not in (None, name):
            continue
        count = -(-inputs * share // total)
        begin = time.monotonic()
        with prepared() as folder:
            for number in range(seed, seed + count):
                one(name, number, folder)
        lines.append(f"{name} {count:,} in {time.monotonic() - begin:.0f} s")
        print(lines[-1], flush=True)
    return "; ".join(lines)


if __name__ == "__main__":
    sys.exit(print(tyro.cli(torture)))
