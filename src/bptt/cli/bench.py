"""``bptt bench``: our layers beside torch's, equal results checked first."""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from bptt.cli.parse import parse
from bptt.errors import ArgumentError
from bptt.files.memory import MOST_THREADS, require
from bptt.shown.text import as_json

Cell: TypeAlias = Literal["rnn", "gru", "lstm"]
Mode: TypeAlias = Literal["train", "infer", "packed", "reset", "stream", "model"]
Peer: TypeAlias = Literal["torch", "jax", "onnxruntime", "openvino"]


@dataclass(frozen=True)
class Bench:
    """Measure our layers beside torch's, and those of JAX, ONNX Runtime and OpenVINO where installed.

    Outputs and all gradients are compared first; unequal ones end the run, and no time is reported.
    Then both sides run in turns; a ratio above 1 means that ours is faster.

    Example: bptt bench --cells gru --hidden 128 --modes train
    """

    groups: ClassVar[dict[str, str]] = {
        "cells": "what is measured",
        "batch": "how",
        "json": "output",
    }

    cells: tuple[Cell, ...] = ("rnn", "gru", "lstm")
    """Which layers; rnn is the one with tanh."""
    hidden: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    """Hidden sizes; inputs are as wide."""
    modes: tuple[Mode, ...] = ("train", "infer", "packed", "reset", "stream", "model")
    """train: forward and backward. infer: no gradient. packed: lengths from T/2 to T. reset: states
    reset inside the batch. stream: one step, one lane. model: a character model's whole update."""
    peer: tuple[Peer, ...] = ("torch",)
    """Beside whom. jax runs train and infer of rnn and gru, onnxruntime and openvino infer and stream."""
    batch: int = 32
    """Sequences in a batch."""
    steps: int = 100
    """Time steps of a sequence."""
    threads: int | None = None
    """Threads to run on; default: torch's own choice."""
    seconds: float = 2.0
    """Time budget of a row; large sizes take longer."""
    seed: int = 0
    """Of weights and inputs."""
    json: bool = False
    """Print one JSON document and nothing else on stdout."""

    def __post_init__(self) -> None:
        for name in ("cells", "hidden", "modes", "peer"):
            if not getattr(self, name):
                raise ArgumentError(f"at least one value for --{name}", "none", "name one")
        sizes = [("hidden", h) for h in self.hidden]
        sizes += [("batch", self.batch), ("steps", self.steps), ("threads", self.threads or 1)]
        if self.threads == 0:
            sizes.append(("threads", 0))
        for name, value in sizes:
            if value < 1:
                raise ArgumentError(f"--{name} >= 1", str(value), "give a positive number")
        if (self.threads or 1) > MOST_THREADS:
            raise ArgumentError(f"--threads <= {MOST_THREADS}", str(self.threads), "lower it")
        largest = max(self.hidden)
        require(
            4 * largest * (2 * largest + 2 * self.batch * self.steps),
            f"--hidden {largest} --batch {self.batch} --steps {self.steps}",
            "lower them",
        )
        if not 0 < self.seconds < float("inf"):
            raise ArgumentError("--seconds above 0", f"{self.seconds:g}", "give a time budget")
        if not 0 <= self.seed < 2**63:
            raise ArgumentError("--seed from 0 to 2^63 - 1", str(self.seed), "pick another one")


def run(arguments: list[str]) -> int:
    """Measure every row and print them."""
    asked = parse(Bench, "bench", arguments)

    import torch

    from bptt import ops
    from bptt.experiments.benchmark import machine_name

    before = torch.get_num_threads()
    try:
        if asked.threads is not None:
            torch.set_num_threads(asked.threads)
        rows = _measure(asked)
    finally:
        torch.set_num_threads(before)
    document = {
        "machine": machine_name(),
        "matmul_gflops": statistics.median(row["matmul_gflops"] for row in rows),
        "backend": str(ops.backend()),
        "seed": asked.seed,
        "rows": rows,
    }
    if asked.json:
        print(as_json(document))
    else:
        _print_tables(document)
    return 0


def _measure(asked: Bench) -> list[dict[str, Any]]:
    """All rows; what a peer does not have is said on stderr."""
    from bptt.experiments.benchmark import Case, measure, require, supports
    from bptt.shown.console import Count

    for peer in asked.peer:  # known now, or only after minutes of measuring
        require(peer)
    cases = [
        Case(cell, hidden, asked.batch, asked.steps, mode, peer, asked.seed, asked.seconds)
        for mode in asked.modes
        for peer in asked.peer
        for cell in asked.cells
        for hidden in asked.hidden
    ]
    there = [case for case in cases if supports(case)]
    absent = {f"{c.mode} of {c.cell} with {c.peer}": None for c in cases if not supports(c)}
    if not there:
        raise ArgumentError(
            "a mode and a cell that the peer has",
            ", ".join(absent),
            "see --peer in bptt bench --help",
        )
    if absent:
        print(f"bptt bench: left out, the peer has none: {', '.join(absent)}", file=sys.stderr)
    rows = []
    with Count("rows", len(there)) as count:
        for case in there:
            rows.append(measure(case))
            count.advance(f"{case.mode} {case.cell} H={case.hidden} beside {case.peer}")
    return rows


def _print_tables(document: dict[str, Any]) -> None:
    """One table a mode and peer, above it what was run."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from bptt.shown.console import Console

    rows = document["rows"]
    first = rows[0]
    console = Console()
    console.print(document["machine"])
    console.print(
        f"matrix product {document['matmul_gflops']:.1f} GFLOP/s, {first['threads']} threads, "
        f"T={first['steps']}; ours runs {document['backend']}"
    )
    for mode, peer in dict.fromkeys((row["mode"], row["peer"]) for row in rows):
        group = [row for row in rows if (row["mode"], row["peer"]) == (mode, peer)]
        extra = next((key for key in EXTRAS if key in group[0]), None)
        table = Table(
            title=f"{mode} beside {peer}, B={group[0]['batch']}, µs per time step",
            title_justify="left",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        heads = ["cell", "H", "ours", peer, "ratio", "quartiles", "of matmul", "max error"]
        heads += [EXTRAS[extra]] if extra else []
        for head in heads:
            table.add_column(head, justify="left" if head == "cell" else "right")
        for row in group:
            low, high = row["ratio_quartiles"]
            cells = [row["cell"], str(row["hidden"])]
            cells += [f"{row['ours_us']:.1f}", f"{row['peer_us']:.1f}", f"{row['ratio']:.2f}×"]
            cells += [f"{low:.2f}–{high:.2f}", f"{row['share_of_matmul']:.2f}"]
            cells += [
                f"{row['max_error']:.0e}",
                *([EXTRA_FORMATS[extra].format(row[extra])] if extra else []),
            ]
            table.add_row(*cells)
        console.print(table, highlight=True)


# What a mode says besides: the column's head, and how its numbers are written.
EXTRAS = {
    "ratio_to_padded": "to padded",
    "overhead": "overhead",
    "characters_per_second": "characters/s",
}
EXTRA_FORMATS = {
    "ratio_to_padded": "{:.2f}×",
    "overhead": "{:+.0%}",
    "characters_per_second": "{:,.0f}",
}
