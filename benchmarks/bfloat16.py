"""Under CPU autocast to bfloat16: our layers beside torch's, and what it does to a run's score.

.venv/bin/python benchmarks/bfloat16.py [--hidden 128 256 512] [--batch 32 64] [--updates 300]

First a Markdown table: forward and backward, sides in turns, ratios of the processor's time (so that
other programs on the machine count for little), outputs and gradients compared with float64 before.
Then, with --updates, runs of ``bptt train`` on its default text in float32 and under autocast.
``BPTT_ISA`` picks the instruction set, as everywhere.
"""

from __future__ import annotations

import contextlib
import copy
import io
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

from bptt import nn as ours
from bptt.ops import backend
from bptt.training import Settings, train

KINDS = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}
# Of the largest result: as the tests hold the kernels to, and in float32.
BOUND = {True: 8 * 2**-8, False: 1e-4}


@dataclass(frozen=True)
class Asked:
    """What to run."""

    cells: tuple[str, ...] = ("lstm", "gru", "rnn")
    hidden: tuple[int, ...] = (128, 256, 512)
    batch: tuple[int, ...] = (32, 64)
    steps: int = 50
    """T."""
    seconds: float = 3.0
    """Of each row."""
    threads: int = 1
    autocast: bool = True
    """--no-autocast: both sides in float32, for comparison."""
    updates: int = 0
    """Of the runs of ``bptt train``; 0: none."""


def gradients(layer: nn.Module, x: Tensor, dy: Tensor, short: bool) -> list[Tensor]:
    """The output, and the gradient of x and of every weight."""
    with torch.autocast("cpu", torch.bfloat16, enabled=short):
        y = layer(x)[0]
    found = torch.autograd.grad(y, [x, *layer.parameters()], dy.to(y.dtype))
    return [y.detach(), *found]


def error(found: list[Tensor], exact: list[Tensor]) -> float:
    """The largest, in units of the largest number of its tensor."""
    pairs = zip(found, exact, strict=True)
    return max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def row(cell: str, hidden: int, batch: int, asked: Asked) -> str:
    """One line of the table."""
    torch.manual_seed(0)
    theirs = getattr(nn, KINDS[cell])(hidden, hidden)
    mine = getattr(ours, KINDS[cell])(hidden, hidden)
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(asked.steps, batch, hidden, requires_grad=True)
    dy = torch.randn(asked.steps, batch, hidden)
    wide = copy.deepcopy(theirs).double()
    exact = gradients(wide, x.detach().double().requires_grad_(), dy.double(), short=False)
    errors = [error(gradients(layer, x, dy, asked.autocast), exact) for layer in (mine, theirs)]
    bound = BOUND[asked.autocast]
    if not errors[0] <= bound:
        raise SystemExit(f"{cell}, H={hidden}: an error of {errors[0]:.1e}, more than {bound:.1e}")
    taken: list[tuple[float, float]] = []
    began = time.perf_counter()
    while len(taken) < 5 or time.perf_counter() - began < asked.seconds:
        each = []
        for layer in (mine, theirs) if len(taken) % 2 else (theirs, mine):
            start = time.process_time()
            gradients(layer, x, dy, asked.autocast)
            each.append((time.process_time() - start) / asked.steps * 1e6)
        taken.append((each[0], each[1]) if len(taken) % 2 else (each[1], each[0]))
    ratios = [peer / own for own, peer in taken]
    low, middle, high = statistics.quantiles(ratios, n=4)
    own, peer = (statistics.median(side) for side in zip(*taken, strict=True))
    return (
        f"| {cell} | {hidden} | {batch} | {own:.0f} | {peer:.0f} | **{middle:.2f}** "
        f"| {low:.2f} to {high:.2f} | {errors[0]:.1e} | {errors[1]:.1e} |"
    )


def score(cell: str, updates: int, short: bool) -> float:
    """Held-out bits per character of a run of ``bptt train``."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        # A context keeps the weights it rounded until it ends, and this one sees them change.
        torch.autocast("cpu", torch.bfloat16, enabled=short, cache_enabled=False),
    ):
        outcome = train(Settings(cell=cell, steps=updates, out=str(Path(folder) / "run")))
    return float("nan") if outcome.valid is None else outcome.valid.bits


def main(asked: Asked) -> None:
    """Print the table, then the scores."""
    torch.set_num_threads(asked.threads)
    layer = ours.GRU(2, 2)
    with torch.autocast("cpu", torch.bfloat16, enabled=asked.autocast):
        layer(torch.zeros(1, 1, 2))
    print(f"torch {torch.__version__}, {asked.threads} threads, T={asked.steps}: {backend()}\n")
    print(
        "| cell | H | B | ours, µs a step | torch, µs a step | ratio | quartiles | our error | torch's |"
    )
    print("|---|--:|--:|--:|--:|--:|---|--:|--:|")
    for cell in asked.cells:
        for hidden in asked.hidden:
            for batch in asked.batch:
                print(row(cell, hidden, batch, asked), flush=True)
    if asked.updates:
        print(
            f"\n| cell, {asked.updates} updates | float32, bits | under autocast |\n|---|--:|--:|"
        )
        for cell in asked.cells:
            scores = [score(cell, asked.updates, short) for short in (False, True)]
            print(f"| {cell} | {scores[0]:.4f} | {scores[1]:.4f} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Asked))
