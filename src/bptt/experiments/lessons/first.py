"""Remember-first as the lesson trains it: lengths, width, clipping, rescaling, truncation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt.experiments.claims.learn import (
    SYMBOLS,
    Last,
    accuracy,
    adam,
    ordinary,
    remember_first,
    sgd,
)
from bptt.experiments.claims.learn import Optimizer as Rate
from bptt.experiments.lessons.registry import Curve, Level, Made, Number, Panel, remake
from bptt.remedies import Clip, ClipNorm, NoClip, Rescale
from bptt.training import fit

# torch's own layer, drawn after torch.manual_seed(42), as the lesson does it: the published figures are
# of one run, and another kernel's rounding is another run after a few hundred updates of Adam.
SEED, CHANCE = 42, math.log(SYMBOLS)


def network(hidden: int = 32) -> Last:
    """The lesson's network: torch's layer under one linear map."""
    torch.manual_seed(SEED)
    return Last(nn.RNN(SYMBOLS, hidden), hidden, SYMBOLS)


@dataclass(frozen=True)
class Course:
    """One training run, epoch by epoch."""

    losses: list[float]
    shares: list[float]  # of right answers on the test sequences; empty if not asked for
    norms: list[float]  # before clipping, of every update
    acted: int


def learn(
    model: Last,
    train: tuple[Tensor, Tensor],
    optimizer: Rate,
    epochs: int,
    *,
    test: tuple[Tensor, Tensor] | None = None,
    batch: int | None = None,
    clip: Clip | None = None,
    loss: Callable[[nn.Module, Any], Tensor] = ordinary,
) -> Course:
    """Train; in batches of a new order every epoch, or on all sequences at once in theirs."""
    x, target = train
    run, losses, shares, norms, acted = optimizer(model.parameters()), [], [], [], 0
    for _ in range(epochs):
        order = torch.arange(len(target)) if batch is None else torch.randperm(len(target))
        batches = ((x[:, rows], target[rows]) for rows in order.split(batch or len(target)))
        made = list(fit(model, run, batches, loss, clip=clip))
        losses.append(sum(done.loss for done in made) / len(made))
        norms += [done.norm for done in made]
        acted += sum(done.clipped for done in made)
        if test is not None:
            shares.append(accuracy(model, *test))
    return Course(losses, shares, norms, acted)


def epochs(values: list[float], name: str, **look: Any) -> Curve:
    """A curve over epochs."""
    return Curve(name, range(1, len(values) + 1), values, **look)


def percent(key: str, what: str, course: Course, published: float | None, why: str = "") -> Number:
    """A final share of right answers, in per cent, with the lesson's beside it.

    Two of 128 test sequences more or less are rounding after hundreds of updates.
    """
    return Number(key, what, 100 * course.shares[-1], published, 2.0, why, again=0.2)


def curves_of(runs: dict[str, Course]) -> list[Panel]:
    """Training loss and test accuracy of several runs."""
    return [
        Panel(
            "Training loss", [epochs(run.losses, name) for name, run in runs.items()], x="epoch",
            y="nats", levels=[Level("chance: log 8", y=CHANCE)], ylim=(0, 2.3),
        ),
        Panel(
            "Test accuracy", [epochs(run.shares, name) for name, run in runs.items()], x="epoch",
            y="share right", levels=[Level("chance: 1/8", y=1 / SYMBOLS)], ylim=(0, 1.05),
        ),
    ]  # fmt: skip


LENGTHS = (5, 10, 20, 50)


@remake(
    name="remember-first",
    lesson="S1",
    lines=(398, 588),
    shows="three panels: loss, accuracy and final accuracy of a tanh RNN that must name the first of T "
    "symbols",
    settings="T = 5, 10, 20, 50; 8 symbols; 512 training and 128 test sequences (default_rng(42), (99)); "
    "32 units, Adam 5e-3, batches of 64, 200 epochs, nothing clipped; torch.manual_seed(42)",
    seconds=18,
)
def remember() -> Made:
    runs = {}
    for T in LENGTHS:
        train, test = remember_first(512, T, 42), remember_first(128, T, 99)
        runs[T] = learn(network(), train, adam(5e-3), 200, test=test, batch=64)
    published = {5: (100.0, 0.0), 10: (100.0, 0.001), 20: (100.0, 0.001), 50: (10.2, 0.451)}
    numbers = []
    for T, (share, loss) in published.items():
        numbers += [
            percent(f"accuracy_{T}", f"T = {T}: test accuracy, %", runs[T], share),
            Number(
                f"loss_{T}", f"T = {T}: training loss of the last epoch, nats", runs[T].losses[-1], loss,
                0.01, again=0.5,
            ),
        ]  # fmt: skip
    best = {T: max(run.shares) for T, run in runs.items()}
    numbers += [Number(f"best_{T}", f"T = {T}: best test accuracy of any epoch, %", 100 * s, again=0.2)
                for T, s in best.items()]  # fmt: skip
    bars = [Curve("", [i], [runs[T].shares[-1]], "bars", tone) for i, (T, tone) in enumerate(
        zip(LENGTHS, ("blue", "orange", "green", "purple"), strict=True))]  # fmt: skip
    return Made(
        numbers,
        [
            f"The lesson's table comes out: T = 20 is learned to {100 * runs[20].shares[-1]:.0f} %. "
            "Its text, "
            "which says that accuracy collapses at T = 20 and 50, is right for T = 50 alone.",
            f"At T = 50 the training loss falls to {runs[50].losses[-1]:.2f}, far below chance "
            f"({CHANCE:.2f}), while the test stays at chance: 512 sequences can be learned by heart, "
            "so a "
            "falling loss is no sign that the first symbol is remembered. On fresh sequences nothing "
            "falls.",
        ],
        [
            *curves_of({f"T={T}": run for T, run in runs.items()}),
            Panel(
                "Accuracy by length", bars, x="sequence length T", y="share right", ylim=(0, 1.1),
                xlim=(-0.6, 3.6), xticks=[(i, str(T)) for i, T in enumerate(LENGTHS)],
                levels=[Level("chance", y=1 / SYMBOLS)],
            ),
        ],
    )  # fmt: skip


@remake(
    name="exercise-33.3",
    lesson="S1",
    lines=(991, 991),
    shows="exercise 33.3: does a state of 128 units in place of 32 remember the first of 50?",
    settings="as remember-first, T = 50, 32 and 128 units",
    seconds=26,
)
def wider() -> Made:
    train, test = remember_first(512, 50, 42), remember_first(128, 50, 99)
    runs = {h: learn(network(h), train, adam(5e-3), 200, test=test, batch=64) for h in (32, 128)}
    return Made(
        [
            percent(f"accuracy_{h}", f"{h} units: test accuracy, %", run, None)
            for h, run in runs.items()
        ]
        + [
            Number(f"loss_{h}", f"{h} units: training loss, nats", run.losses[-1], again=0.9)
            for h, run in runs.items()
        ],
        [
            "No. Both name the first symbol of new sequences no better than chance. With 32 units the "
            "512 training "
            f"sequences are at least learned by heart (loss {runs[32].losses[-1]:.2f}); with 128 units "
            "and the same "
            f"rate not even that (loss {runs[128].losses[-1]:.2f}, chance {CHANCE:.2f}).",
            "What the gradient is multiplied by at each step is the recurrent matrix's Jacobian, and "
            "torch's start "
            "draws it with the same spectral radius, about 0.58, at every width: more units do not "
            "make the "
            "factor larger.",
        ],
        curves_of({f"{h} units": run for h, run in runs.items()}),
    )


PUBLISHED_CLIP = 2.0764036178588867


@remake(
    name="clipping",
    lesson="S1",
    lines=(708, 808),
    shows="training with no clip, clipped at norm 5 and at norm 1: three equal runs, and why",
    settings="T = 20; 256 sequences (default_rng(42)) as one batch; 32 units, SGD 0.01, 100 epochs; "
    "torch.manual_seed(42)",
    seconds=2,
)
def clipping() -> Made:
    train = remember_first(256, 20, 42)
    clips = {"no clip": NoClip(), "norm 5": ClipNorm(5.0), "norm 1": ClipNorm(1.0)}
    runs = {name: learn(network(), train, sgd(0.01), 100, clip=c) for name, c in clips.items()}
    # Where a clip does act: a threshold that the norms of these runs pass.
    low = learn(network(), train, sgd(0.01), 100, clip=ClipNorm(0.05))
    keys = dict(zip(runs, ("none", "5", "1"), strict=True))
    largest = max(max(run.norms) for run in runs.values())
    return Made(
        [
            Number(
                f"loss_{keys[name]}", f"{name}: loss of the last epoch, nats", run.losses[-1],
                PUBLISHED_CLIP, 1e-6, again=1e-5,
            )
            for name, run in runs.items()
        ]
        + [
            Number("largest_norm", "largest gradient norm of any update", largest, again=1e-3),
            Number(
                "acted", "updates in which a clip at 5 or 1 acted",
                runs["norm 5"].acted + runs["norm 1"].acted,
            ),
            Number(
                "acted_low", "clipped at 0.05 instead: updates, of 100, in which it acted", low.acted,
                again=0.1,
            ),
            Number(
                "loss_low", "clipped at 0.05 instead: loss of the last epoch, nats", low.losses[-1],
                again=1e-3,
            ),
        ],
        [
            "The published loss comes out to the last digit printed, three times: the three runs are one "
            f"run. The largest norm is {largest:.2f}, so neither threshold is ever reached, and the "
            "figure "
            "says nothing about clipping.",
            "SGD at rate 0.01 barely moves in 100 updates: the loss ends just below chance, "
            f"{CHANCE:.4f}. A threshold of 0.05 acts; it makes these updates smaller still, and training "
            "slower. A clip helps where a single norm towers above the others, and here none does.",
        ],
        [
            Panel(
                "Training loss",
                [
                    *(epochs(run.losses, name) for name, run in runs.items()),
                    epochs(low.losses, "norm 0.05"),
                ],
                x="epoch", y="nats", ylim=(2.0, 2.15), levels=[Level("chance: log 8", y=CHANCE)],
            ),
            Panel(
                "Gradient norm before clipping",
                [
                    *(epochs(run.norms, name) for name, run in runs.items()),
                    epochs(low.norms, "norm 0.05"),
                ],
                x="epoch", y="norm", log=True, ylim=(0.01, 10),
                levels=[Level("clip at 5", y=5), Level("clip at 1", y=1), Level("clip at 0.05", y=0.05)],
            ),
        ],
    )  # fmt: skip


@remake(
    name="exercise-33.5",
    lesson="S1",
    lines=(1001, 1001),
    shows="exercise 33.5: every gradient rescaled to one norm, beside clipping, on remember-first with "
    "T = 20",
    settings="512 training and 128 test sequences, 32 units, batches of 64, 100 epochs, θ = 1, SGD 0.1 "
    "and "
    "Adam 5e-3 (the exercise leaves optimiser and budget open: these are ours); torch.manual_seed(42)",
    seconds=9,
)
def rescaling() -> Made:
    train, test = remember_first(512, 20, 42), remember_first(128, 20, 99)
    runs = {}
    for kind, rate in (("SGD", sgd(0.1)), ("Adam", adam(5e-3))):
        for way, clip in (("clipped", ClipNorm(1.0)), ("rescaled", Rescale(1.0))):
            runs[f"{kind} {way}"] = learn(
                network(), train, rate, 100, test=test, batch=64, clip=clip
            )
    fallen = {way: 100 * min(runs[f"Adam {way}"].shares[50:]) for way in ("clipped", "rescaled")}
    return Made(
        [
            percent(name.lower().replace(" ", "_"), f"{name}: test accuracy, %", run, None)
            for name, run in runs.items()
        ]
        + [
            Number(f"{name.lower().replace(' ', '_')}_best", f"{name}: best of any epoch, %",
                   100 * max(run.shares), again=0.2)
            for name, run in runs.items()
        ]
        + [
            Number(f"adam_{way}_low", f"Adam {way}: lowest after epoch 50, %", low, again=1)
            for way, low in fallen.items()
        ],
        [
            "A clip leaves a small gradient small. Rescaling blows every gradient up to norm 1: under "
            "SGD, whose "
            "norms on the plateau are far below 1, that is a higher rate there, and the task is "
            "learned sooner "
            f"(best {100 * max(runs['SGD rescaled'].shares):.0f} % against "
            f"{100 * max(runs['SGD clipped'].shares):.0f} %). Near the solution it goes on kicking the "
            "weights, and "
            f"the accuracy jumps (last epoch {100 * runs['SGD rescaled'].shares[-1]:.0f} %).",
            "Adam divides each coordinate by its own recent size, which a gradient of constant norm no "
            "longer tells: "
            f"rescaled, the run falls out of the solution, down to {fallen['rescaled']:.0f} % after "
            "epoch 50; clipped, "
            f"it stays at {fallen['clipped']:.0f} % or above.",
        ],
        [
            *curves_of(runs),
            Panel(
                "Norm before clipping or rescaling",
                [Curve(n, range(1, len(r.norms) + 1, 4), r.norms[::4]) for n, r in runs.items()],
                x="update", y="norm", log=True, levels=[Level("θ = 1", y=1)],
            ),
        ],
    )  # fmt: skip


def cut_by_hand(model: Last, batch: tuple[Tensor, Tensor], k: int) -> Tensor:
    """The lesson's truncation: a loop over the steps, the state detached after every k of them."""
    x, target = batch
    w_x, w_h, b_x, b_h = model.layer.parameters()
    h = x.new_zeros(x.shape[1], w_h.shape[0])
    for t, now in enumerate(x, 1):
        h = torch.tanh(F.linear(now, w_x, b_x) + F.linear(h, w_h, b_h))
        if t % k == 0 and t < len(x):
            h = h.detach()
    return F.cross_entropy(model.linear(h), target)


