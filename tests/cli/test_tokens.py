"""Runs on words and on pieces through every command: train, resume, eval, sample, diagnose, export."""

import json
import math
import re
import shutil
import sys
from pathlib import Path

import pytest

from bptt.cli import main
from bptt.data import CharVocabulary, Corpus
from bptt.lab import your_run
from bptt.models import LanguageModel
from bptt.training import RunFolder
from bptt.training.evaluate import evaluate

TEXT = "The cat that sat on the mat was hungry.\nThe cats that sat on it were hungry!\n" * 30
SMALL = ["--hidden", "8", "--batch", "2", "--k", "8", "--horizon-every", "4", "--threads", "1"]
FORMS = ["word", "word:12", "bpe:280"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "other.txt").write_text("The cat was hungry; the dog sat.\n" * 5)
    return tmp_path


def asked(capsys, *words):
    assert main(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "form", [FORMS[0], *(pytest.param(form, marks=pytest.mark.slow) for form in FORMS[1:])]
)
def test_a_run_through_every_command(form, place, capsys):
    words = ["train", "text.txt", "--tokens", form, *SMALL, "--out", "run"]
    out = asked(capsys, *words, "--steps", "12", "--sample-every", "6", "--sample", "9")
    assert re.search(r"held out: [\d.]+ bits per token .*, [\d.]+ bits per character over", out)
    assert re.search(r"held out [\d.]+ bits \([\d.]+ a character\)", out)
    assert "target    |" in out
    more = json.loads(asked(capsys, "train", "--resume", "run", "--steps", "20", "--json"))
    assert more["steps"] == 20
    held = json.loads(asked(capsys, "eval", "run", "--json"))
    unknown = held.pop("unknown", {})
    assert held == more["valid"]
    assert bool(unknown) == (form == "word:12")
    # Bits of all tokens over the characters they have.
    vocabulary = RunFolder.open("run").read_vocabulary()
    corpus = Corpus.open("text.txt", vocabulary=vocabulary)
    size = len(vocabulary.decode(corpus.valid.tokens[1:]))
    assert held["bits_per_character"] == pytest.approx(held["bits"] * held["tokens"] / size)
    other = asked(capsys, "eval", "run", "other.txt")
    assert "bits per token" in other
    assert "bits per character" in other
    assert ("' dog' 5" in other) == (form != "bpe:280")
    if form != "word:12":
        sample = asked(
            capsys, "sample", "run", "--prompt", "The cat", "--length", "5", "--seed", "1"
        )
        assert sample.startswith("The cat")
    assert asked(capsys, "sample", "run", "--length", "5")
    asked(capsys, "diagnose", "run", "--html", "run.html", "--steps", "40", "--lanes", "4")
    assert (place / "run.html").stat().st_size > 10_000
    rows = json.loads(asked(capsys, "runs", ".", "--json"))["runs"]
    assert rows[0]["bits_per_character"] == held["bits_per_character"]
    assert "bits/char" in asked(capsys, "runs", ".")
    asked(capsys, "export", "run", "--to", "c", "--out", "device")
    header = "".join(p.read_text() for p in (place / "device").glob("*.h"))
    assert ("_SYMBOLS" in header) == (form != "bpe:280")


@pytest.mark.parametrize("form", ["word", "bpe:280"])
def test_the_labs_page_reads_such_a_run(form, place, capsys):
    words = ["train", "text.txt", "--tokens", form, *SMALL, "--out", "run", "--steps", "6"]
    asked(capsys, *words, "--json")
    *_, last = your_run.measure(Path("run"), 0)
    assert last.frame.missing == ""
    assert "".join(last.frame.reading.symbols) in TEXT
    assert all(text for _, text in last.frame.texts)


