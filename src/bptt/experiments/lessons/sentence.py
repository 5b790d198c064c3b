"""The last lesson's sentence, read word by word by a small model that was trained for it.

The words of a made-up language of sentences like it: a subject, a clause of one to four places, and a
predicate that only the subject decides. What is to be told at the end is the word that the subject asks
for, however long the clause between them was.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt.experiments.claims.learn import adam
from bptt.experiments.lessons.registry import Curve, Level, Made, Number, Panel, Table, remake
from bptt.remedies import ClipNorm, start_recurrent
from bptt.training import fit

SENTENCE = "the cat that sat on the mat by the window in the old kitchen was hungry"
SUBJECTS = {
    "cat": "hungry", "dog": "tired", "bird": "happy", "boy": "late", "girl": "ready", "fox": "quick",
    "king": "proud", "nurse": "kind",
}  # fmt: skip
VERBS = ("sat", "slept", "stood", "waited")
PLACES = ("mat", "window", "kitchen", "table", "garden", "door", "river", "chair")
NEAR = ("on", "by", "in", "under")
KINDS = ("old", "small", "warm", "dark")
WORDS = sorted(
    {"the", "that", "was", *SUBJECTS, *SUBJECTS.values(), *VERBS, *PLACES, *NEAR, *KINDS}
)
IDS = {word: place for place, word in enumerate(WORDS)}

COUNT, UPDATES, HIDDEN = 64, 1500, 64


class WordModel(nn.Module):
    """An embedding of 32, a recurrent layer of 64 units, one linear map: logits of the next word."""

    def __init__(self, cell: Callable[[int, int], nn.RNNBase], start: str = "default") -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), 32)
        self.recurrent = cell(32, HIDDEN)
        self.output = nn.Linear(HIDDEN, len(WORDS))
        if start != "default":
            start_recurrent(self.recurrent, start)

    def forward(self, words: Tensor) -> Tensor:
        """From ``(T, B)`` to ``(T, B, V)``."""
        return self.read(self.embedding(words))

    def read(self, vectors: Tensor) -> Tensor:
        """The same from embedded words."""
        return self.output(self.recurrent(vectors)[0])


def sentences(rng: np.random.Generator, count: int, places: int) -> Tensor:
    """``(T, count)`` words of sentences with so many places in the clause, a kind before the last."""

    def one() -> list[str]:
        subject = rng.choice(list(SUBJECTS))
        words = ["the", subject, "that", rng.choice(VERBS)]
        for place in range(places):
            kind = [rng.choice(KINDS)] if place == places - 1 else []
            words += [rng.choice(NEAR), "the", *kind, rng.choice(PLACES)]
        return [*words, "was", SUBJECTS[subject]]

    return torch.tensor([[IDS[word] for word in one()] for _ in range(count)]).t()


def next_word(model: nn.Module, batch: Tensor) -> Tensor:
    """Cross entropy of every next word."""
    logits = model(batch[:-1])
    return F.cross_entropy(logits.flatten(0, 1), batch[1:].flatten())


def trained(cell: Callable[[int, int], nn.RNNBase], start: str) -> tuple[WordModel, list[float]]:
    """A word model after sentences of one, two and three places in turn, and its losses."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = WordModel(cell, start)
    batches = (sentences(rng, COUNT, 1 + update % 3) for update in range(UPDATES))
    run = adam(3e-3)(model.parameters())
    losses = [d.loss for d in fit(model, run, batches, next_word, clip=ClipNorm(1.0))]
    return model, losses


def shares(model: WordModel, words: Tensor) -> tuple[list[float], float]:
    """‖∂ log p(last word)/∂ vector‖ of each word before it, the largest being 1; and p(last word)."""
    vectors = model.embedding(words[:-1, None]).detach().requires_grad_()
    loss = F.cross_entropy(model.read(vectors)[-1], words[-1:])
    (gradient,) = torch.autograd.grad(loss, vectors)
    norms = gradient[:, 0].norm(dim=1)
    return (norms / norms.max()).tolist(), math.exp(-float(loss.detach()))


def answered(model: WordModel, places: int) -> float:
    """Share of new sentences whose last word is told, out of all words."""
    words = sentences(np.random.default_rng(1), 512, places)
    with torch.no_grad():
        guess = model(words[:-1])[-1].argmax(-1)
    return float((guess == words[-1]).double().mean())


# What is trained: name, cell and start by a key.
KINDS_OF_MODEL: dict[str, tuple[str, Callable[[int, int], nn.RNNBase], str]] = {
    "rnn": ("tanh RNN", nn.RNN, "default"),
    "gru": ("GRU", nn.GRU, "default"),
    "chrono": ("GRU, chrono:15", nn.GRU, "chrono:15"),
}


