"""``bptt eval``: score a trained model on a text."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tyro

from bptt.cli.parse import parse
from bptt.shown import as_json, inline


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
    from bptt.training.evaluate import diverged, evaluate
    from bptt.training.progress import fixed
    from bptt.training.restore import load_model

    model, vocabulary, settings = load_model(asked.run)
    with shown_reading():
        stream, what, unknown = open_text(asked.file, settings, vocabulary)
    score = evaluate(model, stream)
    if not math.isfinite(score.nats):
        raise diverged(f"a score of {score.nats} nats")
    if asked.json:
        print(as_json(score.as_dict()))
        return 0
    unit = "byte" if settings.bytes else "character"
    print(
        f"{inline(what)}: {fixed(score.bits, 4)} bits per {unit} "
        f"({fixed(score.nats, 4)} nats, perplexity {fixed(score.perplexity, 3)}) "
        f"over {score.tokens:,} {unit}s"
    )
    if unknown:
        print(f"{unknown:,} of them are unknown to the model and scored as one symbol")
    return 0
