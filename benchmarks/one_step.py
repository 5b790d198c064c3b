"""One step at a time: converted layers beside torch's own, at T = 1 and in short calls.

    python benchmarks/one_step.py [--rounds 40] [--threads 1] [--steps 1 16 30]

Outputs, final states and all gradients are compared first. The sides take turns; each ratio is the median
of paired ratios of the processor's time, with its quartiles, so that what other programs do meanwhile
counts for little. A ratio above 1 means that the converted layer is faster.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

import bptt

INPUTS = 4


def infer(layer: nn.RNNBase, x: torch.Tensor) -> Callable[[], None]:
    """Ten calls without a gradient, the state handed on."""

    def run() -> None:
        with torch.no_grad():
            h = None
            for _ in range(10):
                _, h = layer(x, h)

    return run


def train(layer: nn.RNNBase, x: torch.Tensor) -> Callable[[], None]:
    """Three calls, each with its backward pass."""

    def run() -> None:
        for _ in range(3):
            layer(x)[0].sum().backward()

    return run


def check(theirs: nn.RNNBase, ours: nn.RNNBase, x: torch.Tensor) -> None:
    """Raise SystemExit unless outputs, states and gradients of both are equal."""
    found = []
    for layer in (theirs, ours):
        y, h = layer(x)
        states = h if isinstance(h, tuple) else (h,)
        loss = sum(o.square().sum() for o in (y, *states))
        found.append(
            [
                y.detach(),
                *(s.detach() for s in states),
                *torch.autograd.grad(loss, list(layer.parameters())),
            ]
        )
    for mine, other in zip(found[1], found[0], strict=True):
        error = float((mine - other).abs().max() / other.abs().max().clamp(min=1))
        if not error < 2e-5:
            raise SystemExit(f"{theirs}: the converted layer is off by {error:.1e}")


def measure(theirs: Callable[[], None], ours: Callable[[], None], rounds: int) -> str:
    """The median of paired ratios, and its quartiles."""
    ratios = []
    for turn in range(rounds + 3):
        seconds = []
        for run in (theirs, ours) if turn % 2 else (ours, theirs):
            start = time.process_time()
            run()
            seconds.append(time.process_time() - start)
        first, second = seconds if turn % 2 else seconds[::-1]
        ratios.append(first / second)
    low, middle, high = statistics.quantiles(ratios[3:], n=4)
    return f"**{middle:.2f}** | {low:.2f} to {high:.2f}"


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 16, 30])
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    print(f"{bptt.ops.backend().isa}, {asked.threads} threads, torch {torch.__version__}\n")
    print("| cell | T | B | H | no gradient | quartiles | with gradient | quartiles |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for steps in asked.steps:
        for kind in (nn.RNN, nn.GRU, nn.LSTM):
            for lanes in (1, 8) if steps == 1 else (8, 32):
                for hidden in (64, 128, 256):
                    theirs = kind(INPUTS, hidden)
                    ours = bptt.convert(copy.deepcopy(theirs))
                    x = torch.randn(steps, lanes, INPUTS)
                    check(theirs, ours, x)
                    columns = [
                        measure(way(theirs, x), way(ours, x), asked.rounds)
                        for way in (infer, train)
                    ]
                    name = kind.__name__.lower()
                    print(
                        f"| {name} | {steps} | {lanes} | {hidden} | {' | '.join(columns)} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