@pytest.mark.parametrize("form", FORMS)
def test_two_runs_and_an_interrupted_one_are_the_same(form, place, capsys):
    words = ["train", "text.txt", "--tokens", form, *SMALL, "--log-every", "1", "--json"]
    asked(capsys, *words, "--steps", "8", "--decay", "none", "--out", "whole")
    asked(capsys, *words, "--steps", "3", "--decay", "none", "--warmup", "0.02", "--out", "parts")
    asked(capsys, "train", "--resume", "parts", "--steps", "8", "--json")

    def tokens(run):
        return [r["tokens"] for r in RunFolder(run).read_metrics() if "loss" in r]

    assert tokens("whole") == tokens("parts")
    assert RunFolder("whole").read_vocabulary() == RunFolder("parts").read_vocabulary()


def test_words_that_say_what_a_token_is(place, capsys):
    for words, kind in (
        (["--tokens", "byte"], "bytes"),
        (["--bytes"], "bytes"),
        ([], "characters"),
    ):
        asked(capsys, "train", "text.txt", *words, *SMALL, "--steps", "1", "--out", "r", "--json")
        run = RunFolder.open("r")
        assert run.read_vocabulary().kind == kind
        assert run.read_settings().bytes == (kind == "bytes")
        assert run.read_settings().tokens == ("byte" if kind == "bytes" else "char")
        main(["train", "--resume", "r", "--steps", "2", "--json"])
        capsys.readouterr()
        shutil.rmtree("r")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tokens", "letters"], "one of char, byte, word, bpe for --tokens"),
        (["--tokens", "bpe"], "a number after bpe for --tokens"),
        (["--tokens", "bpe:200"], "above 255"),
        (["--tokens", "word", "--bytes"], "--bytes or --tokens"),
    ],
)
def test_refusals_are_one_line(words, message, place, capsys):
    assert main(["train", "text.txt", *words, "--out", "run"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (place / "run").exists()


def test_other_tokens_on_resume_are_refused(place, capsys):
    asked(capsys, "train", "text.txt", *SMALL, "--steps", "1", "--out", "run", "--json")
    assert main(["train", "--resume", "run", "--tokens", "word", "--steps", "2"]) == 2
    assert "the run's own --tokens on --resume" in capsys.readouterr().err


def test_without_the_library_nothing_is_written(place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert main(["train", "text.txt", "--tokens", "bpe:300", "--out", "run"]) == 2
    err = capsys.readouterr().err
    assert "pip install 'bptt[tokens]'" in err
    assert err.count("\n") == 1
    assert not (place / "run").exists()


@pytest.mark.parametrize("text", ["ab", "a b", "hello world!"])
@pytest.mark.parametrize("form", ["word", "bpe:256"])
def test_short_texts_train_or_say_why_not(text, form, place, capsys):
    (place / "short.txt").write_text(text)
    words = ["train", "short.txt", "--tokens", form, "--steps", "2", "--hidden", "4", "--json"]
    status = main([*words, "--out", "run"])
    err = capsys.readouterr().err
    assert status == 0 or ("at least 2 tokens" in err and err.count("\n") == 1)
    assert status == (2 if (text, form) == ("ab", "word") else 0)


def test_a_score_per_character_is_that_of_a_uniform_model():
    corpus = Corpus.from_text(TEXT, tokens="word", valid_fraction=0.2)
    model = LanguageModel(corpus.vocabulary.size, hidden=4)  # untrained: every word as likely
    score = evaluate(model, corpus.valid, vocabulary=corpus.vocabulary)
    assert score.bits == pytest.approx(math.log2(corpus.vocabulary.size), rel=1e-6)
    assert score.characters == len(corpus.vocabulary.decode(corpus.valid.tokens[1:]))
    plain = Corpus.from_text(TEXT, valid_fraction=0.2)
    assert isinstance(plain.vocabulary, CharVocabulary)
    model = LanguageModel(plain.vocabulary.size, hidden=4)
    score = evaluate(model, plain.valid, vocabulary=plain.vocabulary)
    assert score.characters is None
    assert "bits_per_character" not in score.as_dict()
