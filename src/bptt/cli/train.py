"""``bptt train``: from texts to a run folder."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from bptt.choices import nearest
from bptt.cli.parse import ESCAPED, File, check_run, check_texts, parse
from bptt.errors import ArgumentError, BpttError
from bptt.files.folder import reason
from bptt.files.read import read_plain
from bptt.shown.text import as_json, inline
from bptt.training.settings import Settings, read_toml, read_word


@dataclass(frozen=True)
class Train(Settings):
    """Train a language model and leave a run folder behind.

    With no file it trains for a minute on the text that every CPython carries.
    Ctrl-C, or closing the terminal, ends the run cleanly; --resume goes on from there.

    Every option may stand in a file too, see --config, or in the environment: BPTT_HIDDEN=64 is
    --hidden 64. The environment is stronger than the file, and the command line than both.

    Example: bptt train shakespeare.txt --cell lstm --hidden 512 --minutes 10 --out runs/play
    """

    groups: ClassVar[dict[str, str]] = {
        "model": "the model",
        "batch": "the gradient through time",
        "init": "start and optimisation",
        "minutes": "how long, and what is looked at on the way",
        "tokens": "how the text is read",
        "seed": "the run and its output",
    }

    resume: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
    """Go on with this run. Its settings hold; give a larger budget to train longer, and FILE where its
    text has another name or place now."""
    config: File = None
    """Settings for a new run from this file, as a run's config.toml has them; any part of one will do."""
    log_to: Literal["tensorboard", "wandb", "mlflow"] | None = None
    """Log to TensorBoard (files in the run folder), Weights & Biases or MLflow as well."""
    sample: int = 300
    """Characters to print from the trained model at the end; 0 for none."""
    json: bool = False
    """Print one JSON document at the end and nothing else on stdout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least("sample", 0)


BUDGETS = ("minutes", "steps", "epochs")
LONGER = 5  # times the budget: what to train on for
NO_SETTINGS = ("BPTT_BACKEND", "BPTT_REQUIRE_NATIVE")  # variables of the package for other things
GUARD = {"--guard": True, "--no-guard": False}
# What a resumed run may change; everything else is part of what was trained so far.
CHANGEABLE = {
    *BUDGETS,
    "device",
    "files",  # the same text under another name, which its fingerprint proves
    "patience",
    "eval_every",
    "log_every",
    "horizon_every",
    "sample_every",
    "keep",
    "threads",
    "clip",
    "lr",
    "on_nonfinite",
    "guard",
}


def run(arguments: list[str]) -> int:
    """Train, and print the score and a sample."""
    given = gather(arguments)
    asked = given.parse()
    check_run(asked.resume)
    settings, resume, changed = _settings(asked, given)
    if resume is None:
        check_texts(settings.files)

    from bptt.cli.text import shown_reading
    from bptt.experiments.judged import judge_outcome
    from bptt.report import write_run_report
    from bptt.training.loop import train
    from bptt.training.progress import TerminalReporter
    from bptt.training.run_folder import RunFolder

    with shown_reading(), ExitStack() as stack:
        reporter: Any = stack.enter_context(TerminalReporter(quiet_stdout=asked.json))
        logged = None
        if asked.log_to is not None:
            from bptt.integrations.loggers import LoggedReporter

            logged = reporter = stack.enter_context(LoggedReporter(reporter, asked.log_to))
        outcome = train(settings, resume=resume, reporter=reporter)
        if logged is not None and outcome.valid is not None and not outcome.rank:
            logged.final(outcome.steps, outcome.valid)
    status = 130 if outcome.interrupted else 0
    if outcome.rank:  # of several processes the first one writes and prints
        return status
    verdict, unjudged = None, ""
    try:
        verdict = judge_outcome(outcome)
    except BpttError as error:  # the run is worth more than its verdict
        unjudged = f"no verdict: {error}"
    if logged is not None and verdict is not None:
        logged.judged(outcome.steps, verdict)
    with _closed_terminal_passed_over():
        if asked.json:
            print(_document(outcome, verdict))
        elif outcome.interrupted:
            again = shlex.join(["bptt", "train", "--resume", str(outcome.run), *changed])
            print(f"interrupted at step {outcome.steps}; go on: {again}")
    write_run_report(outcome.run)
    if status or asked.json:
        return status
    folder = RunFolder.open(outcome.run)
    with _closed_terminal_passed_over():
        print(_summary(outcome, settings.unit, verdict))
        said, command = _judgement(folder, verdict)
        said += [unjudged] if unjudged else []
        if said:
            print(*said, sep="\n")
        if asked.sample:
            _print_sample(outcome, asked.sample, settings.seed)
        print(_next(outcome, folder, command))
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


def _document(outcome, verdict) -> str:
    valid = None if outcome.valid is None else outcome.valid.as_dict()
    document = {
        "run": str(outcome.run),
        "steps": outcome.steps,
        "seconds": outcome.seconds,
        "tokens_per_second": outcome.tokens / max(outcome.seconds, 1e-9),
        "valid": valid,
        "verdict": None if verdict is None else verdict.as_dict(),
    }
    return as_json(document)


@dataclass(frozen=True)
class Given:
    """What was asked for, and where: in a file, in the environment, on the command line.

    Attributes:
        words: those that the file and the environment come to, before those of the command line; of two
            that say the same thing the last one holds.
        files: the file's texts, where the command line names none.
        sources: by setting, where the value was read, for messages.
    """

    words: list[str]
    files: tuple[str, ...]
    sources: dict[str, str]

    def parse(self, default: Train | None = None) -> Train:
        """All of it in one record; a complaint about a value says where that stands."""
        # Of a pair the last one holds; tyro knows the one that changes the default.
        said = [word for word in self.words if word in GUARD]
        words = [word for word in self.words if word not in GUARD]
        try:
            asked = parse(Train, "train", words, default)
        except ArgumentError as error:
            raise self.placed(error) from None
        if said:
            asked = dataclasses.replace(asked, guard=GUARD[said[-1]])
        return (
            asked if asked.files or not self.files else dataclasses.replace(asked, files=self.files)
        )

    def placed(self, error: ArgumentError) -> ArgumentError:
        """The error, with the place of its values where that is not the command line."""
        flags = re.findall(r"--([a-z][a-z-]*)", f"{error.expected} {error.received}")
        named = {self.sources.get(flag.replace("-", "_")) for flag in flags} - {None}
        if not named:
            return error
        where = " and ".join(sorted(map(str, named)))
        return ArgumentError(error.expected, f"{error.received}, from {where}", error.remedy)


def gather(arguments: list[str]) -> Given:
    """The settings of the file that --config names and those of the environment, as words before the
    command line's own.

    Raises:
        ArgumentError: the file cannot be read, or a value in it or in the environment is none.
        RunError: the file has a setting that is not known, or of the wrong type.
    """
    typed = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    budgets = {f"--{budget}" for budget in BUDGETS}
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer, where in ((_from_config(arguments, typed), None), (_from_environment(), "BPTT_")):
        if set(layer) & set(BUDGETS):
            values = {name: value for name, value in values.items() if name not in BUDGETS}
        for name, value in layer.items():
            values[name] = value
            place = _config_of(arguments) if where is None else where + name.upper()
            sources[name] = str(place)
    if typed & budgets:
        values = {name: value for name, value in values.items() if name not in BUDGETS}
    files = tuple(values.pop("files", ()))
    words = []
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        if flag in typed or (name == "guard" and typed & set(GUARD)):
            sources.pop(name, None)
        elif name == "guard":
            words.append(_guard_word(value))
        elif value is not False:
            text = str(value).replace("\\", r"\\") if flag in ESCAPED else str(value)
            words.append(flag if value is True else f"{flag}={text}")
    return Given([*words, *arguments], files, sources)


def _guard_word(value: bool) -> str:
    return next(word for word, meant in GUARD.items() if meant == value)


def _config_of(arguments: list[str]) -> str | None:
    """The file that --config names, known before the options are read."""
    found = None
    for number, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag == "--config":
            found = value if equals else next(iter(arguments[number + 1 :]), None)
    return found


def _from_config(arguments: list[str], typed: set[str]) -> dict[str, Any]:
    file = _config_of(arguments)
    if file is None:
        return {}
    if "--resume" in typed:
        raise ArgumentError(
            "--config or --resume",
            "both",
            "leave --config out: a run goes on with its own settings",
        )
    try:
        text = read_plain(Path(file))
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"a file that can be read for --config {file}",
            reason(error) if isinstance(error, OSError) else str(error),
            "name one that bptt train wrote, RUN/config.toml, or one of your own",
        ) from None
    values = read_toml(text, file)
    own = values.get("out")
    if own is not None and Path(own).resolve() == Path(file).resolve().parent:
        del values["out"]  # a run's own file names its folder, and a new run needs another one
    return values


def _from_environment() -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(Settings)} - {"files"}
    found: dict[str, Any] = {}
    for variable, word in os.environ.items():
        name = variable.removeprefix("BPTT_").lower()
        if not variable.startswith("BPTT_") or not word:
            continue
        if name not in known:
            meant = nearest(name, known)
            if meant is not None and variable not in NO_SETTINGS:
                raise ArgumentError(
                    "a setting in the environment",
                    variable,
                    f"did you mean BPTT_{meant.upper()}?",
                )
            continue  # somebody else's
        try:
            found[name] = read_word(name, word)
        except ValueError as error:
            raise ArgumentError(
                f"{error} in {variable}", f"{word!r:.80}", f"change {variable}, or unset it"
            ) from None
    return found


def _settings(asked: Train, words: Given) -> tuple[Settings, str | None, list[str]]:
    """What to train, the run to go on with, and the words that change that run's own settings."""
    if asked.resume is None:
        return _without_ours(asked), None, []

    from bptt.training.run_folder import RunFolder

    saved = RunFolder.open(asked.resume).read_settings()
    if asked.out is not None and Path(asked.out).resolve() != Path(asked.resume).resolve():
        raise ArgumentError(
            "the run's own --out on --resume", asked.out, "leave it out, or start a new run"
        )
    base = {field.name: getattr(saved, field.name) for field in dataclasses.fields(Settings)}
    given = [b for b in BUDGETS if any(w.split("=")[0] == f"--{b}" for w in words.words)]
    if given:  # a new budget takes the place of the run's own
        base |= dict.fromkeys(BUDGETS) | {given[0]: getattr(asked, given[0])}
    now = words.parse(Train(**base))
    if asked.files:  # by their place: a name that was the text's may be that of another one here
        now = dataclasses.replace(now, files=tuple(map(os.path.abspath, asked.files)))
    changed = {
        name for name, value in base.items() if name != "out" and getattr(now, name) != value
    }
    if changed - CHANGEABLE:
        flag = "--" + sorted(changed - CHANGEABLE)[0].replace("_", "-")
        raise words.placed(
            ArgumentError(
                f"the run's own {flag} on --resume",
                "another one",
                "leave it out, or start a new run",
            )
        )
    return _without_ours(now), asked.resume, _changed(now, saved)


