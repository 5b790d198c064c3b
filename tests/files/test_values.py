"""Values out of JSON against types: what fits, what does not, and that the message is one plain line."""

import json
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import pytest

from bptt.errors import ArgumentError
from bptt.files.read import fit, shown


@dataclass
class Inner:
    count: int
    share: float | None


class Outer(TypedDict):
    inner: Inner
    words: list[str]
    more: dict[str, Any]
    which: Literal["a", 1]


GOOD = {"inner": {"count": 3, "share": 0.5}, "words": ["a"], "more": {"x": [1]}, "which": "a"}
DEEP = json.loads("[" * 900 + "]" * 900)


def changed(place, value):
    document = json.loads(json.dumps(GOOD))
    part = document
    *above, last = place
    for key in above:
        part = part[key]
    part[last] = value
    return document


def test_what_fits():
    fit(GOOD, Outer, "state")
    for place, value in (
        (("inner", "share"), None), (("inner", "share"), 3), (("inner", "share"), 1e308),
        (("inner", "count"), 2**63 - 1),
        (("words",), []), (("more",), {}), (("which",), 1),
    ):  # fmt: skip
        fit(changed(place, value), Outer, "state")


@pytest.mark.parametrize("value", [
    True, -1, 0.5, "3", None, [], {}, 2**63, 10**400, float("nan"), float("inf"), DEEP, "\x1b]0;x\x07",
], ids=lambda value: repr(value)[:12])  # fmt: skip
@pytest.mark.parametrize(("place", "but"), [
    (("inner", "count"), ()),
    (("inner", "share"), (0.5, None, 2**63)),
    (("words", 0), ("3", "\x1b]0;x\x07")),
    (("words",), ([],)),
    (("inner",), ()),
    (("more",), ({},)),
    (("which",), ()),
], ids=str)  # fmt: skip
def test_what_does_not_fit_is_named(place, but, value):
    if any(value is good or (type(value) is type(good) and value == good) for good in but):
        fit(changed(place, value), Outer, "state")
        return
    if value is DEEP and place == ("words",):
        name = "state.words[0]"
    else:
        name = "state." + ".".join(map(str, place)).replace(".0", "[0]")
    with pytest.raises(ArgumentError) as info:
        fit(changed(place, value), Outer, "state", "restore it")
    said = str(info.value)
    assert said.isprintable()
    assert len(said) < 200
    assert name in said
    assert said.endswith(": restore it")


def test_missing_and_surplus_entries():
    with pytest.raises(ArgumentError, match=r"an entry state\.which, received none"):
        fit({k: v for k, v in GOOD.items() if k != "which"}, Outer, "state")
    with pytest.raises(ArgumentError, match=r"no entry but those of state, received '\\x1b'"):
        fit({**GOOD, "\x1b": 1}, Outer, "state")


def test_everything_can_be_shown():
    assert shown("a" * 100) == "'" + "a" * 39 + "…"
    assert shown(2**100_000) == "an int too long to be shown"
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "a list too long to be shown"
    while deep:  # bit by bit, or the interpreter would recurse
        (deep,) = deep
