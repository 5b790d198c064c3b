"""Page *Sampling and perplexity*: what a model believes comes next, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from bptt.data import CharVocabulary, RandomChunks, default_text
from bptt.gradients import Full
from bptt.lab.live import Tick, charts, drawn_from, facts, samples, values, words
from bptt.models import LanguageModel, token_loss
from bptt.models.language import generate, inference
from bptt.nn import carry as carries
from bptt.remedies import ClipNorm
from bptt.report.chart import Bars, Chart, Line, Mark, number
from bptt.report.words import percent
from bptt.training.fit import fit_step

TEXT, HIDDEN, EMBEDDING, BATCH, STEPS, UPDATES, RATE = 200_000, 96, 32, 16, 48, 500, 1e-2
SHOWN, LENGTH = 12, 120  # symbols in the picture, characters that are written
PROMPT = "The value of the "


@dataclass(frozen=True, eq=False)
class Trained:
    """A small model of characters, and what it costs it to read text it was not trained on.

    Attributes:
        cell: of the model.
        losses: nats of every update.
        model, vocabulary: None until it is trained.
        warm, cold: ``(T,)`` nats of the k-th character of a piece, its state warmed up on the characters
            before the piece, or zero.
    """

    cell: str
    losses: tuple[float, ...] = ()
    model: nn.Module | None = None
    vocabulary: CharVocabulary | None = None
    warm: tuple[float, ...] = ()
    cold: tuple[float, ...] = ()

    @property
    def nats(self) -> float:
        """A held-out character's, the state warmed up."""
        return math.fsum(self.warm) / len(self.warm)


def prepare(cell: str = "gru", seed: int = 0, updates: int = UPDATES) -> Iterator[Tick[Trained]]:
    """Train on the text every Python carries; then score a held-out part with and without warm-up.

    Cost: 500 updates of some ten milliseconds.
    """
    text = default_text()[:TEXT]
    vocabulary = CharVocabulary.from_text(text)
    tokens = vocabulary.encode(text)
    border = len(tokens) * 9 // 10
    chunks = RandomChunks(tokens[:border], [0], batch=BATCH, chunk=STEPS, seed=seed)
    with drawn_from(seed):
        model = LanguageModel(vocabulary.size, cell, HIDDEN, embedding=EMBEDDING)
    optimizer, clip, losses = torch.optim.Adam(model.parameters(), lr=RATE), ClipNorm(1.0), []
    found = Trained(cell)
    for update in range(1, updates + 1):
        for group in optimizer.param_groups:  # down to nothing, so that the end is quiet
            group["lr"] = RATE * (1 - (update - 1) / updates)
        chunk = chunks.take()
        batch = tuple(torch.as_tensor(t).long() for t in (chunk.inputs, chunk.targets))
        losses.append(fit_step(model, optimizer, batch, Full(), token_loss, clip=clip).loss)
        if update % 20 == 0:
            found = Trained(cell, tuple(losses))
        yield Tick(update, updates + 1, found, fresh=update % 20 == 0)
    warm, cold = score(model, torch.as_tensor(tokens[border:]).long())
    yield Tick(
        updates + 1, updates + 1, Trained(cell, tuple(losses), model, vocabulary, warm, cold)
    )


