"""What the graded backward pass costs beside plain training steps, and beside the closed form.

    python benchmarks/graded.py

A GRUCell of 128 units in a loop, 16 lanes, 64 steps, LayerNorm on the state between two calls for the
graded pass and nothing between them for the closed form. Times are ratios of pairs taken in turns, their
median and quartiles; the sum of the lags is compared with the gradient first. Memory is the peak of what
torch allocates.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import bptt


class Loop(nn.Module):
    """A cell, and what is done to its state."""

    def __init__(self, inputs: int, hidden: int, norm: bool) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(inputs, hidden), nn.Linear(hidden, inputs)
        self.norm = nn.LayerNorm(hidden) if norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(T, B, I) to the same."""
        h = x.new_zeros(x.shape[1], self.cell.hidden_size)
        found = []
        for value in x:
            h = self.cell(value, h)
            found.append(h)
            h = self.norm(h) if isinstance(self.norm, nn.LayerNorm) else h
        return self.out(torch.stack(found))


def plain(model: nn.Module, x: torch.Tensor) -> None:
    """A training step without its update."""
    model.zero_grad()
    model(x).square().mean().backward()


def full(model: nn.Module, x: torch.Tensor) -> bptt.Flow:
    """The same, watched."""
    with bptt.watch(model) as flow:
        plain(model, x)
    return flow


def callbacks(model: nn.Module, x: torch.Tensor, repeats: int) -> list[float]:
    """A measured step of a watched run, in steps of it that are not; the first also checks itself."""
    ratios = []
    with bptt.watch(model, every=2):
        plain(model, x)
        plain(model, x)
        for _ in range(repeats):
            measured, other = seconds(plain, model, x), seconds(plain, model, x)
            ratios.append(measured / other)
    return ratios


def seconds(run, *given) -> float:
    """Of one call."""
    began = time.perf_counter()
    run(*given)
    return time.perf_counter() - began


def peak(run, *given) -> float:
    """MiB: the largest sum of what was allocated and not yet freed."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        run(*given)
    total = top = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            top = max(top, total)
    return top / 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    x = torch.randn(options.steps, options.batch, 64)
    for norm in (True, False):
        model = Loop(64, options.hidden, norm)
        flow = full(model, x)
        norms = [float(p.grad.square().sum()) for p in model.cell.parameters()]
        error = abs(flow.joint.gradient_norm / sum(norms) ** 0.5 - 1)
        if error > 1e-4:
            raise SystemExit(f"the lags do not sum to the gradient: off by {error:.2g}")
        print(f"{'LayerNorm between' if norm else 'nothing between'}: method {flow.method}")
        pairs = [
            (seconds(full, model, x), seconds(plain, model, x)) for _ in range(options.repeats)
        ]
        ratios = {"full": [a / b for a, b in pairs]}
        ratios["defaults of the callbacks"] = callbacks(model, x, options.repeats)
        for name, found in ratios.items():
            low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
            print(f"  {name}: {middle:.1f} plain steps (quartiles {low:.1f} to {high:.1f})")
        print(f"  memory: {peak(full, model, x) / peak(plain, model, x):.1f} plain steps")


if __name__ == "__main__":
    main()
