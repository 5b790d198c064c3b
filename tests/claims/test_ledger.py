"""The ledger: complete, judged by rule alone, and nothing lost where a claim fails."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from bptt.errors import ArgumentError
from bptt.experiments.claims import Claim, Measurement, NotRun, find, ledger, run_claim, run_claims

# Every row of the list the ledger was asked for.
IDS = [
    "A1",
    "A2",
    "B1",
    "B2",
    "B1x",
    "D1",
    "C6",
    "C5",
    "B3",
    "A3",
    "B4",
    "E1",
    "C3",
    "A4",
    "E2",
    "C4",
    "C8",
    "C9",
    "C7",
    "A8",
    "D2",
    "E3",
    "C16",
    "B5",
    "B5b",
    "B6",
    "B5x",
    "C12",
    "A10",
    "A7",
    "C17",
    "B7",
    "B7x",
    "B8",
    "B9",
    "C11",
    "C10",
    "D4",
    "D5",
    "C14",
    "C13",
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
        for name in ("id", "source", "statement", "published", "rule"):
            assert getattr(claim, name).strip(), f"{claim.id} has no {name}"
        assert claim.statement.endswith("."), claim.id


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ({"a": True, "b": True}, "holds"),
        ({"a": True, "b": False}, "holds in part"),
        ({"a": True, "b": None}, "holds in part"),
        ({"a": False, "b": None}, "does not hold"),
        ({"a": False}, "does not hold"),
        ({"a": None}, "not run"),
        ({"a": np.True_, "b": np.True_}, "holds"),  # `np.True_ is True` is false
        ({"a": np.False_}, "does not hold"),
    ],
)
def test_the_verdict_follows_from_the_parts(parts, verdict):
    found = Measurement("text", parts)
    assert found.verdict == verdict
    assert all(part in found.where for part in parts)


def made(measure):
    return Claim("X1", "nobody", "A statement.", "1", "a rule", True, measure)


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
    from bptt.experiments.claims.registry import _each

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
