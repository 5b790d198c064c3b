"""Flash, RAM and instructions per step of exported networks on emulated Cortex-M; a Markdown table.

.venv/bin/python benchmarks/device.py [--hidden 32] [--run RUN]

Needs gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm. Each network's own example runs
on the board first and must agree with Python, or there is no row. Instructions are SysTick's under
``-icount shift=0``; a real core takes one cycle for most of them and more for loads and divisions.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

import bptt

DEVICE = Path(__file__).parents[1] / "examples" / "device"
# Instructions a tick: QEMU's clocks are 25 MHz (mps2-an386) and 16 MHz (microbit), a nanosecond each.
BOARDS = {"cortex-m4f": 40.0, "cortex-m0": 62.5}


@dataclass(frozen=True)
class Sizes:
    """What to measure."""

    hidden: int = 32
    """H of the RNN, GRU and LSTM; the input has one feature."""
    run: str | None = None
    """Measure a trained language model, too."""


def make(*words: str) -> str:
    """Call the Makefile of the examples."""
    command = ["make", "-s", "-C", str(DEVICE), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def rows(title: str, module: torch.nn.Module, example: torch.Tensor, base: Path) -> None:
    """Both precisions on both boards."""
    for precision in ("float32", "int8"):
        folder = base / f"{title.replace(' ', '')}-{precision}"
        export = bptt.export_c(module, example, folder, name="net", precision=precision)
        ram = re.search(r"\(RAM\)\s+(\d+)", export.files["net.h"]).group(1)
        stack = re.search(r"about (\d+)", export.files["net.h"]).group(1)
        for board, per_tick in BOARDS.items():
            settings = [f"MODEL={folder}", "NAME=net", f"BOARD={board}"]
            build = folder / board
            try:
                out = make("run", *settings, f"BUILD={build}")
            except subprocess.CalledProcessError as error:
                if "overflowed" not in error.stderr:
                    raise
                print(f"| {title} | {precision} | {board} | more than the board has | | |")
                continue
            if not out.startswith("ok"):
                raise SystemExit(f"{title} {precision} on {board} is not what Python computes")
            flash = make("size", *settings, f"BUILD={build}").splitlines()[1].split()[0]
            tokens = export.network.tokens
            names = {
                "HEADER": '\\"net.h\\"',
                "NAME": "net",
                "ELEMENT": "float" if precision == "float32" else "int8_t",
                "INPUT": export.network.input_size,
                "OUTPUT": export.network.output_size,
            } | ({"TOKENS": f"{tokens}U"} if tokens else {})
            defines = "DEFINES=" + " ".join(f"-D{k}={v}" for k, v in names.items())
            program = f"PROGRAM={DEVICE / 'measure.c'}"
            out = make("run", *settings, f"BUILD={build}-count", program, defines)
            ticks, steps = re.match(r"(\d+) ticks for (\d+)", out).groups()
            count = round(int(ticks) * per_tick / int(steps))
            print(f"| {title} | {precision} | {board} | {flash} | {ram} + {stack} | {count:,} |")


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
