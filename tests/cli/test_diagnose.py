"""``bptt diagnose`` as its users meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bptt.cli import main

TEXT = "she sells sea shells by the sea shore.\n" * 60


def train(folder: Path, *words: str) -> str:
    text = folder / "shells.txt"
    text.write_text(TEXT, encoding="utf-8")
    out = str(folder / "run")
    small = ["--batch", "4", "--k", "8", "--steps", "40", "--sample", "0", "--out", out]
    assert main(["train", str(text), *small, *words]) == 0
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    return train(tmp_path_factory.mktemp("gru"), "--hidden", "12", "--lr", "0.01")


@pytest.fixture(scope="module")
def counts(tmp_path_factory) -> str:
    return train(tmp_path_factory.mktemp("bigram"), "--model", "bigram")


def refuse(capsys, *words: str) -> str:
    assert main(["diagnose", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("bptt diagnose: expected ")
    return captured.err


@pytest.mark.parametrize("cell", ["lru", "mingru"])
def test_a_linear_recurrence_is_trained_watched_and_diagnosed(cell, tmp_path, capsys) -> None:
    out = train(tmp_path, "--cell", cell, "--hidden", "8", "--horizon-every", "10")
    lines = (Path(out) / "metrics.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    measured = [r for r in records if "horizon" in r]
    assert measured, "the progress line has its horizon"
    assert all(1 <= r["horizon"] <= 8 for r in measured)
    capsys.readouterr()
    page = tmp_path / "page.html"
    words = ["--steps", "20", "--lanes", "2", "--try-for", "0", "--html", str(page)]
    assert main(["diagnose", out, *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["modules"][0]["kind"] == {"lru": "LRU", "mingru": "MinGRU"}[cell]
    one = found["text"]["predictions"][0]
    assert len(one["connectivity"]) == one["at"] + 1
    assert set(found["text"]["symbols"]) <= set(TEXT)
    assert found["text"]["units"]
    assert "The prediction of" in page.read_text("utf-8")


def test_json(run, capsys) -> None:
    assert (
        main(["diagnose", run, "--json", "--steps", "30", "--lanes", "3", "--try-for", "0.02"]) == 0
    )
    out = capsys.readouterr().out
    assert out.count("\n") == 1, "one document on stdout and nothing else"
    found = json.loads(out)
    (module,) = found["modules"]
    assert set(module) >= {"name", "horizon", "decay", "verdict", "norms", "bias", "cosine"}
    assert found["k"] == 8
    assert module["name"] == "recurrent"
    assert len(module["norms"]) == 30
    assert [k for k, _ in module["bias"]] == list(range(1, 31))
    assert dict(module["bias"])[8] == module["bias_at_k"]
    # The horizon is where the bias is, and stays, within 5 %.
    biases = dict(module["bias"])
    assert all(b <= 0.05 for k, b in biases.items() if k >= module["horizon"])
    assert module["horizon"] == 1 or biases[module["horizon"] - 1] > 0.05
    assert module["lanes"] == [1, 1]
    assert found["verdict"]["batches"] == 3
    tried = {t["name"]: t for t in found["trials"]}
    assert set(tried) >= {"as it is", "orthogonal start", "LSTM", "no clipping", "k = 4", "k = 16"}
    assert all(1 <= t["horizon"] <= 30 for t in tried.values())
    assert tried["LSTM"]["switch"] == "--cell lstm"


def test_the_seed_chooses_the_places(run, capsys) -> None:
    words = ["diagnose", run, "--json", "--steps", "20", "--lanes", "2", "--try-for", "0"]

    def ask(seed: str) -> str:
        assert main([*words, "--seed", seed]) == 0
        return capsys.readouterr().out

    first = ask("1")
    assert ask("1") == first
    assert ask("2") != first


def test_terminal_and_page(run, tmp_path, capsys) -> None:
    other = tmp_path / "other.txt"
    other.write_text("sea shells by the sea shore, she sells. " * 3, encoding="utf-8")
    page = tmp_path / "page.html"
    assert (
        main(
            ["diagnose", run, str(other), "--steps", "30", "--try-for", "0.02", "--html", str(page)]
        )
        == 0
    )
    printed = capsys.readouterr().out
    for words in (
        "verdict",
        "horizon, 5 % bias",
        "bias at your k = 8",
        "The gradient is",
        "Tried on this",
    ):
        assert words in printed
    paths = (str(other), "page: ", "next: ")
    lines = [line for line in printed.splitlines() if not line.startswith(paths)]
    assert all(len(line) <= 80 for line in lines)
    text = page.read_text("utf-8")
    assert text.count("<svg") == 10, "seven of the model, three of the run"


def test_refusals(run, counts, tmp_path, capsys) -> None:
    assert "nothing there" in refuse(capsys, str(tmp_path / "no"))
    assert "without config.toml" in refuse(capsys, str(tmp_path))
    assert "a run of a recurrent model" in refuse(capsys, counts)
    short = tmp_path / "short.txt"
    short.write_text("she", encoding="utf-8")
    assert "tokens" in refuse(capsys, run, str(short), "--steps", "3")
    short.write_text("s", encoding="utf-8")
    assert "a text of at least 2 characters" in refuse(capsys, run, str(short))
    assert "does not exist" in refuse(capsys, run, str(tmp_path / "missing.txt"))
    assert "--steps of at least 2" in refuse(capsys, run, "--steps", "1")
    assert "--lanes of at least 1" in refuse(capsys, run, "--lanes", "0")
    assert "--seed of at least 0" in refuse(capsys, run, "--seed", "-1")
    no = str(tmp_path / "no" / "page.html")
    assert "choose another place" in refuse(capsys, run, "--steps", "20", "--html", no)
