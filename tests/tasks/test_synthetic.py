"""Every synthetic task: what its batches are, that chance and best are what they say, the losses."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bptt
from bptt.errors import ArgumentError, ShapeError
from bptt.gradients import Full, Truncated, Windowed
from bptt.models import Classifier, Forecaster
from bptt.tasks import Adding, Agreement, Copy, Recall, RememberFirst, SquaredError, TemporalOrder
from bptt.tasks.task import IGNORED
from compare import assert_close, assert_equal

MAKERS = {
    "remember-first": lambda: RememberFirst(13),
    "remember-first, one step": lambda: RememberFirst(1, alphabet=2),
    "copy": lambda: Copy(7, alphabet=5, word=3),
    "copy, no delay": lambda: Copy(1, word=1),
    "adding": lambda: Adding(11),
    "adding, two steps": lambda: Adding(2),
    "order": lambda: TemporalOrder(23),
    "order, shortest": lambda: TemporalOrder(10),
    "agreement": lambda: Agreement(6),
    "agreement, no clause": lambda: Agreement(0),
    "recall": lambda: Recall(4, alphabet=3),
    "recall, length": lambda: Recall(1, length=2),
}


def draw(task, size=64, seed=0):
    return task.batch(torch.Generator().manual_seed(seed), size)


def answer(task, batch):
    """The right answer, by somebody who can look at all of the input."""
    x, y = batch.inputs, batch.targets
    T, B = y.shape[:2]
    if isinstance(task, Adding):
        total = (x[..., 0] * x[..., 1]).sum(0)
        return total.expand(T, B).unsqueeze(-1)
    read = x.argmax(-1)
    if isinstance(task, RememberFirst):
        labels = read[0].expand(T, B)
    elif isinstance(task, Copy):
        labels = torch.full((T, B), task.alphabet)
        labels[-task.word :] = read[: task.word]
    elif isinstance(task, TemporalOrder):
        signals = [[int(s) - 4 for s in read[:, b] if s >= 4] for b in range(B)]
        assert all(len(s) == 2 for s in signals)
        labels = torch.tensor([2 * a + b for a, b in signals]).expand(T, B)
    elif isinstance(task, Agreement):
        labels = (read[0] % 2).expand(T, B)
    else:
        labels = torch.cat([read[: task.steps], read[: -task.steps]])
    return torch.nn.functional.one_hot(labels, task.outputs).float()


@pytest.mark.parametrize("name", MAKERS)
def test_shapes_seeds_and_the_best_score(name):
    task = MAKERS[name]()
    for size in (1, 64):
        batch = draw(task, size)
        T, B = batch.inputs.shape[:2]
        assert batch.inputs.shape[1:] == (size, task.inputs)
        assert batch.targets.shape[:2] == (T, B)
        # NaN marks what is not scored, and equals nothing.
        again = [None if v is None else v.nan_to_num(7.0) for v in draw(task, size)]
        assert_equal(again, [None if v is None else v.nan_to_num(7.0) for v in batch])
        assert task.score(answer(task, batch), batch.targets) == pytest.approx(task.best, abs=1e-12)
    assert not torch.equal(draw(task, seed=1).inputs, draw(task, seed=2).inputs)
    assert_equal(task.held_out().inputs, task.held_out().inputs)
    assert task.solved(task.best)
    assert not task.solved(task.chance)
    assert not task.solved(math.nan)


@pytest.mark.parametrize("name", MAKERS)
def test_no_constant_answer_beats_chance(name):
    """And the best constant one reaches it: over 4000 sequences, within five standard errors."""
    task = MAKERS[name]()
    batch = draw(task, 4000)
    if isinstance(task, Adding):
        answers = [torch.full_like(batch.targets, v) for v in (0.5, 0.9, 1.0, 1.1)]
        scores = [task.score(a, batch.targets) for a in answers]
        # (sum - 1)² has mean 1/6 and a variance of 7/180: its standard error over 4000.
        assert min(scores) == pytest.approx(task.chance, abs=5 * math.sqrt(7 / 180 / 4000))
        return
    outputs = torch.eye(task.outputs)
    scores = [
        task.score(row.expand(*batch.targets.shape, task.outputs), batch.targets) for row in outputs
    ]
    kept = batch.targets[-task.word :] if isinstance(task, Copy) else batch.targets
    error = math.sqrt(task.chance * (1 - task.chance) / int((kept[:, 0] != IGNORED).sum()) / 4000)
    assert max(scores) == pytest.approx(task.chance, abs=5 * error)


def test_copy_is_the_papers():
    """Ten symbols of eight over 200 steps: the memoryless loss of .0945 that the papers print."""
    task = Copy(200)
    x, y, _, _ = draw(task, 512)
    assert x.shape == (220, 512, 10)
    assert task.memoryless == pytest.approx(10 * math.log(8) / 220)
    logits = torch.full((220, 512, 9), -1e9)
    logits[:-10, :, 8] = 0
    logits[-10:, :, :8] = 0
    assert float(task.loss(logits, y)) == pytest.approx(task.memoryless, rel=1e-5)
    signals = x.argmax(-1) == 9
    assert signals.sum(0).unique().tolist() == [1]
    assert bool(signals[209].all())  # ten outputs follow, the first of them at the step after it
    blank = torch.zeros(220, 512, 9)
    blank[..., 8] = 1
    assert task.score(blank, y) == 0


def test_adding_marks_one_number_in_each_half():
    for steps in (2, 3, 50):
        x, y, _, _ = draw(Adding(steps), 500)
        marks = x[..., 1]
        assert marks[: steps // 2].sum(0).unique().tolist() == [1]
        assert marks[steps // 2 :].sum(0).unique().tolist() == [1]
        assert bool(y[:-1].isnan().all())
    # Every place is drawn: of 500 lanes with 25 places, none stays empty but once in 10⁷.
    assert bool((marks.sum(1) > 0).all())


def test_the_signals_stand_where_the_paper_says():
    x, _, _, _ = draw(TemporalOrder(100), 2000)
    places = (x.argmax(-1) >= 4).nonzero()[:, 0].reshape(-1)
    assert set(places.tolist()) == {*range(10, 20), *range(50, 60)}


def test_agreement_has_attractors_and_the_verb_looks_alike():
    x, y, _, _ = draw(Agreement(30, attractors=0.5), 400)
    read = x.argmax(-1)
    share = float((read[1:-1] < 10).double().mean())
    assert abs(share - 0.5) < 5 * 0.5 / math.sqrt(30 * 400)
    assert read[-1].unique().tolist() == [16]
    assert bool((y[-1] == read[0] % 2).all())
    assert draw(Agreement(30, attractors=0.0))[0].argmax(-1)[1:-1].min() >= 10


@given(st.integers(0, 50), st.integers(1, 7))
def test_a_squared_error_adds_up_over_pieces(seed, k):
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(9, 3, 2, generator=generator, dtype=torch.float64)
    targets = torch.randn(9, 3, 2, generator=generator, dtype=torch.float64)
    targets[torch.rand(9, 3, generator=generator) < 0.5] = torch.nan
    loss = SquaredError(4)
    pieces = [loss(output[t : t + k], targets[t : t + k]) for t in range(0, 9, k)]
    # A sum of at most 54 terms, in another order.
    assert_close(torch.stack(pieces).sum(), loss(output, targets), 1e-13, floor=1e-30)
    there = ~targets.isnan()
    expected = (output - targets)[there].square().sum() / 12
    assert_close(loss(output, targets), expected, 1e-13, floor=1e-30)


@pytest.mark.parametrize("name", ["remember-first", "copy", "adding", "recall"])
def test_estimators_take_the_tasks_as_they_are(name):
    """Truncated and windowed with K >= T are the exact gradient of the task's own loss."""
    task = MAKERS[name]()
    batch = draw(task, 5)
    layer = bptt.nn.GRU(task.inputs, 6)
    values = isinstance(task, Adding)
    model = (
        Forecaster(layer, 1, residual=False) if values else Classifier(layer, task.outputs, "none")
    )
    torch.nn.init.normal_(model.output.weight)
    T, reduction = batch.inputs.shape[0], getattr(task.loss, "reduction", None)
    found = []
    for estimator in (
        Full(reduction=reduction), Truncated(T, reduction=reduction),
        Truncated(T + 3, reduction=reduction), Windowed(2, 2 * T, reduction=reduction),
    ):  # fmt: skip
        model.zero_grad()
        step = estimator.backward(model, batch.inputs, batch.targets, None, task.loss)
        found.append([step.loss, *(p.grad.clone() for p in model.parameters())])
    with torch.no_grad():
        loss = task.loss(model(batch.inputs)[0], batch.targets)
    assert_close(found[0][0], loss, 1e-5)
    for other in found[1:]:
        assert_close(other, found[0], 2e-4, floor=1e-6)  # float32, sums in another order


def test_bad_sizes_and_answers():
    for make in (
        lambda: RememberFirst(0),
        lambda: RememberFirst(5, alphabet=1),
        lambda: Copy(0),
        lambda: Adding(1),
        lambda: TemporalOrder(9),
        lambda: Agreement(-1),
        lambda: Recall(0),
        lambda: Recall(5, length=5),
        lambda: Recall(True),
    ):
        with pytest.raises(ArgumentError):
            make()
    task = RememberFirst(4)
    with pytest.raises(ShapeError, match="at every step"):
        task.score(torch.zeros(64, 8), draw(task).targets)
    with pytest.raises(ShapeError, match="at every step"):
        Adding(4).score(torch.zeros(4, 1, 1), draw(Adding(4)).targets)
