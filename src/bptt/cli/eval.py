"""``bptt eval``: score a trained model on a text."""

from __future__ import annotations

import json
from dataclasses import dataclass

import tyro

from bptt.cli.parse import parse


@dataclass(frozen=True)
class Eval:
    """Score a trained model on a text: nats and bits per token, perplexity.

    Every token but the first of a document is predicted from all that stands before it. Without a
    file, the held-out part of the text the run was trained on.

    Example: bptt eval runs/play other_play.txt
    """

    run: tyro.conf.Positional[str]
    """A run folder."""
    file: tyro.conf.Positional[str | None] = None
    """The text, whole."""
    json: bool = False
    """Print one JSON document and nothing else on stdout."""


def run(arguments: list[str]) -> int:
    """Print a score."""
    asked = parse(Eval, "eval", arguments)

    from bptt.cli.text import open_text, shown_reading
    from bptt.training.evaluate import evaluate
    from bptt.training.restore import load_model

    model, vocabulary, settings = load_model(asked.run)
    with shown_reading():
        stream, what, unknown = open_text(asked.file, settings, vocabulary)
    score = evaluate(model, stream)
    if asked.json:
        print(json.dumps(score.as_dict()))
        return 0
    unit = "byte" if settings.bytes else "character"
    print(
        f"{what}: {score.bits:.4f} bits per {unit} ({score.nats:.4f} nats, "
        f"perplexity {score.perplexity:.3f}) over {score.tokens:,} {unit}s"
    )
    if unknown:
        print(f"{unknown:,} of them are unknown to the model and scored as one symbol")
    return 0
