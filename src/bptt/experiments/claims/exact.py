"""Claims about the recurrence and its gradient that are true or false to rounding."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from bptt.experiments.claims.registry import Measurement, claim
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
    place="the loss, summed across time; perplexity: evaluating language models",
    statement="The loss of a sequence is the sum of its tokens' negative log-probabilities over its "
    "length; perplexity is e to that; it is V for a uniform model and 1 for a perfect one.",
    published="exact",
    setting="none, an identity",
    rule="each of the four to 1e-11, against sums written out and torch's cross entropy",
    why="the statement is an equation, so it holds where both sides are equal to rounding",
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
    place="BPTT: backprop on the unrolled graph, counting contributions",
    statement="A weight that is used at T steps gets the sum of T gradients; with a loss at every "
    "step they are made of T(T+1)/2 pairs of a loss and a use.",
    published="T uses",
    setting="none, an identity",
    rule="T = 1…8: pairs counted one by one are T(T+1)/2, and their sum and the sum over T separate "
    "copies of the weight are BPTT's gradient, to 1e-11",
    why="counting every pair of a loss and a use, and adding them up, is what the statement says",
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
    place="33.2, the algorithm",
    statement="One sweep backward with δz_t = (W_yᵀ δy_t + W_hᵀ δz_{t+1}) ⊙ (1 - h_t²), adding "
    "δz_t h_{t-1}ᵀ and its likes at every step, gives the exact gradient of every weight.",
    published="exact",
    setting="none, an algorithm",
    rule="all five gradients equal torch's autograd to 1e-11 on 20 random sizes, T=1 among them",
    why="exact means equal to a derivative that was found in another way",
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
    place="33.2, the theorem of the gradient",
    statement="The Jacobian of a state by the one before it is diag(1 - h_t²) W_h.",
    published="exact",
    setting="none, an identity",
    rule="within 1e-8 of central differences with a step of 1e-5 (their own error: 1e-10)",
    why="a derivative is right where differences of the function itself agree with it",
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
    place="exercises 33.1, 33.2 and 33.4",
    statement="The input weights' gradient is made of the same Jacobian products; without the "
    "nonlinearity the product is W^(t-k), so eigenvalues decide; three steps by hand are autograd's.",
    published="exact",
    setting="none, three derivations",
    rule="each of the three to 1e-11 (eigenvalues of the 20th power: relative 1e-9)",
    why="each derivation ends in a formula, which holds where it gives autograd's numbers",
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
