"""Running again is running the same: gradients bit for bit, dropout masks, generators, buffers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import bptt
from bptt.gradients import Checkpointed, Full, Windowed
from compare import assert_equal
from learners import LAYERS, OURS, Loss, Predictor, UserCell, batch, grads


def outcome(estimator, model, x, target, **marks):
    """Everything a call leaves behind."""
    torch.manual_seed(5)
    step = estimator.backward(model, x, target, loss=Loss(), **marks)
    return step.loss, step.carry, grads(model), torch.get_rng_state()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@given(
    kind=st.sampled_from(LAYERS),
    steps=st.integers(1, 40),
    lanes=st.integers(1, 5),
    layers=st.integers(1, 2),
    segments=st.integers(1, 12),
    states=st.integers(1, 12),
    data=st.data(),
)
def test_checkpointed_is_full_bit_for_bit_with_dropout(
    dtype, kind, steps, lanes, layers, segments, states, data
):
    between = 0.3 if layers > 1 else 0.0  # in torch's layers dropout stands between layers alone
    layer = {"num_layers": layers, "dtype": dtype}
    model = Predictor(kind, 0.4, **layer)
    model.layer.dropout = between
    (x, target), marks = batch(steps, lanes, dtype), {}
    if kind in OURS and data.draw(st.booleans()):
        marks["reset"] = torch.rand(steps, lanes) < 0.2
        marks["lengths"] = torch.randint(steps + 1, (lanes,))
    expected = outcome(Full(segments=segments), model, x, target, **marks)
    for estimator in (Checkpointed(segments, states), Checkpointed(segments)):
        assert_equal(outcome(estimator, model, x, target, **marks), expected, repr(estimator))


def test_a_users_cell_too():
    model, (x, target) = UserCell(), batch(17, 3)
    expected = outcome(Full(segments=5), model, x, target)
    assert_equal(outcome(Checkpointed(5, 2), model, x, target), expected)


def test_one_segment_is_plain_full():
    model, (x, target) = Predictor(OURS[1], 0.4), batch(9, 2)
    assert_equal(
        outcome(Checkpointed(1), model, x, target), outcome(Full(), model, x, target), "1 segment"
    )


def test_dropout_is_on_in_these_tests_and_off_in_eval():
    model, (x, target) = Predictor(OURS[1], 0.4), batch(9, 2)
    trained = outcome(Checkpointed(3), model, x, target)
    model.eval()
    evaluated = outcome(Checkpointed(3), model, x, target)
    assert not model.training
    assert abs(float(trained[0] - evaluated[0])) > 1e-6
    assert not torch.equal(trained[3], evaluated[3])  # the one drew numbers, the other none


class Watched(nn.Module):
    """Drops parts of the state and notes what it dropped, by time; counts and averages in buffers.

    The first feature of the input is the time, so the notes need no help from the estimator.
    """

    def __init__(self):
        super().__init__()
        self.layer = bptt.nn.GRU(3, 4, dtype=torch.float64)
        self.norm = nn.BatchNorm1d(4, dtype=torch.float64)
        self.register_buffer("mean", torch.zeros(4, dtype=torch.float64))
        self.register_buffer("constant", torch.ones(4, dtype=torch.float64))
        self.masks, self.means = {}, {}

    def forward(self, x, carry=None):
        h, carry = self.layer(x, carry)
        mask = torch.rand_like(h)
        for t, m in zip(x[:, 0, 0].tolist(), mask, strict=True):
            self.masks.setdefault(int(t), []).append(m)
            self.means.setdefault(int(t), []).append(self.mean.clone())
        # What it puts out depends on the buffer: a running mean, as of before this call.
        y = (h - self.mean) * (mask > 0.5) * self.constant
        with torch.no_grad():
            self.mean = 0.9 * self.mean + 0.1 * h.mean((0, 1))  # replaced, not written on
        return self.norm(y.flatten(0, 1)).view_as(y), carry


@pytest.mark.parametrize(
    ("estimator", "most"),
    [
        (Windowed(1, 1), 1),
        (Windowed(2, 4), 2),
        (Windowed(3, 7), 3),
        (Windowed(4, 5), 2),
        (Windowed(5, 13), 3),
        (Windowed(2, 30), 12),
        (Checkpointed(6), 2),
        (Checkpointed(6, 2), 3),
        (Checkpointed(6, 1), 6),
    ],
    ids=repr,
)
def test_the_same_masks_and_buffers_at_every_run(estimator, most):
    model, steps = Watched(), 23
    x, _ = batch(steps, 3)
    x[..., 0] = torch.arange(steps)[:, None]
    target = torch.randn(steps, 3, 4, dtype=torch.float64)
    estimator.backward(model, x, target, loss=nn.functional.mse_loss)
    assert sorted(model.masks) == list(range(steps))
    assert max(map(len, model.masks.values())) == most  # how often a step ran
    for t in range(steps):
        for notes in (model.masks, model.means):
            for again in notes[t][1:]:
                assert_equal(again, notes[t][0], f"step {t}")
    # Each piece counted once, and the last mean is the one after the last piece.
    pieces = 1 + sum(
        not torch.equal(model.means[t][0], model.means[t - 1][0]) for t in range(1, steps)
    )
    assert int(model.norm.num_batches_tracked) == pieces
    assert torch.equal(model.constant, torch.ones_like(model.constant))
    assert not torch.equal(model.mean, model.means[steps - 1][0])


def test_buffers_and_generators_end_as_after_one_pass():
    x, _ = batch(23, 3)
    x[..., 0] = torch.arange(23)[:, None]
    target = torch.randn(23, 3, 4, dtype=torch.float64)
    ends = []
    # The same pieces of three steps: by hand, run again, and never run again.
    for estimator in (None, Checkpointed(8, 3), Full(segments=8), Windowed(3, 6), Windowed(3, 3)):
        torch.manual_seed(0)
        model, carry = Watched(), None
        torch.manual_seed(1)
        if estimator is None:
            with torch.no_grad():
                for at in range(0, 23, 3):
                    _, carry = model(x[at : at + 3], carry)
        else:
            carry = estimator.backward(model, x, target, loss=nn.functional.mse_loss).carry
        ends.append((dict(model.named_buffers()), torch.get_rng_state(), carry))
    for end in ends[1:]:
        assert_equal(end, ends[0])


def test_a_model_may_write_on_its_carry_and_return_a_view_of_its_output():
    class Writer(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.RNNCell(3, 4, dtype=torch.float64)

        def forward(self, x, carry=None):
            h = x.new_zeros(x.shape[1], 4) if carry is None else carry
            outputs = []
            for row in x:
                h = self.cell(row, h)
                outputs.append(h)
            if carry is not None:
                with torch.no_grad():
                    carry.view(-1).zero_() if not carry.requires_grad else None
            return torch.stack(outputs), outputs[-1][:]

    model, (x, _) = Writer(), batch(12, 2)
    target = torch.randn(12, 2, 4, dtype=torch.float64)
    found = []
    for estimator in (Full(segments=4), Checkpointed(4, 2), Checkpointed(4)):
        estimator.backward(model, x, target, loss=nn.functional.mse_loss)
        found.append(grads(model))
    for one in found[1:]:
        assert_equal(one, found[0])
