"""The smallest language model that learns through time: the network of the textbooks, whole.

    z_t = W_x x_t + W_h h_{t−1} + b           x_t is the one-hot vector of the token at step t
    h_t = tanh(z_t)
    s_t = W_y h_t + b_y                       logits over the vocabulary
    p_t = softmax(s_t)
    ℓ_t = −log p_t[target_t]                  a loss at every step
    L   = (1/T) Σ_t ℓ_t

One sequence, no lanes, one bias: every line of code is a line of the textbook. Whoever wants lanes,
lengths and resets takes ``rnn`` and ``loss``, which give the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt.errors import ArgumentError
from bptt.reference.sequence import Array, check_step, integers, real


@dataclass(frozen=True, eq=False)
class LanguageWeights:
    """The five parameters of the model.

    Args:
        w_x: (H, V), from the one-hot token; its column v is what symbol v adds to z.
        w_h: (H, H), from the state.
        b: (H,).
        w_y: (V, H), to the logits.
        b_y: (V,).
    """

    w_x: Array
    w_h: Array
    b: Array
    w_y: Array
    b_y: Array


@dataclass(frozen=True, eq=False)
class LanguageTrace:
    """What one forward pass leaves behind.

    Args:
        loss: L, in nats per token.
        losses: (T,), ℓ_t.
        p: (T, V), the predictions.
        h: (T, H), the states after each step.
        h0: (H,), the state before the first.
        tokens, targets: (T,) each, what was read and what should have been predicted.
        weights: what the pass was made with.
    """

    loss: float
    losses: Array
    p: Array
    h: Array
    h0: Array
    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    weights: LanguageWeights


@dataclass(frozen=True, eq=False)
class LanguageGradients:
    """∂L/∂(everything), and the two errors it is made of.

    Args:
        dw_x, dw_h, db, dw_y, db_y: shaped as the weights.
        dh0: (H,).
        dz: (T, H), δᶻ_t = ∂L/∂z_t.
        ds: (T, V), δʸ_t = ∂L/∂s_t.
    """

    dw_x: Array
    dw_h: Array
    db: Array
    dw_y: Array
    db_y: Array
    dh0: Array
    dz: Array
    ds: Array


@dataclass(frozen=True, eq=False)
class Pair:
    """What one loss sends to the recurrent weights through one of their uses.

    Args:
        dw_x: (H, V).
        dw_h: (H, H).
        db: (H,).
    """

    dw_x: Array
    dw_h: Array
    db: Array


def forward(
    tokens: ArrayLike, targets: ArrayLike, h0: ArrayLike, weights: LanguageWeights
) -> LanguageTrace:
    """Read a sequence of tokens and predict a target at every step.

    h_t = tanh(W_x x_t + W_h h_{t−1} + b);  p_t = softmax(W_y h_t + b_y);  L = −(1/T) Σ log p_t[·]

    Args:
        tokens: (T,) integers in 0..V−1, read one a step.
        targets: (T,) integers in 0..V−1; in a language model, the tokens one step later.
        h0: (H,), the state before the first step.
        weights: w_x (H, V), w_h (H, H), b (H,), w_y (V, H), b_y (V,).

    Returns:
        The trace, with the loss in nats per token.

    Raises:
        ShapeError, DtypeError: an array does not fit the others.
        ArgumentError: a token or a target is not in the vocabulary.

    Cost:
        Time O(T·H·(H+V)); memory O(T·(H+V)).

    Example:
        >>> w = LanguageWeights(*(np.zeros(n) for n in [(2, 4), (2, 2), 2, (4, 2), 4]))
        >>> trace = forward([0, 1, 2], [1, 2, 3], np.zeros(2), w)
        >>> round(float(np.exp(trace.loss)), 12)  # it knows nothing: perplexity V
        4.0

    Source:
        Jeffrey L. Elman, 1990, Finding Structure in Time; as a language model: Tomas Mikolov et
        al., 2010, Recurrent Neural Network Based Language Model.
    """
    w_h = real("w_h", weights.w_h, (None, None))
    H = w_h.shape[0]
    w_y = real("w_y", weights.w_y, (None, H), "VH")
    V = w_y.shape[0]
    w = LanguageWeights(
        w_x=real("w_x", weights.w_x, (H, V), "HV"),
        w_h=real("w_h", w_h, (H, H)),
        b=real("b", weights.b, (H,), "H"),
        w_y=w_y,
        b_y=real("b_y", weights.b_y, (V,), "V"),
    )
    tokens = integers("tokens", tokens, (None,), 0, V - 1, "T")
    T = tokens.shape[0]
    targets = integers("targets", targets, (T,), 0, V - 1, "T")
    h_start = real("h0", h0, (H,), "H")

    h = np.zeros((T, H))
    p = np.zeros((T, V))
    losses = np.zeros(T)
    before = h_start
    for t in range(T):
        # z_t = W_x x_t + W_h h_{t−1} + b      a one-hot x_t picks one column of W_x
        z = w.w_x[:, tokens[t]] + w.w_h @ before + w.b
        # h_t = tanh(z_t)
        h[t] = np.tanh(z)
        # s_t = W_y h_t + b_y
        s = w.w_y @ h[t] + w.b_y
        # log p_t = s_t − log Σ e^(s_t)      the maximum is taken out so that nothing overflows
        shifted = s - s.max()
        log_p = shifted - np.log(np.exp(shifted).sum())
        p[t] = np.exp(log_p)
        # ℓ_t = −log p_t[target_t]
        losses[t] = -log_p[targets[t]]
        before = h[t]
    return LanguageTrace(float(losses.mean()), losses, p, h, h_start, tokens, targets, w)


def backward(trace: LanguageTrace) -> LanguageGradients:
    """Backpropagation through time: the exact gradient of L by every weight.

    δᶻ_t = (W_yᵀ δʸ_t + W_hᵀ δᶻ_{t+1}) ⊙ (1 − h_t²);  dW_h = Σ_t δᶻ_t h_{t−1}ᵀ, and so on

    Args:
        trace: from ``forward``.

    Returns:
        The gradients, with the errors δᶻ and δʸ of every step.

    Raises:
        Nothing.

    Cost:
        Time O(T·H·(H+V)), about twice the forward pass; memory O(T·(H+V)).

    Example:
        >>> w = LanguageWeights(*(np.zeros(n) for n in [(2, 4), (2, 2), 2, (4, 2), 4]))
        >>> g = backward(forward([0, 1], [1, 1], np.zeros(2), w))
        >>> g.db_y.tolist()  # symbol 1 came both times: raise it, lower the others
        [0.25, -0.75, 0.25, 0.25]

    Source:
        Paul J. Werbos, 1990, Backpropagation Through Time: What It Does and How to Do It.
    """
    w = trace.weights
    T, H = trace.h.shape
    dw_x, dw_h, db = np.zeros_like(w.w_x), np.zeros_like(w.w_h), np.zeros_like(w.b)
    dw_y, db_y = np.zeros_like(w.w_y), np.zeros_like(w.b_y)
    dz, ds = np.zeros((T, H)), np.zeros_like(trace.p)
    from_later = np.zeros(H)  # W_hᵀ δᶻ_{t+1}; behind the last step there is nothing
    for t in reversed(range(T)):
        before = trace.h[t - 1] if t > 0 else trace.h0

        # δʸ_t = ∂L/∂s_t = (p_t − onehot(target_t)) / T
        ds[t] = _logit_error(trace, t) / T
        # ΔW_y += δʸ_t h_tᵀ      Δb_y += δʸ_t
        dw_y += np.outer(ds[t], trace.h[t])
        db_y += ds[t]

        # δᶻ_t = (W_yᵀ δʸ_t + W_hᵀ δᶻ_{t+1}) ⊙ (1 − h_t²)
        dz[t] = (w.w_y.T @ ds[t] + from_later) * (1.0 - trace.h[t] ** 2)

        # ΔW_h += δᶻ_t h_{t−1}ᵀ      ΔW_x += δᶻ_t x_tᵀ      Δb += δᶻ_t
        dw_h += np.outer(dz[t], before)
        dw_x[:, trace.tokens[t]] += dz[t]
        db += dz[t]

        from_later = w.w_h.T @ dz[t]
    return LanguageGradients(dw_x, dw_h, db, dw_y, db_y, from_later, dz, ds)


def pair(trace: LanguageTrace, loss_step: int, use_step: int) -> Pair:
    """The part of the gradient that goes from the loss at one step to the weights' use at another.

    (1/T) ∂ℓ_t/∂z_k x_kᵀ (and h_{k−1}ᵀ), with ∂ℓ_t/∂h_k = J_{k+1}ᵀ … J_tᵀ W_yᵀ (p_t − onehot)

    A weight used at T steps, with a loss at each, has T(T+1)/2 such pairs, because a loss sees only
    the uses at or before it. Their sum is what ``backward`` returns in one sweep.

    Args:
        trace: from ``forward``.
        loss_step: t, 0..T−1.
        use_step: k, 0..t.

    Returns:
        The pair's share of dw_x, dw_h and db.

    Raises:
        ArgumentError: there is no such step, or the use lies after the loss.

    Cost:
        Time O(H·V + (t−k)·H²); all pairs together O(T²·H·V + T³·H²), against T for ``backward``.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> shapes = [(2, 4), (2, 2), 2, (4, 2), 4]
        >>> w = LanguageWeights(*(rng.normal(size=n) for n in shapes))
        >>> trace = forward([0, 1, 2], [1, 2, 3], np.zeros(2), w)
        >>> pairs = [pair(trace, t, k) for t in range(3) for k in range(t + 1)]
        >>> len(pairs), np.allclose(sum(one.dw_h for one in pairs), backward(trace).dw_h)
        (6, True)

    Source:
        Razvan Pascanu, Tomas Mikolov and Yoshua Bengio, 2013, On the Difficulty of Training
        Recurrent Neural Networks.
    """
    w = trace.weights
    T = trace.h.shape[0]
    t, k = check_step(loss_step, T), check_step(use_step, T)
    if k > t:
        raise ArgumentError(
            "use_step <= loss_step", f"{k} > {t}", "a loss sees no use after it; swap the two"
        )
    # ∂ℓ_t/∂h_t = W_yᵀ (p_t − onehot(target_t)), divided by T because L is a mean
    dh = w.w_y.T @ _logit_error(trace, t) / T
    # ∂ℓ_t/∂h_{j−1} = J_jᵀ ∂ℓ_t/∂h_j with J_j = diag(1 − h_j²) W_h, one step back at a time
    for j in range(t, k, -1):
        dh = w.w_h.T @ ((1.0 - trace.h[j] ** 2) * dh)
    # ∂ℓ_t/∂z_k, and from there to the weights as they were used at step k
    dz = (1.0 - trace.h[k] ** 2) * dh
    dw_x = np.zeros_like(w.w_x)
    dw_x[:, trace.tokens[k]] = dz
    return Pair(dw_x, np.outer(dz, trace.h[k - 1] if k > 0 else trace.h0), dz)


def _logit_error(trace: LanguageTrace, t: int) -> Array:
    """∂ℓ_t/∂s_t = p_t − onehot(target_t)."""
    error: Array = trace.p[t].copy()
    error[trace.targets[t]] -= 1.0
    return error
