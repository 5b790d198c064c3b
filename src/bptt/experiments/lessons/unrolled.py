"""The unrolled graph and the algebra on it: the diagram, BP1-BP4 beside BPTT, the exercises by hand."""

from __future__ import annotations

import math

import numpy as np
import torch

from bptt.experiments.claims.exact import autograd, random_language
from bptt.experiments.lessons.registry import (
    Curve,
    Level,
    Made,
    Note,
    Number,
    Panel,
    Table,
    remake,
    rounding,
)
from bptt.reference import language, rnn

# A diagram of outlines and arrows, in units of its own.


def _box(x: float, y: float, size: float, tone: str = "blue") -> Curve:
    """A square about a point."""
    r = size / 2
    return Curve(
        "", [x - r, x + r, x + r, x - r, x - r], [y - r, y - r, y + r, y + r, y - r], tone=tone
    )


def _arrow(
    x0: float, y0: float, x1: float, y1: float, tone: str = "ink", dash: str = ""
) -> list[Curve]:
    """A line with a head at its end."""
    long = math.hypot(x1 - x0, y1 - y0)
    ux, uy = (x1 - x0) / long, (y1 - y0) / long
    back, side = 0.32, 0.15
    left = (x1 - back * ux - side * uy, y1 - back * uy + side * ux)
    right = (x1 - back * ux + side * uy, y1 - back * uy - side * ux)
    head = Curve("", [left[0], x1, right[0]], [left[1], y1, right[1]], tone=tone)
    return [Curve("", [x0, x1], [y0, y1], tone=tone, dash=dash), head]


def sub(letter: str, index: int) -> str:
    """A letter with its index below: h₁."""
    return letter + str(index).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


WORD = "hello"


@remake(
    name="unrolled",
    lesson="S1",
    lines=(46, 168),
    shows="the folded and the unrolled network, the backward arrows with the gradient that they carried",
    settings="the textbook's network of 4 units reading “hell”, to tell “ello”; random weights, seed 0 "
    "(ours)",
    seconds=1,
)
def unrolled() -> Made:
    letters = sorted(set(WORD))
    ids = [letters.index(c) for c in WORD]
    rng = np.random.default_rng(0)
    H, V, T = 4, len(letters), len(WORD) - 1
    shapes = [(H, V), (H, H), (H,), (V, H), (V,)]
    weights = language.LanguageWeights(*(0.6 * rng.normal(size=s) for s in shapes))
    run = language.forward(ids[:-1], ids[1:], np.zeros(H), weights)
    found = language.backward(run)
    carried = [float(np.linalg.norm(weights.w_h.T @ found.dz[t])) for t in range(1, T)]
    each = [
        float(np.abs(np.outer(found.dz[t], run.h[t - 1] if t else run.h0)).sum()) for t in range(T)
    ]
    total = sum(np.outer(found.dz[t], run.h[t - 1] if t else run.h0) for t in range(T))

    folded = [_box(0, 0, 2)]
    angle = np.linspace(-0.9, math.pi + 0.9, 40)
    folded.append(
        Curve(
            "", (1.5 + 0.7 * np.sin(angle)).tolist(), (0.7 * np.cos(angle)).tolist(), tone="orange"
        )
    )
    folded += _arrow(1.0, -0.62, 0.98, -0.6, "orange")
    folded += _arrow(0, -2.6, 0, -1.05) + _arrow(0, 1.05, 0, 2.6)
    words = [Note("cell", -0.45, -0.2, "blue"), Note("xₜ", 0.3, -2.4), Note("ℓₜ", 0.4, 2.2),
             Note("hₜ", 2.3, 0, "orange")]  # fmt: skip
    curves, notes = [], []
    for t in range(T):
        x = 4.0 * t
        curves += [_box(x, 0, 2), *_arrow(x, -2.6, x, -1.05), *_arrow(x, 1.05, x, 2.6)]
        notes += [
            Note("cell", x - 0.6, -0.2, "blue"), Note(f"{sub('x', t + 1)} = {WORD[t]}", x + 0.35, -2.5),
            Note(f"{sub('ℓ', t + 1)} = {run.losses[t]:.2f}", x + 0.45, 2.2),
        ]  # fmt: skip
        if t:
            curves += _arrow(x - 2.95, 0.5, x - 1.05, 0.5, "orange")
            curves += _arrow(x - 1.05, -0.5, x - 2.95, -0.5, "green", "dashed")
            notes += [
                Note(sub("h", t), x - 2.3, 0.65, "orange"),
                Note(f"{carried[t - 1]:.3f}", x - 2.7, -1.3, "green"),
            ]
    curves += _arrow(-3, 0.5, -1.05, 0.5, "orange")
    notes.append(Note(sub("h", 0), -2.6, 0.65, "orange"))
    return Made(
        [
            *(
                Number(f"carried_{t}", f"norm of the gradient handed from step {t + 1} to step {t}", norm)
                for t, norm in enumerate(carried, 1)
            ),
            *(
                Number(f"use_{t}", f"sum of sizes of ΔW_h at step {t}", size)
                for t, size in enumerate(each, 1)
            ),
            rounding(
                "error", "the uses' sum and BPTT's ∂L/∂W_h differ by at most",
                float(np.abs(total - found.dw_h).max()),
            ),
        ],
        [
            "Each copy of the cell has the same weights. Forward, a state goes to the right; backward, "
            "what "
            "all later losses say about it comes back along the dashed arrows, and every copy adds its "
            "share "
            "to the one gradient. The first has none of W_h, as it met h0 = 0.",
        ],
        [
            Panel("Folded", folded, notes=words, xlim=(-3.4, 4.2), ylim=(-3, 3), bare=True),
            Panel(
                f"Unrolled over {T} steps", curves, notes=notes, xlim=(-3.2, 4.0 * T - 0.6),
                ylim=(-3, 3), bare=True,
            ),
        ],
    )  # fmt: skip


