"""``bptt compare``: remedies side by side on a task."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from bptt.cli.parse import Device, File, Folder, check_place, parse
from bptt.errors import ArgumentError
from bptt.experiments.compare import Budget, Grid, Row, summarise
from bptt.experiments.compare.grid import TASKS, text_task
from bptt.experiments.compare.results import HEADS, Record, cells_of, run_grid, table, varying
from bptt.shown.text import as_json, inline


@dataclass(frozen=True)
class Compare:
    """Train every combination of cells, starts, clips, penalties, gradients … on a task or a text.

    Each is run with several seeds, on all cores. Finished jobs are kept in a file: the same command
    run again goes on where it stopped.

    Example: bptt compare remember-first --lengths 200 --cells gru lstm --starts default chrono:200
    """

    task: tyro.conf.Positional[str]
    """remember-first, copy, adding, temporal-order, agreement, recall, digits, japanese-vowels or co2; or
    a text of your own, whose next character is to be told."""
    groups: ClassVar[dict[str, str]] = {
        "cells": "the axes of the grid",
        "seeds": "how each is trained",
        "data": "where",
        "out": "output",
    }

    cells: tuple[str, ...] = ("rnn", "gru", "lstm")
    """Among rnn, rnn-relu, gru, lstm, mingru, lru; residual, highway and attention."""
    starts: tuple[str, ...] = ("default",)
    """As --init of bptt train: orthogonal, irnn, np, radius:0.9, chrono:200, orthogonal+hold, …; default:
    as torch has it."""
    clips: tuple[str, ...] = ("norm:1",)
    """As --clip of bptt train: norm:1, value:1, rescale:1, auto:10, z:2.5, unit:0.01, none."""
    penalties: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PENALTY")] = ("none",)
    """As --regularise of bptt train: omega:1, floss:1, none."""
    gradients: tuple[str, ...] = ("full",)
    """full, truncated:K, windowed:K (:K2), checkpointed, adaptive:BIAS, randomized:K or forward."""
    curricula: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CURRICULUM")] = ("none",)
    """none; double: begin short, and double the length whenever the task is solved at the present one."""
    lengths: tuple[int, ...] = ()
    """Of the task: steps, the delay, the words between, the lag, of a text the characters of a chunk;
    default: its own."""
    fixed: tuple[int, ...] = (0,)
    """Sequences of a training set that is drawn once and read again and again; 0: every batch is drawn
    afresh. --fixed 0 512 puts both side by side."""
    seeds: int = 3
    """How many of each, from 0."""
    hidden: int = 64
    """State size H."""
    batch: int = 64
    """Sequences an update sees."""
    updates: int = 2000
    """The most updates of a job."""
    lr: float = 3e-3
    """Adam's rate."""
    every: int = 50
    """Updates between scores."""
    to_the_end: bool = False
    """Go on when the task is solved: the score is then that of the last update."""
    data: Folder = None
    """Where a real task's data lie; default: data/TASK, where bptt data fetch writes."""
    device: Device = "cpu"
    """Where the models are trained: cpu, cuda, cuda:N, mps, or auto. They are small: the default is one
    on each core."""
    workers: int | None = None
    """Processes; default: one a core, and one on a GPU."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Run on the Ray cluster at this address in place of processes; auto finds one, local starts one."""
    out: File = None
    """The finished jobs, one JSON line each; default: compare-TASK.jsonl, of a text by its name."""
    csv: File = None
    """Write the table into this file, with commas."""
    figure: File = None
    """Draw the scores, and how loss and score went, into this file, .svg, .png or .pdf."""
    html: File = None
    """Write table and figure as one page."""
    json: bool = False
    """Print one JSON document and nothing else on stdout."""

    @property
    def grid(self) -> Grid:
        """The axes and the budget."""
        budget = Budget(
            self.hidden, self.batch, self.updates, self.lr, self.every, self.to_the_end, self.data
        )
        own = self.task not in TASKS and Path(self.task).is_file()
        task = text_task(self.task) if own else self.task
        return Grid(
            task, self.cells, self.starts, self.clips, self.penalties, self.gradients,
            self.curricula, self.lengths, self.seeds, budget, self.fixed,
        )  # fmt: skip


