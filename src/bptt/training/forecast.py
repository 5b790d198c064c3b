"""A forecaster of a series, beside what can be said without one: trained, judged on the last part.

At every step t a recurrent network reads how far the value lies from the level (the mean of the last
season) and where in the day, week and year it stands, and says the next H values at once: three
quantiles of each. Directly, and not one step fed back into the next: errors do not add up, an interval
needs no sampling, one pass over a series gives the forecast from every step of it, and what is exported
is one network. It is trained twice, alone and as a correction to the linear model; the validation part
says which is kept.

The parts follow each other in time: training, validation (chooses the ridge, the weights that are kept,
and the margins of the intervals), test (is only scored). No target of a part lies in the next one.

Limits: one series; forecasts up to the horizon it was trained for.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import count
from typing import Any, Literal

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

from bptt import nn as layers
from bptt.data.calendar import Floats, calendar_features
from bptt.data.series import Series, seasonal, targets
from bptt.errors import ArgumentError, DataError, NonFiniteError
from bptt.files.memory import require
from bptt.gradients import Full
from bptt.models import Forecaster
from bptt.models.heads import pinball
from bptt.ops.device import CPU, device_of
from bptt.remedies import ClipNorm
from bptt.training.fit import fit_step
from bptt.training.schedule import Budget, rate

Onto = Literal["auto", "linear", "alone"]
CELLS = {"gru": layers.GRU, "lstm": layers.LSTM, "rnn": layers.RNN}
# Updates of each network, windows in one, looks at the validation part.
STEPS, LANES, CHECKS = 400, 16, 12
LEAST_K, MOST_K, MOST_LAGS, MOST_ROWS = 64, 128, 512, 50_000
RIDGES = 10.0 ** np.arange(-6, 3)  # penalties that the validation part chooses from
LEAST = 32  # values to train on


@dataclass(frozen=True)
class Plan:
    """What is forecast, and how the network is trained; what is None is chosen for the series.

    Attributes:
        horizon: H, steps ahead. season: m, steps after which the series repeats; 1 for none.
        parts: of the calendar that the network is told, of day, week and year. lags: of the linear model.
        onto: what the network's output is added to: the linear model, or the level alone.
        coverage: share of the values that an interval is to hold.
        k: steps of a window, and so how far back the gradient may reach.
    """

    horizon: int | None = None
    season: int | None = None
    coverage: float = 0.8
    onto: Onto = "auto"
    cell: str = "gru"
    hidden: int = 48
    k: int | None = None
    lr: float = 0.003
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    parts: tuple[str, ...] = ()
    lags: int = 0

    @property
    def width(self) -> int:
        """Values that the level is the mean of: a season, or 8."""
        return max(self.season or 1, 8)

    def to_toml(self) -> str:
        """The plan as a TOML document; what is None is left out."""
        import tomli_w

        values = {name: value for name, value in asdict(self).items() if value is not None}
        return tomli_w.dumps({**values, "parts": list(self.parts)})


@dataclass(frozen=True)
class Parts:
    """Where the parts of a series end: ``train`` and ``valid`` count values from its beginning."""

    train: int
    valid: int
    size: int

    @classmethod
    def of(cls, size: int, horizon: int) -> Parts:
        """A fifth to test on, at least two horizons; 15 % before it to validate on."""
        test = max(size // 5, 2 * horizon)
        valid = max(3 * size // 20, horizon + 9)
        return cls(size - test - valid, size - test, size)

    def origins(self, part: Literal["valid", "test"], horizon: int) -> range:
        """The steps from which a part is forecast: all H targets lie in it."""
        begin, end = (self.train, self.valid) if part == "valid" else (self.valid, self.size)
        return range(begin - 1, end - horizon)


def choose(plan: Plan, series: Series) -> tuple[Plan, Parts]:
    """The plan with what it leaves open, and the parts of the series.

    Raises:
        DataError: the series is too short, or constant.
        ArgumentError: a size that does not fit the series.
    """
    require(48 * plan.hidden**2, f"--hidden {plan.hidden}", "lower --hidden")  # weights, and Adam's
    size, seasons = len(series.values), series.calendar.seasons
    horizon = plan.horizon or max(1, min([size // 20, *(seasons.values() or [12])]))
    parts = Parts.of(size, horizon)
    need = max(4 * horizon, LEAST)
    if parts.train < need:
        enough = next(n for n in count(size) if Parts.of(n, horizon).train >= need)
        given, longer = plan.horizon is not None, "give a longer series"
        what = f"for --horizon {horizon}" if given else "to train, validate and test on"
        remedy = f"lower --horizon, or {longer}" if given else longer
        raise DataError(f"at least {enough} values {what}", str(size), remedy)
    values = series.values[: parts.train]
    if bool((values == values[0]).all()):
        where = "all rows" if bool((series.values == values[0]).all()) else "the training part"
        raise DataError(
            f"a series that changes in {series.name}", f"{values[0]:g} in {where}",
            "name another --column: a constant needs no forecast",
        )  # fmt: skip
    longest = (parts.train - horizon) // 2
    if plan.season is not None and plan.season > longest:
        raise ArgumentError(
            f"--season up to {longest}, half of what there is to train on", str(plan.season),
            "lower --season, or give a longer series",
        )  # fmt: skip
    ahead = targets(series, range(parts.train - horizon), horizon)

    def off(season: int) -> float:
        said = seasonal(series.values, range(season, parts.train - horizon), season, horizon)
        return _mean_off(said, ahead[season:])

    season = plan.season or min((m for m in seasons.values() if m <= longest), key=off, default=1)
    lags = min(2 * season if season > 1 else 32, MOST_LAGS, parts.train // 6)
    if lags <= season < parts.train // 4 and season < MOST_LAGS:
        lags = season + 1
    usual = min(max(2 * season, LEAST_K), MOST_K, parts.train // 2)
    k = plan.k or usual
    if k > parts.train // 2:
        raise ArgumentError(f"--k up to {parts.train // 2} in this series", str(k), "lower --k")
    told = tuple(
        part for part, steps in seasons.items() if part != "year" or parts.train >= 2 * steps
    )
    steps = STEPS if plan.steps is None and plan.minutes is None else plan.steps
    made = replace(
        plan, horizon=horizon, season=season, k=k, parts=told, lags=max(lags, 1), steps=steps
    )
    return made, parts


# What the models see, and the linear one.


@dataclass(frozen=True, eq=False)
class View:
    """A series as the models see it, each number relative to the level of its step."""

    series: Series
    plan: Plan

    @cached_property
    def level(self) -> Floats:
        """The mean of the last ``width`` values, (N,); before the first one it was as the first one."""
        values, width = self.series.values, self.plan.width
        sums = np.cumsum(np.concatenate([np.zeros(width), values - values[0]]))
        return (sums[width:] - sums[:-width]) / width + values[0]

    @cached_property
    def features(self) -> Floats:
        """What the calendar says of each step, (N, F)."""
        steps = np.arange(len(self.series.values))
        return calendar_features(self.series.calendar, steps, self.plan.parts)

    def spread(self, end: int) -> float:
        """The root mean square distance from the level, of the first ``end`` values."""
        with np.errstate(over="ignore", invalid="ignore"):
            return float(np.sqrt(np.mean((self.series.values - self.level)[:end] ** 2)))

    def inputs(self, scale: float) -> Tensor:
        """What the network reads, (N, 1, 1 + F) float32."""
        away = (self.series.values - self.level) / scale
        return torch.from_numpy(np.column_stack([away, self.features])[:, None]).float()

    def window(self, rows: range, scale: float) -> Floats:
        """What the linear model reads, (rows, lags + F + 1): the last values, the calendar, a one."""
        lags = self.plan.lags
        padded = np.concatenate([np.full(lags - 1, self.series.values[0]), self.series.values])
        last = sliding_window_view(padded, lags)[rows.start : rows.stop, ::-1]
        away = (last - self.level[rows.start : rows.stop, None]) / scale
        told = self.features[rows.start : rows.stop]
        return np.column_stack([away, told, np.ones(len(rows))])

    def ahead(self, rows: range, scale: float) -> Floats:
        """The targets as the models give them, (rows, H)."""
        found = targets(self.series, rows, self.plan.horizon or 1)
        return (found - self.level[rows.start : rows.stop, None]) / scale


def fit_linear(view: View, parts: Parts, scale: float) -> Floats:
    """The linear model, (lags + F + 1, H): ridge in closed form, its penalty by the validation part.

    W = (XᵀX + λ n)⁻¹ XᵀY, one column for each step ahead.

    Cost: the square of the columns for each row, of at most the last 50,000.
    """
    horizon, first = view.plan.horizon or 1, view.plan.lags
    end = parts.train - horizon
    rows = range(max(min(first, end // 2), end - MOST_ROWS), end)
    x, y = view.window(rows, scale), view.ahead(rows, scale)
    whole = np.isfinite(y).all(1)
    x, y = x[whole], y[whole]
    if not len(x):
        raise DataError(
            "known values to train on", "none that follow each other for a whole --horizon",
            "lower --horizon, or give a part of the series with fewer gaps",
        )  # fmt: skip
    values, vectors = np.linalg.eigh(x.T @ x)
    turned = vectors.T @ (x.T @ y)
    judged = parts.origins("valid", horizon)
    seen, wanted = view.window(judged, scale), view.ahead(judged, scale)

    def solved(penalty: float) -> Floats:
        return vectors @ (turned / (values + penalty * len(x))[:, None])

    def off(penalty: float) -> float:
        return _mean_off(seen @ solved(penalty), wanted)

    return solved(min(RIDGES.tolist(), key=off))


def _mean_off(said: Floats, wanted: Floats) -> float:
    errors = np.abs(said - wanted)
    known = np.isfinite(errors)
    return float(errors[known].mean()) if known.any() else math.inf


# The network.


class SeriesForecaster(nn.Module):
    """A network, and the numbers that turn what it says into a forecast: all that a run keeps.

    Args:
        plan: with everything chosen.
        features: F, numbers of the calendar.
    """

    def __init__(self, plan: Plan, features: int) -> None:
        super().__init__()
        self.plan, horizon = plan, plan.horizon or 1
        layer = CELLS[plan.cell](1 + features, plan.hidden)
        self.network = Forecaster(layer, 3 * horizon, residual=False)
        double: dict[str, Any] = {"dtype": torch.float64}
        self.register_buffer("linear", torch.zeros(plan.lags + features + 1, horizon, **double))
        self.register_buffer("scale", torch.ones((), **double))
        self.register_buffer("unit", torch.ones((), **double))
        self.register_buffer("margins", torch.zeros(horizon, **double))

    def _number(self, name: str) -> float:
        return float(getattr(self, name))

    def forecast(self, series: Series, rows: range) -> Floats:
        """The forecasts from these steps of a series, in its own unit.

        Returns:
            (rows, H, 3): the interval's lower end, the median, its upper end.

        Cost: one pass of the network over the series; memory for the rows alone.
        """
        said = self.quantiles(series, rows) + self._margins()
        said[:, :, 0] = np.minimum(said[:, :, 0], said[:, :, 1])
        said[:, :, 2] = np.maximum(said[:, :, 2], said[:, :, 1])
        level = View(series, self.plan).level[rows.start : rows.stop, None, None]
        return said * self._number("scale") + level

    @torch.no_grad()
    def quantiles(self, series: Series, rows: range) -> Floats:
        """The same before the margins, (rows, H, 3): distances from the level, in units of ``scale``."""
        view = View(series, self.plan)
        inputs = view.inputs(self._number("scale"))[: rows.stop].to(device_of(self.network))
        said = self.said(self.network.layer(inputs)[0][rows.start :, 0])
        return said * self._number("unit") + self.base(view, rows)[:, :, None]

    def said(self, state: Tensor) -> Floats:
        """What the output says of states (rows, hidden) as it comes from the network, (rows, H, 3)."""
        return self.network.output(state).cpu().double().numpy().reshape(len(state), -1, 3)

    def _margins(self) -> Floats:
        """What is added to the three quantiles, (H, 3)."""
        return self.get_buffer("margins").numpy()[:, None] * np.array([-1.0, 0.0, 1.0])

    @torch.no_grad()
    def as_layers(self) -> tuple[nn.Sequential, Floats]:
        """The network and the linear model for another program, margins and units within them.

        Returns:
            The network: value minus level and the calendar (T, B, 1 + F), to distances from the level
            (T, B, 3 H), in the unit of the series; and the linear model (lags + F + 1, H), whose forecast
            is added: of the last values minus the level, the newest first, the calendar, and a one.
        """
        scale, unit = self._number("scale"), self._number("unit")
        layer: Any = copy.deepcopy(self.network.layer)
        output = copy.deepcopy(self.network.output)
        layer.weight_ih_l0[:, 0] /= scale
        output.weight *= scale * unit
        margins = torch.from_numpy(self._margins().reshape(-1)).float()
        output.bias.copy_((output.bias * unit + margins) * scale)
        linear = self.get_buffer("linear").numpy().copy()
        linear[self.plan.lags :] *= scale
        return nn.Sequential(layer, output).eval(), linear

    def base(self, view: View, rows: range) -> Floats:
        """What the network's output is added to, (rows, H)."""
        if self.plan.onto != "linear":
            return np.zeros((len(rows), self.plan.horizon or 1))
        linear = self.get_buffer("linear").numpy()
        blocks = (range(at, min(at + 8192, rows.stop)) for at in range(rows.start, rows.stop, 8192))
        return np.concatenate([view.window(b, self._number("scale")) @ linear for b in blocks])


