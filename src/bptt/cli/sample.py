"""``bptt sample``: continue a prompt with a trained model."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import tyro

from bptt.cli.parse import parse


@dataclass(frozen=True)
class Sample:
    r"""Continue a prompt: the state is warmed up on it, then the model writes.

    Example: bptt sample runs/play --prompt "ROMEO:" --length 400 --temperature 0.7
    """

    run: tyro.conf.Positional[str]
    """A run folder."""
    prompt: str = "\n"
    r"""What to continue; \n is a line break, \t a tab, \\ a backslash."""
    length: int = 500
    """Tokens to write."""
    temperature: float = 0.8
    """1 writes what the model believes, less is bolder, 0 takes the most likely token."""
    top_k: int | None = None
    """Choose among the k most likely tokens."""
    seed: int | None = None
    """Same seed, same text."""
    json: bool = False
    """Print one JSON document and nothing else on stdout."""


def run(arguments: list[str]) -> int:
    """Print a continuation as it is generated."""
    asked = parse(Sample, "sample", arguments)

    from bptt.generation import generate
    from bptt.training.restore import load_model

    model, vocabulary, _ = load_model(asked.run)
    pieces = generate(
        model,
        vocabulary,
        asked.prompt,
        length=asked.length,
        temperature=asked.temperature,
        top_k=asked.top_k,
        seed=asked.seed,
    )
    if asked.json:
        print(json.dumps({"prompt": asked.prompt, "text": "".join(pieces)}))
        return 0
    sys.stdout.write(asked.prompt.lstrip("\n"))
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()
    return 0
