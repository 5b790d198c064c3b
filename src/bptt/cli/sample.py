"""``bptt sample``: continue a prompt with a trained model."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TextIO

import tyro

from bptt.cli.parse import parse, typed
from bptt.errors import ArgumentError
from bptt.shown.text import as_json, unescaped


@dataclass(frozen=True)
class Sample:
    r"""Continue a prompt: the state is warmed up on it, then the model writes.

    Example: bptt sample runs/play --prompt "ROMEO:" --length 400 --temperature 0.7
    """

    run: tyro.conf.Positional[str]
    """A run folder."""
    prompt: str | None = None
    r"""What to continue; \n is a line break, \t a tab, \\ a backslash; default: a line's beginning."""
    length: int = 500
    """Tokens to write."""
    temperature: float = 0.8
    """1 writes what the model believes, less is bolder, 0 takes the most likely token."""
    top_k: int | None = None
    """Choose among the k most likely tokens."""
    seed: int | None = None
    """Same seed, same text."""
    device: str = "auto"
    """Where the model runs: cpu, cuda, cuda:N or mps. auto: cuda where there is one, else cpu."""
    raw: bool = False
    """Write control characters of prompt and text as they are, for a pipe; otherwise they are shown as
    escapes, which no terminal obeys."""
    json: bool = False
    """Print one JSON document and nothing else on stdout."""

    def __post_init__(self) -> None:
        if self.length < 0:
            raise ArgumentError("--length >= 0", str(self.length), "ask for 0 or more tokens")
        if not 0 <= self.temperature < float("inf"):
            raise ArgumentError(
                "--temperature of 0 or more", f"{self.temperature:g}", "1 is the plain model"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ArgumentError(
                "--top-k >= 1", str(self.top_k), "leave it out to allow every token"
            )
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise ArgumentError("0 <= --seed < 2^64", str(self.seed), "choose one in that range")
        if self.prompt == "":
            raise ArgumentError(
                "--prompt of at least one character", "an empty one", "leave --prompt out"
            )
        if self.raw and self.json:
            raise ArgumentError(
                "--raw or --json", "both", "leave --raw out: what --json prints is exact"
            )


def run(arguments: list[str]) -> int:
    """Print a continuation as it is generated."""
    asked = parse(Sample, "sample", arguments)

    from bptt.models.language import default_prompt, generate
    from bptt.training.restore import load_model

    model, vocabulary, _ = load_model(asked.run, asked.device)
    given = None if asked.prompt is None else typed(asked.prompt)
    prompt = default_prompt(vocabulary) if given is None else given
    pieces = generate(
        model,
        vocabulary,
        prompt,
        length=asked.length,
        temperature=asked.temperature,
        top_k=asked.top_k,
        seed=asked.seed,
    )
    if asked.json:
        print(as_json({"prompt": prompt, "text": "".join(pieces)}))
        return 0
    out = unescaped(sys.stdout) if asked.raw else sys.stdout
    out.write("" if given is None else given.lstrip("\n"))
    write_pieces(pieces, out)
    return 0


def write_pieces(pieces: Iterable[str], out: TextIO) -> None:
    """Write a text as it is generated."""
    try:
        for piece in pieces:
            out.write(piece)
            out.flush()
    finally:  # an error's line begins on a line of its own
        out.write("\n")
