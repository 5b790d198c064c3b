"""One step at a time, one lane: :class:`bptt.streaming.Stream` beside torch's layer."""

from __future__ import annotations

from typing import Any

import torch

from bptt.benchmark.case import Case
from bptt.benchmark.contest import Contest, Results, Side
from bptt.streaming import Stream


def ours(case: Case) -> tuple[Side, list[torch.Tensor]]:
    """T calls of ``Stream.step``, and the inputs ``(1, I)`` they take."""
    steps = list(case.input(case.random()).unbind())
    stream = Stream(case.layers()[0])

    def run() -> None:
        for x in steps:
            stream.step(x)

    def results() -> Results:
        stream.reset()
        outputs = [stream.step(x).clone() for x in steps]
        return {"y": torch.stack(outputs)}

    return Side(run, results), steps


def stream(case: Case) -> Contest:
    """T calls, each of one step, the state handed from one to the next."""
    mine, steps = ours(case)
    layer = case.layers()[1]
    inputs = [x.unsqueeze(0) for x in steps]

    def run() -> None:
        state: Any = None
        with torch.no_grad():
            for x in inputs:
                _, state = layer(x, state)

    def results() -> Results:
        state: Any = None
        outputs = []
        with torch.no_grad():
            for x in inputs:
                y, state = layer(x, state)
                outputs.append(y[0])
        return {"y": torch.stack(outputs)}

    return Contest(mine, Side(run, results), case.step_flops * case.steps, terms=2 * case.hidden)
