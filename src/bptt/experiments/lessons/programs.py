"""The third lesson's programs: its RNN in NumPy and in PyTorch on “hello world!”, its embedding proxy."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt.experiments.claims.statements import hello_world
from bptt.experiments.lessons.registry import Curve, Level, Made, Number, Panel, remake
from bptt.remedies import ClipNorm
from bptt.training import fit


def told(epoch: int, loss: float, norm: float, predicted: str, target: str) -> list[str]:
    """What a program prints while it trains: its predictions under each other with the targets."""
    return [
        f"epoch {epoch:3d}   loss {loss:.4f}   gradient norm {norm:.3f}",
        f"    predicted  {predicted}",
        f"    target     {target}",
    ]


class Text:
    """A text as numbers, and back; its symbols in their order."""

    def __init__(self, text: str) -> None:
        self.symbols = sorted(set(text))
        self.ids = [self.symbols.index(c) for c in text]

    def letters(self, ids: list[int]) -> str:
        """Numbers as letters."""
        return "".join(self.symbols[i] for i in ids)


# In NumPy, with the reference's forward and backward pass.

EPOCHS = 300


def numpy_run(scale: float, rate: float) -> tuple[list[float], list[float], list[str], list[str]]:
    """The NumPy program at a scale of its start and a rate: losses, norms, predictions, lines."""
    losses, norms, predictions, target = hello_world(scale, rate, EPOCHS)
    lines = []
    for epoch in (*range(0, EPOCHS, 50), EPOCHS - 1):
        lines += told(epoch, losses[epoch], norms[epoch], predictions[epoch][:20], target[:20])
    return losses, norms, predictions, lines


@remake(
    name="numpy-program",
    lesson="S2",
    lines=(180, 398),
    shows="the RNN in NumPy on “hello world!”, predicted and target lines while it trains; it does not "
    "learn",
    settings="three times “hello world!”, 37 steps, 64 units, all weights 0.01·N(0,1) (NumPy's older "
    "generator, seed "
    "42), clipped at 5, SGD 0.05, 300 epochs",
    seconds=2,
)
def in_numpy() -> Made:
    losses, norms, predictions, lines = numpy_run(0.01, 0.05)
    runs = {
        "scale 0.01, rate 0.05": losses,
        "scale 0.01, rate 0.5": numpy_run(0.01, 0.5)[0],
        "scale 0.1, rate 0.05": numpy_run(0.1, 0.05)[0],
        "scale 0.01, rate 2": numpy_run(0.01, 2.0)[0],
    }
    symbols = sorted(set("hello world!"))
    counts = np.array([("hello world! " * 3).strip()[1:].count(c) for c in symbols])
    shares = counts / counts.sum()
    by_count = float(-(shares * np.log(shares)).sum())
    target = "ello world! hello wo"
    learned = {
        name: next((e for e, v in enumerate(of) if v < 0.1), None) for name, of in runs.items()
    }
    return Made(
        [
            Number("predicted", "predicted at epoch 250", predictions[250][:20]),
            Number("target", "what should have been predicted", target),
            Number("loss_250", "loss at epoch 250, nats", losses[250]),
            Number("loss_end", "loss at the last epoch, nats", losses[-1]),
            Number("entropy", "loss of the letters' frequencies alone, nats", by_count),
            Number("largest_norm", "largest gradient norm; the clip is at 5", max(norms)),
            Number(
                "rate_5", "scale 0.01, rate 0.5: first epoch with a loss under 0.1",
                learned["scale 0.01, rate 0.5"] or -1, again=0.05,
            ),
            Number(
                "scale_1", "scale 0.1, rate 0.05: first epoch with a loss under 0.1",
                learned["scale 0.1, rate 0.05"] or -1, again=0.05,
            ),
            Number(
                "rate_20",
                "scale 0.01, rate 2: learned within 300 epochs?",
                "yes" if learned["scale 0.01, rate 2"] else "no",
            ),
        ],
        [
            "As printed, the program learns how often each letter comes and nothing else: at epoch 250 "
            "the loss "
            f"is {losses[250]:.2f}, beside {by_count:.2f} for the frequencies alone. With weights of "
            "size 0.01 the "
            "state is nearly nothing, so nearly no gradient reaches W_x and W_h, and the rate of 0.05 "
            "lets "
            "them grow too slowly.",
            "Ten times the rate, or ten times the scale, and it tells every letter: either is enough. "
            "The "
            "clip never acts in the lesson's run; at a rate of 2 it does, and does not save it.",
        ],
        [
            Panel(
                "Loss", [Curve(name, range(EPOCHS), of) for name, of in runs.items()], x="epoch",
                y="nats",                 ylim=(0, 3), levels=[Level("frequencies alone", y=by_count)],
            ),
            Panel(
                "Gradient norm, the lesson's run", [Curve("", range(EPOCHS), norms)], x="epoch", y="norm",
                log=True, ylim=(0.01, 10), levels=[Level("clip at 5", y=5)],
            ),
        ],
        lines=lines,
    )  # fmt: skip


# In PyTorch.


class CharacterModel(nn.Module):
    """Embedding, torch's RNN, one linear map: from ``(T,)`` symbols to ``(T, V)`` logits."""

    def __init__(self, symbols: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, hidden)
        self.layer = nn.RNN(hidden, hidden)
        self.linear = nn.Linear(hidden, symbols)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits at every step."""
        return self.read(self.embedding(ids))

    def read(self, vectors: Tensor) -> Tensor:
        """The same from the embedded symbols ``(T, H)``."""
        return self.linear(self.layer(vectors)[0])


def next_symbol(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross entropy of every next symbol."""
    return F.cross_entropy(model(batch[0]), batch[1])


