"""Page *Truncation*: on one trained model and batch, what each way of cutting leaves out and costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from bptt.data import CharVocabulary, RandomChunks, default_text
from bptt.gradients import (
    Adaptive,
    Checkpointed,
    Estimator,
    ForwardMode,
    Full,
    Randomized,
    Truncated,
    Windowed,
)
from bptt.lab.live import Tick, charts, drawn_from, facts, table, values, words
from bptt.models import LanguageModel, token_loss
from bptt.nn.carry import Carry
from bptt.probes import LagSpectrum
from bptt.probes.watch import watch
from bptt.remedies import ClipNorm
from bptt.report.chart import Chart, Color, Line, Mark, number
from bptt.report.words import percent, thousands
from bptt.training.fit import fit_step

STEPS, BATCH, HIDDEN, EMBEDDING, UPDATES, RATE = 64, 8, 16, 8, 200, 1e-2
TEXT = 60_000  # characters of the text every Python carries
KS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
BY_K = ("Truncated", "Windowed", "Randomized")
LEAST = 1e-6  # nearer than this is drawn at the edge


@dataclass(frozen=True)
class Estimate:
    """One estimator's gradient compared with the full one, on the same batch.

    Attributes:
        name: the class.
        form: as it was made.
        bias: ‖g - g_full‖ / ‖g_full‖.
        cosine: of the angle between the two.
        run: steps of the recurrence it computed forward, counted.
        kept: steps whose graph it held at a time, the most.
        depth: how many steps back the loss at each step reached.
        beside: what else it keeps, in words.
        numbers: how many numbers a lane that is, for an influence.
    """

    name: str
    form: str
    bias: float
    cosine: float
    run: int
    kept: int
    depth: tuple[int, ...]
    beside: str = ""
    numbers: int = 0


@dataclass(frozen=True, eq=False)
class Measurement:
    """The gradient of a trained model on a batch, and what every estimator makes of it.

    Attributes:
        cell: of the model; ``loss`` what it was trained to, nats a character.
        spectrum: every K measured, on the same batch; None before.
        seen: of the estimators that have no K.
        by_k: the same for K in ``KS``, those of ``BY_K``.
    """

    cell: str
    losses: tuple[float, ...] = ()
    spectrum: LagSpectrum | None = None
    seen: tuple[Estimate, ...] = ()
    by_k: dict[int, tuple[Estimate, ...]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether everything is there."""
        return len(self.by_k) == len(KS)

    @property
    def exact(self) -> LagSpectrum:
        """The spectrum, of a measurement that is there to be drawn."""
        return cast(LagSpectrum, self.spectrum)


