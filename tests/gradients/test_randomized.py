"""Randomized: its mean is the exact gradient, and what it draws touches nothing else."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import bptt
from bptt.errors import ArgumentError
from bptt.gradients import Full, Randomized, Truncated
from compare import assert_close

TOL = 1e-12  # the same sums over chunks, in float64


class Predictor(nn.Module):
    """Two recurrent layers with a readout, in float64; the state is large enough to matter later."""

    def __init__(self, layer=nn.GRU, **options):
        super().__init__()
        self.layer = layer(2, 3, dtype=torch.float64, **options)
        self.out = nn.Linear(3, 2, dtype=torch.float64)

    def forward(self, x, carry=None, **marks):
        h, carry = self.layer(x, carry, **marks)
        return self.out(h), carry


def batch(steps, lanes):
    x = torch.randn(steps, lanes, 2, dtype=torch.float64)
    return x, torch.randn(steps, lanes, 2, dtype=torch.float64)


def gradient(estimator, model, x, target, **call):
    model.zero_grad()
    step = estimator.backward(model, x, target, loss=F.mse_loss, **call)
    return step, [p.grad.clone() for p in model.parameters()]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def standard_errors(estimator, model, x, target, exact, draws, other=None):
    """How many standard errors the mean of the estimate is off, along fixed directions, and how many
    of the same another gradient is.

    Sixteen random directions per parameter tensor, drawn before the estimates: along each one the
    draws are independent numbers whose mean and standard error are known.
    """
    directions = [torch.randn(16, p.numel(), dtype=torch.float64) for p in exact]
    seen = [[] for _ in exact]
    for _ in range(draws):
        _, grads = gradient(estimator, model, x, target)
        for found, d, g in zip(seen, directions, grads, strict=True):
            found.append(d @ g.flatten())
    off, off_other = [], []
    for found, d, e, o in zip(seen, directions, exact, other or exact, strict=True):
        values = torch.stack(found)
        error = values.mean(0) - d @ e.flatten()
        spread = values.std(0) / draws**0.5
        # Below rounding, a parameter's gradient does not depend on the draw (the readout's).
        settled = values.std(0) < 1e-12 * (1 + values.abs().amax(0))
        assert bool((error.abs()[settled] < 1e-12 * (1 + values.abs().amax())).all())
        off.append((error / spread)[~settled])
        off_other.append((d @ (o - e).flatten() / spread)[~settled])
    return torch.cat(off), torch.cat(off_other)


@pytest.mark.parametrize("cut", [0.4, lambda n: 1.5 / (0.5 * 2 + n + 1)])
def test_the_mean_is_the_exact_gradient_and_truncations_is_not(cut):
    torch.manual_seed(3)
    model, (x, target) = Predictor(nn.RNN, num_layers=2), batch(12, 2)
    with torch.no_grad():
        for layer in range(2):  # close to orthogonal: the gradient still matters ten steps back
            nn.init.orthogonal_(getattr(model.layer, f"weight_hh_l{layer}"))
    _, exact = gradient(Full(), model, x, target)
    estimator = Randomized(k=2, cut=cut, generator=seeded())
    _, truncated = gradient(Truncated(2), model, x, target)
    off, off_truncated = standard_errors(estimator, model, x, target, exact, 400, truncated)
    # 128 correlated directions, each t-distributed with 399 degrees of freedom: one beyond 4 standard
    # errors has probability 6e-5, and the seed is fixed.
    assert float(off.abs().max()) < 4
    # Not zero either, as it would be if nothing were ever cut: their mean square is 1.
    assert 0.2 < float(off.square().mean()) < 3

    # Truncation itself, and the same draws with the weights left out, both fail it by far.
    assert float(off_truncated.abs().max()) > 20
    biased = Randomized(k=2, cut=cut, generator=seeded())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bptt.gradients.randomized._amplifier", lambda factor: lambda state: state)
        off, _ = standard_errors(biased, model, x, target, exact, draws=400)
    assert float(off.abs().max()) > 10


@given(
    layer=st.sampled_from([nn.GRU, nn.LSTM, bptt.nn.LSTM, bptt.nn.MinGRU]),
    steps=st.integers(1, 9),
    k=st.integers(1, 10),
    c=st.sampled_from([0.0, 0.5]),
)
def test_never_cut_is_full_and_the_loss_is_always_the_whole(layer, steps, k, c):
    model, (x, target) = Predictor(layer), batch(steps, 2)
    full, exact = gradient(Full(), model, x, target)
    step, grads = gradient(Randomized(k, cut=c), model, x, target)
    assert_close([step.loss, step.carry, step.terms], [full.loss, full.carry, full.terms], TOL)
    if c == 0 or k >= steps:
        assert_close(grads, exact, TOL)
        assert step.depth.tolist() == list(range(steps))


def test_depth_is_where_the_cuts_fell():
    """A known draw, its gradient made by hand: detach at the cuts, weigh the other borders."""
    model, (x, target) = Predictor(), batch(9, 2)
    step, grads = gradient(Randomized(2, cut=0.5, generator=seeded(4)), model, x, target)
    cuts = [t for t in range(9) if step.depth[t] == 0]
    assert len(cuts) > 1, "the seed should cut at least once"
    assert len(cuts) < 5, "and pass at least once"
    expected = [d for a, b in zip(cuts, [*cuts[1:], 9], strict=True) for d in range(b - a)]
    assert step.depth.tolist() == expected

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            return h.clone()

        @staticmethod
        def backward(ctx, grad):
            return 2 * grad  # 1/(1 - ½)

    model.zero_grad()
    carry, outputs = None, []
    for start in range(0, 9, 2):
        if start:
            carry = carry.detach() if start in cuts else Double.apply(carry)
        output, carry = model(x[start : start + 2], carry)
        outputs.append(output)
    F.mse_loss(torch.cat(outputs), target).backward()
    assert_close(grads, [p.grad for p in model.parameters()], TOL)


def test_a_carry_that_is_also_the_output_is_not_weighed_twice():
    """A user's cell may return one tensor as output and as carry; only the border is weighed."""

    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.RNNCell(2, 2, dtype=torch.float64)

        def forward(self, x, carry=None):
            h = self.cell(x[0], carry)
            return h.unsqueeze(0), h

    model, (x, target) = Cell(), batch(3, 2)
    whole = Randomized(1, cut=0.0)
    _, grads = gradient(whole, model, x, target)
    model.zero_grad()
    h, outputs = None, []
    for x_t in x:
        h = model.cell(x_t, h)
        outputs.append(h)
    F.mse_loss(torch.stack(outputs), target).backward()
    assert_close(grads, [p.grad for p in model.parameters()], TOL)


