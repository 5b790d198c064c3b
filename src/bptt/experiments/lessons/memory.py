"""The first lesson: its sums, its slider, the bottleneck of a state, the ladder of models."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from bptt import nn as layers
from bptt.experiments.claims.exact import random_language
from bptt.experiments.claims.ladder import bits_by_position, held_out, train_text
from bptt.experiments.claims.learn import SYMBOLS
from bptt.experiments.claims.products import lag_below, product_norms
from bptt.experiments.lessons.registry import (
    Curve,
    Level,
    Made,
    Note,
    Number,
    Panel,
    Table,
    remake,
    rounding,
)
from bptt.experiments.lessons.text import letters
from bptt.models import AttentionModel, CountModel, LanguageModel, WindowModel
from bptt.probes import capacity
from bptt.probes.jacobians import MEMORY_LEFT
from bptt.recurrence import trace
from bptt.reference import language


@remake(
    name="contributions",
    lesson="S0",
    lines=(9, 10),
    shows="how many additive terms the gradient of a shared weight has, counted one by one",
    settings="the textbook's network in NumPy, T = 1 to 12, a loss at every step, 5 symbols, 4 units",
    seconds=1,
)
def contributions() -> Made:
    rng = np.random.default_rng(0)
    counts, error = [], 0.0
    for T in range(1, 13):
        run = random_language(rng, T, V=5, H=4)
        parts = [language.pair(run, t, k).dw_h for t in range(T) for k in range(t + 1)]
        counts.append(sum(bool(np.abs(part).max() > 0) for part in parts))
        error = max(error, float(np.abs(sum(parts) - language.backward(run).dw_h).max()))
    lengths = range(1, 13)
    return Made(
        [
            Number("uses", "T = 12: uses of W_h, each with one gradient", 12, 12, 0),
            Number("pairs", "T = 12: pairs of a loss and a use that contribute", counts[-1], 78, 0),
            rounding("error", "the pairs' sum and BPTT differ by at most", error),
        ],
        [
            "One gradient a use, T of them, is what the sweep adds up. Each of them gathers what all "
            "later "
            "losses say, so written out there are T(T+1)/2 pairs of a loss and a use before it.",
        ],
        [
            Panel(
                "Terms of the gradient",
                [
                    Curve("pairs, counted", list(lengths), counts, "dots", "blue"),
                    Curve("T(T+1)/2", lengths, [T * (T + 1) / 2 for T in lengths], tone="blue"),
                    Curve("uses, T", lengths, list(lengths), tone="orange", dash="dashed"),
                ],
                x="sequence length T",
                y="terms",
            )
        ],
    )


RADII = (0.5, 0.7, 0.9, 0.95, 1.0, 1.15)


def _end(radius: float, share: float) -> float:
    """The first step at which a power is under a share; infinite if it never is."""
    return math.floor(math.log(share) / math.log(radius)) + 1 if radius < 1 else math.inf


@remake(
    name="slider",
    lesson="S0",
    lines=(16, 25),
    shows="the slider of the spectral radius: what is left of a gradient after k steps, and where "
    "memory ends",
    settings="ρ = 0.5, 0.7, 0.9, 0.95, 1, 1.15; powers ρ^k, and the norms of products measured on "
    "random matrices "
    "of 64 units scaled to ρ (linear and tanh, 3 seeds each, N(0,1) input); memory ends under 1e-4",
    seconds=2,
)
def slider() -> Made:
    at = (10, 15, 20, 50, 100)
    rows = []
    for r in RADII:
        end, soon = _end(r, MEMORY_LEFT), _end(r, 0.01)
        rows.append(
            (
                f"{r:g}", *(f"{r**k:.2g}" for k in at),
                "never" if end == math.inf else f"{end:.0f}",
                "never" if soon == math.inf else f"{soon:.0f}",
            )
        )  # fmt: skip
    measured = {
        (kind, r): np.median([product_norms(r, kind, seed) for seed in range(3)], 0)
        for kind in ("linear", "tanh")
        for r in (0.5, 0.7, 1.15)
    }
    ends = {key: lag_below(norms, MEMORY_LEFT) for key, norms in measured.items()}
    steps = range(1, 61)
    numbers = [
        Number("end_5", "ρ = 0.5: first step with ρ^k under 1e-4", _end(0.5, MEMORY_LEFT), 15, 1),
        Number("end_5_percent", "ρ = 0.5: first step with ρ^k under 1 %", _end(0.5, 0.01)),
        Number("end_7", "ρ = 0.7: first step with ρ^k under 1e-4", _end(0.7, MEMORY_LEFT)),
        Number("left_7", "ρ = 0.7: left after 49 steps", 0.7**49),
        Number("left_5", "ρ = 0.5: left after 15 steps", 0.5**15),
        Number("grown_115", "ρ = 1.15: grown after 50 steps", 1.15**50),
        Number("grown_115_100", "ρ = 1.15: grown after 100 steps", 1.15**100),
    ]
    for (kind, r), found in ends.items():
        key = f"{kind}_{round(100 * r)}"
        if r < 1:
            numbers.append(
                Number(
                    f"{key}_end",
                    f"{kind}, ρ = {r}: measured end of memory",
                    found or math.inf,
                    again=0.1,
                )
            )
        else:
            numbers.append(
                Number(
                    f"{key}_100",
                    f"{kind}, ρ = {r}: measured norm at step 100",
                    measured[kind, r][99],
                    again=1e-2,
                )
            )

    def panel(title: str, kind: str | None) -> Panel:
        radii = RADII if kind is None else (0.5, 0.7, 1.15)
        curves = [
            Curve(
                f"ρ = {r:g}",
                steps,
                [r**k for k in steps] if kind is None else measured[kind, r][:60],
            )
            for r in radii
        ]
        return Panel(title, curves, x="steps back, k", y="gain", log=True, ylim=(1e-8, 1e5),
                     levels=[Level("memory ends", y=MEMORY_LEFT)])  # fmt: skip

    return Made(
        numbers,
        [
            "The powers are what the slider shows. At ρ = 0.5 a ten-thousandth is left after 14 steps, "
            "the "
            "lesson's “about 15”; at a threshold of one per cent it is 7: where memory ends hangs on "
            "what one "
            "calls nothing, so a threshold belongs beside the number.",
            "A matrix scaled to ρ does that in the long run only: at first its norm, larger than its "
            "radius, "
            "decides. And a tanh under input takes a factor off at every step, so that memory is "
            "shorter than "
            "ρ says, and ρ = 1.15 need not explode.",
        ],
        [panel("ρ^k", None), panel("Measured, linear", "linear"), panel("Measured, tanh", "tanh")],
        [
            Table(
                "ρ^k",
                ("ρ", *(f"k = {k}" for k in at), "under 1e-4 at", "under 1 % at"),
                rows,
            )
        ],
    )


@remake(
    name="bottleneck",
    lesson="S0",
    lines=(26, 32),
    shows="the bottleneck: how many bits a state of 128 numbers has room for, and how many it holds",
    settings="128 float32 numbers, 1,000 tokens, 27 symbols; what an untrained RNN of 128 and 32 units "
    "under random "
    "symbols of 8 lets a linear map read back (400 steps, 16 lanes, seed 0)",
    seconds=2,
)
def bottleneck() -> Made:
    bits = 128 * torch.finfo(torch.float32).bits
    held, curves, lags = {}, [], 32
    for hidden in (32, 128):
        torch.manual_seed(0)
        x = torch.eye(SYMBOLS)[torch.randint(SYMBOLS, (400, 16))]
        (run,) = trace(layers.RNN(SYMBOLS, hidden), x)
        found = capacity(run, lags)
        held[hidden] = 3 * found.total
        curves.append(Curve(f"{hidden} units", range(lags), found.explained.tolist()))
    tokens = [10 * n for n in range(1, 101)]
    return Made(
        [
            Number("bits", "bits in 128 float32 numbers", bits, 4096, 0),
            Number("per_token", "bits a token, of 1,000", bits / 1000, 4, 0.1),
            Number("symbol", "bits of one of 27 symbols", math.log2(27)),
            Number("held_128", "bits read back from 128 units, untrained", held[128], again=0.05),
            Number("held_32", "bits read back from 32 units, untrained", held[32], again=0.05),
        ],
        [
            "The arithmetic comes out: 4,096 bits, 4.1 for each of 1,000 tokens, and one of 27 symbols "
            "takes "
            f"{math.log2(27):.2f}. It is a bound that nothing comes near: what can be read back from an "
            f"untrained state is about {held[128]:.0f} bits, the last few symbols. The state is short of "
            "precision long before it is short of room.",
            "Attention keeps a vector for every token, so its memory grows with the text, and so does "
            "the work "
            "of a step; a state stays as large as it is.",
        ],
        [
            Panel(
                "What the state still knows", curves, x="steps ago", y="share of the symbol's variance",
                ylim=(0, 1.05),
            ),
            Panel(
                "Numbers kept",
                [
                    Curve("state of 128", tokens, [128] * len(tokens)),
                    Curve("attention, key and value of 64", tokens, [128 * n for n in tokens]),
                ],
                x="tokens read", y="numbers", log=True,
            ),
        ],
    )  # fmt: skip


# The ladder of models, from a table of counts to attention.


@remake(
    name="ladder",
    lesson="S0",
    lines=(37, 40),
    shows="the ladder of models on one text: a 27 × 27 table, a window, an RNN, attention; gated cells "
    "beside it",
    settings="text of 27 symbols made of the topics of CPython's documentation, last tenth held out; "
    "about 100,000 "
    "parameters each, Adam 2e-3, 800 updates of 32 × 64 characters, attention 2,400 too; seed 0 (the "
    "lesson "
    "trains on names and prints no scores: text and budget are ours)",
    seconds=230,
)
def ladder() -> Made:
    corpus = letters()
    V = corpus.vocabulary.size
    x, y = held_out(corpus, 64, 256)

    def score(model: nn.Module) -> float:
        return float(bits_by_position(model, x, y)[64:].mean())

    found = {
        "27 × 27 table": score(CountModel(V, order=2).fit(*corpus.train)),
        "6-gram table": score(CountModel(V, order=6).fit(*corpus.train)),
    }
    kinds: dict[str, tuple[Any, int]] = {
        "window of 8": (
            lambda: WindowModel(V, window=8, embedding=24, hidden=300, dropout=0.0),
            800,
        ),
        "RNN": (lambda: LanguageModel(V, cell="rnn", hidden=220, embedding=64), 800),
        "GRU": (lambda: LanguageModel(V, cell="gru", hidden=128, embedding=64), 800),
        "LSTM": (lambda: LanguageModel(V, cell="lstm", hidden=112, embedding=64), 800),
        "attention": (lambda: AttentionModel(V, width=64, heads=4, layers=2, context=64), 800),
        "attention, 2,400 updates": (
            lambda: AttentionModel(V, width=64, heads=4, layers=2, context=64),
            2400,
        ),
    }
    sizes = {}
    for name, (kind, updates) in kinds.items():
        torch.manual_seed(0)
        model = kind()
        sizes[name] = sum(p.numel() for p in model.parameters())
        found[name] = score(train_text(model, corpus, updates, rate=2e-3))
    rungs = ("27 × 27 table", "window of 8", "RNN", "attention")
    climbs = all(found[b] < found[a] for a, b in pairwise(rungs))
    best = min(found, key=lambda name: found[name])
    keys = ("table", "ngram", "window", "rnn", "gru", "lstm", "attention", "attention_longer")
    order = list(found)
    return Made(
        [
            Number(key, f"{name}: bits a character", bits, again=0.03)
            for key, (name, bits) in zip(keys, found.items(), strict=True)
        ]
        + [
            Number(
                "climbs", "is each rung better than the one before?", "yes" if climbs else "no", "yes",
                why="" if climbs else "at this budget "
                + "; ".join(
                    f"{b} ({found[b]:.3f}) is not below {a} ({found[a]:.3f})"
                    for a, b in pairwise(rungs)
                    if found[b] >= found[a]
                ),
            )
        ],
        [
            f"A 6-gram table, which the lesson leaves out, has {found['6-gram table']:.3f} bits, and "
            "the lowest of all "
            f"has {best}: what was counted need not be learned, and the text is small.",
            f"Attention goes from {found['attention']:.3f} to {found['attention, 2,400 updates']:.3f} "
            "bits with three times "
            "the updates: the ladder is one of budgets as much as of architectures.",
        ],
        [
            Panel(
                "Bits a character, held out",
                [
                    Curve("", [i], [found[name]], "bars", "orange" if name in rungs else "blue")
                    for i, name in enumerate(order)
                ],
                y="bits", ylim=(0, 4.2), xlim=(-0.6, len(order) - 0.4),
                xticks=[
                    (i, word)
                    for i, word in enumerate(
                        ("27×27", "\n6-gram", "window", "\nRNN", "GRU", "\nLSTM", "att.", "\natt. 2,400")
                    )
                ],
                notes=[
                    Note(f"{bits:.2f}", i - 0.35, bits + 0.05)
                    for i, bits in enumerate(found.values())
                ],
            )
        ],
        [
            Table(
                "The ladder",
                ("model", "parameters", "bits a character", "perplexity"),
                [
                    (name, f"{sizes[name]:,}" if name in sizes else "counted",
                     f"{bits:.3f}", f"{2**bits:.2f}")
                    for name, bits in found.items()
                ],
            )
        ],
    )  # fmt: skip
