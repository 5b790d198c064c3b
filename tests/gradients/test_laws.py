"""What every estimator must equal, over random models, sizes, marks and reductions."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bptt.gradients import Checkpointed, Full, Truncated, Windowed
from bptt.nn import carry as carries
from compare import assert_close, assert_equal
from learners import LAYERS, OURS, Loss, Predictor, UserCell, batch, grads, loss_by_loss

# The same sums in another order: a few hundred terms of size 1 in float64, and no more.
TOL = 1e-12


@st.composite
def problems(draw, most=9):
    """Model, data, a carry to begin with, and marks where the model takes them."""
    torch.manual_seed(draw(st.integers(0, 2**31), label="seed"))
    kind = draw(st.sampled_from([*LAYERS, UserCell]), label="layer")
    steps, lanes = draw(st.integers(1, most), label="T"), draw(st.integers(1, 3), label="B")
    if kind is UserCell:
        model = UserCell()
    else:
        model = Predictor(kind, num_layers=draw(st.integers(1, 2), label="layers"))
    x, target = batch(steps, lanes)
    marks = {}
    if kind in (*OURS, UserCell) and draw(st.booleans(), label="resets"):
        marks["reset"] = torch.rand(steps, lanes) < 0.2
    if kind in OURS and draw(st.booleans(), label="padded"):
        marks["lengths"] = torch.randint(steps + 1, (lanes,))
    carry = None
    if draw(st.booleans(), label="with a carry"):
        carry = carries.detach(model(batch(2, lanes)[0])[1])
    reduction = draw(st.sampled_from(["mean", "sum"]), label="reduction")
    return model, x, target, carry, marks, reduction


@given(problem=problems(), extra=st.integers(0, 3), data=st.data())
@settings(max_examples=60)
def test_all_that_reach_far_enough_are_autograd(problem, extra, data):
    model, x, target, carry, marks, reduction = problem
    steps, loss = len(x), Loss(reduction=reduction)
    output, after = model(x, carry, **marks)
    expected = loss(output, target)
    expected.backward()
    exact = grads(model)
    segments = data.draw(st.integers(1, steps + 1), label="segments")
    for estimator in (
        Full(),
        Full(segments=segments),
        Truncated(steps + extra),
        Windowed(steps, steps + extra),
        Windowed(1, steps + extra),
        Checkpointed(),
        Checkpointed(segments, data.draw(st.integers(1, steps), label="states")),
    ):
        step = estimator.backward(model, x, target, carry, loss, **marks)
        name = repr(estimator)
        assert_close(step.loss, expected.detach(), TOL, name)
        assert_close(grads(model), exact, TOL, name, floor=0.1)  # terms are about that large
        assert_close(step.carry, carries.detach(after), TOL, name)
        assert not carries.holds_graph(step.carry)
        assert step.terms == target.numel()
        assert step.depth.tolist() == list(range(steps))


@given(problem=problems(most=11), k1=st.integers(1, 5), more=st.integers(0, 6))
@settings(max_examples=60)
def test_truncation_is_the_sum_of_the_near_lags_loss_by_loss(problem, k1, more):
    model, x, target, carry, marks, reduction = problem
    steps = len(x)
    for estimator, reach in ((Truncated(k1), 0), (Windowed(k1, k1 + more), more)):
        step = estimator.backward(model, x, target, carry, Loss(reduction=reduction), **marks)
        found = grads(model)
        # As many steps back as have been, up to those since the window began.
        depth = [min(t, t % k1 + reach) for t in range(steps)]
        assert step.depth.tolist() == depth
        expected, value = loss_by_loss(model, x, target, depth, reduction, carry, **marks)
        assert_close(found, expected, TOL, repr(estimator), floor=0.1)
        assert_close(step.loss, value, TOL)


def test_truncation_is_not_the_whole_gradient():
    """The law above could hold for estimators that never truncate; these differ, and by how much."""
    model, (x, target) = Predictor(OURS[1]), batch(12, 3)
    Full().backward(model, x, target, loss=Loss())
    exact = torch.cat([g.flatten() for g in grads(model)])
    errors = []
    for estimator in (Truncated(2), Windowed(2, 4), Windowed(2, 8)):
        estimator.backward(model, x, target, loss=Loss())
        found = torch.cat([g.flatten() for g in grads(model)])
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors[0] > errors[1] > errors[2] > 1e-6
    assert errors[0] > 1e-2


@given(problem=problems(), k=st.integers(1, 5))
def test_losses_of_chunks_are_the_whole_loss(problem, k):
    """Handed in by several calls, sums add up; and each call goes on from the carry of the last."""
    model, x, target, carry, marks, _ = problem
    marks.pop("lengths", None)
    reset = marks.get("reset")
    whole = Truncated(k).backward(model, x, target, carry, Loss(reduction="sum"), reset=reset)
    expected = grads(model)
    total = 0.0
    for at in range(0, len(x), k):
        part = None if reset is None else reset[at : at + k]
        step = Truncated(k).backward(
            model, x[at : at + k], target[at : at + k], carry, Loss(reduction="sum"), reset=part
        )
        carry, total = step.carry, total + step.loss
    assert_close(total, whole.loss, TOL)
    assert_close(grads(model), expected, TOL, floor=0.1)
    assert_close(carry, whole.carry, TOL)


@given(k1=st.integers(1, 4), more=st.integers(0, 5), steps=st.integers(1, 12))
def test_batch_first_is_the_same_by_another_axis(k1, more, steps):
    plain, first = Predictor(OURS[2]), Predictor(OURS[2], batch_first=True)
    first.load_state_dict(plain.state_dict())
    x, target = batch(steps, 2)
    reset, lengths = torch.rand(steps, 2) < 0.2, torch.randint(steps + 1, (2,))
    for make in (
        Full,
        lambda **o: Truncated(k1, **o),
        lambda **o: Windowed(k1, k1 + more, **o),
        lambda **o: Checkpointed(3, 2, **o),
    ):
        a = make().backward(plain, x, target, loss=Loss(), reset=reset, lengths=lengths)
        b = make(batch_first=True).backward(
            first, x.transpose(0, 1), target.T,
            loss=Loss(), reset=reset.T, lengths=lengths,
        )  # fmt: skip
        assert_close([b.loss, b.carry], [a.loss, a.carry], TOL)
        assert_close(grads(first), grads(plain), TOL, floor=0.1)


def test_ended_lanes_keep_the_state_of_their_last_step():
    model, (x, target) = Predictor(OURS[1]), batch(9, 4)
    lengths = torch.tensor([9, 4, 0, 1])
    for estimator in (Truncated(2), Windowed(2, 5), Checkpointed(4)):
        carry = estimator.backward(model, x, target, loss=Loss(), lengths=lengths).carry
        for lane, end in enumerate(lengths.tolist()):
            alone = model(x[:end, lane : lane + 1])[1] if end else torch.zeros_like(carry[:, :1])
            assert_close(carry[:, lane : lane + 1], alone.detach(), TOL)
    # Padding is never read.
    model.zero_grad()
    Windowed(2, 5).backward(model, x, target, loss=Loss(), lengths=lengths)
    clean = grads(model)
    x.masked_fill_((torch.arange(9)[:, None] >= lengths)[..., None], torch.nan)
    Windowed(2, 5).backward(model, x, target, loss=Loss(), lengths=lengths)
    assert_equal(grads(model), clean)
