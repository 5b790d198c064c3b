"""What a step of forward mode costs beside a step of full backpropagation through time.

    python benchmarks/forward_mode.py [--steps 64] [--lanes 8]

RTRL is first compared with the exact gradient (a single draw of UORO is meant to be off). Prints
ratios of time to `Full` on the same model in the same run, and the numbers an influence holds.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F

import bptt
from bptt.gradients import ForwardMode, Full
from bptt.nn.carry import tensors


def gradient(estimator, model, x, target):
    """The flat gradient, the seconds it took, and the step."""
    model.zero_grad()
    start = time.perf_counter()
    step = estimator.backward(model, x, target, loss=F.mse_loss)
    seconds = time.perf_counter() - start
    return torch.cat([p.grad.flatten() for p in model.parameters()]), seconds, step


def main() -> None:
    """Print one line for every layer, size and method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--lanes", type=int, default=8)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("layer     H  method       time/Full  influence, numbers a lane and parameter")
    for layer in (bptt.nn.RNN, bptt.nn.GRU, bptt.nn.MinGRU, bptt.nn.LRU):
        for hidden in (8, 32):
            model = layer(8, hidden)
            x = torch.randn(asked.steps, asked.lanes, 8)
            target = torch.randn(asked.steps, asked.lanes, hidden)
            gradient(Full(), model, x, target)
            exact, full, _ = gradient(Full(), model, x, target)
            for method in ("rtrl", "uoro"):
                estimator = ForwardMode(method, online=True)
                gradient(estimator, model, x, target)
                found, seconds, step = gradient(estimator, model, x, target)
                error = float((found - exact).norm() / exact.norm())
                if method == "rtrl" and not error < 1e-4:
                    raise SystemExit(f"{layer.__name__}: rtrl is off by {error:.1e}")
                held = sum(t.numel() for t in tensors(step.carry.influence))
                count = sum(p.numel() for p in model.parameters())
                print(
                    f"{layer.__name__:8} {hidden:3}  {method:10} {seconds / full:10.1f}"
                    f"  {held / count / asked.lanes:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
