"""Claims about decay and growth: how a gradient falls, what gates do, what diverges."""

from __future__ import annotations

import math
import statistics

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt import nn as layers
from bptt import training
from bptt.experiments.claims.learn import (
    SEEDS,
    Last,
    adam,
    best_accuracy,
    percents,
    remember_first,
    sgd,
    tanh_rnn,
    weight,
)
from bptt.experiments.claims.registry import Measurement, claim
from bptt.probes import state_gradients
from bptt.recurrence import trace
from bptt.remedies import ClipNorm, start_forget_bias, start_recurrent

# Claims about how a random network's gradient falls from step to step.

STEPS, UNITS = 80, 64
AT = (79, 60, 40, 20, 0)


def gaussian(rng: np.random.RandomState) -> np.ndarray:
    """0.9·N(0,1)/√64."""
    return 0.9 * rng.randn(UNITS, UNITS) / math.sqrt(UNITS)


def orthogonal(rng: np.random.RandomState) -> np.ndarray:
    """Uniform over the orthogonal matrices."""
    q, r = np.linalg.qr(rng.randn(UNITS, UNITS))
    return q * np.sign(np.diag(r))


def trials(start, count: int = 20, inputs: int = 1, relu: bool = False) -> np.ndarray:
    """``(count, 80)``: ‖∂L/∂h_t‖ for a unit cotangent at the last step, under N(0,1) input, tanh or ReLU.

    Drawn as the source draws: NumPy's older generator, seed 7; W, W_x, then all inputs of a trial.
    """
    rng = np.random.RandomState(7)
    norms = np.empty((count, STEPS))
    for trial in norms:
        w, w_x, x = start(rng), 0.1 * rng.randn(UNITS, inputs), rng.randn(STEPS, inputs)
        h, states = np.zeros(UNITS), []
        for t in range(STEPS):
            z = w @ h + w_x @ x[t]
            h = np.maximum(z, 0) if relu else np.tanh(z)
            states.append(h)
        d = np.full(UNITS, 1 / math.sqrt(UNITS))
        for t in range(STEPS - 1, -1, -1):
            trial[t] = np.linalg.norm(d)
            d = w.T @ ((states[t] > 0 if relu else 1 - states[t] ** 2) * d)
    return norms


@claim(
    id="C4",
    source="C",
    place="empirically measuring gradient decay",
    statement="Norm of the gradient at steps 79, 60, 40, 20 and 0 of a random tanh RNN, from a unit "
    "cotangent at the last of 80 steps.",
    published=".4821, .004312, 3.1e-5, 0, 0; ratio of first to last 3.2e-9",
    setting="the source's code: one input, 64 units, 80 steps, 20 trials, seed 7, W = "
    "0.9·N(0,1)/√64, W_x = 0.1·N(0,1)",
    rule="the code's own output against the printed one: the norm of the unit cotangent to 4 "
    "digits; the "
    "others, which hang on the draw, within a factor of 3 (0 means under 1e-6), and so the ratio; "
    "wider "
    "inputs beside, in figures",
    why="the code is given with the output it is said to print, so the code's own output decides, "
    "with room for another draw",
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
        f"The printed output is not that code's. Run, it gives a ratio of {ratios[1]:.2g}, a mean "
        f"made by "
        f"the few trials whose W has a large radius (the median trial: {middle[0]:.2g}), and a unit "
        f"cotangent has norm 1 at the last step, not .4821. Ratios by the width of the input are "
        f"{words}: "
        f"the printed numbers are of the size that 16 inputs give from step 60 down.",
        {"norms": values[1], "ratios": {str(i): r for i, r in ratios.items()}},
    )


@claim(
    id="C8",
    source="C",
    place="empirically measuring gradient decay, last paragraph; weight initialization",
    statement="An orthogonal recurrent matrix has singular values of 1 only; with it the gradient "
    "falls more slowly than with a Gaussian one, though under tanh still exponentially.",
    published="slower",
    setting="as in the source's code, with an orthogonal W",
    rule="64 units as in C4, 20 trials: singular values 1 to 1e-12; the mean log ratio of first to "
    "last step is above the Gaussian's; it is negative, and the second half of the way loses at "
    "least half as much as the first",
    why="“slower but still exponential” is a comparison of two rates, and a rate that does not "
    "come to rest",
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
    place="33.4, gradient norm at each time step",
    statement="In an untrained RNN with the loss at the end the gradient at the first step is much "
    "smaller "
    "than at the last; with T=50 it is essentially zero.",
    published="≈0",
    setting="torch's start from seed 42, 32 units, one sequence from default_rng(42), T=10 and "
    "T=50, cross entropy at the end",
    rule="the source's seed and two more: the first step's share of the last's is under 1e-4 at "
    "T=50, and "
    "under a tenth at T=10",
    why="“essentially zero” is taken as under a ten-thousandth of what the last step gets",
)
def untrained_gradient() -> Measurement:
    shares: dict[int, list[float]] = {10: [], 50: []}
    falls: dict[int, list[float]] = {10: [], 50: []}
    for seed in (42, 43, 44):
        torch.manual_seed(seed)
        for T in shares:
            norms = _first_to_last(tanh_rnn(), *remember_first(1, T, 42))
            tanh_rnn()  # the source makes its model twice, and the second length draws after that
            shares[T].append(float(norms[0] / norms[-1]))
            falls[T].append(float((norms[1:] > norms[:-1]).double().mean()))
    words = {T: " / ".join(f"{s:.2g}" for s in kept) for T, kept in shares.items()}
    return Measurement(
        f"first step's share of the last's, seeds 42, 43, 44: T=10 {words[10]}; T=50 {words[50]}; "
        f"steps at "
        f"which the norm falls going back: {percents(falls[10])} and {percents(falls[50])}",
        {
            "T=50: near zero": max(shares[50]) < 1e-4,
            "T=10: much smaller": max(shares[10]) < 0.1,
        },
        "The fall is as steep with T=10: only its length differs.",
        {str(T): kept for T, kept in shares.items()},
    )


