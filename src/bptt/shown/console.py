"""The terminal's styled output: rich, where a text is a text and never a command."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TextIO, cast

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType, RenderHook
from rich.file_proxy import FileProxy
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from bptt.shown.text import Shown, printable, unescaped


class Console(RichConsole):
    """A console that shows every text as it is: no markup in it is obeyed, no name becomes a picture,
    and control characters are escaped, while the styles and the cursor are the console's own.

    Args:
        stderr: write there; default stdout.
        options: of ``rich.console.Console``.

    Example:
        >>> import io
        >>> file = io.StringIO()
        >>> Console(file=file, width=60).print("[bold]\x1b[2J :smile:")
        >>> file.getvalue()
        '[bold]\\\\x1b[2J :smile:\\n'
    """

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        stream = unescaped(sys.stderr if stderr else sys.stdout)
        plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
        super().__init__(**{"file": stream, **plain, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as rich draws it; escaped before it is laid out, so that columns stay columns."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What is written, piece by piece; here nothing passes that came by another way."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print. No word of a table is cut: where they need it, it is wider than the terminal."""
        if len(objects) == 1 and isinstance(objects[0], Table):
            width = self._fit(objects[0])
            if width > self.width:
                super().print(_Wide(objects[0], width), **{**options, "crop": False})
                return
        super().print(*objects, **options)

    def _fit(self, table: Table) -> int:
        """Give every column room for its longest word, and share out what is left; the table's width."""
        room = self.options.update_width(_ENDLESS)
        needs = []
        for column in table.columns:
            sizes = [Measurement.get(self, room, cell) for cell in (column.header, *column.cells)]
            least = max(column.min_width or 0, *(size.minimum for size in sizes))
            most = max(least, *(size.maximum for size in sizes))
            needs.append((most if column.no_wrap else least, most))
        whole = Measurement.get(self, room, table).maximum
        if whole <= self.width or any(column.width is not None for column in table.columns):
            return whole
        beside = whole - sum(most for _, most in needs)  # borders, and the room between the columns
        left = max(0, self.width - beside - sum(least for least, _ in needs))
        slack = sum(most - least for least, most in needs)
        for column, (least, most) in zip(table.columns, needs, strict=True):
            column.width = least + (left * (most - least) // slack if slack else 0)
        return Measurement.get(self, room, table).minimum

    def push_render_hook(self, hook: RenderHook) -> None:
        """A bar begins to run: rich has put streams of its own in place of stdout and stderr, which
        obey the colours and links of what is written to them. Nothing of that reaches them."""
        super().push_render_hook(hook)
        sys.stdout, sys.stderr = (
            cast(TextIO, Shown(cast(TextIO, stream))) if isinstance(stream, FileProxy) else stream
            for stream in (sys.stdout, sys.stderr)
        )


_ENDLESS = 10_000  # columns


class _Wide:
    """A table as wide as it must be, whatever the terminal is, so that its words can be copied."""

    def __init__(self, table: Table, width: int) -> None:
        self._table, self._width = table, width

    def __rich_console__(
        self, console: RichConsole, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        yield from console.render(self._table, options.update_width(self._width))  # type: ignore[misc]


def plain(text: object, style: str = "") -> Text:
    """A text for a table or a line of any console, in one style.

    Example:
        >>> plain("[red]", "bold").plain
        '[red]'
    """
    return Text(printable(text), style=style)


# How far a long piece of work is: a bar on a terminal, elsewhere a line now and then.

BAR = 16  # columns of the bar, so that numbers have room beside it from 60 columns on
QUIET = 30.0  # seconds after which a log is given a line


def clock(seconds: float) -> str:
    """A time as minutes and seconds, with hours where there are any.

    Example:
        >>> clock(7.4), clock(754), clock(3723)
        ('0:07', '12:34', '1:02:03')
    """
    minutes, rest = divmod(round(min(seconds, 3.6e6)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Pace:
    """How long the rest of a piece of work will take at the pace so far."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None  # when, and how much was done then

    def left(self, share: float) -> str:
        """``1:23 left`` where that is known, else nothing.

        Args:
            share: of the work that is done, from 0 to 1; it may fall, where work is undone.
        """
        now = time.monotonic()
        if self._began is None or share < self._began[1]:
            self._began = now, share
        began, first = self._began
        if share <= first or now - began < 1:
            return ""
        return f"{clock((now - began) * max(1 - share, 0) / (share - first))} left"


class Count:
    """A context that shows on stderr how many of several pieces of work are done, and the time left.

    Args:
        what: the pieces are, in a word.
        total: how many.
        closing: whether a log is told of the last one however soon it is done.
    """

    def __init__(self, what: str, total: int, closing: bool = False) -> None:
        self._what, self._total, self._closing, self._done = what, total, closing, 0
        self._pace, self._spoke = Pace(), time.monotonic()
        self._console = Console(stderr=True)
        self._bar = Progress(
            BarColumn(bar_width=BAR), TextColumn("{task.description}", markup=False),
            console=self._console, transient=True,
        )  # fmt: skip

    def __enter__(self) -> Count:
        self._pace.left(0.0)
        if self._console.is_terminal:
            self._task = self._bar.add_task(f"0 of {self._total} {self._what}", total=self._total)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def advance(self, said: str = "") -> None:
        """One more is done; ``said`` of it, where there is room."""
        self._done += 1
        told = f"{self._done} of {self._total} {self._what}"
        left = "" if self._done == self._total else self._pace.left(self._done / self._total)
        told = ", ".join(part for part in (told, left, said) if part)
        if self._console.is_terminal:
            room = self._console.width - BAR - 1
            self._bar.update(self._task, completed=self._done, description=told[:room])
        elif time.monotonic() - self._spoke >= QUIET or (
            self._closing and self._done == self._total
        ):
            self._spoke = time.monotonic()
            self._console.print(told, soft_wrap=True)
