"""A text dropped on a page: ``bptt train`` on it in a process of its own, its run folder read meanwhile.

A process of its own, because training seeds torch's random numbers, which all pages share, and so that
a page goes on answering while it trains.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from bptt.errors import ArgumentError, RunError
from bptt.lab.live import Tick
from bptt.lab.your_run import Course, read_course

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
        cell: rnn, gru or lstm.

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