def _first_to_last(model: Last, x: Tensor, target: Tensor) -> Tensor:
    """``(T,)``: the norm of the gradient of the loss at the end by each state, one sequence."""
    (one,) = trace(model.layer, x)
    end = one.after[0][-1].detach().requires_grad_()
    (cotangent,) = torch.autograd.grad(F.cross_entropy(model.linear(end), target), end)
    direct = torch.zeros(len(x), 1, end.shape[-1])
    direct[-1] = cotangent
    return state_gradients(one, (direct,)).together[:, 0]


# Claims about gates: what an LSTM's cell does to the gradient, measured.

GATE_STEPS, GATE_UNITS = 400, 32


@claim(
    id="C7",
    source="C",
    place="questions and answers, 3",
    statement="Along an LSTM's cell ∂c_t/∂c_{t-1} is the forget gate, so gates near 1 carry the "
    "gradient over hundreds of steps.",
    published="f_t",
    setting="“when the forget gate is close to 1”",
    rule="float64, N(0,1) input: with the state h held, the Jacobian is diag(f) to 1e-12; the whole "
    "derivative differs from it by under 1 % in norm; the mean of ∂c_T/∂c_0 along the cell is over "
    "1 % after 200 steps with forget bias 6, a gate of .9975; ours, beside: bias 3, a gate of .953",
    why="a gate that is close to 1 over hundreds of steps is one within 1 % of 1: 200 steps at "
    "0.99 leave 13 %",
)
def cell_is_the_forget_gate() -> Measurement:
    error, beyond, lasts = 0.0, [], {}
    for bias in (0.0, 1.0, 3.0, 6.0):
        torch.manual_seed(0)
        layer = nn.LSTM(8, GATE_UNITS).double()
        start_forget_bias(layer, bias)
        gates, (held, whole) = _run(layer)
        error = max(error, float((held - torch.diag(gates[-1])).abs().max()))
        beyond.append(float((whole - held).norm() / held.norm()))
        along = gates.cumprod(0).mean(1)
        under = (along < 0.01).nonzero()
        lasts[bias] = int(under[0]) + 1 if len(under) else GATE_STEPS + 1
    words = ", ".join(
        f"bias {b:g}: {n if n <= GATE_STEPS else f'over {GATE_STEPS}'}" for b, n in lasts.items()
    )
    return Measurement(
        f"with h held: diag(f) to {error:.1g}; the way through h adds {100 * min(beyond):.2g} to "
        f"{100 * max(beyond):.2g} %; steps until 1 % is left along the cell: {words}",
        {
            "with h held, exactly f": error < 1e-12,
            "the whole derivative is f": max(beyond) < 0.01,
            "gates of .9975 (bias 6) carry 200 steps": lasts[6.0] > 200,
        },
        "The forget gate is the direct way only: c also acts on the next step through h and the other "
        f"gates. And “near 1” must be meant: bias 3 is a gate of {1 / (1 + math.exp(-3)):.3f}, which "
        f"leaves 1 % after {lasts[3.0]} steps; for T steps a gate of 1 - 1/T is needed, a bias of "
        f"log T.",
        {"steps_to_one_percent": {str(b): n for b, n in lasts.items()}},
        beside={"gates of .953 (bias 3) carry 200 steps": lasts[3.0] > 200},
    )


def _run(layer: nn.LSTM) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Forget gates ``(T, H)``, and the last step's ∂c_t/∂c_{t-1}: h held, and h following c."""
    W, U, b, d = (p.detach() for p in layer.parameters())
    h, c = torch.zeros(2, GATE_UNITS, dtype=torch.float64)
    output = torch.zeros(GATE_UNITS, dtype=torch.float64)
    gates = []
    for _ in range(GATE_STEPS):
        x = torch.randn(8, dtype=torch.float64)
        before = c

        def step(c: Tensor, h: Tensor, x: Tensor = x) -> tuple[Tensor, Tensor, Tensor]:
            i, f, g, o = (W @ x + b + U @ h + d).chunk(4)
            return f.sigmoid() * c + i.sigmoid() * g.tanh(), f.sigmoid(), o.sigmoid()

        gate = output  # o_{t-1}: h_{t-1} = o_{t-1} tanh(c_{t-1})
        c, f, output = step(c, h)
        last = before, h, gate, step
        gates.append(f)
        h = output * c.tanh()
    before, held, gate, step = last
    jacobian = torch.autograd.functional.jacobian
    fixed = jacobian(lambda c: step(c, held)[0], before)
    whole = jacobian(lambda c: step(c, gate * c.tanh())[0], before)
    return torch.stack(gates), (fixed, whole)


