"""Work that runs in front of the reader: figures that grow, a stop button, nothing left behind.

A page that trains writes its work as a plain generator of :class:`Tick`, which a test runs through
without a browser, and a function that draws a frame as HTML text. In the notebook, three cells::

    @app.cell
    def _():
        work = live.Work()                                  # one a reader: each has his own session
        return (work,)

    @app.cell
    def _(work):
        train = mo.ui.run_button(label="Train")
        stop = live.stop_button(work)
        steps = mo.ui.slider(…)
        layout.controls(steps=steps, train=train, stop=stop)
        return steps, train

    @app.cell
    def _(steps, train, work):
        work.show(lambda: lab.train(steps.value), lab.draw, when=train.value)

The work runs in a thread of the reader's own session, on one core, so the page goes on answering. It
ends at the first tick after: the stop button; a change of any control the third cell reads (the cell
runs anew); the reader leaving the page (his session ends ``server.LEFT`` seconds later); Ctrl-C. So a
generator yields at least every half second, after every update if it can: a tick that is not drawn
costs nothing.

Work of a second or so that follows a slider is not waited for: leave ``when`` out, and give the reader
``again, stop = live.buttons(work)``. The cell that starts the work reads ``again``, and so runs anew when
it is pressed. What other cells need of the result they read from a ``mo.state`` whose setter is given as
``done``.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from bptt.errors import BpttError
from bptt.lab.server import BUILT, CHAPTERS, available
from bptt.report.chart import Chart
from bptt.report.chart_svg import draw_svg
from bptt.report.words import thousands

# The parts every page is laid out with: head, controls, facts, words, charts, and values for tests.
#
# All of it is HTML text under one class, ``bptt``, styled by ``lab.css``; marimo's elements stand in it.

# What a slider must answer within, seconds (median of a few, measured by the tests).
ANSWER = 0.2


def head(slug: str) -> Any:
    """The page's title and line, and the way to the other pages.

    It is the first a page runs, so the reader's own thread is set to one core of torch here: what a
    slider asks for is small, and a second thread that has to wait for its core makes it ten times slower.
    """
    import marimo

    if marimo.running_in_notebook():
        torch.set_num_threads(1)
    pages = available()
    at = [page.slug for page in pages].index(slug)
    links = ['<a href="/">All pages</a>']
    if at > 0:
        links.append(f'<a rel="prev" href="/{pages[at - 1].slug}/">← {pages[at - 1].title}</a>')
    if at + 1 < len(pages):
        links.append(f'<a rel="next" href="/{pages[at + 1].slug}/">{pages[at + 1].title} →</a>')
    page = pages[at]
    course = chapter(page.chapter)
    return _html(
        f"<nav>{''.join(links)}</nav><h1>{escape(page.title)}</h1>"
        f"<p class='lead'>{escape(page.line)} {course}</p>"
    )


def chapter(name: str) -> str:
    """The way to a chapter of the course: a link where the documentation is built, else its file."""
    words = f"chapter {CHAPTERS.index(name) + 1} of the course"
    if (BUILT / "course" / f"{name}.html").is_file():
        return f'Its mathematics: <a href="/docs/course/{name}.html" target="_blank">{words}</a>.'
    return f"Its mathematics: {words}, docs/course/{name}.md."


def exercises(slug: str) -> str:
    """The page's exercises, each with an answer to open."""
    boxes = "".join(
        f"<details class='exercise'><summary>{escape(one['ask'])}</summary>"
        f"<p>{escape(one['answer'])}</p></details>"
        for one in read_exercises()[slug]
    )
    return f'<div class="title">Exercises</div>{boxes}'