@remake(
    name="sentence",
    lesson="S4",
    lines=(26, 30),
    shows="“The cat that sat … was hungry”, word by word: what reaches the cat from the loss at “hungry”",
    settings=f"a word model trained for it: 64 units, embedding 32, {len(WORDS)} words, 1,500 updates "
    "of 64 made-up "
    "sentences with one to three places in the clause, Adam 3e-3, clipped at 1, seed 0: a tanh RNN and "
    "a GRU "
    "as torch starts them, a GRU started for 15 steps (the lesson trains none: all ours)",
    seconds=45,
)
def sentence() -> Made:
    words = torch.tensor([IDS[word] for word in SENTENCE.split()])
    spelled = SENTENCE.split()
    subject, last = spelled.index("cat"), len(spelled) - 1
    between = last - subject - 1
    jacobians = last - 1 - subject  # from the state after "cat" to the state after "was"
    torch.manual_seed(0)
    untrained, _ = shares(WordModel(nn.RNN), words)
    found, chances, right = {}, {}, {}
    for key, (_, cell, start) in KINDS_OF_MODEL.items():
        model, _ = trained(cell, start)
        found[key], chances[key] = shares(model, words)
        right[key] = {n: answered(model, n) for n in (1, 2, 3, 4, 5)}
    names = {key: name for key, (name, _, _) in KINDS_OF_MODEL.items()}
    by_lesson = [0.8 ** (last - 1 - t) for t in range(last)]
    share = 0.8**jacobians
    rows = [
        (
            str(t + 1), word, str(last - t), f"{by_lesson[t]:.3f}", f"{untrained[t]:.1g}",
            *(f"{found[key][t]:.2g}" for key in found),
        )
        for t, word in enumerate(spelled[:-1])
    ]  # fmt: skip
    numbers = [
        Number(
            "ago",
            "“cat” stands so many words before “hungry”",
            last - subject,
            12,
            0,
            why=f"“hungry” is the {last - subject}th word after “cat”; {between} stand between them",
        ),
        Number(
            "jacobians",
            "Jacobians from the state after “cat” to the one that tells “hungry”",
            jacobians,
            13,
            0,
        ),
        Number("times", "1 / 0.8^13, times smaller", 1 / share, 20, 2),
        Number(
            "share_start", "tanh RNN, untrained: the cat's share", untrained[subject], again=0.01
        ),
    ]
    for key, name in names.items():
        numbers += [
            Number(
                f"share_{key}", f"{name}, trained: the cat's share", found[key][subject], again=0.9
            ),
            Number(f"p_{key}", f"{name}: probability of “hungry”", chances[key], again=0.3),
            *(
                Number(
                    f"right_{key}_{n}",
                    f"{name}: right with {n} place{'s' * (n > 1)}, %",
                    100 * s,
                    again=0.3,
                )
                for n, s in right[key].items()
            ),
        ]
    return Made(
        numbers,
        [
            f"Counted out, “hungry” comes {last - subject} words after “cat”, and the gradient passes "
            f"{jacobians} Jacobians on its way. The lesson's 0.8 a step is mild: in a tanh RNN as "
            "torch starts it "
            f"the cat gets {untrained[subject]:.1g} of what the nearest word gets, not {share:.3f}.",
            "What the lesson foretells happens. After 1,500 updates the RNN knows how such sentences "
            "run, and "
            f"gives “hungry” a probability of {chances['rnn']:.2f}, one of eight by chance; a GRU as "
            "torch "
            f"starts it gives {chances['gru']:.2f}. Neither has found the subject, whatever the length.",
            "The same GRU whose update gates are started for times of up to 15 steps finds it: "
            "probability "
            f"{chances['chrono']:.2f}, the cat's share {found['chrono'][subject]:.2g}, and "
            f"{100 * right['chrono'][5]:.0f} % right with five places, which it never saw. It is the "
            "gradient "
            "at the start that decides; the cell alone does not.",
        ],
        [
            Panel(
                "What the loss at “hungry” sends to each word",
                [
                    Curve("0.8 a step", range(1, last + 1), by_lesson, tone="ink", dash="dotted"),
                    Curve("RNN, untrained", range(1, last + 1), untrained),
                    *(Curve(f"{names[key]}", range(1, last + 1), of) for key, of in found.items()),
                ],
                y="share of the largest", log=True, ylim=(1e-6, 2), x="word",
                xticks=[
                    (t + 1, word)
                    for t, word in enumerate(spelled[:-1])
                    if word in ("cat", "mat", "window", "old", "was")
                ],
            ),
            Panel(
                "Told right, by the clause's length",
                [Curve(names[key], list(of), list(of.values())) for key, of in right.items()],
                x="places in the clause; trained on 1 to 3", y="share of new sentences", ylim=(0, 1.05),
                xticks=[(n, str(n)) for n in (1, 2, 3, 4, 5)],
                levels=[Level("chance: 1/8", y=1 / len(SUBJECTS))],
            ),
        ],
        [
            Table(
                "Share of the largest gradient, word by word",
                ("", "word", "before “hungry”", "0.8 a step", "RNN, untrained", *names.values()),
                rows,
            )
        ],
    )  # fmt: skip
