"""What is compared, and the file of finished jobs. This file must not import torch."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bptt.choices import (
    CLIPS,
    GRADIENTS,
    REGULARISERS,
    STARTS,
    parse_form,
    parse_forms,
    parse_numbers,
)
from bptt.errors import ArgumentError, RunError
from bptt.files.folder import reason
from bptt.files.memory import require
from bptt.files.read import read_plain
from bptt.files.write import append_line, write_file
from bptt.shown.text import as_json

# What is compared: the axes, and the jobs they span. This file must not import torch.

CURRICULA = ("none", "double")
CELLS = ("rnn", "rnn-relu", "gru", "lstm", "mingru", "lru")

# The length each task has when none is asked for; None: its sequences are what they are.
TASKS: dict[str, int | None] = {
    "remember-first": 50,
    "copy": 50,
    "adding": 50,
    "temporal-order": 50,
    "agreement": 20,
    "recall": 5,
    "digits": 64,
    "japanese-vowels": None,
    "co2": 104,
}
# Real data: an image is read by 8 rows or 64 pixels, and none of them has short forms to begin with.
REAL = ("digits", "japanese-vowels", "co2")
TEXT = "text:"  # a text of one's own: text:FINGERPRINT:PATH, so that a changed text is another task
TEXT_LENGTH = 64
_TEXT = re.compile(TEXT + r"[0-9a-f]{16}:.+", re.S)
MADE_UP = tuple(name for name in TASKS if name not in REAL)
DIGITS = (8, 64)

MOST_JOBS = 1_000_000  # years of work; the list of them still fits into memory


@dataclass(frozen=True)
class Budget:
    """What all jobs of a grid have in common.

    Attributes:
        hidden: H.
        batch: sequences an update sees, B.
        updates: the most a job makes.
        lr: Adam's rate.
        every: updates between scores.
        to_the_end: go on when the task is solved, so that the score is that of the last update.
        folder: where the data of a task on real data lie.
    """

    hidden: int = 64
    batch: int = 64
    updates: int = 2000
    lr: float = 3e-3
    every: int = 50
    to_the_end: bool = False
    folder: str | None = None

    def __post_init__(self) -> None:
        for name in ("hidden", "batch", "updates", "every"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"--{name} >= 1", f"{getattr(self, name)}", f"change --{name}")
        if not 0 < self.lr < float("inf"):
            raise ArgumentError("--lr above 0", f"{self.lr}", "change --lr")


@dataclass(frozen=True)
class Job:
    """One training run: a point of the grid."""

    task: str
    length: int | None
    cell: str
    start: str
    clip: str
    regularise: str
    gradient: str
    curriculum: str
    seed: int
    budget: Budget

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it; equal dicts are equal jobs."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Job:
        """The inverse of :meth:`as_dict`."""
        return cls(**{**values, "budget": Budget(**values["budget"])})


@dataclass(frozen=True)
class Grid:
    """The axes; every combination is one job for every seed.

    Attributes:
        task: one of ``TASKS``, or a text of one's own, from :func:`text_task`.
        cells, starts, clips, penalties, gradients: what to combine, in the forms of
            :mod:`bptt.choices`.
        curricula: ``"none"``, or ``"double"``: begin at a short length, and double it whenever the
            task is solved at the present one.
        lengths: of the task; empty for its own.
        seeds: how many, from 0.
        budget: the same for all.

    Raises:
        ArgumentError: a name or form is unknown, or a length is given to a task that has none.

    Example:
        >>> grid = Grid("adding", cells=("gru", "lstm"), lengths=(20, 50), seeds=3)
        >>> len(grid.jobs())
        12
    """

    task: str
    cells: tuple[str, ...] = ("rnn", "gru", "lstm")
    starts: tuple[str, ...] = ("default",)
    clips: tuple[str, ...] = ("norm:1",)
    penalties: tuple[str, ...] = ("none",)
    gradients: tuple[str, ...] = ("full",)
    curricula: tuple[str, ...] = ("none",)
    lengths: tuple[int, ...] = ()
    seeds: int = 3
    budget: Budget = Budget()

    def __post_init__(self) -> None:
        if self.task not in TASKS and not _TEXT.fullmatch(self.task):
            raise ArgumentError(
                f"a task: {', '.join(TASKS)}, or a text",
                repr(self.task),
                "pick one of them, or name a file that is there",
            )
        for name in ("cells", "starts", "clips", "penalties", "gradients", "curricula"):
            if not getattr(self, name):
                raise ArgumentError(f"at least one value for --{name}", "none", "name one")
        unknown = [c for c in self.cells if c not in CELLS]
        if unknown:
            raise ArgumentError(f"--cells among {', '.join(CELLS)}", repr(unknown[0]), "pick one")
        self._check_forms()
        unknown = [c for c in self.curricula if c not in CURRICULA]
        if unknown:
            raise ArgumentError(
                f"--curricula among {', '.join(CURRICULA)}", repr(unknown[0]), "pick one"
            )
        if set(self.curricula) != {"none"} and self.task not in MADE_UP:
            what = "a text" if self.task.startswith(TEXT) else self.task
            raise ArgumentError(
                f"no curriculum for {what}", f"{self.curricula}", "its lengths cannot grow"
            )
        if self.lengths and TASKS.get(self.task, TEXT_LENGTH) is None:
            raise ArgumentError(
                f"no --lengths for {self.task}",
                f"{self.lengths}",
                "its sequences are what they are",
            )
        if min(self.lengths, default=1) < 1:
            raise ArgumentError("--lengths >= 1", f"{min(self.lengths)}", "change --lengths")
        if self.task == "digits" and not set(self.lengths) <= set(DIGITS):
            raise ArgumentError(
                "--lengths 8 (rows) or 64 (pixels) for digits", f"{self.lengths}", "pick of these"
            )
        if self.seeds < 1:
            raise ArgumentError("--seeds >= 1", f"{self.seeds}", "change --seeds")
        points = math.prod(
            len(axis)
            for axis in (
                self.cells, self.starts, self.clips, self.penalties, self.gradients,
                self.curricula, self.lengths or (None,),
            )
        )  # fmt: skip
        if points * self.seeds > MOST_JOBS:
            raise ArgumentError(
                f"at most {MOST_JOBS} jobs",
                f"{points} points of {self.seeds} seeds",
                "ask for fewer",
            )
        hidden, batch = self.budget.hidden, self.budget.batch
        length = max(self.lengths, default=TASKS.get(self.task, TEXT_LENGTH) or 1)
        require(
            4 * hidden * hidden + 4 * batch * max(length, 1) * (hidden + 1),
            f"--hidden {hidden} --batch {batch} at length {length}",
            "lower them",
        )

    def _check_forms(self) -> None:
        """Every start, clip, penalty and gradient is one."""
        parsers: tuple[tuple[str, tuple[str, ...], Callable[[str], object]], ...] = (
            ("starts", self.starts, lambda form: parse_forms(form, STARTS)),
            ("clips", self.clips, lambda form: parse_form(form, CLIPS)),
            ("penalties", self.penalties, lambda form: parse_form(form, REGULARISERS)),
            ("gradients", self.gradients, lambda form: parse_numbers(form, GRADIENTS)),
        )
        for name, forms, parser in parsers:
            for form in forms:
                try:
                    parser(form)
                except ArgumentError as error:
                    raise ArgumentError(
                        f"{error.expected} for --{name}", error.received, error.remedy
                    ) from None

    def jobs(self) -> list[Job]:
        """Every job, the seeds of a point next to each other, short lengths first."""
        lengths: list[int | None] = [*sorted(self.lengths)] or [TASKS.get(self.task, TEXT_LENGTH)]
        points = itertools.product(
            lengths, self.cells, self.starts, self.clips, self.penalties, self.gradients,
            self.curricula, range(self.seeds),
        )  # fmt: skip
        return [
            Job(self.task, *point, budget=self.budget)  # the fields of Job, in this order
            for point in points
        ]


def text_task(path: str) -> str:
    """The task of a text, by its name and by what is in it.

    Raises:
        ArgumentError: it cannot be read.
    """
    try:
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"a text that can be read at {path}",
            reason(error) if isinstance(error, OSError) else str(error),
            "name another file",
        ) from None
    return f"{TEXT}{digest[:16]}:{path}"


# The file of finished jobs, one JSON line each, and the table made of it. No torch in here.

Record = dict[str, Any]
Runner = Callable[[list[Job]], Iterator[Record]]
ANOTHER = "name another file with --out"
_KINDS: dict[str, tuple[type, ...]] = {
    "score": (int, float, type(None)),
    "solved": (bool,),
    "updates": (int, float),
    "seconds": (int, float),
    "error": (str, type(None)),
}
AXES = ("length", "cell", "start", "clip", "regularise", "gradient", "curriculum")


def read_results(path: Path) -> list[Record]:
    """The finished jobs of a file; none where it does not exist. A last line cut short is left out.

    Raises:
        RunError: the file cannot be read, or another line is not a record.
    """
    try:
        if not path.exists():
            return []
        *lines, rest = read_plain(path).split("\n")
    except (OSError, ValueError) as error:
        raise RunError(
            f"a file of finished jobs at {str(path)[:200]!r}",
            reason(error) if isinstance(error, OSError) else str(error),
            ANOTHER,
        ) from None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(_check_record(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RunError(
                f"a finished job in line {number} of {path}", f"{error!s:.80}",
                "remove that line, or name another file with --out",
            ) from None  # fmt: skip
    if rest:  # killed while it was written; the next one must not be glued to it
        write_file(path, "".join(line + "\n" for line in lines), ANOTHER)
    return found


def _check_record(record: Record) -> Record:
    """A record as :func:`bptt.experiments.compare.job.run_job` makes them; ValueError where it is
    not one."""
    hash(Job.from_dict(record["job"]))
    for name, kinds in _KINDS.items():
        value = record[name]
        # By exact type, because True is an int; and JSON that Python reads has NaN and endless ints.
        if type(value) not in kinds or (type(value) in (int, float) and not abs(value) < 1e300):
            raise ValueError(f"{name} is {value!r:.20}")
    return record


def append_result(path: Path, record: Record) -> None:
    """Write one finished job.

    Raises:
        RunError: the file cannot be written, or is a link.
    """
    append_line(path, as_json(record), ANOTHER)


def run_grid(
    jobs: list[Job],
    path: Path,
    runner: Runner,
    finished: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Run the jobs that the file does not hold yet, and append each as it finishes.

    Args:
        jobs: of a grid.
        path: one JSON line a finished job; made where it is missing. Other jobs in it stay.
        runner: :func:`bptt.experiments.compare.job.on_processes` or ``on_ray``, with its options bound.
        finished: called with the record of every job; with those that were done before first.

    Returns:
        a record for every job, in the order of the jobs.
    """
    done: dict[Job, Record] = {}
    wanted = set(jobs)
    for record in read_results(path):
        job = Job.from_dict(record["job"])
        if job in wanted:
            done[job] = record
    for record in done.values():
        if finished is not None:
            finished(record)
    left = [job for job in jobs if job not in done]
    for record in runner(left) if left else ():
        append_result(path, record)
        done[Job.from_dict(record["job"])] = record
        if finished is not None:
            finished(record)
    return [done[job] for job in jobs]


