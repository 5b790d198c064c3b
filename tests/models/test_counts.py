"""The count table against a plain-dictionary oracle, and the laws of a language model."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from bptt.errors import ArgumentError, BpttError, DataError, DtypeError, ShapeError
from bptt.models import ngrams
from bptt.models.counts import CountModel
from bptt.nn.carry import zero_lanes
from compare import assert_close, assert_equal

V = 5
BEGINNING = -1


def corpus(size: int = 600, vocabulary: int = V, seed: int = 0) -> NDArray[np.int64]:
    """Tokens with structure: frequent and rare n-grams at every length."""
    random = np.random.default_rng(seed)
    tokens = [0, 1]
    while len(tokens) < size:
        likely = (tokens[-1] * 2 + tokens[-2]) % vocabulary
        tokens.append(likely if random.random() < 0.6 else int(random.integers(vocabulary) ** 0.9))
    return np.array(tokens[:size])


def documents(tokens: NDArray[np.int64], starts: list[int]) -> list[list[int]]:
    borders = [*sorted({0, *starts}), len(tokens)]
    return [tokens[a:b].tolist() for a, b in pairwise(borders)]


class Oracle:
    """Modified Kneser–Ney with dictionaries, straight from the equations, in exact fractions."""

    def __init__(self, texts: list[list[int]], vocabulary: int, order: int) -> None:
        self.vocabulary, self.order = vocabulary, order
        self.levels: list[dict[tuple[int, ...], dict[int, int]]] = []
        self.discounts: list[list[Fraction]] = []
        for level in range(order):
            if level == order - 1:
                ways: Counter[tuple[int, ...]] = Counter()
                for text in texts:
                    ways.update(tuple(text[i - level : i + 1]) for i in range(level, len(text)))
            else:
                left = defaultdict(set)
                for text in texts:
                    for i in range(level, len(text)):
                        before = text[i - level - 1] if i > level else BEGINNING
                        left[tuple(text[i - level : i + 1])].add(before)
                ways = Counter({gram: len(befores) for gram, befores in left.items()})
            table: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
            for gram, count in ways.items():
                table[gram[:-1]][gram[-1]] = count
            self.levels.append(table)
            n = [sum(count == i for count in ways.values()) for i in range(5)]
            found = [Fraction(1, 2), Fraction(1), Fraction(3, 2)]
            if all(n[1:]):
                y = Fraction(n[1], n[1] + 2 * n[2])
                ours = [i - (i + 1) * y * Fraction(n[i + 1], n[i]) for i in (1, 2, 3)]
                if all(0 < d < i for i, d in enumerate(ours, 1)):
                    found = ours
            self.discounts.append(found)

    def chances(self, document: list[int]) -> list[float]:
        """p(w | the document so far) for every w."""
        below = [Fraction(1, self.vocabulary)] * self.vocabulary
        for level in range(self.order):
            context = tuple(document[len(document) - level :])
            if len(document) < level or context not in self.levels[level]:
                break
            after, d = self.levels[level][context], self.discounts[level]
            total = sum(after.values())
            freed = sum(d[min(count, 3) - 1] for count in after.values()) / total
            below = [
                (after[w] - d[min(after[w], 3) - 1] if w in after else 0) / Fraction(total)
                + freed * below[w]
                for w in range(self.vocabulary)
            ]
        return [float(p) for p in below]


def fitted(order: int, size: int = 600) -> CountModel:
    return CountModel(V, order).double().fit(corpus(size), np.array([0, 150, 152, 400]))


def text(steps: int, lanes: int, seed: int = 0, vocabulary: int = V) -> torch.Tensor:
    return torch.randint(vocabulary, (steps, lanes), generator=torch.Generator().manual_seed(seed))


def assert_oracle(model: CountModel, oracle: Oracle, tokens: torch.Tensor) -> None:
    logits, _ = model(tokens)
    for lane in range(tokens.shape[1]):
        document = tokens[:, lane].tolist()
        for t in range(len(tokens)):
            expected = np.array(oracle.chances(document[: t + 1]))
            assert_close(logits[t, lane].exp().numpy(), expected, 1e-12)


@pytest.mark.parametrize("order", range(1, 9))
def test_it_equals_the_dictionaries(order: int) -> None:
    tokens, starts = corpus(), [150, 152, 400]
    model = CountModel(V, order).double().fit(tokens, np.array(starts))
    oracle = Oracle(documents(tokens, starts), V, order)
    assert_oracle(model, oracle, torch.from_numpy(tokens[:60]).unsqueeze(1))
    assert_oracle(model, oracle, text(12, 3))


def test_both_kinds_of_discounts_were_met() -> None:
    oracle = Oracle(documents(corpus(), [150, 152, 400]), V, 5)
    fixed = [Fraction(1, 2), Fraction(1), Fraction(3, 2)]
    assert len({discounts == fixed for discounts in oracle.discounts}) == 2


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=40),
    st.sets(st.integers(0, 39)),
    st.integers(1, 5),
)
def test_any_text_and_any_documents(tokens: list[int], starts: set[int], order: int) -> None:
    array = np.array(tokens)
    inside = sorted(s for s in starts if s < len(tokens))
    model = CountModel(3, order).double().fit(array, np.array(inside, np.int64))
    oracle = Oracle(documents(array, inside), 3, order)
    assert_oracle(model, oracle, torch.tensor(tokens[:8]).unsqueeze(1))


@pytest.mark.parametrize("block", [1, 2, 7, 100])
def test_blocks_do_not_show(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted(4)
    monkeypatch.setattr(ngrams, "BLOCK", block)
    assert_equal(fitted(4).state_dict(), whole.state_dict())


@pytest.mark.parametrize("limit", [V**2 * 60, V**5 + 1, V**6 + 1])
def test_ranks_in_place_of_long_codes(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = corpus(60)
    plain = CountModel(V, 8).double().fit(tokens)
    known, other = torch.from_numpy(tokens[:40]).unsqueeze(1), text(9, 2)
    expected = plain(known)[0], plain(other)[0]
    monkeypatch.setattr(ngrams, "LIMIT", limit)
    ranked = CountModel(V, 8).double().fit(tokens)
    assert not torch.equal(ranked.contexts, plain.contexts)
    assert_equal((ranked(known)[0], ranked(other)[0]), expected)


def test_a_vocabulary_too_large_to_pack() -> None:
    # 5000^6 has 74 bits.
    tokens = corpus(400, vocabulary=5_000).astype(np.uint16)
    model = CountModel(5_000, 6).double().fit(tokens)
    oracle = Oracle([tokens.tolist()], 5_000, 6)
    logits, _ = model(torch.from_numpy(tokens[:10].astype(np.int64)).unsqueeze(1))
    assert_close(logits[-1, 0].exp().numpy(), np.array(oracle.chances(tokens[:10].tolist())), 1e-11)


def test_too_many_contexts_to_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "LIMIT", V**2 * 3)
    with pytest.raises(ArgumentError, match="lower the order"):
        fitted(4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_memory_mapped_tokens(dtype: type[np.generic], tmp_path: Path) -> None:
    corpus().astype(dtype).tofile(tmp_path / "tokens.bin")
    mapped = np.memmap(tmp_path / "tokens.bin", dtype=dtype, mode="r")
    model = CountModel(V, 4).fit(mapped)
    assert_equal(model.state_dict(), CountModel(V, 4).fit(corpus()).state_dict())


@pytest.mark.parametrize("order", [1, 2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_sum_to_one_and_none_is_zero(order: int, dtype: torch.dtype) -> None:
    logits, _ = fitted(order).to(dtype)(text(50, 4))
    assert logits.dtype == dtype
    assert logits.isfinite().all()
    tol = 1e-6 if dtype == torch.float32 else 1e-14
    assert_close(logits.exp().sum(-1), torch.ones(50, 4, dtype=dtype), tol)
    assert_close(logits.log_softmax(-1), logits, tol)


def test_one_token_repeated() -> None:
    logits, _ = CountModel(V, 8).fit(np.zeros(100_000, np.uint8))(text(20, 2))
    assert logits.isfinite().all()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 8), st.sets(st.integers(1, 11)))
def test_chunks_equal_the_whole(steps: int, lanes: int, order: int, cuts: set[int]) -> None:
    model, tokens = fitted(order, size=500), text(steps, lanes)
    reset = torch.zeros(steps, lanes, dtype=torch.bool)
    reset[steps // 2, 0] = True
    whole, last = model(tokens, reset=reset)
    borders = [0, *sorted(c for c in cuts if c < steps), steps]
    parts, carry = [], None
    for a, b in pairwise(borders):
        part, carry = model(tokens[a:b], carry, reset=reset[a:b])
        parts.append(part)
    assert_equal(torch.cat(parts), whole)
    assert_equal(carry, last)
    assert last.shape == (max(order - 2, 0), lanes)


@pytest.mark.parametrize("at", [0, 1, 4, 8])
@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_reset_equals_two_sequences(at: int, order: int) -> None:
    model, tokens = fitted(order), text(9, 2)
    reset = torch.zeros(9, 2, dtype=torch.bool)
    reset[at] = True
    _, carry = model(text(5, 2, seed=3))
    joined, last = model(tokens, carry, reset=reset)
    after, end = model(tokens[at:])
    assert_equal(joined[at:], after)
    assert_equal(last, end)
    if at:
        assert_equal(joined[:at], model(tokens[:at], carry)[0])


def test_a_lane_of_zeros_starts_fresh() -> None:
    model, tokens = fitted(6), text(5, 2)
    _, carry = model(text(6, 2, seed=3))
    joined, _ = model(tokens, zero_lanes(carry, torch.tensor([True, False])))
    assert_equal(joined[:, :1], model(tokens[:, :1])[0])
    assert_equal(joined[:, 1:], model(tokens, carry)[0][:, 1:])


def test_longer_contexts_predict_better() -> None:
    tokens = corpus(6000)
    probe = torch.from_numpy(tokens[5000:]).unsqueeze(1)
    losses = []
    for order in (1, 2, 3):
        logits, _ = CountModel(V, order).fit(tokens[:5000])(probe[:-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), probe[1:].flatten())
        losses.append(loss.item())
    assert math.log(V) > losses[0] > losses[1] > losses[2] + 0.1


def test_saved_and_restored(tmp_path: Path) -> None:
    model, tokens = fitted(4).float(), text(9, 2)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    fresh = CountModel(V, 4)
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert_equal(fresh(tokens)[0], model(tokens)[0])
    assert fresh.entries == model.entries == len(model.masses) + len(model.backoff)
    # Inside another module too, and over a table of another size.
    outer = torch.nn.ModuleDict({"table": fitted(4, size=431)}).float()
    outer.load_state_dict({f"table.{k}": v for k, v in model.state_dict().items()})
    assert_equal(outer["table"](tokens)[0], model(tokens)[0])


@pytest.mark.parametrize("other", [(V + 1, 4), (V, 3)])
def test_restored_into_other_sizes(other: tuple[int, int]) -> None:
    model = CountModel(*other).fit(corpus())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="vocabulary_size=5, order=4"):
        model.load_state_dict(fitted(4).state_dict())
    assert_equal(model.state_dict(), before)


CHANGES = {
    "empty": lambda t: t[:0],
    "longer": lambda t: torch.cat((t, t[-1:])),
    "a scalar": lambda t: t[0],
    "two axes": lambda t: t[None],
    "negative": lambda t: t * 0 - 1,
    "huge": lambda t: t * 0 + 2**40,
    "not finite": lambda t: t * 0 + math.inf if t.is_floating_point() else t * 0.5,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["header", "contexts", "backoff", "rows", "symbols", "masses"])
def test_counts_that_point_outside_are_refused_and_change_nothing(name: str, change: str) -> None:
    model, state = fitted(3), fitted(3).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state[name] = CHANGES[change](state[name])
    if (name, change) in {
        ("contexts", "negative"),
        ("contexts", "huge"),
        ("masses", "huge"),
        ("backoff", "huge"),
    }:
        model.load_state_dict(
            state
        )  # contexts that no text has, and shares that are odd: never met
        model(torch.zeros(4, 2, dtype=torch.int64))
        return
    with pytest.raises(RuntimeError, match="expected counts") as info:
        model.load_state_dict(state)
    assert str(info.value).count("\n") == 1  # torch's own first line, and ours
    assert_equal(model.state_dict(), before)


def test_an_incomplete_state_dict_is_refused() -> None:
    state = fitted(3).state_dict()
    del state["masses"]
    with pytest.raises(RuntimeError, match="masses"):
        CountModel(V, 3).load_state_dict(state)


def test_fit_starts_over() -> None:
    model = fitted(3)
    again = CountModel(V, 3).double().fit(corpus(50))
    assert_equal(model.fit(corpus(50)).state_dict(), again.state_dict())


def test_progress_ends_at_the_total() -> None:
    seen: list[tuple[int, int]] = []
    CountModel(V, 3).fit(corpus(), progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (1800, 1800)


def test_nothing_counted_yet() -> None:
    with pytest.raises(DataError, match="fit"):
        CountModel(V, 2)(text(3, 1))


@pytest.mark.parametrize("order", [0, 9, 2.0])
def test_an_order_out_of_range(order: int) -> None:
    with pytest.raises(ArgumentError, match="order"):
        CountModel(V, order)


@pytest.mark.parametrize("vocabulary", [0, 1 << 21])
def test_a_vocabulary_out_of_range(vocabulary: int) -> None:
    with pytest.raises(ArgumentError, match="vocabulary_size"):
        CountModel(vocabulary)


@pytest.mark.parametrize(
    ("tokens", "starts", "error"),
    [
        (np.zeros((2, 3), np.int64), None, ShapeError),
        (np.zeros(0, np.int64), None, ShapeError),
        (np.zeros(3), None, DtypeError),
        (np.array([0, V]), None, DataError),
        (np.array([0, -1]), None, DataError),
        (np.zeros(3, np.int64), np.array([[0]]), ShapeError),
        (np.zeros(3, np.int64), np.array([True, False, True]), DtypeError),
        (np.zeros(3, np.int64), np.array([0, 3]), DataError),
        (np.zeros(3, np.int64), np.array([-1]), DataError),
        (np.zeros(3, np.int64), np.array([0, 2, 1]), DataError),
        (np.zeros(3, np.int64), np.array([0, 1, 1]), DataError),
    ],
)
def test_a_text_that_does_not_fit(
    tokens: NDArray[np.int64], starts: NDArray[np.int64] | None, error: type[BpttError]
) -> None:
    model = CountModel(V, 2)
    with pytest.raises(error):
        model.fit(tokens, starts)
    assert model.entries == 0


@pytest.mark.parametrize(
    ("tokens", "carry", "error"),
    [
        (torch.zeros(3, dtype=torch.int64), None, ShapeError),
        (torch.zeros(3, 2), None, DtypeError),
        (torch.full((3, 2), V), None, DataError),
        (text(3, 2), torch.zeros(1, 2, dtype=torch.int64), ShapeError),
        (text(3, 2), torch.zeros(2, 2), DtypeError),
        (text(3, 2), torch.full((2, 2), -1), DataError),
    ],
)
def test_arguments_that_do_not_fit(
    tokens: torch.Tensor, carry: torch.Tensor | None, error: type[BpttError]
) -> None:
    with pytest.raises(error):
        fitted(4)(tokens, carry)