def test_draws_repeat_and_leave_dropout_alone():
    model, (x, target) = Predictor(num_layers=2, dropout=0.5), batch(12, 2)
    own = [gradient(Randomized(2, generator=seeded(1)), model, x, target)[0] for _ in range(2)]
    assert_close(own[0].depth, own[1].depth, 0)
    torch.manual_seed(7)
    expected, _ = gradient(Truncated(2), model, x, target)
    torch.manual_seed(7)
    step, _ = gradient(Randomized(2, generator=seeded(1)), model, x, target)
    assert_close([step.loss, step.carry], [expected.loss, expected.carry], TOL)  # the same masks
    again = []
    for _ in range(2):
        torch.manual_seed(8)
        again.append(gradient(Randomized(2), model, x, target))
    assert_close(again[0], again[1], 0)
    following = [gradient(Randomized(2), model, x, target)[0].depth.tolist() for _ in range(8)]
    assert len({tuple(d) for d in following}) > 1, "calls draw anew"


def test_resets_lengths_and_batch_first():
    model = Predictor(bptt.nn.GRU, batch_first=True)
    x, target = (v.transpose(0, 1) for v in batch(8, 3))
    reset = torch.rand(3, 8) < 0.3
    lengths = torch.tensor([8, 7, 8])
    y, carry = model(x, reset=reset, lengths=lengths)
    expected = F.mse_loss(y, target)
    expected.backward()
    exact = [p.grad.clone() for p in model.parameters()]
    estimator = Randomized(3, cut=0.0, batch_first=True)
    step, grads = gradient(estimator, model, x, target, reset=reset, lengths=lengths)
    assert_close([step.loss, step.carry, grads], [expected.detach(), carry.detach(), exact], TOL)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Randomized(0), "k >= 1"),
        (lambda: Randomized(4, cut=1.0), "0 <= cut < 1"),
        (lambda: Randomized(4, cut=-0.1), "0 <= cut < 1"),
        (lambda: Randomized(4, cut=lambda n: 2.0), "after 1 chunks"),
        (lambda: Randomized(4, generator=0), "torch.Generator"),
    ],
)
def test_bad_settings(make, words):
    with pytest.raises(ArgumentError, match=words):
        make()
