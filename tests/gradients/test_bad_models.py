"""Calls and models that would go wrong in silence: each is an error that names the remedy."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bptt
from bptt.errors import ArgumentError, BpttError, DtypeError, ShapeError
from bptt.gradients import (
    Adaptive,
    Checkpointed,
    ForwardMode,
    Full,
    Randomized,
    Truncated,
    Windowed,
)
from compare import assert_close
from learners import Loss, Predictor, batch, grads

ALL = [Full(), Full(segments=3), Truncated(2), Windowed(2, 4), Checkpointed(3), Checkpointed(3, 1)]
every = pytest.mark.parametrize("estimator", ALL, ids=repr)

SIZES = [
    (lambda: Truncated(0), "k >= 1, received k=0"),
    (lambda: Truncated(True), "k >= 1"),
    (lambda: Windowed(0, 4), "k1 >= 1, received k1=0"),
    (lambda: Windowed(2, 2.0), "k2 >= 1, received k2=2.0"),
    (lambda: Windowed(3, 2), "k2 >= k1, received k1=3, k2=2"),
    (lambda: Checkpointed(0), "segments >= 1"),
    (lambda: Checkpointed(3, states=0), "states >= 1"),
    (lambda: Full(segments=0), "segments >= 1"),
]


@pytest.mark.parametrize(("make", "words"), SIZES, ids=[s[1] for s in SIZES])
def test_sizes(make, words):
    with pytest.raises(ArgumentError, match=words):
        make()


@every
def test_a_sequence_shorter_than_asked_for_works_and_says_so(estimator):
    model, (x, target) = Predictor(nn.GRU), batch(1, 2)
    step = estimator.backward(model, x, target, loss=Loss())
    assert step.depth.tolist() == [0]
    model, (x, target) = Predictor(nn.GRU), batch(3, 2)
    assert Windowed(5, 9).backward(model, x, target, loss=Loss()).depth.tolist() == [0, 1, 2]
    assert Truncated(5).backward(model, x, target, loss=Loss()).depth.tolist() == [0, 1, 2]


@every
def test_a_carry_of_another_batch(estimator):
    class Broadcasts(nn.Module):
        """Where nothing else would ever say so."""

        def __init__(self):
            super().__init__()
            self.cell = nn.Linear(3, 3)

        def forward(self, x, carry=None):
            h = torch.zeros(1, x.shape[1], 3) if carry is None else carry
            h = (self.cell(x) + h).tanh()
            return h, h[-1:]

    x, target = torch.randn(5, 2, 3), torch.randn(5, 2, 3)
    _, carry = Broadcasts()(x[:, :1])
    for model in (Broadcasts(), nn.GRU(3, 3)):
        with pytest.raises(ShapeError, match=r"batch, B=2.*\(1, 1, 3\).*pass the carry of these"):
            estimator.backward(model, x, target, carry.detach(), F.mse_loss)


@every
def test_answers_of_the_model_and_the_loss(estimator):
    x, target = torch.randn(5, 2, 3), torch.randn(5, 2, 3)

    class Stateless(nn.Linear):
        def forward(self, x, carry):
            return super().forward(x)

    with pytest.raises(ArgumentError, match=r"returns \(output, carry\)"):
        estimator.backward(Stateless(3, 3), x, target, loss=F.mse_loss)
    with pytest.raises(ArgumentError, match="a scalar loss"):
        estimator.backward(nn.GRU(3, 3), x, target, loss=lambda o, w: (o - w).mean(-1))
    model = nn.GRU(3, 3)
    with pytest.raises(ArgumentError, match=r"bptt\.carry\.detach"):
        estimator.backward(model, x, target, model(x)[1], F.mse_loss)


class Alone(nn.Module):
    """Nobody can hand it a state."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 3)

    def forward(self, x):
        return self.gru(x)[0]


class ByName(Alone):
    def forward(self, x, *, carry=None):
        return self.gru(x, carry)


class Keeps(Alone):
    def forward(self, x, carry=None):
        return self.gru(x, carry)[0]


KINS = [*ALL, Adaptive(), Randomized(2), ForwardMode()]


@pytest.mark.parametrize("estimator", KINS, ids=repr)
@pytest.mark.parametrize("kind", [Alone, ByName, Keeps])
def test_a_model_without_a_state_is_told_what_it_takes_and_returns(estimator, kind):
    x = torch.randn(6, 2, 3)
    with pytest.raises(ArgumentError) as caught:
        estimator.backward(kind(), x, x, loss=F.mse_loss)
    said = str(caught.value)
    assert "(x, carry) -> (output, carry)" in said
    assert "\n" not in said
    reason = (
        "returns Tensor" if kind is Keeps else f"{kind.__name__}, whose forward takes no second"
    )
    assert reason in said


