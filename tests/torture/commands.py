"""The command line, fuzzed: arguments of every subcommand, and nothing is run."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from random import Random
from typing import Any

import torch

from bptt import cli
from bptt.errors import BpttError
from bptt.training.loop import train
from bptt.training.settings import Settings
from torture.mutations import mutate_words
from torture.registry import reader
from torture.samples import COMMANDS, OPTIONS


@reader(2)
def command_line(random: Random, folder: Path) -> None:
    """Arguments of every subcommand; nothing is trained, measured or fetched."""
    if not (folder / "run").exists():
        train(
            Settings(
                (str(folder / "text.txt"),),
                hidden=3,
                batch=2,
                k=4,
                steps=1,
                out=str(folder / "run"),
            )
        )
    name = random.choice(tuple(COMMANDS))
    words = mutate_words(random, [str(folder / w[1:]) if w[:1] == "@" else w for w in COMMANDS[name]],
                         OPTIONS)  # fmt: skip
    words = [name, *words] if random.random() < 0.98 else words
    out, err = io.StringIO(), io.StringIO()
    before = Path.cwd()
    os.chdir(folder)
    try:
        with _nothing_runs(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(words)
    except SystemExit as stop:
        status = stop.code or 0
    finally:
        os.chdir(before)
    said = err.getvalue().strip().splitlines()
    assert status in (0, 2), f"{words!r:.300}: status {status}, {said!r:.300}"
    assert status == 0 or said, f"{words!r:.300}: status 2 without a word"
    assert "Traceback" not in err.getvalue(), f"{words!r:.300}: {said!r:.300}"


class Stopped(BpttError):
    """Where a command would begin to work."""


@contextlib.contextmanager
def _nothing_runs() -> Any:
    """Commands get as far as their work, and no farther."""
    from unittest import mock

    def stop(*arguments: Any, **options: Any) -> Any:
        raise Stopped("nothing", "work", "be content")

    def begin(settings: Settings, **options: Any) -> Any:
        """All that training does before the first step."""
        from bptt.training import begin

        begin.Session(settings, begin.open_corpus(settings))
        stop()

    with contextlib.ExitStack() as stack:
        for place in (
            "bptt.experiments.compare.results.run_grid",
            "bptt.experiments.compare.job.build_task",
            "bptt.claims.run_claims",
            "bptt.models.language._draw",
            "bptt.probes.diagnose.diagnose",
            "bptt.data.fetch.fetch",
            "bptt.cli.bench._measure",
        ):
            stack.enter_context(mock.patch(place, stop))
        stack.enter_context(mock.patch("bptt.training.loop.train", begin))
        stack.enter_context(mock.patch.object(torch, "set_num_threads"))
        yield