def _feedforward(rng: np.random.Generator, L: int, H: int) -> tuple[dict[str, float], np.ndarray]:
    """BP1 to BP4 on a tanh network of L layers, each with its own weights; differences from autograd."""
    W = [rng.normal(size=(H, H)) / math.sqrt(H) for _ in range(L)]
    b = [0.1 * rng.normal(size=H) for _ in range(L)]
    x, y = rng.normal(size=H), rng.normal(size=H)
    a = [x]
    for w, bias in zip(W, b, strict=True):
        a.append(np.tanh(w @ a[-1] + bias))
    delta = {L: (a[L] - y) * (1 - a[L] ** 2)}  # BP1, of C = ½‖a - y‖²
    for layer in range(L - 1, 0, -1):  # BP2
        delta[layer] = (W[layer].T @ delta[layer + 1]) * (1 - a[layer] ** 2)
    tw, tb = ([torch.tensor(v, requires_grad=True) for v in of] for of in (W, b))
    z: list[torch.Tensor] = []
    state = torch.tensor(x)
    for matrix, shift in zip(tw, tb, strict=True):
        z.append(matrix @ state + shift)
        state = torch.tanh(z[-1])
    cost = 0.5 * (state - torch.tensor(y)).square().sum()
    grads = [g.numpy() for g in torch.autograd.grad(cost, [*z, *tb, *tw])]
    dz, db, dw = grads[:L], grads[L : 2 * L], grads[2 * L :]

    def worst(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
        return max(float(np.abs(o - t).max()) for o, t in zip(ours, theirs, strict=True))

    deltas = [delta[n] for n in range(1, L + 1)]
    return {
        "1": worst(deltas[-1:], dz[-1:]),
        "2": worst(deltas[:-1], dz[:-1]),
        "3": worst(deltas, db),
        "4": worst([np.outer(d, before) for d, before in zip(deltas, a, strict=False)], dw),
    }, deltas[0]


@remake(
    name="bp-equations",
    lesson="S1",
    lines=(204, 262),
    shows="BP1 to BP4 of a feedforward network beside the equations of BPTT, each checked in numbers",
    settings="tanh, 6 layers of 5 units, each with weights of its own; and one cell of 5 units over 6 "
    "steps, 4 "
    "symbols, a loss at every step; random weights, seed 0 (ours); float64, against autograd",
    seconds=1,
)
def equations() -> Made:
    rng = np.random.default_rng(0)
    forward, _ = _feedforward(rng, L=6, H=5)
    run = random_language(rng, T=6, V=4, H=5)
    ours, theirs = language.backward(run), autograd(run)
    w = run.weights
    last = (w.w_y.T @ ours.ds[-1]) * (1 - run.h[-1] ** 2)
    inner = [
        (w.w_h.T @ ours.dz[t + 1] + w.w_y.T @ ours.ds[t]) * (1 - run.h[t] ** 2) for t in range(5)
    ]
    uses = [np.outer(ours.dz[t], run.h[t - 1] if t else run.h0) for t in range(6)]
    through = {
        "1": float(np.abs(last - ours.dz[-1]).max()),
        "2": max(float(np.abs(d - ours.dz[t]).max()) for t, d in enumerate(inner)),
        "3": float(np.abs(ours.dz.sum(0) - theirs["b"]).max()),
        "4": max(
            float(np.abs(sum(uses) - theirs["w_h"]).max()),
            float(np.abs(np.stack(uses) - theirs["uses"]).max()),
        ),
    }
    rows = (
        ("BP1", "δ^L = ∇C ⊙ σ′(z^L)", "δ_T = (∂ℓ_T/∂h_T) ⊙ (1 − h_T²)", "where it begins"),
        (
            "BP2", "δ^l = (W^(l+1))ᵀ δ^(l+1) ⊙ σ′(z^l)", "δ_t = (W_hᵀ δ_(t+1) + ∂ℓ_t/∂h_t) ⊙ (1 − h_t²)",
            "one W at all steps; a loss joins in at each",
        ),
        ("BP3", "∂C/∂b^l = δ^l", "∂L/∂b_h = Σ_t δ_t", "a sum, as b_h is used T times"),
        (
            "BP4", "∂C/∂W^l = δ^l (a^(l−1))ᵀ", "∂L/∂W_h = Σ_t δ_t h_(t−1)ᵀ, ∂L/∂W_x = Σ_t δ_t x_tᵀ",
            "likewise",
        ),
    )  # fmt: skip
    numbers = []
    for n in ("1", "2", "3", "4"):
        numbers += [
            rounding(f"forward_{n}", f"BP{n}, feedforward: differs from autograd by", forward[n]),
            rounding(f"through_{n}", f"BP{n}, through time: differs from autograd by", through[n]),
        ]
    return Made(
        numbers,
        [
            "Line by line they are the same four equations. Through time there are two changes: a loss "
            "stands "
            "at every step, so BP2 has a second term; and all layers share their weights, so BP3 and "
            "BP4 are "
            "sums over the steps. Each term of the last sum is what autograd gives a copy of W_h that "
            "is used "
            "at that step alone.",
        ],
        tables=[
            Table(
                "Feedforward and through time",
                ("", "feedforward", "through time", "what differs"),
                rows,
            )
        ],
    )


@remake(
    name="exercise-33.1",
    lesson="S1",
    lines=(987, 987),
    shows="exercise 33.1: ∂L/∂W_x has the same products of Jacobians, and vanishes as ∂L/∂W_h does",
    settings="the textbook's network, 16 units, 8 symbols, 40 steps, W_h = 0.6·N(0,1)/√16, the loss at "
    "the last step "
    "split by the step whose use of the weight it reaches; seed 0 (ours)",
    seconds=1,
)
def input_weights() -> Made:
    rng = np.random.default_rng(0)
    T, H, V = 40, 16, 8
    w = language.LanguageWeights(
        rng.normal(size=(H, V)) / math.sqrt(H), 0.6 * rng.normal(size=(H, H)) / math.sqrt(H),
        np.zeros(H), rng.normal(size=(V, H)) / math.sqrt(H), np.zeros(V),
    )  # fmt: skip
    tokens, targets = rng.integers(0, V, T), rng.integers(0, V, T)
    run = language.forward(tokens, targets, np.zeros(H), w)
    parts = [language.pair(run, T - 1, T - 1 - lag) for lag in range(T)]
    sizes = {
        "∂ℓ_T/∂W_x": [float(np.linalg.norm(part.dw_x)) for part in parts],
        "∂ℓ_T/∂W_h": [float(np.linalg.norm(part.dw_h)) for part in parts[:-1]],
    }
    every = sum(language.pair(run, t, k).dw_x for t in range(T) for k in range(t + 1))
    factors = {n: (of[35] / of[0]) ** (1 / 35) for n, of in sizes.items()}
    return Made(
        [
            rounding(
                "error", "sum of all products and autograd's ∂L/∂W_x differ by at most",
                float(np.abs(every - autograd(run)["w_x"]).max()),
            ),
            Number("factor_x", "factor a step, ∂ℓ_T/∂W_x, over 35 steps", factors["∂ℓ_T/∂W_x"]),
            Number("factor_h", "factor a step, ∂ℓ_T/∂W_h, over 35 steps", factors["∂ℓ_T/∂W_h"]),
            Number(
                "left_x", "∂ℓ_T/∂W_x: 35 steps back over the last step",
                sizes["∂ℓ_T/∂W_x"][35] / sizes["∂ℓ_T/∂W_x"][0],
            ),
        ],
        [
            "W_x enters the loss of step t through every earlier z_k = W_h h_(k−1) + W_x x_k + b. The "
            "way from "
            "ℓ_t back to z_k does not care what multiplied what inside z_k: it is ∂ℓ_t/∂h_t times the "
            "product "
            "of the Jacobians diag(1 − h_j²) W_h from j = k+1 to t, times diag(1 − h_k²). Only the "
            "last factor "
            "differs, x_kᵀ in place of h_(k−1)ᵀ.",
            "So ∂L/∂W_x = Σ_t Σ_(k≤t) (the same product) x_kᵀ. What the product loses, both lose: the "
            "two "
            f"curves fall by {factors['∂ℓ_T/∂W_x']:.2f} and {factors['∂ℓ_T/∂W_h']:.2f} a step. A first "
            "symbol far back teaches neither how to keep it nor how to read it.",
        ],
        [
            Panel(
                "What the last loss sends to each use",
                [Curve(name, range(len(of)), of) for name, of in sizes.items()],
                x="steps back", y="norm", log=True,
            )
        ],
    )  # fmt: skip


@remake(
    name="exercise-33.2",
    lesson="S1",
    lines=(989, 989),
    shows="exercise 33.2: without the nonlinearity the product is W_h^(t−k), and its eigenvalues decide",
    settings="16 units: W_h orthogonal times 0.9, 1 and 1.1, a Gaussian one scaled to radius 0.9, a "
    "shear "
    "of radius 0.6; 60 steps; seed 0 (ours)",
    seconds=1,
)
def linear() -> Made:
    rng = np.random.default_rng(0)
    H, T = 16, 60
    q, r = np.linalg.qr(rng.normal(size=(H, H)))
    q = q * np.sign(np.diag(r))
    g = rng.normal(size=(H, H))
    g *= 0.9 / np.abs(np.linalg.eigvals(g)).max()
    # A shear: all eigenvalues 0.6, and a norm that grows at first.
    shear = 0.6 * np.eye(H) + np.diag(np.full(H - 1, 0.5), 1)
    matrices = {"orthogonal · 0.9": 0.9 * q, "orthogonal": q, "orthogonal · 1.1": 1.1 * q,
                "Gaussian, ρ = 0.9": g, "shear, ρ = 0.6": shear}  # fmt: skip
    norms = {
        name: [float(np.linalg.norm(np.linalg.matrix_power(w, k), 2)) for k in range(1, T + 1)]
        for name, w in matrices.items()
    }
    weights = rnn.Weights(rng.normal(size=(H, 2)), g, np.zeros(H), np.zeros(H))
    run = rnn.forward(rng.normal(size=(20, 1, 2)), np.zeros((1, H)), weights, nonlinearity="linear")
    product = np.eye(H)
    for t in range(20):
        product = rnn.jacobian(run, t)[0] @ product
    error = float(np.abs(product - np.linalg.matrix_power(g, 20)).max())
    radius = float(np.abs(np.linalg.eigvals(product)).max()) / 0.9**20
    names = ("orthogonal_9", "orthogonal", "orthogonal_11", "gaussian", "shear")
    return Made(
        [
            rounding("error", "product of 20 Jacobians and W_h^20 differ by at most", error),
            rounding(
                "eigen", "its largest eigenvalue differs from ρ^20 by a share", abs(radius - 1), 1e-9,
            ),
            *(
                Number(f"norm_{key}", f"{name}: norm of the 60th power", of[-1])
                for key, (name, of) in zip(names, norms.items(), strict=True)
            ),
            Number(
                "peak_shear", "shear, ρ = 0.6: largest norm of any power",
                max(norms["shear, ρ = 0.6"]), again=1e-3,
            ),
        ],
        [
            "∂h_t/∂h_(t−1) is W_h itself, whatever the states, so the product is W_h^(t−k), and with "
            "W_h = V Λ V⁻¹ it is V Λ^(t−k) V⁻¹: along eigenvector i a gradient is multiplied by "
            "λ_i^(t−k). It "
            "vanishes along every direction if all |λ_i| < 1, and explodes along some if one |λ_i| > "
            "1; with "
            "all |λ_i| = 1 and W_h normal it is kept.",
            "That is in the end. Where W_h is not normal, V⁻¹ and V are no rotations, and the norm may "
            "grow "
            f"for a while although every eigenvalue is below 1: to {max(norms['shear, ρ = 0.6']):.3g} "
            "for the "
            "shear.",
        ],
        [
            Panel(
                "Norm of W_h^k",
                [Curve(name, range(1, T + 1), of) for name, of in norms.items()],
                x="steps back, k", y="norm", log=True, levels=[Level("1", y=1)],
            )
        ],
    )  # fmt: skip


@remake(
    name="exercise-33.4",
    lesson="S1",
    lines=(993, 999),
    shows="exercise 33.4: BPTT by hand for three steps, with every number, beside autograd",
    settings="2 units, one input; W_h = [[0.5, −0.3], [0.8, 0.2]], W_x = (1, −0.5), b_h = (0.1, −0.2), "
    "x = (1, −0.5, 0.25), y_3 = h_3 · (1, −1), target 0.5, L = ½ (y_3 − 0.5)² (numbers of our own)",
    seconds=1,
)
def three_steps() -> Made:
    W = np.array([[0.5, -0.3], [0.8, 0.2]])
    u, b, v = np.array([1.0, -0.5]), np.array([0.1, -0.2]), np.array([1.0, -1.0])
    x, target = (1.0, -0.5, 0.25), 0.5
    h = [np.zeros(2)]
    for value in x:
        h.append(np.tanh(W @ h[-1] + u * value + b))
    y = float(v @ h[3])
    loss = 0.5 * (y - target) ** 2
    delta = {3: (y - target) * v * (1 - h[3] ** 2)}
    for t in (2, 1):
        delta[t] = (W.T @ delta[t + 1]) * (1 - h[t] ** 2)
    terms = {t: np.outer(delta[t], h[t - 1]) + 0.0 for t in (3, 2, 1)}
    by_hand = np.sum([*terms.values()], axis=0)

    weight = torch.tensor(W, requires_grad=True)
    state = torch.zeros(2, dtype=torch.float64)
    for value in x:
        state = torch.tanh(weight @ state + torch.tensor(u) * value + torch.tensor(b))
    (auto,) = torch.autograd.grad(0.5 * (torch.tensor(v) @ state - target) ** 2, weight)

    def shown(values: np.ndarray) -> str:
        return "[" + ", ".join(f"{n + 0.0:+.6f}" for n in np.ravel(values)) + "]"

    rows = [
        (f"h_{t}", "tanh(W_h h_" + f"{t - 1} + W_x x_{t} + b_h)", shown(h[t])) for t in (1, 2, 3)
    ]
    rows += [("y_3", "(1, −1) · h_3", f"{y:+.6f}"), ("L", "½ (y_3 − 0.5)²", f"{loss:+.6f}")]
    rows += [("δ_3", "(y_3 − 0.5) (1, −1) ⊙ (1 − h_3²)", shown(delta[3]))]
    rows += [(f"δ_{t}", f"W_hᵀ δ_{t + 1} ⊙ (1 − h_{t}²)", shown(delta[t])) for t in (2, 1)]
    rows += [(f"use at step {t}", f"δ_{t} h_{t - 1}ᵀ", shown(terms[t])) for t in (3, 2, 1)]
    rows += [("∂L/∂W_h", "their sum", shown(by_hand)), ("", "autograd", shown(auto.numpy()))]
    return Made(
        [
            Number("loss", "L", loss),
            *(
                Number(f"dw_{i + 1}{j + 1}", f"∂L/∂W_h, entry {i + 1}, {j + 1}", by_hand[i, j])
                for i in range(2)
                for j in range(2)
            ),
            rounding(
                "error", "by hand and by autograd it differs by at most",
                float(np.abs(by_hand - auto.numpy()).max()),
            ),
        ],
        [
            "Three uses, three terms. The use at step 1 adds nothing, because it multiplied h_0 = 0; "
            "the use "
            "at step 2 reaches the loss through one Jacobian, the use at step 3 through none.",
        ],
        tables=[Table("Every number; matrices row by row", ("what", "formula", "value"), rows)],
    )  # fmt: skip
