"""Claims about language models: the ladder from counting to attention, sampling, warm-up, horizons."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import bptt
from bptt.data import Corpus, Lanes, RandomChunks, Stream
from bptt.experiments.claims.learn import SEEDS, spread
from bptt.experiments.claims.registry import Measurement, claim
from bptt.gradients import Full
from bptt.models import AttentionModel, CountModel, LanguageModel, WindowModel, token_loss
from bptt.remedies import ClipNorm
from bptt.training import fit_step

BITS = float(np.log(2))


@lru_cache(maxsize=4)
def text(files: tuple[str, ...] = ()) -> Corpus:
    """The text that every CPython carries, or these files; nine tenths to train on."""
    return Corpus.open(list(files) or None)


def train_text(
    model: nn.Module,
    corpus: Corpus,
    updates: int,
    *,
    chunk: int = 64,
    random: int | None = None,
    rate: float = 3e-3,
    batch: int = 32,
) -> nn.Module:
    """Truncated BPTT over lanes, the state carried; or over random chunks with this seed, fresh."""
    stream = corpus.train
    data: Lanes | RandomChunks
    if random is None:
        data = Lanes(*stream, batch=batch, chunk=chunk)
    else:
        data = RandomChunks(*stream, batch=batch, chunk=chunk, seed=random)
    run = torch.optim.Adam(model.parameters(), lr=rate)
    carry = None
    for _ in range(updates):
        piece = data.take()
        carry = fit_step(
            model, run, (piece.inputs, piece.targets), Full(), token_loss, clip=ClipNorm(1.0),
            carry=None if piece.fresh else carry,
        ).carry  # fmt: skip
    return model.eval()


def held_out(corpus: Corpus, lanes: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets ``(steps, lanes)`` from evenly spaced places of the held-out text."""
    valid = cast(Stream, corpus.valid)  # a text read from one file has its last tenth held out
    tokens = torch.from_numpy(np.asarray(valid.tokens).astype(np.int64))
    begins = torch.linspace(0, len(tokens) - steps - 1, lanes).long()
    window = tokens[begins + torch.arange(steps + 1)[:, None]]
    return window[:-1], window[1:]


def bits_by_position(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, carry=None
) -> torch.Tensor:
    """Bits a character at each step, mean over the lanes: ``(steps,)``."""
    with torch.no_grad():
        logits = model(x, carry)[0]
        losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
    return losses.view(x.shape).mean(1) / BITS


@lru_cache(maxsize=8)
def gru_model(seed: int, random: bool) -> nn.Module:
    """A GRU of 96 after 600 updates in chunks of 32, in order or from random places."""
    torch.manual_seed(seed)
    model = LanguageModel(text().vocabulary.size, cell="gru", hidden=96)
    return train_text(model, text(), 600, chunk=32, random=seed if random else None)


@claim(
    id="A8",
    source="A",
    statement="In practice a trained plain RNN carries about ten characters.",
    published="~10",
    rule="character model on the text CPython carries, H=128, 800 updates, 3 seeds: the horizon "
    "on held-out text (128 steps), at a bias of 5 % and of 1 %, is between 5 and 20 on every seed",
)
def horizon_of_a_trained_rnn() -> Measurement:
    found: dict[str, list[int]] = {"5 %": [], "1 %": []}
    bits = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = LanguageModel(text().vocabulary.size, cell="rnn", hidden=128)
        train_text(model, text(), 800)
        x, y = held_out(text(), 8, 128)
        with bptt.watch(model) as flow:
            token_loss(model(x)[0], y).backward()
        found["5 %"].append(flow.spectrum.horizon(0.05))
        found["1 %"].append(flow.spectrum.horizon(0.01))
        bits.append(float(bits_by_position(model, x, y).mean()))
    return Measurement(
        "; ".join(f"horizon at {b}: {', '.join(map(str, h))} steps" for b, h in found.items())
        + f"; {spread(bits)} bits a character",
        {f"about ten at {b}": min(h) >= 5 and max(h) <= 20 for b, h in found.items()},
        "The reach of the gradient is the figures above.",
        {"horizons": found, "bits": bits},
    )


@claim(
    id="D4",
    source="D",
    statement="Sampling chunks in order with the state carried gives a model longer context than chunks "
    "from random places.",
    published="better",
    rule="GRU of 96, 600 updates of 32 × 32 characters each way, 3 seeds, held-out text of 256 "
    "characters read in one piece by both: bits over characters 33…256 are lower in order on "
    "every seed; and in order they fall by more from characters 17…32 to 33…256, on every seed",
)
def order_or_random() -> Measurement:
    x, y = held_out(text(), 64, 256)
    near: dict[bool, list[float]] = {False: [], True: []}
    far: dict[bool, list[float]] = {False: [], True: []}
    for seed in SEEDS:
        for random in (False, True):
            bits = bits_by_position(gru_model(seed, random), x, y)
            near[random].append(float(bits[16:32].mean()))
            far[random].append(float(bits[32:].mean()))
    gains = {r: [n - f for n, f in zip(near[r], far[r], strict=True)] for r in (False, True)}
    return Measurement(
        f"characters 33…256: in order {spread(far[False])}, random {spread(far[True])}; 17…32: in order "
        f"{spread(near[False])}, random {spread(near[True])} bits; gain beyond 32: in order "
        f"{spread(gains[False])}, random {spread(gains[True])}",
        {
            "better beyond the chunk": all(
                a < b for a, b in zip(far[False], far[True], strict=True)
            ),
            "gains more from what lies farther": all(
                a > b for a, b in zip(gains[False], gains[True], strict=True)
            ),
        },
        "At equal updates the order of the chunks decides little: a model trained from fresh states goes "
        "on reading past the length it was trained on, and random places show it more varied text.",
        {"near": list(near.values()), "far": list(far.values())},
    )


