"""Claims about how a random network's gradient falls from step to step."""

from __future__ import annotations

import math

import numpy as np
import torch

from bptt import nn as layers
from bptt.claims.registry import Measurement, claim
from bptt.probes import state_gradients
from bptt.recurrence import trace

STEPS, UNITS = 80, 64
AT = (79, 60, 40, 20, 0)


def gaussian(rng: np.random.RandomState) -> np.ndarray:
    """0.9·N(0,1)/√64."""
    return 0.9 * rng.randn(UNITS, UNITS) / math.sqrt(UNITS)


def orthogonal(rng: np.random.RandomState) -> np.ndarray:
    """Uniform over the orthogonal matrices."""
    q, r = np.linalg.qr(rng.randn(UNITS, UNITS))
    return q * np.sign(np.diag(r))


def trials(start, count: int = 20, inputs: int = 1) -> np.ndarray:
    """``(count, 80)``: ‖∂L/∂h_t‖ for a unit cotangent at the last step, under N(0,1) input, tanh.

    Drawn as the source draws: NumPy's older generator, seed 7; W, W_x, then all inputs of a trial.
    """
    rng = np.random.RandomState(7)
    norms = np.empty((count, STEPS))
    for trial in norms:
        w, w_x, x = start(rng), 0.1 * rng.randn(UNITS, inputs), rng.randn(STEPS, inputs)
        h, states = np.zeros(UNITS), []
        for t in range(STEPS):
            h = np.tanh(w @ h + w_x @ x[t])
            states.append(h)
        d = np.full(UNITS, 1 / math.sqrt(UNITS))
        for t in range(STEPS - 1, -1, -1):
            trial[t] = np.linalg.norm(d)
            d = w.T @ ((1 - states[t] ** 2) * d)
    return norms


@claim(
    id="C4",
    source="C",
    statement="Norm of the gradient at steps 79, 60, 40, 20 and 0 of a random tanh RNN, from a unit "
    "cotangent at the last of 80 steps.",
    published=".4821, .004312, 3.1e-5, 0, 0; ratio of first to last 3.2e-9",
    rule="64 units, W = 0.9·N(0,1)/√64, W_x = 0.1·N(0,1) of one input, as the width is not stated, mean "
    "of 20 trials, seed 7: the norm of a unit cotangent to 4 digits; the others, which hang on the "
    "draw, within a factor of 3 (0 means under 1e-6), and so the ratio",
)
def gradient_by_step() -> Measurement:
    published = (0.4821, 0.004312, 3.1e-5, 0.0, 0.0)
    means = {i: trials(gaussian, inputs=i).mean(0) for i in (1, 8, 16, 64)}
    ratios = {i: float(mean[0] / mean[79]) for i, mean in means.items()}
    values = {i: [float(mean[t]) for t in AT] for i, mean in means.items()}

    parts: dict[str, bool | None] = {
        f"step {t}: {p:g}": (
            abs(v - p) < 1e-4 if t == STEPS - 1 else v < 1e-6 if p == 0 else 1 / 3 < v / p < 3
        )
        for t, p, v in zip(AT, published, values[1], strict=True)
    }
    parts["ratio 3.2e-9"] = 1 / 3 < ratios[1] / 3.2e-9 < 3
    middle = np.median(trials(gaussian), 0)
    words = ", ".join(f"{ratios[i]:.2g} with {i}" for i in ratios)
    return Measurement(
        "; ".join(
            f"{'one input' if i == 1 else f'{i} inputs'}: "
            + ", ".join(f"{v:.3g}" for v in values[i])
            for i in means
        )
        + f"; ratio {words}",
        parts,
        f"The figures hang on what the table does not state, how hard the input drives tanh into "
        f"saturation: the ratio of first to last is {words} inputs, so the table fits 16 of them from "
        f"step 60 down. With one input the gradient keeps a million times more than published, a mean "
        f"made by the few trials whose W has a large radius (the median trial: {middle[0]:.2g}). A unit "
        f"cotangent has norm 1 at the last step, not .4821.",
        {"norms": values[1], "ratios": {str(i): r for i, r in ratios.items()}},
    )


@claim(
    id="C8",
    source="C",
    statement="An orthogonal recurrent matrix has singular values of 1 only; with it the gradient "
    "falls more slowly than with a Gaussian one, though under tanh still exponentially.",
    published="slower",
    rule="64 units as in C4, 20 trials: singular values 1 to 1e-12; the mean log ratio of first to "
    "last step is above the Gaussian's; it is negative, and the second half of the way loses at "
    "least half as much as the first",
)
def orthogonal_start() -> Measurement:
    values = np.linalg.svd(orthogonal(np.random.RandomState(7)), compute_uv=False)
    logs = {n: np.log(trials(s)).mean(0) for n, s in (("o", orthogonal), ("g", gaussian))}
    fall = {n: float(v[0] - v[79]) for n, v in logs.items()}
    late, early = (float(logs["o"][a] - logs["o"][b]) for a, b in ((40, 79), (0, 39)))
    return Measurement(
        f"singular values from {values.min():.12f} to {values.max():.12f}; factor a step "
        f"{math.exp(fall['o'] / 79):.3f} orthogonal, {math.exp(fall['g'] / 79):.3f} Gaussian; the "
        f"nearer half of the way takes a factor of {math.exp(late):.2g}, the farther "
        f"{math.exp(early):.2g}",
        {
            "all singular values are 1": float(np.abs(values - 1).max()) < 1e-12,
            "falls more slowly": fall["o"] > fall["g"],
            "still exponentially": fall["o"] < 0 and early < late / 2,
        },
    )


@claim(
    id="B6",
    source="B",
    statement="In an untrained RNN with the loss at the end the gradient's norm falls from step to "
    "step back; with T=50 that of the first step is near zero, with T=10 it is not.",
    published="≈0",
    rule="torch's start, 32 units, 3 seeds: the first step's share of the last's is under 1e-4 at T=50 "
    "and over 1e-4 at T=10; norms fall at every step, the seeds' mean",
)
def untrained_gradient() -> Measurement:
    shares: dict[int, list[float]] = {10: [], 50: []}
    falling = True
    for T, kept in shares.items():
        logs = []
        for seed in range(3):
            torch.manual_seed(seed)
            layer = layers.RNN(8, 32)
            (one,) = trace(layer, torch.eye(8)[torch.randint(8, (T, 64))])
            direct = torch.zeros(T, 64, 32)
            direct[-1] = torch.randn(64, 32)
            norms = state_gradients(one, (direct,)).together.mean(1)
            kept.append(float(norms[0] / norms[-1]))
            logs.append(norms.log())
        mean = torch.stack(logs).mean(0)
        falling &= bool((mean[1:] > mean[:-1]).all())
    words = {T: " / ".join(f"{s:.2g}" for s in kept) for T, kept in shares.items()}
    return Measurement(
        f"first step's share of the last's: T=10 {words[10]}; T=50 {words[50]}",
        {
            "T=50: near zero": max(shares[50]) < 1e-4,
            "T=10: not": min(shares[10]) > 1e-4,
            "falls at every step": falling,
        },
        "The fall is as steep with T=10: only its length differs.",
        {str(T): kept for T, kept in shares.items()},
    )
