"""A mean that is weighted by class, taken piece by piece, is the mean over the whole."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bptt.errors import ArgumentError
from bptt.gradients import Checkpointed, ForwardMode, Full, Randomized, Truncated, Windowed
from bptt.gradients.chunks import count_terms, reduction_of, weigh_terms
from compare import assert_close

STEPS = 8
IGNORED = 2
# Weights of very different size, one of them zero: a piece may hold nothing that counts.
WEIGHT = torch.tensor([10.0, 1.0, 0.1, 1.0, 0.0], dtype=torch.float64)


class ClassesSecond(nn.Module):
    """A GRU whose output is (T, V, B): what ``F.cross_entropy`` takes as it stands."""

    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(3, 4, dtype=torch.float64)
        self.out = nn.Linear(4, 5, dtype=torch.float64)

    def forward(self, x, carry=None):
        h, carry = self.layer(x, carry)
        return self.out(h).log_softmax(-1).transpose(1, 2), carry


class Margin(nn.MultiMarginLoss):
    def forward(self, output, target):
        return super().forward(output.transpose(1, 2).flatten(0, 1), target.flatten())


LOSSES = {
    "cross-entropy": nn.CrossEntropyLoss(weight=WEIGHT),
    "ignoring": nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=IGNORED),
    "smoothed": nn.CrossEntropyLoss(weight=WEIGHT + 0.1, label_smoothing=0.1),
    "smoothed sum": nn.CrossEntropyLoss(weight=WEIGHT, reduction="sum", label_smoothing=0.1),
    "nll": nn.NLLLoss(weight=WEIGHT, ignore_index=IGNORED),
    "sum": nn.CrossEntropyLoss(weight=WEIGHT, reduction="sum"),
    "partial": partial(F.cross_entropy, weight=WEIGHT, ignore_index=IGNORED),
    "partial nll": partial(F.nll_loss, ignore_index=IGNORED),
    "partial sum": partial(F.cross_entropy, weight=WEIGHT, reduction="sum"),
    # Weighted by class, but averaged over its terms.
    "margin": Margin(weight=WEIGHT),
}
ESTIMATORS = [
    Checkpointed(segments=STEPS),
    Checkpointed(segments=3, states=2),
    Full(segments=STEPS),
    Windowed(k1=1, k2=STEPS),
    Windowed(k1=3, k2=STEPS + 2),
    Truncated(STEPS),
    Randomized(k=1, cut=0.0),
]


def data():
    torch.manual_seed(1)
    x, target = torch.randn(STEPS, 2, 3, dtype=torch.float64), torch.randint(5, (STEPS, 2))
    target[4] = 4  # a step whose weights are all zero
    target[5] = IGNORED
    return x, target


def gradient(estimator, model, x, target, loss):
    model.zero_grad()
    step = estimator.backward(model, x, target, loss=loss)
    return [step.loss, *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_pieces_add_up_to_the_whole(name, estimator):
    (x, target), model, loss = data(), ClassesSecond(), LOSSES[name]
    expected = loss(model(x)[0], target)
    expected.backward()
    exact = [expected.detach(), *(p.grad.clone() for p in model.parameters())]
    assert_close(gradient(Full(), model, x, target, loss), exact, 1e-12, "Full")
    assert_close(gradient(estimator, model, x, target, loss), exact, 1e-12, repr(estimator))


class Flattened(nn.CrossEntropyLoss):
    """Over (T, B, V), which has a lane axis to go by."""

    def forward(self, output, target):
        return super().forward(output.flatten(0, 1), target.flatten())


class Predictor(ClassesSecond):
    def forward(self, x, carry=None):
        output, carry = super().forward(x, carry)
        return output.transpose(1, 2), carry


def test_step_by_step_too():
    (x, target), model = data(), Predictor()
    loss = Flattened(weight=WEIGHT, ignore_index=IGNORED)
    exact = gradient(Full(), model, x, target, loss)
    assert_close(gradient(ForwardMode(), model, x, target, loss), exact, 1e-12)


def test_a_smoothed_mean_over_nothing_is_refused():
    (x, target), model = data(), ClassesSecond()
    loss = nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1)
    with pytest.raises(ArgumentError, match="reduction='sum'"):
        gradient(Truncated(1), model, x, target, loss)


def test_what_a_loss_says_of_itself():
    target = torch.tensor([0, 2, 3, -100])
    weighted = nn.CrossEntropyLoss(weight=WEIGHT)
    assert (count_terms(weighted, target), weigh_terms(weighted, target)) == (3, 11.1)
    ignoring = partial(F.cross_entropy, weight=WEIGHT, ignore_index=2)
    assert weigh_terms(ignoring, torch.tensor([0, 2, 3])) == 11.0
    assert reduction_of(partial(F.cross_entropy, reduction="sum"), None) == "sum"
    assert weigh_terms(weighted, torch.rand(2, 5)) == 10
