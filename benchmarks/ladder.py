"""The ladder of language models on one text for the same time each; prints a Markdown table.

.venv/bin/python benchmarks/ladder.py [--minutes 1] [FILE ...]
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from bptt.models import CountModel
from bptt.training import Settings, train

RUNGS: dict[str, dict] = {
    "bigram table": {"model": "bigram"},
    "6-gram table": {"model": "ngram"},
    "MLP over a window of 8": {"model": "window"},
    "RNN": {"cell": "rnn", "lr": 0.002},
    "GRU": {"cell": "gru"},
    "LSTM": {"cell": "lstm"},
    "attention over 64, 3 layers": {"model": "attention", "lr": 0.002},
}


@dataclass(frozen=True)
class Ladder:
    """What to run."""

    files: tyro.conf.Positional[tuple[str, ...]] = ()
    """Texts; default: the one that every CPython carries."""
    minutes: float = 1.0
    """Training time of each trained model."""


def main(asked: Ladder) -> None:
    """Train every rung and print its held-out score."""
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {asked.minutes:g} min each\n"
    )
    print("| model | parameters | bits per character | tokens/s | steps |")
    print("|---|--:|--:|--:|--:|")
    for name, changes in RUNGS.items():
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(
                files=asked.files, minutes=asked.minutes, out=str(Path(folder) / "run"), **changes
            )
            outcome = train(settings)
        model = outcome.model
        counted = isinstance(model, CountModel)
        size = model.entries if counted else sum(p.numel() for p in model.parameters())
        speed = "" if counted else f"{outcome.tokens / outcome.seconds:,.0f}"
        bits = "" if outcome.valid is None else f"{outcome.valid.bits:.3f}"
        print(f"| {name} | {size:,} | {bits} | {speed} | {outcome.steps or ''} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Ladder))
