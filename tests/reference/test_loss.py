"""The loss against torch's cross-entropy, and the values that define perplexity."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bptt.errors import ArgumentError, BpttError, DtypeError, ShapeError
from bptt.reference import bits, loss, perplexity
from compare import assert_close


@given(st.data())
def test_equals_torch(data: st.DataObject) -> None:
    T, B, V = (data.draw(st.integers(1, n)) for n in (6, 4, 7))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    logits, targets = 3 * rng.normal(size=(T, B, V)), rng.integers(0, V, size=(T, B))
    lengths = data.draw(st.none() | st.lists(st.integers(1, T), min_size=B, max_size=B))
    if lengths is not None:
        padded = np.arange(T)[:, None] >= np.array(lengths)
        targets[padded] = -100  # torch's own mark for "no target here"
    given_logits = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        given_logits.reshape(-1, V), torch.tensor(targets).reshape(-1)
    )
    expected.backward()
    if lengths is not None:
        logits[padded] = np.nan
    trace = loss.forward(logits, targets, lengths)
    assert_close(trace.nats, expected.item(), 1e-12, "nats", floor=0.1)
    assert_close(loss.backward(trace), given_logits.grad, 1e-12, "dlogits", floor=0.1)
    assert trace.tokens == (T * B if lengths is None else sum(lengths))


@given(st.integers(1, 300))
def test_a_uniform_model_has_perplexity_v(V: int) -> None:
    nats = loss.forward(np.full((2, 3, V), 0.25), np.full((2, 3), V - 1)).nats
    assert_close(nats, math.log(V), 1e-14, floor=1.0)
    assert_close(perplexity(nats), float(V), 1e-13)
    assert_close(bits(nats), math.log2(V), 1e-14, floor=1.0)


def test_a_perfect_model_has_perplexity_one_and_a_hopeless_one_infinity() -> None:
    logits = np.zeros((1, 1, 3))
    logits[..., 1] = 1000.0
    assert perplexity(loss.forward(logits, [[1]]).nats) == 1.0
    assert bits(loss.forward(logits, [[1]]).nats) == 0.0
    assert loss.forward(logits, [[0]]).nats == 1000.0
    assert perplexity(1000.0) == math.inf
    assert math.isnan(perplexity(math.nan))


def test_is_the_mean_over_tokens_not_over_lanes() -> None:
    logits = np.zeros((3, 2, 2))
    logits[:, 1, 0] = 5.0
    trace = loss.forward(logits, np.zeros((3, 2), dtype=int), lengths=[3, 1])
    sure = -math.log(1 / (1 + math.exp(-5.0)))
    assert_close(trace.nats, (3 * math.log(2) + sure) / 4, 1e-14)


@given(st.floats(-500, 500), st.integers(0, 2**32 - 1))
def test_a_shift_of_all_logits_changes_nothing(shift: float, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(2, 2, 4))
    targets = np.zeros((2, 2), dtype=int)
    moved, here = loss.forward(logits + shift, targets), loss.forward(logits, targets)
    assert_close(moved.nats, here.nats, 1e-11)


@given(st.integers(0, 2**32 - 1))
def test_the_gradient_of_each_token_sums_to_zero(seed: int) -> None:
    rng = np.random.default_rng(seed)
    trace = loss.forward(5 * rng.normal(size=(3, 2, 5)), rng.integers(0, 5, size=(3, 2)))
    assert_close(loss.backward(trace).sum(axis=2), np.zeros((3, 2)), 1e-15, floor=1.0)


@pytest.mark.parametrize(
    ("logits", "targets", "lengths", "error"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3), int), None, ShapeError),
        (np.zeros((2, 1, 3)), np.zeros((1, 2), int), None, ShapeError),
        (np.zeros((2, 1, 3)), np.zeros((2, 1)), None, DtypeError),
        (np.zeros((2, 1, 3), complex), np.zeros((2, 1), int), None, DtypeError),
        (np.zeros((2, 1, 3)), np.full((2, 1), 3), None, ArgumentError),
        (np.zeros((2, 1, 3)), np.full((2, 1), -1), None, ArgumentError),
        (np.zeros((2, 1, 3)), np.zeros((2, 1), int), [0], ArgumentError),
        (np.zeros((2, 1, 3)), np.zeros((2, 1), int), [3], ArgumentError),
    ],
)
def test_misfits_are_refused(
    logits: Any, targets: Any, lengths: Any, error: type[BpttError]
) -> None:
    with pytest.raises(error):
        loss.forward(logits, targets, lengths)


@pytest.mark.parametrize("measure", [perplexity, bits])
def test_a_log_likelihood_without_its_minus_is_refused(measure: Any) -> None:
    with pytest.raises(ArgumentError, match="negative log-likelihood"):
        measure(-1.0)
