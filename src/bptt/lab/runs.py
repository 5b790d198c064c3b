"""Which run folders the lab may open: those below the directory it was started in, and the one given.

A page never sends a path: it chooses a name among those listed here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from bptt.errors import ArgumentError, RunError
from bptt.lab.live import Tick
from bptt.lab.your_run import Course, read_course

DEPTH = 4  # folders below the directory
MOST = 60  # runs listed, the newest
PATIENCE = 4000  # folders looked into
SKIPPED = {"node_modules", "site-packages", "checkpoints", "__pycache__"}


def list_runs(root: str | os.PathLike[str], given: str | None = None) -> dict[str, Path]:
    """Run folders by name, the given one first, then the newest.

    Args:
        root: look below this directory, at most 4 folders deep; links are not followed.
        given: another folder, allowed wherever it is.

    Returns:
        name → folder; the name is the path below ``root``, and "…/NAME" of one that is not below it.

    Cost: lists at most 4000 folders.

    Example:
        >>> import tempfile
        >>> list_runs(tempfile.mkdtemp())
        {}
    """
    top = Path(root).resolve()
    found = []
    for looked, (place, folders, files) in enumerate(os.walk(top)):
        here = Path(place)
        if is_run(here, files):
            found.append(here)
            folders.clear()  # no run within a run
        deep = len(here.relative_to(top).parts) >= DEPTH
        folders[:] = (
            []
            if deep or looked >= PATIENCE
            else [f for f in sorted(folders) if not f.startswith(".") and f not in SKIPPED]
        )
    found.sort(key=_changed, reverse=True)
    first = [] if given is None else [Path(given).resolve()]
    runs = first + [run for run in found[:MOST] if run not in first]
    return {_name(run, top): run for run in runs}


def _name(run: Path, top: Path) -> str:
    below = run.is_relative_to(top) and run != top
    # Short, for a phone; "…" is no folder's name below the directory.
    return str(run.relative_to(top)) if below else f"…/{run.name}"


def is_run(folder: Path, files: list[str] | None = None) -> bool:
    """Whether it looks like a run folder; the files themselves may still be broken."""
    names = set(os.listdir(folder)) if files is None else set(files)
    return {"config.toml", "metrics.jsonl"} <= names


def choose(runs: dict[str, Path], name: str | None) -> Path:
    """The folder of a listed name.

    Raises:
        RunError: it is not listed.
    """
    if name is None or name not in runs:
        raise RunError(
            "the name of a listed run",
            repr(name),
            "start bptt lab where your runs are, or with --run",
        )
    return runs[name]


def _changed(run: Path) -> float:
    try:
        return (run / "metrics.jsonl").stat().st_mtime
    except OSError:
        return 0.0


# A text dropped on a page: ``bptt train`` on it in a process of its own, its run folder read meanwhile.
#
# A process of its own, because training seeds torch's random numbers, which all pages share, and so that
# a page goes on answering while it trains.

UPDATES = 300
LARGEST = 4_000_000  # bytes; more would take longer to read than to learn from
SMALLEST = 2_000
# A model that learns something of a text in a quarter of a minute on one core.
SMALL = {
    "hidden": 64, "batch": 8, "k": 32, "log-every": 5, "horizon-every": 20, "eval-every": 50,
    "keep": 20, "threads": 1, "sample": 0,
}  # fmt: skip


def train_text(
    text: bytes, folder: Path, *, updates: int = UPDATES, cell: str = "gru"
) -> Iterator[Tick[Course | None]]:
    """Train a small model on a text.

    Args:
        text: UTF-8.
        folder: an empty one; the text and the run are put there.
        updates: to make.
        cell: rnn, gru, lstm, mingru or lru.

    Yields:
        Ticks, ten a second, with the run's course. Whoever stops listening ends the training.

    Raises:
        ArgumentError: the text is too short or too long.
        RunError: the training failed; with its own words.
    """
    if not SMALLEST <= len(text) <= LARGEST:
        raise ArgumentError(
            f"a text of {SMALLEST:,} to {LARGEST:,} bytes", f"{len(text):,}", "drop another one"
        )
    file, run = folder / "text.txt", folder / "run"
    file.write_bytes(text)
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    words = [str(file), "--out", str(run), "--cell", cell, "--steps", str(updates), *options]
    # This interpreter as it was started, and deaf to a Ctrl-C that is meant for the lab.
    python = [sys.executable, *(["-S"] if sys.flags.no_site else [])]
    child = subprocess.Popen(
        [*python, "-m", "bptt", "train", *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    course: Course | None = None
    try:
        while True:
            running = child.poll() is None
            before = course
            course = _course(run, course)
            step = 0 if course is None else int(course.last("step") or 0)
            yield Tick(min(step, updates), updates, course, fresh=course is not before)
            if not running:
                break
            time.sleep(0.1)
        if child.returncode:
            said = cast(IO[str], child.stderr).read().strip().splitlines() or ["no word"]
            raise RunError("a training that ends well", said[-1], "drop another text")
    finally:
        if child.poll() is None:
            child.kill()  # it is the page's own, and what it has written is whole
        child.wait()
        if child.stderr is not None:
            child.stderr.close()


def _course(run: Path, before: Course | None) -> Course | None:
    """None until the folder is there."""
    return read_course(run, before) if (run / "metrics.jsonl").is_file() else None