# Claims about growth without limit, and about what learning rates can and cannot do.


@claim(
    id="D2",
    source="D",
    place="why tanh, not ReLU",
    statement="With ReLU the hidden state can grow without limit; tanh keeps it within [-1, 1].",
    published="as said",
    setting="“after hundreds of steps”",
    rule="one random W with σ_max = 1.5, 64 units, 200 steps, 3 seeds: the ReLU state passes 1e6 and "
    "grows on; the tanh state never leaves [-1, 1]",
    why="“can” asks for one recurrence that does, and “bounded” for none that leaves the bound",
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


def _error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def _descend(kind: str, clip: float | None, seed: int) -> tuple[int | None, float, float]:
    """Update at which something was not finite first, largest gradient norm, share of |h| > 0.95."""
    torch.manual_seed(seed)
    T, layer = 60, layers.RNN(4, 32, nonlinearity=kind)
    model, held = Last(layer, 32, 1), None if clip is None else ClipNorm(clip)
    start_recurrent(layer, "gaussian+radius:1.6")
    x, y = torch.randn(T, 16, 4), torch.randn(16, 1)
    run, largest = sgd(0.01)(model.parameters()), 0.0
    for update, done in enumerate(training.fit(model, run, [(x, y)] * 100, _error, clip=held)):
        if not done.finite:
            return update, largest, math.nan
        largest = max(largest, done.norm)
    with torch.no_grad():
        saturated = float((layer(x)[0].abs() > 0.95).double().mean())
    return None, largest, saturated


@claim(
    id="E3",
    source="E",
    place="the exploding gradient case",
    statement="Exploding gradients that are not clipped end in NaN within a few steps; clipping "
    "prevents that.",
    published="NaN",
    setting="ρ(W_h) > 1; “within a few training steps”",
    rule="T=60, 32 units, spectral radius 1.6, SGD 0.01, 3 seeds, ReLU and tanh: not finite within 10 "
    "updates without clipping; finite for 100 updates clipped at 1",
    why="NaN and no NaN are seen at once; ten updates are a generous few",
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
    place="questions and answers, 7",
    statement="A larger learning rate does not cure vanishing; Adam helps and does so only in part.",
    published="no; in part",
    setting="“a bigger learning rate”, Adam; no task is named, so the remember-first of source B is "
    "taken, "
    "whose failure it explains",
    rule="512 sequences, batch 64, 100 epochs, the best accuracy on what is held out, 3 seeds: at "
    "T=30 and "
    "at T=50 no SGD rate from 0.01 to 1 gets above 60 % on any seed; at T=30 Adam (5e-3) gets 20 "
    "points "
    "farther on the mean than the best SGD; at T=50 it solves it (99 %) on no seed",
    why="“does not cure” asks that no rate learns it, “partially” that Adam gets farther and not "
    "all the way",
)
def rates_do_not_cure() -> Measurement:
    found: dict[int, dict[str, list[float]]] = {}
    runs = {f"SGD {rate:g}": sgd(rate) for rate in (0.01, 0.1, 1.0)} | {"Adam 0.005": adam(5e-3)}
    for T in (20, 30, 50):
        train, test = remember_first(512, T, 42), remember_first(128, T, 99)
        for name, optimizer in runs.items():
            for seed in SEEDS:
                torch.manual_seed(seed)
                share = best_accuracy(tanh_rnn(), train, test, optimizer, 100)
                found.setdefault(T, {}).setdefault(name, []).append(share)

    def mean(T: int, kind: str) -> float:
        return max(statistics.fmean(v) for name, v in found[T].items() if name.startswith(kind))

    def most(T: int, kind: str) -> float:
        return max(max(v) for name, v in found[T].items() if name.startswith(kind))

    return Measurement(
        "; ".join(
            f"T={T}: " + ", ".join(f"{name} {percents(v)}" for name, v in by.items())
            for T, by in found.items()
        )
        + " (chance 12.5 %)",
        {
            "no SGD rate learns T=30 or T=50": max(most(30, "SGD"), most(50, "SGD")) < 0.6,
            "Adam gets farther": mean(30, "Adam") > mean(30, "SGD") + 0.2,
            "only in part": most(50, "Adam") < 0.99,
        },
        "A rate changes the length of a step and not what is in it. Adam divides each entry by its own "
        "size, which brings a gradient that points the right way and is small back to a step that "
        "counts: "
        "it is what makes T=20 and T=30 learnable here. Where the direction is lost too, it is as "
        "lost.",
        {str(T): by for T, by in found.items()},
    )
