"""docs/benchmarks.md from what ``bptt bench --json`` printed.

.venv/bin/python benchmarks/table.py FILE.json ... [--narrow FILE.json ...] > docs/benchmarks.md

It is the page up to "One step at a time", which other scripts measured: keep that part.
"""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from pathlib import Path

import tyro

MODES = {
    "train": "Training: forward and backward, gradients of every weight and of the input",
    "infer": "Inference: forward without gradient",
    "packed": "Packed: training on lengths drawn evenly from T/2 to T",
    "reset": "Reset: training with resets inside the batch, beside torch's layer called step by step",
    "stream": "Stream: one time step of one sequence, from Python",
    "model": "Character model: embedding, layer, output, loss, clipping, AdamW",
}
EXTRA = {
    "packed": ("ratio_to_padded", "padded batch / packed"),
    "reset": ("overhead", "over the call without resets"),
}
HEAD = """# Benchmarks

Our layers beside their peers, measured by `bptt bench` on {date}.
{machine}, kernels compiled for {isa}.
Matrix product (1024³): {low:.0f} to {high:.0f} GFLOP/s over the runs.

Each row is one interleaved run: the sides take turns, the ratio is the median of paired ratios, the
quartiles are beside it, and no time is reported before outputs, final states and all gradients were
found equal. A ratio above 1 means that ours is faster. "of matmul" is our rate as a share of the
machine's own matrix product, measured in the same run. float32, {threads} threads, I = H. Other
machines will see other numbers. Made by `./run bench --json`, with `--batch 64`, `--peer jax --modes
train`, `--peer onnxruntime openvino --modes infer stream` and `--modes model --steps 64` for the tables
that say so, put together by `benchmarks/table.py`. "On AVX2" is the same processor, both sides held to
that instruction set: `BPTT_ISA=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
ATEN_CPU_CAPABILITY=avx2`. Times are medians of each side and the ratio is the median over rounds, so it
is not their quotient; the matrix product is timed before and after each row, so where the clock changes
a share may exceed 1.
"""


@dataclass(frozen=True)
class Table:
    """What to put together."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Documents of ``bptt bench --json``."""
    narrow: tuple[Path, ...] = ()
    """Such documents of the same machine, made with AVX2 alone."""


def main(asked: Table) -> None:
    """Print the page."""
    documents = [json.loads(file.read_text("utf-8")) for file in (*asked.files, *asked.narrow)]
    own = len(asked.files)
    rows = [{**row, "narrow": n >= own} for n, made in enumerate(documents) for row in made["rows"]]
    rates = [document["matmul_gflops"] for document in documents[:own]]
    (machine,) = {document["machine"] for document in documents}
    (threads,) = {row["threads"] for row in rows}
    date = datetime.date.today().isoformat()
    isa = documents[0]["backend"].rpartition("compiled for ")[2].rstrip(")")
    told = {"date": date, "machine": machine, "isa": isa, "threads": threads}
    print(HEAD.format(**told, low=min(rates), high=max(rates)))
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        place = list(MODES).index(row["mode"])
        key = (place, row["narrow"], row["peer"], row["batch"], row["steps"])
        groups.setdefault(key, []).append(row)
    for (_, narrow, peer, batch, steps), chosen in sorted(groups.items(), key=lambda item: item[0]):
        mode = chosen[0]["mode"]
        shape = "" if mode == "stream" else f" (B={batch}, T={steps})"
        print(f"## {MODES[mode]}; beside {peer}{shape}{', on AVX2' if narrow else ''}\n")
        _print_group(mode, chosen)


def _print_group(mode: str, rows: list[dict]) -> None:
    key, title = EXTRA.get(mode, (None, ""))
    head = ["cell", "H", "ours, µs a step", "peer, µs a step", "ratio", "quartiles", "of matmul"]
    print("| " + " | ".join(head + ([title] if key else [])) + " |")
    print("|---" + "|--:" * (len(head) - 1 + bool(key)) + "|")
    for row in rows:
        low, high = row["ratio_quartiles"]
        cells = [row["cell"], str(row["hidden"]), f"{row['ours_us']:.1f}", f"{row['peer_us']:.1f}",
                 f"**{row['ratio']:.2f}**", f"{low:.2f} to {high:.2f}",
                 f"{row['share_of_matmul']:.2f}"]  # fmt: skip
        if key:
            cells.append(f"{row[key]:+.1%}" if key == "overhead" else f"{row[key]:.2f}")
        print("| " + " | ".join(cells) + " |")
    print()


if __name__ == "__main__":
    main(tyro.cli(Table))
