"""Page *Clipping*: one run that explodes, and the same run with its gradient clipped in each way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt.experiments.compare.job import PATIENCE, build_model
from bptt.lab.live import Tick, charts, drawn_from, table, values, words
from bptt.remedies import Clip, Clipped, build_clip
from bptt.remedies.clips import measure
from bptt.report.chart import Chart, Color, Line, Mark, number
from bptt.report.words import percent
from bptt.tasks import Batch, RememberFirst
from bptt.training.fit import fit_step

CELL, STEPS, HIDDEN, BATCH, UPDATES = "rnn-relu", 20, 16, 16, 120
# A norm beyond these is drawn at the edge.
LOW, HIGH = 1e-4, 1e6


@dataclass(frozen=True)
class Way:
    """How a gradient is held: its name, what it does, and the form for a threshold θ."""

    name: str
    does: str
    form: str
    color: Color
    dash: str = ""

    def at(self, threshold: float) -> str:
        """The form :func:`bptt.remedies.build_clip` takes; ``{}`` is a multiple of θ."""
        name, _, share = self.form.partition("*")
        return f"{name}:{threshold * float(share):g}" if share else name


WAYS = (
    Way("not clipped", "The gradient g as it is", "none", "ink"),
    Way("norm", "g becomes g · θ / ‖g‖ where ‖g‖ > θ", "norm*1", "blue"),
    Way("value", "Every element of g within ± θ/10", "value*0.1", "orange", "dashed"),
    Way("rescale", "g becomes g · θ / ‖g‖, always", "rescale*1", "green", "dotted"),
    Way(
        "AutoClip",
        "As norm, with the 10th percentile of the norms so far as θ",
        "auto:10",
        "purple",
    ),
    Way(
        "ZClip",
        "As norm, for what stands 2.5 σ above the recent mean; its first 25 updates it only measures",
        "z:2.5",
        "sky",
        "dashed",
    ),
    Way("unit", "Each unit's g within θ/100 of its own weights", "unit*0.01", "orange", "dotted"),
)


@dataclass(frozen=True)
class Setting:
    """What the reader chooses: threshold θ, SGD's rate, and the spectral radius W_hh begins with."""

    threshold: float = 1.0
    rate: float = 0.03
    radius: float = 1.8
    updates: int = UPDATES
    seed: int = 0


@dataclass
class Track:
    """One way's run so far, a number an update; NaN where there was none."""

    way: Way
    losses: list[float] = field(default_factory=list)
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    acted: int = 0
    skipped: int = 0
    in_a_row: int = 0

    @property
    def lost(self) -> bool:
        """Whether it ended: no finite gradient for twenty updates."""
        return self.in_a_row >= PATIENCE

    @property
    def last(self) -> float:
        """The mean loss of the last ten updates; NaN if one of them had none."""
        return math.fsum(self.losses[-10:]) / max(1, len(self.losses[-10:]))

    @property
    def share(self) -> float:
        """Of the updates in which it changed the gradient."""
        return self.acted / max(1, len(self.losses))


@dataclass(frozen=True)
class Comparison:
    """What the page shows: every way's run, with the same start and the same batches."""

    setting: Setting
    tracks: tuple[Track, ...]

    @property
    def updates(self) -> int:
        """Done so far."""
        return max(len(t.losses) for t in self.tracks)


