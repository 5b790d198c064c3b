"""Every row of the table of what the lessons hold leads somewhere: a command, a page, a name."""

import csv
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import tyro

from bptt import cli

DOCS = Path(__file__).parents[1] / "docs"
KINDS = {"program", "figure", "table", "formula", "exercise", "question", "statement", "warning"}
# Names of `bptt remake` that the table expects; where the command is there, its registry knows them.
REMAKES = {
    "bottleneck", "bp-equations", "clipping", "contributions", "decay-table", "embedding-proxy",
    "exercise-33.1", "exercise-33.2", "exercise-33.3", "exercise-33.4", "exercise-33.5",
    "gradient-by-step", "gradient-decay", "jacobian-products", "ladder", "numpy-program", "perplexity",
    "powers", "remember-first", "scratch-model", "sentence", "slider", "starts", "torch-program",
    "truncation", "unrolled", "warm-up",
}  # fmt: skip
with (DOCS / "course" / "coverage.csv").open(encoding="utf-8", newline="") as file:
    ROWS = list(csv.DictReader(file))
EACH = sorted({by for row in ROWS for by in row["by"].split("; ")})


def test_the_table_is_whole():
    assert len(ROWS) >= 120
    assert {row["kind"] for row in ROWS} == KINDS
    assert {row["lesson"] for row in ROWS} == {"S0", "S1", "S2", "S3", "S4"}
    places = [(row["lesson"], int(row["line"])) for row in ROWS]
    assert places == sorted(places)
    assert len(set(places)) == len(places)
    assert all(row["what"] and row["by"] for row in ROWS)


def remake_names():
    return {name for by in EACH if by.startswith("bptt remake ") for name in by.split()[2:]}


def test_remakes_are_those_expected():
    pages = "".join(page.read_text("utf-8") for page in (DOCS / "course").glob("*.md"))
    named = set(re.findall(r"^```\{remade\} (\S+)", pages, re.M))
    assert remake_names() == REMAKES
    assert named <= REMAKES


def test_remakes_are_known_to_the_command():
    if "remake" not in cli.COMMANDS:
        pytest.skip("this build has no command `remake`")
    lessons = import_module("bptt.experiments.lessons")
    assert set(lessons.remakes()) >= REMAKES


class Parsed(Exception):
    """The command line was understood; nothing was run."""


@pytest.mark.parametrize("by", [by for by in EACH if by.startswith("bptt ")])
def test_a_command_is_understood(by, monkeypatch):
    _, name, *words = shlex.split(by)
    if name == "remake" and name not in cli.COMMANDS:
        assert set(words) <= REMAKES
        return
    assert name in cli.COMMANDS
    module, real = import_module(f"bptt.cli.{name}"), tyro.cli

    def parse_only(*args, **options):
        real(*args, **options)  # exits where it does not understand
        raise Parsed

    monkeypatch.setattr(tyro, "cli", parse_only)
    with pytest.raises(Parsed):
        module.run(words)
    if name == "claims":
        from bptt.experiments.claims import find

        assert len(find(words)) == len(words)
    if name == "lab":
        from bptt.lab import available

        assert set(words) <= {page.slug for page in available()}
    if name == "compare":
        from bptt.experiments.compare.grid import TASKS

        assert words[0] in TASKS


@pytest.mark.parametrize("by", [by for by in EACH if by.endswith(".md")])
def test_a_page_is_there(by):
    assert (DOCS / by).is_file()


@pytest.mark.parametrize(
    "by", [by for by in EACH if not by.startswith("bptt ") and not by.endswith(".md")]
)
def test_a_name_is_in_the_interface(by):
    assert by.startswith("bptt.")
    parts = by.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            found = getattr(found, name)
        return
    pytest.fail(f"nothing is called {by}")


def test_every_lab_page_and_chapter_is_in_the_table():
    from bptt.lab import available
    from bptt.lab.server import CHAPTERS

    assert {f"bptt lab {page.slug}" for page in available()} <= set(EACH)
    assert {f"course/{name}.md" for name in CHAPTERS} <= set(EACH)
    assert {path.stem for path in (DOCS / "course").glob("*.md")} == {
        *CHAPTERS, "index", "coverage",
    }  # fmt: skip
