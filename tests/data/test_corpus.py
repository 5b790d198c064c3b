"""Corpora: the split, the vocabulary of the training part, documents, the cache."""

from __future__ import annotations

import itertools
import json
import os
import subprocess

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bptt.data import ByteVocabulary, CharVocabulary, Corpus, default_text
from bptt.errors import ArgumentError, DataError, DtypeError
from processes import interpreter

# A machine under load, or the first use of its tables of characters, is no fault of the code.
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=20, max_size=120)


def starts_by_loop(text, separator):
    """Where documents begin, by looking at every position: the slow oracle."""
    size, after = len(separator), []
    for place in range(len(text) - size + 1):
        touches = any(text[p : p + size] == separator for p in range(place + 1, place + size + 1))
        if text[place : place + size] == separator and not touches and place + size < len(text):
            after.append(place + size)
    return sorted({0, *after})


def write(folder, *contents):
    paths = []
    for number, content in enumerate(contents):
        path = folder / f"{number}.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        paths.append(path)
    return paths


def joined(corpus):
    return np.concatenate([corpus.train.tokens, corpus.valid.tokens])


@relaxed
@given(text=texts, block=st.integers(1, 9), as_bytes=st.booleans())
def test_files_read_in_small_blocks_are_the_text(tmp_path_factory, text, block, as_bytes):
    (path,) = write(tmp_path_factory.mktemp("text"), text)
    corpus = Corpus.open(path, bytes_mode=as_bytes, block=block)
    whole = text.encode() if as_bytes else text
    border = int(0.9 * len(whole))
    assert len(corpus.train.tokens) == border
    assert len(corpus.valid.tokens) == len(whole) - border
    if as_bytes:
        assert joined(corpus).tobytes() == whole
        return
    known = set(text[:border])
    expected = "".join(c if c in known else "\ufffd" for c in text)
    assert corpus.vocabulary.decode(joined(corpus)) == expected
    assert corpus.vocabulary.symbols == ("\ufffd", *sorted(known - {"\ufffd"}))
    assert corpus.unknown == expected.count("\ufffd")


@relaxed
@given(
    text=st.text("ab\né☃", min_size=20, max_size=80),
    separator=st.sampled_from(["\n", "\n\n", "a", "aba", "ab\nab", "é", "☃a", "\n☃\n"]),
    block=st.integers(1, 7),
    as_bytes=st.booleans(),
)
def test_documents_begin_after_separators(tmp_path_factory, text, separator, block, as_bytes):
    (path,) = write(tmp_path_factory.mktemp("text"), text)
    corpus = Corpus.open(
        path,
        document_separator=separator,
        block=block,
        bytes_mode=as_bytes,
        valid_fraction=0,
        vocabulary=None if as_bytes else CharVocabulary.from_text("ab\n"),
    )
    assert corpus.valid is None
    whole = (text.encode(), separator.encode()) if as_bytes else (text, separator)
    assert corpus.train.starts.tolist() == starts_by_loop(*whole)


def test_the_split_of_several_files():
    corpus = Corpus.from_text("x" * 95 + "\n\n" + "y" * 3, document_separator="\n\n")
    assert corpus.train.starts.tolist() == [0]
    assert corpus.valid.starts.tolist() == [0, 7]
    assert corpus.vocabulary.symbols == ("\ufffd", "x")
    assert corpus.unknown == 5


def test_files_follow_each_other_as_documents(tmp_path):
    paths = write(tmp_path, "one two", "three", "four five six")
    corpus = Corpus.open(paths, valid_fraction=0.25)
    assert corpus.names == tuple(map(str, paths))
    assert corpus.train.starts.tolist() == [0, 7, 12]
    assert corpus.valid.starts.tolist() == [0]
    assert corpus.vocabulary.decode(corpus.train.tokens) == "one twothreefour f"


def test_a_file_border_at_the_split_is_one_start(tmp_path):
    corpus = Corpus.open(write(tmp_path, "a" * 18, "aa"))
    assert corpus.train.starts.tolist() == [0]
    assert corpus.valid.starts.tolist() == [0]


def test_a_separator_does_not_reach_over_files(tmp_path):
    corpus = Corpus.open(
        write(tmp_path, "aaaaa#", "#bbbbb"), document_separator="##", valid_fraction=0
    )
    assert corpus.train.starts.tolist() == [0, 6]


