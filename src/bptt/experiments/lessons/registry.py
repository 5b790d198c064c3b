"""What a remake is, what making it gives, the list of all of them, how they are run and written down."""

from __future__ import annotations

import csv
import difflib
import io
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import torch

from bptt.errors import ArgumentError, BpttError, optional
from bptt.experiments import count_cores, run_in_processes

# The files that hold remakes, in the order of the lessons.
SECTIONS = ("memory", "unrolled", "jacobians", "first", "programs", "text", "sentence")

LESSONS = {
    "S0": "“BPTT: backprop on the unrolled graph” (tinkering course); the ledger's A",
    "S1": "“Chapter 33: Backpropagation Through Time” (interactive textbook); the ledger's B",
    "S2": "“RNNs and the Vanishing Gradient Problem” (EngineersOfAI); the ledger's C",
    "S3": "“RNNs from Scratch: Backpropagation Through Time and Gradient Clipping” (MathIsimple); the "
    "ledger's D",
    "S4": "a lesson on vanishing gradients that begins with BPTT multiplying Jacobians; the ledger's E",
}

# What making one gives.

Value = float | str


@dataclass(frozen=True)
class Number:
    """One measured number or word, beside the published one where there is one.

    Attributes:
        key: by which pages and tables name it.
        what: it is, with its unit.
        measured: here.
        published: in the lesson; None where it prints none.
        within: how far the two may lie apart and still agree: one unit of the last digit printed, or what
            ``why`` and the settings say.
        why: where they do not agree, what does come out and why; may be given beside numbers that agree.
        again: how far another machine may be off, as a share of the number: rounding adds up where a
            network is trained.

    Example:
        >>> Number("loss", "final loss, nats", 2.0764, 2.0764, 1e-4).agrees
        True
        >>> Number("end", "step", 15.0, 7.0, 0.5, "another threshold").agrees, Number("n", "", 1.0).agrees
        (False, None)
    """

    key: str
    what: str
    measured: Value
    published: Value | None = None
    within: float = 0.0
    why: str = ""
    again: float = 1e-6

    def __post_init__(self) -> None:
        # NumPy's numbers are not JSON's.
        for name in ("measured", "published"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                object.__setattr__(self, name, float(value))

    @property
    def agrees(self) -> bool | None:
        """Whether the published number came out; None where none was published."""
        if self.published is None:
            return None
        if isinstance(self.measured, str) or isinstance(self.published, str):
            return self.measured == self.published
        return abs(self.measured - self.published) <= self.within


def rounding(key: str, what: str, error: float, under: float = 1e-11) -> Number:
    """A difference that is rounding and nothing else: how small it is, and not its digits.

    Example:
        >>> rounding("error", "largest difference", 3e-16).measured
        'under 1e-11'
    """
    return Number(key, what, f"under {under:g}" if error < under else f"{error:.2g}")


@dataclass(frozen=True)
class Curve:
    """Points in a panel: joined by a line, as dots, as bars, or as the outline of a shape.

    ``tone`` names a colour of ``bptt.report.chart``; empty takes the next one.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    kind: str = "line"
    tone: str = ""
    dash: str = ""


@dataclass(frozen=True)
class Level:
    """A straight line across, at ``x`` or at ``y``, with a word to it, on the left if ``start``."""

    word: str
    x: float | None = None
    y: float | None = None
    tone: str = "ink"
    start: bool = False


@dataclass(frozen=True)
class Note:
    """A word at a point."""

    word: str
    x: float
    y: float
    tone: str = "ink"


@dataclass(frozen=True)
class Panel:
    """One picture as numbers; ``bptt.report.remade`` draws it.

    Attributes:
        title: above it.
        curves, levels, notes: what is on it.
        x, y: what the axes count.
        log: whether the y axis is logarithmic.
        xlim, ylim: default what the curves span.
        xticks: places and words; default round numbers.
        bare: a diagram, without axes.
    """

    title: str
    curves: Sequence[Curve]
    x: str = ""
    y: str = ""
    log: bool = False
    levels: Sequence[Level] = ()
    notes: Sequence[Note] = ()
    xlim: tuple[float, float] | None = None
    ylim: tuple[float, float] | None = None
    xticks: Sequence[tuple[float, str]] | None = None
    bare: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of words under heads."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Made:
    """What a remake's function returns.

    Attributes:
        numbers: measured, beside published.
        sentences: what comes out, in words.
        panels: of the figure, side by side.
        tables: what is better read than drawn.
        lines: what the program prints while it runs.
    """

    numbers: Sequence[Number]
    sentences: Sequence[str]
    panels: Sequence[Panel] = ()
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()

    def __post_init__(self) -> None:
        keys = [number.key for number in self.numbers]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise ArgumentError("one number a key", f"{min(twice)!r} twice", "name the second else")


# A remake, and the list of them.


@dataclass(frozen=True)
class Remake:
    """One program, figure, table or exercise of a lesson, and the function that makes it again.

    Attributes:
        name: what it is asked for by.
        lesson: S0 to S4, see :data:`LESSONS`.
        lines: first and last, in the lesson's text.
        shows: in one line.
        settings: data, seeds, sizes, rates and budget, as the lesson has them; what it leaves open is
            said to be ours.
        seconds: about how long it takes, on one core of a machine with two.
        make: makes it.
    """

    name: str
    lesson: str
    lines: tuple[int, int]
    shows: str
    settings: str
    seconds: float
    make: Callable[[], Made]

    @property
    def place(self) -> str:
        """Lesson and lines, e.g. ``S1:318-360``."""
        return f"{self.lesson}:{self.lines[0]}-{self.lines[1]}"

    @property
    def quick(self) -> bool:
        """A few seconds."""
        return self.seconds <= 5


_REGISTERED: dict[str, Remake] = {}


def remake(
    *, name: str, lesson: str, lines: tuple[int, int], shows: str, settings: str, seconds: float
) -> Callable[[Callable[[], Made]], Callable[[], Made]]:
    """Enter a function into the registry; see :class:`Remake` for the arguments."""

    def enter(make: Callable[[], Made]) -> Callable[[], Made]:
        known = _REGISTERED.get(name)
        if known is not None and known.make.__qualname__ != make.__qualname__:
            raise ArgumentError("one function a remake", f"{name} twice", "name the second else")
        _REGISTERED[name] = Remake(name, lesson, lines, shows, settings, seconds, make)
        return make

    return enter


def remakes() -> dict[str, Remake]:
    """Every remake by its name, in the order of the lessons."""
    for section in SECTIONS:
        import_module(f"bptt.experiments.lessons.{section}")
    return {r.name: r for r in sorted(_REGISTERED.values(), key=lambda r: (r.lesson, r.lines))}


def find(names: Iterable[str]) -> list[Remake]:
    """The remakes of these names, in any case of letters; each once.

    Raises:
        ArgumentError: a name is unknown; near ones are named.

    Example:
        >>> [r.name for r in find(["Clipping", "slider", "clipping"])]
        ['clipping', 'slider']
    """
    known = remakes()
    found: dict[str, Remake] = {}
    for name in names:
        one = known.get(name.lower())
        if one is None:
            near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
            words = f"did you mean {', '.join(near)}? " if near else ""
            raise ArgumentError(
                "the name of a remake", f"{name!r:.80}", f"{words}bptt remake --list names them all"
            )
        found[one.name] = one
    return list(found.values())


# Running them: each from the same random state, timed; one that fails takes no other with it.


@dataclass(frozen=True)
class Remade:
    """What became of one remake; numbers by their key: ``made["loss"].measured``.

    Attributes:
        name: of the remake.
        made: what came out; empty where it failed.
        seconds: of processor time it took; on a quiet machine that is the time one waits.
        failed: what went wrong; empty where nothing did.
    """

    name: str
    made: Made
    seconds: float
    failed: str = ""
    panels: Sequence[Panel] = field(init=False)
    tables: Sequence[Table] = field(init=False)
    lines: Sequence[str] = field(init=False)
    sentences: Sequence[str] = field(init=False)
    numbers: Sequence[Number] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("panels", "tables", "lines", "sentences", "numbers"):
            object.__setattr__(self, name, getattr(self.made, name))

    def __getitem__(self, key: str) -> Number:
        for number in self.numbers:
            if number.key == key:
                return number
        raise KeyError(key)


def run_remake(one: Remake) -> Remade:
    """Make one again, on one thread, from seed 0; the caller's random states stay as they were.

    What goes wrong inside stands in ``failed``: one remake must not take the others with it.
    """
    states = random.getstate(), np.random.get_state()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    began = time.process_time()
    try:
        with torch.random.fork_rng():
            random.seed(0)
            np.random.seed(0)
            torch.manual_seed(0)
            made, failed = one.make(), ""
    except BpttError as error:
        made, failed = Made((), ()), str(error)
    except Exception as error:
        made, failed = Made((), ()), f"it failed with {type(error).__name__}: {error}"
    finally:
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])
    return Remade(one.name, made, time.process_time() - began, failed)


def run_remakes(
    asked: Sequence[Remake],
    *,
    jobs: int | None = None,
    done: Callable[[Remade], None] = lambda remade: None,
) -> list[Remade]:
    """Make several again, the longest first, several at a time.

    Args:
        asked: which.
        jobs: at a time; default one a core. One, or one remake alone, runs in this process.
        done: called with each as it ends.

    Returns:
        What became of them, in the order asked.

    Cost: some seconds for each process to import torch.
    """
    jobs = optional("jobs", jobs, 1, "leave it out for one a core") or count_cores()
    found: dict[str, Remade] = {}
    for one in _run_all(asked, jobs):
        found[one.name] = one
        done(one)
    return [found[one.name] for one in asked]


def _run_all(asked: Sequence[Remake], jobs: int) -> Iterator[Remade]:
    if jobs == 1 or len(asked) <= 1:
        yield from map(run_remake, asked)
        return
    longest_first = sorted(asked, key=lambda one: -one.seconds)
    for name, made in run_in_processes(_by_name, [one.name for one in longest_first], jobs):
        yield made if isinstance(made, Remade) else Remade(name, Made((), ()), 0.0, str(made))


def _by_name(name: str) -> Remade:
    """A fresh process imports the registry; a function of one does not travel there."""
    return run_remake(remakes()[name])


# Written down: as JSON, as CSV.


def document(asked: Sequence[Remake], results: Sequence[Remade]) -> list[dict[str, Any]]:
    """All of it as JSON takes it: one entry a remake, numbers by their keys."""
    return [
        {
            "name": one.name,
            "lesson": one.lesson,
            "lines": list(one.lines),
            "shows": one.shows,
            "settings": one.settings,
            "seconds": round(result.seconds, 1),
            "failed": result.failed,
            "numbers": {
                n.key: {**asdict(n), "agrees": n.agrees} for n in result.numbers
            },
            "panels": [_short(asdict(panel)) for panel in result.panels],
            "tables": [asdict(table) for table in result.tables],
            "printed": list(result.lines),
            "sentences": list(result.sentences),
        }
        for one, result in zip(asked, results, strict=True)
    ]  # fmt: skip


def _short(value: Any) -> Any:
    """Points of curves to six digits: no picture shows more."""
    if isinstance(value, dict):
        return {key: _short(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, range, np.ndarray)):
        return [_short(part) for part in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def numbers_csv(result: Remade) -> str:
    """A row for each number: key, what, measured, published, within, agrees, why."""
    rows = [
        (n.key, n.what, n.measured, n.published, n.within or "", word(n.agrees), n.why)
        for n in result.numbers
    ]
    return _csv(("key", "what", "measured", "published", "within", "agrees", "why"), rows)


def curves_csv(result: Remade) -> str:
    """A row for each point of each curve: panel, curve, x, y."""
    rows = [
        (panel.title, curve.name, x, y)
        for panel in result.panels
        for curve in panel.curves
        for x, y in zip(curve.x, curve.y, strict=True)
    ]
    return _csv(("panel", "curve", "x", "y"), rows)


def word(agrees: bool | None) -> str:
    """Whether a published number came out, for a table."""
    return {True: "yes", False: "no", None: ""}[agrees]


def _csv(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    written = io.StringIO()
    lines = csv.writer(written, lineterminator="\n")
    lines.writerow(heads)
    lines.writerows(rows)
    return written.getvalue()
