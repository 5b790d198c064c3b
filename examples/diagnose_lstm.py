"""Somebody's LSTM does not learn: what its gradient says, what helps, and what changed.

python examples/diagnose_lstm.py

A classifier in plain PyTorch: which of four symbols stood first in a sequence of sixty. It stays at
chance. Three lines around one training step say why, one line changes it.
"""

from __future__ import annotations

import textwrap

import torch
from torch import nn

import bptt
from bptt.remedies import start_chrono

STEPS, SYMBOLS, UPDATES = 60, 4, 300


class Theirs(nn.Module):
    """As it was handed over: nothing of this package in it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, 16)
        self.lstm = nn.LSTM(16, 48, batch_first=True)
        self.out = nn.Linear(48, SYMBOLS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits from the last step."""
        return self.out(self.lstm(self.embedding(x))[0][:, -1])


def batch(generator: torch.Generator, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Random symbols, and the first of each sequence."""
    x = torch.randint(SYMBOLS, (size, STEPS), generator=generator)
    return x, x[:, 0]


def train(model: nn.Module) -> float:
    """Their training loop; the share of right answers on fresh sequences."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(UPDATES):
        x, label = batch(generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), label).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        x, label = batch(torch.Generator().manual_seed(2), 500)
        return float((model(x).argmax(-1) == label).double().mean())


def look(model: nn.Module) -> None:
    """Watch one step: three lines around what is there already."""
    x, label = batch(torch.Generator().manual_seed(3))
    with bptt.watch(model) as flow:
        nn.functional.cross_entropy(model(x), label).backward()
    model.zero_grad()
    first, last = float(flow.spectrum.norms[STEPS - 1]), float(flow.spectrum.norms[0])
    print(f"  horizon {flow.horizon} of {STEPS} steps, decay {flow.decay:.3f} a step")
    share = f"{first / last:.1e}" if first else "less than rounding"
    print(f"  of the gradient at the last symbol, what is left at the first: {share}")
    print(textwrap.fill(flow.explain(), 96, initial_indent="  ", subsequent_indent="  "))


def main() -> None:
    """As it was, and with the one line."""
    torch.set_num_threads(1)
    for title, remedy in (("as it was", None), (f"start_chrono(model, {STEPS})", start_chrono)):
        torch.manual_seed(0)
        model = Theirs()
        if remedy is not None:
            remedy(model, STEPS)
        bptt.convert(model)  # the same weights and results, compiled: it only makes this quicker
        print(f"{title}, before training:")
        look(model)
        print(f"after {UPDATES} updates: {train(model):.1%} right (chance {1 / SYMBOLS:.0%})\n")


if __name__ == "__main__":
    main()
