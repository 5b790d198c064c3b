"""``bptt eval``: score a trained model on a text."""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import dataclass
from typing import Literal

import tyro

from bptt.cli.parse import Device, Files, check_run, check_texts, parse
from bptt.shown.text import as_json, inline


@dataclass(frozen=True)
class Eval:
    """Score a trained model on a text: nats and bits per token, perplexity.

    Every token but the first of a document is predicted from all that stands before it. Without a
    file, the held-out part of the text the run was trained on; that text is found again wherever the
    command is started, and a text that was changed is refused.

    Example: bptt eval runs/play other_play.txt
    """

    run: tyro.conf.Positional[str]
    """A run folder."""
    file: tyro.conf.Positional[str | None] = None
    """The text, whole."""
    text: Files = ()
    """The run's own text, under the names it has now: its held-out part is taken."""
    line_ends: Literal["keep", "unix"] | None = None
    r"""Of FILE: read as they are, or \r\n and \r as \n; default: as those of the run's text."""
    device: Device = "auto"
    """Where the model runs: cpu, cuda, cuda:N or mps. auto: cuda where there is one, else cpu."""
    json: bool = False
    """Print one JSON document and nothing else on stdout."""


def run(arguments: list[str]) -> int:
    """Print a score."""
    asked = parse(Eval, "eval", arguments)
    check_run(asked.run)
    check_texts((asked.file, *asked.text))

    from bptt.cli.text import open_text, shown_reading, unknown_lines
    from bptt.models.language import diverged
    from bptt.training.evaluate import evaluate
    from bptt.training.progress import fixed
    from bptt.training.restore import load_model

    model, vocabulary, settings = load_model(asked.run, asked.device)
    with shown_reading():
        text = open_text(
            "eval", asked.run, settings, vocabulary,
            file=asked.file, own=asked.text, line_ends=asked.line_ends,
        )  # fmt: skip
    score = evaluate(model, text.stream, vocabulary=vocabulary)
    if not math.isfinite(score.nats):
        raise diverged(f"a score of {score.nats} nats")
    again = None if asked.file is None else shlex.join(["bptt", "eval", asked.run, asked.file])
    unknown = unknown_lines(text, again)
    if asked.json:
        print(as_json(score.as_dict() | ({"unknown": text.unknown} if unknown else {})))
        print(*unknown, sep="\n", end="\n" if unknown else "", file=sys.stderr)
        return 0
    unit, each = settings.unit, score.bits_per_character
    also = "" if each is None else f", {fixed(each, 4)} bits per character"
    print(
        f"{inline(text.name)}: {fixed(score.bits, 4)} bits per {unit} "
        f"({fixed(score.nats, 4)} nats, perplexity {fixed(score.perplexity, 3)}){also} "
        f"over {score.tokens:,} {unit}s"
    )
    print(*unknown, sep="\n", end="\n" if unknown else "")
    return 0
