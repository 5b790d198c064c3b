"""The characters of a text that a vocabulary does not know, by name.

In a stream of tokens they are one symbol; which ones they were stands in the text only.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from bptt.data.corpus import Files, sources_of
from bptt.data.line_ends import Reading
from bptt.data.vocabulary import Vocabulary


def count_unknown(
    files: Files | None, vocabulary: Vocabulary, *, line_ends: Reading = "keep", begin: int = 0
) -> dict[str, int]:
    """Count each unknown character of a text.

    Args:
        files: as ``Corpus.open`` takes them; None or none for the default text.
        vocabulary: what is known.
        line_ends: as ``Corpus.open`` takes it.
        begin: characters at the beginning that are left out.

    Returns:
        Character → how often, the most frequent first; empty where nothing can be unknown (bytes).

    Raises:
        DataError: as ``Corpus.open``.

    Cost: one pass over the text; a block in memory.

    Example:
        >>> import tempfile
        >>> from bptt.data import CharVocabulary
        >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        ...     _ = file.write("a rose? arose!!".encode())
        ...     file.flush()
        ...     count_unknown(file.name, CharVocabulary.from_text("a rose"))
        {'!': 2, '?': 1}
    """
    if vocabulary.unknown_id is None:
        return {}
    found: Counter[str] = Counter()
    for source in sources_of(files, line_ends):
        for codes in source.blocks():
            here, begin = codes[begin:], max(begin - len(codes), 0)
            strange = here[vocabulary.lookup(here) == vocabulary.unknown_id]
            points, counts = np.unique(strange, return_counts=True)
            for point, count in zip(points.tolist(), counts.tolist(), strict=True):
                found[chr(point)] += count
    return dict(found.most_common())
