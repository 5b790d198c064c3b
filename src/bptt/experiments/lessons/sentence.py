"""The last lesson's sentence, read word by word by a small model that was trained for it.

The words of a made-up language of sentences like it: a subject, a clause of one to four places, and a
predicate that only the subject decides. What is to be told at the end is the word that the subject asks
for, however long the clause between them was.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt.experiments.claims.learn import adam
from bptt.experiments.lessons.registry import Curve, Level, Made, Number, Panel, Table, remake
from bptt.models import LanguageModel
from bptt.probes import jacobian_products
from bptt.recurrence import trace
from bptt.remedies import ClipNorm
from bptt.training import fit

SENTENCE = "the cat that sat on the mat by the window in the old kitchen was hungry"
SUBJECTS = {"cat": "hungry", "dog": "tired", "bird": "happy", "boy": "late", "girl": "ready", "fox": "quick",
            "king": "proud", "nurse": "kind"}  # fmt: skip
VERBS = ("sat", "slept", "stood", "waited")
PLACES = ("mat", "window", "kitchen", "table", "garden", "door", "river", "chair")
NEAR = ("on", "by", "in", "under")
KINDS = ("old", "small", "warm", "dark")
WORDS = sorted(
    {"the", "that", "was", *SUBJECTS, *SUBJECTS.values(), *VERBS, *PLACES, *NEAR, *KINDS}
)
IDS = {word: place for place, word in enumerate(WORDS)}

COUNT, UPDATES, HIDDEN = 64, 1500, 64


def sentences(rng: np.random.Generator, count: int, places: int) -> Tensor:
    """``(T, count)`` words of sentences with so many places in the clause, the last of them with a kind."""

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
    logits = model(batch[:-1])[0]
    return F.cross_entropy(logits.flatten(0, 1), batch[1:].flatten())


def trained(cell: str) -> tuple[LanguageModel, list[float]]:
    """A word model after sentences of one, two and three places in turn, and its losses."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = LanguageModel(len(WORDS), cell=cell, hidden=HIDDEN, embedding=32)
    batches = (sentences(rng, COUNT, 1 + update % 3) for update in range(UPDATES))
    run = adam(3e-3)(model.parameters())
    return model.eval(), [d.loss for d in fit(model, run, batches, next_word, clip=ClipNorm(1.0))]


def shares(model: LanguageModel, words: Tensor) -> tuple[list[float], Tensor]:
    """‖∂ log p(last word)/∂ vector‖ of each word before it, the largest being 1; and the prediction."""
    vectors = model.embedding(words[:-1, None]).detach().requires_grad_()
    logits = model.output(model.recurrent(vectors)[0])[-1, 0]
    loss = F.cross_entropy(logits[None], words[-1:])
    (gradient,) = torch.autograd.grad(loss, vectors)
    norms = gradient[:, 0].norm(dim=1)
    return (norms / norms.max()).tolist(), logits.softmax(0).detach()


def answered(model: LanguageModel, places: int) -> float:
    """Share of new sentences whose last word is told, out of all words."""
    words = sentences(np.random.default_rng(1), 512, places)
    with torch.no_grad():
        guess = model(words[:-1])[0][-1].argmax(-1)
    return float((guess == words[-1]).double().mean())