def run(arguments: list[str]) -> int:
    """Run what is missing of the grid, and report all of it."""
    asked = parse(Compare, "compare", arguments)
    grid = asked.grid
    jobs = grid.jobs()

    check_place(asked.figure, (".svg", ".png", ".pdf"))
    check_place(asked.html)
    check_place(asked.csv)

    from bptt.experiments.compare.job import build_task, on_processes, on_ray
    from bptt.files.write import write_file
    from bptt.ops.device import choose
    from bptt.shown.console import Count

    # Known now, or only after the grid: that the data are there, and what the levels are.
    try:
        task = build_task(grid.task, jobs[0].length, asked.data)
    except ArgumentError as error:
        if not asked.lengths:
            raise
        raise ArgumentError(
            f"--lengths that fit the task ({error.expected})",
            str(jobs[0].length),
            "change --lengths",
        ) from None
    if asked.ray is not None and asked.device != "cpu":
        raise ArgumentError(
            "--device cpu beside --ray", f"--device {asked.device}", "leave one of them out"
        )
    device = choose(asked.device)
    path = Path(f"compare-{Path(asked.task).stem}.jsonl" if asked.out is None else asked.out)
    runner = (
        partial(on_processes, workers=asked.workers, device=str(device))
        if asked.ray is None
        else partial(on_ray, address=asked.ray)
    )
    solved = 0

    def finished(record: Record) -> None:
        nonlocal solved
        solved += record["solved"]
        job = record["job"]
        count.advance(f"{solved} solved; {job['cell']} {job['start']}")

    with Count("jobs", len(jobs), closing=True) as count:
        records = run_grid(jobs, path, runner, finished)
    rows = summarise(records)
    title = f"{inline(asked.task)}: {task.metric}"
    levels = {"chance": task.chance, "goal": task.goal}
    if asked.csv is not None:
        write_file(asked.csv, table(rows))
    if asked.figure is not None or asked.html is not None:
        from bptt.report.chart_figure import draw_figure, write_figure
        from bptt.report.compared import chart_comparison, chart_progress, comparison_page

        charts = [chart_comparison(rows, title, task.metric, levels)]
        charts += chart_progress(records, rows, task.metric, levels)
        if asked.figure is not None:
            write_figure(draw_figure(*charts), Path(asked.figure))
        if asked.html is not None:
            command = shlex.join(["bptt", "compare", *arguments])
            date = datetime.now().isoformat(" ", "minutes")
            write_file(asked.html, comparison_page(rows, title, command, charts, levels, date))
    if asked.json:
        document = {
            "task": asked.task, "metric": task.metric, "chance": task.chance, "best": task.best,
            "goal": task.goal, "budget": asdict(grid.budget), "rows": [asdict(r) for r in rows],
        }  # fmt: skip
        print(as_json(document))
    else:
        _print(rows, title, levels)
    if all(record["error"] for record in records):
        print("bptt compare: no job could be run; each says why", file=sys.stderr)
        return 1
    return 0


def _print(rows: list[Row], title: str, levels: dict[str, float]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from bptt.shown.console import Console

    axes = varying(rows)
    said = ", ".join(f"{name} {level:.3g}" for name, level in levels.items())
    shown = Table(
        title=f"{title} ({said})", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for head in (*axes, *HEADS[:-1]):
        shown.add_column(head, justify="left" if head in axes else "right")
    for row in rows:
        shown.add_row(*cells_of(row, axes)[:-1])
    console = Console()
    console.print(shown, highlight=True)
    for row in rows:  # below, on the whole width: in a column a sentence would be as tall as a page
        *cells, note = cells_of(row, axes)
        if note:
            point = " ".join(cells[: len(axes)]) or row.cell
            console.print(f"{point}: {note}", soft_wrap=True)
