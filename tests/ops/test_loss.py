"""Softmax and cross-entropy in one pass: torch's loss and gradient, whatever sizes and numbers."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bptt import ops
from bptt.errors import ArgumentError
from compare import assert_close, assert_equal


def both(logits, targets, dy=1.0):
    """Loss and gradient, ours in float32 and torch's in double."""
    ours = logits.detach().float().clone(memory_format=torch.preserve_format).requires_grad_()
    theirs = logits.detach().double().requires_grad_()
    loss = ops.cross_entropy(ours, targets)
    exact = F.cross_entropy(theirs.flatten(0, -2), targets.flatten())
    (loss * dy).backward()
    (exact * dy).backward()
    return (loss, ours.grad), (exact, theirs.grad)


@settings(deadline=None)
@given(
    rows=st.integers(1, 70), symbols=st.integers(1, 140), scale=st.sampled_from([0.1, 3.0, 40.0]),
    shift=st.sampled_from([0.0, -300.0, 3e4]), seed=st.integers(0, 99), dy=st.sampled_from([1.0, -0.5]),
)  # fmt: skip
def test_it_is_torchs(rows, symbols, scale, shift, seed, dy):
    draw = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, symbols, generator=draw) * scale + shift).float()
    targets = torch.randint(symbols, (rows,), generator=draw)
    targets[torch.rand(rows, generator=draw) < 0.2] = -100
    if (targets == -100).all():
        targets[0] = 0
    (loss, gradient), (exact, wanted) = both(logits, targets, dy)
    assert loss.dtype == torch.float32
    # A few units in the last place of the loss, and of a probability.
    assert abs(loss.item() - exact.item()) <= 1e-6 * max(1, abs(exact.item()))
    assert (gradient.double() - wanted).abs().max() <= 2e-6 * abs(dy)


def test_leading_axes_and_strides():
    logits = torch.randn(7, 5, 9).transpose(0, 1)
    targets = torch.randint(9, (7, 5)).t()
    (loss, gradient), (exact, wanted) = both(logits, targets)
    assert_close(loss.item(), exact.item(), 1e-6)
    assert (gradient.double() - wanted).abs().max() < 1e-6


def test_logits_stay_what_they_are():
    logits, targets = torch.randn(40, 12, requires_grad=True), torch.randint(12, (40,))
    before = logits.detach().clone()
    ops.cross_entropy(logits, targets).backward()
    assert_equal(logits.detach(), before)


@pytest.mark.parametrize("symbols", [3, 16, 40])
@pytest.mark.parametrize("place", [0, 1, -1])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_ends_as_in_torch(symbols, place, value):
    logits, targets = torch.randn(4, symbols), torch.tensor([1, 1, 1, 1])
    logits[2, place] = value
    (loss, gradient), (exact, wanted) = both(logits, targets)
    assert loss.isnan().item() == exact.isnan().item()
    assert loss.isinf().item() == exact.isinf().item()
    assert_equal(gradient[[0, 1, 3]].isfinite().all(), wanted[[0, 1, 3]].isfinite().all())
    assert gradient[2].isnan().any().item() == wanted[2].isnan().any().item()


def test_nothing_scored_is_no_number_and_has_no_gradient():
    logits = torch.randn(3, 4, requires_grad=True)
    loss = ops.cross_entropy(logits, torch.full((3,), -100))
    assert loss.isnan()
    loss.backward()
    assert_equal(logits.grad, torch.zeros(3, 4))


@pytest.mark.parametrize("target", [-1, 4, -101, 2**40])
def test_a_target_that_is_no_class_is_refused(target):
    with pytest.raises(
        ArgumentError, match=rf"targets in 0 \.\. 3, or -100 for none, received {target}"
    ):
        ops.cross_entropy(torch.zeros(2, 4), torch.tensor([0, target]))


def test_threads_change_nothing():
    logits, targets, before = (
        torch.randn(999, 301),
        torch.randint(301, (999,)),
        torch.get_num_threads(),
    )
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(both(logits, targets)[0])
    finally:
        torch.set_num_threads(before)
    for loss, gradient in found[1:]:
        assert_equal(loss, found[0][0])
        assert_equal(gradient, found[0][1])


def test_a_second_derivative_is_torchs():
    logits = torch.randn(6, 5, requires_grad=True)
    targets, along = torch.randint(5, (6,)), torch.randn(6, 5)
    found = []
    for loss in (ops.cross_entropy, F.cross_entropy):
        (first,) = torch.autograd.grad(loss(logits, targets), logits, create_graph=True)
        (second,) = torch.autograd.grad((first * along).sum(), logits)
        found.append(second)
    assert_close(found[0], found[1], 1e-5)


def test_several_cotangents_at_once():
    logits, targets = torch.randn(6, 5, requires_grad=True), torch.randint(5, (6,))
    loss = ops.cross_entropy(logits, targets)
    dy = torch.tensor([1.0, 2.0, -3.0])
    (found,) = torch.autograd.grad(loss, logits, dy, is_grads_batched=True, retain_graph=True)
    (one,) = torch.autograd.grad(loss, logits)
    assert_close(found, dy[:, None, None] * one, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_sum_of_a_score(dtype):
    logits = torch.randn(50, 3, 11, dtype=dtype)
    targets = torch.randint(11, (50, 3))
    targets[3] = -100
    exact = F.cross_entropy(logits.flatten(0, 1).double(), targets.flatten(), reduction="sum")
    assert_close(ops.summed_nats(logits, targets), exact.item(), 1e-6)


def test_other_numbers_go_to_torch():
    logits, targets = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 2, -100])
    assert_equal(ops.cross_entropy(logits, targets), F.cross_entropy(logits, targets))