def _changed(now: Settings, saved: Settings) -> list[str]:
    words = [] if now.files == saved.files else list(now.files)
    for name in (f.name for f in dataclasses.fields(Settings) if f.name in CHANGEABLE - {"files"}):
        value = getattr(now, name)
        # A budget that is None gave way to another one.
        if name == "guard" and value != saved.guard:
            words.append(_guard_word(value))
        elif value != getattr(saved, name) and (value is not None or name not in BUDGETS):
            words += ["--" + name.replace("_", "-"), str(value)]
    return words


def _without_ours(asked: Train) -> Settings:
    fields = (field.name for field in dataclasses.fields(Settings))
    return Settings(**{name: getattr(asked, name) for name in fields})


def _summary(outcome, unit: str, verdict) -> str:
    from bptt.training.progress import fixed

    lines = [
        f"trained {outcome.steps:,} steps, {outcome.tokens:,} tokens in {outcome.seconds:.0f} s "
        f"({outcome.tokens / max(outcome.seconds, 1e-9):,.0f} tokens/s)"
    ]
    if outcome.valid is not None:
        valid, symbols = outcome.valid, outcome.corpus.vocabulary.size
        best = outcome.best_step
        each = valid.bits_per_character
        also = "" if each is None else f", {fixed(each, 3)} bits per character"
        by = "" if best == outcome.steps else f", with the weights of step {best:,}, the best"
        lines.append(
            f"held out: {fixed(valid.bits, 3)} bits per {unit} ({fixed(valid.nats, 3)} nats, "
            f"perplexity {fixed(valid.perplexity, 2)}){also} over {valid.tokens:,}, in one piece{by}"
        )
        if not valid.nats <= math.log(symbols):  # not a number among them
            why = "the training diverged (lower --lr), or learned its text by heart"
            if verdict is not None and verdict.word != "diverged":
                why = "it learned what it was trained on, and not this"
            lines.append(
                f"that is worse than a guess among {symbols} symbols ({math.log2(symbols):.3f} bits): "
                f"{why}"
            )
    lines.append(f"run folder: {inline(outcome.run)}")
    return "\n".join(lines)


