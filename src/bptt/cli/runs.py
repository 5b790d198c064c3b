"""``bptt runs``: one's run folders side by side."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from bptt.cli.forecast import is_forecast
from bptt.cli.parse import parse
from bptt.errors import ArgumentError, BpttError
from bptt.shown.text import as_json, inline

SCORE = ("nats", "bits", "perplexity", "bits_per_character")
COLUMNS = (
    "run", "state", "began", "model", "steps", "tokens", "seconds", "tokens_per_second", *SCORE,
    "horizon", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Runs:
    """List run folders and compare them: what each reached, and the settings in which they differ.

    The score is the exact one that a finished run ended with; of an unfinished one, which may still be
    training, the best on the way.

    Example: bptt runs runs --sort bits
    """

    folders: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders, and folders that hold some; default: runs."""
    sort: Literal["began", "bits", "seconds", "run"] = "began"
    """What comes first: the oldest, the best, the shortest, by name."""
    json: bool = False
    """Print one JSON document and nothing else on stdout."""
    csv: bool = False
    """Print a table with commas, every setting in it, and nothing else on stdout."""

    def __post_init__(self) -> None:
        if self.json and self.csv:
            raise ArgumentError("--json or --csv", "both", "keep one of them")


def run(arguments: list[str]) -> int:
    """Read them all and print a line each."""
    asked = parse(Runs, "runs", arguments)
    rows = [_row(path) for path in _found(asked.folders or ("runs",))]
    rows.sort(key=lambda row: (row[asked.sort] is None, row[asked.sort]))
    if asked.json:
        print(as_json({"runs": rows, "differ": _differing(rows)}))
    elif asked.csv:
        _write_csv(rows)
    else:
        _print(rows)
    return 0


def _found(folders: tuple[str, ...]) -> list[Path]:
    """Run folders, each once: those named, and those that lie in the others."""
    found: dict[Path, Path] = {}
    for name in folders:
        place = Path(name)
        if "\0" in name or not place.is_dir():
            raise ArgumentError(
                f"a folder at {name}",
                "a file" if "\0" not in name and place.exists() else "nothing there",
                "name run folders, or a folder that holds some; bptt train makes them",
            )
        inside = [place] if _is_run(place) else sorted(p for p in place.iterdir() if _is_run(p))
        if not inside:
            raise ArgumentError(
                f"run folders in {name}", "none", "name the folder that bptt train wrote"
            )
        found |= {path.resolve(): path for path in inside}
    return list(found.values())


def _is_run(path: Path) -> bool:
    kinds = (path / "vocabulary.json", path / "series.csv")
    return (path / "config.toml").is_file() and any(kind.is_file() for kind in kinds)


def _row(path: Path) -> dict[str, Any]:
    """What a run folder says of its run; of one that cannot be read, why."""
    from bptt.training.run_folder import RunFolder

    row: dict[str, Any] = dict.fromkeys((*COLUMNS, "settings"))
    row |= {"run": str(path), "state": "unreadable"}
    try:
        # Nothing writes this file again, so its age is the run's.
        began = datetime.datetime.fromtimestamp((path / "config.toml").stat().st_mtime)
        row["began"] = began.isoformat(" ", "seconds")
        if is_forecast(str(path)):
            return row | _forecast(path)
        folder = RunFolder.open(path)
        settings = folder.read_settings()
        records = list(folder.read_metrics())
        result = _result(path)
    except BpttError as error:
        return row | {"note": str(error)}
    except OSError as error:
        return row | {"note": str(error.strerror)}
    values = dataclasses.asdict(settings)
    row["settings"] = {name: value for name, value in values.items() if value is not None}
    row["model"] = settings.cell if settings.model == "recurrent" else settings.model
    for record in records:
        names = ("tokens", "tokens_per_second", "horizon", "seconds")
        row |= {name: _number(record[name]) for name in names if name in record}
        row["steps"] = _number(record.get("step"))
    valid = [record["valid"] for record in records if isinstance(record.get("valid"), dict)]
    scored = [score for score in valid if _number(score.get("nats")) is not None]
    score: dict[str, Any] = min(scored, key=lambda score: score["nats"], default={})
    finished = isinstance(result.get("final"), dict)
    if finished:
        score, row["seconds"] = result["final"], _number(result.get("seconds"))
        row["steps"] = _number(result.get("step"))
    row |= {name: _number(score.get(name)) for name in SCORE}
    if settings.tokens == "char":
        row["bits_per_character"] = row["bits"]
    row["state"] = "finished" if finished else "unfinished"
    return row