@remake(
    name="sentence",
    lesson="S4",
    lines=(26, 30),
    shows="“The cat that sat … was hungry”, word by word: what reaches the cat from the loss at “hungry”",
    settings="a word model trained for it: 64 units, embedding 32, 35 words, 1,500 updates of 64 "
    "made-up sentences "
    "with one to three places in the clause, Adam 3e-3, clipped at 1, seed 0; the sentence of the lesson "
    "among them (the lesson trains none: all ours)",
    seconds=40,
)
def sentence() -> Made:
    words = torch.tensor([IDS[word] for word in SENTENCE.split()])
    spelled = SENTENCE.split()
    subject, last = spelled.index("cat"), len(spelled) - 1
    between = last - subject - 1
    jacobians = last - 1 - subject  # from the state after "cat" to the state after "was"
    start = LanguageModel(len(WORDS), cell="rnn", hidden=HIDDEN, embedding=32)
    torch.manual_seed(0)
    nn.init.normal_(start.output.weight, std=0.1)  # it starts at 0, and no gradient would pass
    untrained, _ = shares(start, words)
    found, chances, losses, right, factor = {}, {}, {}, {}, {}
    for cell in ("rnn", "gru"):
        model, losses[cell] = trained(cell)
        found[cell], p = shares(model, words)
        chances[cell] = float(p[words[-1]])
        right[cell] = {n: answered(model, n) for n in (1, 2, 3, 4, 5)}
        with torch.no_grad():
            (run,) = trace(model.recurrent, model.embedding(words[:-1, None]))
        norms = jacobian_products(run, jacobians, count=1).norms[0]
        factor[cell] = float(norms[-1]) ** (1 / jacobians)
    by_lesson = [0.8 ** max(0, last - 1 - t) for t in range(last)]
    rows = [
        (
            str(t + 1), word, str(last - t), f"{by_lesson[t]:.3f}", f"{untrained[t]:.1g}",
            f"{found['rnn'][t]:.3f}", f"{found['gru'][t]:.3f}",
        )
        for t, word in enumerate(spelled[:-1])
    ]  # fmt: skip
    share = 0.8**jacobians
    names = {"rnn": "tanh RNN", "gru": "GRU"}
    return Made(
        [
            Number("ago", "words from “cat” to “hungry”", last - subject, 12, 0,
                   f"“hungry” is the {last - subject}th word after “cat”; {between} stand between them"),
            Number("jacobians", "Jacobians from the state after “cat” to the one that tells “hungry”", jacobians, 13, 0),
            Number("times", "1 / 0.8^13, times smaller", 1 / share, 20, 2,
                   why="0.8^13 is a little over a twentieth; it is a factor for the gradient, and "
                   "Adam's updates "
                   "do not scale with the gradient"),
            Number("share_start", "untrained RNN: the cat's share of the largest gradient", untrained[subject], again=0.05),
            *(
                Number(f"share_{cell}", f"{names[cell]}: the cat's share of the largest gradient", found[cell][subject], again=0.5)
                for cell in names
            ),
            *(
                Number(f"p_{cell}", f"{names[cell]}: probability of “hungry”", chances[cell], again=0.2)
                for cell in names
            ),
            *(
                Number(f"factor_{cell}", f"{names[cell]}: factor a step of the {jacobians} Jacobians", factor[cell], again=0.1)
                for cell in names
            ),
            *(
                Number(f"right_{cell}_{n}", f"{names[cell]}: right with {n} place{'s' * (n > 1)}, %", 100 * s, again=0.3)
                for cell in names
                for n, s in right[cell].items()
            ),
        ],
        [
            f"Counted out, “hungry” comes {last - subject} words after “cat”, and the gradient passes "
            f"{jacobians} Jacobians on its way. Before training the lesson is right, and mild: the cat "
            "gets "
            f"{untrained[subject]:.1g} of what the nearest word gets, far less than 0.8^{jacobians} = "
            f"{share:.3f}.",
            "After training it is not so: the loss at “hungry” depends on the cat by "
            f"{found['rnn'][subject]:.2f} of the largest share in the RNN and "
            f"{found['gru'][subject]:.2f} in the "
            f"GRU, and “hungry” gets a probability of {chances['rnn']:.2f} and {chances['gru']:.2f}. "
            "The factor a "
            f"step of the trained RNN is {factor['rnn']:.2f}: training on shorter sentences, whose "
            "subject was "
            "within reach, taught it to keep the subject, and what it keeps it keeps for longer "
            "sentences too.",
        ],
        [
            Panel(
                "What the loss at “hungry” sends to each word",
                [
                    Curve("0.8 a step", range(1, last + 1), by_lesson, tone="ink", dash="dotted"),
                    Curve("RNN, untrained", range(1, last + 1), untrained),
                    Curve("RNN, trained", range(1, last + 1), found["rnn"]),
                    Curve("GRU, trained", range(1, last + 1), found["gru"]),
                ],
                y="share of the largest", log=True, ylim=(1e-6, 2), levels=[Level("cat", x=subject + 1)],
                xticks=[(t + 1, word) for t, word in enumerate(spelled[:-1]) if word not in ("the",)],
            ),
            Panel(
                "Told right, by the clause's length",
                [Curve(names[cell], list(of), list(of.values())) for cell, of in right.items()],
                x="places in the clause; trained on 1 to 3", y="share of new sentences", ylim=(0, 1.05),
                xticks=[(n, str(n)) for n in (1, 2, 3, 4, 5)],
                levels=[Level("one of 8 by chance", y=1 / len(SUBJECTS))],
            ),
        ],
        [
            Table(
                "The sentence, word by word",
                ("", "word", "words before “hungry”", "0.8 a step", "RNN, untrained", "RNN, trained", "GRU, trained"),
                rows,
            )
        ],
    )  # fmt: skip