def _judgement(folder, verdict) -> tuple[list[str], str | None]:
    """The verdict, what to do about it, and what the run's clip did; and the command to type next."""
    from bptt.experiments.judged import whole_text
    from bptt.report.advice import Run, health, next_step
    from bptt.training.restore import names_from_here

    settings, records = folder.read_settings(), list(folder.read_metrics())
    lines, command = [], None
    if verdict is not None:
        files = names_from_here(folder.path, settings)
        step = next_step(
            verdict, Run(str(folder.path), settings, whole_text(records, settings), files)
        )
        lines, command = [f"verdict: {verdict}", step.text], step.command
    return lines + [
        f"{advice.rule}: {advice.text}" for advice in health(records, settings)
    ], command


def _next(outcome, folder, command: str | None) -> str:
    """Where its page is, the one command to type next, and what else can be done with the run; commands
    stand alone on their lines, so that a terminal that wraps them loses nothing."""
    settings, run = folder.read_settings(), str(outcome.run)
    ways = [("let it write", ["sample", run])]
    if settings.model == "recurrent":
        ways.append(("see how far back it learns", ["diagnose", run]))
    if command is None:
        budget = next(name for name in BUDGETS if getattr(settings, name) is not None)
        more = f"{LONGER * getattr(settings, budget):g}"
        ways.append(("train it longer", ["train", "--resume", run, f"--{budget}", more]))
    lines = [f"\nreport: {inline(folder.path / 'report.html')}"]
    lines += ["next:"] if command is None else [f"next: {command}", "also:"]
    for what, words in ways:
        lines += [f"  {what}:", f"    {inline(shlex.join(['bptt', *words]))}"]
    return "\n".join(lines)


def _print_sample(outcome, length: int, seed: int) -> None:
    from bptt.cli.sample import write_pieces
    from bptt.models.language import generate

    print("\nsample:")
    pieces = generate(
        outcome.model, outcome.corpus.vocabulary, length=length, temperature=0.8, seed=seed
    )
    write_pieces(pieces, sys.stdout)
