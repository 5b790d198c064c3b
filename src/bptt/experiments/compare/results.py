"""The file of finished jobs, one JSON line each, and its table. This file must not import torch."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bptt.errors import RunError
from bptt.experiments.compare.grid import Job
from bptt.files.folder import reason
from bptt.files.read import read_plain
from bptt.files.write import append_line, write_file
from bptt.shown.text import as_json

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
AXES = ("length", "cell", "start", "clip", "regularise", "gradient", "curriculum", "fixed")


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
    job = Job.from_dict(record["job"])
    hash(job)
    record["job"] = job.as_dict()  # an older one has fewer axes
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
        length, cell, start, clip, regularise, gradient, curriculum, fixed: the point.
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
    fixed: int = 0


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
        *(value_on(row, a) for a in axes),
        "-" if row.mean is None else f"{row.mean:.4g}",
        "-" if row.spread is None else f"{row.spread:.2g}",
        f"{row.solved}/{row.seeds}",
        "-" if row.updates is None else f"{row.updates:.0f}",
        f"{row.seconds:.1f}",
        "; ".join(row.errors) or ("" if row.scores else "not finite"),
    ]


def value_on(row: Row, axis: str) -> str:
    """Where a row stands on an axis, in words."""
    value = getattr(row, axis)
    if axis == "fixed":
        return f"{value} fixed" if value else "fresh"
    return "-" if value is None else str(value)


HEADS = ("mean", "spread", "solved", "updates", "s/job", "note")
