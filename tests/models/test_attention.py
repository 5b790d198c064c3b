"""The attention model: its carry, its reach, and its oracle in plain loops."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bptt.errors import ArgumentError, BpttError, DataError, DtypeError, ShapeError
from bptt.models.attention import AttentionCarry, AttentionModel, rotated
from bptt.nn.carry import zero_lanes
from compare import assert_close, assert_equal

V = 7
TOL = 1e-11


def model(context: int = 4, layers: int = 2) -> AttentionModel:
    torch.manual_seed(0)
    net = AttentionModel(V, width=8, heads=2, layers=layers, context=context, dropout=0.2)
    # Larger weights than the start's, so that a key that should be hidden would show.
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.5)
    return net.double().eval()


def text(steps: int, lanes: int, seed: int = 0) -> Tensor:
    return torch.randint(V, (steps, lanes), generator=torch.Generator().manual_seed(seed))


def flags(steps: int, lanes: int, share: float = 0.25) -> Tensor:
    return torch.rand(steps, lanes, generator=torch.Generator().manual_seed(1)) < share


def oracle(net: AttentionModel, tokens: Tensor, reset: Tensor) -> Tensor:
    """One query at a time, positions counted from the beginning of the text."""
    steps, lanes = tokens.shape
    logits = torch.empty(steps, lanes, V, dtype=torch.float64)
    for lane in range(lanes):
        x = net.embedding(tokens[:, lane])
        document = reset[:, lane].cumsum(0)
        for block in net.blocks:
            mixed = block.query_key_value(block.attention_norm(x))
            query, key, value = mixed.view(steps, 3, net.heads, -1).unbind(1)
            seen = torch.empty_like(value)
            for t in range(steps):
                near = [
                    s
                    for s in range(max(0, t - net.context + 1), t + 1)
                    if document[s] == document[t]
                ]
                for head in range(net.heads):
                    q = rotated(query[t : t + 1, head], t)
                    k = torch.cat([rotated(key[s : s + 1, head], s) for s in near])
                    share = (q @ k.T / math.sqrt(k.shape[1])).softmax(-1)
                    seen[t, head] = (share @ value[near, head]).squeeze(0)
            x = x + block.attention_output(seen.flatten(1))
            x = x + block.hidden_output(nn.functional.gelu(block.hidden(block.hidden_norm(x))))
        logits[:, lane] = net.output(net.norm(x))
    return logits


@pytest.mark.parametrize(
    ("steps", "lanes", "context", "share"),
    [
        (1, 1, 1, 0.0),
        (3, 2, 1, 0.3),
        (5, 1, 5, 0.0),
        (6, 2, 3, 0.0),
        (9, 3, 4, 0.3),
        (70, 1, 5, 0.1),
    ],
)
def test_it_equals_the_loops(steps: int, lanes: int, context: int, share: float) -> None:
    net, tokens, reset = model(context), text(steps, lanes), flags(steps, lanes, share)
    expected = oracle(net, tokens, reset)
    assert_close(net(tokens, reset=reset)[0], expected, TOL)
    if not reset.any():
        assert_close(net(tokens)[0], expected, TOL)


def in_chunks(
    net: AttentionModel, tokens: Tensor, reset: Tensor | None, borders: list[int]
) -> tuple[Tensor, AttentionCarry | None]:
    parts, carry = [], None
    for a, b in pairwise(borders):
        part, carry = net(tokens[a:b], carry, reset=None if reset is None else reset[a:b])
        parts.append(part)
    return torch.cat(parts), carry


def assert_same_carry(actual: AttentionCarry | None, expected: AttentionCarry) -> None:
    assert actual is not None
    assert_equal(actual.visible, expected.visible)
    seen = expected.visible.T[None, :, None, :, None]
    for name in ("keys", "values"):
        # What is not visible may differ: nothing reads it.
        assert_close(getattr(actual, name) * seen, getattr(expected, name) * seen, TOL, name)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 14), st.integers(1, 3), st.integers(1, 6), st.booleans(), st.data())
def test_chunks_equal_the_whole(
    steps: int, lanes: int, context: int, resets: bool, data: st.DataObject
) -> None:
    net, tokens = model(context), text(steps, lanes)
    reset = flags(steps, lanes) if resets else None
    cuts = data.draw(st.sets(st.integers(1, max(steps - 1, 1))))
    borders = [0, *sorted(c for c in cuts if c < steps), steps]
    whole, last = net(tokens, reset=reset)
    parts, carry = in_chunks(net, tokens, reset, borders)
    assert_close(parts, whole, TOL)
    assert_same_carry(carry, last)


def test_a_text_longer_than_a_piece_equals_its_chunks() -> None:
    net, tokens, reset = model(context=5), text(150, 2), flags(150, 2, 0.05)
    parts, carry = in_chunks(net, tokens, reset, [0, 1, 40, 64, 65, 149, 150])
    whole, last = net(tokens, reset=reset)
    assert_close(parts, whole, TOL)
    assert_same_carry(carry, last)


def test_gradients_of_chunks_equal_those_of_the_whole() -> None:
    # The carry comes back attached; cutting it is the gradient estimator's business.
    net, tokens, reset = model(context=6), text(12, 2), flags(12, 2, 0.1)

    def gradients(logits: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(logits.logsumexp(-1).square().sum(), net.parameters()))

    whole = gradients(net(tokens, reset=reset)[0])
    parts = gradients(in_chunks(net, tokens, reset, [0, 3, 5, 12])[0])
    assert_close(parts, whole, 1e-10)


@pytest.mark.parametrize("at", [0, 1, 4, 8])
def test_reset_equals_two_sequences(at: int) -> None:
    net, tokens = model(), text(9, 2)
    reset = torch.zeros(9, 2, dtype=torch.bool)
    reset[at] = True
    _, carry = net(text(5, 2, seed=3))
    joined, last = net(tokens, carry, reset=reset)
    after, end = net(tokens[at:])
    assert_close(joined[at:], after, TOL)
    assert_same_carry(last, end)
    if at:
        assert_close(joined[:at], net(tokens[:at], carry)[0], TOL)


def test_a_lane_of_zeros_starts_fresh() -> None:
    net, tokens = model(), text(5, 2)
    _, carry = net(text(6, 2, seed=3))
    joined, _ = net(tokens, zero_lanes(carry, torch.tensor([True, False])))
    assert_close(joined[:, :1], net(tokens[:, :1])[0], TOL)
    assert_close(joined[:, 1:], net(tokens, carry)[0][:, 1:], TOL)


def test_nothing_flows_back_through_a_reset() -> None:
    net, tokens = model(), text(6, 1)
    carry = net(text(5, 1, seed=3))[1]
    keys = carry.keys.detach().requires_grad_()
    reset = torch.zeros(6, 1, dtype=torch.bool)
    reset[2] = True
    logits = net(tokens, carry._replace(keys=keys), reset=reset)[0]
    assert_equal(torch.autograd.grad(logits[2:].sum(), keys, retain_graph=True)[0], keys * 0)
    assert torch.autograd.grad(logits[:2].sum(), keys)[0].abs().sum() > 0


@pytest.mark.parametrize(("layers", "reach"), [(1, 4), (2, 7), (3, 10)])
def test_it_reaches_as_far_as_stated_and_no_further(layers: int, reach: int) -> None:
    net, tokens = model(context=4, layers=layers), text(14, 1)
    changed = tokens.clone()
    changed[2] = (changed[2] + 1) % V
    moved = (net(changed)[0] != net(tokens)[0]).any(-1).squeeze(1)
    assert moved.tolist() == [2 <= t < 2 + reach for t in range(14)]


def test_a_lane_does_not_see_another() -> None:
    net, tokens, reset = model(), text(9, 3), flags(9, 3)
    together = net(tokens, reset=reset)[0]
    for lane in range(3):
        one = slice(lane, lane + 1)
        assert_close(net(tokens[:, one], reset=reset[:, one])[0], together[:, one], TOL)


def test_a_long_stream_in_single_precision_does_not_drift() -> None:
    torch.manual_seed(0)
    net = AttentionModel(V, width=16, heads=2, layers=2, context=8).eval()
    tokens = text(3000, 1)
    with torch.no_grad():
        whole = net(tokens)[0]
        fresh = net(tokens[-20:])[0]
    assert_close(whole[-1], fresh[-1], 1e-5)


def test_it_starts_at_the_uniform_model_and_learns() -> None:
    torch.manual_seed(0)
    net = AttentionModel(V, width=32, heads=2, layers=1, context=8, dropout=0.0)
    # The second half of a lane repeats the first: only looking back to its copy predicts it.
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    losses = []
    for step in range(150):
        half = text(4, 32, seed=step)
        tokens = torch.cat((half, half))
        logits, _ = net(tokens[:-1])
        if step == 0:
            start = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[1:].flatten())
            assert abs(start.item() - math.log(V)) < 0.1
        loss = nn.functional.cross_entropy(logits[4:].flatten(0, 1), tokens[5:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5


def test_every_weight_gets_a_gradient() -> None:
    net = model()
    net(text(6, 2))[0].logsumexp(-1).square().sum().backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_state_dict_goes_both_ways() -> None:
    one, other = model(), model()
    other.reset_parameters()
    other.load_state_dict(one.state_dict())
    assert_equal(other(text(5, 2))[0], one(text(5, 2))[0])


@pytest.mark.parametrize("size", ["vocabulary_size", "width", "heads", "layers", "context"])
@pytest.mark.parametrize("value", [0, 1.5])
def test_sizes_out_of_range(size: str, value: object) -> None:
    sizes: dict[str, object] = {"vocabulary_size": V, size: value}
    with pytest.raises(ArgumentError, match=f"{size} >= 1"):
        AttentionModel(**sizes)  # type: ignore[arg-type]


def test_other_arguments_out_of_range() -> None:
    with pytest.raises(ArgumentError, match="width=8"):
        AttentionModel(V, width=10, heads=4)
    with pytest.raises(ArgumentError, match="dropout"):
        AttentionModel(V, dropout=-0.1)


@pytest.mark.parametrize(
    ("tokens", "error"),
    [
        (torch.zeros(3, dtype=torch.int64), ShapeError),
        (torch.zeros(3, 2), DtypeError),
        (torch.full((3, 2), V), DataError),
    ],
)
def test_tokens_that_do_not_fit(tokens: Tensor, error: type[BpttError]) -> None:
    with pytest.raises(error):
        model()(tokens)


def test_a_carry_that_does_not_fit() -> None:
    net, tokens = model(), text(3, 2)
    carry = net(tokens)[1]
    for wrong in (carry.keys, carry[:2], model(context=5)(tokens)[1], net(text(3, 1))[1]):
        with pytest.raises(ShapeError, match="carry"):
            net(tokens, wrong)
    with pytest.raises(DtypeError, match="visible"):
        net(tokens, carry._replace(visible=carry.visible.long()))
    # A plain tuple of the same tensors is a carry too: that is what comes back from a file.
    assert_equal(net(tokens, tuple(carry))[0], net(tokens, carry)[0])