def score(model: nn.Module, tokens: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nats by place in pieces of T: after a warm-up on the T characters before, and from a zero state."""
    lanes = (len(tokens) - 1) // (2 * STEPS)
    x = tokens[: 2 * STEPS * lanes].view(lanes, 2 * STEPS).t()
    y = tokens[1 : 2 * STEPS * lanes + 1].view(lanes, 2 * STEPS).t()[STEPS:]
    with inference(model):
        carry = carries.detach(model(x[:STEPS])[1])
        outputs = model(x[STEPS:], carry)[0], model(x[STEPS:])[0]
        by_place = [
            F.cross_entropy(o.flatten(0, 1), y.flatten(), reduction="none").view_as(y).mean(1)
            for o in outputs
        ]
    return tuple(by_place[0].tolist()), tuple(by_place[1].tolist())


def next_symbols(
    found: Trained, prompt: str, temperature: float, top_k: int | None
) -> list[tuple[str, float]]:
    """What may come after the prompt, the likeliest first, as ``bptt sample`` would draw it.

    Raises:
        DataError: a character of the prompt is unknown.
    """
    model, vocabulary = cast(nn.Module, found.model), cast(CharVocabulary, found.vocabulary)
    tokens = torch.from_numpy(vocabulary.encode(prompt, unknown="error").astype("int64"))
    with inference(model):
        logits = model(tokens[:, None])[0][-1, 0]
    logits = logits.double().clone()
    logits[vocabulary.unknown_id] = -torch.inf
    order = logits.argsort(descending=True, stable=True)
    kept = order[: top_k or len(order)]
    if temperature == 0:
        shares = torch.zeros(len(kept), dtype=torch.float64)
        shares[0] = 1.0
    else:
        shares = torch.softmax((logits[kept] - logits[kept[0]]) / temperature, 0)
    return [
        (vocabulary.decode([int(t)]), float(p)) for t, p in zip(kept, shares, strict=True) if p > 0
    ]


def hesitation(symbols: list[tuple[str, float]]) -> float:
    """e to the entropy: among how many equally likely symbols the draw hesitates."""
    return math.exp(-math.fsum(p * math.log(p) for _, p in symbols if p > 0))


def draw_training(found: Trained) -> str:
    """What is seen while it trains."""
    if not found.losses:
        return ""
    return words(
        f"A {found.cell.upper()} of {HIDDEN} units reads characters of Python's own documentation: a "
        f"perplexity of {number(math.exp(found.losses[0]))} at first, "
        f"{number(math.exp(found.losses[-1]))} after {len(found.losses)} updates."
    )


def draw(
    found: Trained, prompt: str, temperature: float, top_k: int | None, warm_up: bool, seed: int
) -> str:
    """Everything for one setting of the controls."""
    start = prompt if warm_up else prompt[-1:]
    symbols = next_symbols(found, start, temperature, top_k)
    model, vocabulary = cast(nn.Module, found.model), cast(CharVocabulary, found.vocabulary)
    written = "".join(
        generate(
            model, vocabulary, start, length=LENGTH, temperature=temperature, top_k=top_k, seed=seed
        )
    )
    return (
        facts(
            {
                "held out, nats a character": number(found.nats),
                "bits": number(found.nats / math.log(2)),
                "perplexity": number(math.exp(found.nats)),
                "this draw hesitates among": f"{number(hesitation(symbols))} symbols",
            }
        )
        + charts(draw_next(symbols, start), draw_places(found))
        + words("What it writes:")
        + samples([(len(found.losses), prompt + written)])
        + words(*tell(found, symbols, temperature))
        + values(
            {
                "nats": found.nats,
                "next": symbols,
                "hesitation": hesitation(symbols),
                "written": written,
            }
        )
    )


def draw_next(symbols: list[tuple[str, float]], start: str) -> Chart:
    """The likeliest symbols and their shares."""
    shown = symbols[:SHOWN]
    at = [float(n) for n in range(len(shown))]
    ticks = [(n, _visible(symbol)) for n, (symbol, _) in zip(at, shown, strict=True)]
    return Chart(
        f"After “{_visible(start[-16:])}”", [Bars(at, [p for _, p in shown])], x="symbol", y="share",
        xlim=(-0.7, max(len(shown), 4) - 0.3), ylim=(0, 1.05), xticks=ticks, grid=False,
        caption=f"The {len(shown)} likeliest, as they would be drawn; ␣ is a space, ↵ ends a line.",
    )  # fmt: skip


def draw_places(found: Trained) -> Chart:
    """What a character costs by its place, with and without warm-up."""
    at = list(range(1, len(found.warm) + 1))
    return Chart(
        "What a character costs",
        [
            Mark("mean, warmed up", y=found.nats),
            Line("state begins at zero", at, found.cold, "orange"),
            Line("state warmed up", at, found.warm, "blue", "dashed"),
        ],
        x="place in the piece", y="nats", xlim=(1, len(at)),
        caption=f"Held-out text in pieces of {len(at)} characters; warmed up on the {len(at)} before.",
    )  # fmt: skip


def tell(found: Trained, symbols: list[tuple[str, float]], temperature: float) -> tuple[str, ...]:
    """The same in words."""
    more = found.cold[0] - found.warm[0]
    first = (
        f"A perplexity of {number(math.exp(found.nats))} means: on held-out text the model is as unsure "
        "as somebody who chooses among so many equally likely characters."
    )
    second = (
        f"From a state of zeros the first character costs {number(more)} nats more than after a warm-up; "
        f"the last of a piece {number(found.cold[-1] - found.warm[-1], 2)}."
    )
    third = (
        "At temperature 0 the likeliest symbol is taken every time, and a text soon goes in circles."
        if temperature == 0
        else f"The likeliest symbol has {percent(symbols[0][1])}. A low temperature makes it likelier, a "
        "high one evens out what the model has learned; top-k cuts off the tail, whose many unlikely "
        "symbols together are not unlikely at all."
    )
    return first, second, third


def _visible(text: str) -> str:
    return text.replace(" ", "␣").replace("\n", "↵")
