"""The text that a trained model is asked about: a file, or what its run held out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from bptt.data import Corpus, Stream, Vocabulary, count_unknown
from bptt.data.source import Reading
from bptt.errors import ArgumentError
from bptt.shown.console import Console
from bptt.training.build import reading, texts_beside
from bptt.training.restore import open_own_text
from bptt.training.settings import Settings

NAMED = 5  # unknown characters that are named


@dataclass(frozen=True)
class Text:
    """A text that was opened.

    Attributes:
        stream: its tokens.
        name: what to call it.
        unknown: the characters that the model does not know, with how often, the most frequent first.
    """

    stream: Stream
    name: str
    unknown: dict[str, int]


def open_text(
    command: str,
    run: str,
    settings: Settings,
    vocabulary: Vocabulary,
    *,
    file: str | None = None,
    own: Sequence[str] = (),
    line_ends: Reading | None = None,
) -> Text:
    """Read the text that a command is about.

    Args:
        command: its name.
        run: the run folder.
        settings: of the run.
        vocabulary: of the run.
        file: a text, whole; None for the part that the run held out.
        own: where the run's own text is now, if not where it was.
        line_ends: how to read those of ``file``; None: as the run read its own.

    Raises:
        ArgumentError: no file, and the run holds nothing out; options that do not go together.
        DataError: the file cannot be read.
        RunError: the run's own text is not there, or another text is.
    """
    if file is None:
        if line_ends is not None:
            raise ArgumentError(
                "--line-ends with a FILE",
                "none",
                "leave it out: the run's own text is read as it was",
            )
        corpus = own_text(command, run, settings, vocabulary, own)
        if corpus.valid is None:
            raise ArgumentError("a file", "none, and the run holds nothing out", "name a text")
        begin, files = len(corpus.train.tokens), corpus.names if settings.files or own else ()
        unknown = _unknown(corpus, vocabulary, files, settings.line_ends, begin)
        return Text(corpus.valid, "the held-out part", unknown)
    if own:
        raise ArgumentError(
            "a FILE, or --text with the run's own text", "both", "leave one of them out"
        )
    line_ends = settings.line_ends if line_ends is None else line_ends
    corpus = Corpus.open(
        [file],
        vocabulary=vocabulary,
        valid_fraction=0.0,
        document_separator=settings.documents,
        line_ends=line_ends,
        cache=texts_beside(Path(run)),
        progress=reading.get(),
    )
    return Text(corpus.train, file, _unknown(corpus, vocabulary, (file,), line_ends, 0))


def own_text(
    command: str, run: str, settings: Settings, vocabulary: Vocabulary, own: Sequence[str] = ()
) -> Corpus:
    """The text that a run was trained on, for a command that takes ``--text``."""
    again = f"bptt {command} {shlex.quote(run)} --text FILE"
    remedy = f"restore it, or name the file that holds it now: {again}"
    return open_own_text(run, settings, vocabulary, remedy, own)


def _unknown(
    corpus: Corpus, vocabulary: Vocabulary, files: Sequence[str], line_ends: Reading, begin: int
) -> dict[str, int]:
    """The text is read once more, but only where something is unknown."""
    if not corpus.unknown:
        return {}
    return count_unknown(files, vocabulary, line_ends=line_ends, begin=begin)


def unknown_lines(text: Text, again: str | None) -> list[str]:
    """What to say of the characters that the model does not know.

    Args:
        text: which has them.
        again: the command that was given, for a text whose line ends may be read otherwise.
    """
    total = sum(text.unknown.values())
    if not total:
        return []
    named = ", ".join(f"{symbol!r} {n:,}" for symbol, n in list(text.unknown.items())[:NAMED])
    if len(text.unknown) > NAMED:
        named += f" and {len(text.unknown) - NAMED:,} more symbols"
    lines = [f"{total:,} of them are unknown to the model and scored as one symbol: {named}"]
    if "\r" in text.unknown and again is not None:
        lines.append(
            r"its line ends are not those the model knows; to read \r\n and \r as \n: "
            f"{again} --line-ends unix"
        )
    return lines


LARGE = 64 << 20  # bytes: texts from here on are encoded into a folder, which takes a while


class _Bar:
    """A bar that begins with the first large text, and a line where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console, self._said = console, False
        self._bar = Progress(
            TextColumn("reading the text"),
            BarColumn(bar_width=16),
            DownloadColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )

    def __call__(self, done: int, total: int) -> None:
        if total < LARGE:
            return
        if not self._said:
            self._said = True
            words = "reading the text, once; later commands find it encoded beside the run"
            self._console.print(words, soft_wrap=True)
            if self._console.is_terminal:
                self._bar.start()
                self._bar.add_task("", total=total)
        if self._bar.task_ids:
            self._bar.update(self._bar.task_ids[0], completed=done)

    def stop(self) -> None:
        if self._bar.task_ids:  # one that never began would leave an empty line
            self._bar.stop()


@contextmanager
def shown_reading() -> Iterator[None]:
    """Show on stderr how far a large text has been read, for as long as the block runs."""
    bar = _Bar(Console(stderr=True))
    token = reading.set(bar)
    try:
        yield
    finally:
        reading.reset(token)
        bar.stop()
