"""The ledger: complete, judged by rule alone, and nothing lost where a claim fails."""

import random
import time
from dataclasses import replace
from datetime import datetime, timezone
from unittest.mock import ANY

import numpy as np
import pytest
import torch

from bptt.errors import ArgumentError, DataError, RunError
from bptt.experiments.claims import (
    Claim,
    Measurement,
    NotRun,
    Result,
    find,
    ledger,
    run,
    run_claim,
    run_claims,
)  # fmt: skip

# Every row of the list the ledger was asked for.
IDS = [
    "A1",
    "A2",
    "A3",
    "A4",
    "A7",
    "A8",
    "A10",
    "B1",
    "B1x",
    "B2",
    "B3",
    "B4",
    "B5",
    "B5b",
    "B5x",
    "B6",
    "B7",
    "B7x",
    "B8",
    "B9",
    "B10",
    "B11",
    "C3",
    "C4",
    "C5",
    "C6",
    "C7",
    "C8",
    "C9",
    "C10",
    "C11",
    "C12",
    "C13",
    "C14",
    "C16",
    "C17",
    "C18",
    "C19",
    "C20",
    "C21",
    "C22",
    "C23",
    "C24",
    "D1",
    "D2",
    "D4",
    "D5",
    "D6",
    "D7",
    "E1",
    "E2",
    "E3",
    "E4",
    "E5",
    "P1",
    "P2",
    "P3",
    "P4",
    "P5",
    "P6",
    "P7",
    "P8",
    "P9",
    "P10",
    "P11",
]


def test_every_row_of_the_list_is_registered_and_no_other():
    assert sorted(ledger()) == sorted(IDS)


def test_every_claim_says_what_who_and_how_it_is_judged():
    for claim in ledger().values():
        for name in ("id", "source", "place", "statement", "published", "setting", "rule", "why"):
            assert getattr(claim, name).strip(), f"{claim.id} has no {name}"
        assert claim.statement.endswith("."), claim.id
        assert not claim.why.endswith("."), claim.id  # one sentence; the page sets its full stop
        assert 0 < claim.share <= 1, claim.id


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ({"a": True, "b": True}, "holds"),
        ({"a": True, "b": False}, "holds in part"),
        ({"a": True, "b": None}, "holds in part"),
        ({"a": False, "b": None}, "does not hold"),
        ({"a": False}, "does not hold"),
        ({"a": None}, "not run"),
        ({"a": "3 of 210 passes"}, "not judged"),
        ({"a": "3 of 210 passes", "b": True}, "holds in part"),
        ({"a": "3 of 210 passes", "b": False}, "not judged"),
        ({"a": np.True_, "b": np.True_}, "holds"),  # `np.True_ is True` is false
        ({"a": np.False_}, "does not hold"),
    ],
)
def test_the_verdict_follows_from_the_parts(parts, verdict):
    found = Measurement("text", parts)
    assert found.verdict == verdict
    assert all(part in found.where for part in parts)


def made(measure, share=1.0):
    words = ("nobody", "nowhere", "A statement.", "1", "any", "a rule", "it follows")
    return Claim("X1", *words, share, True, measure)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ({"a": False}, "not judged"),
        ({"a": False, "b": False}, "not judged"),
        ({"a": False, "b": True}, "holds in part"),
        ({"a": True}, "holds"),  # what is reached with less is reached
    ],
)
def test_nothing_fails_at_less_than_the_published_budget(share, parts, verdict):
    for claim, told in (
        (made(lambda: Measurement("1", parts, "else"), share), share),
        (made(lambda: Measurement("1", parts, "else", share=share)), share),
    ):
        result = run_claim(claim)
        assert result.verdict == verdict
        assert result.share == told
        assert "does not hold" not in result.where
        assert (f"{share:.2g} of the published budget" in result.where) == (False in parts.values())
    assert (
        run_claim(made(lambda: Measurement("1", {"a": False}, "else"))).verdict == "does not hold"
    )


def test_what_was_tried_beside_judges_nothing():
    for held in (True, False):
        found = Measurement("1", {"a": True}, beside={"wider": held})
        assert found.verdict == "holds"
        assert "in a setting of ours, wider" in found.where


def test_a_result_has_its_date():
    today = datetime.now(timezone.utc).date().isoformat()
    assert run_claim(made(lambda: Measurement("1", {"a": True}))).date in (today,)


def test_a_folder_keeps_results_and_steps_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.delenv(run.FOLDER, raising=False)
    calls = []

    def step():
        calls.append(1)
        return [1.5, float("inf")]

    assert run.kept("X1 seed 0", step) == [1.5, float("inf")]  # no folder: made each time
    folder = tmp_path / "night"
    assert run.open_folder(folder) == {}
    assert [run.kept("X1 seed 0", step) for _ in range(3)] == [[1.5, float("inf")]] * 3
    assert len(calls) == 2
    results = run_claims(find(["A3", "C3"]), jobs=1, done=lambda r: run.keep(folder, r))
    assert run.open_folder(folder) == {r.id: replace(r, figures=ANY) for r in results}
    run.keep(folder, Result("P5", "not run", "no file"))
    assert "P5" not in run.open_folder(folder)


