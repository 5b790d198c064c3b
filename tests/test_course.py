"""The course: every chapter has its parts, and every row of the table of the lessons leads somewhere."""

import csv
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import tyro

from bptt import cli
from bptt.lab import available, live, server
from bptt.probes.guard import RULES

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
    lessons = import_module("bptt.experiments.lessons")
    assert set(lessons.remakes()) >= REMAKES


CHAPTERS = [page for page in sorted((DOCS / "course").glob("*.md")) if page.stem in server.CHAPTERS]
TEACHING = [page for page in CHAPTERS if page.stem != "questions"]


@pytest.mark.parametrize("page", TEACHING, ids=lambda page: page.stem)
def test_a_chapter_has_its_parts(page):
    """Mathematics, a picture, a page of the lab, Python, exercises with answers, verdicts."""
    text = page.read_text("utf-8")
    assert "$$" in text
    assert re.search(r"^```\{(drawn|remade)\} ", text, re.M)
    pages = set(re.findall(r"`bptt lab (\w+)`", text))
    assert pages
    assert pages <= {one.slug for one in available()}
    exercises = text.index("## Exercises")
    assert "```python\n" in text[:exercises]
    asked = re.findall(r"^\*\*(\d+\.\d)\*\*", text, re.M)
    assert len(asked) in (2, 3)
    answers = re.findall(r"^:::\{answer\}\n(.*?)^:::$", text, re.M | re.S)
    assert len(answers) == len(asked)
    assert all("```python\n" in answer for answer in answers)
    assert "```{ledger} " in text
    # 200 words a minute; formulas and code are read slowly, so each line of them counts as ten words.
    code = "".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)).count("\n")
    assert len(text.split()) / 200 + code / 20 < 15


def test_the_questions_are_all_answered_with_evidence():
    text = (DOCS / "course" / "questions.md").read_text("utf-8")
    questions = re.split(r"^\*\*Q\d+\. ", text, flags=re.M)[1:]
    assert len(questions) >= 7
    assert all(":::{answer}" in one for one in questions)
    assert all("```{ledger} " in one for one in questions[:7])
    assert "An RNN or a Transformer" in text


def test_rows_of_the_ledger_that_the_course_names_are_there(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    known = import_module("rows").claims()
    assert {row["verdict"] for row in known.values()} <= {
        "holds", "holds in part", "does not hold", "not run", "not judged",
    }  # fmt: skip
    for page in CHAPTERS:
        for ids in re.findall(r"^```\{ledger\} (.*)$", page.read_text("utf-8"), re.M):
            assert set(ids.split()) <= set(known), page


@pytest.mark.parametrize("page", server.PAGES, ids=lambda page: page.slug)
def test_a_page_of_the_lab_leads_to_its_chapter(page):
    number = server.CHAPTERS.index(page.chapter) + 1
    text = (DOCS / "course" / f"{page.chapter}.md").read_text("utf-8")
    assert text.startswith(f"# {number}. ")
    assert f"`bptt lab {page.slug}`" in text
    assert f"chapter {number} of the course" in live.chapter(page.chapter)


class Parsed(Exception):
    """The command line was understood; nothing was run."""


@pytest.mark.parametrize("by", [by for by in EACH if by.startswith("bptt ")])
def test_a_command_is_understood(by, monkeypatch):
    _, name, *words = shlex.split(by)
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
    assert {f"bptt lab {page.slug}" for page in available()} <= set(EACH)
    assert {f"course/{name}.md" for name in server.CHAPTERS} <= set(EACH)
    assert {path.stem for path in (DOCS / "course").glob("*.md")} == {
        *server.CHAPTERS, "index", "coverage",
    }  # fmt: skip


# Which mistakes a chapter speaks of; of these it leads to the sections of the page.
SPEAKS_OF = {
    "clipping": ["always-clipped", "clip-after-step", "clip-before-backward", "clip-scaled", "never-near",
                 "not-finite", "saturated", "spike", "spike-stays"],
    "gates": ["dead-units", "saturated"],
    "practice": ["always-clipped", "carry-over-unrelated", "eval-mode", "frozen-recurrent",
                 "lane-shuffled", "norm-grows", "padding-in-loss", "padding-in-state", "spike",
                 "state-in-eval", "two-steps", "zero-grad-missing"],
    "remember_first": ["near-zero"],
    "truncation": ["carry-dropped", "loss-scale-by-length", "missing-detach"],
}  # fmt: skip
SECTIONS = set(re.findall(r"^### `([a-z-]+)`$", (DOCS / "mistakes.md").read_text("utf-8"), re.M))


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_a_chapter_leads_to_the_sections_of_the_mistakes_it_speaks_of(page):
    linked = re.findall(r"\]\(\.\./mistakes\.md#([a-z-]+)\)", page.read_text("utf-8"))
    assert sorted(set(linked)) == SPEAKS_OF.get(page.stem, [])
    assert set(linked) <= SECTIONS


def test_every_mistake_that_the_guard_names_has_a_section_and_a_chapter():
    codes = {code for rule in RULES for code in rule.codes}
    assert codes == SECTIONS
    assert codes == {code for of in SPEAKS_OF.values() for code in of}
