"""``bptt diagnose``: how far back a trained model learns, and what would help."""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import tyro

from bptt.cli.parse import check_place, parse
from bptt.shown.text import as_json, inline


@dataclass(frozen=True)
class Diagnose:
    """Measure how far back a trained model's gradient reaches, and what its truncation costs.

    Takes places of a text at random, follows the gradient of every prediction back through time, and
    prints horizon, bias, verdict and advice. Without a file, the held-out part of the text the run
    was trained on.

    Example: bptt diagnose runs/play --html play.html
    """

    run: tyro.conf.Positional[str]
    """A run folder."""
    file: tyro.conf.Positional[str | None] = None
    """The text, whole."""
    text: tuple[str, ...] = ()
    """The run's own text, under the names it has now: its held-out part is taken."""
    line_ends: Literal["keep", "unix"] | None = None
    r"""Of FILE: read as they are, or \r\n and \r as \n; default: as those of the run's text."""
    steps: int = 256
    """Length of a measured sequence."""
    lanes: int = 16
    """Sequences measured side by side."""
    seed: int = 0
    """Which places of the text."""
    html: str | None = None
    """Write a page with pictures here."""
    try_for: float = 2.0
    """Seconds to train fresh copies of the model for, each with one remedy (start, cell, clip, k), on
    the run's own text; 0: try none."""
    device: str = "auto"
    """Where the model runs: cpu, cuda or cuda:N. auto: cuda where there is one, else cpu."""
    json: bool = False
    """Print one JSON document and nothing else on stdout."""


def run(arguments: list[str]) -> int:
    """Print a diagnosis."""
    asked = parse(Diagnose, "diagnose", arguments)

    from bptt.cli.text import open_text, shown_reading, unknown_lines
    from bptt.data import RandomChunks
    from bptt.errors import ArgumentError
    from bptt.files.memory import require
    from bptt.models import token_loss
    from bptt.models.language import diverged, read_piece
    from bptt.ops.device import choose
    from bptt.probes.diagnose import diagnose
    from bptt.report import document, own_k, show, write_run_report
    from bptt.training.restore import load_model

    for name, least in (("steps", 2), ("lanes", 1), ("seed", 0), ("try_for", 0)):
        value = getattr(asked, name)
        if not value >= least:
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
    if len(stream.tokens) <= asked.steps:
        raise ArgumentError(
            f"--steps below the {len(stream.tokens)} tokens of {text.name}",
            str(asked.steps),
            "lower --steps, or name a longer text",
        )
    sizes = f"--lanes {asked.lanes} and --steps {asked.steps}"
    require(16 * asked.lanes * (asked.steps + 1), sizes, "lower them")
    chunk = RandomChunks(*stream, batch=asked.lanes, chunk=asked.steps, seed=asked.seed).take()
    chunk = chunk.to(device)
    found = diagnose(model, (chunk.inputs, chunk.targets), token_loss, k=own_k(settings))
    if not math.isfinite(found.loss):
        raise diverged(f"a loss of {found.loss}")
    found = replace(found, reading=read_piece(model, vocabulary, stream, seed=asked.seed))
    if asked.try_for > 0:
        found = replace(found, trials=_tried(asked, settings, vocabulary.size, stream, chunk))
    if asked.html is not None:
        write_run_report(asked.run, found, asked.html)
    again = None if asked.file is None else shlex.join(["bptt", "diagnose", asked.run, asked.file])
    unknown = unknown_lines(text, again)
    if asked.json:
        print(as_json(document(found)))
        print(*unknown, sep="\n", end="\n" if unknown else "", file=sys.stderr)
        return 0
    print(f"{inline(text.name)}: {asked.lanes} places of {asked.steps} steps")
    print(*unknown, sep="\n", end="\n\n" if unknown else "\n")
    show(found)
    if asked.html is not None:
        print(f"\npage: {inline(asked.html)}")
    return 0


def _tried(asked: Diagnose, settings: Any, size: int, stream: Any, measured: Any) -> Any:
    """The remedies, each trained on places of the same text at random."""
    from rich.progress import Progress

    from bptt.data import RandomChunks
    from bptt.experiments.trials import run_variants, try_remedies
    from bptt.models import token_loss
    from bptt.report import own_k
    from bptt.shown.console import Console

    variants = run_variants(
        settings, size, steps=asked.steps, k=own_k(settings), device=measured.inputs.device
    )
    batch = min(settings.lanes, len(stream[0]) // asked.steps or 1)
    chunks = RandomChunks(*stream, batch=batch, chunk=asked.steps, seed=asked.seed + 1)
    taken: list[tuple[Any, Any]] = []

    def batches(place: int) -> tuple[Any, Any]:
        while len(taken) <= place:
            chunk = chunks.take().to(measured.inputs.device)
            taken.append((chunk.inputs, chunk.targets))
        return taken[place]

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("trying remedies", total=len(variants))
        return try_remedies(
            variants,
            batches,
            (measured.inputs, measured.targets),
            token_loss,
            seconds=asked.try_for,
            optimizer=partial(_optimizer, settings),
            seed=settings.seed,
            done=lambda trial: progress.advance(bar),
        )


def _optimizer(settings: Any, model: Any) -> Any:
    """The run's own, at its peak rate."""
    from bptt.training.build import build_optimizer

    return build_optimizer(settings, model)
