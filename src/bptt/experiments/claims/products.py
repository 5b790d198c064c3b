"""Claims about products of Jacobians, and about how long the gradient's way is."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import nn

from bptt import nn as layers
from bptt.experiments.claims.learn import SEEDS, weight
from bptt.experiments.claims.registry import Measurement, claim
from bptt.models import Attention, Highway, Residual
from bptt.probes import jacobian_products
from bptt.probes.jacobians import MEMORY_LEFT
from bptt.recurrence import trace
from bptt.remedies import start_recurrent

# Claims about products of Jacobians: bounds, radius and norm, what grows and what shrinks.


@claim(
    id="B3",
    source="B",
    place="33.3, the theorem of the bound",
    statement="The norm of a product of n Jacobians diag(1 - h²) W is at most σ_max(W)^n.",
    published="bound",
    setting="none, an inequality",
    rule="no product of 1…40 steps along real trajectories exceeds it by more than 1e-9 relative, "
    "for 20 random W with σ_max from 0.3 to 3",
    why="an inequality holds if no case breaks it, and a random search along real trajectories "
    "looks for one",
)
def product_bound() -> Measurement:
    torch.manual_seed(0)
    worst, tightest = 0.0, 0.0
    for scale in torch.linspace(0.3, 3, 20).tolist():
        layer = layers.RNN(4, 16).double()
        with torch.no_grad():
            w = weight(layer)
            w.mul_(scale / torch.linalg.matrix_norm(w, 2))
        (one,) = trace(layer, torch.randn(41, 3, 4, dtype=torch.float64))
        found = jacobian_products(one, 40)
        bound = cast(torch.Tensor, found.bound)  # a plain RNN has one
        # NaN where a trajectory began less than so many steps before.
        ratio = (found.norms / bound).nan_to_num(0.0)
        worst, tightest = max(worst, float(ratio.max())), max(tightest, float(ratio[:, -1].max()))
    return Measurement(
        f"largest product over its bound: {worst:.4f} at any lag, {tightest:.2g} at lag 40",
        {"never above the bound": worst <= 1 + 1e-9},
        figures={"worst_ratio": worst},
    )


@claim(
    id="B10",
    source="B; D",
    place="33.3, the three regimes; D: where vanishing and exploding gradients come from",
    statement="A largest singular value of W under 1 makes the gradient vanish, and one over 1 "
    "makes it "
    "explode.",
    published="σ_max < 1: decays; σ_max > 1: grows",
    setting="a tanh network; no sizes are named",
    rule="torch's start of 64 units scaled to a σ_max of 0.8, 0.95, 1.05, 1.5 and 2.65, N(0,1) "
    "input, 3 "
    "seeds, the norm of the product of 50 Jacobians along the trajectory: under 1e-2 for every σ_max "
    "under 1, over 1 for every one over 1",
    why="the statement draws a line at 1, so a value beyond it on which the gradient goes the other "
    "way "
    "decides against that side",
)
def regimes_of_the_norm() -> Measurement:
    norms: dict[float, list[float]] = {}
    for sigma in (0.8, 0.95, 1.05, 1.5, 2.65):
        for seed in SEEDS:
            torch.manual_seed(seed)
            layer = layers.RNN(8, 64).double()
            start_recurrent(layer, f"norm:{sigma}")
            (one,) = trace(layer, torch.randn(51, 4, 8, dtype=torch.float64))
            found = jacobian_products(one, 50).norms[:, -1]
            norms.setdefault(sigma, []).append(float(found.nan_to_num(0.0).max()))
    return Measurement(
        "‖product of 50‖: "
        + "; ".join(f"σ_max {k:g}: {min(v):.2g} to {max(v):.2g}" for k, v in norms.items()),
        {
            "under 1: vanishes": all(max(v) < 1e-2 for k, v in norms.items() if k < 1),
            "over 1: explodes": all(min(v) > 1 for k, v in norms.items() if k > 1),
        },
        "The bound goes one way: under 1 nothing can grow. Over 1 it permits growth and does not "
        "bring it: "
        "W is not applied along its largest singular vector at every step, and the slope of tanh "
        "takes a "
        "factor off each time. What a network does has to be measured along its own states.",
        {f"{k:g}": v for k, v in norms.items()},
    )


@claim(
    id="A3",
    source="A",
    place="the contraction problem",
    statement="Spectral radius and largest singular value are one thing, so that either tells "
    "whether gradients vanish.",
    published="same",
    setting="none: the radius is explained as “the magnitude of its largest singular value”",
    rule="W = ½I + ½·superdiagonal, n=23: the two within 1 %; and the factor by which the product "
    "changes over its first 10 steps within 5 % a step of the radius",
    why="one matrix in which the two differ is enough against saying that they are one",
)
def radius_is_norm() -> Measurement:
    n = 23
    w = 0.5 * np.eye(n) + 0.5 * np.eye(n, k=1)
    radius = float(np.abs(np.linalg.eigvals(w)).max())
    sigma = float(np.linalg.norm(w, 2))
    norms = [float(np.linalg.norm(np.linalg.matrix_power(w, k), 2)) for k in (10, 20, 50, 100)]
    a_step = norms[0] ** 0.1
    return Measurement(
        f"radius {radius:.3f}, σ_max {sigma:.3f}; ‖W^k‖ at k=10, 20, 50, 100: "
        + ", ".join(f"{v:.3g}" for v in norms),
        {
            "radius equals σ_max": abs(sigma / radius - 1) < 0.01,
            "the radius tells the first steps": abs(a_step / radius - 1) < 0.05,
        },
        f"They agree for normal matrices only. Here the radius promises a halving a step, while over "
        f"10 steps the product keeps a factor of {a_step:.3f} a step: the norm bounds every step, the "
        f"radius says only what happens in the end.",
    )


@claim(
    id="B4",
    source="B",
    place="33.3, numerical verification",
    statement="With 32 units and W ~ N(0,1)·0.3 the gradient vanishes, with ·0.7 it explodes: norm of "
    "the product of 50 Jacobians at random states.",
    published="“vanishing” 1.46e3, “exploding” 2.49e21; σ_max 3.114 and 7.628",
    setting="32 units, entries N(0,1)·0.3 and ·0.7 drawn one after the other from NumPy's seed "
    "42, states tanh(N(0,1)) from default_rng(50), 50 factors",
    rule="W from NumPy's older generator with seed 42, one after the other, states tanh(N(0,1)) from "
    "default_rng(50), Frobenius norm: the first is below 1, the second above; and both are the "
    "published figures to three digits",
    why="a gradient that vanishes has a norm under 1 and one that explodes has a norm over 1; the "
    "printed figures are the source's own",
)
def labels_of_two_scales() -> Measurement:
    norms, sigmas, radii = [], [], []
    rng = np.random.RandomState(42)  # what numpy.random.seed(42) seeds
    for scale in (0.3, 0.7):
        w = scale * rng.randn(32, 32)
        states = np.random.default_rng(50)
        product = np.eye(32)
        for _ in range(50):
            h = np.tanh(states.standard_normal(32))
            product = (1 - h**2)[:, None] * w @ product
        norms.append(float(np.linalg.norm(product)))
        sigmas.append(float(np.linalg.norm(w, 2)))
        radii.append(float(np.abs(np.linalg.eigvals(w)).max()))
    return Measurement(
        f"norms {norms[0]:.3g} and {norms[1]:.3g}; σ_max {sigmas[0]:.3f} and {sigmas[1]:.3f}; "
        f"spectral radius {radii[0]:.2f} and {radii[1]:.2f}",
        {
            "0.3 vanishes": norms[0] < 1,
            "0.7 explodes": norms[1] > 1,
            "published figures": all(
                abs(n / p - 1) < 5e-3 for n, p in zip(norms, (1.46e3, 2.49e21), strict=True)
            ),
        },
        f"Both explode: by its own table the case called vanishing grows to {norms[0]:.3g} over 50 "
        f"steps. Its spectral radius is {radii[0]:.2f}; entries of deviation 0.3 are large for 32 "
        f"units, "
        f"where a radius of 1 needs 1/√32 = 0.18.",
        {"norms": norms, "sigma_max": sigmas, "radius": radii},
    )


def lag_below(norms: np.ndarray, share: float) -> int | None:
    """The first lag (from 1) from which on norms stay below a share; None if they do not."""
    above = np.flatnonzero(norms >= share)
    lag = int(above[-1]) + 2 if len(above) else 1
    return lag if lag <= len(norms) else None


@claim(
    id="A4",
    source="A",
    place="the contraction problem, the slider",
    statement="Scaled to spectral radius 0.5 a recurrence remembers nothing beyond about 15 steps, "
    "at 0.7 the limit is passed well before 50, at 1.15 the gradient explodes.",
    published="15; <50; explodes",
    setting="a factor of ρ a step, 0.5, 0.7 and 1.15; no network is named",
    rule="64 units, 3 random matrices, a linear recurrence; memory ends where the product's norm stays "
    "under 1e-4: by step 20 at 0.5, by 50 at 0.7; explodes: over 100 at step 100; ours, beside: the "
    "same with tanh under N(0,1) input",
    why="the slider multiplies by ρ at every step, which a linear recurrence of that radius does "
    "in the long run",
)
def memory_by_radius() -> Measurement:
    parts: dict[str, bool | str | None] = {}
    beside: dict[str, bool] = {}
    words = []
    for kind, told in (("linear", parts), ("tanh", beside)):
        for radius in (0.5, 0.7, 1.15):
            runs = [product_norms(radius, kind, seed) for seed in range(3)]
            ends = [lag_below(norms, MEMORY_LEFT) for norms in runs]
            last = [float(norms[99]) for norms in runs]
            if radius > 1:
                told[f"{kind}, ρ=1.15 explodes"] = min(last) > 100
                words.append(f"{kind} ρ=1.15: norm at step 100 {min(last):.2g} to {max(last):.2g}")
            else:
                limit = 20 if radius == 0.5 else 50
                told[f"{kind}, ρ={radius} ends by {limit}"] = all(e and e <= limit for e in ends)
                words.append(f"{kind} ρ={radius}: ends at step {', '.join(map(str, ends))}")
    return Measurement(
        "; ".join(words),
        parts,
        "For the linear recurrence the radius decides. A tanh under input saturates: its slope "
        "takes a factor off at every step, so memory is shorter than the radius says and 1.15 need "
        "not explode.",
        beside=beside,
    )


def product_norms(radius: float, kind: str, seed: int, H: int = 64, T: int = 120) -> np.ndarray:
    """Spectral norms ``(T,)`` of products of 1 to T Jacobians, a Gaussian W scaled to a radius."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((H, H))
    w *= radius / np.abs(np.linalg.eigvals(w)).max()
    w_x = rng.standard_normal((H, 8)) / np.sqrt(8)
    states = [np.zeros(H)]
    for _ in range(T):
        z = w @ states[-1] + w_x @ rng.standard_normal(8)
        states.append(np.tanh(z) if kind == "tanh" else z)
    product, norms = np.eye(H), []
    for h in reversed(states[1:]):
        slope = 1 - h**2 if kind == "tanh" else np.ones(H)
        product = product @ (slope[:, None] * w)
        norms.append(np.linalg.norm(product, 2))
    return np.array(norms)


