"""``bptt sample``: continue a prompt with a trained model."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, TextIO

import tyro

from bptt.cli.forecast import continue_series, is_forecast
from bptt.cli.parse import Device, check_run, parse, typed
from bptt.errors import ArgumentError
from bptt.shown.text import as_json, unescaped


@dataclass(frozen=True)
class Sample:
    r"""Continue a prompt: the state is warmed up on it, then the model writes.

    Of a run of bptt forecast: print the values that come next with their intervals, as CSV.

    Example: bptt sample runs/play --prompt "ROMEO:" --length 400 --temperature 0.7
    """

    run: tyro.conf.Positional[str]
    """A run folder."""
    prompt: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    r"""What to continue; \n is a line break, \t a tab, \\ a backslash; default: a line's beginning."""
    length: int | None = None
    """Tokens to write, default 500; of a forecast steps, default all of its horizon."""
    temperature: float = 0.8
    """1 writes what the model believes, less is bolder, 0 takes the most likely token."""
    top_k: int | None = None
    """Choose among the N most likely tokens; default: among all."""
    seed: int | None = None
    """Same seed, same text; default: another one each time."""
    device: Device = "auto"
    """Where the model runs: cpu, cuda, cuda:N or mps. auto: cuda where there is one, else cpu."""
    raw: bool = False
    """Write control characters of prompt and text as they are, for a pipe; otherwise they are shown as
    escapes, which no terminal obeys."""
    json: bool = False
    """Print one JSON document and nothing else on stdout."""

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 0:
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
    if is_forecast(asked.run):
        own = ("prompt", "temperature", "top_k", "seed", "raw")
        changed = [name for name in own if getattr(asked, name) != getattr(Sample, name)]
        if changed:
            flag = "--" + changed[0].replace("_", "-")
            raise ArgumentError(
                f"{flag} with a run of bptt train",
                f"{asked.run}, a run of bptt forecast",
                f"leave {flag} out: a forecast is computed, not drawn",
            )
        continue_series(asked.run, asked.length, asked.device, asked.json)
        return 0
    check_run(asked.run)

    from bptt.models.language import default_prompt, generate
    from bptt.training.restore import load_model

    model, vocabulary, _ = load_model(asked.run, asked.device)
    given = None if asked.prompt is None else typed(asked.prompt)
    prompt = default_prompt(vocabulary) if given is None else given
    pieces = generate(
        model,
        vocabulary,
        prompt,
        length=500 if asked.length is None else asked.length,
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
