"""Where a training step of the character model spends its time; prints a Markdown table.

.venv/bin/python benchmarks/profile_step.py [--cell gru] [--hidden 128] [--steps 64] [--batch 32]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import tyro
from torch.profiler import ProfilerActivity, profile

from bptt.models import LanguageModel, token_loss
from bptt.remedies import clip_norm

SYMBOLS = 96
# Names of torch's own events, by the part of the step they belong to; the first that fits counts.
PARTS = {
    "recurrence and its gradient": ("bptt::recur", "GeneratedBackwardFor_bptt", "Direct"),
    "softmax and cross-entropy": ("log_softmax", "nll_loss"),
    "optimiser": ("adamw",),
    "clipping": ("norm", "aten::mul_", "foreach"),
    "matrix products": ("aten::mm", "aten::addmm"),
}


@dataclass(frozen=True)
class Step:
    """Which step."""

    cell: str = "gru"
    hidden: int = 128
    steps: int = 64
    batch: int = 32
    updates: int = 100


def part_of(name: str) -> str:
    """The part of the step that an event belongs to."""
    for part, marks in PARTS.items():
        if any(mark in name for mark in marks):
            return part
    return "everything else"


def main(asked: Step) -> None:
    """Profile some updates and print each part's share."""
    torch.manual_seed(0)
    model = LanguageModel(SYMBOLS, asked.cell, asked.hidden)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    text = torch.randint(SYMBOLS, (asked.steps + 1, asked.batch))

    def update() -> None:
        value = token_loss(model(text[:-1])[0], text[1:])
        value.backward()
        clip_norm(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(10):
        update()
    with profile(activities=[ProfilerActivity.CPU]) as measured:
        for _ in range(asked.updates):
            update()
    shares: dict[str, float] = {}
    for event in measured.key_averages():
        part = part_of(event.key)
        shares[part] = shares.get(part, 0.0) + event.self_cpu_time_total
    total = sum(shares.values())
    print(f"{asked.cell}, H={asked.hidden}, B={asked.batch}, T={asked.steps}, V={SYMBOLS}, "
          f"{total / asked.updates / 1e3:.2f} ms an update\n")  # fmt: skip
    print("| part of an update | share |\n|---|---|")
    for part, spent in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"| {part} | {spent / total:.1%} |")


if __name__ == "__main__":
    main(tyro.cli(Step))
