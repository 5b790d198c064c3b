"""Page *Remember the first*: a network is trained in front of the reader and measured as it learns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import astuple, dataclass, field, replace
from html import escape
from string import ascii_uppercase

import torch

from bptt.experiments.compare.job import PATIENCE, build_gradient, build_model
from bptt.experiments.compare.job import train as practise
from bptt.lab.live import Tick, charts, drawn_from, facts, values, words
from bptt.probes.jacobians import MEMORY_LEFT
from bptt.probes.watch import watch
from bptt.remedies import build_clip
from bptt.report.chart import Chart, Line, Mark, number
from bptt.report.words import percent
from bptt.tasks import RememberFirst

HIDDEN, BATCH, CLIP = 32, 32, "norm:1"
CELLS = {"RNN": "rnn", "ReLU": "rnn-relu", "GRU": "gru", "LSTM": "lstm"}
STARTS = {
    "torch's": "default",
    "orthogonal": "orthogonal",
    "identity": "identity",
    "np": "np",
    "small": "small",
    "radius 0.5": "orthogonal+radius:0.5",
    "radius 1.2": "orthogonal+radius:1.2",
}
GATES = {"torch's": "", "chrono": "chrono", "forget 3": "forget:3"}
OPTIMISERS: dict[str, type[torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "RMSprop": torch.optim.RMSprop,
    "SGD": torch.optim.SGD,
}
# Measured in one run: so often, and on so many lanes of the batch.
POINTS, LANES = 40, 8
# A norm below this share of the largest is not drawn.
FLOOR = 1e-8


@dataclass(frozen=True)
class Setting:
    """What the reader chooses: T, the cell, its start, how it is trained, and for how long at most."""

    steps: int = 20
    cell: str = "rnn"
    start: str = "default"
    optimiser: str = "Adam"
    rate: float = 5e-3
    updates: int = 400
    seed: int = 0

    @property
    def task(self) -> RememberFirst:
        """The task."""
        return RememberFirst(self.steps)

    @property
    def every(self) -> int:
        """Updates from one measurement to the next."""
        return max(1, self.updates // POINTS)


@dataclass(frozen=True)
class Course:
    """What the page shows: a run so far.

    Attributes:
        updates: done so far; ``skipped`` of them had a gradient that was not finite.
        at: the updates after which the accuracy was measured; the gradient is that of the update itself.
        accuracy: on held-out sequences.
        losses: of the batch, in nats.
        horizon: steps from which on a truncated gradient is within 5 % of the whole.
        norms: of the gradient j steps back, j = 0 … T - 1, a row for each of ``at``.
        solved: 99 % accuracy was reached.
    """

    setting: Setting
    updates: int = 0
    skipped: int = 0
    at: tuple[int, ...] = ()
    accuracy: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    horizon: tuple[int, ...] = ()
    norms: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    solved: bool = False

    def shares(self, row: int = -1) -> list[float]:
        """The gradient by lag as shares of the largest."""
        top = max(self.norms[row]) or 1.0
        return [n / top for n in self.norms[row]]


def start_of(cell: str, matrix: str, gates: str, steps: int) -> str:
    """The start's form out of what the controls say; a cell without such gates ignores theirs."""
    extra = GATES[gates]
    if extra == "chrono":
        extra = f"chrono:{max(3, steps)}"
    fits = cell == "lstm" or (cell == "gru" and extra.startswith("chrono"))
    return STARTS[matrix] + (f"+{extra}" if extra and fits else "")


def train(setting: Setting) -> Iterator[Tick[Course]]:
    """Train until it is solved or the updates are spent; a tick after every update.

    The updates are those of :func:`bptt.experiments.compare.job.train`: with Adam and this seed the
    run is the one that ``bptt compare`` makes. In between the gradient by lag of one update in
    ``setting.every`` is measured with :func:`bptt.watch`.

    Cost: one update a tick, a few milliseconds; with a measurement about five times that.
    """
    task, every = setting.task, setting.every
    with drawn_from(setting.seed):
        model = build_model(task, setting.cell, HIDDEN, setting.start)
    kind = OPTIMISERS[setting.optimiser]
    optimizer = kind(model.parameters(), lr=setting.rate)  # type: ignore[call-arg]
    estimator, clip = build_gradient("full", task), build_clip(CLIP)
    run = practise(
        model, lambda: task, optimizer, estimator, clip=clip, seed=setting.seed, batch=BATCH,
        updates=setting.updates,
    )  # fmt: skip
    held_out, course, in_a_row = task.held_out(), Course(setting), 0
    for update in range(1, setting.updates + 1):
        # The output layer begins with zeros: at the first update nothing goes back into the state.
        here = update == 2 or update % every == 0 or update == setting.updates
        with watch(model, lanes=LANES) if here else nullcontext() as flow:
            done = next(run)
        in_a_row = 0 if done.finite else in_a_row + 1
        course = replace(course, updates=update, skipped=course.skipped + (not done.finite))
        if flow is not None and done.finite:
            with torch.no_grad():
                score = task.score(model(held_out.inputs)[0], held_out.targets)
            course = replace(
                course,
                at=(*course.at, update),
                accuracy=(*course.accuracy, score),
                losses=(*course.losses, done.loss),
                horizon=(*course.horizon, flow.horizon),
                norms=(*course.norms, tuple(flow.spectrum.norms.tolist())),
                solved=task.solved(score),
            )
        yield Tick(update, setting.updates, course, fresh=here)
        if course.solved or in_a_row == PATIENCE:
            return


