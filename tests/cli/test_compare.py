"""``bptt compare`` from the command line: the table, JSON, files, and what is refused."""

import csv
import json
import math
import re

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
    assert re.fullmatch(r"8 of 8 jobs, \d solved; \w+ \w+\n", err)
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
        (["adding", "--seeds", "many"], "a whole number for --seeds, received 'many'"),
        ([], "TASK, received nothing"),
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


TEXT = "a rose is a rose is a rose, and so on.\n" * 60


def test_a_text_of_ones_own(place, capsys):
    (place / "my verse.txt").write_text(TEXT)
    words = ["compare", "my verse.txt", *SMALL, "--starts", "default", "--csv", "table.csv"]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["metric"] == "bits per character"
    assert 2 < document["chance"] < 4
    with (place / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(r["cell"], r["length"], float(r["mean"])) for r in table] == [
        (r["cell"], "3", r["mean"]) for r in document["rows"]
    ]
    assert [list(map(float, r["scores"].split())) for r in table] == [
        r["scores"] for r in document["rows"]
    ]
    before = (place / "compare-my verse.jsonl").read_text()
    assert main(words) == 0
    assert (place / "compare-my verse.jsonl").read_text() == before
    (place / "my verse.txt").write_text(TEXT + "no more\n")  # another text is another task
    assert main(words) == 0
    assert len((place / "compare-my verse.jsonl").read_text().splitlines()) == 8
    capsys.readouterr()


@pytest.mark.parametrize(
    ("content", "words", "said"),
    [
        ("ab", [], "more than 650 characters"),
        (TEXT, ["--lengths", "999"], "more than 10000 characters"),
        ("\ud800", [], "UTF-8"),
        (TEXT, ["--curricula", "double"], "no curriculum for a text"),
        (TEXT, ["--csv", "nowhere/table.csv"], "no such folder"),
        (None, [], "a task: remember-first"),
    ],
)
def test_texts_that_are_refused(place, capsys, content, words, said):
    if content is not None:
        (place / "own.txt").write_text(content, errors="surrogatepass")
    assert main(["compare", "own.txt", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1
    assert [p.name for p in place.iterdir()] == ([] if content is None else ["own.txt"])


@pytest.mark.parametrize("name", ["text:", "text:abc", "text:0123456789abcdef:gone.txt"])
def test_the_inner_name_of_a_text_is_none_to_type(place, capsys, name):
    assert main(["compare", name]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_text_learns_as_a_model_of_it_would(tmp_path):
    """Its scores fall from chance to next to nothing on a text that repeats itself."""
    import torch

    from bptt.experiments.compare.grid import Budget, Grid, text_task
    from bptt.experiments.compare.job import OwnText, run_job

    (tmp_path / "t.txt").write_text(TEXT)
    task = text_task(str(tmp_path / "t.txt"))
    budget = Budget(32, 16, 120, 0.02, 60)
    (job,) = Grid(task, ("gru",), lengths=(20,), seeds=1, budget=budget).jobs()
    record = run_job(job)
    own = OwnText(task, 20)
    assert record["error"] is None
    assert record["score"] < 1 < own.chance
    assert not record["solved"]
    batch = own.batch(torch.Generator().manual_seed(0), 5)
    assert batch.inputs.shape == (20, 5, own.inputs)
    assert torch.equal(batch.inputs.argmax(-1)[1:], batch.targets[:-1])
    flat = torch.zeros(20, 5, own.outputs)
    assert own.score(flat, batch.targets) == pytest.approx(math.log2(own.outputs))
    held = own.held_out()
    assert torch.equal(held.inputs.argmax(-1)[1:], held.targets[:-1])
    assert held.inputs.shape[1] == len(TEXT) // 10 // 20


def test_a_grid_of_which_no_job_can_run_is_no_success(tmp_path, capsys):
    words = ["--lengths", "10", "--updates", "2", "--every", "1", "--workers", "1", "--seeds", "1"]
    out = str(tmp_path / "grid.jsonl")
    grid = ["compare", "adding", "--cells", "attention", "--starts", "irnn", *words, "--out", out]
    assert main(grid) == 1
    said = capsys.readouterr()
    assert "no job could be run" in said.err
    assert "Attention" in said.out
    mixed = [*grid[:3], "attention", "rnn-relu", *grid[4:-1], str(tmp_path / "mixed.jsonl")]
    assert main(mixed) == 0