@dataclass(frozen=True)
class Look:
    """A look at a network in training: updates, loss, and its error on the validation part."""

    onto: str
    step: int
    loss: float | None
    norm: float | None
    valid: float


@dataclass(frozen=True, eq=False)
class Trained:
    """A forecaster with the best weights of its training."""

    model: SeriesForecaster
    valid: float
    best_step: int
    looks: tuple[Look, ...]
    seconds: float


def train_network(
    model: SeriesForecaster,
    view: View,
    parts: Parts,
    budget: Budget,
    tell: Callable[[float], None],
    device: torch.device = CPU,
) -> Trained:
    """Train the network of a forecaster; it gets the weights that were best on the validation part.

    Every window of k steps starts from a zero state; the validation part is read with the state that the
    series before it left, as it is used. The state of step 0 counts too: a network that learns nothing
    leaves what it was added to as it was.

    Args:
        model: its linear model is fitted; its unit is set here.
        view: of the series. parts: of it.
        budget: of updates or minutes.
        tell: is told what share of the budget is spent, 0…1.
        device: where the network is trained. It comes back to the CPU, where all else of a forecaster is.

    Raises:
        NonFiniteError: a loss or gradient was not finite.
    """
    plan, scale = model.plan, float(model.get_buffer("scale"))
    horizon, k = plan.horizon or 1, plan.k or LEAST_K
    rows = range(parts.train)
    ahead = view.ahead(rows, scale) - model.base(view, rows)
    for h in range(horizon):  # no target beyond the training part
        ahead[max(parts.train - h - 1, 0) :, h] = np.nan
    unit = max(float(np.sqrt(np.nanmean(ahead**2))), 1e-6)
    model.get_buffer("unit").fill_(unit)
    network = model.network.to(device)
    inputs = view.inputs(scale)[: parts.valid].to(device)
    wanted = torch.from_numpy(ahead / unit).float().to(device)
    judged = parts.origins("valid", horizon)
    rest = (view.ahead(judged, scale) - model.base(view, judged)) / unit

    def off() -> float:
        with torch.no_grad():
            said = model.said(network.layer(inputs)[0][judged.start : judged.stop, 0])
        return _mean_off(said[:, :, 1], rest) * unit * scale

    optimizer = torch.optim.AdamW(network.parameters(), plan.lr, weight_decay=0.01)
    draws = torch.Generator("cpu").manual_seed(plan.seed + 1)
    began, looks = time.perf_counter(), [Look(plan.onto, 0, None, None, off())]
    best, kept = looks[0], {n: w.clone() for n, w in network.state_dict().items()}
    step, progress = 0, 0.0
    while progress < 1:
        optimizer.param_groups[0]["lr"] = rate(max(progress, 1e-3), plan.lr, 0.05, "cosine")
        begins = torch.randint(0, parts.train - k + 1, (LANES,), generator=draws, device="cpu")
        places = (begins + torch.arange(k, device="cpu")[:, None]).to(device)
        batch = inputs[places, 0], wanted[places]
        done = fit_step(
            network, optimizer, batch, Full(),
            lambda said, y: pinball(said, y, plan.coverage), clip=ClipNorm(1.0),
        )  # fmt: skip
        if not done.finite:
            raise NonFiniteError("a finite loss", f"{done.loss} at update {step + 1}", "lower --lr")
        step += 1
        now = budget.progress(step, 0.0, time.perf_counter() - began)
        if int(now * CHECKS) > int(progress * CHECKS):
            looks.append(Look(plan.onto, step, done.loss, done.norm, off()))
            if looks[-1].valid < best.valid:
                best, kept = looks[-1], {n: w.clone() for n, w in network.state_dict().items()}
        progress = now
        tell(progress)
    network.load_state_dict(kept)
    network.to(CPU)
    return Trained(model.eval(), best.valid, best.step, tuple(looks), time.perf_counter() - began)


def set_margins(model: SeriesForecaster, series: Series, parts: Parts) -> None:
    """Widen or narrow the intervals until they hold the coverage on the validation part.

    For each step ahead: by the quantile of max(lower - y, y - upper) over the origins.

    Source: Y. Romano, E. Patterson and E. Candès, 2019, Conformalized quantile regression.
    """
    horizon, margins = model.plan.horizon or 1, model.get_buffer("margins")
    rows, scale = parts.origins("valid", horizon), float(model.get_buffer("scale"))
    said = model.quantiles(series, rows)
    wanted = View(series, model.plan).ahead(rows, scale)
    beyond = np.maximum(said[:, :, 0] - wanted, wanted - said[:, :, 2])
    for h in range(horizon):
        known = np.sort(beyond[:, h][np.isfinite(beyond[:, h])])
        if len(known):
            place = math.ceil((len(known) + 1) * model.plan.coverage) - 1
            margins[h] = known[min(place, len(known) - 1)]
