"""Papers on truncation: what keeps the gradient unbiased, what sets the length by itself."""

from __future__ import annotations

import math
import statistics
import time
from functools import partial
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt import nn as layers
from bptt.experiments.claims.learn import SEEDS, Held, spread, weight
from bptt.experiments.claims.registry import Measurement, claim
from bptt.experiments.claims.run import kept
from bptt.gradients import Checkpointed, Estimator, ForwardMode, Full, Randomized, Step, Truncated
from bptt.gradients.step import Loss
from bptt.nn import carry as carries
from bptt.nn.carry import Carry
from bptt.probes.watch import watch
from bptt.remedies import ClipNorm
from bptt.tasks import InfluenceBalancing, half_square, influence_batch
from bptt.training.fit import apply_gradient, fit, fit_step

# Papers on truncation: which ways to shorten the gradient keep its sign, its mean, its exactness.

RATE, ITERATIONS = 1e-4, 3000


def _truncated(k: int) -> float:
    """θ after 3000 steps of the stream, an update every k."""
    model = InfluenceBalancing()
    run = torch.optim.SGD(model.parameters(), lr=RATE)
    batches, estimator = [influence_batch(k)] * (ITERATIONS // k), Truncated(k, reduction="sum")
    for _ in fit(model, run, batches, estimator, half_square, stateful=True):
        pass
    return float(model.theta.detach())


@claim(
    id="P1",
    source="Tallec & Ollivier, Unbiased online recurrent optimization, 2017",
    place="section 5, influence balancing",
    statement="On influence balancing truncated BPTT has the sign wrong and diverges or settles wrong; "
    "the exact online gradient (RTRL) reaches the optimum -1/6.",
    published="-1/6 by RTRL",
    setting="n=23, 10 plus and 13 minus signs, rate 1e-4, 3,000 steps",
    rule="n=23, 10 plus and 13 minus, rate 1e-4, 3000 steps, as published: K=1 and K=10 end on the "
    "wrong "
    "side of 0, RTRL within 1e-4 of -1/6",
    why="the sign of the end point and its distance from the optimum are what the paper reports",
)
def influence_balancing() -> Measurement:
    model = InfluenceBalancing()
    run = torch.optim.SGD(model.parameters(), lr=RATE)
    x, target = influence_batch(ITERATIONS)
    for step in ForwardMode(reduction="sum").steps(model, x, target, loss=half_square):
        apply_gradient(run, step)
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
    place="the theorem of unbiasedness",
    statement="Truncation at random borders, reweighted, is unbiased.",
    published="equal within its own standard error",
    setting="any network; draws of random borders",
    rule="GRU of 8, float64, T=18, chunks of 3, c=0.5, 1,500 draws against BPTT: on 50 random "
    "directions the root mean square of (mean - exact)/standard error is between 0.6 and 1.4 and "
    "none is over 4; plain truncation's is over 10",
    why="unbiased means that the mean over draws meets the exact gradient within its own standard "
    "error",
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
    place="abstract and section 3",
    statement="At T=1000, 95 % of the memory can be saved for a third more time.",
    published="≤ 5 % of the memory, ≈ 1.33× the time",
    setting="T = 1,000",
    rule="LSTM, H=128, B=16, T=1000: gradients equal to 1e-5 relative; bytes held for backward, "
    "kept states included, at most 5 % of full BPTT's; median time ratio of 5 turns between 1.1 "
    "and 1.5",
    why="the paper states a share of memory and a ratio of times, so both are measured",
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
        "The memory is saved; what it costs in time hangs on how long the forward pass takes beside "
        "the "
        "backward one.",
        {"share": share, "ratio": ratio},
    )


# Papers on adaptive truncation: copy memory with a fixed and with a random lag.

SYMBOLS, LANES = 6, 64
EPOCHS = 210  # of 4000 steps, as in the paper


