"""Models of a text: the fourth lesson's RNN from scratch, warm-up, perplexity.

The lessons name no text that could be had: read is the one that every CPython carries, and where a lesson
counts 27 symbols, its letters in lower case with one blank between words; the unknown symbol is a 28th.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from bptt.data import Corpus, Lanes, RandomChunks, default_text
from bptt.experiments.claims.ladder import bits_by_position, held_out
from bptt.experiments.lessons.registry import (
    Curve,
    Level,
    Made,
    Number,
    Panel,
    Table,
    remake,
    rounding,
)
from bptt.gradients import Full
from bptt.models import CountModel, token_loss
from bptt.nn.carry import Carry
from bptt.reference import loss as reference
from bptt.remedies import Clip, ClipNorm, NoClip
from bptt.training import fit_step

TEXT = "the topics of CPython's documentation, which every Python carries"


@lru_cache(maxsize=1)
def letters() -> Corpus:
    """The text in 27 symbols: letters, and a blank for all else."""
    return Corpus.from_text(re.sub(r"[^a-z]+", " ", default_text().lower()))


# The fourth lesson's model, its weights and its loop over time written out.


class Scratch(nn.Module):
    """h_t = tanh(W_xh[x_t] + h_(t−1) W_hh + b_h), o_t = h_t W_hq + b_q; every weight 0.01·N(0,1)."""

    def __init__(self, symbols: int, hidden: int) -> None:
        super().__init__()

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.01 * torch.randn(shape))

        # In the order in which the lesson draws them.
        self.w_xh, self.w_hh = normal(symbols, hidden), normal(hidden, hidden)
        self.b_h = nn.Parameter(torch.zeros(hidden))
        self.w_hq, self.b_q = normal(hidden, symbols), nn.Parameter(torch.zeros(symbols))

    def forward(self, tokens: Tensor, carry: Carry = None) -> tuple[Tensor, Tensor]:
        """Logits ``(T, B, V)`` after each of the tokens ``(T, B)``, and the state ``(B, H)``."""
        begin = self.w_xh.new_zeros(tokens.shape[1], len(self.b_h))
        h = begin if carry is None else cast(Tensor, carry)  # what a call before this one returned
        states = []
        # A one-hot row times W_xh is a row of W_xh.
        for x in self.w_xh[tokens] + self.b_h:
            h = torch.tanh(x + h @ self.w_hh)
            states.append(h)
        return torch.stack(states) @ self.w_hq + self.b_q, h


NOTICED = 0.02  # bits; less is the draw of one seed
HIDDEN, BATCH, CHUNK, UPDATES, RATE = 256, 32, 35, 1500, 2.0


@lru_cache(maxsize=4)
def scratch(
    random: bool,
    rate: float = RATE,
    updates: int = UPDATES,
    clip: Clip = ClipNorm(1.0),  # noqa: B008
) -> tuple[Scratch, list[float], int]:
    """The model after training, its bits by update, and in how many updates the clip acted."""
    torch.manual_seed(0)
    corpus = letters()
    model = Scratch(corpus.vocabulary.size, HIDDEN)
    data: Any = (
        RandomChunks(*corpus.train, batch=BATCH, chunk=CHUNK, seed=0)
        if random
        else Lanes(*corpus.train, batch=BATCH, chunk=CHUNK)
    )
    run = torch.optim.SGD(model.parameters(), lr=rate)
    carry: Carry = None
    bits, acted = [], 0
    for _ in range(updates):
        piece = data.take()
        state = None if random or piece.fresh else carry
        done = fit_step(
            model,
            run,
            (piece.inputs, piece.targets),
            Full(),
            token_loss,
            clip=clip,
            carry=state,
        )
        carry = done.carry
        bits.append(done.loss / math.log(2))
        acted += done.clipped
    return model.eval(), bits, acted


def said_bits(number: Number) -> str:
    """A measured number of bits, in a sentence."""
    return f"{float(number.measured):.3g}"


def smooth(values: list[float], over: int = 25) -> Curve:
    """Means of so many updates."""
    means = np.array(values).reshape(-1, over).mean(1)
    return Curve("", range(over, len(values) + 1, over), means.tolist())


@remake(
    name="scratch-model",
    lesson="S3",
    lines=(27, 130),
    shows="the RNN from scratch, trained on chunks from random places and on chunks in order with the "
    "state carried",
    settings="weights 0.01·N(0,1), clipped at 1, the state detached after each chunk; text of 27 "
    "symbols made of "
    "the topics of CPython's documentation; 256 units, 32 lanes of 35 steps, SGD at rate 2, 1,500 "
    "updates, "
    "seed 0 (the lesson names no text, size, rate or budget: these are ours)",
    seconds=40,
)
def from_scratch() -> Made:
    corpus = letters()
    V = corpus.vocabulary.size
    x, y = held_out(corpus, 64, 280)
    names = {True: "random", False: "sequential"}
    by_place, numbers, curves, lines = {}, [], [], []
    for random, name in names.items():
        model, bits, acted = scratch(random)
        by_place[name] = bits_by_position(model, x, y)
        near, far = (float(by_place[name][a:b].mean()) for a, b in ((0, 35), (35, 280)))
        numbers += [
            Number(
                f"{name}_near",
                f"{name}: bits a character, first 35 of a held-out piece",
                near,
                again=0.05,
            ),
            Number(f"{name}_far", f"{name}: bits a character, 36 to 280", far, again=0.05),
            Number(f"{name}_perplexity", f"{name}: perplexity, 36 to 280", 2**far, again=0.1),
            Number(
                f"{name}_acted",
                f"{name}: updates, of {UPDATES:,}, in which the clip acted",
                acted,
                again=0.2,
            ),
        ]
        curve = smooth(bits)
        curves.append(Curve(name, curve.x, curve.y))
        lines.append(f"{name:<10}  {continued(model, 'the value of ', 80)}")
    for key, name, clip in (
        ("clipped", "clipped at 1", ClipNorm(1.0)),
        ("free", "not clipped", NoClip()),
    ):
        last = scratch(False, 2 * RATE, 200, clip)[1][-50:]
        numbers.append(
            Number(
                f"fast_{key}", f"sequential at rate 4, {name}: bits after 200 updates",
                min(sum(last) / len(last), 1e6), again=9,
            )
        )  # fmt: skip
    gap = numbers[1].measured, numbers[5].measured
    apart = float(gap[0]) - float(gap[1])
    better = "neither" if abs(apart) < NOTICED else "sequential" if apart > 0 else "random"
    numbers.append(
        Number(
            "better", "lower by 0.02 bits or more on characters 36 to 280", better, "sequential",
            why=""
            if better == "sequential"
            else "a model trained from zero states reads on past 35 steps all the same; and this is one "
            "seed, one text and one budget",
        )
    )  # fmt: skip
    return Made(
        numbers,
        [
            f"From a start of 0.01 both learn; {math.log2(V):.2f} bits are what {V} equal symbols "
            "cost. Beyond the "
            f"length of a chunk they differ by {abs(apart):.3f} bits.",
            "Sequential sampling hands the state on, so that the model reads its chunks as parts of "
            "one text; "
            "random sampling begins each from zero. Neither way the gradient sees past 35 steps.",
            "The clip at 1, which the lesson calls not optional, acts in none of these updates. At "
            "twice the rate "
            f"it acts, and it does not save the run: {said_bits(numbers[8])} bits with it, "
            f"{said_bits(numbers[9])} "
            "without. A clip bounds one step; a rate that is too high goes wrong at every step.",
        ],
        [
            Panel(
                "Training", curves, x="update", y="bits a character", ylim=(1.8, 4.9),
                levels=[Level(f"{V} equal symbols", y=math.log2(V))],
            ),
            Panel(
                "Held-out text, by place",
                [
                    Curve(name, range(5, 281, 5), of.view(-1, 5).mean(1).tolist())
                    for name, of in by_place.items()
                ],
                x="characters read", y="bits a character", levels=[Level("chunk", x=35)],
            ),
        ],
        lines=lines,
    )  # fmt: skip


def continued(model: nn.Module, prompt: str, length: int, *, warm: bool = True) -> str:
    """A prompt and what the model takes for most likely after it; cold: from its last letter alone."""
    corpus = letters()
    ids = [int(i) for i in corpus.vocabulary.encode(prompt)]
    read, carry = torch.tensor(ids if warm else ids[-1:])[:, None], None
    with torch.no_grad():
        for _ in range(length):
            logits, carry = model(read, carry)
            read = logits[-1:].argmax(-1)
            ids.append(int(read))
    return str(corpus.vocabulary.decode(np.array(ids)))


@remake(
    name="warm-up",
    lesson="S3",
    lines=(132, 151),
    shows="generation with and without a warm-up on the prompt, and what the first characters cost "
    "either way",
    settings="the sequential model of scratch-model; 64 held-out prompts of 64 characters, the 64 "
    "after them scored; "
    "the most likely character each time",
    seconds=17,
)
def warm_up() -> Made:
    model = scratch(False)[0]
    x, y = held_out(letters(), 64, 128)
    warm = bits_by_position(model, x, y)[64:]
    cold = bits_by_position(model, x[64:], y[64:])
    gap = cold - warm
    late = (
        f"{abs(float(gap[48:].mean())):.2g} bits"
        if abs(float(gap[48:].mean())) >= 1e-3
        else "nothing"
    )
    prompts = ("the value of ", "an object is ", "the statement ")
    lines = []
    for prompt in prompts:
        lines += [
            f"warm  {continued(model, prompt, 60)}",
            f"cold  {continued(model, prompt, 60, warm=False)}",
        ]
    places = list(range(1, 65))
    return Made(
        [
            Number(
                "first", "bits more for the first character after the prompt, cold", float(gap[0]),
                again=0.2,
            ),
            Number(
                "first_16", "bits more for each of the first 16, cold", float(gap[:16].mean()),
                again=0.2,
            ),
            rounding(
                "last_16", "bits more for each of characters 49 to 64, cold",
                abs(float(gap[48:].mean())), 1e-3,
            ),
        ],
        [
            "It matters for the first few characters: the first one after the prompt costs "
            f"{gap[0]:.2f} bits more "
            f"from an empty state, the first sixteen {gap[:16].mean():.2f} each. A state warms up on "
            "whatever it "
            f"reads: over characters 49 to 64 the two differ by {late}.",
        ],
        [
            Panel(
                "After the prompt",
                [
                    Curve("cold, from an empty state", places, cold.tolist()),
                    Curve("warm, having read the prompt", places, warm.tolist()),
                ],
                x="characters after the prompt", y="bits a character",
            )
        ],
        lines=lines,
    )  # fmt: skip


@remake(
    name="perplexity",
    lesson="S3",
    lines=(153, 161),
    shows="perplexity of a perfect, a uniform and a trained model; and why two texts' perplexities do "
    "not compare",
    settings="uniform over 10,000 symbols; bigram and 6-gram tables of the same text in 27 symbols and "
    "in all its "
    "symbols, held-out tenth",
    seconds=1,
)
def perplexity() -> Made:
    rng = np.random.default_rng(0)
    V = 10_000
    targets = rng.integers(0, V, (4, 2))
    uniform = reference.perplexity(reference.forward(np.zeros((4, 2, V)), targets).nats)
    sure = np.full((4, 2, V), -1e3)
    np.put_along_axis(sure, targets[..., None], 1e3, -1)
    perfect = reference.perplexity(reference.forward(sure, targets).nats)
    rows, found = [], {}
    for name, corpus in (
        ("27 symbols", letters()),
        ("all symbols", Corpus.from_text(default_text())),
    ):
        V = corpus.vocabulary.size
        x, y = held_out(corpus, 64, 256)
        for order in (1, 2, 6):
            bits = float(
                bits_by_position(CountModel(V, order=order).fit(*corpus.train), x, y).mean()
            )
            found[name, order] = bits
            rows.append(
                (
                    name,
                    str(V),
                    f"{order}-gram",
                    f"{bits:.3f}",
                    f"{2**bits:.2f}",
                    f"{bits / math.log2(V):.2f}",
                )
            )
    a, b = 2 ** found["27 symbols", 6], 2 ** found["all symbols", 6]
    return Made(
        [
            Number("perfect", "perplexity of a perfect model", perfect, 1, 1e-9),
            Number("uniform", "perplexity of a uniform model over 10,000 symbols", uniform, 10_000, 1e-6),
            Number("letters_6", "6-gram table, text in 27 symbols: perplexity", a, again=1e-3),
            Number(
                "all_6", "6-gram table, the same text with all its symbols: perplexity", b, again=1e-3,
            ),
            Number(
                "comparable", "are perplexities comparable across data sets?", "no", "yes",
                why=f"one text, one kind of model, and {a:.2f} beside {b:.2f}: a perplexity is per "
                "symbol, of "
                "its own alphabet and of its own text",
            ),
        ],
        [
            "Both ends come out exactly. In between a perplexity is e to the mean loss, the number of "
            "equal "
            "choices that would cost as much.",
            "It compares models on one text in one alphabet. Leave out the capitals and the signs, and "
            "the same "
            "text has another perplexity; words in place of characters give a third. Bits for the "
            "whole text do "
            "compare.",
        ],
        tables=[
            Table(
                "One text, two alphabets",
                ("text", "symbols", "model", "bits", "perplexity", "of the uniform model's bits"),
                rows,
            )
        ],
    )  # fmt: skip
