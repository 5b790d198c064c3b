"""Claims about the recurrence and its gradient that are true or false to rounding."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bptt import nn as layers
from bptt.experiments.claims.learn import SEEDS, SYMBOLS, spread
from bptt.experiments.claims.registry import Measurement, claim
from bptt.export import export_c
from bptt.export.cost import CLOCKS, BoardCost, measure_on_board, missing_tools
from bptt.models import LanguageModel
from bptt.probes import capacity
from bptt.recurrence import trace
from bptt.reference import language, loss, rnn

# Float64, at most a few hundred additions of numbers near 1: rounding stays under this.
ROUNDING = 1e-11


def random_language(rng: np.random.Generator, T: int, V: int, H: int) -> language.LanguageTrace:
    """A forward pass of the textbook's network with random everything."""
    shapes = [(H, V), (H, H), (H,), (V, H), (V,)]
    weights = language.LanguageWeights(*(rng.normal(size=s) * 0.6 for s in shapes))
    tokens, targets = rng.integers(0, V, T), rng.integers(0, V, T)
    return language.forward(tokens, targets, rng.normal(size=H), weights)


def autograd(trace: language.LanguageTrace) -> dict[str, np.ndarray]:
    """The same network in torch, differentiated by torch, with one copy of W_h for each use."""
    w = {n: torch.tensor(getattr(trace.weights, n), requires_grad=True) for n in _WEIGHTS}
    uses = [w["w_h"].detach().clone().requires_grad_() for _ in trace.tokens]
    h, total = torch.tensor(trace.h0), torch.zeros((), dtype=torch.float64)
    for t, (token, target) in enumerate(zip(trace.tokens, trace.targets, strict=True)):
        # The shared matrix and its copy at this use enter together: both get that use's gradient.
        here = w["w_h"] + uses[t] - uses[t].detach()
        h = torch.tanh(w["w_x"][:, token] + here @ h + w["b"])
        logits = w["w_y"] @ h + w["b_y"]
        total = total + F.cross_entropy(logits[None], torch.tensor([target])) / len(trace.tokens)
    gradients = [g.numpy() for g in torch.autograd.grad(total, [*w.values(), *uses])]
    found = dict(zip(w, gradients, strict=False))
    found["uses"] = np.stack(gradients[len(w) :])
    return found


_WEIGHTS = ("w_x", "w_h", "b", "w_y", "b_y")


@claim(
    id="A1",
    source="A; perplexity: D",
    statement="The loss of a sequence is the sum of its tokens' negative log-probabilities over its "
    "length; perplexity is e to that; it is V for a uniform model and 1 for a perfect one.",
    published="exact",
    rule="each of the four to 1e-11, against sums written out and torch's cross entropy",
)
def mean_loss_and_perplexity() -> Measurement:
    rng = np.random.default_rng(0)
    T, B, V = 17, 3, 11
    logits, targets = 3 * rng.normal(size=(T, B, V)), rng.integers(0, V, (T, B))
    ours = loss.forward(logits, targets).nats
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    by_hand = -np.log(np.take_along_axis(p, targets[..., None], -1)).sum() / (T * B)
    torchs = float(
        F.cross_entropy(torch.tensor(logits).flatten(0, 1), torch.tensor(targets).flatten())
    )
    uniform = loss.perplexity(loss.forward(np.zeros((T, B, V)), targets).nats)
    sure = np.full((T, B, V), -1e3)
    np.put_along_axis(sure, targets[..., None], 1e3, -1)
    perfect = loss.perplexity(loss.forward(sure, targets).nats)
    error = max(abs(ours - by_hand), abs(ours - torchs))
    return Measurement(
        f"mean of {T * B} tokens differs by {error:.1g} from the sum by hand and from torch; "
        f"perplexity {uniform:.12g} for a uniform model with V={V}, {perfect:.12g} for a perfect one",
        {
            "mean negative log-likelihood": error < ROUNDING,
            "perplexity is its exponential": abs(loss.perplexity(ours) - math.exp(by_hand)) < 1e-9,
            "V if uniform": abs(uniform - V) < ROUNDING,
            "1 if perfect": abs(perfect - 1) < ROUNDING,
        },
    )


