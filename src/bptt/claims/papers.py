"""Papers' tasks at their published settings: copy, adding, chrono starts, Shakespeare."""

from __future__ import annotations

import math
import statistics
import time
from typing import cast

import torch
from torch import Tensor, nn

from bptt import nn as layers
from bptt.claims.files import beside
from bptt.claims.learn import SEEDS, spread
from bptt.claims.reach import sums, train_adding
from bptt.claims.registry import Measurement, claim
from bptt.data import Corpus, Stream
from bptt.remedies import clip_norm, start_recurrent
from bptt.tasks import Copy
from bptt.watching import watch


class Copier(nn.Module):
    """A layer with an answer at every step."""

    def __init__(self, layer: nn.RNNBase, task: Copy) -> None:
        super().__init__()
        self.layer, self.linear = layer, nn.Linear(layer.hidden_size, task.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(T, B, O)``."""
        return self.linear(self.layer(x)[0])


def copy_loss(model: nn.Module, task: Copy, generator: torch.Generator, lanes: int = 32) -> Tensor:
    """On a fresh batch, mean over all steps, as the papers report it."""
    batch = task.batch(generator, lanes)
    return task.loss(model(batch.inputs), batch.targets)


def train_copy(
    layer: nn.RNNBase, task: Copy, updates: int, seed: int, rate: float = 1e-3
) -> list[float]:
    """Losses on fresh batches in the last tenth of the updates; batch 32, Adam, clipped at 1."""
    generator = torch.Generator().manual_seed(seed)
    model = Copier(layer, task)
    run = torch.optim.Adam(model.parameters(), lr=rate)
    losses = []
    for _ in range(updates):
        run.zero_grad()
        loss = copy_loss(model, task, generator)
        loss.backward()
        clip_norm(model.parameters(), 1.0)
        run.step()
        losses.append(float(loss.detach()))
    return losses[-max(1, updates // 10) :]


@claim(
    id="P7",
    source="Arjovsky, Shah & Bengio, Unitary evolution recurrent neural networks, 2016, and after",
    statement="On copy with T=200, 10 symbols of 8, a plain RNN stays at the memoryless baseline.",
    published="10·ln 8/220 = .0945",
    rule="baseline .0945 to 4 digits; tanh RNN of 128, Adam 1e-3, clip 1, batch 32, 2,000 updates, 3 "
    "seeds: the median loss of the last 200 updates is within 5 % of it on every seed; updates "
    "that are farther off are counted",
    quick=False,
)
def copy_baseline() -> Measurement:
    found, off, task = [], [], Copy(200)
    base = task.memoryless
    for seed in SEEDS:
        torch.manual_seed(seed)
        losses = train_copy(layers.RNN(task.inputs, 128), task, 2000, seed)
        # An explosion throws a plain RNN off for a few updates: a mean would tell of those alone.
        found.append(statistics.median(losses))
        off.append(sum(abs(v / base - 1) >= 0.05 for v in losses))
    return Measurement(
        f"baseline {base:.4f}; trained {spread(found, 4)}; {', '.join(map(str, off))} of the last "
        "200 updates farther off",
        {
            "the baseline is .0945": abs(base - 0.0945) < 5e-5,
            "a plain RNN stays at it": all(abs(v / base - 1) < 0.05 for v in found),
        },
        f"It ends at {spread(found, 4)}, where the baseline is {base:.4f}.",
        {"baseline": base, "losses": found, "off": off},
    )


@claim(
    id="P8",
    source="adding task, a widely copied README and the papers before it",
    statement="On adding with T=200 the constant prediction has an error of 1/6; a GRU gets under 1e-3.",
    published="1/6 (the README: .1767); < 1e-3",
    rule="the error of predicting 1 on 200,000 sums within 3 standard errors of 1/6, and of "
    ".1767; GRU of 64, Adam 1e-3, batch 32, up to 6,000 fresh batches, 3 seeds: under 1e-3 on "
    "every seed",
    quick=False,
)
def adding_task() -> Measurement:
    squares = (sums(200_000, 20, torch.Generator().manual_seed(0))[1] - 1).square().double()
    mean, error = float(squares.mean()), float(squares.std()) / math.sqrt(len(squares))
    found = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        found.append(train_adding(layers.GRU(2, 64), 200, seed, 6000, 1e-3, 1e-3))
    return Measurement(
        f"constant prediction {mean:.5f} ± {error:.5f}; GRU {spread(found)}",
        {
            "the constant's error is 1/6": abs(mean - 1 / 6) < 3 * error,
            "it is .1767": abs(mean - 0.1767) < 3 * error,
            "a GRU gets under 1e-3": max(found) < 1e-3,
        },
        f"Two uniform numbers have variances of 1/12 each, so the constant's error is 1/6 = "
        f"{1 / 6:.4f}; .1767 is a slip of the pen.",
        {"constant": mean, "gru": found},
    )


@claim(
    id="P9",
    source="Tallec & Ollivier, Can recurrent neural networks warp time?, 2018",
    statement="A chrono start, and a forget bias, widen an LSTM's horizon.",
    published="wider",
    rule="copy with T=100, T_max = 3T/2, LSTM of 64, untrained and after 400 updates, 3 seeds: "
    "the smallest K with a bias under 5 % is on every seed longer with forget bias 1 than "
    "without, and with chrono than with bias 1, untrained",
    quick=False,
)
def chrono_widens() -> Measurement:
    horizons: dict[str, list[int]] = {}
    losses: dict[str, list[float]] = {}
    task = Copy(100)
    starts = {"bias 0": "forget:0", "bias 1": "forget:1", "chrono": "chrono:150"}
    for name, start in starts.items():
        for seed in SEEDS:
            torch.manual_seed(seed)
            layer = layers.LSTM(task.inputs, 64)
            start_recurrent(layer, start)
            model = Copier(layer, task)
            with watch(model) as flow:
                copy_loss(model, task, torch.Generator().manual_seed(99), 16).backward()
            horizons.setdefault(name, []).append(flow.horizon)
            tail = train_copy(layer, task, 400, seed)
            losses.setdefault(name, []).append(statistics.fmean(tail) / task.memoryless)
    return Measurement(
        "untrained horizon: "
        + "; ".join(f"{n} {', '.join(map(str, h))}" for n, h in horizons.items())
        + " steps; loss after 400 updates over the memoryless baseline: "
        + "; ".join(f"{n} {spread(v)}" for n, v in losses.items()),
        {
            "forget bias 1 widens it": min(horizons["bias 1"]) > max(horizons["bias 0"]),
            "chrono widens it further": min(horizons["chrono"]) > max(horizons["bias 1"]),
        },
        "What the start does to the gradient and what it does to the loss after few updates are "
        "two things.",
        {"horizons": horizons, "losses": losses},
    )


@claim(
    id="P11",
    source="char-rnn and later reports",
    statement="On Tiny Shakespeare a small recurrent model reaches about 1.5 nats a character on the "
    "validation text.",
    published="about 1.5 (reports differ in size and budget)",
    rule="first 90 % to train on, last 10 % to validate; a GRU layer of 256, 1,500 updates of 32 × 64 "
    "characters, 3 seeds: the mean between 1.4 and 1.6 nats; beside it parameters and minutes",
    quick=False,
)
def shakespeare() -> Measurement:
    from bptt.claims.ladder import train_text
    from bptt.models import LanguageModel
    from bptt.training.evaluate import evaluate

    path = beside("tinyshakespeare.txt", "it is in no package; name a folder with it by --data")
    corpus = Corpus.open(path)
    valid = cast(Stream, corpus.valid)  # a text read from one file has its last tenth held out
    nats, minutes, size = [], 0.0, 0
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = LanguageModel(corpus.vocabulary.size, cell="gru", hidden=256)
        size = sum(p.numel() for p in model.parameters())
        began = time.perf_counter()
        train_text(model, corpus, 1500, rate=2e-3)
        minutes += (time.perf_counter() - began) / 60 / len(SEEDS)
        nats.append(evaluate(model, valid).nats)
    return Measurement(
        f"{spread(nats, 4)} nats a character, {size} parameters, {minutes:.1f} minutes of one core a "
        "seed",
        {"about 1.5": 1.4 <= sum(nats) / len(nats) <= 1.6},
        f"This budget, {minutes:.1f} minutes of one core a seed, gives {spread(nats, 3)} nats.",
        {"nats": nats, "parameters": size, "minutes": minutes},
    )
