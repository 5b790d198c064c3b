"""What the figures share: one panel, and runs short enough for a build of the documentation."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure

from bptt.recurrence import Recurrence, trace
from bptt.report.chart_figure import panels
from bptt.tasks import Task


def panel() -> tuple[Figure, Any]:
    """A figure of one panel, and its axes, in the report's look."""
    made, (axes,) = panels(Figure, 1)
    return made, axes


def one(layer: torch.nn.Module, x: torch.Tensor) -> Recurrence:
    """The one recurrence of a layer run over ``x``."""
    (recurrence,) = trace(layer, x)
    return recurrence


def train(model: torch.nn.Module, task: Task, updates: int, rate: float = 0.01, estimator=None):
    """Train on batches of 16; yields after every update."""
    from bptt.gradients import Full

    estimator = estimator or Full()
    optimizer = torch.optim.Adam(model.parameters(), rate)
    generator = torch.Generator().manual_seed(1)
    for update in range(updates):
        batch = task.batch(generator, 16)
        optimizer.zero_grad()
        estimator.backward(model, batch.inputs, batch.targets, None, task.loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield update
