"""Full and Truncated against autograd, loss by loss."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import bptt
from bptt.errors import ArgumentError, ShapeError
from bptt.gradients import Full, Truncated
from compare import assert_close

TOL = 1e-12


class Predictor(nn.Module):
    """A recurrent layer with a readout, in float64."""

    def __init__(self, layer, **options):
        super().__init__()
        self.layer = layer(3, 4, dtype=torch.float64, **options)
        self.out = nn.Linear(4, 5, dtype=torch.float64)

    def forward(self, x, carry=None, **marks):
        h, carry = self.layer(x, carry, **marks)
        return self.out(h), carry


LAYERS = [nn.RNN, nn.GRU, nn.LSTM, bptt.nn.GRU, bptt.nn.LSTM]


def batch(steps, lanes):
    x = torch.randn(steps, lanes, 3, dtype=torch.float64)
    return x, torch.randint(5, (steps, lanes))


def class_loss(reduction="mean"):
    """Cross-entropy over (T, B, V), an object that says how it is reduced."""

    class Loss(nn.CrossEntropyLoss):
        def forward(self, output, target):
            return super().forward(output.flatten(0, -2), target.flatten())

    return Loss(reduction=reduction)


def grads(model):
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found


@given(
    layer=st.sampled_from(LAYERS),
    steps=st.integers(1, 9),
    lanes=st.integers(1, 3),
    layers=st.integers(1, 2),
    reduction=st.sampled_from(["mean", "sum"]),
    extra=st.integers(0, 3),
)
def test_full_is_autograd_and_long_truncation_is_full(
    layer, steps, lanes, layers, reduction, extra
):
    model, (x, target) = Predictor(layer, num_layers=layers), batch(steps, lanes)
    loss = class_loss(reduction)
    expected = loss(model(x)[0], target)
    expected.backward()
    exact = grads(model)
    for estimator in (Full(), Truncated(steps + extra)):
        step = estimator.backward(model, x, target, loss=loss)
        assert_close([step.loss, grads(model)], [expected.detach(), exact], TOL, repr(estimator))
        assert step.terms == steps * lanes
        assert step.depth.tolist() == list(range(steps))


@given(
    layer=st.sampled_from(LAYERS),
    steps=st.integers(1, 10),
    k=st.integers(1, 4),
    reduction=st.sampled_from(["mean", "sum"]),
)
def test_truncation_is_the_sum_of_near_lags_loss_by_loss(layer, steps, k, reduction):
    """Independent of chunks: each loss alone, through a model whose state is detached at borders."""
    model, (x, target) = Predictor(layer), batch(steps, 2)
    loss = class_loss(reduction)
    total = [torch.zeros_like(p) for p in model.parameters()]
    value = torch.zeros((), dtype=torch.float64)
    for t in range(steps):
        with torch.no_grad():
            start = t - t % k
            _, carry = model(x[:start]) if start else (None, None)
        output, _ = model(x[start : t + 1], carry)
        term = F.cross_entropy(output[-1], target[t], reduction="sum")
        term = term / (steps * 2) if reduction == "mean" else term
        value = value + term.detach()
        for sum_, grad in zip(
            total, torch.autograd.grad(term, list(model.parameters())), strict=True
        ):
            sum_ += grad
    step = Truncated(k).backward(model, x, target, loss=loss)
    assert_close([step.loss, grads(model)], [value, total], TOL)
    assert step.depth.tolist() == [t % k for t in range(steps)]


def test_ignored_targets_and_batch_first():
    model = Predictor(nn.GRU, batch_first=True)
    x, target = batch(7, 3)
    x, target = x.transpose(0, 1), target.T.clone()
    target[:, 2:4] = -100  # one chunk of two scores nothing at all
    loss = class_loss()
    expected = loss(model(x)[0], target)
    step = Truncated(2, batch_first=True).backward(model, x, target, loss=loss)
    assert_close(step.loss, expected.detach(), TOL)
    assert step.terms == 15


def test_chunks_go_on_from_the_carry_and_resets_stop_it():
    model, (x, target) = Predictor(bptt.nn.LSTM), batch(8, 2)
    loss = class_loss("sum")
    whole = Truncated(4).backward(model, x, target, loss=loss)
    expected = grads(model)
    first = Truncated(4).backward(model, x[:4], target[:4], loss=loss)
    second = Truncated(4).backward(model, x[4:], target[4:], first.carry, loss=loss)
    assert_close(grads(model), expected, TOL)
    assert_close([first.loss + second.loss, second.carry], [whole.loss, whole.carry], TOL)

    reset = torch.zeros(8, 2, dtype=torch.bool)
    reset[0] = True
    other = tuple(torch.randn_like(s) for s in whole.carry)
    again = Truncated(4).backward(model, x, target, other, loss=loss, reset=reset)
    assert_close(again.loss, whole.loss, TOL)


def test_gradients_add_up_like_backward():
    model, (x, target) = Predictor(nn.GRU), batch(4, 2)
    for _ in range(2):
        Full().backward(model, x, target, loss=class_loss())
    twice = grads(model)
    Full().backward(model, x, target, loss=class_loss())
    assert_close(twice, [2 * g for g in grads(model)], TOL)


def test_plain_functions_are_means_unless_named():
    model, (x, _) = nn.GRU(3, 4, dtype=torch.float64), batch(5, 2)
    target = torch.randn(5, 2, 4, dtype=torch.float64)

    def total(output, wanted):
        return F.mse_loss(output, wanted, reduction="sum")

    mean = Truncated(2).backward(model, x, target, loss=F.mse_loss)
    model.zero_grad()
    summed = Truncated(2, reduction="sum").backward(model, x, target, loss=total)
    assert_close(mean.loss * target.numel(), summed.loss, TOL)


BAD = [
    ("k", lambda m, x, t: Truncated(0), ArgumentError, "k >= 1, received k=0"),
    ("k kind", lambda m, x, t: Truncated(2.5), ArgumentError, "k=2.5"),
    ("no loss", lambda m, x, t: Full().backward(m, x, t), ArgumentError, "pass loss="),
    (
        "steps",
        lambda m, x, t: Full().backward(m, x, t[:3], loss=F.mse_loss),
        ShapeError,
        "same number",
    ),
    (
        "empty",
        lambda m, x, t: Full().backward(m, x[:0], t[:0], loss=F.mse_loss),
        ShapeError,
        "time step",
    ),
    (
        "vector loss",
        lambda m, x, t: Full().backward(m, x, t, loss=lambda o, w: (o - w).mean(-1)),
        ArgumentError,
        "a scalar loss",
    ),
    (
        "graph",
        lambda m, x, t: Full().backward(m, x, t, m(x)[1], loss=F.mse_loss),
        ArgumentError,
        "carry.detach",
    ),
    (
        "reduction",
        lambda m, x, t: Truncated(2, reduction="none").backward(m, x, t, loss=F.mse_loss),
        ArgumentError,
        "'mean' or 'sum'",
    ),
]


@pytest.mark.parametrize(("call", "kind", "words"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_calls(call, kind, words):
    model = nn.GRU(3, 4, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    target = torch.randn(5, 2, 4, dtype=torch.float64)
    with pytest.raises(kind, match=words):
        call(model, x, target)


def test_a_model_without_carry_is_named():
    class Stateless(nn.Linear):
        def forward(self, x, carry):
            return super().forward(x)

    x = torch.randn(5, 2, 3)
    with pytest.raises(ArgumentError, match=r"returns \(output, carry\)"):
        Full().backward(Stateless(3, 4), x, torch.randn(5, 2, 4), loss=F.mse_loss)
