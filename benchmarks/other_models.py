"""What ``bptt.convert`` gives in models of the sizes that usual packages have; prints a Markdown table.

.venv/bin/python benchmarks/other_models.py [--only tagger] [--seconds 3] [--threads 1]

The models are written by hand here, in plain torch, as their packages have them: layers, sizes, batch and
length. A copy of each is converted and nothing else. First outputs and every gradient are compared with
the unconverted model's, then the two take turns; times are the processor's and not the clock's, so that
other programs on the machine count for little. The ratio is the median of paired ratios, torch's time
over ours, the whole model included: embeddings, dense layers, heads and the loss.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

import bptt
from bptt.ops import backend

BOUND = 2e-4  # largest difference, in units of the largest number of its tensor


@dataclass(frozen=True)
class Asked:
    """What to run."""

    only: tuple[str, ...] = ()
    """Rows whose names hold one of these words; default: all."""
    seconds: float = 3.0
    """Of each row."""
    threads: int = 1


class Policy(nn.Module):
    """Recurrent PPO: an LSTM for the actor and one for the critic, a network of 64 and 64 above each."""

    def __init__(self, observed: int = 24, hidden: int = 256, actions: int = 6) -> None:
        super().__init__()
        self.actor, self.critic = nn.LSTM(observed, hidden), nn.LSTM(observed, hidden)
        self.act, self.value = _head(hidden, actions), _head(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of actions and the value, (T, B, 7)."""
        return torch.cat((self.act(self.actor(x)[0]), self.value(self.critic(x)[0])), -1)


def _head(size: int, out: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(size, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, out)
    )


class Layered(nn.Module):
    """Something before a recurrent stack, and something after each of its steps, or its last one."""

    def __init__(
        self, before: nn.Module, layer: nn.RNNBase, after: nn.Module, last: bool = False
    ) -> None:
        super().__init__()
        self.before, self.layer, self.after, self.last = before, layer, after, last

    def forward(self, x: Tensor) -> Tensor:
        """What the last part makes."""
        y = self.layer(self.before(x))[0]
        if self.last:
            y = y[:, -1] if self.layer.batch_first else y[-1]
        return self.after(y)