@cache
def read_exercises() -> dict[str, list[dict[str, str]]]:
    """Of every page: questions and answers; a test makes each answer's numbers again."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    text = Path(__file__).with_name("exercises.toml").read_text("utf-8")
    return {slug: table["exercise"] for slug, table in tomllib.loads(text).items()}


def controls(title: str = "", /, **elements: Any) -> Any:
    """Sliders and their like side by side; under each other on a phone.

    Args:
        title: of a group of many small ones, which stand closer.
        elements: marimo's, by name; a test finds one as ``[data-control="NAME"]``.
    """
    cells = "".join(
        f'<div class="control" role="group" aria-label="{escape(name.replace("_", " "))}" '
        f'data-control="{escape(name)}">{element.text}</div>'
        for name, element in elements.items()
    )
    if title:
        columns = 4 if len(elements) % 4 == 0 else 3
        return _html(
            # No <h2>: marimo makes an outline of those, which floats over the page.
            f'<div class="group" role="heading" aria-level="2">{escape(title)}</div>'
            f'<div class="controls small by{columns}">{cells}</div>'
        )
    return _html(f'<div class="controls">{cells}</div>')


def beside(*elements: Any) -> Any:
    """Buttons that belong together, as one control."""
    import marimo

    return marimo.Html(f'<div class="beside">{"".join(e.text for e in elements)}</div>')


def facts(entries: Mapping[str, str]) -> str:
    """Numbers under their names, large."""
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in entries.items()
    )
    return f'<dl class="facts">{cells}</dl>'


def words(*paragraphs: str) -> str:
    """Text; read out by a screen reader when it changes."""
    text = "".join(f"<p>{escape(p)}</p>" for p in paragraphs)
    return f'<div class="words" aria-live="polite">{text}</div>'


def charts(*figures: Chart | str) -> str:
    """Charts side by side, under each other where there is no room; other figures come as HTML text."""
    drawn = "".join(draw_svg(f) if isinstance(f, Chart) else f for f in figures)
    return f'<div class="charts">{drawn}</div>'


def samples(texts: Iterable[tuple[int, str]]) -> str:
    """What a model writes, checkpoint by checkpoint."""
    rows = "".join(
        f"<dt>step {thousands(step)}</dt><dd>{escape(text)}</dd>" for step, text in texts
    )
    return f'<dl class="samples">{rows}</dl>' if rows else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose rows begin with their name."""
    head = "".join(f"<th scope=col>{escape(h)}</th>" for h in heads)
    body = "".join(
        f"<tr><th scope=row>{escape(name)}</th>{''.join(f'<td>{escape(c)}</td>' for c in cells)}</tr>"
        for name, *cells in rows
    )
    return f'<div class="rows"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def values(numbers: Mapping[str, Any]) -> str:
    """Values to the last digit, unseen: ``[data-value="NAME"]`` holds ``repr`` of what the page shows."""
    return "".join(
        f'<span hidden data-value="{escape(name)}">{escape(repr(value))}</span>'
        for name, value in numbers.items()
    )


def show(*parts: str) -> Any:
    """Put parts of HTML text under each other, as a cell's output."""
    return _html("".join(parts))


def _html(text: str) -> Any:
    import marimo

    # A number keeps its unit on its line.
    return marimo.Html(f'<div class="bptt">{text.replace(" %", chr(0xA0) + "%")}</div>')


Frame = TypeVar("Frame")
State = Literal["ready", "running", "done", "stopped", "failed"]

# Between two pictures, seconds: four a second look alive and leave the machine to the work.
APART = 0.25
# The cell that starts the work shows its own output when it ends; pictures come after that.
FIRST = 0.1


@dataclass(frozen=True)
class Tick(Generic[Frame]):
    """How far the work is.

    Attributes:
        done, total: in the work's own unit.
        frame: what there is to be drawn so far.
        fresh: whether the frame is another than the tick's before.
    """

    done: int
    total: int
    frame: Frame
    fresh: bool = True