class Twins(nn.Module):
    """The page's network so many times over, side by side: one product of matrices serves all of them.

    Args:
        start: the network; a ReLU layer under a classifier.
        count: how many.

    Attributes:
        stacks: its parameters in their own order, each ``(count, …)``.
    """

    def __init__(self, start: nn.Module, count: int) -> None:
        super().__init__()
        self.stacks = nn.ParameterList(
            p.detach().expand(count, *p.shape).clone() for p in start.parameters()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Of ``(T, B, I)`` the logits after the last step, ``(count, B, C)``."""
        w, u, b, c, out, bias = self.stacks
        steps = x.unsqueeze(1) @ w.mT + (b + c).unsqueeze(1)
        h, u = torch.zeros_like(steps[0]), u.mT
        for step in steps:
            h = torch.baddbmm(step, h, u).relu()
        return torch.baddbmm(bias.unsqueeze(1), h, out.mT)

    def each(self) -> list[list[Tensor]]:
        """Every network's own parameters, and their gradients in place: views of the stacks."""
        views = [[p[k].detach() for p in self.stacks] for k in range(len(self.stacks[0]))]
        for k, own in enumerate(views):
            for view, p in zip(own, self.stacks, strict=True):
                view.grad = None if p.grad is None else p.grad[k]
        return views


class _Race:
    """All ways' runs, one update at a time."""

    def __init__(self, setting: Setting, task: RememberFirst) -> None:
        with drawn_from(setting.seed):
            start = build_model(task, CELL, HIDDEN, f"orthogonal+radius:{setting.radius!r}")
        self.model = Twins(start, len(WAYS))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=setting.rate)
        self.clips = [build_clip(way.at(setting.threshold)) for way in WAYS]
        self.tracks = tuple(Track(way) for way in WAYS)
        self._losses = [math.nan] * len(WAYS)

    def update(self, batch: Batch) -> None:
        """One update of every way that is not lost."""
        # A clip of our own: it sees each way's gradient alone.
        fit_step(self.model, self.optimizer, batch, self._loss, clip=cast(Clip, self._clip))

    def _loss(self, model: nn.Module, batch: Batch) -> Tensor:
        logits, targets = model(batch.inputs), batch.targets[-1]
        losses = torch.stack([F.cross_entropy(of, targets) for of in logits])
        self._losses = losses.tolist()
        # What is not finite is of no weight: the others' sum goes on.
        return torch.where(losses.isfinite(), losses, 0.0).sum()

    def _clip(self, _: Iterable[Tensor]) -> Clipped:
        """Clip each way by its own; a gradient that is not finite becomes none at all."""
        for track, clip, loss, own in zip(
            self.tracks, self.clips, self._losses, self.model.each(), strict=True
        ):
            if track.lost:
                _drop(own)
                continue
            seen = clip(own) if math.isfinite(loss) else None
            finite = seen is not None and seen.finite
            if not finite:
                _drop(own)
            acted = finite and seen is not None and seen.acted
            before = seen.norm.item() if finite and seen is not None else math.nan
            track.losses.append(loss if math.isfinite(loss) else math.nan)
            track.before.append(before)
            track.after.append(measure(own)[1].item() if acted else before)
            track.acted += acted
            track.skipped += not finite
            track.in_a_row = 0 if finite else track.in_a_row + 1
        return Clipped(torch.zeros(()), None)


def _drop(parameters: list[Tensor]) -> None:
    for p in parameters:
        if p.grad is not None:
            p.grad.zero_()


def compare(setting: Setting) -> Iterator[Tick[Comparison]]:
    """Train all ways side by side on remember-first (T = 20, a ReLU RNN of 16 units, SGD).

    An update whose gradient is not finite is left out, as every trainer of this package does; a run
    that had twenty of them in a row is over.

    Cost: an update of every way a tick, about three milliseconds.
    """
    task = RememberFirst(STEPS)
    race = _Race(setting, task)
    found = Comparison(setting, race.tracks)
    generator = torch.Generator().manual_seed(setting.seed)
    for update in range(1, setting.updates + 1):
        race.update(task.batch(generator, BATCH))
        yield Tick(update, setting.updates, found)


def draw(found: Comparison) -> str:
    """Everything under the progress line."""
    return (
        words(*tell(found))
        + charts(draw_losses(found), *(draw_norms(found, track) for track in found.tracks))
        + list_ways(found)
        + values(
            {
                "setting": [float(v) for v in astuple(found.setting)[:3]],
                "last": [_plain(t.last) for t in found.tracks],
                "before": [[_plain(v) for v in t.before] for t in found.tracks],
                "after": [[_plain(v) for v in t.after] for t in found.tracks],
                "acted": [t.acted for t in found.tracks],
            }
        )
    )


