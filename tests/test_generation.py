"""Text out of a model: temperatures and choices at their ends, beginnings, models that have diverged."""

import math

import pytest
import torch
from torch import nn

from bptt.data import ByteVocabulary, CharVocabulary
from bptt.errors import ArgumentError, DataError, NonFiniteError
from bptt.models.language import default_prompt, generate

VOCABULARY = CharVocabulary.from_text("abcde")


class Fixed(nn.Module):
    """A language model that always believes the same."""

    def __init__(self, logits, dtype=torch.float32):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=dtype))

    def forward(self, tokens, carry=None, reset=None):
        return self.logits.expand(*tokens.shape, -1), carry


def written(logits, **options):
    options = {"length": 200, "seed": 1, **options}
    return "".join(generate(Fixed(logits), VOCABULARY, "a", **options))


LIKELY = [
    [9.0, 1.0, 2.0, 5.0, 4.5, 0.0],
    [9.0, -3e38, 3e38, 0.0, 1.0, 2.0],
    [0.0, -5, -4, -3, -2, -1],
]


@pytest.mark.parametrize("temperature", [0, 0.0, -0.0, 5e-324, 1e-308, 1e-300, 1e-45, 1e-20])
@pytest.mark.parametrize("logits", LIKELY)
def test_a_temperature_as_near_to_nothing_as_can_be_takes_the_most_likely(logits, temperature):
    best = VOCABULARY.symbols[1:][max(range(5), key=lambda i: logits[i + 1])]
    assert written(logits, temperature=temperature) == 200 * best


@pytest.mark.parametrize("temperature", [1e100, 1e308, 1.7976931348623157e308])
def test_a_temperature_without_end_takes_each_as_likely(temperature):
    text = written([0.0, 5.0, 1.0, 2.0, 3.0, 4.0], temperature=temperature, length=2000)
    assert all(300 < text.count(c) < 500 for c in "abcde")


@pytest.mark.parametrize("temperature", [math.nan, math.inf, -math.inf, -1, -5e-324])
def test_other_temperatures_are_refused(temperature):
    with pytest.raises(ArgumentError, match="temperature >= 0"):
        generate(Fixed([0.0] * 6), VOCABULARY, "a", temperature=temperature)


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"top_k": 1}, {"top_k": 1, "temperature": 1e308}]
)
def test_of_equals_the_greedy_choice_is_the_first(options):
    assert written([7.0, 1.0, 3.0, 3.0, 3.0, 0.0], **options) == 200 * "b"


def test_top_k_is_that_many_also_among_equals():
    assert set(written([7.0, 3.0, 3.0, 3.0, 3.0, 1.0], top_k=2)) == {"a", "b"}
    assert set(written([0.0, 1.0, 3.0, 2.0, 3.0, 1.0], top_k=3)) == {"b", "c", "d"}


@pytest.mark.parametrize("top_k", [5, 6, 7, 10**30])
def test_more_choices_than_there_are_symbols_are_all(top_k):
    even = [0.0] * 6
    assert written(even, top_k=top_k) == written(even)
    assert set(written(even, top_k=top_k)) == set("abcde")  # never the unknown one


@pytest.mark.parametrize("top_k", [0, -1, -(10**30)])
def test_fewer_than_one_choice_is_refused(top_k):
    with pytest.raises(ArgumentError, match="top_k >= 1"):
        generate(Fixed([0.0] * 6), VOCABULARY, "a", top_k=top_k)


def test_what_cannot_come_may_be_minus_infinity():
    assert set(written([0.0, -math.inf, 1.0, -math.inf, 1.0, -math.inf])) == {"b", "d"}


@pytest.mark.parametrize("temperature", [0, 0.8, 5e-324])
@pytest.mark.parametrize("top_k", [None, 1, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1, 5])  # also that of the unknown symbol
def test_a_prediction_that_is_no_number_is_named(place, value, top_k, temperature):
    logits = [1.0] * 6
    logits[place] = value
    with pytest.raises(NonFiniteError, match=f"received {value} among those for token 1: .*--lr"):
        written(logits, top_k=top_k, temperature=temperature)


def test_nothing_but_minus_infinity_is_no_prediction():
    with pytest.raises(NonFiniteError, match="inf"):
        written([-math.inf] * 6)


def test_a_model_that_overflows_on_its_way_writes_until_then():
    class Growing(Fixed):
        def forward(self, tokens, carry=None, reset=None):
            carry = torch.ones(1, 1) if carry is None else carry * 1e10
            return self.logits.expand(*tokens.shape, -1) * carry, carry

    pieces = generate(Growing([1.0] * 6), VOCABULARY, "a", length=50, seed=1)
    seen = []
    with pytest.raises(NonFiniteError, match=r"token 5\b"):  # 1e40 is no float
        seen.extend(pieces)
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("one\ntwo\r\nthree", "\n"), ("one\rtwo", "\r"), ("one\u2028two words", "\u2028"),
        ("one\u2029two", "\u2029"), ("one\x85two", "\x85"), ("two words", " "), ("二\u3000三", "\u3000"),
        ("ACGT", "A"), ("zz", "z"), ("\x1b\x07", "\x07"), ("😀😃", "😀"),
    ],
)  # fmt: skip
def test_a_text_is_begun_with_what_it_knows(text, prompt):
    vocabulary = CharVocabulary.from_text(text)
    assert default_prompt(vocabulary) == prompt
    model = Fixed([0.0] * vocabulary.size)
    assert len("".join(generate(model, vocabulary, length=5, seed=1))) == 5


def test_bytes_know_every_beginning():
    assert default_prompt(ByteVocabulary()) == "\n"


def test_an_unknown_prompt_is_refused_in_words_that_any_caller_can_use():
    with pytest.raises(DataError, match=r"'x' \(U\+0078\) at 1: leave them out$"):
        generate(Fixed([0.0] * 6), VOCABULARY, "ax")