def copy_stream(steps: int, shortest: int, seed: int) -> tuple[Tensor, Tensor]:
    """Blocks without an end: m symbols to read, a mark first, then m steps to say them again.

    Symbols: 0 blank, 1 mark, 2…5. m is drawn from ``shortest`` to 10 for each block.
    ``(T, 64)`` each, every lane shifted by its own random amount.
    """
    rng = np.random.default_rng(seed)
    x, y = np.zeros((2, steps + 40, LANES), dtype=np.int64)
    for lane in range(LANES):
        at = -int(rng.integers(0, 20))
        while at < steps:
            m = int(rng.integers(shortest, 11))
            block = rng.integers(2, SYMBOLS, m)
            block[0] = 1
            for offset, symbol in enumerate(block):
                if at + offset >= 0:
                    x[at + offset, lane] = symbol
                if at + m + offset >= 0:
                    y[at + m + offset, lane] = symbol
            at += 2 * m
    return torch.from_numpy(x[:steps]), torch.from_numpy(y[:steps])


class Copier(nn.Module):
    """The paper's network: linear, LSTM of 2 × 50, linear; its uniform start, zero biases."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(SYMBOLS, 50), nn.Linear(50, SYMBOLS)
        self.layer = layers.LSTM(50, 50, 2)
        for matrix in self.parameters():
            if matrix.dim() > 1:
                nn.init.uniform_(
                    matrix, -((3 / max(matrix.shape)) ** 0.5), (3 / max(matrix.shape)) ** 0.5
                )
            else:
                nn.init.zeros_(matrix)

    def forward(self, x: Tensor, carry=None):
        """Logits ``(T, B, 6)`` and the carry."""
        h, carry = self.layer(self.encoder(F.one_hot(x, SYMBOLS).float()), carry)
        return self.decoder(h), carry


def _loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def _horizon(model: nn.Module, x: Tensor, y: Tensor, delta: float) -> int:
    """The smallest K whose bias is and stays within delta, from 100 steps after 50 to warm up."""
    with torch.no_grad():
        carry = model(x[:50])[1]
    with watch(model, lanes=8) as flow:
        _loss(model(x[50:150], carry)[0], y[50:150]).backward()
    model.zero_grad()
    return min(100, max(2, *(m.spectrum.horizon(delta) for m in flow.modules)))


class _Halves(Estimator):
    """A window in two halves: the losses of the second, through both. Its carry is that in the middle,
    for the next window begins where the second half does."""

    def backward(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        carry: Carry = None,
        loss: Loss | None = None,
        *,
        reset: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Step:
        """See :meth:`Estimator.backward`."""
        k = len(inputs) // 2
        middle = model(inputs[:k], carry)[1]
        value = cast(Loss, loss)(model(inputs[k:], middle)[0], targets[k:])
        value.backward()
        depth = torch.arange(k, 2 * k)
        return Step(value.detach(), carries.detach(middle), targets[k:].numel(), depth)


def perplexity(k: int | None, shortest: int, seed: int) -> list[float]:
    """The test perplexity after each pass, each loss reaching K to 2K - 1 steps back; None adapts K to
    δ = 0.1."""
    torch.manual_seed(seed)
    model, adaptive = Copier(), k is None
    k = 15 if k is None else k
    x, y = copy_stream(4000, shortest, seed)
    run = torch.optim.SGD(model.parameters(), lr=1.0)
    found = []
    for _ in range(EPOCHS):
        if adaptive:
            begin = int(torch.randint(0, 3800, ()))
            k = _horizon(model, x[begin : begin + 150], y[begin : begin + 150], 0.1)
        carry = None
        for start in range(0, 4000 - 2 * k, k):
            window = slice(start, start + 2 * k)
            carry = fit_step(
                model, run, (x[window], y[window]), _Halves(), _loss, clip=ClipNorm(1.0), carry=carry,
            ).carry  # fmt: skip
        found.append(_test(model, shortest))
    return found


def _best(ways: tuple[int | None, ...], shortest: int) -> dict[int | None, list[float]]:
    """The best perplexity of each K and seed; each run is kept as soon as it is done."""
    return {
        k: [
            min(
                kept(
                    f"copy {shortest} {k or 'adaptive'} seed {seed}",
                    partial(perplexity, k, shortest, seed),
                )
            )
            for seed in SEEDS
        ]
        for k in ways
    }


def _test(model: nn.Module, shortest: int) -> float:
    x, y = copy_stream(1000, shortest, 99)
    with torch.no_grad():
        return math.exp(float(_loss(model(x)[0][40:], y[40:])))


_SETTING = (
    f"{EPOCHS} passes, the best by the test part, 3 seeds; every loss reaches K to 2K - 1 steps"
)


@claim(
    id="P2",
    source="Aicher, Foti & Fox, Adaptively truncating backpropagation through time, 2019",
    place="section 5, copy with a fixed lag",
    statement="Copy memory with lag 10: truncation at 5 does not learn it, at 10 and 30 it does, and "
    "adaptive truncation with δ = 0.1 is as good as the best fixed one.",
    published="K=5 1.646, K=10 1.036, K=30 1.043; adaptive δ=.1 1.030 (test perplexity)",
    setting="LSTM 2 × 50, 6 symbols, batch 64, SGD 1, clip 1, training length 4,000, up to 210 "
    "passes",
    rule=f"{_SETTING}; means: K=5 over 1.3, K=10 and K=30 under 1.1, adaptive within 0.02 of the "
    f"best fixed",
    why="each K is held to whether it learned, by the perplexities that the paper separates",
    quick=False,
)
def fixed_lag() -> Measurement:
    found = _best((5, 10, 30, None), 10)
    mean = {k: sum(v) / len(v) for k, v in found.items()}
    best = min(mean[k] for k in (5, 10, 30))
    return Measurement(
        _words(found),
        {
            "K=5 does not learn it": mean[5] > 1.3,
            "K=10 does": mean[10] < 1.1,
            "K=30 does": mean[30] < 1.1,
            "adaptive is as good as the best": mean[None] <= best + 0.02,
        },
        "What is reached in the published budget is the figures above.",
        {str(k): v for k, v in found.items()},
    )


@claim(
    id="P3",
    source="Aicher, Foti & Fox, Adaptively truncating backpropagation through time, 2019",
    place="section 5, copy with a random lag",
    statement="Copy memory with lags of 5 to 10 at random: longer truncation is better, and adaptive "
    "truncation with δ = 0.1 is the best.",
    published="K=5 1.47, 15 1.37, 30 1.31; adaptive δ=.1 1.29 (test perplexity)",
    setting="as P2, lags of 5 to 10",
    rule=f"{_SETTING}; K=5 above K=15 above K=30 whichever seeds are compared, the mean of adaptive "
    f"within 0.02 of the best fixed or below",
    why="the paper's statement is an order, and a step of it that seeds can turn round is none",
    quick=False,
)
def random_lag() -> Measurement:
    found = _best((5, 15, 30, None), 5)
    mean = {k: sum(v) / len(v) for k, v in found.items()}
    best = min(mean[k] for k in (5, 15, 30))
    return Measurement(
        _words(found),
        {
            "15 is better than 5": max(found[15]) < min(found[5]),
            "30 is better than 15": max(found[30]) < min(found[15]),
            "adaptive is as good as the best": mean[None] <= best + 0.02,
        },
        "From a K that covers the longest lag on, the task is learned to the end, and what is left of "
        "the order lies within what seeds make of it.",
        {str(k): v for k, v in found.items()},
    )


def _words(found: dict[int | None, list[float]]) -> str:
    return "test perplexity: " + "; ".join(
        f"{'adaptive' if k is None else f'K={k}'} {spread(v, 4)}" for k, v in found.items()
    )
