"""Which way to compute a linear recurrence is faster: the loop over time or the odd-even scan.

    python benchmarks/scan.py [--threads 1]

Prints the ratio loop / odd-even by sizes, after checking that both agree; `ops/scan.py` chooses by it.
"""

from __future__ import annotations

import argparse
import time

import torch

from bptt.ops.scan import _odd_even


def loop(a, b):
    """The recurrence from a zero state, one fused multiply-add a step."""
    y, h = torch.empty_like(b), torch.zeros_like(b[0])
    for a_t, b_t, y_t in zip(a.unbind(), b.unbind(), y.unbind(), strict=True):
        h = torch.addcmul(b_t, a_t, h, out=y_t)
    return y


def seconds(run, *arguments) -> float:
    """Best of seven after a warm-up."""
    run(*arguments)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        run(*arguments)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print one line for every size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    print("dtype      B·H     T    loop/odd-even")
    for dtype in (torch.float32, torch.complex64):
        for width in (32, 128, 256, 1024, 4096):
            for steps in (16, 64, 256, 1024, 4096):
                if steps * width > 2**23:
                    continue
                a = torch.rand(steps, 1, width).to(dtype)
                b = torch.randn(steps, 1, width, dtype=dtype)
                error = (loop(a, b) - _odd_even(a, b)).abs().max() / b.abs().max()
                if not error < 1e-5:
                    raise SystemExit(f"the two ways differ by {error:.1e}")
                ratio = seconds(loop, a, b) / seconds(_odd_even, a, b)
                print(f"{str(dtype)[6:]:9} {width:5} {steps:5} {ratio:8.2f}", flush=True)


if __name__ == "__main__":
    main()
