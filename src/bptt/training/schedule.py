"""How far a run has come, the learning rate that belongs there, and the signals that end it."""

from __future__ import annotations

import math
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bptt.training.settings import Settings

# Signals that end a run: the first one asks, and until its checkpoint is written all others wait.
#
# SIGINT (Ctrl-C), SIGTERM (a scheduler) and SIGHUP (the terminal was closed) are treated alike. A second
# one changes nothing: people press Ctrl-C twice, and a closed terminal is told by the kernel and by the
# shell. SIGQUIT and SIGKILL end a process at once, as ever.
#
# A signal that is ignored when the run begins stays so: ``nohup`` means a run to outlive its
# terminal, and a shell keeps the keyboard's Ctrl-C from what it runs in the background.

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP


@contextmanager
def until_interrupted() -> Iterator[Callable[[], bool]]:
    """For as long as the block runs, turn these signals into a flag; afterwards they act as before.

    Yields:
        Whether one has come.

    Only the main thread may do this; in another one the flag is never set.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # None: set by something that is not Python, which could not be put back.
    taken = [n for n, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in taken:
        signal.signal(number, lambda number, frame: asked.set())
    try:
        yield asked.is_set
    finally:
        for number in taken:
            signal.signal(number, before[number])


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let a short block come to its end, and only then interrupt: an exception in the middle of reading a
    checkpoint would be told as damage to it.

    Raises:
        KeyboardInterrupt: after the block, where a signal has come.
    """
    with until_interrupted() as asked:
        yield
    if asked():
        raise KeyboardInterrupt


# How far a run has come, how often it is scored, and the learning rate that belongs there.

SCORES = 10  # held-out scores in a run, unless the settings say otherwise
SHARE = 0.1  # of a run's time that they may take
QUICK = 1 << 14  # tokens: a held-out text up to this length is scored in no time


def scores_in(settings: Settings, trained_on: int, held_out: int) -> int:
    """Held-out scores in a run by steps or epochs: ten, or as many as a tenth of its time has room for.

    Counted in tokens, so that it is the same in every repetition of the run: an update goes forward and
    twice as long back, a score forward alone.

    Args:
        settings: of the run, with all sizes chosen.
        trained_on, held_out: tokens of the two parts of the text.

    Example:
        >>> [scores_in(Settings(steps=n), 400_000, 46_000) for n in (100, 500, 5000)]
        [1, 3, 10]
    """
    if held_out <= QUICK or settings.minutes is not None:
        return SCORES
    if settings.steps is not None:
        tokens = float(settings.steps * settings.lanes * settings.steps_per_update)
    else:
        tokens = (settings.epochs or 0.0) * trained_on
    return int(max(1, min(SCORES, SHARE * 3 * tokens / held_out)))


@dataclass(frozen=True)
class Spent:
    """What a run has spent up to some moment, in the units of every kind of budget.

    A share of a budget would not do: the budget may be another one when the run goes on.
    """

    steps: int = 0
    epochs: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Budget:
    """What ends a run: updates, passes over the text, or time; exactly one of them is given."""

    steps: int | None
    epochs: float | None
    minutes: float | None

    @classmethod
    def of(cls, settings: Settings) -> Budget:
        """The budget that the settings name."""
        return cls(settings.steps, settings.epochs, settings.minutes)

    def progress(self, steps: int, epochs: float, seconds: float) -> float:
        """Share of the budget that is spent, 0…1.

        By steps or epochs it is the same in every repetition of a run; by minutes it depends on the
        machine, and so does all that follows from it.

        Example:
            >>> Budget(steps=200, epochs=None, minutes=None).progress(50, 0.1, 3.0)
            0.25
        """
        if self.steps is not None:
            share = steps / self.steps
        elif self.epochs is not None:
            share = epochs / self.epochs
        elif self.minutes is not None:
            share = seconds / (60 * self.minutes)
        else:
            share = 1.0
        return min(share, 1.0)

    def share(self, spent: Spent) -> float:
        """The same, of what a run has spent.

        Example:
            >>> half = Spent(steps=50, epochs=0.5, seconds=30.0)
            >>> [Budget(*kind).share(half) for kind in ((100, None, None), (None, None, 2.0))]
            [0.5, 0.25]
        """
        return self.progress(spent.steps, spent.epochs, spent.seconds)

    def __str__(self) -> str:
        """As it is typed.

        Example:
            >>> str(Budget(None, None, 0.3))
            '--minutes 0.3'
        """
        names = (("steps", self.steps), ("epochs", self.epochs), ("minutes", self.minutes))
        return " ".join(f"--{name} {value}" for name, value in names if value is not None)


