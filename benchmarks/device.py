"""Flash, RAM and instructions per step of exported networks on emulated Cortex-M; a Markdown table.

.venv/bin/python benchmarks/device.py [--hidden 32] [--run RUN]

Needs gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm. Each network's own example runs
on the board first and must agree with Python, or there is no row.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

import bptt
from bptt.errors import RunError
from bptt.export.cost import CLOCKS, measure_on_board


@dataclass(frozen=True)
class Sizes:
    """What to measure."""

    hidden: int = 32
    """H of the RNN, GRU and LSTM; the input has one feature."""
    run: str | None = None
    """Measure a trained language model, too."""


def rows(title: str, module: torch.nn.Module, example: torch.Tensor, base: Path) -> None:
    """Both precisions on both boards."""
    for precision in ("float32", "int8"):
        folder = base / f"{title.replace(' ', '')}-{precision}"
        export = bptt.export_c(module, example, folder, name="net", precision=precision)
        for board in CLOCKS:
            try:
                cost = measure_on_board(export, board, folder / "build")
            except RunError as error:
                if "overflowed" not in str(error):
                    raise
                print(f"| {title} | {precision} | {board} | more than the board has | | |")
                continue
            print(
                f"| {title} | {precision} | {board} | {cost.flash} | {cost.state} + {cost.stack} | "
                f"{cost.instructions:,} |"
            )


def main(asked: Sizes) -> None:
    """Measure and print."""
    torch.manual_seed(0)
    print("| network | numbers | core | flash, bytes | RAM: state + stack | instructions a step |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("RNN", "GRU", "LSTM"):
            module = getattr(torch.nn, kind)(1, asked.hidden)
            rows(f"{kind} {asked.hidden}", module, torch.randn(1000, 1, 1), Path(folder))
        if asked.run is not None:
            from bptt.training.restore import load_model

            model, _, _ = load_model(asked.run)
            tokens = torch.randint(model.vocabulary_size, (1000, 1))
            rows("language model", model, tokens, Path(folder))


if __name__ == "__main__":
    main(tyro.cli(Sizes, description=__doc__))
