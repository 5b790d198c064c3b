"""``bptt diagnose``: how far back a trained model learns, and what would help."""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import tyro

from bptt.cli.parse import Device, File, Files, check_place, check_run, parse
from bptt.shown.text import as_json, inline


@dataclass(frozen=True)
class Diagnose:
    """Measure how far back a trained model's gradient reaches, and what its truncation costs.

    Takes places of a text at random, follows the gradient of every prediction back through time, and
    prints one verdict, its reason, how sure it is, and the command to type next. Without a file, the
    held-out part of the text the run was trained on.

    Example: bptt diagnose runs/play --html play.html
    """

    run: tyro.conf.Positional[str]
    """A run folder."""
    file: tyro.conf.Positional[str | None] = None
    """The text, whole."""
    text: Files = ()
    """The run's own text, under the names it has now: its held-out part is taken."""
    line_ends: Literal["keep", "unix"] | None = None
    r"""Of FILE: read as they are, or \r\n and \r as \n; default: as those of the run's text."""
    steps: int | None = None
    """Length of a measured sequence; default three times the run's k, from 64 to 256, less in a short
    text."""
    lanes: int = 16
    """Sequences measured, in four batches."""
    seed: int = 0
    """Which places of the text."""
    html: File = None
    """Write a page with pictures here."""
    try_for: Annotated[float, tyro.conf.arg(metavar="MINUTES")] = 0.0
    """Minutes, in all, to train fresh copies of the model for, each with one remedy (start, cell, clip,
    k) and from three starts, on the same text: 5 rank them for a model of the default size."""
    device: Device = "auto"
    """Where the model runs: cpu, cuda or cuda:N. auto: cuda where there is one, else cpu."""
    json: bool = False
    """Print one JSON document and nothing else on stdout."""


def run(arguments: list[str]) -> int:
    """Print a diagnosis."""
    asked = parse(Diagnose, "diagnose", arguments)
    check_run(asked.run)

    from bptt.cli.text import open_text, shown_reading, unknown_lines
    from bptt.errors import ArgumentError
    from bptt.experiments.judged import diagnose_run, steps_for, whole_text
    from bptt.files.memory import require
    from bptt.models.language import diverged, read_piece
    from bptt.ops.device import choose
    from bptt.report import document, show, write_run_report
    from bptt.report.advice import Run, next_step
    from bptt.training.restore import load_model, names_from_here
    from bptt.training.run_folder import RunFolder

    for name, least in (("steps", 2), ("lanes", 1), ("seed", 0), ("try_for", 0)):
        value = getattr(asked, name)
        if value is not None and not value >= least:
            word = name.replace("_", "-")
            raise ArgumentError(f"--{word} of at least {least}", str(value), f"change --{word}")
    check_place(asked.html)
    device = choose(asked.device)
    if device.type == "mps":
        raise ArgumentError(
            "--device cpu or cuda, which have float64", "--device mps", "use --device cpu"
        )
    model, vocabulary, settings = load_model(asked.run, device)
    if settings.model != "recurrent":
        raise ArgumentError(
            "a run of a recurrent model",
            f"one of --model {settings.model}, which has no gradient through time",
            "diagnose a run of bptt train --model recurrent",
        )
    with shown_reading():
        text = open_text(
            "diagnose", asked.run, settings, vocabulary,
            file=asked.file, own=asked.text, line_ends=asked.line_ends,
        )  # fmt: skip
    stream = text.stream
    steps = steps_for(settings, len(stream.tokens)) if asked.steps is None else asked.steps
    if len(stream.tokens) <= steps:
        raise ArgumentError(
            f"--steps below the {len(stream.tokens)} tokens of {text.name}",
            str(steps),
            "lower --steps, or name a longer text",
        )
    sizes = f"--lanes {asked.lanes} and --steps {steps}"
    require(16 * asked.lanes * (steps + 1), sizes, "lower them")
    records = list(RunFolder.open(asked.run).read_metrics())
    found = diagnose_run(
        model, settings, stream, records, steps=steps, lanes=asked.lanes, seed=asked.seed
    )
    if not math.isfinite(found.loss):
        raise diverged(f"a loss of {found.loss}")
    found = replace(found, reading=read_piece(model, vocabulary, stream, seed=asked.seed))
    if asked.try_for > 0:
        found = replace(
            found, trials=_tried(asked, steps, settings, vocabulary.size, stream, device)
        )
    files = asked.text or names_from_here(asked.run, settings)
    known = Run(asked.run, settings, whole_text(records, settings), files)
    step = next_step(found.verdict, known)
    if asked.html is not None:
        write_run_report(asked.run, found, asked.html)
    again = None if asked.file is None else shlex.join(["bptt", "diagnose", asked.run, asked.file])
    unknown = unknown_lines(text, again)
    if asked.json:
        print(as_json(document(found, step)))
        print(*unknown, sep="\n", end="\n" if unknown else "", file=sys.stderr)
        return 0
    parts = len(found.spectra)
    batches = "one batch" if parts == 1 else f"{parts} batches"
    print(f"{inline(text.name)}: {asked.lanes} places of {steps} steps, in {batches}")
    print(*unknown, sep="\n", end="\n\n" if unknown else "\n")
    show(found, step=step)
    if asked.html is not None:
        print(f"\npage: {inline(asked.html)}")
    return 0


STARTS = 3  # of each remedy
LONGER = 1.3  # what the remedies take, all in all, beside as many of the model as it is


def _tried(asked: Diagnose, steps: int, settings: Any, size: int, stream: Any, device: Any) -> Any:
    """The remedies, each trained on places of the same text at random."""
    from rich.progress import Progress

    from bptt.data import RandomChunks
    from bptt.experiments.judged import places
    from bptt.experiments.trials import run_variants, try_remedies
    from bptt.models import token_loss
    from bptt.report import own_k
    from bptt.shown.console import Console

    measured = places(stream, steps, lanes=asked.lanes, seed=asked.seed, device=device)[0]
    variants = run_variants(settings, size, steps=steps, k=own_k(settings), device=device)
    batch = min(settings.lanes, len(stream[0]) // steps or 1)
    chunks = RandomChunks(*stream, batch=batch, chunk=steps, seed=asked.seed + 1)
    taken: list[tuple[Any, Any]] = []

    def batches(place: int) -> tuple[Any, Any]:
        while len(taken) <= place:
            chunk = chunks.take().to(device)
            taken.append((chunk.inputs, chunk.targets))
        return taken[place]

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("trying remedies", total=len(variants))
        return try_remedies(
            variants,
            batches,
            measured,
            token_loss,
            seconds=60 * asked.try_for / (STARTS * len(variants) * LONGER),
            starts=STARTS,
            optimizer=partial(_optimizer, settings),
            seed=settings.seed,
            done=lambda trial: progress.advance(bar),
        )


def _optimizer(settings: Any, model: Any) -> Any:
    """The run's own, at its peak rate."""
    from bptt.training.build import build_optimizer

    return build_optimizer(settings, model)
