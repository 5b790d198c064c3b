"""Variance of randomized truncation: how far single draws lie from the exact gradient.

    python benchmarks/randomized.py [--draws 300]

A vanilla RNN (H=32) with an orthogonal start, T=64, chunks of k=8. Prints, by probability c of a cut,
the relative error of a draw (root mean square), of the mean over all draws beside what its standard
error allows, of plain truncation, and the mean number of steps whose graph is held at a time.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F

from bptt.gradients import Full, Randomized, Truncated


def main() -> None:
    """Print one line for every probability."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=300)
    draws = parser.parse_args().draws
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.RNN(4, 32, dtype=torch.float64)
    torch.nn.init.orthogonal_(model.weight_hh_l0)
    x = 0.3 * torch.randn(64, 4, 4, dtype=torch.float64)
    target = torch.randn(64, 4, 32, dtype=torch.float64)

    def gradient(estimator):
        model.zero_grad()
        step = estimator.backward(model, x, target, loss=F.mse_loss)
        return torch.cat([p.grad.flatten() for p in model.parameters()]), step.depth

    exact, _ = gradient(Full())
    scale = exact.norm()
    cut, _ = gradient(Truncated(8))
    print(f"Truncated(8): relative error {float((cut - exact).norm() / scale):.3f}, always")
    print("c     one draw  mean of all  allowed  steps a run")
    for c in (0.1, 0.3, 0.5, 0.7, 0.9):
        estimator = Randomized(8, cut=c, generator=torch.Generator().manual_seed(1))
        errors, runs = [], []
        for _ in range(draws):
            found, depth = gradient(estimator)
            errors.append(found - exact)
            runs.append(64 / int((depth == 0).sum()))
        error = torch.stack(errors)
        single = error.norm(dim=1).square().mean().sqrt() / scale
        mean = error.mean(0).norm() / scale
        if not mean < 4 * single / draws**0.5:
            raise SystemExit(f"c={c}: the mean is off by more than four standard errors")
        print(
            f"{c:.1f} {float(single):11.3f} {float(mean):12.3f} {float(single / draws**0.5):8.3f}"
            f" {sum(runs) / draws:9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