def rate(progress: float, peak: float, warmup: float, decay: str) -> float:
    """Learning rate at a share of the run: a linear rise to the peak, then a fall to zero.

    A run that is given more than it was begun with is at a smaller share again, so its rate rises to
    where the longer schedule has it, and falls from there.

    Args:
        progress: 0…1.
        peak: the highest rate.
        warmup: share of the run over which it rises.
        decay: ``"cosine"``, ``"linear"`` or ``"none"`` (stays at the peak).

    Example:
        >>> [round(rate(p, 1.0, 0.2, "linear"), 2) for p in (0.1, 0.2, 0.6, 1.0)]
        [0.5, 1.0, 0.5, 0.0]

    Source: I. Loshchilov and F. Hutter, 2017, SGDR: stochastic gradient descent with warm restarts
    (the cosine).
    """
    if progress < warmup:
        return peak * progress / warmup
    if decay == "none":
        return peak
    fallen = (progress - warmup) / (1 - warmup)
    return peak * (1 - fallen if decay == "linear" else 0.5 * (1 + math.cos(math.pi * fallen)))


def nothing_left(budget: Budget, spent: Spent, without_best: int, run: Path) -> str:
    """What is said where a run is to go on that has nothing left to spend.

    Args:
        budget: of the run as it was asked to go on.
        spent: by it so far.
        without_best: scores in a row without a new best.
        run: its folder.
    """
    again = f"bptt train --resume {shlex.quote(str(run))}"
    if budget.share(spent) < 1:
        said = f"nothing is trained: {without_best} scores in a row were no new best"
        return f"{said}; to go on: {again} --patience 0, or with a larger budget"
    done, more = f"{spent.steps:,} steps are", f"--steps {2 * spent.steps}"
    if budget.minutes is not None:
        done, more = f"{spent.seconds / 60:.3g} minutes are", f"--minutes {spent.seconds / 30:.2g}"
    elif budget.epochs is not None:
        done, more = f"{spent.epochs:.3g} epochs are", f"--epochs {2 * spent.epochs:.3g}"
    return f"nothing is trained: {budget} is spent, {done} done; to go on: {again} {more}"


@dataclass
class Tally:
    """Sums over the steps since the last line of the metrics."""

    steps: int = 0
    tokens: int = 0
    nats: float = 0.0
    norms: float = 0.0
    norms_clipped: float = 0.0
    clipped: int = 0
    penalty: float = 0.0
    unregularised: int = 0
    skipped: int = 0
    seconds: float = 0.0


@dataclass
class Progress:
    """The numbers of a run that a checkpoint keeps."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    scored: Spent = field(default_factory=Spent)  # when a score was last due
    best_nats: float = math.inf
    best_step: int | None = None
    without_best: int = 0
    tally: Tally = field(default_factory=Tally)
    horizon: dict[str, Any] | None = None  # measured since the last line of the metrics
    skipped: int = 0  # chunks whose update was not finite, up to the last line of the metrics
    skips: int = 0  # in a row
    rollbacks: int = 0
    stopped: str | None = None  # by the update that comes next: "gradient", or "update" itself
