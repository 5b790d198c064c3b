"""Words and pieces: what they are, that nothing is lost, and what a corpus of them holds."""

import itertools
import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptt.data import (
    BpeVocabulary,
    ByteVocabulary,
    CharVocabulary,
    Corpus,
    Vocabulary,
    WordVocabulary,
    count_unknown,
    split_words,
)
from bptt.errors import ArgumentError, DataError, DependencyError

TEXT = "The cat that sat on the mat was hungry.\nThe cats that sat were hungry!\n\n" * 12
FORMS = ["word", "word:9", "bpe:300"]


@given(st.text())
def test_the_words_of_a_text_put_end_to_end_are_the_text(text):
    words = split_words(text)
    assert "".join(words) == text
    assert all(words)
    # A space alone stands only where no word follows it.
    for word, after in itertools.pairwise(words):
        assert word != " " or not after[0].isalnum()


def test_the_words_of_the_sentence():
    words = split_words("The cat, that sat on the mats of the old houses, was hungry")
    assert words[:4] == ["The", " cat", ",", " that"]
    assert words.index(" was") - words.index(" cat") == 12


PIECES = BpeVocabulary.from_text(TEXT, 300)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_pieces_lose_nothing_and_decode_one_by_one(text):
    ids = PIECES.encode(text)
    assert PIECES.decode(ids) == text
    decoder = PIECES.stream_decoder()
    assert "".join([*map(decoder.push, ids.tolist()), decoder.finish()]) == text
    assert int(PIECES.lengths[ids].sum()) == len(text)


def test_pieces_are_those_of_the_library():
    import tokenizers

    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, min_frequency=2, show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    theirs.train_from_iterator([TEXT], trainer)
    wanted = theirs.encode(TEXT).ids
    pieces = [PIECES.decode([i]) for i in PIECES.encode(TEXT)]
    assert pieces == [theirs.decode([i]) for i in wanted]


@pytest.mark.parametrize("form", FORMS)
def test_a_vocabulary_is_read_back_from_json(form):
    corpus = Corpus.from_text(TEXT, tokens=form)
    document = json.loads(json.dumps(corpus.vocabulary.to_dict()))
    again = Vocabulary.from_dict(document)
    assert again == corpus.vocabulary
    assert again.encode(TEXT).tolist() == corpus.vocabulary.encode(TEXT).tolist()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("separator", [None, "\n\n"])
