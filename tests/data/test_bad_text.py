"""What bad input gets: an error that names the file and what to do."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bptt.data import Corpus
from bptt.errors import DataError

# A machine under load, or the first use of its tables of characters, is no fault of the code.
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def first_bad_byte(data):
    """The offset by decoding ever longer heads: the slow oracle, None where all is UTF-8."""
    try:
        data.decode("utf-8")
        return None
    except UnicodeDecodeError as error:
        return error.start


fragments = st.sampled_from(
    [
        b"a",
        b"\n",
        "é".encode(),
        "☃".encode(),
        "😀".encode(),
        b"\xff",
        b"\xc3",
        b"\xe2\x98",
        b"\xf0\x9f",
        b"\xed\xa0\x80",
        b"\xc0\xaf",
        b"\xf5",
        b"\x80",
    ]
)


@relaxed
@given(parts=st.lists(fragments, min_size=1, max_size=12), block=st.integers(1, 8))
def test_the_offset_of_the_first_bad_byte_is_exact(tmp_path_factory, parts, block):
    data = b"head of the text " + b"".join(parts)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes(data)
    offset = first_bad_byte(data)
    if offset is None:
        corpus = Corpus.open(path, block=block, valid_fraction=0)
        assert corpus.vocabulary.decode(corpus.train.tokens) == data.decode()
        return
    with pytest.raises(DataError) as caught:
        Corpus.open(path, block=block, valid_fraction=0)
    message = str(caught.value)
    assert f"0x{data[offset]:02x} at offset {offset}" in message
    assert str(path) in message
    assert "--bytes" in message
    assert len(Corpus.open(path, bytes_mode=True, valid_fraction=0).train.tokens) == len(data)


def test_the_offset_counts_in_the_file_that_is_bad(tmp_path):
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text("all is well")
    bad.write_bytes(b"not \xfe here")
    with pytest.raises(DataError, match=r"bad\.txt.*offset 4"):
        Corpus.open([good, bad])


def refused(path, pattern):
    with pytest.raises(DataError, match=pattern) as caught:
        Corpus.open(path)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    refused(tmp_path / "none.txt", r"none\.txt.*does not exist")


def test_a_directory(tmp_path):
    refused(tmp_path, "a directory")


def test_an_empty_file(tmp_path):
    path = tmp_path / "empty.txt"
    path.touch()
    refused(path, r"empty\.txt.*empty")
    full = tmp_path / "full.txt"
    full.write_text("long enough for everybody")
    refused([full, path], r"empty\.txt")


def test_a_loop_of_links(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    refused(tmp_path / "a", "symbolic links")


def test_a_dangling_link(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "nothing")
    refused(tmp_path / "a", "does not exist")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not an ordinary file")


def test_names_that_no_file_can_have(tmp_path):
    refused(tmp_path / "a\0b", "null")
    refused(tmp_path / ("x" * 5000), "too long")
    refused(tmp_path / "text.txt" / "below", "does not exist")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "secret.txt"
    path.write_text("long enough to be a text")

    def deny(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    # Rights do not bind every user that runs tests; the refusal is what is tested.
    monkeypatch.setattr("builtins.open", deny)
    refused(path, r"secret\.txt.*permission denied")


@pytest.mark.parametrize("size", [1, 2, 10])
@pytest.mark.parametrize("bytes_mode", [False, True])
def test_a_text_too_short_to_split(tmp_path, size, bytes_mode):
    path = tmp_path / "short.txt"
    path.write_text("x" * size)
    with pytest.raises(DataError, match=f"at least 2 .*received {size} "):
        Corpus.open(path, bytes_mode=bytes_mode)


def test_the_shortest_texts_that_do(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("x" * 11)
    corpus = Corpus.open(path)
    assert (len(corpus.train.tokens), len(corpus.valid.tokens)) == (9, 2)
    path.write_text("xy")
    assert len(Corpus.open(path, valid_fraction=0).train.tokens) == 2
    path.write_text("x")
    with pytest.raises(DataError, match=r"received 1 character[:,]"):
        Corpus.open(path, valid_fraction=0)


def test_a_text_of_nothing():
    with pytest.raises(DataError, match="empty"):
        Corpus.from_text("")
    with pytest.raises(DataError, match="offset 1"):
        Corpus.from_text("a\ud800 lone surrogate")


def test_a_file_that_changes_while_it_is_read(tmp_path):
    path = tmp_path / "growing.txt"
    path.write_text("a text that is still being written")

    def grow(done, total):
        with path.open("a") as file:
            file.write("more")

    with pytest.raises(DataError, match="stay as it is"):
        Corpus.open(path, block=8, progress=grow)

    def touch(done, total):
        os.utime(path, ns=(done, done))

    with pytest.raises(DataError, match="stay as it is"):
        Corpus.open(path, block=8, progress=touch)

    def remove(done, total):
        path.unlink(missing_ok=True)

    with pytest.raises(DataError, match="does not exist"):
        Corpus.open(path, block=8, progress=remove)


def test_a_python_without_the_default_text(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match="pydoc_data"):
        Corpus.open()
