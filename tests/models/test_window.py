"""The window model and what it shares with the other baselines."""

from __future__ import annotations

import math
import pickle
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bptt.errors import ArgumentError, BpttError, DataError, DtypeError, ShapeError
from bptt.models.window import WindowModel, check_tokens, recent_tokens
from bptt.nn.carry import zero_lanes
from compare import assert_close, assert_equal

V = 7


def model(window: int = 4, layers: int = 2) -> WindowModel:
    torch.manual_seed(0)
    return (
        WindowModel(V, window, embedding=3, hidden=11, layers=layers, dropout=0.2).double().eval()
    )


def text(steps: int, lanes: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (steps, lanes), generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_windows_are_what_a_loop_collects(data: st.DataObject) -> None:
    steps, lanes, window = (data.draw(st.integers(1, n)) for n in (9, 3, 6))
    tokens = text(steps, lanes)
    reset = torch.rand(steps, lanes, generator=torch.Generator().manual_seed(1)) < 0.3
    cut = data.draw(st.integers(0, steps - 1))
    parts, carry = [], None
    for piece in (slice(0, cut), slice(cut, steps)):
        if piece.stop > piece.start:
            part, carry = recent_tokens(tokens[piece], carry, reset[piece], window, V)
            parts.append(part)
    expected = torch.zeros(steps, lanes, window, dtype=torch.int64)
    for lane in range(lanes):
        document: list[int] = []
        for t in range(steps):
            document = ([] if reset[t, lane] else document) + [int(tokens[t, lane])]
            seen = document[-window:]
            expected[t, lane, window - len(seen) :] = torch.tensor(seen) + 1
    assert_equal(torch.cat(parts), expected)
    assert carry is not None
    assert_equal(carry, expected[-1, :, 1:].T)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 6), st.lists(st.integers(1, 11)))
def test_chunks_equal_the_whole(steps: int, lanes: int, window: int, cuts: list[int]) -> None:
    net, tokens = model(window), text(steps, lanes)
    reset = torch.zeros(steps, lanes, dtype=torch.bool)
    reset[steps // 2, 0] = True
    whole, last = net(tokens, reset=reset)
    borders = [0, *sorted({c for c in cuts if c < steps}), steps]
    parts, carry = [], None
    for a, b in pairwise(borders):
        part, carry = net(tokens[a:b], carry, reset=reset[a:b])
        parts.append(part)
    assert_close(torch.cat(parts), whole, 1e-14)
    assert_equal(carry, last)


@pytest.mark.parametrize("at", [0, 1, 4, 8])
def test_reset_equals_two_sequences(at: int) -> None:
    net, tokens = model(), text(9, 2)
    reset = torch.zeros(9, 2, dtype=torch.bool)
    reset[at] = True
    _, carry = net(text(5, 2, seed=3))
    joined, last = net(tokens, carry, reset=reset)
    after, end = net(tokens[at:])
    assert_close(joined[at:], after, 1e-14)
    assert_equal(last, end)
    if at:
        assert_close(joined[:at], net(tokens[:at], carry)[0], 1e-14)


def test_a_lane_of_zeros_starts_fresh() -> None:
    net, tokens = model(), text(5, 2)
    _, carry = net(text(6, 2, seed=3))
    joined, _ = net(tokens, zero_lanes(carry, torch.tensor([True, False])))
    assert_close(joined[:, :1], net(tokens[:, :1])[0], 1e-14)
    assert_close(joined[:, 1:], net(tokens, carry)[0][:, 1:], 1e-14)


def test_it_sees_the_window_and_no_further() -> None:
    net, tokens = model(window=4), text(10, 1)
    before = net(tokens)[0]
    changed = tokens.clone()
    changed[3] = (changed[3] + 1) % V
    moved = (net(changed)[0] != before).any(-1).squeeze(1)
    assert moved.tolist() == [3 <= t < 7 for t in range(10)]


def test_it_starts_at_the_uniform_model_and_learns() -> None:
    torch.manual_seed(0)
    net = WindowModel(V, window=3, embedding=8, hidden=32, dropout=0.0)
    # A token is the sum of the two before it: no shorter context says anything about it.
    tokens = text(2, 16)
    for _ in range(20):
        tokens = torch.cat((tokens, (tokens[-1:] + tokens[-2:-1]) % V))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    losses = []
    for _ in range(120):
        logits, _ = net(tokens[:-1])
        loss = nn.functional.cross_entropy(logits[1:].flatten(0, 1), tokens[2:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - math.log(V)) < 0.1
    assert losses[-1] < 0.1


def test_every_weight_gets_a_gradient() -> None:
    net = model()
    logits, _ = net(text(6, 2))
    logits.logsumexp(-1).sum().backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_state_dict_goes_both_ways() -> None:
    one, other = model(), model()
    other.reset_parameters()
    other.load_state_dict(one.state_dict())
    tokens = text(5, 2)
    assert_equal(other(tokens)[0], one(tokens)[0])
    assert_equal(pickle.loads(pickle.dumps(one))(tokens)[0], one(tokens)[0])


@pytest.mark.parametrize("size", ["window", "embedding", "hidden", "layers"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_sizes_out_of_range(size: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=f"{size} >= 1"):
        WindowModel(V, **{size: value})  # type: ignore[arg-type]


def test_other_arguments_out_of_range() -> None:
    with pytest.raises(ArgumentError, match="vocabulary_size"):
        WindowModel(0)
    with pytest.raises(ArgumentError, match="dropout"):
        WindowModel(V, dropout=1.0)


@pytest.mark.parametrize(
    ("tokens", "reset", "error", "match"),
    [
        (torch.zeros(3, dtype=torch.int64), None, ShapeError, "time first"),
        (torch.zeros(0, 2, dtype=torch.int64), None, ShapeError, "T >= 1"),
        (torch.zeros(3, 2), None, DtypeError, "int64"),
        (torch.zeros(3, 2, dtype=torch.int32), None, DtypeError, "int64"),
        (torch.full((3, 2), V), None, DataError, "received 7"),
        (torch.full((3, 2), -1), None, DataError, "received -1"),
        (text(3, 2), torch.zeros(3, dtype=torch.bool), ShapeError, "reset"),
        (text(3, 2), torch.zeros(3, 2), DtypeError, "bool"),
    ],
)
def test_tokens_that_do_not_fit(
    tokens: torch.Tensor, reset: torch.Tensor | None, error: type[BpttError], match: str
) -> None:
    with pytest.raises(error, match=match):
        check_tokens(tokens, reset, V)
    with pytest.raises(error, match=match):
        model()(tokens, reset=reset)


@pytest.mark.parametrize(
    ("carry", "error"),
    [
        (torch.zeros(2, 2, dtype=torch.int64), ShapeError),
        (torch.zeros(3, 1, dtype=torch.int64), ShapeError),
        (torch.zeros(3, 2), DtypeError),
        (torch.full((3, 2), V + 1), DataError),
        ((torch.zeros(3, 2),), ShapeError),
    ],
)
def test_a_carry_that_does_not_fit(carry: torch.Tensor, error: type[BpttError]) -> None:
    with pytest.raises(error):
        model(window=4)(text(3, 2), carry)
