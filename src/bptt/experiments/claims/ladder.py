"""Claims about language models: the ladder from counting to attention, sampling, warm-up, horizons."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

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


def text_updates(
    model: nn.Module,
    corpus: Corpus,
    updates: int,
    optimizer: torch.optim.Optimizer,
    *,
    chunk: int = 64,
    random: int | None = None,
    batch: int = 32,
    clip: float = 1.0,
) -> Iterator[int]:
    """Truncated BPTT over lanes, the state carried; or over random chunks with this seed, fresh.

    Yields:
        how many updates were made, after each.
    """
    stream = corpus.train
    data: Lanes | RandomChunks
    if random is None:
        data = Lanes(*stream, batch=batch, chunk=chunk)
    else:
        data = RandomChunks(*stream, batch=batch, chunk=chunk, seed=random)
    carry = None
    for update in range(1, updates + 1):
        piece = data.take()
        carry = fit_step(
            model, optimizer, (piece.inputs, piece.targets), Full(), token_loss, clip=ClipNorm(clip),
            carry=None if piece.fresh else carry,
        ).carry  # fmt: skip
        yield update


def train_text(
    model: nn.Module, corpus: Corpus, updates: int, *, rate: float = 3e-3, **how: Any
) -> nn.Module:
    """All of :func:`text_updates` by Adam; the model, to be scored."""
    for _ in text_updates(
        model, corpus, updates, torch.optim.Adam(model.parameters(), lr=rate), **how
    ):
        pass
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
    place="where this module ends",
    statement="In practice a trained plain RNN carries about ten characters.",
    published="~10",
    setting="no network is named; a character model",
    rule="character model on the text CPython carries, H=128, 800 updates, 3 seeds, held-out text: the "
    "least number of characters from an empty state with which a prediction is within 0.02 bits of "
    "that "
    "with 64 is between 5 and 20 on every seed; ours, beside: how far the gradient reaches, at a "
    "bias of "
    "5 % and of 1 %",
    why="what the vector carries is what a prediction loses when the state is begun anew so many "
    "characters before",
)
def characters_that_a_state_carries() -> Measurement:
    found: dict[str, list[int]] = {"carried": [], "5 %": [], "1 %": []}
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
        by_context = bits_by_context(model, 64)
        enough = (by_context <= by_context[-1] + 0.02).nonzero()[0]
        found["carried"].append(int(enough) + 1)
        bits.append(float(by_context[-1]))
    reach = [found["5 %"], found["1 %"]]
    return Measurement(
        f"characters that a prediction uses: {', '.join(map(str, found['carried']))}; the gradient's "
        f"horizon at 5 %: {', '.join(map(str, reach[0]))}, at 1 %: {', '.join(map(str, reach[1]))} "
        f"steps; "
        f"{spread(bits)} bits a character",
        {"carries about ten": min(found["carried"]) >= 5 and max(found["carried"]) <= 20},
        "What a prediction uses is the figure above.",
        {"found": found, "bits": bits},
        beside={
            "the gradient reaches about ten": min(map(min, reach)) >= 5
            and max(map(max, reach)) <= 20
        },
    )


def bits_by_context(model: nn.Module, most: int) -> torch.Tensor:
    """Bits of one character after 1 to ``most`` characters from an empty state: ``(most,)``."""
    # Many places, each with its own context: the lanes are windows that end at the same character.
    x, y = held_out(text(), 512, most)
    found = []
    for n in range(1, most + 1):
        found.append(bits_by_position(model, x[-n:], y[-n:])[-1])
    return torch.stack(found)


@claim(
    id="D4",
    source="D",
    place="truncated BPTT",
    statement="Sampling chunks in order with the state carried gives a model longer context than "
    "chunks "
    "from random places.",
    published="better",
    setting="the two ways to sample; no text is named",
    rule="GRU of 96, 600 updates of 32 × 32 characters each way, 3 seeds, held-out text of 256 "
    "characters read in one piece by both: bits over characters 33…256 are lower in order on "
    "every seed; and in order they fall by more from characters 17…32 to 33…256, on every seed",
    why="longer context shows itself in what is gained from characters that lie farther back than "
    "a chunk",
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
        f"characters 33…256: in order {spread(far[False])}, random {spread(far[True])}; 17…32: in "
        f"order "
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
        "At equal updates the order of the chunks decides little: a model trained from fresh states "
        "goes "
        "on reading past the length it was trained on, and random places show it more varied text.",
        {"near": list(near.values()), "far": list(far.values())},
    )


@claim(
    id="D5",
    source="D",
    place="generation",
    statement="It matters to warm the state up on the prompt before continuing it.",
    published="matters",
    setting="a prompt fed one token at a time",
    rule="the GRU of D4, prompts of 64 characters, 64 lanes, 3 seeds: the first 16 characters of the "
    "continuation cost over 0.1 bits more from a fresh state than from a warm one, on every seed",
    why="“essential” asks that the first characters after the prompt cost clearly more without it",
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


@claim(
    id="C21",
    source="C",
    place="common mistakes, unrelated sequences",
    statement="A state carried on from an unrelated sequence corrupts what is predicted for the "
    "next one.",
    published="as said",
    setting="a trained model, the state of one sequence at the beginning of another",
    rule="the GRU of D4 trained on chunks that begin with an empty state, held-out chunks of 64 "
    "characters, "
    "3 seeds: begun with the state that another place of the text left, the first 16 characters "
    "cost over "
    "0.05 bits more than begun empty, on every seed",
    why="a corrupted state shows itself in worse predictions, at the beginning where it is read most",
)
def carried_over_unrelated() -> Measurement:
    x, y = held_out(text(), 64, 128)
    more: dict[str, list[float]] = {"1…16": [], "49…64": []}
    for seed in SEEDS:
        model = gru_model(seed, True)
        with torch.no_grad():
            carry = model(x[:64])[1]
        apart = bptt.carry.apply(lambda state: state.roll(1, -2), carry)  # another lane's
        empty, unrelated = (bits_by_position(model, x[64:], y[64:], c) for c in (None, apart))
        more["1…16"].append(float((unrelated - empty)[:16].mean()))
        more["49…64"].append(float((unrelated - empty)[48:].mean()))
    return Measurement(
        "bits a character more than from an empty state: "
        + "; ".join(f"characters {n}: {spread(v)}" for n, v in more.items()),
        {"it corrupts the beginning": min(more["1…16"]) > 0.05},
        "The state of another place of the same text is no worse a beginning than an empty one: it "
        "tells "
        "the language, if not the place. It hurts where sequences differ in what they are, and it "
        "leaks "
        "from one to the other in any case.",
        more,
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
    for order in (2, 3, 6):
        counts = CountModel(V, order=order).fit(*corpus.train)
        found[f"{order}-gram"] = _score(counts, corpus)
    for name, model in rungs.items():
        found[name] = _score(train_text(model, corpus, updates, rate=2e-3), corpus)
    return found


@claim(
    id="A10",
    source="A",
    place="where this module ends",
    statement="A count matrix of one character of context, an MLP over a window, an RNN, attention: "
    "each "
    "models text better than the one before.",
    published="ordering",
    setting="a 27 × 27 count matrix, a window with an MLP, a recurrent vector, attention; names in the "
    "course's toy vocabulary",
    rule="names (census, shuffled, fetched) and English text (CPython's), about 100,000 parameters "
    "where "
    "there are any, 800 updates of 32 × 64 characters, 3 seeds: bits a character on held-out text fall "
    "along each step on the mean, by more than the spread over seeds; longer n-grams and a GRU beside",
    why="“better” is fewer bits a character on text that was held out, at each step of the ladder",
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
    order = ("2-gram", "window", "RNN", "attention")
    parts: dict[str, bool | str | None] = {}
    for name in ("names", "English"):
        for before, after in pairwise(order):
            part = f"{name}: {after} beats {before}"
            parts[part] = _beats(runs[name], after, before) if name in runs else None
    words = [
        f"{name}: " + ", ".join(f"{rung} {spread([r[rung] for r in found])}" for rung in found[0])
        for name, found in runs.items()
    ]
    return Measurement(
        "bits a character: " + "; ".join(words) + missing,
        parts,
        "The order is one of budgets: attention needs more updates than a recurrence to come past "
        "it, and "
        "a longer table of counts, which the source does not speak of, beats small networks on small "
        "texts.",
        runs,
    )


def _beats(runs: list[dict[str, float]], one: str, other: str) -> bool:
    """Fewer bits on the mean, by more than the standard error of the difference."""
    gains = [run[other] - run[one] for run in runs]
    return statistics.fmean(gains) > statistics.stdev(gains) / len(gains) ** 0.5


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
