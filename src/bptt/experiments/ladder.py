"""The ladder of language models on one text, from counting to attention, with the same budget each; and
of forecasters on one series, from "as it is now" to recurrent networks.

A table of counts is made in one pass, whatever the budget; everything else is trained for as long, or
by as many updates, as everything else. What is published of the ladder of texts is an order: each rung
models text better than the one before. Of a series nothing of that kind is said: the scores decide.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bptt.data.calendar import Floats
from bptt.data.series import Series, naive, scale_of, seasonal, targets
from bptt.errors import ArgumentError, DataError, NonFiniteError
from bptt.models import CountModel
from bptt.models.heads import pinball
from bptt.ops.device import CPU
from bptt.probes.verdict import Verdict
from bptt.probes.watch import Watched, watch
from bptt.training import Settings, train
from bptt.training.evaluate import ForecastScore, score_forecast
from bptt.training.forecast import (
    Parts,
    Plan,
    SeriesForecaster,
    Trained,
    View,
    choose,
    fit_linear,
    set_margins,
    train_network,
)
from bptt.training.schedule import Budget

# By its word: what to call it, its settings, and the rung that it is published to be better than.
RUNGS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "bigram": ("bigram table", {"model": "bigram"}, None),
    "ngram": ("6-gram table", {"model": "ngram"}, "bigram"),
    "window": ("MLP over a window of 8", {"model": "window"}, "bigram"),
    "rnn": ("RNN", {"cell": "rnn", "lr": 0.002}, "window"),
    "gru": ("GRU", {"cell": "gru"}, "rnn"),
    "lstm": ("LSTM", {"cell": "lstm"}, "rnn"),
    "attention": ("attention over 64, 3 layers", {"model": "attention", "lr": 0.002}, "rnn"),
}


@dataclass(frozen=True)
class Rung:
    """What one rung came to.

    Attributes:
        word: as the command line calls it.
        name: in a few words.
        parameters: trained numbers; of a table the probabilities that it stores.
        bits: per token, on the held-out part in one piece; None where nothing is held out, or it failed.
        updates: made.
        seconds: of training.
        tokens_per_second: trained on; None for a table.
        better_than: the word of the rung that it is published to be better than.
        run: its folder, where it was kept.
        error: what kept it from ending, or None.
        interrupted: whether a signal ended it before its budget was spent.
    """

    word: str
    name: str
    parameters: int
    bits: float | None
    updates: int
    seconds: float
    tokens_per_second: float | None
    better_than: str | None
    run: str | None = None
    error: str | None = None
    interrupted: bool = False


def climb(
    settings: Settings, words: Sequence[str] = tuple(RUNGS), *, keep: str | Path | None = None
) -> Iterator[Rung]:
    """Train one rung after the other on the same text.

    Args:
        settings: the text and the budget; model, cell, rate and folder are each rung's own.
        words: of the rungs, from ``RUNGS``, in the order in which they are climbed.
        keep: a folder for their run folders; None: they are thrown away.

    Yields:
        what each came to. After an interrupt there is no further one.

    Raises:
        ArgumentError: there is no such rung.
        DataError: the text cannot be read.
        RunError: a run folder is there already.

    Cost: the budget for each but the tables, which take seconds.
    """
    for word in words:
        if word not in RUNGS:
            raise ArgumentError(f"--rungs among {', '.join(RUNGS)}", repr(word), "pick of these")
    with tempfile.TemporaryDirectory() as spare:
        for word in dict.fromkeys(words):
            found = _climbed(settings, word, Path(spare if keep is None else keep))
            if keep is None:
                found = Rung(**{**asdict(found), "run": None})
            yield found
            if found.interrupted:
                return


def _climbed(settings: Settings, word: str, folder: Path) -> Rung:
    name, own, before = RUNGS[word]
    values = {**asdict(settings), **own, "out": str(folder / word)}
    try:
        outcome = train(Settings(**values))
    except NonFiniteError as error:  # it diverged; the others may not
        return Rung(word, name, 0, None, 0, 0.0, None, before, error=str(error))
    model = outcome.model
    counted = isinstance(model, CountModel)
    return Rung(
        word,
        name,
        model.entries
        if isinstance(model, CountModel)
        else sum(p.numel() for p in model.parameters()),
        None if outcome.valid is None else outcome.valid.bits,
        outcome.steps,
        outcome.seconds,
        None if counted else outcome.tokens / max(outcome.seconds, 1e-9),
        before,
        run=str(outcome.run),
        interrupted=outcome.interrupted,
    )


def compare_order(rungs: Sequence[Rung]) -> list[tuple[Rung, Rung, bool]]:
    """Each rung with the one that it is published to be better than, and whether it was.

    Returns:
        (the rung, the other, whether it is better), for every pair that was scored.

    Example:
        >>> a = Rung("window", "MLP", 1, 2.0, 1, 1.0, 1.0, "bigram")
        >>> b = Rung("rnn", "RNN", 1, 2.1, 1, 1.0, 1.0, "window")
        >>> [(one.word, other.word, better) for one, other, better in compare_order([a, b])]
        [('rnn', 'window', False)]
    """
    by_word = {rung.word: rung for rung in rungs}
    found = []
    for rung in rungs:
        other = by_word.get(rung.better_than or "")
        if other is not None and rung.bits is not None and other.bits is not None:
            found.append((rung, other, rung.bits < other.bits))
    return found


# Forecasters of a series, from "it stays as it is" to a recurrent network.


@dataclass(frozen=True, eq=False)
class Outcome:
    """What :func:`fit_forecasters` found.

    Attributes:
        model: the forecaster that the validation part chose.
        plan: of it, everything chosen. parts: of the series.
        scores: of every forecaster on the test part, the kept one last.
        trained: both networks, or the one that was asked for.
        reach: how far back the kept network's gradient goes; None where it has none.
        judged: the verdict on that, beside windows of k steps.
        rows: the origins in the test part. said: what the kept forecaster says from each, (rows, H, 3).
        after: what it says from the end of the series, (H, 3).
    """

    model: SeriesForecaster
    plan: Plan
    parts: Parts
    scores: tuple[ForecastScore, ...]
    trained: tuple[Trained, ...]
    reach: Watched | None
    judged: Verdict | None
    rows: range
    said: Floats
    after: Floats


def fit_forecasters(
    plan: Plan,
    series: Series,
    tell: Callable[[float], None] = lambda share: None,
    device: torch.device = CPU,
) -> Outcome:
    """Fit the baselines and train the networks, keep one of these, and score all on the test part.

    Args:
        plan: what is asked for.
        series: the whole series.
        tell: is told what share of the training is done, 0…1.
        device: where the networks are trained; they begin as the same ones on every device.

    Raises:
        DataError, ArgumentError: as :func:`choose`.
        NonFiniteError: a training went out of the float range.

    Cost: of the default 400 updates of two networks about ten seconds of one core.
    """
    plan, parts = choose(plan, series)
    view = View(series, plan)
    scale, horizon = view.spread(parts.train), plan.horizon or 1
    if not 1e-100 < scale < 1e100:
        raise DataError(
            f"values that differ by 1e-100 to 1e100 in {series.name}", f"{scale:.1g}",
            "write them in another unit",
        )  # fmt: skip
    linear = torch.from_numpy(fit_linear(view, parts, scale))
    kinds: tuple[Any, ...] = ("linear", "alone") if plan.onto == "auto" else (plan.onto,)
    share = len(kinds)
    minutes = None if plan.minutes is None else plan.minutes / share
    trained = []
    for place, onto in enumerate(kinds):
        torch.manual_seed(plan.seed)
        model = SeriesForecaster(replace(plan, onto=onto), view.features.shape[1])
        model.get_buffer("linear").copy_(linear)
        model.get_buffer("scale").fill_(scale)
        budget = Budget(plan.steps, None, minutes)
        own = replace(view, plan=model.plan)
        told = partial(_tell, tell, place, share)
        trained.append(train_network(model, own, parts, budget, told, device))
        set_margins(model, series, parts)
    best = min(trained, key=lambda one: one.valid)
    season, rows = plan.season or 1, parts.origins("test", horizon)
    wanted, values = targets(series, rows, horizon), series.values
    said = {"naive": naive(values, rows, horizon)}
    if season > 1:
        said["seasonal naive"] = seasonal(values, rows, season, horizon)
    said["linear"] = view.window(rows, scale) @ linear.numpy() * scale
    said["linear"] += view.level[rows.start : rows.stop, None]
    for one in sorted(trained, key=lambda one: one is best):
        said[_named(one.model.plan)] = kept = one.model.forecast(series, rows)
    divisor = scale_of(values[: parts.train], season)
    scores = tuple(score_forecast(name, found, wanted, divisor) for name, found in said.items())
    end = range(len(values) - 1, len(values))
    return Outcome(
        best.model, best.model.plan, parts, scores, tuple(trained), *_reach(best, view, parts), rows,
        kept, best.model.forecast(series, end)[0],
    )  # fmt: skip


def _tell(tell: Callable[[float], None], place: int, of: int, done: float) -> None:
    """What share of several trainings is done."""
    tell((place + done) / of)


def _named(plan: Plan) -> str:
    return plan.cell.upper() + (" on linear" if plan.onto == "linear" else " alone")


def _reach(best: Trained, view: View, parts: Parts) -> tuple[Watched | None, Verdict | None]:
    """How far back the gradient of the kept weights goes, in windows longer than those of training."""
    model = best.model
    plan, network = model.plan, model.network
    steps = min(4 * (plan.k or 1), parts.train)
    scale, unit = float(model.get_buffer("scale")), float(model.get_buffer("unit"))
    view = replace(view, plan=plan)
    rows = range(parts.train)
    wanted = torch.from_numpy((view.ahead(rows, scale) - model.base(view, rows)) / unit).float()
    begins = torch.linspace(0, parts.train - steps, 8).long()
    places = begins + torch.arange(steps)[:, None]
    with watch(network) as flow:
        said, _ = network(view.inputs(scale)[places, 0])
        pinball(said, wanted[places], plan.coverage).backward()
    network.zero_grad(set_to_none=True)
    if not flow.last.main.spectrum.gradient_norm > 0:
        return None, None
    return flow.last.main, flow.judge(k=plan.k)