@remake(
    name="torch-program",
    lesson="S2",
    lines=(402, 535),
    shows="the RNN in PyTorch on “hello world!”, predicted and target lines while it trains",
    settings="fifteen times “hello world! ”, 194 steps as one sequence, embedding and state of 128, "
    "Adam 1e-2, clipped "
    "at 5, 500 epochs; torch.manual_seed(42)",
    seconds=6,
)
def in_torch() -> Made:
    torch.manual_seed(42)
    text = Text("hello world! hello world! hello world! " * 5)
    ids = torch.tensor(text.ids)
    x, y = ids[:-1], ids[1:]
    model = CharacterModel(len(text.symbols), 128)
    run = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses, norms, lines, right, clipped = [], [], [], None, 0
    for epoch, done in enumerate(fit(model, run, [(x, y)] * 500, next_symbol, clip=ClipNorm(5.0))):
        losses.append(done.loss)
        norms.append(done.norm)
        clipped += done.clipped
        if epoch % 100 == 0 or epoch == 499 or right is None:
            with torch.no_grad():
                guess = model(x).argmax(-1)
            if bool((guess == y).all()):
                right = epoch if right is None else right
            lines += told(
                epoch, done.loss, done.norm, text.letters(guess[:30].tolist()),
                text.letters(text.ids[1:31]),
            )  # fmt: skip
    updates = (right or 0) + 1
    return Made(
        [
            Number("parameters", "parameters", sum(p.numel() for p in model.parameters())),
            Number("loss_0", "loss at epoch 0, nats", losses[0], again=1e-3),
            Number("loss_100", "loss at epoch 100, nats", losses[100], again=0.2),
            Number("loss_end", "loss at the last epoch, nats", losses[-1], again=0.2),
            Number("right", "updates after which every letter is told", updates, again=2),
            Number("clipped", "updates, of 500, in which the clip acted", clipped),
        ],
        [
            f"After {updates} update{'s' * (updates > 1)} every letter is told right; the other "
            f"{500 - updates} "
            "polish the probabilities. Twelve letters that repeat are learned by heart, and the text "
            "it is "
            "tested on is the text it saw.",
            f"The largest norm is {max(norms):.1f}; the clip at 5 acted in {clipped} updates. Without "
            "it the run "
            "would be the same." if clipped == 0 else f"The clip at 5 acted in {clipped} updates.",
        ],
        [
            Panel("Loss", [Curve("", range(500), losses)], x="epoch", y="nats", log=True),
            Panel(
                "Gradient norm", [Curve("", range(500), norms)], x="epoch", y="norm", log=True,
                ylim=(1e-5, 10), levels=[Level("clip at 5", y=5)],
            ),
        ],
        lines=lines,
    )  # fmt: skip


