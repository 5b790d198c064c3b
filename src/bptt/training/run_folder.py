"""A run on disk: settings, environment, metrics, checkpoints.

::

    RUN/config.toml          the settings, complete
        environment.json     versions and machine
        vocabulary.json      what the token numbers mean
        manifest.json        size and SHA-256 of the three: one that was changed is refused
        metrics.jsonl        one line per logged step: the source of truth for every plot
        checkpoints/step-N/  see bptt.training.checkpoint
        result.json          the score it ended with
        report.html          the course of the run, drawn; written by the command line
        .lock, .holder.json  who trains in it (bptt.training.lock)

A run folder is made under another name and renamed, its first checkpoint in it, so that one that is
there can always be gone on with.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from bptt.data import Vocabulary
from bptt.data.plain import check_plain
from bptt.errors import BpttError, RunError
from bptt.shown import as_json
from bptt.training import checkpoint as checkpoints
from bptt.training import disk, lock, manifest
from bptt.training.settings import Settings

logger = logging.getLogger(__name__)


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
    def create(
        cls,
        path: Path,
        settings: Settings,
        vocabulary: Vocabulary,
        first: checkpoints.Checkpoint | None = None,
    ) -> RunFolder:
        """Make the folder of a new run, all of it or nothing.

        Args:
            path: where.
            settings: what will be trained.
            vocabulary: what the token numbers mean.
            first: what to go on from, should the run end before its next checkpoint.

        Raises:
            RunError: it exists already, or cannot be made.
        """
        run = cls(path)
        run.require_free()
        # Of a name of its own, so that two runs that begin at once cannot meet in it.
        made = cls(run.path.with_name(f".{run.path.name}.{secrets.token_hex(4)}.tmp"))
        files = {
            made.config.name: settings.to_toml().encode(),
            made.environment.name: (json.dumps(environment(), indent=2) + "\n").encode(),
            made.vocabulary.name: (json.dumps(vocabulary.to_dict()) + "\n").encode(),
            made.metrics.name: b"",
        }
        kept = {name: data for name, data in files.items() if name != made.metrics.name}
        try:
            made.checkpoints.mkdir(parents=True)
            for name, data in {**files, manifest.NAME: manifest.seal(kept)}.items():
                disk.write(made.path / name, data)
            if first is not None:
                checkpoints.save(made.checkpoints, first)
            disk.flush(made.path)
            os.rename(made.path, run.path)
            disk.flush(run.path.parent)
        except (OSError, RunError) as error:
            shutil.rmtree(made.path, ignore_errors=True)
            reason = error.received if isinstance(error, RunError) else error.strerror
            raise RunError(
                f"a folder that can be written at {path}",
                reason or str(error),
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

    def held(self) -> AbstractContextManager[None]:
        """The right to write in this folder: see ``bptt.training.lock.held``."""
        return lock.held(self.path)

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
        """Add one line to the metrics.

        Raises:
            RunError: the disk refused; resuming mends a line that was cut off.
        """
        try:
            with self.metrics.open("ab") as file:
                file.write((as_json(record) + "\n").encode())
        except OSError as error:
            raise self._unwritable(self.metrics, error) from None

    def flush_metrics(self) -> int:
        """Wait until the disk has all lines; return how many bytes they are, for a checkpoint."""
        try:
            with self.metrics.open("ab") as file:
                os.fsync(file.fileno())
                return file.tell()
        except OSError as error:
            raise self._unwritable(self.metrics, error) from None

    def write_result(self, result: dict[str, Any]) -> None:
        """Keep what the run ended with, in ``result.json``."""
        path = self.path / "result.json"
        try:
            disk.replace(path, (as_json(result, indent=2) + "\n").encode())
        except OSError as error:
            raise self._unwritable(path, error) from None

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """All lines of the metrics, up to the first broken one (an interrupted write).

        Raises:
            RunError: what stands there is not an ordinary file, or cannot be read.
        """
        if not self.metrics.exists():
            return
        try:
            check_plain(self.metrics)
            file = self.metrics.open(encoding="utf-8", errors="replace")
        except OSError as error:
            raise RunError(
                f"metrics in {self.metrics}",
                error.strerror or str(error),
                "restore the file from a copy, or move it away",
            ) from None
        with file:
            for line in file:
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    return
                if not isinstance(record, dict):
                    return
                yield record

    def rewind_metrics(self, size: int) -> None:
        """Drop what stands after the first ``size`` bytes: a resumed run writes those lines again.

        Cut by position, not by reading: no line before it can be lost, whatever a line holds.

        Raises:
            RunError: the file cannot be written.
        """
        try:
            self.metrics.touch()
            with self.metrics.open("r+b") as file:
                there = file.seek(0, os.SEEK_END)
                file.seek(0)
                before = file.read(min(size, there))
                whole = before.rfind(b"\n") + 1
                if there < size or whole != size:
                    logger.warning(
                        "%s was changed since it was written: %d bytes of it are gone", self.metrics,
                        size - whole,
                    )  # fmt: skip
                file.truncate(whole)
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unwritable(self.metrics, error) from None

    def _read(self, path: Path) -> str:
        """A file of those that never change, compared with its checksum first."""
        try:
            manifest.check(self.path, manifest.read(self.path), path.name)
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise RunError(
                f"{path} as the run wrote it",
                str(error),
                "restore it from a copy; a run's settings are changed by options, not in its files",
            ) from None

    def unwritten(self) -> RunFolder:
        """The same folder for a process that must not write to it."""
        return _Unwritten(self.path)

    @staticmethod
    def _unwritable(path: Path, error: OSError) -> RunError:
        return RunError(
            f"room and the right to write {path}",
            error.strerror or str(error),
            "free the disk and go on with --resume; the checkpoints are intact",
        )


class _Unwritten(RunFolder):
    """Another process writes the metrics."""

    def append_metrics(self, record: dict[str, Any]) -> None:
        pass

    def flush_metrics(self) -> int:
        return 0

    def rewind_metrics(self, size: int) -> None:
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