def _forecast(path: Path) -> dict[str, Any]:
    """The same of a forecast, whose score is no bits."""
    from bptt.training.restore import read_plan
    from bptt.training.run_folder import ForecastFolder

    plan, result = read_plan(ForecastFolder.open(path)), _result(path)
    values = {name: value for name, value in dataclasses.asdict(plan).items() if value is not None}
    found = {"settings": values, "state": "finished", "seconds": _number(result.get("seconds"))}
    found["model"] = plan.cell + (" on linear" if plan.onto == "linear" else "")
    found["steps"] = _number(result.get("steps"))
    reach, scores = result.get("diagnosis"), result.get("scores")
    if isinstance(reach, dict):
        found["horizon"] = _number(reach.get("horizon"))
    kept = scores[-1] if isinstance(scores, list) and scores else None
    mase = _number(kept.get("mase")) if isinstance(kept, dict) else None
    said = "" if mase is None else f", MASE {mase:.3f}"
    found["note"] = f"a forecast of {result.get('column')}, {plan.horizon} steps ahead{said}"
    return found


def _result(path: Path) -> dict[str, Any]:
    """What a run ended with; empty where it has not."""
    from bptt.files.folder import Folder

    try:
        with Folder.open(path, follow=True) as folder:
            found = json.loads(folder.read("result.json").decode("utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        return {}  # cut short: the run is as unfinished as one without
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> float | None:
    """A number of a file, which may hold anything; None for what is none, or not finite."""
    return value if type(value) in (int, float) and abs(value) < float("inf") else None


def _differing(rows: list[dict[str, Any]]) -> list[str]:
    """The settings that are not the same in all runs, those of a place left out."""
    known = [row["settings"] for row in rows if row["settings"] is not None]
    names = dict.fromkeys(name for settings in known for name in settings)
    left = ("out", "model", "cell")  # the last two stand in every table
    return [n for n in names if n not in left and len({str(s.get(n)) for s in known}) > 1]


def _write_csv(rows: list[dict[str, Any]]) -> None:
    names = dict.fromkeys(name for row in rows for name in row["settings"] or ())
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"settings.{name}" for name in names)])
    for row in rows:
        settings = row["settings"] or {}
        values = [row[column] for column in COLUMNS] + [settings.get(name) for name in names]
        writer.writerow(["" if v is None else inline(_joined(v)) for v in values])


def _joined(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from bptt.shown.console import Console
    from bptt.training.progress import fixed

    budgets = ("minutes", "steps", "epochs")  # what came of them stands beside
    axes = [name for name in _differing(rows) if name not in budgets]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    scores = {"bits": "bits"}
    if any((row["settings"] or {}).get("tokens", "char") not in ("char", "byte") for row in rows):
        scores["bits_per_character"] = "bits/char"  # bits of tokens of several kinds do not compare
    heads = (
        "run",
        "state",
        "model",
        *axes,
        "steps",
        "seconds",
        "tokens/s",
        "horizon",
        *scores.values(),
    )
    longest = max(
        (len(inline(row["run"])) for row in rows), default=0
    )  # typed after it: on one line
    for head in heads:
        left = head in ("run", "state", "model")
        width = longest if head == "run" else None
        table.add_column(head, justify="left" if left else "right", min_width=width)
    for row in rows:
        settings = row["settings"] or {}
        table.add_row(
            inline(row["run"]), row["state"], row["model"] or "-",
            *(inline(_joined(settings.get(axis, "-"))) for axis in axes),
            *(
                "-" if row[name] is None else f"{row[name]:,.0f}"
                for name in ("steps", "seconds", "tokens_per_second", "horizon")
            ),
            *("-" if row[name] is None else fixed(row[name], 3) for name in scores),
        )  # fmt: skip
    Console().print(table, highlight=False)
    for row in rows:
        if row["note"] is not None:
            print(f"{inline(row['run'])}: {inline(row['note'])}")
