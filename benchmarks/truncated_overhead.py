"""Truncated beside the loop one writes by hand: the same chunks, detach() between them.

.venv/bin/python benchmarks/truncated_overhead.py [--seconds 10]

Both must give the same gradient before a time is printed. Times are taken in turns; a ratio is that of
one round, so that whatever slows the machine slows both.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import tyro

import bptt
from bptt.experiments.benchmark.contest import quartiles, take_turns
from bptt.gradients import Truncated

CASES = [("GRU", 32, 8, 16), ("GRU", 128, 32, 32), ("RNN", 64, 16, 64), ("LSTM", 192, 16, 64)]
STEPS, CLASSES = 512, 64


@dataclass(frozen=True)
class Asked:
    """What to run."""

    seconds: float = 10.0
    """Time for each case."""
    threads: int = 1
    """Threads of torch and of the kernels."""


def main(asked: Asked) -> None:
    """Print one row a case."""
    torch.set_num_threads(asked.threads)
    print(
        f"torch {torch.__version__}, {asked.threads} thread(s), T={STEPS}, {bptt.ops.backend().setting}\n"
    )
    print("| cell | H | B | k | chunks | Truncated / by hand | quartiles | rounds |")
    print("|---|--:|--:|--:|--:|--:|---|--:|")
    for cell, hidden, lanes, k in CASES:
        ratios = compare(cell, hidden, lanes, k, asked.seconds)
        low, high = quartiles(ratios)
        print(
            f"| {cell} | {hidden} | {lanes} | {k} | {STEPS // k} | {statistics.median(ratios):.3f} | "
            f"{low:.3f} … {high:.3f} | {len(ratios)} |",
            flush=True,
        )


def compare(cell: str, hidden: int, lanes: int, k: int, seconds: float) -> list[float]:
    """Ratios of the two loops' times, round by round."""
    torch.manual_seed(0)
    layer = getattr(bptt.nn, cell)(hidden, hidden)
    out = torch.nn.Linear(hidden, CLASSES)
    x, target = torch.randn(STEPS, lanes, hidden), torch.randint(CLASSES, (STEPS, lanes))
    parameters = [*layer.parameters(), *out.parameters()]

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.out = layer, out

        def forward(self, x, carry=None):
            h, carry = self.layer(x, carry)
            return self.out(h), carry

    model = Model()

    def loss(output, wanted):
        return F.cross_entropy(output.flatten(0, 1), wanted.flatten())

    def by_hand():
        for p in parameters:
            p.grad = None
        carry = None
        for at in range(0, STEPS, k):
            output, carry = model(x[at : at + k], carry)
            (loss(output, target[at : at + k]) * (k / STEPS)).backward()
            carry = tuple(s.detach() for s in carry) if cell == "LSTM" else carry.detach()

    def truncated():
        for p in parameters:
            p.grad = None
        Truncated(k).backward(model, x, target, loss=loss)

    found = []
    for run in (by_hand, truncated):
        run()
        found.append([p.grad.clone() for p in parameters])
    for mine, other in zip(*found, strict=True):
        if not torch.equal(mine, other):  # the same operations in the same order
            raise SystemExit(f"{cell}: the gradients differ by {float((mine - other).abs().max())}")
    return take_turns([by_hand, truncated], seconds).ratios(1, 0)


if __name__ == "__main__":
    main(tyro.cli(Asked))