def draw(course: Course) -> str:
    """Everything under the progress line."""
    if not course.at:
        return words(tell(course)) + values({"updates": course.updates, "accuracy": None})
    first = course.shares()[-1]
    return (
        facts(
            {
                "accuracy": percent(course.accuracy[-1]),
                "by chance": percent(course.setting.task.chance),
                "horizon of this update": f"{course.horizon[-1]} of {course.setting.steps} steps",
                "gradient at the first symbol": percent(first)
                if first >= 5e-5
                else number(first, 2),
            }
        )
        + words(tell(course), *explain(course))
        + charts(draw_accuracy(course), draw_lags(course), draw_horizon(course))
        + values(
            {
                "updates": course.updates,
                "accuracy": course.accuracy[-1],
                "horizon": course.horizon[-1],
                "norms": list(course.norms[-1]),
                "solved": course.solved,
            }
        )
    )


def draw_accuracy(course: Course) -> Chart:
    """Accuracy on held-out sequences over the updates."""
    task = course.setting.task
    return Chart(
        "Does it remember?",
        [
            Mark("by chance", y=task.chance),
            Mark("solved", y=task.goal, color="green", start=True),
            Line("", course.at, course.accuracy, dots=len(course.at) < 8),
        ],
        x="updates", y="accuracy", xlim=(0, course.setting.updates), ylim=(0, 1.1),
        caption="Share of 512 sequences it was not trained on whose first symbol is named rightly.",
    )  # fmt: skip


def draw_lags(course: Course) -> Chart:
    """Gradient by lag before training and now."""
    T = course.setting.steps
    lags = list(range(T))
    parts: list[Line | Mark] = [
        Mark("first symbol", x=T - 1),
        Line(f"update {course.at[0]}", lags, course.shares(0), "orange", "dotted"),
    ]
    if len(course.at) > 2:
        middle = len(course.at) // 2
        parts.append(
            Line(f"update {course.at[middle]}", lags, course.shares(middle), "sky", "dashed")
        )
    parts.append(Line(f"update {course.at[-1]}", lags, course.shares(), dots=T < 8))
    shown = [v for part in parts if isinstance(part, Line) for v in part.y if v >= FLOOR]
    return Chart(
        "How far back does the gradient reach?", parts, x="steps back from the answer",
        y="share of the largest", log=True, xlim=(0, max(1, T - 1)),
        ylim=(min([*shown, 0.1]) / 1.5, 2.0),
        caption="Norm of the gradient that the answer's error sends so many steps back. What does not "
        "reach the first symbol cannot teach the network to keep it.",
    )  # fmt: skip


def draw_horizon(course: Course) -> Chart:
    """Horizon over the updates."""
    T = course.setting.steps
    return Chart(
        "Horizon while it learns",
        [
            Mark("the first symbol", y=T, start=True),
            Line("", course.at, course.horizon, "purple", dots=len(course.at) < 8),
        ],
        x="updates", y="steps", xlim=(0, course.setting.updates), ylim=(0, 1.15 * T),
        caption="From so many steps on a truncated gradient is within 5 % of the whole one.",
    )  # fmt: skip


def tell(course: Course) -> str:
    """The run in a sentence or two."""
    T = course.setting.steps
    if not course.at:
        return (
            f"The gradient of all {course.updates} updates so far was not finite, so none was made: "
            "start with a smaller radius."
        )
    lost = ""
    if course.skipped:
        lost = f" {course.skipped} updates were left out: their gradient was not finite."
    first = course.shares()[-1]
    if course.solved:
        return (
            f"Solved after {course.updates} updates: it names the first of {T} symbols in "
            f"{percent(course.accuracy[-1])} of the sequences.{lost}"
        )
    if first < MEMORY_LEFT:
        return (
            f"After {course.updates} updates the first symbol's part of the gradient is "
            f"{number(first, 2)} of the largest: it vanishes on the way, and the network hears next to "
            f"nothing of what it should keep.{lost}"
        )
    return (
        f"After {course.updates} updates the gradient does reach the first symbol, with "
        f"{percent(first)} of its largest norm; what it needs now is time.{lost}"
    )


def explain(course: Course) -> tuple[str, ...]:
    """How right answers and a horizon short of the first symbol go together."""
    T, now = course.setting.steps, course.horizon[-1]
    if now >= T or not course.accuracy[-1] > (1 + course.setting.task.chance) / 2:
        return ()
    reached = max(course.horizon)
    before = f" It has been up to {reached} on the way." if reached > now else ""
    return (
        f"An accuracy of {percent(course.accuracy[-1])} and a horizon of {now} of {T} steps do not "
        "contradict each other. The accuracy says what the weights have learned. The horizon says how "
        "far back the gradient of this one update comes from: cut after so many steps, it would be "
        f"within 5 % of the same. The network keeps the symbol over all {T} steps; the little error that "
        f"is left corrects its last steps.{before}",
    )


def draw_task(setting: Setting, count: int = 20) -> str:
    """One sequence of the task as letters: the first to be kept, and the answer."""
    inputs, targets, _, _ = setting.task.batch(torch.Generator().manual_seed(setting.seed), 1)
    letters = [ascii_uppercase[int(i)] for i in inputs[:, 0].argmax(-1)]
    answer = ascii_uppercase[int(targets[-1, 0])]
    if len(letters) > count:
        letters = [*letters[: count - 4], "…", *letters[-3:]]
    cells = "".join(
        f"<i{' class=keep' if n == 0 else ''}>{escape(c)}</i>" for n, c in enumerate(letters)
    )
    said = f"A sequence of {setting.steps} symbols beginning with {answer}; the answer is {answer}."
    return (
        f'<p class="symbols" role="img" aria-label="{said}">{cells}<b>→ {answer} ?</b></p>'
        + values({"setting": list(astuple(setting)[:-1])})
    )
