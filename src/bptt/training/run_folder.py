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
        series.csv           of a forecast, in place of vocabulary.json: the series, whole
        .lock, .holder.json  who trains in it (bptt.files.lock)

A run folder is made under another name and renamed, its first checkpoint in it, so that one that is
there can always be gone on with. It may come from somebody else: a link, a pipe or a second name of a
file that lies elsewhere is refused under each of these names, and nothing is followed out of the folder.
"""

from __future__ import annotations

import io
import json
import logging
import os
import platform
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from bptt.errors import BpttError, RunError
from bptt.files import lock, manifest
from bptt.files.folder import Folder, WrongKindError, kind, reason
from bptt.files.write import new_folder
from bptt.shown.text import as_json
from bptt.training.settings import Settings

if TYPE_CHECKING:  # a folder that is none is refused before anybody waits for NumPy or torch
    from typing_extensions import Self

    from bptt.data.vocabulary import Vocabulary
    from bptt.training import checkpoint as checkpoints

logger = logging.getLogger(__name__)
# Every name that a run writes in its folder.
NAMES = (
    "config.toml", "environment.json", "vocabulary.json", manifest.NAME, "metrics.jsonl", "checkpoints",
    "result.json", "report.html", "series.csv", lock.LOCK, lock.HOLDER,
)  # fmt: skip


class RunFolder:
    """Paths, and the small files, of one run."""

    command = "bptt train"
    needed: tuple[str, ...] = ("config.toml", "vocabulary.json")

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
        run._make(
            {
                run.config.name: settings.to_toml().encode(),
                run.vocabulary.name: (json.dumps(vocabulary.to_dict()) + "\n").encode(),
            },
            {run.metrics.name: b""},
            first,
        )
        return run

    def _make(
        self,
        sealed: dict[str, bytes],
        others: dict[str, bytes],
        first: checkpoints.Checkpoint | None,
    ) -> None:
        """Write the folder: files that will never change, those that will, and a checkpoint."""
        from bptt.training import checkpoint as checkpoints

        files = {self.environment.name: (json.dumps(environment(), indent=2) + "\n").encode()}
        files |= sealed
        files |= {**others, manifest.NAME: manifest.seal(files)}
        try:
            # Under a name of its own first, so that two runs that begin at once cannot meet in it.
            with new_folder(self.path) as fresh, fresh.make(self.checkpoints.name) as kept:
                for name, data in files.items():
                    fresh.write(name, data)
                if first is not None:
                    with kept.new_folder(f"step-{first.state['step']}") as inner:
                        checkpoints.save_in(inner, first)
        except OSError as error:
            raise RunError(
                f"a folder that can be written at {self.path}",
                reason(error),
                "choose another one with --out",
            ) from None

    def require_free(self) -> None:
        """Raise RunError when something is at this path already."""
        if self.path.exists() or self.path.is_symlink():
            raise RunError(
                "a run folder that does not exist yet",
                str(self.path),
                "choose another --out, or go on with it: --resume " + str(self.path),
            )

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """The folder of a run that was begun earlier.

        Raises:
            RunError: there is none, or it is not a run.
        """
        run, remedy = cls(path), f"give the folder that {cls.command} wrote"
        if not run.path.is_dir():
            found = "a file" if run.path.exists() else "nothing there"
            raise RunError(f"a run folder at {path}", found, remedy)
        try:
            with Folder.open(run.path, follow=True) as opened:
                there = {name: opened.status(name) for name in NAMES}
        except OSError as error:
            raise RunError(f"a run folder at {path}", reason(error), remedy) from None
        missing = [name for name in cls.needed if there[name] is None]
        if missing and there["series.csv"] is not None and cls is RunFolder:
            raise RunError(
                f"a run of bptt train at {path}",
                "one of bptt forecast",
                "bptt sample, bptt export and bptt runs take it; report.html in it has its diagnosis",
            )
        if missing:
            raise RunError(
                f"a run folder at {path}", f"a folder without {' and '.join(missing)}", remedy
            )
        for name, status in there.items():
            if status is not None:
                run._check_kind(name, status)
        return run

    def _check_kind(self, name: str, status: os.stat_result) -> None:
        """Raise RunError where something else than what a run writes stands under a name of it."""
        is_folder = name == self.checkpoints.name
        if not (stat.S_ISDIR if is_folder else stat.S_ISREG)(status.st_mode):
            raise RunError(
                f"{'a folder' if is_folder else 'an ordinary file'} of its own at {self.path / name}",
                kind(status.st_mode),
                "put a copy in its place; nothing in a run folder may lead out of it",
            )

    def held(self) -> AbstractContextManager[None]:
        """The right to write in this folder: see ``bptt.files.lock.held``."""
        return lock.held(self.path)

    def read_settings(self) -> Settings:
        """The settings the run was begun with."""
        return Settings.from_toml(self._read(self.config), str(self.config))

    def read_vocabulary(self) -> Vocabulary:
        """The vocabulary the run was begun with."""
        from bptt.data.vocabulary import Vocabulary

        try:
            return Vocabulary.from_dict(json.loads(self._read(self.vocabulary)))
        except RecursionError:
            problem = "one that is nested too deep"
        except (BpttError, ValueError) as error:
            problem = str(error)
        raise RunError(
            f"a vocabulary in {self.vocabulary}", problem, "restore the file from a copy"
        )

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to the metrics.

        Raises:
            RunError: the disk refused; resuming mends a line that was cut off.
        """
        with self._writing(self.metrics), self._folder() as folder:
            folder.append(self.metrics.name, (as_json(record) + "\n").encode())

    def flush_metrics(self) -> int:
        """Wait until the disk has all lines; return how many bytes they are, for a checkpoint."""
        with self._changed_metrics() as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size

    def write_result(self, result: dict[str, Any]) -> None:
        """Keep what the run ended with, in ``result.json``."""
        path = self.path / "result.json"
        with self._writing(path), self._folder() as folder:
            folder.replace(path.name, (as_json(result, indent=2) + "\n").encode())

    def write_report(self, text: str) -> Path:
        """Keep a page about the run, as ``report.html``; return its path."""
        path = self.path / "report.html"
        with self._writing(path), self._folder() as folder:
            folder.replace(path.name, text.encode("utf-8"))
        return path

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """All lines of the metrics, up to the first broken one (an interrupted write).

        Raises:
            RunError: what stands there is not an ordinary file, or cannot be read.
        """
        try:
            with self._folder() as folder:
                raw = folder.reader(self.metrics.name)
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunError(
                f"metrics in {self.metrics}",
                reason(error),
                "restore the file from a copy, or move it away",
            ) from None
        file = io.TextIOWrapper(raw, encoding="utf-8", errors="replace")
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
        with self._changed_metrics() as file:
            there = os.fstat(file.fileno()).st_size
            before = file.read(min(size, there))
            whole = before.rfind(b"\n") + 1
            if there < size or whole != size:
                logger.warning(
                    "%s was changed since it was written: %d bytes of it are gone", self.metrics,
                    size - whole,
                )  # fmt: skip
            file.truncate(whole)
            os.fsync(file.fileno())

    def _read(self, path: Path) -> str:
        """A file of those that never change, compared with its checksum first."""
        try:
            with self._folder() as folder:
                data = manifest.read_checked(folder, manifest.read(folder), path.name)
            return data.decode("utf-8")
        except (OSError, ValueError) as error:
            raise RunError(
                f"{path} as the run wrote it",
                reason(error) if isinstance(error, OSError) else str(error),
                "restore it from a copy; a run's settings are changed by options, not in its files",
            ) from None

    def _folder(self) -> Folder:
        """The run folder itself, opened: it may be a link that somebody typed, what is in it may not."""
        return Folder.open(self.path, follow=True)

    def unwritten(self) -> RunFolder:
        """The same folder for a process that must not write to it."""
        return _Unwritten(self.path)

    @contextmanager
    def _changed_metrics(self) -> Iterator[BinaryIO]:
        with (
            self._writing(self.metrics),
            self._folder() as folder,
            folder.changer(self.metrics.name) as file,
        ):
            yield file

    @staticmethod
    @contextmanager
    def _writing(path: Path) -> Iterator[None]:
        try:
            yield
        except WrongKindError as error:
            raise RunError(
                f"an ordinary file of its own at {path}",
                reason(error),
                "put a copy in its place and go on with --resume; the checkpoints are intact",
            ) from None
        except OSError as error:
            raise RunError(
                f"room and the right to write {path}",
                reason(error),
                "free the disk and go on with --resume; the checkpoints are intact",
            ) from None


