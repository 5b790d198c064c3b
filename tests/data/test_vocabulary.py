"""Vocabularies: round trips, the unknown symbol, streaming, hostile documents."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bptt.data import ByteVocabulary, CharVocabulary, Vocabulary
from bptt.errors import ArgumentError, DataError, DtypeError

# A machine under load, or the first use of its tables of characters, is no fault of the code.
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Every character but the surrogates, which no UTF-8 text holds, and U+FFFD, which is the unknown.
characters = st.characters(exclude_categories=("Cs",), exclude_characters="\ufffd")
texts = st.text(characters, min_size=1, max_size=60)


@relaxed
@given(texts)
def test_characters_round_trip(text):
    vocabulary = CharVocabulary.from_text(text)
    ids = vocabulary.encode(text, unknown="error")
    assert vocabulary.decode(ids) == text
    assert ids.shape == (len(text),)
    assert ids.min() > 0
    assert vocabulary.symbols == ("\ufffd", *sorted(set(text)))


@relaxed
@given(texts, texts)
def test_a_character_never_seen_is_the_unknown_one(seen, text):
    vocabulary = CharVocabulary.from_text(seen)
    expected = "".join(c if c in seen else "\ufffd" for c in text)
    assert vocabulary.decode(vocabulary.encode(text)) == expected
    assert np.array_equal(vocabulary.encode(text.encode()), vocabulary.encode(text))


@relaxed
@given(st.binary(max_size=80))
def test_bytes_round_trip(data):
    vocabulary = ByteVocabulary()
    ids = vocabulary.encode(data)
    assert ids.dtype == np.uint8
    assert ids.tobytes() == data
    assert vocabulary.decode(ids) == data.decode("utf-8", "replace")


@relaxed
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=60))
def test_bytes_of_a_text_round_trip(text):
    assert ByteVocabulary().decode(ByteVocabulary().encode(text)) == text


@relaxed
@given(st.binary(max_size=60))
def test_a_stream_of_bytes_says_what_decoding_at_once_says(data):
    stream = ByteVocabulary().stream_decoder()
    assert "".join([stream.push(b) for b in data] + [stream.finish()]) == data.decode(
        "utf-8", "replace"
    )


@relaxed
@given(texts)
def test_a_stream_of_characters_says_what_decoding_at_once_says(text):
    vocabulary = CharVocabulary.from_text(text)
    stream = vocabulary.stream_decoder()
    assert "".join([stream.push(int(i)) for i in vocabulary.encode(text)]) == text
    assert stream.finish() == ""


@relaxed
@given(texts)
def test_the_json_form_round_trips(text):
    vocabulary = CharVocabulary.from_text(text)
    document = json.loads(json.dumps(vocabulary.to_dict()))
    assert Vocabulary.from_dict(document) == vocabulary
    assert CharVocabulary.from_dict(document) == vocabulary


def test_the_byte_vocabulary_reads_back():
    assert Vocabulary.from_dict(json.loads(json.dumps(ByteVocabulary().to_dict()))) == (
        ByteVocabulary()
    )


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(2, "u1"), (256, "u1"), (257, "u2"), (1 << 16, "u2"), ((1 << 16) + 1, "u4")],
)
def test_ids_have_the_smallest_dtype(size, dtype):
    points = range(0x10000, 0x10000 + size - 1)
    vocabulary = CharVocabulary.from_points(np.array(points))
    assert vocabulary.size == size
    text = chr(points[0]) + chr(points[-1]) + "?"
    ids = vocabulary.encode(text)
    assert ids.dtype == np.dtype(dtype)
    assert ids.tolist() == [1, size - 1, 0]


def test_a_long_text_is_translated_as_a_whole(monkeypatch):
    monkeypatch.setattr("bptt.data.vocabulary.BLOCK", 3)
    vocabulary = CharVocabulary.from_text("abc")
    assert vocabulary.decode(vocabulary.encode("abcabca")) == "abcabca"


def test_unknown_characters_are_named_with_their_places():
    vocabulary = CharVocabulary.from_text("no")
    with pytest.raises(DataError) as caught:
        vocabulary.encode("n☃o☃é", unknown="error")
    assert "'☃' (U+2603) at 1, 'é' (U+00E9) at 4 and 1 more places" in str(caught.value)


def test_a_prompt_with_undecodable_bytes_keeps_them_in_byte_mode():
    assert ByteVocabulary().encode("a\udcff").tolist() == [97, 255]
    with pytest.raises(DataError, match=r"U\+D800 at 1"):
        ByteVocabulary().encode("a\ud800")


def test_a_surrogate_is_just_unknown_to_characters():
    assert CharVocabulary.from_text("ab").encode("a\udcff").tolist() == [1, 0]


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "bytes",
        {},
        {"kind": "words"},
        {"kind": ["characters"], "symbols": "\ufffda"},
        {"kind": "characters"},
        {"kind": "characters", "symbols": 3},
        {"kind": "characters", "symbols": ["\ufffd", "a"]},
        {"kind": "characters", "symbols": ""},
        {"kind": "characters", "symbols": "\ufffd"},
        {"kind": "characters", "symbols": "ab"},
        {"kind": "characters", "symbols": "\ufffdaa"},
        {"kind": "characters", "symbols": "\ufffda\ufffd"},
    ],
)
def test_a_document_that_is_no_vocabulary(document):
    with pytest.raises(DataError):
        Vocabulary.from_dict(document)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)


@relaxed
@given(st.dictionaries(st.sampled_from(["kind", "symbols", "x"]), json_values))
def test_no_document_causes_another_error(document):
    with pytest.raises(DataError):
        Vocabulary.from_dict(document)


def test_the_kinds_are_not_taken_for_each_other():
    with pytest.raises(DataError):
        CharVocabulary.from_dict({"kind": "bytes"})
    with pytest.raises(DataError):
        ByteVocabulary.from_dict({"kind": "characters", "symbols": "\ufffda"})


@pytest.mark.parametrize(
    "symbols", [("\ufffd", "ab"), ("\ufffd", 3), ["\ufffd", "a"], ("\ufffd", "")]
)
def test_symbols_are_single_characters(symbols):
    with pytest.raises(DataError):
        CharVocabulary(symbols)


@pytest.mark.parametrize("vocabulary", [CharVocabulary.from_text("ab"), ByteVocabulary()])
def test_bad_arguments(vocabulary):
    with pytest.raises(ArgumentError):
        vocabulary.decode([vocabulary.size])
    with pytest.raises(ArgumentError):
        vocabulary.decode([-1])
    with pytest.raises(DtypeError):
        vocabulary.decode([0.5])
    with pytest.raises(DtypeError):
        vocabulary.encode(7)
    with pytest.raises(ArgumentError):
        vocabulary.stream_decoder().push(vocabulary.size)
    assert vocabulary.decode([]) == ""
    assert vocabulary.encode("").shape == (0,)


def test_bad_arguments_to_characters():
    with pytest.raises(ArgumentError):
        CharVocabulary.from_text("ab").encode("a", unknown="skip")
    with pytest.raises(DataError, match="offset 1"):
        CharVocabulary.from_text("ab").encode(b"a\xff")
