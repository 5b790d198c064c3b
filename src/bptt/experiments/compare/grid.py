"""What is compared, and the file of finished jobs. This file must not import torch."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
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
    suggest,
)
from bptt.errors import ArgumentError
from bptt.files.folder import reason
from bptt.files.memory import require

# What is compared: the axes, and the jobs they span. This file must not import torch.

CURRICULA = ("none", "double")
CELLS = ("rnn", "rnn-relu", "gru", "lstm", "mingru", "lru")
SHORT = ("residual", "highway", "attention")  # ways that are shorter than one through every step

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
    fixed: int = 0

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
        fixed: sequences of a training set that is drawn once, and then read in another order at every
            pass; 0: every batch is drawn afresh.
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
    fixed: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if self.task not in TASKS and not _TEXT.fullmatch(self.task):
            raise ArgumentError(
                f"a task: {', '.join(TASKS)}, or a text",
                repr(self.task),
                suggest(self.task, TASKS, "pick one of them, or name a file that is there"),
            )
        for name in ("cells", "starts", "clips", "penalties", "gradients", "curricula", "fixed"):
            if not getattr(self, name):
                raise ArgumentError(f"at least one value for --{name}", "none", "name one")
        unknown = [c for c in self.cells if c not in CELLS + SHORT]
        if unknown:
            remedy = suggest(unknown[0], CELLS + SHORT, "pick one")
            raise ArgumentError(
                f"--cells among {', '.join(CELLS + SHORT)}", repr(unknown[0]), remedy
            )
        self._check_forms()
        unknown = [c for c in self.curricula if c not in CURRICULA]
        if unknown:
            remedy = suggest(unknown[0], CURRICULA, "pick one")
            raise ArgumentError(
                f"--curricula among {', '.join(CURRICULA)}", repr(unknown[0]), remedy
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
        if min(self.fixed) < 0:
            raise ArgumentError("--fixed >= 0", f"{min(self.fixed)}", "0 draws every batch afresh")
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
                self.curricula, self.fixed, self.lengths or (None,),
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
        require(
            4 * max(self.fixed) * max(length, 1),
            f"--fixed {max(self.fixed)} at length {length}",
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
            self.curricula, self.fixed, range(self.seeds),
        )  # fmt: skip
        return [
            Job(
                self.task,
                length,
                cell,
                start,
                clip,
                penalty,
                gradient,
                curriculum,
                seed,
                self.budget,
                fixed,
            )
            for length, cell, start, clip, penalty, gradient, curriculum, fixed, seed in points
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