class Work:
    """One reader's work on one page: at most one piece at a time; the newest ends the one before.

    Attributes:
        state: of the newest piece.
        unit: what ticks count, for the line that says how far it is.
        name: put before the names of the values that tests read, where a page has more than one work.
    """

    def __init__(self, unit: str = "update", name: str = "") -> None:
        self.unit, self.name = unit, name
        self.state: State = "ready"
        self._halt = threading.Event()
        self._thread: threading.Thread | None = None
        self._last: tuple[Tick[Any], float, str] | None = None
        _load()

    def stop(self) -> None:
        """End the piece that runs, at its next tick."""
        self._halt.set()

    def show(
        self,
        make: Callable[[], Iterator[Tick[Frame]]],
        draw: Callable[[Frame], str],
        *,
        when: bool = True,
        done: Callable[[Frame], object] | None = None,
        idle: str = "Press Train.",
    ) -> Any:
        """Run the work and draw it as it comes; the last expression of a notebook's cell.

        Args:
            make: begins the work: a generator that yields often.
            draw: a frame as HTML text, in a few milliseconds.
            when: a run button's value. While it is False nothing is begun; what ran last, which the
                change of a control has stopped, stays to be seen.
            done: called in the thread with the last frame, unless the work was stopped.
            idle: what to say before there is anything.

        Returns:
            the cell's output. Outside of a notebook the work runs through before it returns.
        """
        import marimo as mo

        self.stop()
        if self._thread is not None:
            self._thread.join(timeout=2)  # it draws into this cell no more
        if not when:
            return show(self._still(idle))
        self._halt = halt = threading.Event()
        self.state, self._last = "running", None
        if not mo.running_in_notebook():
            for text in self._pieces(make, draw, done, halt.is_set, float("inf")):
                last = text
            return show(last)
        reader = threading.current_thread()
        mo.output.replace(show(self._line(0, 0, 0.0)))

        def run() -> None:
            torch.set_num_threads(1)  # others read too; and matrices of this size gain nothing
            thread = mo.current_thread()

            def ended() -> bool:
                left = not reader.is_alive() or not threading.main_thread().is_alive()
                return halt.is_set() or thread.should_exit or left

            for text in self._pieces(make, draw, done, ended, APART):
                if not thread.should_exit:
                    mo.output.replace(show(text))

        # Not a daemon: one that is killed inside torch takes the process down with an error.
        self._thread = mo.Thread(target=run)
        self._thread.start()
        return None

    def _pieces(
        self,
        make: Callable[[], Iterator[Tick[Frame]]],
        draw: Callable[[Frame], str],
        done: Callable[[Frame], object] | None,
        ended: Callable[[], bool],
        apart: float,
    ) -> Iterator[str]:
        """Drawn now and then, and at the end."""
        begin = time.monotonic()
        due, tick, drawn, problem = begin + min(FIRST, apart), None, "", ""
        self.state = "running"
        try:
            for tick in make():
                if ended():
                    self.state = "stopped"
                    break
                now = time.monotonic()
                if now >= due:
                    drawn = draw(tick.frame) if tick.fresh or not drawn else drawn
                    self._last = (tick, now - begin, drawn)
                    yield self._line(tick.done, tick.total, now - begin) + drawn
                    due = time.monotonic() + apart
                time.sleep(0)  # the page's own thread may have something to answer
            else:
                self.state = "done"
        except BpttError as error:
            self.state, problem = "failed", words(str(error))
        except BaseException:
            self.state = "failed"
            yield self._line(0, 0, time.monotonic() - begin)
            raise
        seconds = time.monotonic() - begin
        if apart < float("inf"):  # the cell has shown its own output by then
            time.sleep(max(0.0, 2 * FIRST - seconds))
        if tick is None:
            yield self._line(0, 0, seconds) + problem
            return
        self._last = (tick, seconds, draw(tick.frame) + problem)
        yield self._still("")
        if self.state == "done" and done is not None:
            done(tick.frame)

    def _still(self, idle: str) -> str:
        if self._last is None:
            return words(idle) + values({f"{self.name}state": "ready"})
        tick, seconds, drawn = self._last
        return self._line(tick.done, tick.total, seconds) + drawn

    def _line(self, done: int, total: int, seconds: float) -> str:
        count = f"{self.unit} {done} of {total}" if total else f"no {self.unit} yet"
        # Without a maximum a browser's bar only says that something is going on.
        extent = f'value="{done}" max="{total}"' if total else 'value="0" max="1"'
        return (
            f'<div class="live {self.state}"><b role="status">{self.state.title()}</b>'
            f'<progress {extent} aria-label="{escape(count)}"></progress>'
            f"<span>{escape(count)}, {seconds:.1f} s</span></div>"
            + values({f"{self.name}state": self.state, f"{self.name}done": done})
        )


def _load() -> None:
    """What torch loads at an optimiser's first step, two seconds of it that nothing could stop."""
    import marimo as mo

    if mo.running_in_notebook() and "torch._dynamo" not in sys.modules:
        threading.Thread(target=import_module, args=("torch._dynamo",), daemon=True).start()


def stop_button(work: Work, label: str = "Stop") -> Any:
    """A button that ends the work; no cell runs for it, so what is to be seen stays."""
    import marimo as mo

    def stop(count: int) -> int:
        work.stop()
        return count + 1

    return mo.ui.button(value=0, on_click=stop, label=label)


def buttons(work: Work) -> tuple[Any, Any]:
    """Start again and Stop, for work that begins by itself."""
    import marimo as mo

    return mo.ui.run_button(label="Start again"), stop_button(work)


# What torch.nn and bptt.nn fill parameters with.
_DRAWS = {
    "uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_",
    "kaiming_normal_", "orthogonal_", "sparse_", "rand", "rand_like", "randn", "randn_like", "randint",
    "randperm", "bernoulli_",
}  # fmt: skip


class _Drawn(TorchFunctionMode):
    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWS and kwargs.get("generator") is None:
            kwargs = {**kwargs, "generator": self.generator}
        return func(*args, **kwargs)


@contextmanager
def drawn_from(seed: int) -> Iterator[torch.Generator]:
    """Layers built inside begin as after ``torch.manual_seed(seed)``, without touching what others draw.

    Readers' pages are threads of one process and torch's global generator is one for all of them; what
    stands here is the thread's own.

    Args:
        seed: of the generator.

    Returns:
        on entering, the generator.

    Example:
        >>> with drawn_from(3):
        ...     one = torch.nn.Linear(4, 2)
        >>> _ = torch.manual_seed(3)
        >>> bool((one.weight == torch.nn.Linear(4, 2).weight).all())
        True
    """
    generator = torch.Generator().manual_seed(seed)
    with _Drawn(generator):
        yield generator