@every
@pytest.mark.parametrize("mark", ["lengths", "reset"])
def test_a_model_that_takes_no_marks(estimator, mark):
    marks = {"lengths": torch.tensor([5, 2]), "reset": torch.zeros(5, 2, dtype=torch.bool)}
    x, target = batch(5, 2)
    for model in (Predictor(nn.GRU), nn.GRU(3, 5, dtype=torch.float64)):
        with pytest.raises(ArgumentError, match=rf"takes {mark}=.*bptt\.convert"):
            estimator.backward(model, x, target, loss=Loss(), **{mark: marks[mark]})
        estimator.backward(bptt.convert(model), x, target, loss=Loss(), **{mark: marks[mark]})


def test_a_type_error_of_the_models_own_stays_what_it_is():
    class Broken(nn.Module):
        def forward(self, x, carry=None, lengths=None):
            return x + "1", carry

    with pytest.raises(TypeError, match=r"unsupported operand|must be Tensor") as caught:
        Truncated(2).backward(Broken(), *batch(4, 2), loss=Loss(), lengths=torch.tensor([1, 2]))
    assert not isinstance(caught.value, BpttError)


LENGTHS = [
    (torch.tensor([5.0, 2.0]), DtypeError, "integer lengths"),
    (torch.tensor([5]), ShapeError, r"\(B=2,\)"),
    (torch.tensor([6, 5]), ArgumentError, "0 to T=5, received 5 to 6"),
    (torch.tensor([-1, 5]), ArgumentError, "received -1 to 5"),
]


@every
@pytest.mark.parametrize(("lengths", "kind", "words"), LENGTHS, ids=[b[2] for b in LENGTHS])
def test_lengths_of_the_whole_sequence_are_checked(estimator, lengths, kind, words):
    with pytest.raises(kind, match=words):
        estimator.backward(Predictor(bptt.nn.GRU), *batch(5, 2), loss=Loss(), lengths=lengths)


class Secretive(nn.Module):
    """Keeps its state on itself; the carry it returns is what it is asked to return."""

    def __init__(self, keep, answer):
        super().__init__()
        self.cell = nn.RNNCell(3, 5, dtype=torch.float64)
        self.register_buffer("as_buffer", torch.zeros(2, 5, dtype=torch.float64))
        self.h = None
        self.keep, self.answer = keep, answer

    def forward(self, x, carry=None):
        h = self.as_buffer if self.keep == "buffer" else self.h
        h = x.new_zeros(x.shape[1], 5) if h is None else h
        outputs = []
        for row in x:
            h = self.cell(row, h)
            outputs.append(h)
        if self.keep == "buffer":
            self.as_buffer = h
        else:
            self.h = h.detach() if self.keep == "detached" else h
        return torch.stack(outputs), h if self.answer else None


@pytest.mark.parametrize("answer", [True, False], ids=["says", "hides"])
@pytest.mark.parametrize("keep", ["graph", "detached", "buffer"])
@pytest.mark.parametrize(
    "estimator",
    [Full(), Truncated(2), Windowed(2, 4), Checkpointed(3), Checkpointed(3, 1)],
    ids=repr,
)
def test_a_state_kept_behind_the_carry(estimator, keep, answer):
    model, (x, target) = Secretive(keep, answer), batch(7, 2)

    def call():
        for _ in range(2):  # Full sees it when the second call reaches into the first
            estimator.backward(model, x, target, loss=Loss())

    if keep == "detached" and not isinstance(estimator, (Windowed, Checkpointed)):
        call()  # runs nothing again, so this is truncation by hand, and right
        return
    with pytest.raises(ArgumentError, match="whole state is in the carry"):
        call()


def test_a_stateless_model_may_have_no_carry():
    class Stateless(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(3, 5, dtype=torch.float64)

        def forward(self, x, carry=None):
            return self.out(x), None

    model, (x, target) = Stateless(), batch(7, 2)
    Full().backward(model, x, target, loss=Loss())
    expected = grads(model)
    for estimator in ALL:
        estimator.backward(model, x, target, loss=Loss())
        assert_close(grads(model), expected, 1e-12)  # the same sums in another order
