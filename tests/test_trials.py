"""Remedies tried on a model: copies start alike, the model stays as it was, what fails is said."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace

import pytest
import torch
from torch import nn

import bptt
from bptt.cli.train import gather
from bptt.errors import ArgumentError
from bptt.experiments.trials import fresh, gated, model_variants, run_variants, try_remedies
from bptt.models import token_loss
from bptt.probes import judge
from bptt.probes.diagnose import Trial
from bptt.probes.verdict import rank
from bptt.report.words import on_tried, tried_rows
from bptt.training import Settings
from bptt.training.build import build_model
from bptt.training.sizes import fitted, own_k
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


KINDS = [
    {}, {"cell": "rnn", "clip": None}, {"cell": "lstm", "forget_bias": 1.0}, {"cell": "lru"},
    {"cell": "mingru"}, {"init": "orthogonal"}, {"orthogonal": True}, {"gradient": "windowed"},
    {"gradient": "full"}, {"gradient": "checkpointed"}, {"gradient": "randomized"},
]  # fmt: skip


@pytest.mark.parametrize("changed", KINDS, ids=str)
def test_what_is_tried_can_be_switched_on(changed, tmp_path):
    """The switch, typed behind the run's own settings, makes the settings that were tried."""
    settings = fitted(Settings(hidden=4, **changed), 50_000)
    config = tmp_path / "config.toml"
    config.write_text(settings.to_toml(), "utf-8")
    variants = run_variants(settings, 7, steps=128, k=own_k(settings))
    assert len({v.switch for v in variants}) == len(variants) > 2
    for variant in variants:
        asked = gather(["--config", str(config), *shlex.split(variant.switch)]).parse()
        fitted(asked, 50_000)
        assert own_k(asked) == variant.k
        assert asked.clip in (variant.clip, "none")
        # Models of the same start are the same, as far as the settings say.
        torch.manual_seed(0)
        tried = variant.build().state_dict()
        named = build_model(replace(asked, seed=0), 7).state_dict()
        assert tried.keys() == named.keys()
        assert all(torch.equal(tried[n], named[n]) for n in named)


def test_starts_differ_and_are_ranked_by_their_spread():
    x, y = batch()
    settings = Settings(hidden=4, cell="gru")
    tokens = torch.randint(7, (13, 3))
    found = try_remedies(
        run_variants(settings, 7, steps=12, k=None)[:2], lambda n: (tokens[:-1], tokens[1:]),
        (tokens[:-1], tokens[1:]), token_loss, updates=3, starts=3,
    )  # fmt: skip
    assert all(t.starts == 3 and t.spread > 0 and t.low <= t.horizon <= t.high for t in found)
    assert not rank(found).enough
    assert "3 each, and 100 are needed" in on_tried(found)
    assert on_tried(found).count("None of") == 0
    models = try_remedies(
        model_variants(nn.GRU(4, 5), steps=12)[:1],
        lambda n: (x, y),
        (x, y),
        MSE,
        updates=2,
        starts=2,
    )
    assert models[0].spread > 0
    rows = tried_rows(found)
    assert "±" in rows[1][2]
    assert "verdict" not in rows[0]


def trial(loss, horizon, *, spread=0.01, updates=200, starts=3, **more):
    return Trial(
        "one", "--one", updates, 1.0, loss, horizon, horizon, 0.9, "healthy", starts=starts,
        spread=spread, **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("own", "other", "enough", "best"),
    [
        ({}, {"loss": 0.9, "horizon": 13}, True, True),
        ({}, {"loss": 0.9, "horizon": 12}, True, False),  # not a quarter farther
        ({}, {"loss": 0.96, "horizon": 13}, True, False),  # within three standard errors
        ({}, {"loss": 1.1, "horizon": 40}, True, False),  # farther, and no use
        ({}, {"loss": math.nan, "horizon": None}, True, False),
        (
            {},
            {"loss": 0.5, "horizon": 40, "updates": 50},
            True,
            False,
        ),  # stopped before it could tell
        ({"updates": 99}, {"loss": 0.5, "horizon": 40}, False, False),
        ({"starts": 1, "spread": math.nan}, {"loss": 0.5, "horizon": 40}, False, False),
    ],
)
def test_a_remedy_is_ranked_where_that_can_be_told(own, other, enough, best):
    found = rank([trial(**{"loss": 1.0, "horizon": 10, **own}), trial(**other)])
    assert found.enough == enough
    assert (found.best is not None) == best
    assert found.said


@pytest.mark.parametrize(
    ("alone", "other", "word"),
    [
        (7, {"loss": 0.9, "horizon": 40}, "vanishing"),
        (7, {"loss": 0.9, "horizon": 40, "longer": True}, "cut short"),
        (7, {"loss": 1.1, "horizon": 40}, "healthy"),
        (7, {"loss": 0.9, "horizon": 40, "updates": 3}, "healthy"),  # it alone had too few
        (50, {"loss": 0.9, "horizon": 40}, "vanishing"),
        (50, {"loss": 1.1, "horizon": 40}, "healthy"),
    ],
)
def test_trials_have_the_last_word(alone, other, word):
    """An RNN whose gradient ends early, and one whose gradient does not, beside one remedy."""
    weight = torch.eye(4) * math.exp(math.log(0.05) / alone)
    model = nn.RNN(4, 4, nonlinearity="relu")
    with torch.no_grad():
        model.weight_hh_l0.copy_(weight)
        model.bias_ih_l0.fill_(9.0)
    with bptt.watch(model) as flow:
        model(torch.rand(60, 2, 4))[0].sum().backward()
    before = judge([flow.spectrum])
    assert before.word == ("vanishing" if alone < 15 else "healthy")
    after = judge([flow.spectrum], trials=[trial(1.0, 10), trial(**other)])
    assert after.word == word
    assert after.settled
    assert after.switch == ("--one" if after.word != "healthy" else "")
    few = judge([flow.spectrum], trials=[trial(1.0, 10, updates=3), trial(0.5, 40)])
    assert (few.word, few.settled) == (before.word, False)
    assert "Not enough updates" in few.reason


@pytest.mark.parametrize("options", [{"seconds": 0.0}, {"seconds": math.nan}, {"updates": 0}])
def test_no_time_is_an_error(options):
    x, y = batch()
    with pytest.raises(ArgumentError, match="expected seconds > 0 and at least 1 update"):
        try_remedies(
            model_variants(nn.GRU(4, 5), steps=12), lambda n: (x, y), (x, y), MSE, **options
        )
    with pytest.raises(ArgumentError, match="expected variants to try"):
        try_remedies((), lambda n: (x, y), (x, y), MSE)
