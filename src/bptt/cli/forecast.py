"""``bptt forecast``: a series out of a CSV file, by a recurrent network and by what is simpler."""

from __future__ import annotations

import csv
import datetime
import math
import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from bptt.cli.parse import Device, parse
from bptt.errors import ArgumentError
from bptt.shown.text import as_json, inline

if TYPE_CHECKING:
    from bptt.data.series import Series
    from bptt.experiments.ladder import Outcome
    from bptt.training.evaluate import ForecastScore


@dataclass(frozen=True)
class Forecast:
    """Forecast a series: a recurrent network beside naive, seasonal naive and a linear model.

    Reads one column of a CSV file and the times of its rows, trains on the earlier part, and prints how
    far off each is on the last fifth, by steps ahead. Leaves a run folder with a page of pictures, from
    which bptt sample prints what comes next, and bptt export writes C or ONNX.

    Example: bptt forecast visitors.csv --column visitors --horizon 24
    """

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE.csv")]
    """A CSV file in UTF-8, the names of its columns in the first line."""
    groups: ClassVar[dict[str, str]] = {
        "column": "the series",
        "horizon": "what is forecast",
        "fill": "how the file is read",
        "onto": "the network",
        "lr": "how long, and how",
        "seed": "the run and its output",
    }

    column: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The column of numbers; default: the only one there is."""
    time: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The column of times; default: the one that holds times."""
    horizon: int | None = None
    """Steps ahead; default: the shortest season (a day of hours, a week of days, a year of months)."""
    season: int | None = None
    """Steps after which the series repeats; default: of a day, a week, a year what fits best."""
    coverage: float = 0.8
    """Share of the values that an interval is to hold."""
    fill: bool = False
    """Put the last value before it in place of a missing one; no score counts it."""
    decimal_comma: bool = False
    """Numbers are written 12,5."""
    onto: Literal["auto", "linear", "alone"] = "auto"
    """What the network's output is added to: the linear model, or only the level of the last season; auto
    trains both, and the validation part says which is kept."""
    cell: Literal["gru", "lstm", "rnn"] = "gru"
    """The recurrent cell."""
    hidden: int = 48
    """State size H."""
    k: int | None = None
    """Steps of a training window, and so how far back the gradient may reach; default: two seasons, from
    64 to 128."""
    lr: float = 0.003
    """Peak learning rate."""
    steps: int | None = None
    """Updates of each network; default 400."""
    minutes: float | None = None
    """Train for this long in place of steps; the result then depends on the machine."""
    device: Device = "cpu"
    """Where the networks are trained: cpu, cuda, cuda:N, mps, or auto. They are small, and a processor is
    enough."""
    seed: int = 0
    """Same seed, same steps, same result; on a GPU but for the last digits."""
    out: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
    """New folder for the run; default: runs/forecast-DATE-TIME."""
    json: bool = False
    """Print one JSON document and nothing else on stdout."""

    def __post_init__(self) -> None:
        for name in ("horizon", "season", "k", "steps", "hidden"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST:
                raise ArgumentError(f"--{name} from 1 to {MOST:,}", str(value), f"change --{name}")
        for name in ("lr", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ArgumentError(f"--{name} above 0", f"{value:g}", f"change --{name}")
        if not 0 < self.coverage < 1:
            raise ArgumentError(
                "--coverage between 0 and 1", f"{self.coverage:g}", "0.8 holds four values of five"
            )
        if self.steps is not None and self.minutes is not None:
            raise ArgumentError("--steps or --minutes", "both", "keep the one that ends the run")
        if not 0 <= self.seed < 2**63:
            raise ArgumentError("0 <= --seed < 2^63", str(self.seed), "choose one in that range")


MOST = 1 << 16


def run(arguments: list[str]) -> int:
    """Train, print the scores, and keep the run."""
    asked = parse(Forecast, "forecast", arguments)

    from bptt.data.series import read_series
    from bptt.data.source import Source
    from bptt.training.run_folder import ForecastFolder

    place = Path(asked.out) if asked.out is not None else _free()
    folder = ForecastFolder(place)
    if "\0" in str(place):
        raise ArgumentError(
            "--out with a name that a folder can have", repr(asked.out), "choose another"
        )
    folder.require_free()
    series = read_series(
        Source.of_file(asked.file), asked.column, asked.time,
        fill=asked.fill, decimal_comma=asked.decimal_comma,
    )  # fmt: skip

    import torch
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from bptt.experiments.ladder import fit_forecasters
    from bptt.ops.device import choose
    from bptt.report.compared import forecast_page
    from bptt.shown.console import Console
    from bptt.training import checkpoint as checkpoints
    from bptt.training.forecast import Plan

    device = choose(asked.device)
    say = (lambda text: None) if asked.json else print
    say(_described(series))
    plan = Plan(**{f.name: getattr(asked, f.name) for f in fields(Plan) if hasattr(asked, f.name)})
    console = Console(stderr=True)
    columns = (BarColumn(16), TextColumn("training"), TimeRemainingColumn(compact=True))
    threads = torch.get_num_threads()
    # The network is small; and so the same seed gives the same on any number of cores.
    torch.set_num_threads(1)
    try:
        with Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        ) as bar:
            task = bar.add_task("training", total=1.0)
            found = fit_forecasters(
                plan, series, lambda done: bar.update(task, completed=done), device
            )
    finally:
        torch.set_num_threads(threads)
    document = _document(found, series)
    state = {"step": max(one.best_step for one in found.trained if one.model is found.model)}
    kept = checkpoints.Checkpoint(found.model.state_dict(), {}, state)
    folder.keep(found.plan.to_toml(), series.to_csv(), _metrics(found), document, kept)
    table, verdict = _table(found), _verdict(found)
    command = shlex.join(["bptt", "forecast", *arguments])
    page = folder.write_report(forecast_page(found, series, asked.file, command, verdict, table))
    if asked.json:
        print(as_json({"run": str(place), **document}))
        return 0
    _print_table(table)
    print(*verdict, sep="\n")
    print(f"pictures: {inline(page)}")
    print(f"next: bptt sample {shlex.quote(str(place))}")
    return 0


def _free() -> Path:
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / f"forecast-{now}"
    candidates = (base if n == 1 else base.with_name(f"{base.name}-{n}") for n in range(1, 10_000))
    return next(path for path in candidates if not path.exists())


def _described(series: Series) -> str:
    calendar, size = series.calendar, len(series.values)
    first, last = (calendar.stamp(time) for time in calendar.at([0, size - 1]))
    filled = int((~series.known).sum())
    put_in = f", {filled:,} of them put in" if filled else ""
    return (
        f"{inline(series.name)}, {calendar.words}: {size:,} values from {first} to {last}{put_in}"
    )


def _shown_steps(horizon: int) -> list[int]:
    """The steps ahead that have a column."""
    return sorted({1, (horizon + 1) // 2, horizon})


def _table(found: Outcome) -> list[tuple[str, ...]]:
    ahead = _shown_steps(found.plan.horizon or 1)
    head = ("forecaster", "MASE", "MAE", *(f"{n} ahead" for n in ahead), "interval holds")
    rows = [head]
    for score in found.scores:
        rows.append(
            (
                score.name + (", kept" if score is found.scores[-1] else ""),
                "-" if score.mase is None else f"{score.mase:.3f}",
                f"{score.mae:.4g}",
                *(f"{score.ahead[n - 1]:.4g}" for n in ahead),
                "" if score.held is None else f"{100 * score.held:.0f} %",
            )
        )
    return rows


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells).rstrip())


def _verdict(found: Outcome) -> list[str]:
    """What came out, in sentences: the best, the interval, how far back it learns."""
    from bptt.report import words
    from bptt.training.evaluate import clearly_better

    plan, scores, kept = found.plan, found.scores, found.scores[-1]
    finite = [score for score in scores if math.isfinite(score.mae)]
    if not finite:
        return ["The test part has no value that the file has: nothing was scored."]
    best = min(finite, key=lambda score: score.mae)
    own = [one for one in finite if one.held is not None]
    others = [one for one in finite if one.held is None]
    rival = min(others if best in own else own, key=lambda score: score.mae)
    less = 1 - best.mae / rival.mae if rival.mae > 0 else 0.0
    chance = "is more than chance" if clearly_better(best, rival) else "may be chance"
    what = (
        f"Best on the test part: {best.name}, {words.percent(less)} less error than {rival.name}; over "
        f"{len(best.blocks):,} forecasts that share no value, that {chance}."
    )
    said = [what if less > 0 else f"Best on the test part: {best.name}; {rival.name} is as good."]
    if best in own and best is not kept:
        said.append(f"The validation part chose {kept.name}, which is what the run keeps.")
    if best not in own:
        said.append("Here a recurrent network gains nothing: use what is simpler.")
    if kept.held is not None:
        said.append(
            f"Intervals are to hold {words.percent(plan.coverage)} of the values and hold "
            f"{words.percent(kept.held)} of the test part; they are {kept.width:.4g} wide on average."
        )
    said.append(_reach(found))
    return said


def _reach(found: Outcome) -> str:
    """How far back the network learns, and what that says of k."""
    judged = found.judged
    if judged is None:
        return "The network learned nothing that the validation part keeps: its output is zero."
    longer = f" Try --k {min(judged.horizon, judged.steps)}." if judged.word == "cut short" else ""
    return f"How far back it learns: {judged.word}. {judged.reason}{longer}"


def _document(found: Outcome, series: Series) -> dict[str, Any]:
    plan, judged = found.plan, found.judged
    times = series.calendar.at([0, found.parts.train, found.parts.valid])
    begins = [series.calendar.stamp(time) for time in times]
    return {
        "column": series.name, "calendar": series.calendar.words, "values": len(series.values),
        "filled": int((~series.known).sum()), "horizon": plan.horizon, "season": plan.season,
        "onto": plan.onto, "cell": plan.cell, "k": plan.k, "coverage": plan.coverage,
        "train_from": begins[0], "valid_from": begins[1], "test_from": begins[2],
        "origins": len(found.rows),
        "steps": sum(one.looks[-1].step for one in found.trained),
        "seconds": sum(one.seconds for one in found.trained),
        "scores": [_score(score) for score in found.scores], "kept": found.scores[-1].name,
        "best": min(found.scores, key=lambda score: score.mae).name,
        "verdict": None if judged is None else judged.as_dict(),
    }  # fmt: skip


def _score(score: ForecastScore) -> dict[str, Any]:
    return {
        "name": score.name, "mase": score.mase, "mae": score.mae, "mae_by_step": list(score.ahead),
        "interval_holds": score.held, "interval_width": score.width,
    }  # fmt: skip


def _metrics(found: Outcome) -> list[dict[str, Any]]:
    return [
        {"onto": look.onto, "step": look.step, "loss": look.loss, "norm": look.norm,
         "valid_mae": look.valid}
        for one in found.trained
        for look in one.looks
    ]  # fmt: skip


# What the other commands do with the run folder of a forecast.


def is_forecast(run: str) -> bool:
    """Whether a folder is the run of a forecast."""
    return "\0" not in run and Path(run, "series.csv").is_file()


def continue_series(run: str, length: int | None, device: str, json: bool) -> None:
    """Print what comes after the end of the series, as CSV or JSON."""
    from bptt.training.restore import load_forecaster

    model, series = load_forecaster(run, device)
    horizon, coverage, size = model.plan.horizon or 1, model.plan.coverage, len(series.values)
    steps = horizon if length is None else length
    if steps > horizon:
        raise ArgumentError(
            f"--length up to {horizon}, the horizon of {run}", str(steps),
            f"train for more: bptt forecast FILE.csv --horizon {steps}",
        )  # fmt: skip
    said = model.forecast(series, range(size - 1, size))[0, :steps].tolist()
    times = series.calendar.at([size + n for n in range(steps)])
    stamps = [series.calendar.stamp(time) for time in times]
    if json:
        rows = [
            {"time": stamp, "value": middle, "low": low, "high": high}
            for stamp, (low, middle, high) in zip(stamps, said, strict=True)
        ]
        print(as_json({"column": series.name, "coverage": coverage, "forecast": rows}))
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["time", inline(series.name), "low", "high"])
    for stamp, (low, middle, high) in zip(stamps, said, strict=True):
        writer.writerow([stamp, *(f"{value:.7g}" for value in (middle, low, high))])