def test_a_claim_took_as_long_as_all_its_steps_whenever_they_were_made(tmp_path, monkeypatch):
    monkeypatch.delenv(run.FOLDER, raising=False)
    run.open_folder(tmp_path)

    def measure():
        return Measurement(str(run.kept("X1 seed 0", lambda: time.sleep(0.2))), {"a": True})

    first, second = run_claim(made(measure)), run_claim(made(measure))
    assert second.verdict == first.verdict == "holds"
    assert 0.2 <= second.seconds <= first.seconds + 0.1
    for step, received in (
        ("[1, 2]", "[1, 2]"),
        ('{"seconds": "2", "value": 1}', "seconds is '2'"),
    ):
        (tmp_path / "steps" / "X1_seed_0.json").write_text(step)
        assert received in run_claim(made(measure)).measured


def test_a_folder_of_another_version_is_refused(tmp_path, monkeypatch):
    run.open_folder(tmp_path / "night")
    monkeypatch.setattr(run, "code_version", lambda: "another")
    with pytest.raises(RunError, match="this version of the code"):
        run.open_folder(tmp_path / "night")


def test_a_foreign_file_in_the_folder_is_refused(tmp_path):
    run.open_folder(tmp_path)
    (tmp_path / "A3.json").write_text("[1, 2")
    with pytest.raises(DataError, match="bptt claims --json"):
        run.open_folder(tmp_path)


def test_a_failure_is_a_result():
    def breaks():
        raise ZeroDivisionError("by nought")

    result = run_claim(made(breaks))
    assert result.verdict == "not run"
    assert result.failed
    assert "ZeroDivisionError: by nought" in result.measured


def test_a_claim_that_needs_something_says_what():
    def needs():
        raise NotRun("a file", "none", "name one")

    result = run_claim(made(needs))
    assert (result.verdict, result.failed) == ("not run", False)
    assert result.measured == "expected a file, received none: name one"


def test_what_is_true_instead_is_said_only_where_something_does_not_hold():
    for held, words in ((True, ""), (False, "the opposite")):
        result = run_claim(made(lambda h=held: Measurement("1", {"a": h}, "the opposite")))
        assert result.instead == words


def test_a_claim_leaves_random_states_and_threads_as_they_were():
    def draws():
        torch.rand(3), np.random.rand(3), random.random()
        return Measurement(str(float(torch.rand(()))), {"a": True})

    threads = torch.get_num_threads()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = run_claim(made(draws))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == np.random.get_state()[1].tolist()
    assert states[2] == random.getstate()
    assert torch.get_num_threads() == threads
    torch.rand(1)  # and what the caller has drawn does not matter to it
    assert run_claim(made(draws)).measured == first.measured


def test_several_processes_give_what_one_gives_in_the_order_asked():
    claims = find(["C3", "A3", "E1"])
    seen = []
    several = run_claims(claims, jobs=2, done=lambda r: seen.append(r.id))
    assert [r.id for r in several] == ["C3", "A3", "E1"]
    assert sorted(seen) == ["A3", "C3", "E1"]
    for one, other in zip(run_claims(claims, jobs=1), several, strict=True):
        assert (one.measured, one.verdict, one.where) == (
            other.measured,
            other.verdict,
            other.where,
        )


def test_a_process_that_dies_is_a_result_and_takes_no_other_with_it():
    from bptt.experiments.claims.run import _each

    # The ids are Python here, and the work is to run them: it has to be found in a fresh process.
    dies = "__import__('os')._exit(3)"
    lives = [f"__import__('bptt.claims').claims.Result('{n}', 'holds', '')" for n in "abc"]
    claims = [replace(made(None), id=id) for id in (lives[0], dies, *lives[1:])]
    found = {result.id: result for result in _each(claims, 2, eval)}
    assert sorted(found) == sorted([dies, "a", "b", "c"])
    assert found[dies].verdict == "not run"
    assert "process" in found[dies].measured
    assert all(found[name].verdict == "holds" for name in "abc")


def test_an_unknown_id_is_answered_with_near_ones():
    with pytest.raises(ArgumentError, match=r"'B55': did you mean .*B5"):
        find(["B55"])
    with pytest.raises(ArgumentError, match="did you mean"):
        find(["~"])
    assert [c.id for c in find(["b1X"])] == ["B1x"]


def test_files_that_no_package_carries_are_asked_for(monkeypatch, tmp_path):
    from bptt.experiments.claims.learn import VARIABLE

    monkeypatch.delenv(VARIABLE, raising=False)
    for result in map(run_claim, find(["P5", "P6", "P11"])):
        assert result.verdict == "not run"
        assert "--data" in result.measured
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert "no such file" in run_claim(find(["P5"])[0]).measured
