"""Papers on music: JSB chorales and Nottingham as piano rolls, if the user has the files.

Limits: no package on the registries carries these rolls, so the files have to be named, and SciPy,
which reads them, has to be installed. Without either the claims say so and are not run.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt import nn as layers
from bptt.claims.files import beside
from bptt.claims.learn import SEEDS, spread
from bptt.claims.registry import Measurement, NotRun, claim
from bptt.remedies import clip_norm

NOTES = 88
Rolls = list[Tensor]


def rolls(name: str) -> dict[str, Rolls]:
    """``train``, ``valid`` and ``test``: piano rolls ``(T, 88)`` of 0 and 1."""
    path = beside(
        name, "no package carries it; get it from the TCN repository (Bai et al.) and name its folder "
        "by bptt claims --data FOLDER",
    )  # fmt: skip
    variables = _read(path)
    return {
        part: [
            torch.from_numpy(np.asarray(roll, dtype=np.float32))
            for roll in variables[f"{part}data"].flat
        ]
        for part in ("train", "valid", "test")
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise NotRun("SciPy, which reads .mat files", "none", "pip install scipy") from None
    return loadmat(path)


class Player(nn.Module):
    """The next chord from those so far: notes independent of each other, given the state."""

    def __init__(self, layer: nn.RNNBase, dropout: float) -> None:
        super().__init__()
        self.layer, self.dropout = layer, nn.Dropout(dropout)
        self.linear = nn.Linear(layer.hidden_size, NOTES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(T, B, 88)``."""
        return self.linear(self.dropout(self.layer(self.dropout(x))[0]))


def batch(of: Rolls) -> tuple[Tensor, Tensor, Tensor]:
    """Chords, the chords after them, and which steps are real: ``(T, B, 88)``, ``(T, B, 1)``."""
    x = nn.utils.rnn.pad_sequence([r[:-1] for r in of])
    y = nn.utils.rnn.pad_sequence([r[1:] for r in of])
    real = torch.arange(len(x))[:, None] < torch.tensor([len(r) - 1 for r in of])
    return x, y, real.unsqueeze(-1).float()


def nll(model: nn.Module, of: Rolls, lanes: int = 32) -> float:
    """Nats a step, all notes together, mean over all steps: the papers' figure."""
    total = steps = 0.0
    model.eval()
    with torch.no_grad():
        for start in range(0, len(of), lanes):
            x, y, real = batch(of[start : start + lanes])
            loss = F.binary_cross_entropy_with_logits(model(x), y, reduction="none")
            total, steps = total + float((loss * real).sum()), steps + float(real.sum())
    model.train()
    return total / steps


def train(
    model: nn.Module,
    data: dict[str, Rolls],
    run: torch.optim.Optimizer,
    *,
    clip: float | None,
    epochs: int,
    lanes: int,
    patience: int,
    pieces: Rolls | None = None,
) -> float:
    """Test figure of the epoch that was best on the validation part."""
    sources = data["train"] if pieces is None else pieces
    best, kept, bad = float("inf"), copy.deepcopy(model.state_dict()), 0
    for _ in range(epochs):
        order = torch.randperm(len(sources)).tolist()
        for start in range(0, len(order), lanes):
            x, y, real = batch([sources[i] for i in order[start : start + lanes]])
            loss = F.binary_cross_entropy_with_logits(model(x), y, reduction="none")
            run.zero_grad()
            ((loss * real).sum() / real.sum()).backward()
            clip_norm(model.parameters(), clip)
            run.step()
        valid = nll(model, data["valid"])
        if valid < best:
            best, kept, bad = valid, copy.deepcopy(model.state_dict()), 0
        else:
            bad += 1
        if bad > patience or valid != valid:
            break
    model.load_state_dict(kept)
    return nll(model, data["test"])


@claim(
    id="P5",
    source="Bai, Kolter & Koltun, An empirical evaluation of generic convolutional and recurrent "
    "networks, 2018",
    statement="JSB chorales, negative log-likelihood a step on the test part: an RNN, a GRU and "
    "an LSTM of about the same size.",
    published="RNN 8.91, GRU 8.43, LSTM 8.45",
    rule="about 300,000 parameters each, Adam 2e-3, clip 1, dropout 0.4, best validation epoch, 3 seeds: "
    "each mean within 0.15 of the published figure",
    quick=False,
)
def chorales() -> Measurement:
    data = rolls("JSB_Chorales.mat")
    published = {"RNN": (8.91, 460), "GRU": (8.43, 245), "LSTM": (8.45, 205)}
    found: dict[str, list[float]] = {}
    sizes = {}
    for name, (_, hidden) in published.items():
        for seed in SEEDS:
            torch.manual_seed(seed)
            model = Player(getattr(layers, name)(NOTES, hidden), dropout=0.4)
            sizes[name] = sum(p.numel() for p in model.parameters())
            run = torch.optim.Adam(model.parameters(), lr=2e-3)
            value = train(model, data, run, clip=1.0, epochs=100, lanes=16, patience=12)
            found.setdefault(name, []).append(value)
    mean = {name: sum(v) / len(v) for name, v in found.items()}
    return Measurement(
        "; ".join(f"{n} {spread(v, 4)} ({sizes[n]} parameters)" for n, v in found.items()),
        {f"{n} {p:g}": abs(mean[n] - p) <= 0.15 for n, (p, _) in published.items()},
        "The three are closer together, or farther apart, than published: figures beside.",
        found,
    )


@claim(
    id="P6",
    source="Pascanu, Mikolov & Bengio, On the difficulty of training recurrent neural networks, 2013",
    statement="Nottingham, a plain RNN under SGD: clipping brings the test negative log-likelihood down.",
    published="3.80 → 3.48",
    rule="tanh RNN of 200, pieces of 100 steps, batch 16, up to 15 passes, SGD at the best of 0.1, 0.3 "
    "and 1 by validation, clip 1, 3 seeds: lower with clipping on the mean; both within 0.2 of "
    "the published figures",
    quick=False,
)
def nottingham() -> Measurement:
    data = rolls("Nottingham.mat")
    pieces = [p for roll in data["train"] for p in roll.split(101) if len(p) > 1]
    found: dict[str, dict[float, list[float]]] = {}
    for name, clip in (("without", None), ("with", 1.0)):
        for rate in (0.1, 0.3, 1.0):
            for seed in SEEDS:
                torch.manual_seed(seed)
                model = Player(layers.RNN(NOTES, 200), dropout=0.0)
                run = torch.optim.SGD(model.parameters(), lr=rate)
                value = train(
                    model, data, run, clip=clip, epochs=15, lanes=16, patience=3, pieces=pieces
                )
                found.setdefault(name, {}).setdefault(rate, []).append(value)
    best = {name: min(by.values(), key=lambda v: sum(v)) for name, by in found.items()}
    mean = {name: sum(v) / len(v) for name, v in best.items()}
    return Measurement(
        f"without clipping {spread(best['without'], 4)}, with {spread(best['with'], 4)}",
        {
            "clipping is better": mean["with"] < mean["without"],
            "3.80 without": abs(mean["without"] - 3.80) <= 0.2,
            "3.48 with": abs(mean["with"] - 3.48) <= 0.2,
        },
        "With the rate chosen for each, clipping changes less than published.",
        {name: {str(r): v for r, v in by.items()} for name, by in found.items()},
    )
