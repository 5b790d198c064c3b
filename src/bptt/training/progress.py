"""The terminal's view of a run: a live line on a terminal, plain ones now and then elsewhere."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from bptt.data.source import count_line_ends
from bptt.shown.console import BAR, QUIET, Console, Pace
from bptt.shown.text import inline, unescaped

if TYPE_CHECKING:
    from bptt.training.evaluate import Look, Score
    from bptt.training.session import Session


class _Output:
    """A stream that may go away: its terminal is closed, its reader ends, its disk is full.

    What is said of a run is worth less than the run, so nothing is raised; ``error`` says what happened.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Pass it on for as long as that goes."""
        try:
            return len(text) if self.error else self._stream.write(text)
        except OSError as error:
            self.error = error
            return len(text)

    def flush(self) -> None:
        """Pass that on too."""
        try:
            if self.error is None:
                self._stream.flush()
        except OSError as error:
            self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class TerminalReporter:
    """Shows a run on the terminal; a context, so that an error leaves the terminal usable.

    Args:
        quiet_stdout: write to stderr, because stdout belongs to a JSON document.
    """

    def __init__(self, quiet_stdout: bool = False) -> None:
        stream = unescaped(sys.stderr if quiet_stdout else sys.stdout)
        # None where the process was started with that stream closed; rich then writes nowhere.
        self._output = None if stream is None else _Output(stream)
        file = cast("IO[str] | None", self._output)
        self._console = Console(file=file, stderr=quiet_stdout)
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._last: dict[str, Any] = {}
        self._pace = Pace()
        self._spoke = time.monotonic()

    def begin(self, run: Path, session: Session) -> None:
        """Say what is trained, on what, and where it goes."""
        corpus, settings = session.corpus, session.settings
        what = settings.cell if settings.model == "recurrent" else settings.model
        parameters = sum(p.numel() for p in session.model.parameters())
        chosen = f"for this text {' '.join(session.chosen)}; " if session.chosen else ""
        held_out = 0 if corpus.valid is None else len(corpus.valid.tokens)
        marked = corpus.documents > 1 or settings.documents is not None
        documents = f", {corpus.documents:,} documents" if marked else ""
        self._console.print(
            f"{what}, {parameters:,} parameters; {inline(', '.join(corpus.names))}: "
            f"{len(corpus.train.tokens):,} tokens to train on, {held_out:,} held out, "
            f"{corpus.vocabulary.size} symbols{documents}; {chosen}{inline(run)}",
            soft_wrap=True,
        )
        plain = settings.tokens in ("char", "byte")  # elsewhere a line's end is a part of a token
        if session.progress.step == 0 and settings.line_ends == "keep" and plain:
            self._say_line_ends(session)
        if self._console.is_terminal:
            self._live = Progress(
                BarColumn(bar_width=BAR),
                TextColumn("{task.description}", markup=False),
                console=self._console,
            )
            self._task = self._live.add_task("the first steps", total=1.0)
            self._live.start()

    def _say_line_ends(self, session: Session) -> None:
        windows, mac = count_line_ends(session.corpus.train.tokens, session.corpus.vocabulary)
        kinds = [rf"{windows:,} of its lines end with \r\n"] if windows else []
        kinds += [rf"{mac:,} \r stand alone"] if mac else []
        if kinds:
            text = rf"{' and '.join(kinds)}: \r is a symbol to learn; --line-ends unix reads each as \n"
            self._console.print(text, markup=False, soft_wrap=True)

    def step(self, progress: float, record: dict[str, Any]) -> None:
        """Move the bar, and show the numbers of the last steps."""
        self._last = {k: v for k, v in self._last.items() if k in _LASTING} | record
        left = self._pace.left(progress)
        before = f"{left}  " if left else ""
        if self._live is not None and self._task is not None:
            told = before + line(self._last, self._console.width - BAR - 1 - len(before))
            self._live.update(self._task, completed=progress, description=told)
        elif time.monotonic() - self._spoke >= QUIET:
            step = f"step {record['step']:>6}  " if "step" in record else ""
            self._print(f"{step}{before}|  {line(self._last)}")

    def _print(self, text: str) -> None:
        self._spoke = time.monotonic()
        self._console.print(text, soft_wrap=True)

    def score(self, step: int, score: Score | None) -> None:
        """Leave a line behind."""
        parts = [f"step {step:>6}"]
        if score is not None:
            pieces = f" in {score.pieces} pieces" if score.pieces > 1 else ""
            parts[0] += f"  held out{pieces} {fixed(score.bits, 3)} bits{per_character(score)}"
        if self._last:
            parts.append(line(self._last))
        self._print("  |  ".join(parts))

    def look(self, step: int, found: Look) -> None:
        """Leave three lines behind, their texts one below the other."""
        begin = f"step {step:>6}  "
        for name, text in (
            ("target", found.target),
            ("predicted", found.predicted),
            ("sample", found.sample),
        ):
            self._console.print(
                f"{begin}{name:<9} |{inline(text)}|", markup=False, highlight=False, soft_wrap=True
            )
            begin = " " * len(begin)

    def note(self, text: str) -> None:
        """Leave a line behind."""
        self._console.print(text, soft_wrap=True)

    def listening(self) -> bool:
        """False once the reader of a pipe has ended; a closed terminal sends a signal of its own."""
        return self._output is None or not isinstance(self._output.error, BrokenPipeError)

    def __enter__(self) -> TerminalReporter:
        return self

    def __exit__(self, *_: object) -> None:
        """Give the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None


