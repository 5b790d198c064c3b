"""The registry of remakes: complete, honest about what does not agree, and safe where one fails."""

import json
import math
from pathlib import Path

import pytest
import torch

import bptt
from bptt.errors import ArgumentError
from bptt.experiments.lessons import (
    LESSONS,
    Curve,
    Made,
    Number,
    Panel,
    Remake,
    find,
    remakes,
    run_remake,
    run_remakes,
)
from bptt.experiments.lessons.registry import curves_csv, document, numbers_csv

# What was asked for, by lesson.
NAMES = {
    "S0": {"contributions", "slider", "bottleneck", "ladder"},
    "S1": {
        "unrolled", "bp-equations", "jacobian-products", "remember-first", "gradient-by-step", "clipping",
        "truncation", "exercise-33.1", "exercise-33.2", "exercise-33.3", "exercise-33.4", "exercise-33.5",
    },
    "S2": {"powers", "numpy-program", "torch-program", "embedding-proxy", "gradient-decay", "starts"},
    "S3": {"scratch-model", "warm-up", "perplexity"},
    "S4": {"decay-table", "sentence"},
}  # fmt: skip
KEPT = Path(bptt.__file__).parents[2] / "docs" / "remade.json"


@pytest.fixture(scope="module")
def kept():
    """What stands in the documentation."""
    return {entry["name"]: entry for entry in json.loads(KEPT.read_text("utf-8"))}


def test_all_are_there_and_say_where_they_come_from():
    known = remakes()
    assert {
        lesson: {n for n, r in known.items() if r.lesson == lesson} for lesson in LESSONS
    } == NAMES
    for one in known.values():
        assert 1 <= one.lines[0] <= one.lines[1], one.name
        assert one.shows, one.name
        assert one.settings, one.name
        assert not one.shows.endswith("."), one.name
    assert sum(one.seconds for one in known.values()) < 2 * 30 * 60  # half an hour on two cores


def test_the_documentation_has_every_remake_as_the_registry_says_it(kept):
    known = remakes()
    assert list(kept) == list(known)
    for name, entry in kept.items():
        one = known[name]
        assert entry["failed"] == ""
        assert (entry["shows"], entry["settings"]) == (one.shows, one.settings), name
        assert tuple(entry["lines"]) == one.lines, name


def test_what_does_not_agree_says_why(kept):
    judged = [(name, n) for name, e in kept.items() for n in e["numbers"].values()]
    assert sum(n["agrees"] is True for _, n in judged) > 30
    assert [(name, n["key"]) for name, n in judged if n["agrees"] is False and not n["why"]] == []


def test_a_figure_or_a_table_and_a_sentence_belong_to_each(kept):
    for name, entry in kept.items():
        assert entry["sentences"], name
        assert entry["panels"] or entry["tables"], name
        for panel in entry["panels"]:
            for curve in panel["curves"]:
                assert len(curve["x"]) == len(curve["y"]) > 0, (name, panel["title"])


def same(now, before, again):
    """Whether a number made again is that of the documentation, within what it allows."""
    if isinstance(now, str) or isinstance(before, str):
        return now == before
    if before is None or not math.isfinite(now):
        return before is None and not math.isfinite(now)
    return abs(now - before) <= again * abs(before) + 1e-12


def made_again(name, kept):
    made = run_remake(find([name])[0])
    assert made.failed == ""
    assert [n.key for n in made.numbers] == list(kept[name]["numbers"])
    off = [
        (n.key, n.measured, kept[name]["numbers"][n.key]["measured"])
        for n in made.numbers
        if not same(n.measured, kept[name]["numbers"][n.key]["measured"], n.again)
    ]
    assert off == []
    for number in made.numbers:
        assert number.agrees is not False or number.why, number.key


QUICK = [name for name, one in remakes().items() if one.quick]
SLOW = [name for name, one in remakes().items() if not one.quick]


@pytest.mark.parametrize("name", QUICK)
def test_a_quick_one_made_again_gives_what_the_documentation_says(name, kept):
    made_again(name, kept)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_slow_one_made_again_gives_what_the_documentation_says(name, kept):
    made_again(name, kept)


def test_a_number_agrees_within_its_tolerance_alone():
    assert Number("a", "", 1.0).agrees is None
    assert Number("a", "", 2.0764, 2.0764036, 1e-5).agrees is True
    assert Number("a", "", 2.0765, 2.0764036, 1e-5).agrees is False
    assert Number("a", "", "explodes", "vanishes").agrees is False
    assert Number("a", "", torch.tensor(2.0), 2).measured == 2.0


def test_two_numbers_of_one_key_are_refused():
    with pytest.raises(ArgumentError, match="one number a key, received 'a' twice"):
        Made([Number("a", "", 1.0), Number("a", "", 2.0)], ())


def test_names_are_found_in_any_case_and_once():
    assert [one.name for one in find(["POWERS", "slider", "powers"])] == ["powers", "slider"]
    with pytest.raises(ArgumentError, match=r"'truncaton': did you mean truncation.*--list"):
        find(["truncaton"])
    with pytest.raises(ArgumentError, match="received '': bptt remake --list"):
        find([""])


def broken():
    raise ValueError("no such thing")


def test_one_that_fails_takes_no_other_with_it():
    wrong = Remake("wrong", "S0", (1, 1), "", "", 1.0, broken)
    state = torch.get_rng_state()
    bad, good = run_remakes([wrong, *find(["powers"])], jobs=1)
    assert bad.failed == "it failed with ValueError: no such thing"
    assert bad.numbers == ()
    assert good.failed == ""
    assert good["p95_99"].agrees
    assert bool((torch.get_rng_state() == state).all())
    with pytest.raises(KeyError):
        good["p1"]
    entry = document([wrong], [bad])[0]
    assert (entry["failed"], entry["numbers"]) == (bad.failed, {})


def test_several_at_a_time_are_the_same_as_one_after_the_other():
    chosen = find(["powers", "decay-table"])
    one, two = (run_remakes(chosen, jobs=jobs) for jobs in (1, 2))
    assert [r.made for r in one] == [r.made for r in two]


@pytest.mark.parametrize("jobs", [0, -1, 1.5, "2"])
def test_a_count_of_processes_is_a_count(jobs):
    with pytest.raises(ArgumentError, match="jobs"):
        run_remakes([], jobs=jobs)


def test_csv_has_a_row_for_every_number_and_point():
    made = run_remake(find(["powers"])[0])
    lines = numbers_csv(made).splitlines()
    assert lines[0] == "key,what,measured,published,within,agrees,why"
    assert len(lines) == 1 + len(made.numbers)
    assert lines[1].startswith("p90_99,0.9^99,")
    assert ",no," in lines[1]
    points = sum(len(curve.x) for panel in made.panels for curve in panel.curves)
    assert len(curves_csv(made).splitlines()) == 1 + points


def test_curves_in_a_document_are_short_and_have_no_infinity():
    def make():
        panel = Panel("p", [Curve("c", range(3), [1 / 3, math.inf, math.nan])])
        return Made([Number("end", "", math.inf)], ["."], [panel])

    one = Remake("one", "S0", (1, 1), "", "", 1.0, make)
    (entry,) = document([one], [run_remake(one)])
    assert entry["panels"][0]["curves"][0]["y"] == [0.333333, None, None]
    assert entry["panels"][0]["curves"][0]["x"] == [0, 1, 2]