class ForecastFolder(RunFolder):
    """The run of a forecast: the series in place of a vocabulary, written whole at its end."""

    command = "bptt forecast"
    needed = ("config.toml", "series.csv")

    def keep(
        self,
        config: str,
        series: str,
        metrics: Iterable[dict[str, Any]],
        result: dict[str, Any],
        last: checkpoints.Checkpoint,
    ) -> None:
        """Make the folder, all of it or nothing.

        Args:
            config: the plan as TOML.
            series: as CSV.
            metrics: lines of the course of the training.
            result: what it ended with.
            last: the weights that are kept.

        Raises:
            RunError: it exists already, or cannot be made.
        """
        self.require_free()
        lines = "".join(as_json(record) + "\n" for record in metrics)
        self._make(
            {self.config.name: config.encode(), "series.csv": series.encode()},
            {
                self.metrics.name: lines.encode(),
                "result.json": (as_json(result, indent=2) + "\n").encode(),
            },
            last,
        )

    def require_free(self) -> None:
        """Raise RunError when something is at this path already."""
        if self.path.exists() or self.path.is_symlink():
            raise RunError(
                "a run folder that does not exist yet", str(self.path), "choose another --out"
            )

    def read_config(self) -> str:
        """The plan, as TOML."""
        return self._read(self.config)

    def read_series(self) -> str:
        """The series, as CSV."""
        return self._read(self.path / "series.csv")


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
