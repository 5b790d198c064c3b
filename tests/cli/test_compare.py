"""``bptt compare`` from the command line: the table, JSON, files, and what is refused."""

import json

import pytest

from bptt.cli import main

SMALL = ["--lengths", "3", "--seeds", "2", "--hidden", "4", "--batch", "4", "--updates", "4"]
SMALL += ["--every", "2", "--cells", "gru", "mingru", "--starts", "default", "np", "--workers", "1"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_whole_way_and_again(place, capsys):
    words = ["compare", "remember-first", *SMALL, "--html", "c.html", "--figure", "c.svg"]
    assert main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert "4/4" in err or "8/8" in err
    assert [(r["cell"], r["start"], r["seeds"]) for r in document["rows"]] == [
        (c, s, 2) for c in ("gru", "mingru") for s in ("default", "np")
    ]
    assert (document["chance"], document["best"], document["goal"]) == (0.125, 1.0, 0.99)
    assert document["rows"][3]["errors"]  # np on a cell without a recurrent matrix
    before = (place / "compare-remember-first.jsonl").read_bytes()
    assert main(words) == 0
    table = capsys.readouterr().out
    assert "mingru" in table
    assert "0/2" in table
    assert (place / "compare-remember-first.jsonl").read_bytes() == before
    assert "<svg" in (place / "c.html").read_text()
    assert (place / "c.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["juggling"], "expected a task"),
        (["adding", "--cells", "gruu"], "cells among"),
        (["adding", "--starts", "radius:0"], "above 0"),
        (["adding", "--lengths", "1"], "steps >= 2"),
        (["digits"], "bptt data fetch digits"),
        (["japanese-vowels", "--lengths", "8"], "no --lengths"),
        (["adding", "--workers", "0"], "--workers"),
        (["adding", "--seeds", "many"], "options of bptt compare"),
        ([], "options of bptt compare"),
    ],
)
def test_refusals_are_one_line(words, message, place, capsys):
    assert main(["compare", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err.splitlines()[-1]
    assert not list(place.iterdir())


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert "Example: bptt compare remember-first" in capsys.readouterr().out