@dataclass(frozen=True)
class Row:
    """One point of the grid over its seeds.

    Attributes:
        length, cell, start, clip, regularise, gradient, curriculum: the point.
        seeds: jobs that were run.
        scores: of those that have one, by seed.
        mean, spread: of the scores; spread is the standard deviation between seeds, None for one.
        solved: how many reached the goal.
        updates: median updates of those that did; None where none did.
        seconds: mean of a job.
        errors: what kept jobs from running, each once.
    """

    length: int | None
    cell: str
    start: str
    clip: str
    regularise: str
    gradient: str
    curriculum: str
    seeds: int
    scores: tuple[float, ...]
    mean: float | None
    spread: float | None
    solved: int
    updates: float | None
    seconds: float
    errors: tuple[str, ...]


def summarise(records: Iterable[Record]) -> list[Row]:
    """One row a point of the grid, in the order of the records."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record["job"][axis] for axis in AXES), []).append(record)
    rows = []
    for point, group in groups.items():
        scores = tuple(r["score"] for r in group if r["score"] is not None)
        needed = [r["updates"] for r in group if r["solved"]]
        rows.append(
            Row(
                **dict(zip(AXES, point, strict=True)),
                seeds=len(group),
                scores=scores,
                mean=statistics.fmean(scores) if scores else None,
                spread=statistics.stdev(scores) if len(scores) > 1 else None,
                solved=len(needed),
                updates=statistics.median(needed) if needed else None,
                seconds=statistics.fmean(r["seconds"] for r in group),
                errors=tuple(dict.fromkeys(r["error"] for r in group if r["error"])),
            )
        )
    return rows


def table(rows: Iterable[Row]) -> str:
    """All rows as CSV, every axis in a column; the scores of a row stand by seed, with spaces."""
    text = io.StringIO()
    names = [field.name for field in fields(Row)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        values = (getattr(row, name) for name in names)
        writer.writerow(
            " ".join(map(str, v)) if isinstance(v, tuple) else "" if v is None else v
            for v in values
        )
    return text.getvalue()


def varying(rows: Sequence[Row]) -> list[str]:
    """The axes on which rows differ, and always the cell: what a table has to show."""
    return [a for a in AXES if a == "cell" or len({getattr(row, a) for row in rows}) > 1]


def cells_of(row: Row, axes: list[str]) -> list[str]:
    """A row as text: the axes, score, spread, solved, updates, seconds, and any error."""
    return [
        *("-" if getattr(row, a) is None else str(getattr(row, a)) for a in axes),
        "-" if row.mean is None else f"{row.mean:.4g}",
        "-" if row.spread is None else f"{row.spread:.2g}",
        f"{row.solved}/{row.seeds}",
        "-" if row.updates is None else f"{row.updates:.0f}",
        f"{row.seconds:.1f}",
        "; ".join(row.errors) or ("" if row.scores else "not finite"),
    ]


HEADS = ("mean", "spread", "solved", "updates", "s/job", "note")
