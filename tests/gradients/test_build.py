"""Estimators as words: one language for the command line, comparisons and settings."""

import pytest
import torch

from bptt import gradients
from bptt.choices import GRADIENTS, parse_form, parse_numbers
from bptt.errors import ArgumentError
from bptt.gradients import (
    Adaptive,
    Checkpointed,
    ForwardMode,
    Full,
    Randomized,
    Truncated,
    Windowed,
    build,
)
from bptt.training import Settings
from bptt.training.build import build_estimator

MADE = {
    "full": Full(),
    "truncated:20": Truncated(20),
    "windowed:8": Windowed(8, 16),
    "windowed:32:64": Windowed(32, 64),
    "windowed:3:3": Windowed(3, 3),
    "checkpointed": Checkpointed(),
    "checkpointed:4": Checkpointed(states=4),
    "adaptive": Adaptive(0.05),
    "adaptive:0.9995": Adaptive(0.9995),
    "randomized:5": Randomized(5),
    "forward": ForwardMode(),
}


@pytest.mark.parametrize("form", MADE)
def test_a_form_is_an_estimator(form):
    assert build(form) == MADE[form]
    assert parse_form(form, GRADIENTS)[0] == form.split(":")[0]


def test_every_word_is_tried():
    assert {form.split(":")[0] for form in MADE} == set(GRADIENTS)
    assert gradients.build is build


WRONG = {
    "backwards": "one of full, truncated, windowed",
    "truncated": "a number after truncated",
    "full:3": "full alone",
    "truncated:2.5": "truncated:NUMBER with a whole number above 0, received 'truncated:2.5'",
    "truncated:0": "whole number above 0",
    "truncated:1:2": "truncated:NUMBER with a whole",
    "windowed:1:2:3": "windowed:NUMBER or windowed:NUMBER:NUMBER with a whole number",
    "windowed:4:": "whole number above 0",
    "windowed:4:1.5": "whole number above 0",
    "checkpointed:0.5": "whole number above 0",
    "adaptive:1": "a number above 0, below 1",
    "adaptive:nan": "a number above 0, below 1",
    "randomized:inf": "whole number above 0",
}


@pytest.mark.parametrize("form", WRONG)
def test_what_is_wrong_is_refused_in_the_words_it_was_written_in(form):
    for parse in (build, lambda text: parse_numbers(text, GRADIENTS)):
        with pytest.raises(ArgumentError) as caught:
            parse(form)
        assert WRONG[form] in str(caught.value)
        assert repr(form) in str(caught.value)


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_flags_of_training_give_the_same(name):
    generator = torch.Generator()
    settings = Settings(gradient=name, k=7, bias=0.1, cut=0.25, states=3)
    expected = {
        "full": Full(),
        "truncated": Truncated(7),
        "windowed": Windowed(7, 14),
        "checkpointed": Checkpointed(states=3),
        "adaptive": Adaptive(0.1),
        "randomized": Randomized(7, cut=0.25, generator=generator),
        "forward": ForwardMode(),
    }
    assert build_estimator(settings, generator) == expected[name]


def test_the_reduction_reaches_each():
    for form in MADE:
        assert build(form, reduction="sum").reduction == "sum"
