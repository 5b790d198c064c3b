"""``bptt claims`` from the command line."""

import json

from bptt.cli import main
from bptt.experiments.claims import ledger


def test_json_is_one_document_and_nothing_else(capsys):
    assert main(["claims", "a3", "C3", "--json", "--jobs", "1"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["id"], row["verdict"]) for row in rows] == [
        ("A3", "does not hold"),
        ("C3", "holds in part"),
    ]


def test_the_terminal_shows_what_is_true_instead(capsys):
    assert main(["claims", "C6", "--jobs", "1"]) == 0
    out = capsys.readouterr().out
    assert "C6 does not hold" in out
    assert "3 times" in out


def test_the_page_lists_what_was_not_run_and_keeps_what_is_known(capsys, tmp_path):
    known, page = tmp_path / "known.json", tmp_path / "claims.md"
    assert main(["claims", "E1", "--json", "--jobs", "1"]) == 0
    known.write_text(capsys.readouterr().out.replace("0.9^10", "nine tenths to the tenth"))
    words = ["claims", "E1", "A3", "--known", str(known), "--markdown", str(page), "--jobs", "1"]
    assert main(words) == 0
    text = page.read_text(encoding="utf-8")
    assert "nine tenths to the tenth" in text  # from the file, not made again
    assert "not asked for: `bptt claims P5` runs it" in text
    assert all(f"{id}" in text for id in ledger())


def test_list_runs_nothing(capsys):
    assert main(["claims", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ledger())
    assert any(line.startswith("P5") and "long" in line for line in lines)
    assert main(["claims", "A3", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["verdict"] == "not run"


def test_what_is_wrong_is_said_in_one_line(capsys, tmp_path):
    row = {"id": "A3", "verdict": "[/]", "measured": "", "where": "", "instead": "", "seconds": 1}
    row |= {"figures": {}, "share": 1, "date": ""}
    (tmp_path / "odd.json").write_text(json.dumps([row]))
    for words, message in (
        (["A3", "--known", str(tmp_path / "odd.json")], "verdict is '[/]'"),
        (["B55"], "did you mean"),
        (["--jobs", "0"], "--jobs >= 1"),
        (["A3", "--threads", "0"], "--threads >= 1"),
        (["A3", "--known", str(tmp_path / "none.json")], "printed by bptt claims --json"),
        (["A3", "--markdown", str(tmp_path / "no" / "page.md")], "no such folder"),
        (["A3", "--markdown", str(tmp_path)], "received a folder"),
    ):
        assert main(["claims", *words]) == 2
        out, error = capsys.readouterr()
        assert out == ""  # nothing was run
        assert message in error
        assert len(error.strip().splitlines()) == 1


def test_results_are_printed_though_the_page_cannot_be_written(capsys):
    # A disk that is full, whatever is written to it.
    assert main(["claims", "A3", "--json", "--jobs", "1", "--markdown", "/dev/full"]) == 2
    out, error = capsys.readouterr()
    assert json.loads(out)[0]["id"] == "A3"
    assert len(error.strip().splitlines()) == 1


def test_code_that_fails_is_the_exit_status(capsys, monkeypatch):
    from bptt.experiments.claims import counted as arithmetic

    monkeypatch.setattr(arithmetic, "agrees", None)
    assert main(["claims", "C3", "A3", "--json", "--jobs", "1"]) == 1
    streams = capsys.readouterr()
    verdicts = {row["id"]: row["verdict"] for row in json.loads(streams.out)}
    assert verdicts == {"C3": "not run", "A3": "does not hold"}
    assert "C3 failed" in streams.err


def test_a_run_goes_on_in_its_folder(capsys, tmp_path):
    words = ["claims", "C3", "A3", "--resume", str(tmp_path / "night"), "--json", "--jobs", "1"]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out)
    kept = tmp_path / "night" / "A3.json"
    kept.write_text(kept.read_text().replace("radius 0.500", "radius one half"))
    assert main(words) == 0
    second = json.loads(capsys.readouterr().out)
    assert [row["verdict"] for row in first] == [row["verdict"] for row in second]
    assert "radius one half" in second[1]["measured"]  # not made again