# Claims about how long the gradient's way is: recurrence, attention, shortcuts.

FAR, UNITS = 128, 32


def far_over_near(layer: nn.Module, seed: int) -> float:
    """‖∂y/∂x‖ 127 steps back over that 1 step back, for a random cotangent at the last output."""
    torch.manual_seed(seed)
    x = torch.randn(FAR, 16, UNITS, requires_grad=True)
    output = layer(x)[0][-1]
    (gradient,) = torch.autograd.grad(output, x, torch.randn_like(output))
    norms = gradient.flatten(1).norm(dim=1)
    return float(norms[0] / norms[-2])


def _layers(seed: int) -> dict[str, nn.Module]:
    torch.manual_seed(seed)
    return {
        "RNN": layers.RNN(UNITS, UNITS),
        "attention": Attention(UNITS, UNITS, heads=2, context=FAR),
        "residual": Residual(UNITS, UNITS, scale=1.0),
        "highway": Highway(UNITS, UNITS, gate_bias=2.0),
        "residual, scaled": Residual(UNITS, UNITS, scale=0.5 / FAR**0.5),
        "highway, 4": Highway(UNITS, UNITS, gate_bias=4.0),
    }


@claim(
    id="C17",
    source="C",
    place="conceptual connections: attention, ResNets, highway networks",
    statement="The gradient's way to a step k back has length 1 under attention and k through an RNN; "
    "residual and highway connections shorten it likewise.",
    published="O(1) / O(T)",
    setting="no sizes are named; h + F(h), and a highway gate that starts at the paper's bias of "
    "-2",
    rule="untrained, 32 units, 128 steps, 3 seeds: the gradient at 127 steps back over that at 1 step "
    "back is under 1e-6 for the RNN, over 0.1 for attention, over 0.01 for residual and highway; ours, "
    "beside: F scaled by ½/√T, a gate that starts at -4, and neither decay nor growth by 100",
    why="a way of length 1 keeps the gradient whatever the distance, and a decay shows itself in "
    "the ratio of far to near",
)
def length_of_the_way() -> Measurement:
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        for name, layer in _layers(seed).items():
            found.setdefault(name, []).append(far_over_near(layer, seed))
    return Measurement(
        "far over near: "
        + "; ".join(f"{n} " + " / ".join(f"{v:.2g}" for v in vs) for n, vs in found.items()),
        {
            "RNN: falls with the distance": max(found["RNN"]) < 1e-6,
            "attention: does not": min(found["attention"]) > 0.1,
            "residual: does not decay": min(found["residual"]) > 0.01,
            "highway: does not decay": min(found["highway"]) > 0.01,
        },
        "A shortcut keeps what it lets through, times its gate at every step: a gate of 0.88, where "
        "the "
        "paper starts it, leaves 1e-7 of the direct way over 127 steps. And h + F(h) does not decay "
        "and does "
        "not come to rest: over many steps it grows, unless F is scaled down with their number.",
        found,
        beside={
            f"{name} keeps it": min(found[name]) > 0.01 and max(found[name]) < 100
            for name in ("residual", "residual, scaled", "highway, 4")
        },
    )
