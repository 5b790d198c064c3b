"""The text that a trained model is asked about: a file, or what its run held out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from bptt.console import Console
from bptt.data import Corpus, Stream, Vocabulary
from bptt.data.mapped import release
from bptt.data.source import BLOCK
from bptt.errors import ArgumentError
from bptt.training.build import open_corpus, reading, texts_folder
from bptt.training.settings import Settings


def open_text(
    file: str | None, settings: Settings, vocabulary: Vocabulary
) -> tuple[Stream, str, int]:
    """Read it.

    Returns:
        Its tokens, what to call it, and how many of them the vocabulary does not know.

    Raises:
        ArgumentError: no file, and the run holds nothing out.
        DataError: the file cannot be read.
    """
    if file is None:
        stream = open_corpus(settings, vocabulary).valid
        if stream is None:
            raise ArgumentError("a file", "none, and the run holds nothing out", "name a text")
        return stream, "the held-out part", _unknown(stream, vocabulary)
    corpus = Corpus.open(
        [file],
        vocabulary=vocabulary,
        valid_fraction=0.0,
        document_separator=settings.documents,
        cache=texts_folder(settings),
        progress=reading.get(),
    )
    return corpus.train, file, corpus.unknown


def _unknown(stream: Stream, vocabulary: Vocabulary) -> int:
    """How many tokens are the unknown symbol; of a large text a block is held at a time."""
    found, tokens = 0, stream.tokens
    if vocabulary.unknown_id is None:
        return 0
    for begin in range(0, len(tokens), BLOCK):
        found += int(np.count_nonzero(tokens[begin : begin + BLOCK] == vocabulary.unknown_id))
        release(tokens)
    return found


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
