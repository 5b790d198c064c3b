"""The text that a trained model is asked about: a file, or what its run held out."""

from __future__ import annotations

from bptt.data import Corpus, Stream, Vocabulary
from bptt.errors import ArgumentError
from bptt.training.build import open_corpus, texts_folder
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
        return stream, "the held-out part", 0
    corpus = Corpus.open(
        [file],
        vocabulary=vocabulary,
        valid_fraction=0.0,
        document_separator=settings.documents,
        cache=texts_folder(settings),
    )
    return corpus.train, file, corpus.unknown
