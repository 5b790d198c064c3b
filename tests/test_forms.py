"""Remedies as words."""

import pytest

from bptt.choices import CLIPS, REGULARISERS, STARTS, clip_form, parse_form, parse_forms
from bptt.errors import ArgumentError

WRONG = [
    ("lucky", STARTS, "one of default, small"),
    ("np:2", STARTS, "np alone"),
    ("chrono", STARTS, "a number after chrono"),
    ("chrono:2", STARTS, "above 2"),
    ("radius:0", STARTS, "above 0"),
    ("radius:many", STARTS, "with a number"),
    ("radius:nan", STARTS, "with a number"),
    ("radius:inf", STARTS, "with a number"),
    ("radius:", STARTS, "with a number"),
    ("", STARTS, "one of default"),
    ("auto:101", CLIPS, "at most 100"),
    ("norm:-1", CLIPS, "above 0"),
    ("omega:0", REGULARISERS, "above 0"),
]


@pytest.mark.parametrize(("text", "words", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_what_is_wrong_is_refused(text, words, message):
    with pytest.raises(ArgumentError, match=message):
        parse_form(text, words)


def test_joined_forms_keep_their_order():
    assert parse_forms("norm:2+forget:-1", STARTS) == [("norm", 2.0), ("forget", -1.0)]
    with pytest.raises(ArgumentError, match="one of default"):
        parse_forms("norm:2+", STARTS)


def test_a_bare_number_is_a_norm():
    assert parse_form(clip_form(0.25), CLIPS) == ("norm", 0.25)
    assert parse_form(clip_form("3e-2"), CLIPS) == ("norm", 0.03)
    assert clip_form(None) == "none"
