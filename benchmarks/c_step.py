"""One step of an exported GRU on this machine, best of five; equality with Python checked first.

.venv/bin/python benchmarks/c_step.py [--hidden 32 64 128] [--compiler gcc]

Prints a Markdown table: microseconds a step of the C code and of bptt.Stream, and the rate at which
the step reads its weights as a share of what one core reads from a cache of that size.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
import torch
import tyro

import bptt

DRIVER = Template("""
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <time.h>
#include "net.h"
static net_state state;
static float x[$steps], y[$outputs];
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
int main(void) {
    double best = 1e9;
    if (fread(x, sizeof(float), $steps, stdin) != $steps) { return 1; }
    for (int run = 0; run < 5; run++) {
        const double start = now();
        net_init(&state);
        for (int t = 0; t < $steps; t++) { net_step(&state, &x[t], y); }
        const double spent = now() - start;
        best = (spent < best) ? spent : best;
    }
    printf("%.6f", 1e6 * best / $steps);
    for (int j = 0; j < $outputs; j++) { printf(" %.9g", (double)y[j]); }
    return 0;
}
""")


@dataclass(frozen=True)
class Bench:
    """What to measure."""

    hidden: tuple[int, ...] = (32, 64, 128)
    """State sizes H; the input has one feature."""
    compiler: str = "gcc"
    """C compiler."""
    flags: str = "-std=c99 -O3 -march=native"
    """Its flags."""
    steps: int = 100_000
    """Steps of one measurement."""


def call(*words: str, **options) -> bytes:
    """Run a program, return what it wrote."""
    return subprocess.run(list(words), check=True, capture_output=True, **options).stdout


def main(asked: Bench) -> None:
    """Measure every size and print a table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| H | C step, µs | Stream step, µs | weights, kB | read, GB/s | of the cache's rate |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        source = Path(__file__).with_name("read_bandwidth.c")
        call(asked.compiler, *asked.flags.split(), str(source), "-o", str(base / "read"))
        for hidden in asked.hidden:
            row(asked, hidden, base)


def row(asked: Bench, hidden: int, base: Path) -> None:
    """One size."""
    gru = bptt.nn.GRU(1, hidden)
    x = torch.randn(asked.steps, 1, 1)
    folder = base / str(hidden)
    bptt.export_c(gru, x[:10], folder, name="net")
    (folder / "driver.c").write_text(DRIVER.substitute(steps=asked.steps, outputs=hidden))
    program = str(folder / "driver")
    files = [str(folder / "driver.c"), str(folder / "net.c")]
    call(asked.compiler, *asked.flags.split(), *files, "-lm", "-o", program)
    words = call(program, input=x.numpy().tobytes()).split()
    with torch.no_grad():
        expected = gru(x)[0][-1, 0].numpy()
    np.testing.assert_allclose(np.array(words[1:], float), expected, atol=1e-5)
    size = 4 * (3 * hidden * (hidden + 1) + 4 * hidden)
    step = float(words[0])
    rate, cache = size / step / 1e3, float(call(str(base / "read"), str(size)))
    print(
        f"| {hidden} | {step:.3f} | {stream_time(gru):.2f} | {size / 1e3:.1f} | {rate:.0f} "
        f"| {rate / cache:.0%} of {cache:.0f} GB/s |"
    )


def stream_time(gru: torch.nn.Module) -> float:
    """Microseconds a step of bptt.Stream, best of five."""
    stream, x = bptt.Stream(gru), torch.randn(1, 1)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(5000):
            stream.step(x)
        best = min(best, (time.perf_counter() - start) / 5000)
    return 1e6 * best


if __name__ == "__main__":
    main(tyro.cli(Bench, description=__doc__))