def test_a_corpus_holds_the_text(form, separator, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    corpus = Corpus.open([path, path], tokens=form, document_separator=separator)
    tokens = np.concatenate([corpus.train.tokens, corpus.valid.tokens])
    assert len(corpus.train.tokens) == int(0.9 * len(tokens))
    assert corpus.documents == (2 if separator is None else 24)
    vocabulary = corpus.vocabulary
    text = vocabulary.decode(tokens)
    if form == "word:9":
        assert vocabulary.size == 9
        assert corpus.unknown == text.count("�") > 0
    else:
        assert text == TEXT * 2
        assert corpus.unknown == 0
    # Each document by itself: no token crosses a border.
    ends = [*corpus.train.starts[1:], len(corpus.train.tokens)]
    first = vocabulary.decode(corpus.train.tokens[: ends[0]])
    if form != "word:9":
        assert first == (TEXT if separator is None else TEXT[: TEXT.index("\n\n") + 2])
    # The same text with its own vocabulary is the same corpus.
    again = Corpus.open([path, path], vocabulary=vocabulary, document_separator=separator)
    assert again.fingerprint() == corpus.fingerprint()


@pytest.mark.parametrize("form", ["word", "bpe:270"])
def test_a_large_text_is_encoded_once(form, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    options = {"tokens": form, "cache": tmp_path / "cache", "in_memory_below": 0}
    first, calls = Corpus.open(path, **options), []
    again = Corpus.open(path, progress=lambda *done: calls.append(done), **options)
    assert (
        again.fingerprint() == first.fingerprint() == Corpus.open(path, tokens=form).fingerprint()
    )
    assert calls == []
    other = Corpus.open(path, **{**options, "tokens": "char"})
    assert other.vocabulary.kind == "characters"


def test_words_are_of_the_training_part_alone_and_the_most_frequent_first():
    corpus = Corpus.from_text("b a a c c c d e f g h never", tokens="word", valid_fraction=0.1)
    assert corpus.vocabulary.symbols[:3] == ("�", " c", " a")
    assert " never" not in corpus.vocabulary.symbols
    assert corpus.unknown == 2  # " h" too
    few = Corpus.from_text("b a a c c c d", tokens="word:3", valid_fraction=0)
    assert few.vocabulary.symbols == ("�", " c", " a")


def test_unknown_words_are_named(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The dog sat. The dog sat on the mat, the dog!")
    vocabulary = WordVocabulary.from_text("The cat sat on the mat.")
    assert count_unknown(path, vocabulary) == {" dog": 3, " The": 1, ",": 1, "!": 1}
    assert count_unknown(path, vocabulary, begin=2) == {" dog": 2, " The": 1, ",": 1, "!": 1}
    with pytest.raises(DataError, match=r"words of the vocabulary .* received ' dog': leave"):
        vocabulary.encode("The dog", unknown="error")


BAD = [
    {"kind": "words", "symbols": "ab"},
    {"kind": "words", "symbols": []},
    {"kind": "words", "symbols": ["a", "b"]},
    {"kind": "words", "symbols": ["\ufffd", "a", "a"]},
    {"kind": "words", "symbols": ["\ufffd", ""]},
    {"kind": "words", "symbols": ["\ufffd", 3]},
    {"kind": "words", "symbols": ["\ufffd", "\ud800"]},
    {"kind": "bpe", "symbols": ["a"], "merges": []},
    {"kind": "bpe", "symbols": None, "merges": []},
    {**PIECES.to_dict(), "merges": [["a"]]},
    {**PIECES.to_dict(), "merges": [["a", 3]]},
    {**PIECES.to_dict(), "merges": [["q", "z"]]},
    {**PIECES.to_dict(), "symbols": [*PIECES.symbols, "\n"]},
    {**PIECES.to_dict(), "symbols": [*PIECES.symbols, 7]},
    {**PIECES.to_dict(), "symbols": [*PIECES.symbols, [7]]},
    {"kind": ["words"], "symbols": ["\ufffd", "a"]},
]


@pytest.mark.parametrize("document", BAD, ids=[f"{n}" for n in range(len(BAD))])
def test_nothing_in_a_document_is_trusted(document):
    with pytest.raises(DataError):
        Vocabulary.from_dict(document)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokens": "letter"}, "one of char, byte, word, bpe"),
        ({"tokens": "bpe"}, "a number after bpe"),
        ({"tokens": "bpe:255"}, "above 255"),
        ({"tokens": "bpe:300.5"}, "whole number"),
        ({"tokens": "word:1"}, "above 1"),
        ({"tokens": "word", "bytes_mode": True}, "bytes_mode or tokens"),
        ({"tokens": "word", "vocabulary": CharVocabulary.from_text("ab")}, "a WordVocabulary"),
        ({"tokens": "bpe:300", "vocabulary": ByteVocabulary()}, "a BpeVocabulary"),
        ({"bytes_mode": True, "vocabulary": PIECES}, "a ByteVocabulary with bytes_mode"),
    ],
)
def test_what_does_not_go_together_is_refused(options, words):
    with pytest.raises(ArgumentError, match=words):
        Corpus.from_text(TEXT, **options)


def test_without_the_library_pieces_can_be_read_and_not_made(monkeypatch):
    again, ids = Vocabulary.from_dict(PIECES.to_dict()), PIECES.encode(TEXT)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert again.decode(ids) == TEXT
    for make in (lambda: again.encode("a"), lambda: Corpus.from_text(TEXT, tokens="bpe:300")):
        with pytest.raises(DependencyError, match=r"pip install 'bptt\[tokens\]'"):
            make()