_LASTING = ("horizon", "verdict")  # measured now and then; shown until they are measured again


def line(record: dict[str, Any], room: int | None = None) -> str:
    """One line of the numbers that tell how a run goes.

    Args:
        record: a line of the metrics.
        room: columns that there are; the numbers that tell least are left out until the rest fits.

    Example:
        >>> line({"loss": 1.2, "bits": 1.73, "perplexity": 3.32, "norm": 0.41, "clipped": 0.1,
        ...       "tokens_per_second": 81234.0})
        'loss 1.200  1.730 bits  ppl 3.3  |g| 0.41  clipped 10%  81k tokens/s'

    With ``"horizon"`` measured, it stands before the speed: ``horizon 14``, in steps.
    """
    parts = {
        "loss": f"loss {fixed(record['loss'], 3)}",
        "bits": f"{fixed(record['bits'], 3)} bits",
        "perplexity": f"ppl {fixed(record['perplexity'], 1)}",
        "norm": f"|g| {record['norm']:.2g}",
        "clipped": f"clipped {record['clipped']:.0%}",
        "horizon": f"horizon {record['horizon']}" if "horizon" in record else "",
        "skipped": f"skipped {record['skipped']}" if "skipped" in record else "",
        "speed": f"{record['tokens_per_second'] / 1000:.0f}k tokens/s",
    }
    parts = {name: text for name, text in parts.items() if text}
    for least in ("clipped", "perplexity", "norm", "loss", "speed", "skipped", "horizon"):
        if room is None or len("  ".join(parts.values())) <= room:
            break
        parts.pop(least, None)
    return "  ".join(parts.values())


def per_character(score: Score) -> str:
    """What to say of a score whose tokens are no characters."""
    each = score.bits_per_character
    return "" if each is None else f" ({fixed(each, 3)} a character)"


LONG = 1e6


def fixed(value: float, digits: int) -> str:
    """A number with so many digits after the point; one too long to be read, by its power of ten.

    Example:
        >>> fixed(1.23456, 3), fixed(3.187584e24, 3), fixed(float("inf"), 3)
        ('1.235', '3.188e+24', 'inf')
    """
    return f"{value:.{digits}f}" if abs(value) < LONG else f"{value:.{digits}e}"