@claim(
    id="A2",
    source="A",
    statement="A weight that is used at T steps gets the sum of T gradients; with a loss at every "
    "step they are made of T(T+1)/2 pairs of a loss and a use.",
    published="T uses",
    rule="T = 1…8: pairs counted one by one are T(T+1)/2, and their sum and the sum over T separate "
    "copies of the weight are BPTT's gradient, to 1e-11",
)
def sum_over_uses() -> Measurement:
    rng = np.random.default_rng(0)
    counts, pair_error, use_error = [], 0.0, 0.0
    for T in range(1, 9):
        trace = random_language(rng, T, V=5, H=4)
        bptt = language.backward(trace).dw_h
        pairs = [language.pair(trace, t, k).dw_h for t in range(T) for k in range(t + 1)]
        counts.append(sum(bool(np.abs(p).max() > 0) for p in pairs))
        pair_error = max(pair_error, float(np.abs(sum(pairs) - bptt).max()))
        uses = autograd(trace)["uses"]
        use_error = max(use_error, float(np.abs(uses.sum(0) - bptt).max()))
    return Measurement(
        f"pairs that contribute at T=1…8: {counts}; their sum differs from BPTT by "
        f"{pair_error:.1g}, the sum over T copies of the weight by {use_error:.1g}",
        {
            "T(T+1)/2 pairs": counts == [T * (T + 1) // 2 for T in range(1, 9)],
            "pairs sum to the gradient": pair_error < ROUNDING,
            "T uses sum to the gradient": use_error < ROUNDING,
        },
    )


@claim(
    id="B1",
    source="B",
    statement="One sweep backward with δz_t = (W_yᵀ δy_t + W_hᵀ δz_{t+1}) ⊙ (1 - h_t²), adding "
    "δz_t h_{t-1}ᵀ and its likes at every step, gives the exact gradient of every weight.",
    published="exact",
    rule="all five gradients equal torch's autograd to 1e-11 on 20 random sizes, T=1 among them",
)
def sweep_is_exact() -> Measurement:
    rng = np.random.default_rng(1)
    worst = 0.0
    for case in range(20):
        T = 1 if case == 0 else int(rng.integers(2, 15))
        trace = random_language(rng, T, V=int(rng.integers(2, 9)), H=int(rng.integers(1, 9)))
        ours, torchs = language.backward(trace), autograd(trace)
        for name in _WEIGHTS:
            worst = max(worst, float(np.abs(getattr(ours, f"d{name}") - torchs[name]).max()))
    return Measurement(
        f"largest difference of any gradient entry from autograd, 20 sizes: {worst:.1g}",
        {"equal to autograd": worst < ROUNDING},
    )


@claim(
    id="B2",
    source="B",
    statement="The Jacobian of a state by the one before it is diag(1 - h_t²) W_h.",
    published="exact",
    rule="within 1e-8 of central differences with a step of 1e-5 (their own error: 1e-10)",
)
def state_jacobian() -> Measurement:
    rng = np.random.default_rng(2)
    H, I, worst = 6, 3, 0.0
    for _ in range(5):
        w = rnn.Weights(rng.normal(size=(H, I)), rng.normal(size=(H, H)), np.zeros(H), np.zeros(H))
        x, h = rng.normal(size=(1, 1, I)), rng.normal(size=(1, H))
        exact = rnn.jacobian(rnn.forward(x, h, w), 0)[0]
        moved = [(rnn.forward(x, h + e, w).y[0, 0], rnn.forward(x, h - e, w).y[0, 0])
                 for e in 1e-5 * np.eye(H)[:, None]]  # fmt: skip
        numeric = np.stack([(up - down) / 2e-5 for up, down in moved], 1)
        worst = max(worst, float(np.abs(exact - numeric).max()))
    return Measurement(
        f"largest difference from central differences: {worst:.1g}",
        {"equal to finite differences": worst < 1e-8},
    )


@claim(
    id="B1x",
    source="B, exercises",
    statement="The input weights' gradient is made of the same Jacobian products; without the "
    "nonlinearity the product is W^(t-k), so eigenvalues decide; three steps by hand are autograd's.",
    published="exact",
    rule="each of the three to 1e-11 (eigenvalues of the 20th power: relative 1e-9)",
)
def exercises() -> Measurement:
    rng = np.random.default_rng(3)
    trace = random_language(rng, T=6, V=5, H=4)
    pairs = [language.pair(trace, t, k).dw_x for t in range(6) for k in range(t + 1)]
    same = float(np.abs(sum(pairs) - autograd(trace)["w_x"]).max())

    H, lag = 5, 20
    w_h = rng.normal(size=(H, H)) / math.sqrt(H)
    weights = rnn.Weights(rng.normal(size=(H, 2)), w_h, np.zeros(H), np.zeros(H))
    run = rnn.forward(
        rng.normal(size=(lag, 1, 2)), np.zeros((1, H)), weights, nonlinearity="linear"
    )
    product = np.eye(H)
    for t in range(lag):
        product = rnn.jacobian(run, t)[0] @ product
    power = float(np.abs(product - np.linalg.matrix_power(w_h, lag)).max())
    eigen = np.abs(np.linalg.eigvals(w_h)).max() ** lag / np.abs(np.linalg.eigvals(product)).max()

    by_hand, auto = _three_steps(w=0.8, u=-0.5, x=(0.3, -1.1, 0.7))
    return Measurement(
        f"W_x by products differs by {same:.1g}; linear product from W^{lag} by {power:.1g}, its "
        f"radius from ρ^{lag} by a factor of 1 {eigen - 1:+.1g}; three steps by hand: "
        f"{by_hand:.12f}, autograd {auto:.12f}",
        {
            "same products for W_x": same < ROUNDING,
            "linear: W^(t-k)": power < ROUNDING and abs(eigen - 1) < 1e-9,
            "three steps by hand": abs(by_hand - auto) < ROUNDING,
        },
    )


def _three_steps(w: float, u: float, x: tuple[float, float, float]) -> tuple[float, float]:
    """d(h_3)/dw of h_t = tanh(w h_{t-1} + u x_t), h_0 = 0: term by term, and by autograd."""
    h1 = math.tanh(u * x[0])
    h2 = math.tanh(w * h1 + u * x[1])
    h3 = math.tanh(w * h2 + u * x[2])
    s3, s2 = 1 - h3**2, 1 - h2**2
    # The use at step 3, the use at step 2 through one Jacobian; the use at step 1 met h_0 = 0.
    by_hand = s3 * h2 + s3 * w * s2 * h1
    weight = torch.tensor(w, dtype=torch.float64, requires_grad=True)
    h = torch.zeros((), dtype=torch.float64)
    for value in x:
        h = torch.tanh(weight * h + u * value)
    return by_hand, float(torch.autograd.grad(h, weight)[0])


# Claims that are counted: parameters, steps, tables of numbers, what a state can hold.

# Claims that are sums and powers: tables re-made digit by digit.


def agrees(value: float, published: str) -> bool:
    """Within one unit of the last digit that was printed.

    Example:
        >>> agrees(0.3487, ".349"), agrees(0.3487, ".387")
        (True, False)
    """
    mantissa, _, exponent = published.partition("e")
    digits = len(mantissa.partition(".")[2])
    return abs(value - float(published)) <= 10.0 ** (int(exponent or 0) - digits)


@claim(
    id="E1",
    source="E",
    statement="Table of what is left after T steps, ρ^T, for ρ = 0.9, 0.8, 0.7 and T = 10, 30, 100.",
    published=".387/.107/.028; .042/.001/7e-5; 2.7e-5/≈0/≈0",
    rule="each entry is ρ^T within one unit of its last digit; ≈0 means under 1e-6",
)
def decay_table() -> Measurement:
    table = {10: (".387", ".107", ".028"), 30: (".042", ".001", "7e-5"), 100: ("2.7e-5", "", "")}
    parts: dict[str, bool | None] = {}
    wrong, words = [], []
    for T, row in table.items():
        for rho, printed in zip((0.9, 0.8, 0.7), row, strict=True):
            value = rho**T
            right = agrees(value, printed) if printed else value < 1e-6
            parts[f"{rho}^{T} ≈ {printed or 0}"] = right
            words.append(f"{rho}^{T} = {value:.3g}")
            if not right:
                exponent = math.log(float(printed)) / math.log(rho)
                wrong.append(f"{printed} is {rho}^{exponent:.1f}, not {rho}^{T} = {value:.3g}")
    return Measurement(
        "; ".join(words), parts, "The table mixes exponents: " + "; ".join(wrong) + "."
    )


@claim(
    id="C3",
    source="C",
    statement="0.9^99 ≈ 2.7e-5, 0.95^99 ≈ 0.006, 0.99^50 ≈ 0.60, 0.99^200 ≈ 0.13.",
    published="as said",
    rule="each within one unit of its last digit",
)
def four_powers() -> Measurement:
    rows = [(0.9, 99, "2.7e-5"), (0.95, 99, ".006"), (0.99, 50, ".60"), (0.99, 200, ".13")]
    parts: dict[str, bool | None] = {f"{r}^{n} ≈ {p}": agrees(r**n, p) for r, n, p in rows}
    return Measurement(
        "; ".join(f"{r}^{n} = {r**n:.4g}" for r, n, _ in rows),
        parts,
        f"0.9^99 is {0.9**99:.3g}; 2.7e-5 is 0.9^100: one Jacobian more than a sequence of 100 has.",
    )


# Claims about how many parameters there are and what a step of them costs.


def count(model: nn.Module) -> int:
    """Parameters of a model."""
    return sum(p.numel() for p in model.parameters())


@claim(
    id="D1",
    source="D",
    statement="How many parameters there are does not depend on the sequence's length.",
    published="equal",
    rule="one model takes a gradient at T=4 and at T=4000; entries of the gradients are equal in number",
)
def length_costs_no_parameters() -> Measurement:
    torch.manual_seed(0)
    model = LanguageModel(11, cell="rnn", hidden=16)
    entries = []
    for T in (4, 4000):
        model.zero_grad(set_to_none=True)
        model(torch.randint(11, (T, 1)))[0].square().mean().backward()
        entries.append(sum(p.grad.numel() for p in model.parameters() if p.grad is not None))
    return Measurement(
        f"{entries[0]} at T=4, {entries[1]} at T=4000",
        {"equal": entries[0] == entries[1] == count(model)},
    )


@claim(
    id="C6",
    source="C",
    statement="A GRU has about twice the parameters of a plain RNN of the same size.",
    published="2×",
    rule="input = hidden = 128, counted; holds if the ratio is between 1.75 and 2.25",
)
def gru_is_twice_an_rnn() -> Measurement:
    rnn, gru, lstm = (count(m(128, 128)) for m in (nn.RNN, nn.GRU, nn.LSTM))
    return Measurement(
        f"RNN {rnn}, GRU {gru} ({gru / rnn:g}×), LSTM {lstm} ({lstm / rnn:g}×)",
        {"about twice": 1.75 <= gru / rnn <= 2.25},
        "A GRU stacks three matrices of a plain RNN's size (reset gate, update gate, candidate), so it "
        f"has exactly {gru // rnn} times the parameters, whatever the sizes; an LSTM has "
        f"{lstm // rnn} times.",
    )


def on_boards(model: nn.Module, symbols: int) -> dict[str, BoardCost]:
    """The exported C of a model over tokens, run and counted on each emulated board, float32."""
    with tempfile.TemporaryDirectory() as folder:
        tokens = torch.randint(symbols, (20, 1))
        export = export_c(model, tokens, Path(folder) / "net", name="net")
        return {b: measure_on_board(export, b, Path(folder) / "build") for b in CLOCKS}


@claim(
    id="C5",
    source="C",
    statement="A plain RNN of 32 units has about 3,000 parameters and takes a step in under 1 ms on a "
    "small device.",
    published="~3,000; <1 ms",
    rule="counted for 27 symbols in and out: within 15 % of 3,000; time: the exported C (float32) "
    "checked on an emulated Cortex-M4F of 25 MHz and a Cortex-M0 of 16 MHz, its instructions "
    "counted, at one a cycle: under 1 ms on each; without compiler and emulator not measured",
)
def small_rnn_on_a_device() -> Measurement:
    hidden, symbols = 32, 27
    torch.manual_seed(0)
    model = nn.Sequential(nn.RNN(symbols, hidden), nn.Linear(hidden, symbols))
    whole = count(model)
    lacking = missing_tools()
    costs = {} if lacking else on_boards(model, symbols)
    times = {board: cost.milliseconds for board, cost in costs.items()}
    words = "; ".join(
        f"{board} at {c.clock / 1e6:.0f} MHz: {c.instructions:,} instructions a step, "
        f"{c.milliseconds:.3g} ms, flash {c.flash:,} bytes, RAM {c.state} + {c.stack} bytes"
        for board, c in costs.items()
    )
    parts: dict[str, bool | None] = {"about 3,000 parameters": abs(whole - 3000) <= 450}
    for board in CLOCKS:
        parts[f"under 1 ms on a {board}"] = times[board] < 1 if costs else None
    return Measurement(
        f"layer {count(model[0])}, with {symbols} outputs {whole} parameters; "
        + (words or f"not measured on a device: no {', '.join(lacking)} here"),
        parts,
        "The count is right for a character model, and the time where the core has a floating-point "
        "unit. A core without one calls a function for every addition and product of floats; there "
        "integers are needed (docs/device.md has the figures of int8)."
        if costs
        else "The count is right for a character model. The time needs a compiler and an emulator for "
        "Cortex-M, which are not on this machine.",
        {"parameters": whole, "milliseconds": times},
    )


# Claims about how much a state can hold, and how much it does.


@claim(
    id="A7",
    source="A",
    statement="A state of 128 float32 numbers holds at most 4096 bits, about 4 for each of 1000 "
    "tokens; in practice far less.",
    published="4096; 4",
    rule="128·32 = 4096; 4096/1000 within 5 % of 4; recalled linearly from an untrained tanh RNN and GRU "
    "under random symbols of 8, 3 seeds: the explained share over 32 lags, 3 bits a symbol, is "
    "under 10 %",
)
def bits_of_a_state() -> Measurement:
    bits = 128 * torch.finfo(torch.float32).bits
    found: dict[str, list[float]] = {}
    for name, cell in (("tanh RNN", layers.RNN), ("GRU", layers.GRU)):
        for seed in SEEDS:
            torch.manual_seed(seed)
            x = torch.eye(SYMBOLS)[torch.randint(SYMBOLS, (400, 16))]
            (one,) = trace(cell(SYMBOLS, 128), x)
            found.setdefault(name, []).append(capacity(one, 32).total)
    held = {name: [math.log2(SYMBOLS) * v for v in values] for name, values in found.items()}
    return Measurement(
        f"128·32 = {bits} bits, {bits / 1000:.2f} a token; recalled: "
        + "; ".join(f"{n} {spread(v)} symbols" for n, v in found.items())
        + f", at most {max(max(v) for v in held.values()):.0f} bits",
        {
            "at most 4096 bits": bits == 4096,
            "about 4 a token": abs(bits / 4000 - 1) < 0.05,
            "far less in practice": max(max(v) for v in held.values()) < 0.1 * bits,
        },
        figures=found,
    )
