"""Adaptive truncation: what it measures, what it does with it, and that it finds a distance by itself."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bptt
from bptt.errors import ArgumentError
from bptt.gradients import Adaptive, Full, Truncated, Windowed
from bptt.probes.watch import WatchError
from compare import assert_close

STEPS, LANES = 40, 3


def problem():
    torch.manual_seed(0)
    gru = nn.GRU(2, 5, dtype=torch.float64)
    x = torch.randn(STEPS, LANES, 2, dtype=torch.float64)
    return gru, x, torch.randn(STEPS, LANES, 5, dtype=torch.float64)


def gradients(model, estimator, x, target):
    model.zero_grad()
    step = estimator.backward(model, x, target, loss=F.mse_loss)
    return [p.grad.clone() for p in model.parameters()], step


def test_the_first_call_is_exact_and_the_next_are_truncated_to_what_it_found():
    gru, x, target = problem()
    estimator = Adaptive(bias=0.1, lanes=None, shrink=0)
    assert estimator.k is None
    assert_close(
        gradients(gru, estimator, x, target)[0], gradients(gru, Full(), x, target)[0], 1e-12
    )
    k = estimator.k
    assert 1 < k < STEPS  # or the next lines would compare a case with itself
    found, step = gradients(gru, estimator, x, target)
    assert_close(found, gradients(gru, Truncated(k), x, target)[0], 1e-12)
    assert step.depth.max() == k - 1


def test_k_is_the_smallest_whose_truncated_gradient_is_within_the_bias():
    gru, x, target = problem()
    bias = 0.1
    estimator = Adaptive(bias=bias, lanes=None, shrink=0)
    estimator.backward(gru, x, target, loss=F.mse_loss)

    # Every loss reaching K - 1 steps back, by one windowed pass with a window a step.
    def distance(k):
        whole = torch.cat([g.flatten() for g in gradients(gru, Full(), x, target)[0]])
        cut = torch.cat([g.flatten() for g in gradients(gru, Windowed(1, k), x, target)[0]])
        return float((cut - whole).norm() / whole.norm())

    assert distance(estimator.k) <= bias < distance(estimator.k - 1)


def test_decisions_are_medians_within_bounds_and_survive_a_checkpoint():
    gru, x, target = problem()
    estimator = Adaptive(bias=0.01, k_min=2, k_max=6, every=2)
    for _ in range(5):
        estimator.backward(gru, x, target, loss=F.mse_loss)
    assert [d.call for d in estimator.decisions] == [0, 2, 4]
    assert all(d.reach == 12 and d.k == 6 <= d.horizon for d in estimator.decisions)
    other = Adaptive(bias=0.01, k_min=2, k_max=6, every=2)
    other.load_state_dict(estimator.state_dict())
    assert other.decisions == estimator.decisions
    with pytest.raises(ArgumentError, match="no state for Truncated"):
        Truncated(3).load_state_dict(estimator.state_dict())


def test_k_comes_down_from_the_whole_sequence_a_share_at_a_time():
    gru, x, target = problem()
    estimator = Adaptive(bias=0.9, every=1, shrink=0.5)
    for _ in range(8):
        estimator.backward(gru, x, target, loss=F.mse_loss)
    horizon = estimator.decisions[0].horizon
    assert horizon < 5  # the parameters stay: so does the horizon
    assert [d.k for d in estimator.decisions] == [20, 10, 5, 3, 2, *[max(1, horizon)] * 3][:8]


def test_measuring_changes_no_random_number():
    model = bptt.models.LanguageModel(5, hidden=6, dropout=0.3)
    tokens = torch.randint(5, (12, 2))
    torch.manual_seed(1)
    Full().backward(model, tokens, tokens, loss=bptt.models.token_loss)
    expected = torch.rand(3)
    torch.manual_seed(1)
    Adaptive().backward(model, tokens, tokens, loss=bptt.models.token_loss)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bias": 0}, "between 0 and 1"),
        ({"bias": 1.0}, "between 0 and 1"),
        ({"every": 0}, "every >= 1"),
        ({"shrink": 1.0}, "shrink < 1"),
        ({"lanes": 0}, "lanes >= 1"),
        ({"k_max": 0}, "k_max >= 1"),
        ({"k_min": 9, "k_max": 8}, "k_max >= k_min"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ArgumentError, match=words):
        Adaptive(**options)


def test_a_model_without_a_recurrence_is_an_error():
    class Nothing(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 5)

        def forward(self, x, carry=None):
            return self.linear(x), carry

    with pytest.raises(WatchError, match="a recurrent module"):
        Adaptive().backward(Nothing(), torch.randn(4, 2, 2), torch.randn(4, 2, 5), loss=F.mse_loss)


class Copy(nn.Module):
    """Names the symbol of ten steps ago."""

    SYMBOLS, LAG, LANES, CHUNK = 6, 10, 32, 60

    def __init__(self):
        super().__init__()
        self.layer = bptt.nn.LSTM(self.SYMBOLS, 50)
        self.output = nn.Linear(50, self.SYMBOLS)

    def forward(self, x, carry=None):
        y, carry = self.layer(F.one_hot(x, self.SYMBOLS).float(), carry)
        return self.output(y), carry


def copy_perplexity(estimator, updates):
    """Of the last 20 updates; 6 is chance, 1 perfect."""
    torch.manual_seed(0)
    model = Copy()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    past = torch.randint(Copy.SYMBOLS, (Copy.LAG, Copy.LANES))
    carry, losses = None, []
    for _ in range(updates):
        new = torch.randint(Copy.SYMBOLS, (Copy.CHUNK, Copy.LANES))
        text = torch.cat([past, new])
        past = text[-Copy.LAG :]
        step = estimator.backward(
            model, new, text[: Copy.CHUNK], carry, lambda y, t: F.cross_entropy(y.mT, t)
        )
        carry = step.carry
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(step.loss))
    return math.exp(sum(losses[-20:]) / 20)


@pytest.mark.slow
def test_it_finds_the_lag_of_a_copy_task_where_a_short_window_learns_nothing():
    """Aicher, Foti and Fox's first experiment, scaled down: lag 10, chance is 6."""
    assert copy_perplexity(Truncated(5), 300) > 5.5
    estimator = Adaptive(bias=0.1, every=50, lanes=None)
    assert copy_perplexity(estimator, 1200) < 1.3
    found = [decision.k for decision in estimator.decisions[-5:]]
    assert all(11 <= k <= 30 for k in found), found  # 11 steps reach ten back
