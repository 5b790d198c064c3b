"""Papers on truncation: which ways to shorten the gradient keep its sign, its mean, its exactness."""

from __future__ import annotations

import math
import statistics
import time

import torch
import torch.nn.functional as F

from bptt import nn as layers
from bptt.claims.learn import weight
from bptt.claims.memory import Held
from bptt.claims.registry import Measurement, claim
from bptt.gradients import Checkpointed, Estimator, ForwardMode, Full, Randomized, Truncated
from bptt.tasks import InfluenceBalancing, half_square, influence_batch

RATE, ITERATIONS = 1e-4, 3000


def _truncated(k: int) -> float:
    """θ after 3000 steps of the stream, an update every k."""
    model = InfluenceBalancing()
    run = torch.optim.SGD(model.parameters(), lr=RATE)
    estimator, carry = Truncated(k, reduction="sum"), None
    x, target = influence_batch(k)
    for _ in range(ITERATIONS // k):
        carry = estimator.backward(model, x, target, carry, half_square).carry
        run.step()
        run.zero_grad()
    return float(model.theta.detach())


@claim(
    id="P1",
    source="Tallec & Ollivier, Unbiased online recurrent optimization, 2017",
    statement="On influence balancing truncated BPTT has the sign wrong and diverges or settles wrong; "
    "the exact online gradient (RTRL) reaches the optimum -1/6.",
    published="-1/6 by RTRL",
    rule="n=23, 10 plus and 13 minus, rate 1e-4, 3000 steps, as published: K=1 and K=10 end on the wrong "
    "side of 0, RTRL within 1e-4 of -1/6",
)
def influence_balancing() -> Measurement:
    model = InfluenceBalancing()
    run = torch.optim.SGD(model.parameters(), lr=RATE)
    x, target = influence_batch(ITERATIONS)
    for _ in ForwardMode(reduction="sum").steps(model, x, target, loss=half_square):
        run.step()
        run.zero_grad()
    exact = float(model.theta.detach())
    cut = {k: _truncated(k) for k in (1, 10, 30, 100)}
    return Measurement(
        f"RTRL {exact:.6f}; truncated: " + ", ".join(f"K={k} {v:.4g}" for k, v in cut.items()),
        {
            "K=1 goes wrong": cut[1] > 0,
            "K=10 goes wrong": cut[10] > 0,
            "RTRL reaches -1/6": abs(exact - model.optimum) < 1e-4,
        },
        figures={"rtrl": exact, "truncated": {str(k): v for k, v in cut.items()}},
    )


def _gradient(model: torch.nn.Module, estimator: Estimator, x, y) -> torch.Tensor:
    model.zero_grad()
    estimator.backward(model, x, y, loss=F.mse_loss)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).clone()


@claim(
    id="P10",
    source="Tallec & Ollivier, Unbiasing truncated backpropagation through time, 2017",
    statement="Truncation at random borders, reweighted, is unbiased.",
    published="equal within its own standard error",
    rule="GRU of 8, float64, T=18, chunks of 3, c=0.5, 1,500 draws against BPTT: on 50 random "
    "directions the root mean square of (mean - exact)/standard error is between 0.6 and 1.4 and "
    "none is over 4; plain truncation's is over 10",
)
def randomized_is_unbiased() -> Measurement:
    torch.manual_seed(0)
    draws, T = 1500, 18
    model = layers.GRU(4, 8).double()
    with torch.no_grad():  # a gradient that lasts: there is something to lose at a border
        for name in ("weight_hh_l0", "weight_ih_l0"):
            weight(model, name).mul_(2.0)
    x, y = torch.randn(T, 2, 4).double(), torch.randn(T, 2, 8).double()
    exact = _gradient(model, Full(), x, y)
    cut = _gradient(model, Truncated(3), x, y)
    estimator = Randomized(3, cut=0.5, generator=torch.Generator().manual_seed(1))
    directions = torch.randn(50, len(exact), dtype=torch.float64)
    found = torch.stack([directions @ _gradient(model, estimator, x, y) for _ in range(draws)])
    error = found.std(0) / math.sqrt(draws)
    z = (found.mean(0) - directions @ exact) / error
    biased = (directions @ (cut - exact)) / error
    rms, plain = (float(v.square().mean().sqrt()) for v in (z, biased))
    return Measurement(
        f"(mean of {draws} draws - BPTT) / standard error over 50 directions: root mean square "
        f"{rms:.2f}, largest {float(z.abs().max()):.2f}; plain truncation in the same units: "
        f"{plain:.1f}",
        {
            "the mean is BPTT's gradient": 0.6 < rms < 1.4 and float(z.abs().max()) < 4,
            "truncation's is not": plain > 10,
        },
        "The estimator does not meet the exact gradient within its own error.",
        {"rms": rms, "plain": plain},
    )


@claim(
    id="P4",
    source="Gruslys et al., Memory-efficient backpropagation through time, 2016",
    statement="At T=1000, 95 % of the memory can be saved for a third more time.",
    published="≤ 5 % of the memory, ≈ 1.33× the time",
    rule="LSTM, H=128, B=16, T=1000: gradients equal to 1e-5 relative; bytes held for backward, "
    "kept states included, at most 5 % of full BPTT's; median time ratio of 5 turns between 1.1 "
    "and 1.5",
)
def checkpoints() -> Measurement:
    torch.manual_seed(0)
    T, B, H = 1000, 16, 128
    model = layers.LSTM(32, H)
    x, y = torch.randn(T, B, 32), torch.randn(T, B, H)
    ways: dict[str, Estimator] = {"full": Full(), "kept": Checkpointed(segments=32)}
    gradients, peaks = {}, {}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for name, way in ways.items():
        with Held(x, y, *model.parameters()) as held:
            gradients[name] = _gradient(model, way, x, y)
        peaks[name] = held.peak
    for _ in range(5):
        for name, way in ways.items():
            began = time.perf_counter()
            _gradient(model, way, x, y)
            times[name].append(time.perf_counter() - began)
    states = 32 * 2 * B * H * 4  # h and c before each of 32 segments
    share = (peaks["kept"] + states) / peaks["full"]
    ratio = statistics.median(times["kept"]) / statistics.median(times["full"])
    error = float((gradients["kept"] - gradients["full"]).norm() / gradients["full"].norm())
    return Measurement(
        f"memory {100 * share:.1f} % ({peaks['full'] / 1e6:.1f} MB to "
        f"{(peaks['kept'] + states) / 1e6:.2f} MB), time {ratio:.2f}×, gradients differ by "
        f"{error:.1g}",
        {
            "the same gradient": error < 1e-5,
            "at most 5 % of the memory": share <= 0.05,
            "about 1.33× the time": 1.1 <= ratio <= 1.5,
        },
        "The memory is saved; what it costs in time hangs on how long the forward pass takes beside the "
        "backward one.",
        {"share": share, "ratio": ratio},
    )
