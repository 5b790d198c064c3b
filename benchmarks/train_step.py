"""The whole step of ``bptt train`` beside the machine's matrix product; prints a Markdown table.

.venv/bin/python benchmarks/train_step.py [--cells rnn gru] [--steps 300] [--threads 1]

Scoring, the horizon and logging are included: everything from the 20th update to the last. Time is the
processor's, not the clock's, so that other programs on the machine count for little; the matrix product
(1024³) is timed in the same way, before and after each run. Multiply-adds counted: of each token, forward
and twice back, G·H² of the recurrence and H·V of the output. "updates alone" leaves out what a run does
between them, which a longer run spreads over more: the median update.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from bptt.ops import backend
from bptt.ops.cells import BY_NAME
from bptt.training import Settings, train

FIRST = 20  # the update that the clock starts at


@dataclass(frozen=True)
class Asked:
    """What to run."""

    cells: tuple[str, ...] = ("rnn", "gru", "lstm")
    """Cells, at the default settings otherwise."""
    steps: int = 300
    """Updates of each run."""
    threads: int = 1
    """torch's threads."""
    repeats: int = 3
    """Runs of each cell; the median is printed, with the lowest and the highest."""


def product_rate(threads: int) -> float:
    """Floating-point operations of torch's matrix product in a second of every core's time."""
    a, b, out = torch.ones(1024, 1024), torch.ones(1024, 1024), torch.empty(1024, 1024)
    taken = []
    for _ in range(12):
        began = time.process_time()
        torch.mm(a, b, out=out)
        taken.append((time.process_time() - began) / threads)
    return 2 * 1024**3 / statistics.median(taken)


def measure(cell: str, asked: Asked) -> tuple[float, float, float]:
    """Tokens in a second; the share of the product's rate, of the run and of its updates alone."""
    marks: dict[str, float] = {}
    ends: list[float] = []

    def on_step(session) -> None:
        ends.append(time.process_time())
        if session.progress.step == FIRST:
            marks["began"] = time.process_time()
            marks["tokens"] = session.progress.tokens

    before = product_rate(asked.threads)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        settings = Settings(cell=cell, steps=asked.steps, out=str(Path(folder) / "run"))
        outcome = train(settings, on_step=on_step)
        seconds = (time.process_time() - marks["began"]) / asked.threads
    tokens = (outcome.tokens - marks["tokens"]) / seconds
    rate = (before + product_rate(asked.threads)) / 2
    model = outcome.model
    hidden, symbols = model.output.weight.shape[1], model.vocabulary_size
    flops = 3 * 2 * (BY_NAME[cell].gates * hidden**2 + hidden * symbols)
    each = statistics.median(b - a for a, b in itertools.pairwise(ends[FIRST:])) / asked.threads
    update = (outcome.tokens - marks["tokens"]) / (outcome.steps - FIRST) / each
    return tokens, tokens * flops / rate, update * flops / rate


def main(asked: Asked) -> None:
    """Print the table."""
    torch.set_num_threads(asked.threads)
    print(
        f"torch {torch.__version__}, {backend().isa}, {asked.threads} threads, {asked.steps} updates\n"
    )
    print("| cell | tokens in a second of a core | whole run | lowest to highest | updates alone |")
    print("|---|--:|--:|---|--:|")
    for cell in asked.cells:
        runs = [measure(cell, asked) for _ in range(asked.repeats)]
        tokens, shares, updates = zip(*runs, strict=True)
        print(
            f"| {cell} | {statistics.median(tokens):,.0f} | {statistics.median(shares):.2f} "
            f"| {min(shares):.2f} to {max(shares):.2f} | {statistics.median(updates):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Asked))