def export_forecaster(
    run: str, to: str, out: str | None, name: str, activations: Any
) -> dict[str, Any]:
    """Write the forecaster of a run as C or ONNX; what was written, as ``bptt export`` prints it."""
    from dataclasses import replace

    from bptt.data.calendar import feature_names
    from bptt.export import export_c, export_onnx
    from bptt.export.c import forecast_header
    from bptt.export.onnx_graph import add_linear
    from bptt.files.write import write_file
    from bptt.training.forecast import View
    from bptt.training.restore import load_forecaster

    model, series = load_forecaster(run)
    plan, layers, linear = model.plan, *model.as_layers()
    beside = plan.onto == "linear"
    inputs = View(series, plan).inputs(1.0)[-64:]
    place = Path(out or (f"{Path(run)}.onnx" if to == "onnx" else f"{Path(run)}-c"))
    if to == "onnx":
        if place.exists() or place.is_symlink():
            raise ArgumentError(
                "a file that does not exist yet", str(place), "choose another --out"
            )
        made: Any = export_onnx(layers, inputs, name=name)
        made = add_linear(made, linear) if beside else made
        place.absolute().parent.mkdir(parents=True, exist_ok=True)
        write_file(place, made.SerializeToString(), "choose another one with --out")
        return {"out": str(place), "files": [str(place)], "bytes": place.stat().st_size}
    told = feature_names(series.calendar, plan.parts)
    header = forecast_header(
        name, plan.horizon or 1, plan.width, plan.lags, told, linear if beside else None
    )
    export = export_c(layers, inputs, None, name=name, activations=activations)
    export = replace(export, files={**export.files, f"{name}_forecast.h": header}).write(place)
    return {"out": str(place), "files": sorted(export.files), "cost": None}