def test_the_usual_split_counts():
    corpus = Corpus.from_text("ab" * (1_115_394 // 2))
    assert (len(corpus.train.tokens), len(corpus.valid.tokens)) == (1_003_854, 111_540)
    assert corpus.train.tokens.dtype == np.uint8


def test_byte_order_mark_and_line_ends_stay(tmp_path):
    text = "\ufeffone\r\ntwo\rthree\n\n" * 3
    corpus = Corpus.open(write(tmp_path, text), vocabulary=CharVocabulary.from_text(text))
    assert corpus.vocabulary.decode(joined(corpus)) == text
    assert corpus.train.starts.tolist() == [0]


def test_the_default_text():
    corpus = Corpus.open()
    text = default_text()
    assert len(text) > 300_000
    assert corpus.train.starts.tolist() == [0]
    border = int(0.9 * len(text))
    assert corpus.vocabulary.decode(corpus.train.tokens) == text[:border].replace("\ufffd", "?")
    assert len(corpus.valid.tokens) == len(text) - border


def test_a_given_vocabulary_is_used(tmp_path):
    paths = write(tmp_path, "hello world")
    vocabulary = CharVocabulary.from_text("hello")
    corpus = Corpus.open(paths, vocabulary=vocabulary, valid_fraction=0)
    assert corpus.vocabulary == vocabulary
    assert vocabulary.decode(corpus.train.tokens) == "hello\ufffd\ufffdo\ufffdl\ufffd"
    assert corpus.unknown == 4
    assert Corpus.open(paths, vocabulary=ByteVocabulary(), valid_fraction=0).unknown == 0


# --- large texts: the threshold is lowered so that small ones take the same path ---


def opened(paths, cache, **settings_):
    return Corpus.open(paths, cache=cache, in_memory_below=0, block=5, **settings_)


def is_mapped(array):
    while array is not None:
        if isinstance(array, np.memmap):
            return True
        array = getattr(array, "base", None)
    return False


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_large_text_is_encoded_once_and_mapped(tmp_path, as_bytes, monkeypatch):
    cache = tmp_path / "deep" / "cache"
    paths = write(tmp_path, "grüße an alle # ☃☃☃", "und # einen Apfel")
    keys = {"bytes_mode": as_bytes, "document_separator": "#"}
    small = Corpus.open(paths, **keys)
    large = opened(paths, cache, **keys)
    assert is_mapped(large.train.tokens)
    assert not is_mapped(small.train.tokens)
    assert large.fingerprint() == small.fingerprint()
    assert (large.unknown, large.vocabulary) == (small.unknown, small.vocabulary)
    assert len(list(cache.iterdir())) == 1

    monkeypatch.setattr("bptt.data.corpus.survey", None)  # a second opening must not sweep again
    again = opened(paths, cache, **keys)
    assert again.fingerprint() == small.fingerprint()
    assert again.unknown == small.unknown


def test_a_large_file_of_bytes_may_be_cut_or_edited_while_it_is_in_use(tmp_path):
    (path,) = write(tmp_path, bytes(range(256)) * 64)
    content = path.read_bytes()
    corpus = opened(path, tmp_path / "cache", bytes_mode=True)
    assert is_mapped(corpus.train.tokens)
    os.truncate(path, 0)  # a map of the file itself would end this process here
    assert joined(corpus).tobytes() == content


def test_what_changes_the_tokens_changes_the_key(tmp_path):
    cache = tmp_path / "cache"
    (path,) = write(tmp_path, "one two # three four")
    for number, keys in enumerate(
        [
            {},
            {"valid_fraction": 0.2},
            {"document_separator": "#"},
            {"vocabulary": CharVocabulary.from_text("one")},
        ],
        start=1,
    ):
        opened(path, cache, **keys)
        assert len(list(cache.iterdir())) == number
    path.write_text("another text altogether")
    corpus = opened(path, cache)
    assert corpus.vocabulary.decode(corpus.train.tokens) == "another text altoget"


@pytest.mark.parametrize("name", ["tokens.bin", "starts.bin", "corpus.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "empty"])
def test_a_damaged_cache_is_made_anew(tmp_path, name, damage):
    cache = tmp_path / "cache"
    paths = write(tmp_path, "one two # three four, five")
    good = opened(paths, cache, document_separator="#").fingerprint()
    (folder,) = cache.iterdir()
    content = (folder / name).read_bytes()
    if damage == "cut":
        (folder / name).write_bytes(content[:-1])
    elif damage == "flip":
        (folder / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif damage == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"):
        corpus = opened(paths, cache, document_separator="#")
    assert corpus.fingerprint() == good
    assert [path.name for path in cache.iterdir()] == [folder.name]
    assert opened(paths, cache, document_separator="#").fingerprint() == good


def test_a_cache_of_hostile_json_is_made_anew(tmp_path):
    cache = tmp_path / "cache"
    paths = write(tmp_path, "one two three")
    good = opened(paths, cache).fingerprint()
    (folder,) = cache.iterdir()
    for content in ("[]", "3", "null", '{"vocabulary": 7}', "[" * 100_000, '"\\ud800"', "\x00"):
        (folder / "corpus.json").write_text(content)
        with pytest.warns(UserWarning, match="damaged"):
            assert opened(paths, cache).fingerprint() == good


def test_a_cache_whose_description_says_something_else_is_made_anew(tmp_path):
    """Flipping one bit of a vocabulary gives another vocabulary, as good JSON as the first."""
    cache = tmp_path / "cache"
    paths = write(tmp_path, "one two three")
    good = opened(paths, cache).fingerprint()
    (folder,) = cache.iterdir()
    whole = (folder / "corpus.json").read_text()
    document = json.loads(whole)
    for change in (
        lambda d: d["corpus"]["vocabulary"].update(symbols="\ufffd enorthx"),
        lambda d: d["corpus"].update(unknown=7),
        lambda d: d.update(format=1),
        lambda d: d["corpus"]["tokens"].update(bytes=10**15),
    ):
        damaged = json.loads(whole)
        change(damaged)
        assert damaged != document
        (folder / "corpus.json").write_text(json.dumps(damaged))
        with pytest.warns(UserWarning, match="damaged"):
            assert opened(paths, cache).fingerprint() == good


@pytest.mark.parametrize("name", ["tokens.bin", "starts.bin", "corpus.json"])
def test_a_pipe_or_a_device_in_the_cache_is_not_waited_for(tmp_path, name):
    cache = tmp_path / "cache"
    paths = write(tmp_path, "one two three")
    good = opened(paths, cache).fingerprint()
    (folder,) = cache.iterdir()
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.warns(UserWarning, match="damaged"):
        assert opened(paths, cache).fingerprint() == good
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.warns(UserWarning, match="damaged"):
        assert opened(paths, cache).fingerprint() == good


KILLED = """
import os, signal, sys
from bptt.data import Corpus
def die(done, total):
    if done > total // 2 + 8:
        os.kill(os.getpid(), signal.SIGKILL)
Corpus.open(sys.argv[1], cache=sys.argv[2], in_memory_below=0, block=5, progress=die)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path):
    cache = tmp_path / "cache"
    (path,) = write(tmp_path, "one two three, and so on to a hundred and one")
    done = subprocess.run([*interpreter(), "-c", KILLED, str(path), str(cache)], check=False)
    assert done.returncode == -9
    (left,) = cache.iterdir()
    assert left.name.startswith(".")
    seen = []

    def meanwhile(done, total):
        if done < total:
            return
        other = tmp_path / "other.txt"
        other.write_text("another text altogether")
        opened(other, cache)
        seen.extend(path.name for path in cache.iterdir() if path.name.startswith("."))

    corpus = opened(path, cache, progress=meanwhile)
    assert left.name not in seen
    assert len(seen) == 1  # the one that was being written when the other text was stored
    assert len(list(cache.iterdir())) == 2
    assert corpus.fingerprint() == Corpus.open(path).fingerprint()


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(DataError, match="cache"):
        opened(write(tmp_path, "one two three"), tmp_path / "cache")


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bptt.data.cache.os.fsync", full)
    with pytest.raises(DataError, match="No space left"):
        opened(write(tmp_path, "one two three"), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_invalid_text_leaves_nothing_in_the_cache(tmp_path):
    with pytest.raises(DataError, match="offset 12"):
        opened(write(tmp_path, b"eleven chars\xff"), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_progress_ends_at_the_whole(tmp_path):
    paths = write(tmp_path, "grüße an alle", "und noch einmal")
    size = sum(path.stat().st_size for path in paths)
    for keys, sweeps in (
        ({}, 2),
        ({"bytes_mode": True}, 1),
        ({"bytes_mode": True, "document_separator": " "}, 2),
    ):
        calls = []
        Corpus.open(paths, block=4, progress=lambda *c: calls.append(c), **keys)  # noqa: B023
        assert calls[-1] == (sweeps * size, sweeps * size)
        assert all(a[0] < b[0] for a, b in itertools.pairwise(calls))


def test_fingerprints_differ_where_training_would():
    base = Corpus.from_text("to be or not to be")
    others = [
        Corpus.from_text("to be or not to bf"),
        Corpus.from_text("to be or not to be", valid_fraction=0.3),
        Corpus.from_text("to be or not to be", document_separator="or"),
        Corpus.from_text("to be or not to be", bytes_mode=True),
    ]
    assert len({corpus.fingerprint() for corpus in [base, *others]}) == 5


def test_bad_arguments():
    with pytest.raises(ArgumentError):
        Corpus.from_text("a text", bytes_mode=True, vocabulary=CharVocabulary.from_text("ab"))
    for fraction in (1, -0.1, float("nan"), 2):
        with pytest.raises(ArgumentError, match="valid_fraction"):
            Corpus.from_text("a text", valid_fraction=fraction)
    with pytest.raises(DtypeError):
        Corpus.from_text("a text", valid_fraction="0.1")
    with pytest.raises(DataError, match="separator"):
        Corpus.from_text("a longer text, this one", document_separator="")


def test_the_vocabulary_of_the_text_itself_finds_the_same_encoding(tmp_path, monkeypatch):
    (path,) = write(tmp_path, "one two three, four")
    first = opened(path, tmp_path / "cache")
    monkeypatch.setattr("bptt.data.corpus.survey", None)  # must not sweep again
    again = opened(path, tmp_path / "cache", vocabulary=first.vocabulary)
    assert again.fingerprint() == first.fingerprint()