# The embedding's gradient as a stand-in for the gradient at every time step.

SEEDS, SYMBOLS, STEPS = 30, 10, 50


@remake(
    name="embedding-proxy",
    lesson="S2",
    lines=(540, 580),
    shows="gradient norms of embedding rows as a proxy for the gradient by time step: what they do and "
    "do not show",
    settings="10 symbols, 32 units, one random sequence of 50, random targets, untrained, "
    "torch.manual_seed(0); the "
    "same with seeds 0 to 29 beside it",
    seconds=2,
)
def embedding_proxy() -> Made:
    rows, counts, lasts = [], [], []
    everywhere, at_the_end = [], []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model = CharacterModel(SYMBOLS, 32)
        x, y = torch.randint(0, SYMBOLS, (STEPS,)), torch.randint(0, SYMBOLS, (STEPS,))
        vectors = model.embedding(x).detach().requires_grad_()
        logits = model.read(vectors)
        (by_step,) = torch.autograd.grad(F.cross_entropy(logits, y), vectors, retain_graph=True)
        (of_last,) = torch.autograd.grad(F.cross_entropy(logits[-1:], y[-1:]), vectors)
        # A row's gradient is the sum of those at the steps where its symbol stood.
        row = torch.zeros(SYMBOLS, 32).index_add(0, x, by_step)
        rows.append(row.norm(dim=1))
        counts.append(torch.bincount(x, minlength=SYMBOLS).float())
        steps = torch.arange(STEPS, dtype=torch.float32)
        lasts.append(
            torch.stack(
                [steps[x == v].max() if (x == v).any() else steps[0] for v in range(SYMBOLS)]
            )
        )
        everywhere.append(by_step.norm(dim=1))
        at_the_end.append(of_last.norm(dim=1))
    norm, count, last = (torch.cat(of) for of in (rows, counts, lasts))
    there = count > 0
    by_position = torch.stack(everywhere).mean(0)
    falling = torch.stack(at_the_end).mean(0)

    def correlation(other: Tensor) -> float:
        return float(torch.corrcoef(torch.stack([norm[there], other[there]]))[0, 1])

    with_count, with_last = correlation(count), correlation(last)
    early, late = float(by_position[:10].mean()), float(by_position[-10:].mean())
    first = rows[0]
    why = (
        "every position has a loss of its own beside it, and gets most of its gradient from there: by "
        "position "
        "the norm is flat"
    )
    return Made(
        [
            Number(
                "later", "do later positions dominate?", "yes" if late > 2 * early else "no", "yes",
                why=why,
            ),
            Number("early", "mean gradient norm, first ten positions", early, again=1e-2),
            Number("late", "mean gradient norm, last ten positions", late, again=1e-2),
            Number(
                "with_count", "correlation of a row's norm with how often its symbol comes",
                with_count, again=2e-2,
            ),
            Number(
                "with_last", "correlation of a row's norm with its symbol's last position", with_last,
                again=5e-2,
            ),
            Number(
                "last_share", "loss of the last step alone: first position over last",
                float(falling[0] / falling[-1]), again=1e-2,
            ),
        ],
        [
            "A row's gradient is a sum over all places where its symbol stands. It says how often the "
            "symbol "
            f"comes (correlation {with_count:.2f}), which also makes its last place later "
            f"({with_last:.2f}); "
            "it says nothing about time.",
            "What the lesson is after shows where one loss is taken alone: the gradient of the last "
            "step's loss "
            f"is {falling[0] / falling[-1]:.1g} times as large at the first position as at the last. "
            "Summed over "
            "all losses, this decay around every one of them adds up to a level line.",
        ],
        [
            Panel(
                "By position, mean of 30 seeds",
                [
                    Curve("all losses", range(STEPS), by_position.tolist()),
                    Curve("the last loss alone", range(STEPS), falling.tolist()),
                ],
                x="position", y="gradient norm", log=True,
            ),
            Panel(
                "Rows of the embedding",
                [Curve("one symbol of one seed", count[there].tolist(), norm[there].tolist(), "dots")],
                x="times the symbol comes", y="norm of its row's gradient",
            ),
        ],
        lines=[f"symbol {v}   gradient norm {float(n):.6f}" for v, n in enumerate(first) if n > 0],
    )  # fmt: skip
