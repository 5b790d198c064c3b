"""Line ends and unknown characters: read, counted and named as a plain reading of the text does."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptt.data import ByteVocabulary, CharVocabulary, Corpus, count_line_ends, count_unknown
from bptt.data.source import Source
from bptt.errors import ArgumentError

TEXTS = st.text(st.sampled_from("ab\r\n\ré☃😀"), min_size=1, max_size=40)


def unix(text):
    return text.replace("\r\n", "\n").replace("\r", "\n")


@given(text=TEXTS, block=st.integers(1, 9), as_bytes=st.booleans())
def test_unix_line_ends_across_the_borders_of_blocks(text, block, as_bytes):
    blocks = list(Source.of_text(text, unix=True).blocks(as_bytes, block))
    assert all(len(codes) for codes in blocks)
    found = [code for codes in blocks for code in codes.tolist()]
    wanted = unix(text)
    assert found == (list(wanted.encode()) if as_bytes else [ord(letter) for letter in wanted])


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("separator", [None, "\n\n"])
@pytest.mark.parametrize("in_memory_below", [0, 1 << 20], ids=["encoded on disk", "in memory"])
@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_a_corpus_read_with_unix_line_ends_is_that_of_the_unix_text(
    tmp_path, end, in_memory_below, separator, as_bytes
):
    words = [f"line {n}\n\n" * (n % 3 + 1) for n in range(30)]
    paths = []
    for name, ending in (("mixed", end), ("plain", "\n")):
        paths.append([tmp_path / f"{name}-{n}" for n in range(2)])
        for n, path in enumerate(paths[-1]):
            path.write_text("".join(words[n::2]).replace("\n", ending), newline="")
    common = {
        "bytes_mode": as_bytes, "document_separator": separator, "block": 7,
        "in_memory_below": in_memory_below, "cache": tmp_path / "cache",
    }  # fmt: skip
    corpus = Corpus.open(paths[0], line_ends="unix", **common)
    plain = Corpus.open(paths[1], **common)
    assert corpus.fingerprint() == plain.fingerprint()
    assert corpus.documents == plain.documents == (2 if separator is None else 60)
    kept = Corpus.open(paths[0], **common)  # as it is, beside it in the same cache
    assert (kept.fingerprint() == plain.fingerprint()) == (end == "\n")
    assert len(kept.train.tokens) + len(kept.valid.tokens) == sum(
        path.stat().st_size for path in paths[0]
    )


def test_progress_reaches_its_end_with_unix_line_ends(tmp_path):
    path = tmp_path / "text"
    path.write_text("a line\r\n" * 9, newline="")
    for as_bytes in (False, True):
        calls = []
        Corpus.open(
            path, line_ends="unix", bytes_mode=as_bytes, progress=lambda *c, to=calls: to.append(c)
        )
        assert calls[-1] == (2 * 72, 2 * 72)


def test_another_word_is_refused():
    with pytest.raises(ArgumentError, match="line_ends among keep, unix, received 'dos'"):
        Corpus.from_text("a text", line_ends="dos")


@given(text=TEXTS, as_bytes=st.booleans())
def test_counts_are_those_of_a_plain_search(text, as_bytes):
    vocabulary = ByteVocabulary() if as_bytes else CharVocabulary.from_text(text + "a")
    windows = text.count("\r\n")
    alone = text.count("\r") - windows - text.endswith("\r")
    assert count_line_ends(vocabulary.encode(text), vocabulary) == (windows, alone)


def test_counts_across_the_borders_of_blocks(monkeypatch):
    text = "\r\n\r\r\n\n\r\na\r" * 30
    vocabulary = CharVocabulary.from_text(text)
    tokens = vocabulary.encode(text)
    whole = count_line_ends(tokens, vocabulary)
    assert whole == (90, 59)
    for block in range(1, 12):
        monkeypatch.setattr("bptt.data.source.COUNTED", block)
        assert count_line_ends(tokens, vocabulary) == whole


def test_a_vocabulary_without_a_line_feed_has_returns_alone():
    vocabulary = CharVocabulary.from_text("ab\r")
    assert count_line_ends(vocabulary.encode("a\rb\na\r\nb"), vocabulary) == (0, 2)
    assert count_line_ends(np.zeros(9, np.uint8), CharVocabulary.from_text("ab")) == (0, 0)


@given(text=TEXTS, begin=st.integers(0, 45), as_unix=st.booleans())
def test_unknown_characters_are_counted_by_name(tmp_path_factory, text, begin, as_unix):
    path = tmp_path_factory.getbasetemp() / "unknown.txt"
    path.write_text(text, encoding="utf-8", newline="")
    vocabulary = CharVocabulary.from_text("ab\n")
    reading = "unix" if as_unix else "keep"
    found = count_unknown(path, vocabulary, line_ends=reading, begin=begin)
    read = unix(text) if as_unix else text
    assert found == Counter(letter for letter in read[begin:] if letter not in "ab\n")
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_bytes_know_everything_and_the_default_text_is_read(tmp_path):
    assert count_unknown("nothing there", ByteVocabulary()) == {}
    found = count_unknown(None, CharVocabulary.from_text("abcdefghijklmnopqrstuvwxyz"))
    assert found["\n"] > 1000
