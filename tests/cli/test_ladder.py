"""``bptt ladder``: every rung on one text, the order that is published, and what is refused."""

import csv
import json

import pytest

from bptt.cli import ladder, main
from bptt.experiments.ladder import RUNGS, Rung, compare_order
from bptt.training import RunFolder

TEXT = "the quick brown fox jumps over the lazy dog; the lazy dog sleeps on.\n" * 20


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text(TEXT)
    return tmp_path


def test_the_words_that_are_known_before_torch_are_those_there_are():
    assert tuple(RUNGS) == ladder.WORDS
    assert all(before is None or before in RUNGS for _, _, before in RUNGS.values())


def test_all_rungs_with_the_same_budget(place, capsys):
    words = ["ladder", "my.txt", "--steps", "3", "--threads", "1"]
    assert main([*words, "--json", "--csv", "t.csv", "--out", "kept"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [r["word"] for r in found["rungs"]] == list(ladder.WORDS)
    for rung in found["rungs"]:
        assert rung["bits"] > 0
        counted = rung["word"] in ("bigram", "ngram")
        assert rung["updates"] == (0 if counted else 3)
        assert (rung["tokens_per_second"] is None) == counted
        # The run is there, and its score is the one that was shown.
        RunFolder.open(rung["run"])
        result = json.loads((place / "kept" / rung["word"] / "result.json").read_text())
        assert result["final"]["bits"] == rung["bits"]
    bits = {r["word"]: r["bits"] for r in found["rungs"]}
    assert len(found["published"]) == 6
    for pair in found["published"]:
        assert pair["better"] == (bits[pair["rung"]] < bits[pair["than"]])
    rows = list(csv.DictReader((place / "t.csv").read_text().splitlines()))
    assert [float(row["bits"]) for row in rows] == list(bits.values())


def test_the_table_and_the_order_in_words(place, capsys):
    assert main(["ladder", "my.txt", "--rungs", "bigram", "ngram", "--steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "6-gram table against bigram table: better, by" in out
    assert not (place / "runs").exists()
    (place / "hello.txt").write_text("hello world!")
    assert main(["ladder", "hello.txt", "--rungs", "rnn", "--steps", "2"]) == 0
    assert "too short to hold a part out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rungs", "gruu"], "--rungs among bigram"),
        (["--rungs"], "--rungs"),
        (["--steps", "0"], "--steps"),
        (["--steps", "3", "--minutes", "1"], "--minutes or --steps, received both"),
        (["no.txt", "--steps", "1"], "does not exist"),
        (["my.txt", "--steps", "1", "--csv", "no/t.csv"], "no/t.csv"),
    ],
)
def test_refusals_are_one_line(words, message, place, capsys):
    assert main(["ladder", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_only_pairs_that_were_scored_are_compared():
    one = Rung("rnn", "RNN", 1, 2.0, 1, 1.0, 1.0, "window")
    failed = Rung("gru", "GRU", 0, None, 0, 0.0, None, "rnn", error="not finite")
    assert compare_order([one, failed]) == []