class _Counted(nn.Module):
    """The model, and how many steps it was asked to run."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.steps = model, 0

    def forward(self, x: Tensor, carry: Carry = None) -> Any:
        self.steps += x.shape[0]
        return self.model(x, carry)


def prepare(
    cell: str = "gru", seed: int = 0, updates: int = UPDATES
) -> Iterator[Tick[Measurement]]:
    """Train a small language model, then take its gradient in every way; a tick after each piece.

    A layer of 16 units on characters, Adam, full gradients over T = 64; all that is measured, in float64
    on one batch it was not trained on.

    Cost: 200 updates of some milliseconds, and some fifty gradients.
    """
    vocabulary, tokens = _text()
    chunks = RandomChunks(tokens, [0], batch=BATCH, chunk=STEPS, seed=seed)
    with drawn_from(seed):
        model = LanguageModel(vocabulary.size, cell, HIDDEN, embedding=EMBEDDING)
    optimizer, clip = torch.optim.Adam(model.parameters(), lr=RATE), ClipNorm(1.0)
    found, losses = Measurement(cell), []
    total = updates + 2 + len(KS)
    for update in range(1, updates + 1):
        chunk = chunks.take()
        batch = _ids(chunk.inputs), _ids(chunk.targets)
        losses.append(fit_step(model, optimizer, batch, Full(), token_loss, clip=clip).loss)
        if update % 20 == 0 or update == updates:
            found = Measurement(cell, tuple(losses))
        yield Tick(update, total, found, fresh=update % 20 == 0)
    model = model.double()
    held_out = chunks.take()
    yield from measure(found, model, _ids(held_out.inputs), _ids(held_out.targets), updates, total)


def measure(
    found: Measurement, model: nn.Module, x: Tensor, target: Tensor, before: int, total: int
) -> Iterator[Tick[Measurement]]:
    """The gradient on one batch in every way; the model is float64."""
    counted = _Counted(model)
    with watch(model, at="every") as flow:
        counted.zero_grad()
        Full().backward(counted, x, target, loss=token_loss)
    spectrum, full = flow.spectrum, _gradient(counted)
    T = x.shape[0]

    def estimate(
        name: str, estimator: Estimator, form: str, kept: int | None = None, beside: str = "",
        numbers: int = 0,
    ) -> Estimate:  # fmt: skip
        counted.zero_grad()
        counted.steps = 0
        step = estimator.backward(counted, x, target, loss=token_loss)
        bias, cosine = against(_gradient(counted), full)
        deepest = int(step.depth.max()) + 1
        return Estimate(
            name, form, bias, cosine, counted.steps, deepest if kept is None else kept,
            tuple(step.depth.tolist()), beside, numbers,
        )  # fmt: skip

    root = math.isqrt(T - 1) + 1
    adaptive = Adaptive(bias=0.05, shrink=0, every=2, lanes=None)
    estimate(
        "Adaptive", adaptive, ""
    )  # the first call measures; the second is truncated to what it found
    seen = [
        estimate("Full", Full(), "Full()"),
        estimate("Checkpointed", Checkpointed(), "Checkpointed()", -(-T // root), f"{root} states"),
        estimate("Adaptive", adaptive, f"Adaptive(0.05), k = {adaptive.k}"),
    ]
    found = Measurement(found.cell, found.losses, spectrum, tuple(seen))
    yield Tick(before + 1, total, found)
    numbers = sum(p.numel() for n, p in model.named_parameters() if "output" not in n)
    state = HIDDEN * (2 if found.cell == "lstm" else 1)
    seen.append(
        estimate("ForwardMode", ForwardMode(), "ForwardMode()", 1,
            "influence", state * numbers)
    )  # fmt: skip
    by_k: dict[int, tuple[Estimate, ...]] = {}
    found = Measurement(found.cell, found.losses, spectrum, tuple(seen), by_k)
    yield Tick(before + 2, total, found)
    for n, k in enumerate(KS):
        half = (k + 1) // 2
        generator = torch.Generator().manual_seed(k)
        by_k[k] = (
            estimate("Truncated", Truncated(k), f"Truncated({k})"),
            estimate("Windowed", Windowed(half, k), f"Windowed({half}, {k})", k),
            estimate(
                "Randomized", Randomized(k, generator=generator), f"Randomized({k}), one draw"
            ),
        )
        yield Tick(before + 3 + n, total, found)


def against(gradient: Tensor, full: Tensor) -> tuple[float, float]:
    """Relative distance and cosine of two gradients."""
    bias = float((gradient - full).norm() / full.norm())
    return bias, float(torch.cosine_similarity(gradient, full, dim=0))


def draw_training(found: Measurement) -> str:
    """What is seen while it trains and is measured."""
    if not found.losses:
        return ""
    at = list(range(1, len(found.losses) + 1))
    return words(
        f"A {found.cell.upper()} of {HIDDEN} units reads {TEXT:,} characters of Python's own "
        f"documentation: {number(found.losses[0])} nats a character at first, "
        f"{number(found.losses[-1])} after {at[-1]} updates."
    )


def draw(found: Measurement, k: int) -> str:
    """Everything for one K; milliseconds, nothing is computed."""
    here = found.by_k[k]
    bias, cosine = found.exact.bias_of(k), found.exact.cosine_of(k)
    return (
        facts(
            {
                f"bias at K = {k}": percent(bias),
                "cosine": f"{cosine:.3f}",
                "horizon, 5 %": f"{found.exact.horizon()} steps",
                "kept by Truncated": f"{here[0].kept} of {found.exact.steps} steps",
            }
        )
        + charts(
            draw_bias(found, k), draw_cosine(found, k), draw_lags(found, k), draw_depth(found, k)
        )
        + list_estimators(found, k)
        + words(*tell(found, k))
        + values(
            {
                "k": k,
                "bias": bias,
                "cosine": cosine,
                "horizon": found.exact.horizon(),
                "seen": [[s.name, s.bias, s.cosine, s.run, s.kept] for s in (*found.seen, *here)],
            }
        )
    )


_LOOKS: dict[str, tuple[Color, Any]] = {
    "Truncated": ("orange", "dashed"),
    "Windowed": ("green", "dotted"),
    "Randomized": ("purple", "dashed"),
}


def draw_bias(found: Measurement, k: int) -> Chart:
    """Relative distance from the full gradient against K."""
    every = found.exact.truncations.tolist()
    parts: list[Line | Mark] = [
        Mark("5 %", y=0.05),
        Mark(f"K = {k}", x=k),
        Line("every loss K steps", every, found.exact.measured_bias.tolist()),
    ]
    parts += [
        Line(name, KS, [max(found.by_k[at][n].bias, LEAST) for at in KS], *_LOOKS[name])
        for n, name in enumerate(BY_K)
    ]
    top = max(v for p in parts if isinstance(p, Line) for v in p.y)
    return Chart(
        "Bias: how far from the full gradient", parts, x="K", y="relative distance", log=True,
        xlim=(1, found.exact.steps), ylim=(1e-3, 2 * top),
        caption="Randomized is one draw: its distance is variance, its mean is exact.",
    )  # fmt: skip


def draw_cosine(found: Measurement, k: int) -> Chart:
    """Cosine with the full gradient against K."""
    every = found.exact.truncations.tolist()
    parts: list[Line | Mark] = [
        Mark(f"K = {k}", x=k),
        Line("every loss K steps", every, found.exact.measured_cosine.tolist()),
    ]
    parts += [
        Line(name, KS, [found.by_k[at][n].cosine for at in KS], *_LOOKS[name])
        for n, name in enumerate(BY_K)
    ]
    low = min(0.9, *(v for p in parts if isinstance(p, Line) for v in p.y))
    return Chart(
        "Direction", parts, x="K", y="cosine with the full gradient", xlim=(1, found.exact.steps),
        ylim=(low - 0.1 * (1 - low), 1 + 0.3 * (1 - low)),
        caption="1 points the same way; below 0 an update would make the batch worse.",
    )  # fmt: skip


def draw_lags(found: Measurement, k: int) -> Chart:
    """Gradient by lag, and where K cuts it."""
    norms = found.exact.norms.tolist()
    top = max(norms)
    kept = [n / top if lag < k else math.nan for lag, n in enumerate(norms)]
    lost = [n / top if lag >= k - 1 else math.nan for lag, n in enumerate(norms)]
    parts: list[Line | Mark] = [Mark("cut", x=k - 1)]
    if k < len(norms):
        parts.append(Line("left out", list(range(len(norms))), lost, "orange", "dotted"))
    parts.append(Line("seen", list(range(len(norms))), kept, dots=k == 1))
    least = min(n / top for n in norms if n > 0)
    return Chart(
        "Gradient by lag", parts, x="steps back", y="share of the largest", log=True,
        xlim=(0, len(norms) - 1), ylim=(max(least, 1e-8) / 1.5, 2.0),
        caption="What all errors together send so many steps back; their sum is the full gradient.",
    )  # fmt: skip


def draw_depth(found: Measurement, k: int) -> Chart:
    """How far back the loss at each step reaches."""
    steps = list(range(found.exact.steps))
    parts: list[Line | Mark] = [
        Line(s.name, steps, s.depth, *_LOOKS[s.name]) for s in found.by_k[k]
    ]
    return Chart(
        "What each loss sees", [Line("Full", steps, found.seen[0].depth, "sky"), *parts],
        x="time step of the loss", y="steps back", xlim=(0, len(steps) - 1), ylim=(0, len(steps)),
        caption="Truncated starts over at every chunk: its first losses see next to nothing. Windowed "
        "goes on seeing about half of K, for twice the steps.",
    )  # fmt: skip


def list_estimators(found: Measurement, k: int) -> str:
    """Every estimator in a row: bias beside cost."""
    heads = ("on the same batch", "distance", "cosine", "steps run", "steps kept")
    rows = [
        (
            s.form,
            _distance(s.bias),
            f"{s.cosine:.3f}",
            str(s.run),
            f"{s.kept}{s.beside and f' + {s.beside}'}",
        )
        for s in (*found.seen, *found.by_k[k])
    ]
    return table(heads, rows)


def tell(found: Measurement, k: int) -> tuple[str, ...]:
    """The same in words."""
    horizon, bias = found.exact.horizon(), found.exact.bias_of(k)
    chunk, window, _ = found.by_k[k]
    if k >= found.exact.steps:
        first = f"K is the whole sequence, T = {k}: nothing is left out."
    else:
        where = "within" if k >= horizon else "short of"
        first = (
            f"K = {k} is {where} the horizon of {horizon} steps: with every loss reaching its own step "
            f"and {k - 1} before it, the gradient is {percent(bias)} off."
        )
    second = (
        f"Chunks of {k} are {percent(chunk.bias)} off, because only the last loss of a chunk sees all of "
        f"it; a window of {k} moved on by {(k + 1) // 2} is {percent(window.bias)} off, and ran "
        f"{window.run} steps in place of {chunk.run}."
    )
    third = (
        "Full, Checkpointed and ForwardMode are the same gradient; they differ in what they keep. "
        f"Checkpointed runs most steps twice; ForwardMode goes forward only, with an influence of "
        f"{thousands(found.seen[-1].numbers)} numbers a lane, whatever T."
    )
    return first, second, third


def _text() -> tuple[CharVocabulary, Any]:
    text = default_text()[:TEXT]
    vocabulary = CharVocabulary.from_text(text)
    return vocabulary, vocabulary.encode(text)


def _ids(tokens: Any) -> Tensor:
    return torch.as_tensor(tokens).long()


def _gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _distance(value: float) -> str:
    return "0" if value < 1e-9 else percent(value)
