"""What Checkpointed takes beside Full over 1,000 steps, in memory and time; prints a Markdown table.

.venv/bin/python benchmarks/checkpointed.py [--rounds 6]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import tyro
from torch import nn
from torch.profiler import ProfilerActivity, profile

import bptt
from bptt.gradients import Checkpointed, Full

STEPS, INPUTS, CLASSES = 1000, 64, 16
# Layer, lanes, units: few of each, where a segment's call counts, up to sizes where it does not.
CASES = [
    (bptt.nn.GRU, 16, 64),
    (bptt.nn.GRU, 64, 128),
    (bptt.nn.RNN, 16, 64),
    (bptt.nn.RNN, 32, 256),
    (bptt.nn.RNN, 128, 128),
    (bptt.nn.LSTM, 64, 128),
    (nn.GRU, 32, 128),
]


@dataclass(frozen=True)
class Options:
    """How long to measure."""

    rounds: int = 6
    """Turns of Full and Checkpointed at each size."""


class Model(nn.Module):
    """A layer and a readout."""

    def __init__(self, layer: type[nn.RNNBase], hidden: int) -> None:
        super().__init__()
        self.layer, self.out = layer(INPUTS, hidden), nn.Linear(hidden, CLASSES)

    def forward(self, x: torch.Tensor, carry: object = None) -> tuple[torch.Tensor, object]:
        """One call over some steps."""
        h, carry = self.layer(x, carry)
        return self.out(h), carry


def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over all steps and lanes."""
    return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())


def peak(call: Callable[[], object]) -> int:
    """Most bytes that stood allocated at once during a call, beyond those before it."""
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        call()
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    now = most = 0
    for _, change in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        now += change
        most = max(most, now)
    return most


def seconds(call: Callable[[], object]) -> float:
    """Processor time of a call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def main(asked: Options) -> None:
    """Print the table."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # with more, the time in which they wait for each other is counted too
    print("| layer | batch | H | memory | time | spread |\n|---|--:|--:|--:|--:|--:|")
    for layer, lanes, hidden in CASES:
        model = Model(layer, hidden)
        x, target = torch.randn(STEPS, lanes, INPUTS), torch.randint(CLASSES, (STEPS, lanes))
        calls = [
            partial(estimator.backward, model, x, target, loss=loss)
            for estimator in (Full(), Checkpointed())
        ]
        for call in calls:
            call()  # gradients and caches are there from now on
        full, checkpointed = (peak(call) for call in calls)
        times = [seconds(calls[1]) / seconds(calls[0]) for _ in range(asked.rounds)]
        print(
            f"| {layer.__module__.split('.')[0]} {layer.__name__} | {lanes} | {hidden} "
            f"| {checkpointed / full:.1%} | {statistics.median(times):.2f} × "
            f"| {min(times):.2f} to {max(times):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Options))
