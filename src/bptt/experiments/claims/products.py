"""Claims about products of Jacobians, and about how long the gradient's way is."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from bptt import nn as layers
from bptt.experiments.claims.learn import SEEDS, weight
from bptt.experiments.claims.registry import Measurement, claim
from bptt.models import AttentionModel
from bptt.probes import jacobian_products
from bptt.recurrence import trace

# Claims about products of Jacobians: bounds, radius and norm, what grows and what shrinks.


@claim(
    id="B3",
    source="B",
    statement="The norm of a product of n Jacobians diag(1 - h²) W is at most σ_max(W)^n.",
    published="bound",
    rule="no product of 1…40 steps along real trajectories exceeds it by more than 1e-9 relative, "
    "for 20 random W with σ_max from 0.3 to 3",
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
    id="A3",
    source="A",
    statement="Spectral radius and largest singular value are one thing, so that either tells "
    "whether gradients vanish.",
    published="same",
    rule="W = ½I + ½·superdiagonal, n=23: the two within 1 %; and the factor by which the product "
    "changes over its first 10 steps within 5 % a step of the radius",
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
    statement="With 32 units and W ~ N(0,1)·0.3 the gradient vanishes, with ·0.7 it explodes: norm of "
    "the product of 50 Jacobians at random states.",
    published="“vanishing” 1.46e3, “exploding” 2.49e21; σ_max 3.114 and 7.628",
    rule="W from NumPy's older generator with seed 42, one after the other, states tanh(N(0,1)) from "
    "default_rng(50), Frobenius norm: the first is below 1, the second above; and both are the "
    "published figures to three digits",
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
        f"steps. Its spectral radius is {radii[0]:.2f}; entries of deviation 0.3 are large for 32 units, "
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
    statement="Scaled to spectral radius 0.5 a recurrence remembers nothing beyond about 15 steps, "
    "at 0.7 the limit is passed well before 50, at 1.15 the gradient explodes.",
    published="15; <50; explodes",
    rule="64 units, 3 random matrices, linear and tanh under N(0,1) input; memory ends where the "
    "product's norm stays under 1e-4: by step 20 at 0.5, by 50 at 0.7; explodes: over 100 at step 100",
)
def memory_by_radius() -> Measurement:
    parts: dict[str, bool | None] = {}
    words = []
    for kind in ("linear", "tanh"):
        for radius in (0.5, 0.7, 1.15):
            runs = [product_norms(radius, kind, seed) for seed in range(3)]
            ends = [lag_below(norms, 1e-4) for norms in runs]
            last = [float(norms[99]) for norms in runs]
            if radius > 1:
                parts[f"{kind}, ρ=1.15 explodes"] = min(last) > 100
                words.append(f"{kind} ρ=1.15: norm at step 100 {min(last):.2g} to {max(last):.2g}")
            else:
                limit = 20 if radius == 0.5 else 50
                parts[f"{kind}, ρ={radius} ends by {limit}"] = all(e and e <= limit for e in ends)
                words.append(f"{kind} ρ={radius}: ends at step {', '.join(map(str, ends))}")
    return Measurement(
        "; ".join(words),
        parts,
        "For the linear recurrence the radius decides. A tanh under input saturates: its slope "
        "takes a factor off at every step, so memory is shorter than the radius says and 1.15 need "
        "not explode.",
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


class Residual(nn.Module):
    """h_t = h_{t-1} + ½ tanh(W h_{t-1} + x_t) / √T: a shortcut past every step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(UNITS, UNITS)

    def forward(self, x: Tensor) -> Tensor:
        """The last state."""
        h = torch.zeros_like(x[0])
        for value in x:
            h = h + 0.5 * torch.tanh(self.weight(h) + value) / FAR**0.5
        return h


class Highway(nn.Module):
    """h_t = g ⊙ h_{t-1} + (1 - g) ⊙ tanh(W h_{t-1} + x_t), g = σ(U h_{t-1} + 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.gate = nn.Linear(UNITS, UNITS), nn.Linear(UNITS, UNITS)
        nn.init.constant_(self.gate.bias, 4.0)

    def forward(self, x: Tensor) -> Tensor:
        """The last state."""
        h = torch.zeros_like(x[0])
        for value in x:
            keep = torch.sigmoid(self.gate(h))
            h = keep * h + (1 - keep) * torch.tanh(self.weight(h) + value)
        return h


class Attention(nn.Module):
    """One block of causal attention; what it is differentiated by are the tokens' vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.model = AttentionModel(8, width=UNITS, heads=2, layers=1, context=FAR)

    def forward(self, x: Tensor) -> Tensor:
        """The last step's logits; ``x`` takes the place of the embedded tokens."""
        handle = self.model.embedding.register_forward_hook(lambda *_: x)
        try:
            return self.model(torch.zeros(x.shape[:2], dtype=torch.int64))[0][-1]
        finally:
            handle.remove()


class Plain(nn.Module):
    """A tanh RNN as torch starts it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = layers.RNN(UNITS, UNITS)

    def forward(self, x: Tensor) -> Tensor:
        """The last state."""
        return self.layer(x)[0][-1]


def far_over_near(kind: Callable[[], nn.Module], seed: int) -> float:
    """‖∂output/∂x‖ 127 steps back over that 1 step back, for a random cotangent at the end."""
    torch.manual_seed(seed)
    model = kind()
    x = torch.randn(FAR, 16, UNITS, requires_grad=True)
    output = model(x)
    (gradient,) = torch.autograd.grad(output, x, torch.randn_like(output))
    norms = gradient.flatten(1).norm(dim=1)
    return float(norms[0] / norms[-2])


@claim(
    id="C17",
    source="C",
    statement="The gradient's way to a step k back has length 1 under attention and k through an RNN; "
    "residual and highway connections shorten it likewise.",
    published="O(1) / O(T)",
    rule="untrained, 32 units, 128 steps, 3 seeds: the gradient at 127 steps back over that at 1 step "
    "back is under 1e-6 for the RNN, over 0.1 for attention, over 0.01 for residual and highway",
)
def length_of_the_way() -> Measurement:
    kinds = {"RNN": Plain, "attention": Attention, "residual": Residual, "highway": Highway}
    found = {name: [far_over_near(kind, s) for s in SEEDS] for name, kind in kinds.items()}
    return Measurement(
        "far over near: "
        + "; ".join(f"{n} " + " / ".join(f"{v:.2g}" for v in vs) for n, vs in found.items()),
        {
            "RNN: falls with the distance": max(found["RNN"]) < 1e-6,
            "attention: does not": min(found["attention"]) > 0.1,
            "residual: kept": min(found["residual"]) > 0.01,
            "highway: kept": min(found["highway"]) > 0.01,
        },
        "A shortcut keeps what it lets through, times its gate at every step: a gate of 0.98 leaves "
        "0.98^127 = 0.08. It shortens the way only as far as the gate is near 1.",
        found,
    )
