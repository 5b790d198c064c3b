"""Products of Jacobians and powers of a factor: what a gradient is multiplied by on its way back."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from bptt.experiments.claims.decay import AT, STEPS, UNITS, gaussian, orthogonal, trials
from bptt.experiments.claims.learn import SYMBOLS, Last, remember_first
from bptt.experiments.lessons.registry import Curve, Level, Made, Number, Panel, Table, remake
from bptt.probes import state_gradients
from bptt.recurrence import trace


@remake(
    name="jacobian-products",
    lesson="S1",
    lines=(316, 397),
    shows="norm of a product of 1 to 50 Jacobians for the lesson's two matrices, N(0,1) times 0.3 and "
    "0.7",
    settings="32 units; both matrices from NumPy's older generator with seed 42, one after the other; "
    "states "
    "tanh(N(0,1)) from default_rng(T) for the product of T; Frobenius norm",
    seconds=1,
)
def products() -> Made:
    H, longest = 32, 50
    rng = np.random.RandomState(42)  # what numpy.random.seed(42) seeds
    matrices = {0.3: 0.3 * rng.randn(H, H), 0.7: 0.7 * rng.randn(H, H)}
    # Beside them, one that does vanish: the first matrix at the scale that its width asks for.
    matrices[0.1] = matrices[0.3] / 3
    norms = {scale: _norms_by_length(w, longest) for scale, w in matrices.items()}
    sigma = {s: float(np.linalg.norm(w, 2)) for s, w in matrices.items()}
    radius = {s: float(np.abs(np.linalg.eigvals(w)).max()) for s, w in matrices.items()}
    steps = range(1, longest + 1)

    def panel(title: str, scales: tuple[float, ...]) -> Panel:
        curves = [Curve(f"W = {s}·N(0,1)", steps, norms[s]) for s in scales]
        bounds = [
            Curve(f"bound {sigma[s]:.2f}^k", steps, [sigma[s] ** k for k in steps]) for s in scales
        ]
        return Panel(
            title, curves + bounds, x="Jacobians multiplied, t − k", y="Frobenius norm", log=True,
            levels=[Level("1", y=1)],
        )  # fmt: skip

    return Made(
        [
            Number("sigma_3", "σ_max of 0.3·N(0,1)", sigma[0.3], 3.114, 5e-4),
            Number("sigma_7", "σ_max of 0.7·N(0,1)", sigma[0.7], 7.628, 5e-4),
            Number("norm_3", "norm of 50 Jacobians, 0.3", norms[0.3][-1], 1.46e3, 5),
            Number("norm_7", "norm of 50 Jacobians, 0.7", norms[0.7][-1], 2.49e21, 5e18),
            Number(
                "does_3",
                "what 0.3 does over 50 steps",
                "explodes" if norms[0.3][-1] > 1 else "vanishes",
                "vanishes",
                why="the figure comes out and its label does not: what has grown a thousandfold "
                "has exploded",
            ),
            Number(
                "does_7",
                "what 0.7 does over 50 steps",
                "explodes" if norms[0.7][-1] > 1 else "vanishes",
                "explodes",
            ),
            Number("radius_3", "spectral radius of 0.3·N(0,1)", radius[0.3]),
            Number("radius_7", "spectral radius of 0.7·N(0,1)", radius[0.7]),
            Number("sigma_1", "σ_max of 0.1·N(0,1)", sigma[0.1]),
            Number("radius_1", "spectral radius of 0.1·N(0,1)", radius[0.1]),
            Number("norm_1", "norm of 50 Jacobians, 0.1", norms[0.1][-1]),
        ],
        [
            "Every published figure comes out. The lesson calls 0.3 the case that vanishes; its own "
            "table has "
            f"it grow to {norms[0.3][-1]:.3g}. Both matrices explode, as σ_max = 3.11 lets them.",
            "A Gaussian matrix of 32 units has radius 1 at an entry of 1/√32 = 0.18. At 0.1 the "
            "product does "
            f"vanish, to {norms[0.1][-1]:.1g}, though σ_max = {sigma[0.1]:.2f} > 1: a bound above 1 "
            "promises "
            "nothing either way.",
        ],
        [panel("The lesson's two", (0.3, 0.7)), panel("One that vanishes", (0.1,))],
    )


def _norms_by_length(w: np.ndarray, longest: int) -> list[float]:
    found = []
    for T in range(1, longest + 1):
        rng, product = np.random.default_rng(T), np.eye(len(w))
        for _ in range(T):
            h = np.tanh(rng.normal(0, 1, len(w)))
            product = (1 - h**2)[:, None] * w @ product
        found.append(float(np.linalg.norm(product)))
    return found


@remake(
    name="gradient-by-step",
    lesson="S1",
    lines=(589, 683),
    shows="norm of the loss's gradient by the state at every step, T = 10 and T = 50, one sequence, "
    "untrained",
    settings="32 units as torch starts them, drawn after torch.manual_seed(42) in the lesson's order; "
    "sequence "
    "from default_rng(42); cross entropy of the first symbol at the end",
    seconds=1,
)
def by_step() -> Made:
    torch.manual_seed(42)
    found: dict[int, list[float]] = {}
    for T in (10, 50):
        model = Last(nn.RNN(SYMBOLS, 32), 32, SYMBOLS)
        Last(
            nn.RNN(SYMBOLS, 32), 32, SYMBOLS
        )  # the lesson draws a second network and overwrites it
        x, target = remember_first(1, T, 42)
        (run,) = trace(model.layer, x)
        last = run.after[0][-1].detach().requires_grad_()
        loss = nn.functional.cross_entropy(model.linear(last), target)
        direct = torch.zeros_like(run.after[0])
        (direct[-1],) = torch.autograd.grad(loss, last)
        found[T] = state_gradients(run, (direct,)).together[:, 0].tolist()
    shares = {T: norms[0] / norms[-1] for T, norms in found.items()}
    factor = {T: share ** (1 / (T - 1)) for T, share in shares.items()}
    return Made(
        [
            Number("share_10", "T = 10: first step's norm over the last's", shares[10], again=1e-3),
            Number("share_50", "T = 50: first step's norm over the last's", shares[50], again=1e-3),
            Number("factor_10", "T = 10: factor a step, mean", factor[10], again=1e-3),
            Number("factor_50", "T = 50: factor a step, mean", factor[50], again=1e-3),
            Number("first_50", "T = 50: norm at the first step", found[50][0], again=1e-3),
        ],
        [
            f"The gradient loses the same factor a step at both lengths, about {factor[50]:.2f}: only "
            "how often "
            f"differs. After 9 steps {shares[10]:.2g} is left of it, after 49 {shares[50]:.1g}.",
            "That is what the spectral radius of torch's start, 0.58, leaves after the slope of tanh "
            "has taken "
            "its part. The last row is small, not zero: float32 holds it.",
        ],
        [
            Panel(
                f"T = {T}", [Curve("‖∂L/∂h_t‖", range(T), norms, tone="blue" if T == 10 else "orange")],
                x="step t", y="norm", log=True, ylim=(1e-14, 2), levels=[Level("first symbol", x=0)],
            )
            for T, norms in found.items()
        ],
    )  # fmt: skip


@remake(
    name="gradient-decay",
    lesson="S2",
    lines=(592, 676),
    shows="gradient norm by time step of random tanh RNNs, mean of 20 trials: the measured decay",
    settings="80 steps, 64 units, one input, W_h = 0.9·N(0,1)/8, W_x = 0.1·N(0,1), unit cotangent at "
    "the last "
    "step, NumPy's older generator with seed 7, 20 trials",
    seconds=1,
)
def decay() -> Made:
    runs = trials(gaussian)
    mean, middle = runs.mean(0), np.median(runs, 0)
    wide = {i: trials(gaussian, inputs=i).mean(0) for i in (16, 64)}
    why = {
        79: "the norm of the cotangent the code starts with, 64 numbers of 1/8, is 1",
        60: "the code's own settings give this; 16 inputs in place of one give "
        f"{wide[16][60]:.3g}, nearer to what is printed",
        40: f"with 16 inputs in place of one it is {wide[16][40]:.2g}",
        20: "the mean is carried by the few trials whose matrix has a radius near 1",
        0: "as at step 20; the median trial has " + f"{middle[0]:.1g}",
    }
    published = {
        79: (0.4821, 5e-5),
        60: (0.004312, 5e-7),
        40: (3.1e-5, 5e-7),
        20: (0, 5e-7),
        0: (0, 5e-9),
    }
    ratio = float(mean[0] / mean[79])
    return Made(
        [
            Number(f"step_{t}", f"gradient norm at step {t}", mean[t], *published[t], why[t])
            for t in AT
        ]
        + [
            Number(
                "ratio", "step 0 over step 79", ratio, 3.2e-9, 1e-10,
                "the printed numbers do not come from the printed code: with its one input they are a "
                "million times larger",
            ),
            Number("median_0", "the median trial's norm at step 0", middle[0], again=1e-3),
            Number("ratio_16", "step 0 over step 79, 16 inputs", wide[16][0] / wide[16][79], again=1e-3),
            Number("ratio_64", "step 0 over step 79, 64 inputs", wide[64][0] / wide[64][79], again=1e-3),
        ],
        [
            "The gradient does fall exponentially, and none of the printed figures comes out of the "
            "printed "
            "settings. What decides is how hard the input drives tanh into saturation: 16 inputs fall "
            "about "
            "as fast as the lesson says, one input far more slowly.",
            "A mean of norms is a mean of exponentials, so a few trials make it. The median trial has "
            "lost "
            f"{1 / middle[0]:,.0f} times after 79 steps, the mean {1 / mean[0]:,.0f} times.",
        ],
        [
            Panel(
                "Gradient norm by time step",
                [
                    Curve("mean of 20 trials", range(STEPS), mean),
                    Curve("median trial", range(STEPS), middle),
                    Curve("mean, 16 inputs", range(STEPS), wide[16]),
                    Curve("published", list(AT[:3]), [published[t][0] for t in AT[:3]], "dots", "ink"),
                ],
                x="time step", y="norm", log=True, ylim=(1e-9, 3),
            ),
            Panel(
                "Each trial",
                [Curve("", range(STEPS), run, tone="blue", dash="") for run in runs],
                x="time step", y="norm", log=True, ylim=(1e-9, 3),
            ),
        ],
    )  # fmt: skip


def _scaled(size: float) -> Callable[[np.random.RandomState], np.ndarray]:
    return lambda rng: size * rng.randn(UNITS, UNITS)


def _near_identity(rng: np.random.RandomState) -> np.ndarray:
    return np.eye(UNITS) + 0.01 * rng.randn(UNITS, UNITS)


def _identity(rng: np.random.RandomState) -> np.ndarray:
    rng.randn(UNITS, UNITS)  # the inputs that follow are those of the other starts
    return np.eye(UNITS)


def _torch(rng: np.random.RandomState) -> np.ndarray:
    return rng.uniform(-1, 1, (UNITS, UNITS)) / math.sqrt(UNITS)


STARTS: dict[str, Callable[[np.random.RandomState], np.ndarray]] = {
    "small 0.01": _scaled(0.01),
    "torch's": _torch,
    "0.9 Gaussian": gaussian,
    "identity + 0.01": _near_identity,
    "identity": _identity,
    "orthogonal": orthogonal,
}


@remake(
    name="starts",
    lesson="S2",
    lines=(709, 736),
    shows="the table of starts: small, identity, orthogonal, and what each leaves of a gradient after "
    "79 steps",
    settings="as gradient-decay: 80 steps, 64 units, one input, 20 trials, seed 7; tanh and ReLU; "
    "near-identity "
    "with ε = 0.01 (the lesson leaves it open: ours)",
    seconds=3,
)
def starts() -> Made:
    left: dict[str, dict[str, np.ndarray]] = {"tanh": {}, "ReLU": {}}
    sizes, radii = {}, {}
    for name, start in STARTS.items():
        for kind, of in left.items():
            # The median: a mean of exponentials is one trial's.
            of[name] = np.median(trials(start, relu=kind == "ReLU"), 0)
        w = start(np.random.RandomState(7))
        sizes[name] = np.linalg.svd(w, compute_uv=False)
        radii[name] = float(np.abs(np.linalg.eigvals(w)).max())
    rows = [
        (
            name, f"{sizes[name].min():.2g} to {sizes[name].max():.3g}", f"{radii[name]:.2f}",
            *(f"{left[kind][name][0]:.2g}" for kind in left),
        )
        for name in STARTS
    ]  # fmt: skip
    keys = {
        name: name.split()[0].replace("0.9", "gaussian").replace("torch's", "torch")
        for name in STARTS
    }
    keys["identity + 0.01"] = "near_identity"
    numbers = [
        Number(
            f"{keys[name]}_{kind.lower()}", f"{name}, {kind}: median norm at step 0", of[name][0],
            again=1e-2,
        )
        for kind, of in left.items()
        for name in STARTS
    ]  # fmt: skip
    ones = sizes["orthogonal"]
    numbers += [
        Number("singular_low", "orthogonal: smallest singular value", ones.min(), 1.0, 1e-12),
        Number("singular_high", "orthogonal: largest singular value", ones.max(), 1.0, 1e-12),
    ]

    def panel(kind: str) -> Panel:
        curves = [Curve(name, range(STEPS), of.tolist()) for name, of in left[kind].items()]
        return Panel(
            f"{kind}: median of 20 trials", curves, x="time step", y="gradient norm", log=True,
            ylim=(1e-12, 1e3),
        )  # fmt: skip

    return Made(
        numbers,
        [
            "Small entries forget at once. An orthogonal matrix neither grows nor shrinks a gradient by "
            "itself, and under tanh the slope still takes its share at every step: the fall is slower "
            "and "
            f"remains a fall, {left['tanh']['orthogonal'][0]:.1g} after 79 steps. The identity keeps "
            f"{left['tanh']['identity'][0]:.2f}, as each state moves little under this small input; an "
            "ε of "
            f"0.01 already lifts its radius to {radii['identity + 0.01']:.2f}, and the gradient grows.",
            "Under ReLU the slope is 0 or 1. The identity keeps the gradient of a unit whole as long "
            "as the "
            f"unit is on: {left['ReLU']['identity'][20]:.2f} is left at step 20 and nothing at step 0, "
            "for of "
            "the units that are on at the end none was on from the start, under an input that is as "
            "often "
            "negative as positive. A random orthogonal matrix sends every path through units that are "
            "off.",
        ],
        [panel("tanh"), panel("ReLU")],
        [
            Table(
                "Starts of W_h, 64 units",
                ("start", "singular values", "radius", "left at step 0, tanh", "left at step 0, ReLU"),
                rows,
            )
        ],
    )  # fmt: skip


@remake(
    name="powers",
    lesson="S2",
    lines=(160, 821),
    shows="every power of a factor that the lesson states: 0.9, 0.95 and 0.99 over 50 to 200 steps",
    settings="arithmetic; each within one unit of its last digit",
    seconds=0,
)
def powers() -> Made:
    rows = [
        ("p90_99", 0.9, 99, 2.7e-5, 5e-7, "2.7e-5 is 0.9^100: a sequence of 100 has 99 Jacobians"),
        ("p95_99", 0.95, 99, 0.006, 5e-4, ""),
        ("p99_50", 0.99, 50, 0.60, 0.01, ""),
        ("p99_200", 0.99, 200, 0.13, 0.005, ""),
        ("p90_50", 0.9, 50, 0.005, 5e-4, ""),
        ("p90_100", 0.9, 100, 2.7e-5, 5e-7, ""),
    ]
    numbers = [Number(key, f"{r}^{n}", r**n, p, within, why) for key, r, n, p, within, why in rows]
    numbers += [
        Number("times_95", "1 / 0.95^99, times smaller", 0.95**-99, 160, 5),
        Number(
            "times_90", "1 / 0.9^99, times smaller", 0.9**-99, 27000, 500,
            "27,000 has the digits of 2.7e-5 without its inverse: 1 / 0.9^99 is "
            f"{0.9**-99:,.0f}, and 1 / 0.9^100 is {0.9**-100:,.0f}",
        ),
    ]  # fmt: skip
    return Made(
        numbers,
        [
            "Six of the eight come out. The other two are slips of arithmetic, not of the argument: "
            "one step "
            "too many, and an inverse that was not taken."
        ],
        [
            Panel(
                "A factor, again and again",
                [Curve(f"{r}", range(201), [r**n for n in range(201)]) for r in (0.99, 0.95, 0.9)],
                x="steps back",
                y="share left",
                log=True,
            )
        ],
    )


@remake(
    name="decay-table",
    lesson="S4",
    lines=(12, 18),
    shows="the table of what is left after T steps, ρ^T, for ρ = 0.9, 0.8, 0.7 and T = 10, 30, 100",
    settings="arithmetic; each within one unit of its last digit, ≈0 under 1e-6",
    seconds=0,
)
def decay_table() -> Made:
    factors, lengths = (0.9, 0.8, 0.7), (10, 30, 100)
    published = {
        10: ((0.387, 5e-4), (0.107, 5e-4), (0.028, 5e-4)),
        30: ((0.042, 5e-4), (0.001, 5e-4), (7e-5, 5e-6)),
        100: ((2.7e-5, 5e-7), (0.0, 1e-6), (0.0, 1e-6)),
    }
    numbers = []
    for T in lengths:
        for r, (printed, within) in zip(factors, published[T], strict=True):
            value = r**T
            wrong = abs(value - printed) > within
            why = ""
            if wrong:
                near = math.log(printed) / math.log(r)
                why = f"{printed:g} is {r}^{near:.1f}; {r}^{T} is {value:.3g}"
            numbers.append(Number(f"r{round(10 * r)}_{T}", f"{r}^{T}", value, printed, within, why))
    right = sum(bool(n.agrees) for n in numbers)
    return Made(
        numbers,
        [
            f"{right} of the nine entries are ρ^T. 0.387 is 0.9^9, what a sequence of 10 steps has "
            "between its "
            "first and its last state, in a table whose other entries count 10; 7e-5 is no power of "
            "0.7 that "
            "the table asks for. What it is there to show, that the last row is nothing, stands.",
        ],
        [
            Panel(
                "ρ^T",
                [Curve(f"ρ = {r}", range(1, 101), [r**T for T in range(1, 101)]) for r in factors]
                + [
                    Curve("published", [10] * 3 + [30] * 3 + [100],
                          [p for T in (10, 30) for p, _ in published[T]] + [2.7e-5], "dots", "ink")
                ],
                x="steps T", y="share left", log=True, ylim=(1e-9, 2),
            )
        ],
    )  # fmt: skip
