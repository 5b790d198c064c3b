"""Claims about growth without limit, and about what learning rates can and cannot do."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from bptt import nn as layers
from bptt.claims.learn import (
    SEEDS,
    accuracy,
    adam,
    fit,
    percents,
    remember_first,
    sgd,
    tanh_rnn,
    weight,
)
from bptt.claims.registry import Measurement, claim
from bptt.remedies import clip_norm, start_recurrent


@claim(
    id="D2",
    source="D",
    statement="With ReLU the hidden state can grow without limit; tanh keeps it within [-1, 1].",
    published="as said",
    rule="one random W with σ_max = 1.5, 64 units, 200 steps, 3 seeds: the ReLU state passes 1e6 and "
    "grows on; the tanh state never leaves [-1, 1]",
)
def relu_grows() -> Measurement:
    sizes: dict[str, list[float]] = {"relu": [], "tanh": []}
    growing = True
    for seed in SEEDS:
        for kind, kept in sizes.items():
            torch.manual_seed(seed)
            layer = layers.RNN(8, 64, nonlinearity=kind)
            with torch.no_grad():
                # Positive entries: nothing is cut off by ReLU, and σ_max is the growth.
                weight(layer).abs_()
                start_recurrent(layer, "norm:1.5")
                y = layer(torch.rand(200, 1, 8))[0].abs().amax((1, 2))
            kept.append(float(y[-1]))
            growing &= kind == "tanh" or bool((y[150:] > 100 * y[100]).all())
    return Measurement(
        f"largest entry after 200 steps: ReLU {min(sizes['relu']):.2g} to {max(sizes['relu']):.2g}, "
        f"tanh {max(sizes['tanh']):.4f}",
        {
            "ReLU grows without limit": growing and min(sizes["relu"]) > 1e6,
            "tanh stays within 1": max(sizes["tanh"]) <= 1.0,
        },
    )


def _descend(kind: str, clip: float | None, seed: int) -> tuple[int | None, float, float]:
    """Update at which something was not finite first, largest gradient norm, share of |h| > 0.95."""
    torch.manual_seed(seed)
    T, layer, head = 60, layers.RNN(4, 32, nonlinearity=kind), nn.Linear(32, 1)
    start_recurrent(layer, "gaussian+radius:1.6")
    parameters = [*layer.parameters(), *head.parameters()]
    run = torch.optim.SGD(parameters, lr=0.01)
    x, y = torch.randn(T, 16, 4), torch.randn(16, 1)
    largest = 0.0
    for update in range(100):
        run.zero_grad()
        loss = F.mse_loss(head(layer(x)[0][-1]), y)
        loss.backward()
        norm = float(clip_norm(parameters, clip).norm)
        if not torch.isfinite(loss) or norm != norm:
            return update, largest, math.nan
        largest = max(largest, norm)
        run.step()
    with torch.no_grad():
        saturated = float((layer(x)[0].abs() > 0.95).double().mean())
    return None, largest, saturated


@claim(
    id="E3",
    source="E",
    statement="Exploding gradients that are not clipped end in NaN within a few steps; clipping "
    "prevents that.",
    published="NaN",
    rule="T=60, 32 units, spectral radius 1.6, SGD 0.01, 3 seeds, ReLU and tanh: not finite within 10 "
    "updates without clipping; finite for 100 updates clipped at 1",
)
def nan_without_clipping() -> Measurement:
    found = {
        (kind, clip): [_descend(kind, clip, seed) for seed in SEEDS]
        for kind in ("relu", "tanh")
        for clip in (None, 1.0)
    }
    words = [
        f"{kind}, {'clipped at 1' if clip else 'not clipped'}: "
        + " / ".join("finite" if run[0] is None else f"NaN at {run[0]}" for run in runs)
        + f", norm up to {max(run[1] for run in runs):.1g}"
        for (kind, clip), runs in found.items()
    ]
    flat = [run[2] for run in found["tanh", None]]
    parts: dict[str, bool | None] = {
        f"{kind}: NaN without clipping": all(
            run[0] is not None and run[0] <= 10 for run in found[kind, None]
        )
        for kind in ("relu", "tanh")
    }
    parts["relu: clipping prevents it"] = all(run[0] is None for run in found["relu", 1.0])
    return Measurement(
        "; ".join(words),
        parts,
        "It needs a state that can grow. A tanh state is bounded, so the loss stays finite whatever "
        f"the step, and no NaN says that {100 * min(flat):.0f} to {100 * max(flat):.0f} % of the "
        "states end within 0.05 of ±1, where little gradient passes. Watch the norm, not the loss.",
    )


@claim(
    id="C16",
    source="C",
    statement="A larger learning rate does not cure vanishing; Adam does so only in part.",
    published="no",
    rule="remember-first T=50, tanh, 100 epochs, 3 seeds: no SGD rate from 0.01 ×1 to ×1000 gets above "
    "50 % on any seed; Adam is better than the best SGD by 5 points on the mean, and under 99 %",
)
def rates_do_not_cure() -> Measurement:
    train, test = remember_first(512, 50, 42), remember_first(128, 50, 99)
    found: dict[str, list[float]] = {}
    runs = {f"SGD {0.01 * m:g}": sgd(0.01 * m) for m in (1, 10, 100, 1000)}
    runs |= {f"Adam {rate:g}": adam(rate) for rate in (1e-3, 5e-3)}
    for name, optimizer in runs.items():
        for seed in SEEDS:
            torch.manual_seed(seed)
            model = tanh_rnn()
            fit(model, *train, optimizer, 100, batch=64)
            found.setdefault(name, []).append(accuracy(model, *test))
    mean = {name: sum(v) / len(v) for name, v in found.items()}
    best_sgd = max(m for n, m in mean.items() if n.startswith("SGD"))
    best_adam = max(m for n, m in mean.items() if n.startswith("Adam"))
    return Measurement(
        "; ".join(f"{name}: {percents(v)}" for name, v in found.items()) + " (chance 12.5 %)",
        {
            "no SGD rate cures it": max(max(v) for n, v in found.items() if n[0] == "S") < 0.5,
            "Adam helps": best_adam > best_sgd + 0.05,
            "only in part": best_adam < 0.99,
        },
        "Rates change the length of a step, not what is in it: the part of the gradient that points to "
        "the first symbol is lost in the rest. Adam rescales entries, each of which is such a sum, and "
        "gets no further here.",
        found,
    )
