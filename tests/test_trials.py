"""Remedies tried on a model: copies start alike, the model stays as it was, what fails is said."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import bptt
from bptt.errors import ArgumentError
from bptt.experiments.trials import fresh, gated, model_variants, try_remedies
from bptt.report.words import on_tried, tried_rows
from compare import assert_close

MSE = nn.functional.mse_loss


def batch(steps: int = 12, lanes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    return torch.randn(steps, lanes, 4), torch.randn(steps, lanes, 5)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(4, 6, num_layers=2, batch_first=False)
        self.out = nn.Linear(6, 5)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


def test_every_kind_of_remedy_is_tried_and_the_model_stays_as_it_was():
    model = bptt.nn.GRU(4, 5)
    kept = {n: p.clone() for n, p in model.named_parameters()}
    x, y = batch()
    generator = torch.get_rng_state()
    variants = model_variants(model, steps=12, k=4)
    found = try_remedies(variants, lambda n: (x, y), (x, y), MSE, updates=2)
    assert [t.name for t in found] == [
        "as it is", "orthogonal start", "chrono start", "no clipping", "k = 2", "k = 8",
    ]  # fmt: skip
    assert all(t.updates == 2 and math.isfinite(t.loss) for t in found)
    assert all(1 <= t.horizon <= t.near <= 12 for t in found)
    assert torch.equal(torch.get_rng_state(), generator)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, kept[name])
        assert parameter.grad is None


def test_what_is_measured_is_what_watch_measures():
    """The first trial, done by hand."""
    model, (x, y) = nn.GRU(4, 5), batch()
    torch.manual_seed(0)
    own = fresh(model)
    optimizer = torch.optim.AdamW(own.parameters(), 3e-3)
    for _ in range(2):
        optimizer.zero_grad()
        MSE(own(x)[0], y).backward()
        nn.utils.clip_grad_norm_(own.parameters(), 1.0)
        optimizer.step()
    with bptt.watch(own, lanes=8) as flow:
        value = MSE(own(x)[0], y)
        value.backward()
    variants = model_variants(model, steps=12)[:1]
    (first,) = try_remedies(variants, lambda n: (x, y), (x, y), MSE, updates=2)
    # Two ways of clipping round apart in float32, twice.
    assert_close(first.loss, float(value.detach()), 1e-5)
    assert (first.horizon, first.verdict) == (flow.horizon, flow.verdict)


def test_a_gated_copy_has_the_sizes_of_the_plain_one():
    model = Classifier()
    made = gated(model)
    assert isinstance(made.rnn, nn.GRU)
    assert (made.rnn.input_size, made.rnn.hidden_size, made.rnn.num_layers) == (4, 6, 2)
    assert made(batch()[0]).shape == (12, 3, 5)
    assert isinstance(gated(bptt.nn.RNN(3, 4)), bptt.nn.GRU)
    lstm = nn.LSTM(3, 4)
    assert gated(lstm) is lstm


def test_a_copy_starts_afresh():
    model = Classifier()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    assert all(float(p.detach().abs().max()) < 1 for p in fresh(model).parameters())


def test_a_loss_that_is_no_number_is_said():
    def explode(output, target):
        return (output * 1e30).square().square().mean()  # above the largest float32

    x, y = batch()
    found = try_remedies(
        model_variants(Classifier(), steps=12), lambda n: (x, y), (x, y), explode, updates=3
    )
    assert {t.note for t in found} == {"its loss is no number after 0 updates"}
    assert "no number" in " ".join(tried_rows(found)[1])
    assert {t.horizon for t in found} == {None}
    assert on_tried(found).startswith("One start each")


def test_by_the_clock_the_others_make_as_many_updates():
    x, y = batch()
    found = try_remedies(
        model_variants(Classifier(), steps=12)[:2], lambda n: (x, y), (x, y), MSE, seconds=0.05
    )
    assert found[0].updates >= 1
    assert found[1].updates == found[0].updates or "stopped after" in found[1].note


def test_diagnose_tries_on_request():
    x, y = batch()
    assert bptt.diagnose(Classifier(), (x, y), MSE).trials == ()
    found = bptt.diagnose(Classifier(), (x, y), MSE, try_for=0.01)
    assert [t.name for t in found.trials] == ["as it is", "orthogonal start", "GRU", "no clipping"]


@pytest.mark.parametrize("options", [{"seconds": 0.0}, {"seconds": math.nan}, {"updates": 0}])
def test_no_time_is_an_error(options):
    x, y = batch()
    with pytest.raises(ArgumentError, match="expected seconds > 0 and at least 1 update"):
        try_remedies(
            model_variants(nn.GRU(4, 5), steps=12), lambda n: (x, y), (x, y), MSE, **options
        )
    with pytest.raises(ArgumentError, match="expected variants to try"):
        try_remedies((), lambda n: (x, y), (x, y), MSE)
