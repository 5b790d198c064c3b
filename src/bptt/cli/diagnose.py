"""``bptt diagnose``: how far back a trained model learns, and what would help."""

from __future__ import annotations

import json
from dataclasses import dataclass

import tyro

from bptt.cli.parse import parse


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
    steps: int = 256
    """Length of a measured sequence."""
    lanes: int = 16
    """Sequences measured side by side."""
    seed: int = 0
    """Which places of the text."""
    html: str | None = None
    """Write a page with pictures here."""
    json: bool = False
    """Print one JSON document and nothing else on stdout."""


def run(arguments: list[str]) -> int:
    """Print a diagnosis."""
    asked = parse(Diagnose, "diagnose", arguments)

    from bptt.cli.text import open_text, shown_reading
    from bptt.data import RandomChunks
    from bptt.diagnosis import diagnose
    from bptt.errors import ArgumentError
    from bptt.models import token_loss
    from bptt.report import document, own_k, show, write_run_report
    from bptt.training.restore import load_model

    for name, least in (("steps", 2), ("lanes", 1), ("seed", 0)):
        value = getattr(asked, name)
        if value < least:
            raise ArgumentError(f"--{name} of at least {least}", str(value), f"change --{name}")
    model, vocabulary, settings = load_model(asked.run)
    if settings.model != "recurrent":
        raise ArgumentError(
            "a run of a recurrent model",
            f"one of --model {settings.model}, which has no gradient through time",
            "diagnose a run of bptt train --model recurrent",
        )
    with shown_reading():
        stream, what, _ = open_text(asked.file, settings, vocabulary)
    chunk = RandomChunks(*stream, batch=asked.lanes, chunk=asked.steps, seed=asked.seed).take()
    found = diagnose(model, (chunk.inputs, chunk.targets), token_loss, k=own_k(settings))
    if asked.html is not None:
        write_run_report(asked.run, found, asked.html)
    if asked.json:
        print(json.dumps(document(found)))
        return 0
    print(f"{what}: {asked.lanes} places of {asked.steps} steps\n")
    show(found)
    if asked.html is not None:
        print(f"\npage: {asked.html}")
    return 0
