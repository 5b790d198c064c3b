"""The readers that are fuzzed, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

READERS: dict[str, Reader] = {}


class Reader(NamedTuple):
    """How one kind of input is made and read, and its share; cheap ones get the larger."""

    read: Callable[[Random, Path], None]
    share: int


def reader(
    share: int,
) -> Callable[[Callable[[Random, Path], None]], Callable[[Random, Path], None]]:
    """Enter a reader."""

    def enter(function: Callable[[Random, Path], None]) -> Callable[[Random, Path], None]:
        READERS[function.__name__] = Reader(function, share)
        return function

    return enter