@claim(
    id="D5",
    source="D",
    statement="It matters to warm the state up on the prompt before continuing it.",
    published="matters",
    rule="the GRU of D4, prompts of 64 characters, 64 lanes, 3 seeds: the first 16 characters of the "
    "continuation cost over 0.1 bits more from a fresh state than from a warm one, on every seed",
)
def warm_up() -> Measurement:
    x, y = held_out(text(), 64, 128)
    gaps: dict[str, list[float]] = {"1…16": [], "49…64": []}
    for seed in SEEDS:
        model = gru_model(seed, False)
        warm = bits_by_position(model, x, y)[64:]
        cold = bits_by_position(model, x[64:], y[64:])
        gaps["1…16"].append(float((cold - warm)[:16].mean()))
        gaps["49…64"].append(float((cold - warm)[48:].mean()))
    return Measurement(
        "bits a character more without warm-up: "
        + "; ".join(f"characters {n}: {spread(v)}" for n, v in gaps.items()),
        {"matters": min(gaps["1…16"]) > 0.1},
        "The state warms up on what it reads itself within a few dozen characters.",
        gaps,
    )


def _score(model: nn.Module, corpus: Corpus) -> float:
    x, y = held_out(corpus, 64, 256)
    return float(bits_by_position(model, x, y)[64:].mean())


def _ladder(corpus: Corpus, seed: int, updates: int) -> dict[str, float]:
    """Bits a character of each rung, about 100,000 parameters where there are any."""
    V = corpus.vocabulary.size
    torch.manual_seed(seed)
    rungs = {
        "window": WindowModel(V, window=12, embedding=16, hidden=200, dropout=0.0),
        "RNN": LanguageModel(V, cell="rnn", hidden=200, embedding=64),
        "GRU": LanguageModel(V, cell="gru", hidden=128, embedding=64),
        "attention": AttentionModel(V, width=64, heads=4, layers=2, context=64),
    }
    found = {}
    for order in (3, 6):
        counts = CountModel(V, order=order).fit(*corpus.train)
        found[f"{order}-gram"] = _score(counts, corpus)
    for name, model in rungs.items():
        found[name] = _score(train_text(model, corpus, updates, rate=2e-3), corpus)
    return found


@claim(
    id="A10",
    source="A",
    statement="A stateless table of n-grams, an MLP over a window, an RNN, attention: each models text "
    "better than the one before.",
    published="ordering",
    rule="names (census, shuffled, fetched) and English text (CPython's), about 100,000 "
    "parameters, 800 updates of 32 × 64 characters, 3 seeds: bits a character on held-out text "
    "fall along each step of trigram, window, RNN, attention on every seed; the 6-gram and a GRU "
    "beside them",
    quick=False,
)
def ladder_of_models() -> Measurement:
    corpora = {"English": text()}
    with tempfile.TemporaryDirectory() as home:
        try:
            corpora["names"] = _names(Path(home))
        except bptt.errors.BpttError as error:
            missing = f" (names: {error})"
        else:
            missing = ""
        runs = {n: [_ladder(c, seed, 800) for seed in SEEDS] for n, c in corpora.items()}
    order = ("3-gram", "window", "RNN", "attention")
    parts: dict[str, bool | None] = {}
    for name in ("English", "names"):
        for before, after in pairwise(order):
            parts[f"{name}: {after} beats {before}"] = (
                all(run[after] < run[before] for run in runs[name]) if name in runs else None
            )
    words = [
        f"{name}: " + ", ".join(f"{rung} {spread([r[rung] for r in found])}" for rung in found[0])
        for name, found in runs.items()
    ]
    return Measurement(
        "bits a character: " + "; ".join(words) + missing,
        parts,
        "The order is one of budgets: a longer table beats small networks on small texts, and attention "
        "needs more updates than a recurrence to come past it.",
        runs,
    )


def _names(home: Path) -> Corpus:
    """Names one a line, in random order, as the list is by frequency."""
    from bptt.data.fetch import fetch

    lines = [
        line
        for path in fetch("names", home / "names")
        for line in path.read_text("utf-8").lower().splitlines()
    ]
    np.random.default_rng(0).shuffle(lines)
    return Corpus.from_text("\n".join(lines))