def draw_losses(found: Comparison) -> Chart:
    """Loss over the updates, all ways in one."""
    chance = math.log(RememberFirst(STEPS).alphabet)
    parts: list[Line | Mark] = [Mark("a guess", y=chance)]
    for track in found.tracks:
        name, color, dash = track.way.name, track.way.color, track.way.dash
        parts.append(Line(name, _updates(track), track.losses, color, dash))  # type: ignore[arg-type]
    shown = [v for t in found.tracks for v in t.losses if math.isfinite(v) and v > 0]
    low, high = min([*shown, chance]), max([*shown, chance])
    return Chart(
        "Loss over the updates", parts, x="updates", y="nats", log=True,
        xlim=(0, found.setting.updates), ylim=(max(low, 0.01) / 1.5, min(high, 100.0) * 1.5),
        caption="The same start, the same batches. A loss beyond 150 nats is off the chart.",
    )  # fmt: skip


def draw_norms(found: Comparison, track: Track) -> Chart:
    """One way's norm before and after."""
    way, at = track.way, _updates(track)
    shown = [
        v for t in found.tracks for v in (*t.before, *t.after) if math.isfinite(v) and v > LOW
    ] or [1.0]
    parts: list[Line | Mark] = []
    if way.form in ("norm*1", "rescale*1"):
        parts.append(Mark("θ", y=found.setting.threshold, color="green", start=True))
    parts.append(Line("norm before", at, _within(track.before), "orange", "dotted"))
    parts.append(Line("after", at, _within(track.after), "blue"))
    return Chart(
        way.name[0].upper() + way.name[1:], parts, x="updates", y="norm of the gradient", log=True,
        xlim=(0, found.setting.updates),
        ylim=(max(LOW, min(shown)) / 1.5, min(HIGH, max(shown)) * 1.5),
        caption=f"{way.does}. Acted in {percent(track.share)} of the updates.",
    )  # fmt: skip


def list_ways(found: Comparison) -> str:
    """Every way in a row."""
    heads = ("way", "loss, last ten", "acted", "longest before", "longest after")
    rows = [
        (t.way.name, _loss(t), percent(t.share), _most(t.before), _most(t.after))
        for t in found.tracks
    ]
    return table(heads, rows)


def tell(found: Comparison) -> tuple[str, ...]:
    """The comparison in sentences."""
    chance = math.log(RememberFirst(STEPS).alphabet)
    bare, others = found.tracks[0], found.tracks[1:]
    peak = _peak(bare.before)
    bad = bare.lost or not bare.last <= 1.5 * chance
    if bad:
        first = f"Unclipped, the run explodes: its longest finite gradient is {number(peak, 2)}" + (
            ", and then nothing is finite any more." if bare.lost else " long."
        )
    else:
        first = (
            f"Unclipped, the run holds, with gradients up to {number(peak, 2)} long: raise the radius or "
            "the rate to see it explode."
        )
    good = [t.way.name for t in others if not t.lost and t.last <= 1.5 * chance]
    learned = [t.way.name for t in others if t.last < 0.9 * chance]
    second = (f"Held in bounds by: {', '.join(good)}. " if good else "No clip holds it here. ") + (
        f"Better than a guess by now: {', '.join(learned)}."
        if learned
        else "None is better than a guess by now: a clip keeps a run alive, it teaches it nothing."
    )
    return first, second


def _updates(track: Track) -> list[float]:
    return [float(n) for n in range(1, len(track.losses) + 1)]


def _within(numbers: list[float]) -> list[float]:
    return [min(max(v, LOW), HIGH) if math.isfinite(v) else v for v in numbers]


def _peak(numbers: list[float]) -> float:
    return max((v for v in numbers if math.isfinite(v)), default=0.0)


def _most(numbers: list[float]) -> str:
    return number(_peak(numbers))


def _loss(track: Track) -> str:
    return "lost" if track.lost or not math.isfinite(track.last) else number(track.last)


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
