"""What the mistakes that a guard names cost: the same training with and without each.

.venv/bin/python benchmarks/mistakes.py [--updates 400] [--seeds 3]

A GRU of 64 units learns characters of the text that every CPython carries, 16 lanes, chunks of 32, Adam
at 3e-3. The score is bits per character on text it has not seen, read in order with the state carried. A
row is the mean over the seeds and the range.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import nn
from torch.nn.utils import clip_grad_norm_

import bptt
from bptt.data import default_text

LANES, STEPS, HIDDEN = 16, 32, 64


@dataclass(frozen=True)
class Asked:
    """What to run."""

    updates: int = 400
    """Updates of each training."""
    seeds: int = 3
    """Trainings of each kind."""


class Model(nn.Module):
    """Characters to logits."""

    def __init__(self, size: int, layer: type[nn.RNNBase], dropout: float) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(size, 32), layer(32, HIDDEN, batch_first=True)
        self.drop, self.out = nn.Dropout(dropout), nn.Linear(HIDDEN, size)

    def forward(self, x, h=None):
        """Logits and the state."""
        y, h = self.rnn(self.embed(x), h)
        return self.out(self.drop(y)), h


@dataclass
class Way:
    """One way to train; what is not said is right."""

    carry: str = "in order"
    clip: str = "before the step"
    zero: bool = True
    steps: int = 1
    holds: str = "all"
    divide: float = 1.0
    train_mode: bool = True
    dropout: float = 0.0
    layer: type[nn.RNNBase] = bptt.nn.GRU
    optimizer: Callable[[Any], torch.optim.Optimizer] = field(
        default=lambda parameters: torch.optim.Adam(parameters, 3e-3)
    )
    threshold: float = 1.0


class Text:
    """Ids of the default text: nine tenths to train on, the rest to score."""

    def __init__(self) -> None:
        text = default_text()
        text = text if isinstance(text, str) else text.text
        letters = sorted(set(text))
        ids = torch.tensor([letters.index(c) for c in text[:400_000]])
        self.size, cut = len(letters), len(ids) * 9 // 10
        self.train, self.valid = ids[:cut], ids[cut : cut + 16_001]
        width = len(self.train) // LANES
        self.lanes = self.train[: width * LANES].view(LANES, width)

    def chunk(self, way: Way, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of update i."""
        if way.carry in ("random, kept", "random"):
            starts = torch.randint(len(self.train) - STEPS - 1, (LANES, 1))
            rows = self.train[starts + torch.arange(STEPS + 1)]
        elif way.carry == "rows as lanes":
            a = i % 600 * LANES * STEPS
            rows = self.train[a + STEPS * torch.arange(LANES)[:, None] + torch.arange(STEPS + 1)]
        else:
            a = i % (self.lanes.shape[1] // STEPS - 1) * STEPS
            rows = self.lanes[:, a : a + STEPS + 1]
        return rows[:, :-1], rows[:, 1:]


def train(text: Text, way: Way, updates: int, seed: int) -> tuple[Model, Any]:
    """A model trained in this way, and the state it ended with."""
    torch.manual_seed(seed)
    model = Model(text.size, way.layer, way.dropout).train(way.train_mode)
    held = (
        model.parameters()
        if way.holds == "all"
        else [*model.embed.parameters(), *model.out.parameters()]
    )
    optimizer, h = way.optimizer(held), None
    for i in range(updates):
        x, y = text.chunk(way, i)
        if way.zero:
            optimizer.zero_grad()
            model.zero_grad()
        logits, h = model(x, None if way.carry in ("dropped", "random") else h)
        h = h.detach()
        (F.cross_entropy(logits.flatten(0, 1), y.flatten()) / way.divide).backward()
        if way.clip == "before the step":
            clip_grad_norm_(model.parameters(), way.threshold)
        for _ in range(way.steps):
            optimizer.step()
        if way.clip == "after the step":
            clip_grad_norm_(model.parameters(), way.threshold)
    return model, h


@torch.no_grad()
def bits(
    text: Text, model: Model, *, training: bool = False, h: Any = None, most: int = 16_000
) -> float:
    """Bits per character of the held-out text."""
    model.train(training)
    x, y = text.valid[None, :most], text.valid[None, 1 : most + 1]
    logits, _ = model(x, h)
    return F.cross_entropy(logits[0], y[0]).item() / 0.6931471805599453


def main(asked: Asked) -> None:
    """Print one row a mistake."""
    torch.set_num_threads(1)
    text = Text()
    sgd = {"layer": bptt.nn.RNN, "optimizer": lambda p: torch.optim.SGD(p, 2.0)}
    slow = {"optimizer": lambda p: torch.optim.SGD(p, 1.0)}
    rows: list[tuple[str, Way, Way]] = [
        ("carry-dropped", Way(), Way(carry="dropped")),
        ("carry-over-unrelated", Way(carry="random"), Way(carry="random, kept")),
        ("lane-shuffled", Way(), Way(carry="rows as lanes")),
        ("clip-after-step (RNN, SGD at 2)", Way(**sgd), Way(**sgd, clip="after the step")),
        ("always-clipped (θ = 0.01, SGD at 1)", Way(**slow), Way(**slow, threshold=0.01)),
        ("zero-grad-missing", Way(), Way(zero=False)),
        ("zero-grad-missing (SGD at 1)", Way(**slow), Way(**slow, zero=False)),
        ("two-steps", Way(), Way(steps=2)),
        ("frozen-recurrent", Way(), Way(holds="all but the recurrence")),
        ("loss-scale-by-length (SGD at 1)", Way(**slow), Way(**slow, divide=LANES * STEPS)),
        ("eval-mode (dropout 0.3 never on)", Way(dropout=0.3), Way(dropout=0.3, train_mode=False)),
    ]
    print(f"torch {torch.__version__}, {asked.updates} updates, {asked.seeds} seeds\n")
    print("| mistake | right, bits per character | with the mistake |\n|---|---|---|")
    for name, right, wrong in rows:
        scores = [
            [bits(text, train(text, way, asked.updates, seed)[0]) for seed in range(asked.seeds)]
            for way in (right, wrong)
        ]
        print(f"| {name} | {spread(scores[0])} | {spread(scores[1])} |", flush=True)
    ends = [train(text, Way(dropout=0.3), asked.updates, seed) for seed in range(asked.seeds)]
    print(f"| eval-mode (scored with dropout 0.3) | {spread([bits(text, m) for m, _ in ends])} | "
          f"{spread([bits(text, m, training=True) for m, _ in ends])} |")  # fmt: skip
    fresh = [bits(text, m, most=32) for m, _ in ends]
    stale = [bits(text, m, h=h[:, :1], most=32) for m, h in ends]
    print(f"| state-in-eval (the first 32 characters) | {spread(fresh)} | {spread(stale)} |")
    print(f"\nmissing-detach, hidden by retain_graph=True: {growth(text)}")


def spread(scores: list[float]) -> str:
    """Mean and range."""
    return f"{statistics.mean(scores):.2f} ({min(scores):.2f} … {max(scores):.2f})"


def growth(text: Text, chunks: int = 60) -> str:
    """How the time of a backward pass grows when the state is never detached."""
    torch.manual_seed(0)
    model, h, times = Model(text.size, bptt.nn.GRU, 0.0), None, []
    for i in range(chunks):
        x, y = text.chunk(Way(), i)
        logits, h = model(x, h)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        before = time.process_time()
        loss.backward(retain_graph=True)
        times.append(time.process_time() - before)
    first, last = statistics.median(times[1:6]), statistics.median(times[-5:])
    return f"the backward pass of chunk {chunks} takes {last / first:.0f} times that of the first"


if __name__ == "__main__":
    main(tyro.cli(Asked))