class DualPath(nn.Module):
    """One block of a dual-path separator: a BiLSTM within chunks, and one from chunk to chunk."""

    def __init__(self, features: int = 64, hidden: int = 128) -> None:
        super().__init__()
        two = {"batch_first": True, "bidirectional": True}
        self.within, self.across = (nn.LSTM(features, hidden, **two) for _ in range(2))
        self.first, self.second = (nn.Linear(2 * hidden, features) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(features) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Chunks (S, K, features) to the same."""
        x = x + self.norms[0](self.first(self.within(x)[0]))
        turned = x.transpose(0, 1).contiguous()
        turned = turned + self.norms[1](self.second(self.across(turned)[0]))
        return turned.transpose(0, 1)


class TwoStages(nn.Module):
    """A noise suppressor of two GRUs between dense layers, as NSNet2 has it."""

    def __init__(self, bins: int = 161, hidden: int = 400) -> None:
        super().__init__()
        self.before = nn.Linear(bins, hidden)
        self.layers = nn.GRU(hidden, hidden, 2, batch_first=True)
        self.after = nn.Sequential(
            nn.Linear(hidden, 600), nn.ReLU(), nn.Linear(600, 600), nn.ReLU(), nn.Linear(600, bins)
        )

    def forward(self, x: Tensor) -> Tensor:
        """A gain for each bin."""
        return torch.sigmoid(self.after(self.layers(self.before(x))[0]))


def _tokens(*shape: int) -> Tensor:
    return torch.randint(1000, shape)


def _plain(kind: str, inputs: int, hidden: int, layers: int, out: int, **options) -> nn.Module:
    layer = getattr(nn, kind)(inputs, hidden, layers, **options)
    width = hidden * (2 if layer.bidirectional else 1)
    last = options.get("batch_first", False)
    return Layered(nn.Identity(), layer, nn.Linear(width, out), last=last)


@dataclass(frozen=True)
class Row:
    """A model, an input of the size its packages use, and whether it is trained on it."""

    name: str
    size: str
    make: Callable[[], nn.Module]
    draw: Callable[[], Tensor]
    trains: bool


def rows() -> list[Row]:
    """Of the table."""
    first = {"batch_first": True}
    drqn = lambda: Layered(  # noqa: E731 - one of many in a table
        nn.Sequential(nn.Linear(32, 64), nn.ReLU()), nn.GRU(64, 64), nn.Linear(64, 5)
    )
    tagger = lambda size: Layered(  # noqa: E731
        nn.Embedding(1000, 100), nn.LSTM(100, size, bidirectional=True), nn.Linear(2 * size, 17)
    )
    chars = lambda: Layered(nn.Embedding(1000, 128), nn.LSTM(128, 128, 2), nn.Linear(128, 65))  # noqa: E731
    words = lambda: _plain("GRU", 40, 154, 1, 12, **first)  # noqa: E731
    task = lambda: _plain("RNN", 10, 100, 1, 3, nonlinearity="relu")  # noqa: E731
    models: list[tuple[str, str, Callable[[], nn.Module], Callable[[], Tensor], str]] = [
        ("PPO policy, a step", "LSTM 256 ×2, T=1, B=8", Policy, lambda: torch.randn(1, 8, 24), "i"),
        ("PPO policy", "LSTM 256 ×2, T=32, B=8", Policy, lambda: torch.randn(32, 8, 24), "it"),
        ("DRQN, a step", "GRU 64, T=1, B=1", drqn, lambda: torch.randn(1, 1, 32), "i"),
        ("DRQN", "GRU 64, T=20, B=32", drqn, lambda: torch.randn(20, 32, 32), "it"),
        (
            "forecaster", "LSTM 64, 2 layers, T=96, B=32",
            lambda: _plain("LSTM", 7, 64, 2, 24, **first), lambda: torch.randn(32, 96, 7), "it",
        ),
        (
            "forecaster", "LSTM 128, 2 layers, T=48, B=32",
            lambda: _plain("LSTM", 7, 128, 2, 24, **first), lambda: torch.randn(32, 48, 7), "it",
        ),
        (
            "forecaster", "GRU 128, 2 layers, T=168, B=32",
            lambda: _plain("GRU", 7, 128, 2, 24, **first), lambda: torch.randn(32, 168, 7), "it",
        ),
        ("tagger", "BiLSTM 100, T=30, B=16", lambda: tagger(100), lambda: _tokens(30, 16), "it"),
        ("tagger", "BiLSTM 256, T=30, B=32", lambda: tagger(256), lambda: _tokens(30, 32), "it"),
        ("characters", "LSTM 128, 2 layers, T=50, B=50", chars, lambda: _tokens(50, 50), "it"),
        (
            "noise suppressor", "GRU 400, 2 layers, T=100, B=1",
            TwoStages, lambda: torch.randn(1, 100, 161), "i",
        ),
        (
            "noise suppressor", "GRU 400, 2 layers, T=100, B=16",
            TwoStages, lambda: torch.randn(16, 100, 161), "t",
        ),
        (
            "separator", "GRU 256, 3 layers, T=100, B=8",
            lambda: _plain("GRU", 129, 256, 3, 258), lambda: torch.randn(100, 8, 129), "it",
        ),
        (
            "dual-path separator", "BiLSTM 128 ×2, 60 chunks of 100",
            DualPath, lambda: torch.randn(60, 100, 64), "it",
        ),
        ("keyword spotting", "GRU 154, T=98, B=1", words, lambda: torch.randn(1, 98, 40), "i"),
        ("keyword spotting", "GRU 154, T=98, B=64", words, lambda: torch.randn(64, 98, 40), "t"),
        ("cognitive task", "RNN 100, relu, T=100, B=32", task, lambda: torch.randn(100, 32, 10), "it"),
    ]  # fmt: skip
    return [
        Row(name, size, make, draw, trains == "t")
        for name, size, make, draw, kinds in models
        for trains in kinds
    ]


def pass_over(model: nn.Module, x: Tensor, trains: bool) -> list[Tensor]:
    """The output, and where it is trained the gradient of every parameter."""
    if not trains:
        with torch.no_grad():
            return [model(x)]
    model.zero_grad()
    y = model(x)
    F.mse_loss(y, torch.zeros_like(y)).backward()
    return [y.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def measure(row: Row, seconds: float) -> tuple[str, float]:
    """One line of the table, and its ratio."""
    torch.manual_seed(0)
    theirs = row.make().train(row.trains)
    mine = bptt.convert(copy.deepcopy(theirs))
    x = row.draw()
    pairs = zip(pass_over(mine, x, row.trains), pass_over(theirs, x, row.trains), strict=True)
    error = max(((a - b).abs().max() / b.abs().max().clamp_min(1e-12)).item() for a, b in pairs)
    if not error <= BOUND:
        raise SystemExit(
            f"{row.name}, {row.size}: a difference of {error:.1e}, more than {BOUND:.1e}"
        )
    began, first = time.perf_counter(), time.process_time()
    pass_over(theirs, x, row.trains)
    calls = max(1, int(2e-3 / max(time.process_time() - first, 1e-6)))  # a clock tick is not a call
    taken: list[tuple[float, float]] = []
    while len(taken) < 9 or time.perf_counter() - began < seconds:
        each = {}
        for side in ("mine", "theirs") if len(taken) % 2 else ("theirs", "mine"):
            model = mine if side == "mine" else theirs
            start = time.process_time()
            for _ in range(calls):
                pass_over(model, x, row.trains)
            each[side] = (time.process_time() - start) / calls * 1e6
        taken.append((each["mine"], each["theirs"]))
    low, ratio, high = statistics.quantiles((peer / own for own, peer in taken), n=4)
    own, peer = (statistics.median(side) for side in zip(*taken, strict=True))
    what = "training" if row.trains else "inference"
    return (
        f"| {row.name} | {row.size} | {what} | {own:,.0f} | {peer:,.0f} | **{ratio:.2f}** "
        f"| {low:.2f} to {high:.2f} | {error:.0e} |"
    ), ratio


def main(asked: Asked) -> None:
    """Print the table, and the geometric mean of its ratios."""
    torch.set_num_threads(asked.threads)
    chosen = [r for r in rows() if not asked.only or any(word in r.name for word in asked.only)]
    if not chosen:
        raise SystemExit(f"no row is called {' or '.join(asked.only)}")
    print(f"torch {torch.__version__}, {backend().isa}, {asked.threads} threads\n")
    print("| model | layers | pass | ours, µs | torch, µs | ratio | quartiles | difference |")
    print("|---|---|---|--:|--:|--:|---|--:|")
    ratios = []
    for row in chosen:
        line, ratio = measure(row, asked.seconds)
        ratios.append(ratio)
        print(line, flush=True)
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    print(f"\ngeometric mean {mean:.2f}, lowest {min(ratios):.2f}, {len(ratios)} rows")


if __name__ == "__main__":
    main(tyro.cli(Asked))
