"""Remakes as figures, as files and on the command line."""

import csv
import json
from pathlib import Path

import pytest

import bptt
from bptt.cli import main
from bptt.experiments.lessons import Curve, Level, Note, Panel, find, remakes, run_remake
from bptt.report.chart import COLORS, Bars, Label, Line, Mark, fit
from bptt.report.remade import chart, draw, each_as_svg, files, panels_of, rows, said

KEPT = Path(bptt.__file__).parents[2] / "docs" / "remade.json"
ENTRIES = {entry["name"]: entry for entry in json.loads(KEPT.read_text("utf-8"))}
DRAWN = [name for name, entry in ENTRIES.items() if entry["panels"]]


@pytest.mark.parametrize("name", DRAWN)
def test_every_panel_is_a_chart_with_limits(name):
    for panel in panels_of(ENTRIES[name]):
        made = chart(panel)
        axes = fit(made)
        assert axes.xlim[0] < axes.xlim[1], panel.title
        assert axes.ylim[0] < axes.ylim[1], panel.title
        assert all(getattr(part, "color", "ink") in COLORS for part in made.parts), panel.title


def test_a_panel_is_drawn_as_it_says():
    panel = Panel(
        "p",
        [
            Curve("a", [1, 2], [1, 2]), Curve("b", [1, 2], [2, 1]), Curve("", [1], [1], "bars", "green"),
            Curve("d", [1], [2], "dots", "ink"),
        ],
        levels=[Level("half", y=0.5)], notes=[Note("here", 1, 1)], bare=True,
    )  # fmt: skip
    made = chart(panel)
    assert [type(part) for part in made.parts] == [Line, Line, Bars, Line, Mark, Label]
    assert [p.color for p in made.parts[:4]] == ["blue", "orange", "green", "ink"]
    assert made.parts[0].dash != made.parts[1].dash  # of two equal curves both are seen
    assert (made.parts[3].dots, made.parts[3].dash) == (True, "none")
    (axes,) = draw([panel]).axes
    assert not axes.axison
    assert axes.get_title(loc="left") == "p"


def test_panels_come_back_from_json_as_they_went():
    made = run_remake(find(["powers"])[0])
    (panel,) = panels_of(ENTRIES["powers"])
    assert panel.title == made.panels[0].title
    assert [c.name for c in panel.curves] == [c.name for c in made.panels[0].curves]
    assert panel.curves[0].y[1] == pytest.approx(0.99)
    (svg,) = each_as_svg([panel], "powers")
    assert svg.startswith("<svg")
    assert 'id="powers-0-' in svg


def test_numbers_for_a_table():
    assert [said(v) for v in (2.0764036, 15.0, 7.9e-13, "no", None, 1e300, float("inf"))] == [
        "2.0764", "15", "7.9·10⁻¹³", "no", "", "1·10³⁰⁰", "inf",
    ]  # fmt: skip
    made = run_remake(find(["powers"])[0])
    assert rows(made)[0] == ("0.9^99", "2.9513·10⁻⁵", "2.7·10⁻⁵", "no")


def test_files_of_one_are_the_same_bytes_again():
    one = find(["decay-table"])[0]
    made = run_remake(one)
    first, second = dict(files(one, made)), dict(files(one, made))
    ends = ["json", "csv", "curves.csv", "svg", "png"]
    assert [n.removeprefix("decay-table")[1:] for n in first] == ends
    assert first == second
    assert first["decay-table.png"].startswith(b"\x89PNG")


def test_the_list_names_all(capsys):
    assert main(["remake", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(f" {name} " in out for name in remakes())
    assert main(["remake", "--list", "slider", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["lesson"], row["seconds"]) == ("slider", "S0", 2)


def test_json_is_one_document_and_nothing_else(capsys):
    assert main(["remake", "powers", "decay-table", "--json", "--jobs", "1"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [e["name"] for e in entries] == ["powers", "decay-table"]
    assert entries[0]["numbers"]["p90_99"]["agrees"] is False


def test_the_terminal_shows_published_beside_measured_and_why(capsys):
    assert main(["remake", "powers"]) == 0
    out = capsys.readouterr().out
    assert "33884" in out
    assert "27000" in out
    assert "a sequence of 100 has 99 Jacobians" in out.replace("\n", " ")


def test_a_folder_gets_every_kind_of_file(capsys, tmp_path):
    place = tmp_path / "new" / "figures"
    assert main(["remake", "exercise-33.4", "slider", "--out", str(place), "--jobs", "1"]) == 0
    names = {path.name for path in place.iterdir()}
    assert names >= {"slider.json", "slider.csv", "slider-curves.csv", "slider.svg", "slider.png"}
    assert {"exercise-33.4.txt", "exercise-33.4.csv"} <= names
    assert "exercise-33.4.svg" not in names  # a table, no figure
    with open(place / "slider.csv", encoding="utf-8", newline="") as file:
        found = {row["key"]: row for row in csv.DictReader(file)}
    assert found["end_5"]["agrees"] == "yes"
    assert "δ_2" in (place / "exercise-33.4.txt").read_text("utf-8")
    assert main(["remake", "slider", "--out", str(place)]) == 0  # once more: replaced
    capsys.readouterr()


def test_what_is_wrong_is_said_in_one_line_before_anything_runs(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    for words, message in (
        ([], "expected what to make, received no name: bptt remake --list names all"),
        (["clippping"], "did you mean clipping"),
        (["--all", "slider"], "expected names or --all, received --all and 'slider'"),
        (["slider", "--jobs", "0"], "--jobs >= 1"),
        (["slider", "--out", str(tmp_path / "file")], "a folder to write into with --out"),
        (["slider", "--out", str(tmp_path / "file" / "x")], "with --out"),
        (["slider", "--out", ""], "a folder"),
    ):
        assert main(["remake", *words]) == 2, words
        out, error = capsys.readouterr()
        assert out == "", words
        assert message in error
        assert len(error.strip().splitlines()) == 1


def test_one_that_fails_is_the_exit_status_and_the_others_are_shown(capsys, monkeypatch, tmp_path):
    from bptt.experiments.lessons import jacobians

    def broken(*_):
        raise ValueError("lost")

    monkeypatch.setattr(jacobians, "trials", broken)
    out = tmp_path / "out"
    words = ["remake", "gradient-decay", "powers", "--json", "--jobs", "1", "--out", str(out)]
    assert main(words) == 1
    streams = capsys.readouterr()
    failed = {e["name"]: e["failed"] for e in json.loads(streams.out)}
    assert failed == {"gradient-decay": "it failed with ValueError: lost", "powers": ""}
    assert "bptt remake: gradient-decay: it failed with ValueError: lost" in streams.err
    assert (out / "powers.svg").exists()
    assert not (out / "gradient-decay.svg").exists()
