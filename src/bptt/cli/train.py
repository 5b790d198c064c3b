"""``bptt train``: from texts to a run folder."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bptt.cli.parse import parse
from bptt.shown.text import as_json, inline
from bptt.training.settings import Settings


@dataclass(frozen=True)
class Train(Settings):
    """Train a language model and leave a run folder behind.

    With no file it trains for a minute on the text that every CPython carries.
    Ctrl-C, or closing the terminal, ends the run cleanly; --resume goes on from there.

    Example: bptt train shakespeare.txt --cell lstm --hidden 512 --minutes 10 --out runs/play
    """

    resume: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
    """Go on with this run. Its settings hold; give a larger budget to train longer, and FILE where its
    text has another name or place now."""
    sample: int = 300
    """Characters to print from the trained model at the end; 0 for none."""
    json: bool = False
    """Print one JSON document at the end and nothing else on stdout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least("sample", 0)


OURS = ("resume", "sample", "json")
BUDGETS = ("minutes", "steps", "epochs")
# What a resumed run may change; everything else is part of what was trained so far.
CHANGEABLE = {
    *BUDGETS,
    "files",  # the same text under another name, which its fingerprint proves
    "patience",
    "eval_every",
    "log_every",
    "horizon_every",
    "keep",
    "threads",
    "clip",
    "lr",
    "on_nonfinite",
}


def run(arguments: list[str]) -> int:
    """Train, and print the score and a sample."""
    asked = parse(Train, "train", arguments)
    settings, resume, changed = _settings(asked, arguments)

    from bptt.cli.text import shown_reading
    from bptt.report import write_run_report
    from bptt.report.advice import health
    from bptt.training.loop import train
    from bptt.training.progress import TerminalReporter
    from bptt.training.run_folder import RunFolder

    with shown_reading(), TerminalReporter(quiet_stdout=asked.json) as reporter:
        outcome = train(settings, resume=resume, reporter=reporter)
    status = 130 if outcome.interrupted else 0
    if outcome.rank:  # of several processes the first one writes and prints
        return status
    with _closed_terminal_passed_over():
        if asked.json:
            print(_document(outcome))
        elif outcome.interrupted:
            again = shlex.join(["bptt", "train", "--resume", str(outcome.run), *changed])
            print(f"interrupted at step {outcome.steps}; go on: {again}")
    write_run_report(outcome.run)
    if status or asked.json:
        return status
    folder = RunFolder.open(outcome.run)
    with _closed_terminal_passed_over():
        print(_summary(outcome, "byte" if settings.bytes else "character"))
        for advice in health(folder.read_metrics(), folder.read_settings()):
            print(f"{advice.rule}: {advice.text}")
        if asked.sample:
            _print_sample(outcome, asked.sample, settings.seed)
    return 0


@contextmanager
def _closed_terminal_passed_over() -> Iterator[None]:
    """What is said to a terminal that was closed is lost, and nothing else is."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.EIO or error.filename is not None:
            raise
        # Python flushes stdout once more at exit, and that must not find the terminal.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _document(outcome) -> str:
    valid = None if outcome.valid is None else outcome.valid.as_dict()
    document = {
        "run": str(outcome.run),
        "steps": outcome.steps,
        "seconds": outcome.seconds,
        "tokens_per_second": outcome.tokens / max(outcome.seconds, 1e-9),
        "valid": valid,
    }
    return as_json(document)


def _settings(asked: Train, arguments: list[str]) -> tuple[Settings, str | None, list[str]]:
    """What to train, the run to go on with, and the words that change that run's own settings."""
    if asked.resume is None:
        return _without_ours(asked), None, []

    from bptt.errors import ArgumentError
    from bptt.training.run_folder import RunFolder

    saved = RunFolder.open(asked.resume).read_settings()
    if asked.out is not None and Path(asked.out).resolve() != Path(asked.resume).resolve():
        raise ArgumentError(
            "the run's own --out on --resume", asked.out, "leave it out, or start a new run"
        )
    base = {field.name: getattr(saved, field.name) for field in dataclasses.fields(Settings)}
    given = [b for b in BUDGETS if any(w.split("=")[0] == f"--{b}" for w in arguments)]
    if given:  # a new budget takes the place of the run's own
        base |= dict.fromkeys(BUDGETS) | {given[0]: getattr(asked, given[0])}
    now = parse(Train, "train", arguments, default=Train(**base))
    if asked.files:  # by their place: a name that was the text's may be that of another one here
        now = dataclasses.replace(now, files=tuple(map(os.path.abspath, asked.files)))
    changed = {
        name for name, value in base.items() if name != "out" and getattr(now, name) != value
    }
    if changed - CHANGEABLE:
        flag = "--" + sorted(changed - CHANGEABLE)[0].replace("_", "-")
        raise ArgumentError(
            f"the run's own {flag} on --resume", "another one", "leave it out, or start a new run"
        )
    return _without_ours(now), asked.resume, _changed(now, saved)


def _changed(now: Settings, saved: Settings) -> list[str]:
    words = [] if now.files == saved.files else list(now.files)
    for name in (f.name for f in dataclasses.fields(Settings) if f.name in CHANGEABLE - {"files"}):
        value = getattr(now, name)
        # A budget that is None gave way to another one.
        if value != getattr(saved, name) and (value is not None or name not in BUDGETS):
            words += ["--" + name.replace("_", "-"), str(value)]
    return words


def _without_ours(asked: Train) -> Settings:
    fields = (field.name for field in dataclasses.fields(Settings))
    return Settings(**{name: getattr(asked, name) for name in fields})


def _summary(outcome, unit: str) -> str:
    from bptt.training.progress import fixed

    lines = [
        f"trained {outcome.steps:,} steps, {outcome.tokens:,} tokens in {outcome.seconds:.0f} s "
        f"({outcome.tokens / max(outcome.seconds, 1e-9):,.0f} tokens/s)"
    ]
    if outcome.valid is not None:
        valid, symbols = outcome.valid, outcome.corpus.vocabulary.size
        best = outcome.best_step
        by = "" if best == outcome.steps else f", with the weights of step {best:,}, the best"
        lines.append(
            f"held out: {fixed(valid.bits, 3)} bits per {unit} ({fixed(valid.nats, 3)} nats, "
            f"perplexity {fixed(valid.perplexity, 2)}) over {valid.tokens:,}, in one piece{by}"
        )
        if not valid.nats <= math.log(symbols):  # not a number among them
            lines.append(
                f"that is worse than a guess among {symbols} symbols ({math.log2(symbols):.3f} bits): "
                "the training diverged (lower --lr), or learned its text by heart"
            )
    lines.append(f"run folder: {inline(outcome.run)}")
    return "\n".join(lines)


def _print_sample(outcome, length: int, seed: int) -> None:
    from bptt.cli.sample import write_pieces
    from bptt.models.generate import generate

    print("\nsample:")
    pieces = generate(
        outcome.model, outcome.corpus.vocabulary, length=length, temperature=0.8, seed=seed
    )
    write_pieces(pieces, sys.stdout)
