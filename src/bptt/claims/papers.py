"""Papers' tasks at their published settings: copy, adding, chrono starts, Shakespeare."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt import nn as layers
from bptt.claims.files import beside
from bptt.claims.learn import SEEDS, one_hot, spread, weight
from bptt.claims.reach import adding, train_adding
from bptt.claims.registry import Measurement, claim
from bptt.data import Corpus
from bptt.remedies import clip_norm, start_forget_bias
from bptt.watching import watch

BLANK, GO, CODES = 8, 9, 10


def copy_batch(count: int, wait: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """10 symbols of 8, ``wait`` - 1 blanks, a mark, 10 blanks; the answer: blanks, then the symbols.

    ``(T, N, 10)`` and ``(T, N)`` with T = wait + 20.
    """
    symbols = rng.integers(0, 8, (count, 10))
    x = np.full((count, wait + 20), BLANK)
    y = x.copy()
    x[:, :10] = symbols
    x[:, wait + 9] = GO
    y[:, -10:] = symbols
    return one_hot(x, CODES), torch.from_numpy(y).t()


class Copier(nn.Module):
    """A layer with an answer at every step."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer, self.linear = layer, nn.Linear(layer.hidden_size, 9)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(T, B, 9)``."""
        return self.linear(self.layer(x)[0])


def copy_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over all T + 20 steps, as the papers report it."""
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def train_copy(layer: nn.RNNBase, wait: int, updates: int, seed: int, rate: float = 1e-3) -> float:
    """Mean loss on fresh batches over the last tenth of the updates, batch 32, clipped at 1."""
    rng = np.random.default_rng(seed)
    model = Copier(layer)
    run = torch.optim.Adam(model.parameters(), lr=rate)
    losses = []
    for _ in range(updates):
        run.zero_grad()
        loss = copy_loss(model, copy_batch(32, wait, rng))
        loss.backward()
        clip_norm(model.parameters(), 1.0)
        run.step()
        losses.append(float(loss.detach()))
    tail = losses[-max(1, updates // 10) :]
    return sum(tail) / len(tail)


def memoryless(wait: int) -> float:
    """The loss of knowing when to answer and not what: 10·ln 8 over all steps."""
    return 10 * math.log(8) / (wait + 20)


@claim(
    id="P7",
    source="Arjovsky, Shah & Bengio, Unitary evolution recurrent neural networks, 2016, and after",
    statement="On copy with T=200, 10 symbols of 8, a plain RNN stays at the memoryless baseline.",
    published="10·ln 8/220 = .0945",
    rule="baseline .0945 to 4 digits; tanh RNN of 128, Adam 1e-3, batch 32, 1,500 updates, 3 "
    "seeds: the last 150 updates' mean loss is within 5 % of it on every seed",
    quick=False,
)
def copy_baseline() -> Measurement:
    found = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        found.append(train_copy(layers.RNN(CODES, 128), 200, 1500, seed))
    base = memoryless(200)
    return Measurement(
        f"baseline {base:.4f}; trained {spread(found, 4)}",
        {
            "the baseline is .0945": abs(base - 0.0945) < 5e-5,
            "a plain RNN stays at it": all(abs(v / base - 1) < 0.05 for v in found),
        },
        f"It ends at {spread(found, 4)}, where the baseline is {base:.4f}.",
        {"baseline": base, "losses": found},
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
    squares = (adding(200_000, 20)[1] - 1).square().double()
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


def chrono(layer: nn.LSTM, longest: float) -> None:
    """b_f = log U(1, T_max - 1), b_i = -b_f: gates that keep for times up to T_max."""
    H = layer.hidden_size
    with torch.no_grad():
        bias = weight(layer, "bias_ih_l0")
        weight(layer, "bias_hh_l0").zero_()
        bias[H : 2 * H] = torch.empty(H).uniform_(1, longest - 1).log()
        bias[:H] = -bias[H : 2 * H]


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
    for name in ("bias 0", "bias 1", "chrono"):
        for seed in SEEDS:
            torch.manual_seed(seed)
            layer = layers.LSTM(CODES, 64)
            if name == "chrono":
                chrono(layer, 150)
            else:
                start_forget_bias(layer, float(name[-1]))
            model = Copier(layer)
            with watch(model) as flow:
                copy_loss(model, copy_batch(16, 100, np.random.default_rng(99))).backward()
            horizons.setdefault(name, []).append(flow.horizon)
            losses.setdefault(name, []).append(train_copy(layer, 100, 400, seed) / memoryless(100))
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
    rule="first 90 % to train on, last 10 % to validate; two GRU layers of 256, 3,000 updates of "
    "32 × 64, one seed: between 1.4 and 1.6 nats; ours is reported beside parameters and minutes",
    quick=False,
)
def shakespeare() -> Measurement:
    from bptt.claims.ladder import train_text
    from bptt.models import LanguageModel
    from bptt.training.evaluate import evaluate

    path = beside("tinyshakespeare.txt", "it is in no package; name a folder with it by --data")
    corpus = Corpus.open(path)
    torch.manual_seed(0)
    model = LanguageModel(corpus.vocabulary.size, cell="gru", hidden=256, layers=2, dropout=0.2)
    began = time.perf_counter()
    train_text(model, corpus, 3000, rate=2e-3)
    minutes = (time.perf_counter() - began) / 60
    assert corpus.valid is not None
    nats = evaluate(model, corpus.valid).nats
    size = sum(p.numel() for p in model.parameters())
    return Measurement(
        f"{nats:.4f} nats a character, {size} parameters, {minutes:.1f} minutes on one core",
        {"about 1.5": 1.4 <= nats <= 1.6},
        f"This budget gives {nats:.3f} nats.",
        {"nats": nats, "parameters": size, "minutes": minutes},
    )
