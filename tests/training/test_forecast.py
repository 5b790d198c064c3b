"""The forecaster of a series: what it may know, what it computes, and what it is compared with."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bptt.data.calendar import DAY, SECOND, Calendar
from bptt.data.series import Series
from bptt.errors import ArgumentError, DataError
from bptt.experiments.ladder import fit_forecasters
from bptt.models.heads import pinball
from bptt.training.evaluate import clearly_better, score_forecast
from bptt.training.forecast import (
    Parts,
    Plan,
    SeriesForecaster,
    View,
    choose,
    fit_linear,
    set_margins,
)

HOURS = Calendar(0, 3600 * SECOND)
SMALL = Plan(steps=12, hidden=8, horizon=6)


def made(size=420, seed=0, calendar=HOURS):
    """A day, a trend, and noise that has a memory."""
    rng = np.random.default_rng(seed)
    noise = np.convolve(rng.normal(0, 1, size + 9), 0.7 ** np.arange(10), "valid")
    t = np.arange(size)
    values = 50 + 8 * np.sin(2 * np.pi * t / 24) + 0.01 * t + noise
    return Series("load", values, np.ones(size, bool), calendar)


@pytest.fixture(scope="module")
def fitted():
    series = made()
    return series, fit_forecasters(SMALL, series)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_parts_follow_each_other_and_no_target_crosses():
    for size, horizon in ((100, 1), (420, 6), (5000, 48)):
        parts = Parts.of(size, horizon)
        valid, test = parts.origins("valid", horizon), parts.origins("test", horizon)
        assert valid.start + 1 == parts.train
        assert valid[-1] + horizon == parts.valid - 1
        assert test.start + 1 == parts.valid
        assert test[-1] + horizon == size - 1
        assert len(valid) >= 10
        assert len(test) > horizon


def test_same_seed_same_result_and_another_seed_another(fitted):
    series, found = fitted
    again = fit_forecasters(SMALL, series)
    assert again.scores == found.scores
    assert same([again.said, again.after], [found.said, found.after])
    other = fit_forecasters(replace(SMALL, seed=1), series)
    assert not np.array_equal(other.said, found.said)


def test_nothing_of_the_test_part_reaches_what_is_fitted(fitted):
    series, found = fitted
    values = series.values.copy()
    values[found.parts.valid :] = 1000 - 3 * values[found.parts.valid :]
    other = fit_forecasters(SMALL, replace(series, values=values))
    assert other.plan == found.plan
    for mine, theirs in zip(other.trained, found.trained, strict=True):
        assert mine.looks == theirs.looks
        state = theirs.model.state_dict()
        assert all(torch.equal(value, state[n]) for n, value in mine.model.state_dict().items())


@pytest.mark.parametrize("onto", ["linear", "alone"])
def test_a_forecast_knows_nothing_of_what_comes_after_its_origin(fitted, onto):
    series, found = fitted
    model = next(one.model for one in found.trained if one.model.plan.onto == onto)
    before = model.forecast(series, range(350, 380))
    values = series.values.copy()
    values[371:] += 100.0
    after = model.forecast(replace(series, values=values), range(350, 380))
    assert np.array_equal(before[:21], after[:21])
    assert not np.array_equal(before[22:], after[22:])


def test_what_was_put_in_knows_nothing_of_what_comes_after_and_is_not_scored():
    series = made()
    known = series.known.copy()
    known[400:404] = False
    values = np.where(known, series.values, series.values[399])
    holed = Series("load", values, known, HOURS)
    found = fit_forecasters(SMALL, holed)
    whole = found.scores[0].ahead
    naive = np.abs(
        values[found.rows.start : found.rows.stop]
        - values[found.rows.start + 1 : found.rows.stop + 1]
    )
    kept = known[found.rows.start + 1 : found.rows.stop + 1]
    assert whole[0] == pytest.approx(naive[kept].mean())


def test_the_linear_model_is_ridge(fitted):
    series, found = fitted
    view = View(series, found.plan)
    scale, horizon = view.spread(found.parts.train), 6
    solved = fit_linear(view, found.parts, scale)
    rows = range(
        min(found.plan.lags, (found.parts.train - horizon) // 2), found.parts.train - horizon
    )
    x, y = view.window(rows, scale), view.ahead(rows, scale)
    # The gradient of the penalised squares is zero at one penalty of those tried.
    residual = x.T @ (y - x @ solved)
    penalties = [len(x) * 10.0**power for power in range(-6, 3)]
    assert (
        min(np.abs(residual - p * solved).max() / np.abs(x.T @ y).max() for p in penalties) < 1e-9
    )


def test_the_window_and_the_level_are_what_they_say(fitted):
    series, found = fitted
    view, y = View(series, found.plan), series.values
    padded = np.concatenate([np.full(100, y[0]), y])
    for t in (0, 3, 60, 419):
        level = padded[100 + t + 1 - found.plan.width : 100 + t + 1].mean()
        assert view.level[t] == pytest.approx(level)
        row = view.window(range(t, t + 1), 2.0)[0]
        last = padded[100 + t + 1 - found.plan.lags : 100 + t + 1][::-1]
        assert row[: found.plan.lags] == pytest.approx((last - level) / 2)
        assert row[-1] == 1


def test_a_network_that_says_nothing_leaves_the_linear_model(fitted):
    series, found = fitted
    model = next(one.model for one in found.trained if one.model.plan.onto == "linear")
    plain = SeriesForecaster(model.plan, 13)
    for name in ("linear", "scale"):
        plain.get_buffer(name).copy_(model.get_buffer(name))
    said = plain.forecast(series, found.rows)
    assert np.ptp(said, axis=2).max() == 0
    linear = next(score for score in found.scores if score.name == "linear")
    wanted = (
        View(series, model.plan).ahead(found.rows, 1.0)
        + View(series, model.plan).level[found.rows.start : found.rows.stop, None]
    )
    assert np.abs(said[:, :, 1] - wanted).mean() == pytest.approx(linear.mae)


def test_the_layers_for_another_program_say_the_same(fitted):
    series, found = fitted
    for one in found.trained:
        model, plan = one.model, one.model.plan
        layers, linear = model.as_layers()
        view = View(series, plan)
        with torch.no_grad():
            state, _ = layers[0](view.inputs(1.0))
            said = layers[1](state)[400:, 0].double().numpy().reshape(-1, 6, 3)
        rows = range(400, 420)
        if plan.onto == "linear":
            said = said + (view.window(rows, 1.0) @ linear)[:, :, None]
        said += view.level[400:, None, None]
        said[:, :, 0] = np.minimum(said[:, :, 0], said[:, :, 1])
        said[:, :, 2] = np.maximum(said[:, :, 2], said[:, :, 1])
        assert np.abs(said - model.forecast(series, rows)).max() < 1e-4


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.95])
def test_intervals_hold_their_share_where_parts_are_alike(coverage):
    rng = np.random.default_rng(3)
    series = Series("noise", rng.normal(0, 1, 4000), np.ones(4000, bool), Calendar(0, 12, "month"))
    plan, parts = choose(replace(SMALL, coverage=coverage, horizon=2, onto="alone"), series)
    model = SeriesForecaster(plan, 0)
    set_margins(model, series, parts)
    rows = parts.origins("test", 2)
    view = View(series, plan)
    wanted = view.ahead(rows, 1.0) + view.level[rows.start : rows.stop, None]
    score = score_forecast("x", model.forecast(series, rows), wanted, 1.0)
    assert score.held == pytest.approx(coverage, abs=0.04)


def test_pinball_is_the_sum_it_is_defined_by():
    torch.manual_seed(0)
    said, wanted = torch.randn(4, 2, 6), torch.randn(4, 2, 2)
    wanted[1, 0, 1] = wanted[3, 1, 0] = torch.nan
    total, count = 0.0, 0
    for t, b, h in np.ndindex(4, 2, 2):
        for place, q in enumerate((0.1, 0.5, 0.9)):
            error = float(wanted[t, b, h] - said[t, b, 3 * h + place])
            if error == error:
                total += max(q * error, (q - 1) * error)
                count += 1
    assert pinball(said, wanted, 0.8).item() == pytest.approx(total / count, rel=1e-5)
    wanted[:] = torch.nan
    assert pinball(said, wanted, 0.8).item() == 0


def test_what_is_clearly_better():
    rng = np.random.default_rng(0)
    wanted, said = rng.normal(0, 1, (200, 4)), np.zeros((200, 4))
    plain = score_forecast("plain", said, wanted, 1.0)
    assert len(plain.blocks) == 50
    better = score_forecast("better", 0.5 * wanted, wanted, 1.0)
    assert clearly_better(better, plain)
    assert not clearly_better(plain, better)
    assert not clearly_better(plain, plain)
    few = score_forecast("few", 0.5 * wanted[:12], wanted[:12], 1.0)
    assert not clearly_better(few, score_forecast("plain", said[:12], wanted[:12], 1.0))


def test_what_no_line_can_say_is_learned():
    """Hénon's map: the next value is exact by the square of the last, and nothing linear in it."""
    values = [0.1, 0.1]
    for _ in range(900):
        values.append(1 - 1.4 * values[-1] ** 2 + 0.3 * values[-2])
    series = Series("map", np.array(values), np.ones(902, bool), Calendar(0, 12, "month"))
    found = fit_forecasters(
        Plan(horizon=1, steps=250, hidden=16, k=16, onto="linear", lr=0.01), series
    )
    linear, network = found.scores[-2:]
    assert network.mae < 0.5 * linear.mae
    assert clearly_better(network, linear)
    assert found.reach is not None
    assert found.reach.horizon < 16


