"""Texts as tokens, and tokens as the chunks that training sees.

Data sets out of packages are fetched by ``bptt.data.fetch.fetch``.
"""

from typing import TYPE_CHECKING

from bptt import hand_on

if TYPE_CHECKING:
    from bptt.data.chunk import IGNORED, Chunk, Position
    from bptt.data.corpus import Corpus, Stream, count_unknown
    from bptt.data.fetch import DATA_SETS, DataSet
    from bptt.data.lanes import Lanes, RandomChunks
    from bptt.data.pieces import BpeVocabulary
    from bptt.data.source import LineEnds, count_line_ends, default_text
    from bptt.data.vocabulary import ByteVocabulary, CharVocabulary, StreamDecoder, Vocabulary
    from bptt.data.words import WordVocabulary, split_words
else:
    hand_on(
        __name__,
        {
            "chunk": ("IGNORED", "Chunk", "Position"),
            "corpus": ("Corpus", "Stream", "count_unknown"),
            "fetch": ("DATA_SETS", "DataSet"),
            "lanes": ("Lanes", "RandomChunks"),
            "pieces": ("BpeVocabulary",),
            "source": ("LineEnds", "count_line_ends", "default_text"),
            "vocabulary": ("ByteVocabulary", "CharVocabulary", "StreamDecoder", "Vocabulary"),
            "words": ("WordVocabulary", "split_words"),
        },
    )

__all__ = [
    "DATA_SETS",
    "IGNORED",
    "BpeVocabulary",
    "ByteVocabulary",
    "CharVocabulary",
    "Chunk",
    "Corpus",
    "DataSet",
    "Lanes",
    "LineEnds",
    "Position",
    "RandomChunks",
    "Stream",
    "StreamDecoder",
    "Vocabulary",
    "WordVocabulary",
    "count_line_ends",
    "count_unknown",
    "default_text",
    "split_words",
]