@remake(
    name="truncation",
    lesson="S1",
    lines=(841, 966),
    shows="loss curves of truncated BPTT on remember-first, T = 20: K = full, 20, 10, 5",
    settings="256 sequences (default_rng(42)) as one batch, 128 to test (default_rng(99)); 32 units, "
    "Adam 5e-3, "
    "clipped at 5, 150 epochs; the loss at the last step alone; torch.manual_seed(42)",
    seconds=3,
)
def truncation() -> Made:
    train, test = remember_first(256, 20, 42), remember_first(128, 20, 99)
    ways: dict[str, Callable[[Any, Any], Tensor]] = {"full": ordinary}
    ways |= {"K=20": ordinary, "K=10": partial(cut_by_hand, k=10), "K=5": partial(cut_by_hand, k=5)}
    runs = {
        name: learn(network(), train, adam(5e-3), 150, test=test, clip=ClipNorm(5.0), loss=loss)
        for name, loss in ways.items()
    }
    published = {"full": 99.2, "K=20": 99.2, "K=10": 20.3, "K=5": 10.9}
    numbers = [
        percent(name.replace("K=", "k"), f"{name}: test accuracy, %", run, published[name])
        for name, run in runs.items()
    ]
    numbers += [
        Number(
            f"{name.replace('K=', 'k')}_loss", f"{name}: training loss, nats", run.losses[-1], again=0.5,
        )
        for name, run in runs.items()
    ]  # fmt: skip
    return Made(
        numbers,
        [
            "All four come out. With the loss at the end alone a cut at K < T leaves the first symbol "
            "without "
            "any gradient: not a small one, none.",
            "The training loss falls with K = 10 and 5 too, far below chance: the last K symbols of 256 "
            "sequences tell one sequence from another, and their answers are learned by heart. The "
            "loss curve "
            "alone would let truncation look slow; the accuracy on new sequences shows that nothing was "
            "learned that carries over.",
        ],
        curves_of(runs),
    )
