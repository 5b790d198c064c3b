"""``python -m torture [NAME ...]``: the long forms; a torture that is not survived ends with an error.

One file a torture: a function of the options that returns what it did, or raises AssertionError. To add
one, write the file, enter it in TORTURES, and give it its number in Options.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from torture import (
    changed_texts,
    damage,
    disk,
    extended,
    fuzz,
    hangups,
    hostile,
    kills,
    large_text,
    malformed,
    moved_directories,
    shown,
)


@dataclass(frozen=True)
class Options:
    """Torture runs until they break, or show that they do not."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which ones; all, if none is named: kills, hangups, extended, damage, disk, hostile, fuzz,
    malformed, large_text, changed_texts, moved_directories, shown."""
    kills: int = 50
    """Times that a training process is killed."""
    hangups: int = 200
    """Times that a training process loses its terminal."""
    extended: int = 200
    """Runs that are given more than they were begun with."""
    damages: int = 500
    """Files that are cut or changed."""
    hostile: int = 400
    """Run folders from somebody else, with links or with sealed files that say something else."""
    inputs: int = 1_000_000
    """Fuzzed inputs over all readers."""
    calls: int = 10_000
    """Malformed calls of layers."""
    shown: int = 100
    """Runs named and made with control characters, each read by every command."""
    gigabytes: float = 4.0
    """Size of the large text; the disk needs twice that."""
    changes: int = 200
    """Times that the text of a run is changed."""
    moves: int = 200
    """Times that a run and its text are moved."""
    seed: int = 0
    """Of where and when."""


TORTURES = {
    "kills": lambda o, folder: kills.torture(folder, kills=o.kills, seed=o.seed),
    "hangups": lambda o, folder: hangups.torture(folder, hangups=o.hangups, seed=o.seed),
    "extended": lambda o, folder: extended.torture(folder, rounds=o.extended, seed=o.seed),
    "damage": lambda o, folder: damage.torture(folder, damages=o.damages, seed=o.seed),
    "disk": lambda o, folder: disk.torture(folder),
    "hostile": lambda o, folder: hostile.torture(folder, rounds=o.hostile, seed=o.seed),
    "fuzz": lambda o, folder: fuzz.torture(o.inputs, o.seed),
    "malformed": lambda o, folder: malformed.torture(o.calls, o.seed),
    "changed_texts": lambda o, folder: changed_texts.torture(folder, rounds=o.changes, seed=o.seed),
    "moved_directories": lambda o, folder: moved_directories.torture(
        folder, rounds=o.moves, seed=o.seed
    ),
    "shown": lambda o, folder: shown.torture(folder, rounds=o.shown, seed=o.seed),
    "large_text": lambda o, folder: large_text.torture(folder, o.gigabytes),
}


def main() -> int:
    """Run those that are asked for, each in a folder of its own."""
    options = tyro.cli(Options, prog="./run torture")
    unknown = [name for name in options.names if name not in TORTURES]
    if unknown:
        print(f"torture: no {unknown[0]!r}; there are {', '.join(TORTURES)}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)  # children are forked, and threads are not
    for name in options.names or TORTURES:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            done = TORTURES[name](options, Path(folder))
        print(f"{name}: {done} ({time.monotonic() - begin:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
