"""``bptt runs``: what it finds, what it says of each, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import shutil

import pytest

from bptt.cli import main

SMALL = ["--batch", "2", "--k", "8", "--log-every", "2", "--sample", "0"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two finished runs, one interrupted, one whose settings were changed, and another folder."""
    place = tmp_path_factory.mktemp("place")
    (place / "text.txt").write_text("a rose is a rose is a rose\n" * 40)
    (place / "runs" / "notes").mkdir(parents=True)
    for name, hidden, steps in (("small", 4, 4), ("large", 12, 6)):
        words = ["train", str(place / "text.txt"), *SMALL, "--out", str(place / "runs" / name)]
        assert main([*words, "--hidden", str(hidden), "--steps", str(steps), "--json"]) == 0
    shutil.copytree(place / "runs" / "small", place / "runs" / "open")
    (place / "runs" / "open" / "result.json").unlink()
    shutil.copytree(place / "runs" / "small", place / "runs" / "changed")
    with (place / "runs" / "changed" / "config.toml").open("a") as file:
        file.write("lr = 9.0\n")
    return place


@pytest.fixture
def place(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def rows(capsys, *words):
    assert main(["runs", *words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    return {row["run"]: row for row in document["runs"]}, document


def test_all_of_them(place, capsys) -> None:
    found, document = rows(capsys)
    assert set(found) == {f"runs/{name}" for name in ("small", "large", "open", "changed")}
    small = found["runs/small"]
    result = json.loads((place / "runs/small/result.json").read_text())
    assert (small["state"], small["steps"], small["model"]) == ("finished", 4, "gru")
    assert {k: small[k] for k in ("nats", "bits", "perplexity")} == {
        k: result["final"][k] for k in ("nats", "bits", "perplexity")
    }
    assert small["settings"]["hidden"] == 4
    metrics = [
        json.loads(line) for line in (place / "runs/open/metrics.jsonl").read_text().splitlines()
    ]
    best = min(record["valid"]["bits"] for record in metrics if "valid" in record)
    assert found["runs/open"]["state"] == "unfinished"
    assert found["runs/open"]["bits"] == best
    assert found["runs/changed"]["state"] == "unreadable"
    assert "config.toml" in found["runs/changed"]["note"]
    assert found["runs/changed"]["settings"] is None
    assert document["differ"] == ["hidden", "steps"]


def test_the_table_shows_what_differs(place, capsys) -> None:
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    head = next(line for line in out.splitlines() if "state" in line)
    assert head.split() == [
        "run", "state", "model", "hidden", "steps", "seconds", "tokens/s", "horizon", "bits",
    ]  # fmt: skip
    assert "runs/changed: expected" in out.splitlines()[-1]
    assert main(["runs", "runs/small"]) == 0
    assert "hidden" not in capsys.readouterr().out


def test_csv_is_a_table(place, capsys) -> None:
    assert main(["runs", "--csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    found, _ = rows(capsys)
    assert [row["run"] for row in table] == list(found)
    for row in table:
        other = found[row["run"]]
        assert row["bits"] == ("" if other["bits"] is None else str(other["bits"]))
        assert row["settings.hidden"] == str((other["settings"] or {}).get("hidden", ""))


@pytest.mark.parametrize("key", ["bits", "seconds", "run", "began"])
def test_order(place, capsys, key) -> None:
    found, _ = rows(capsys, "--sort", key)
    values = [row[key] for row in found.values()]
    known = [value for value in values if value is not None]
    assert known == sorted(known)
    assert values == known + [None] * (len(values) - len(known))


def test_each_once_whatever_it_is_called(place, capsys) -> None:
    found, _ = rows(capsys, "runs/small", "runs", "./runs/small/")
    assert len(found) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "a folder at nowhere, received nothing there"),
        (["text.txt"], "received a file"),
        (["runs/notes"], "run folders in runs/notes, received none"),
        (["--json", "--csv"], "--json or --csv, received both"),
        (["--sort", "taste"], "one of began, bits, seconds, run for --sort, received 'taste'"),
    ],
)
def test_refusals_are_one_line(place, capsys, words, said) -> None:
    assert main(["runs", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1


BROKEN = {
    "result.json": [
        '{"final": {"bits": "many"}}',
        "[1]",
        "{",
        '{"final": {"bits": NaN}, "step": {}}',
    ],
    "metrics.jsonl": ['{"step": "x", "valid": {"nats": null}}\n', "[]\n", '{"tokens": [1]}\n'],
}


@pytest.mark.parametrize(("file", "text"), [(f, t) for f, texts in BROKEN.items() for t in texts])
def test_files_that_hold_anything(place, tmp_path, capsys, file, text) -> None:
    shutil.copytree(place / "runs" / "small", tmp_path / "run")
    (tmp_path / "run" / file).write_text(text)
    for more in ([], ["--csv"], ["--json"]):
        assert main(["runs", str(tmp_path / "run"), "--sort", "bits", *more]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["runs"][0]
    assert row["bits"] is None or isinstance(row["bits"], float)