@pytest.mark.parametrize(
    ("plan", "size", "said"),
    [
        (Plan(), 20, r"at least 52 values to train, validate and test on, received 20: give"),
        (
            Plan(horizon=30),
            80,
            r"at least 219 values for --horizon 30, received 80: lower --horizon",
        ),
        (
            Plan(season=500),
            400,
            r"--season up to \d+, half of what there is to train on, received 500",
        ),
        (Plan(k=300), 400, r"--k up to \d+ in this series, received 300"),
        (Plan(hidden=10**8), 400, r"a size that fits into memory .*--hidden 100000000"),
    ],
)
def test_what_does_not_fit_the_series(plan, size, said):
    with pytest.raises((DataError, ArgumentError), match=said):
        choose(plan, made(size))


@pytest.mark.parametrize(("until", "where"), [(200, "all rows"), (150, "the training part")])
def test_a_constant_series(until, where):
    values = np.where(np.arange(200) < until, 5.0, np.arange(200.0))
    with pytest.raises(DataError, match=rf"changes in load, received 5 in {where}"):
        choose(Plan(), Series("load", values, np.ones(200, bool), HOURS))


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_values_beyond_what_can_be_squared(size):
    series = made()
    with pytest.raises(DataError, match="another unit"):
        fit_forecasters(SMALL, replace(series, values=series.values * size))


@pytest.mark.parametrize(
    "calendar",
    [HOURS, Calendar(0, DAY), Calendar(0, 1, "month"), Calendar(0, 1, "working day")],
    ids=lambda calendar: calendar.words,
)
@pytest.mark.parametrize(("cell", "k"), [("gru", 7), ("lstm", None), ("rnn", 23)])
def test_every_cell_on_every_calendar(calendar, cell, k):
    series = made(120, calendar=calendar)
    found = fit_forecasters(Plan(steps=2, hidden=3, cell=cell, k=k, onto="linear"), series)
    assert np.isfinite(found.said).all()
    assert (found.said[:, :, 0] <= found.said[:, :, 1]).all()
    assert (found.said[:, :, 1] <= found.said[:, :, 2]).all()
    assert found.scores[-1].name == f"{cell.upper()} on linear"
    assert found.plan.k == (k or found.plan.k)
    # None of both where the step before any training is the one that was kept.
    assert (found.judged is None) == (found.reach is None) == (found.trained[0].best_step == 0)
    if found.judged is not None:
        assert found.judged.horizon == found.reach.horizon
        assert found.judged.k == found.plan.k
        assert 0 <= found.judged.left_out <= 2
