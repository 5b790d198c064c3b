"""A run on disk: settings, environment, metrics, checkpoints.

::

    RUN/config.toml          the settings, complete
        environment.json     versions and machine
        vocabulary.json      what the token numbers mean
        metrics.jsonl        one line per logged step: the source of truth for every plot
        checkpoints/step-N/  see bptt.training.checkpoint
        report.html          the course of the run, drawn; written by the command line
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bptt.data import Vocabulary
from bptt.errors import BpttError, RunError
from bptt.training.settings import Settings


class RunFolder:
    """Paths, and the small files, of one run."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.toml"
        self.environment = self.path / "environment.json"
        self.vocabulary = self.path / "vocabulary.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"

    @classmethod
    def create(cls, path: Path, settings: Settings, vocabulary: Vocabulary) -> RunFolder:
        """Make the folder of a new run.

        Raises:
            RunError: it exists already, or cannot be made.
        """
        run = cls(path)
        run.require_free()
        try:
            run.checkpoints.mkdir(parents=True)
            run.config.write_text(settings.to_toml(), encoding="utf-8")
            run.environment.write_text(json.dumps(environment(), indent=2) + "\n", "utf-8")
            run.vocabulary.write_text(json.dumps(vocabulary.to_dict()) + "\n", "utf-8")
            run.metrics.touch()
        except OSError as error:
            raise RunError(
                f"a folder that can be written at {path}",
                error.strerror or str(error),
                "choose another one with --out",
            ) from None
        return run

    def require_free(self) -> None:
        """Raise RunError when something is at this path already."""
        if self.path.exists() or self.path.is_symlink():
            raise RunError(
                "a run folder that does not exist yet",
                str(self.path),
                "choose another --out, or go on with it: --resume " + str(self.path),
            )

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """The folder of a run that was begun earlier.

        Raises:
            RunError: there is none, or it is not a run.
        """
        run = cls(path)
        if not run.path.is_dir():
            found = "a file" if run.path.exists() else "nothing there"
            raise RunError(
                f"a run folder at {path}", found, "give the folder that bptt train wrote"
            )
        missing = [f.name for f in (run.config, run.vocabulary) if not f.is_file()]
        if missing:
            raise RunError(
                f"a run folder at {path}",
                f"a folder without {' and '.join(missing)}",
                "give the folder that bptt train wrote",
            )
        return run

    def read_settings(self) -> Settings:
        """The settings the run was begun with."""
        return Settings.from_toml(self._read(self.config), str(self.config))

    def read_vocabulary(self) -> Vocabulary:
        """The vocabulary the run was begun with."""
        try:
            return Vocabulary.from_dict(json.loads(self._read(self.vocabulary)))
        except (BpttError, ValueError, RecursionError) as error:
            raise RunError(
                f"a vocabulary in {self.vocabulary}", str(error), "restore the file from a copy"
            ) from None

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to the metrics."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """All lines of the metrics, up to the first broken one (an interrupted write)."""
        if not self.metrics.exists():
            return
        with self.metrics.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except ValueError:
                    return
                if not isinstance(record, dict):
                    return
                yield record

    def rewind_metrics(self, step: int) -> None:
        """Drop the lines after ``step``, which a resumed run will write again."""
        kept = [r for r in self.read_metrics() if r.get("step", 0) <= step]
        temporary = self.metrics.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
        os.replace(temporary, self.metrics)

    def unwritten(self) -> RunFolder:
        """The same folder for a process that must not write to it."""
        return _Unwritten(self.path)

    @staticmethod
    def _read(path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(
                f"a readable file {path}", str(error), "restore it from a copy"
            ) from None


class _Unwritten(RunFolder):
    """Another process writes the metrics."""

    def append_metrics(self, record: dict[str, Any]) -> None:
        pass

    def rewind_metrics(self, step: int) -> None:
        pass


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
    import numpy
    import torch

    import bptt

    return {
        "bptt": bptt.__version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
