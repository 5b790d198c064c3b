"""How well a model predicts tokens: negative log-likelihood, perplexity, bits.

    p_t = softmax(s_t)                        from the logits s_t, one number for each of V symbols
    ℓ_t = −log p_t[target_t]                  nats for this token
    L   = (1/N) Σ ℓ_t                         mean over all N valid tokens of all lanes
    perplexity = e^L,   bits = L / log 2      both per token

Nats throughout; bits only where ``bits`` is asked for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt.errors import ArgumentError
from bptt.reference.sequence import Array, Mask, integers, real, schedule


@dataclass(frozen=True, eq=False)
class LossTrace:
    """What one evaluation of the loss leaves behind.

    Args:
        nats: L, the mean negative log-likelihood per token.
        tokens: N, how many tokens it is the mean of.
        per_token: (T, B), ℓ_t in nats; zero on padded steps.
        p: (T, B, V), the predicted probabilities; zero on padded steps.
        targets: (T, B), the symbols that came; 0 on padded steps.
        valid: (T, B) bool.
    """

    nats: float
    tokens: int
    per_token: Array
    p: Array
    targets: NDArray[np.int64]
    valid: Mask


def forward(logits: ArrayLike, targets: ArrayLike, lengths: ArrayLike | None = None) -> LossTrace:
    """Mean negative log-likelihood of the targets under the softmax of the logits.

    L = −(1/N) Σ_t log softmax(s_t)[target_t]

    Args:
        logits: (T, B, V), s_t before the softmax; padded steps may hold anything.
        targets: (T, B) integers in 0..V−1; padded steps may hold any integer.
        lengths: (B,) integers in 0..T, not all 0, the tokens of each lane; None means all T.

    Returns:
        The trace: nats per token, the number of tokens, and each token's share.

    Raises:
        ShapeError, DtypeError: an array does not fit the others.
        ArgumentError: a target or a length is out of range.

    Cost:
        Time and memory O(T·B·V).

    Example:
        >>> trace = forward(np.zeros((3, 1, 8)), np.array([[5], [0], [7]]))
        >>> round(perplexity(trace.nats), 12)  # a uniform model hesitates between all V symbols
        8.0

    Source:
        John S. Bridle, 1990, Probabilistic Interpretation of Feedforward Classification Network
        Outputs, with Relationships to Statistical Pattern Recognition.
    """
    s = real("logits", logits, (None, None, None), "TBV")
    T, B, V = s.shape
    valid = schedule(T, B, lengths).valid[:, :, 0]
    # Padding is replaced before the range check: -100 and the like are common there.
    symbols = integers("targets", targets, (T, B), _INT64.min, _INT64.max, "TB")
    symbols = integers("targets", np.where(valid, symbols, 0), (T, B), 0, V - 1, "TB")

    per_token = np.zeros((T, B))
    p = np.zeros((T, B, V))
    for t in range(T):
        for b in range(B):
            if valid[t, b]:
                # log softmax(s)[v] = s_v − max − log Σ_u e^(s_u − max); the maximum cancels, and
                # without it e^s would overflow.
                shifted = s[t, b] - s[t, b].max()
                log_p = shifted - np.log(np.exp(shifted).sum())
                p[t, b] = np.exp(log_p)
                per_token[t, b] = -log_p[symbols[t, b]]
    tokens = int(valid.sum())
    if tokens == 0:
        raise ArgumentError("at least one token", "lengths of 0 alone", "skip the empty batch")
    return LossTrace(float(per_token.sum()) / tokens, tokens, per_token, p, symbols, valid)


def backward(trace: LossTrace) -> Array:
    """The gradient of the mean loss by the logits.

    ∂L/∂s_t = (p_t − onehot(target_t)) / N

    Args:
        trace: from ``forward``.

    Returns:
        (T, B, V); zero on padded steps.

    Raises:
        Nothing.

    Cost:
        Time and memory O(T·B·V).

    Example:
        >>> trace = forward(np.zeros((1, 1, 4)), np.array([[2]]))
        >>> backward(trace)[0, 0].tolist()  # raise the symbol that came, lower the others
        [0.25, 0.25, -0.75, 0.25]

    Source:
        John S. Bridle, 1990, Probabilistic Interpretation of Feedforward Classification Network
        Outputs, with Relationships to Statistical Pattern Recognition.
    """
    T, B, _ = trace.p.shape
    ds = np.zeros_like(trace.p)
    for t in range(T):
        for b in range(B):
            if trace.valid[t, b]:
                # ∂ℓ/∂s_v = p_v − [v = target]
                ds[t, b] = trace.p[t, b]
                ds[t, b, trace.targets[t, b]] -= 1.0
    return ds / trace.tokens


def perplexity(nats: float) -> float:
    """The number of equally likely symbols that would surprise as much: e^L.

    Args:
        nats: mean negative log-likelihood per token, at least 0.

    Returns:
        1 for a perfect model, V for a uniform one; inf where e^L leaves float64.

    Raises:
        ArgumentError: nats is negative, which no probability gives.

    Cost:
        Constant.

    Example:
        >>> perplexity(0.0)
        1.0

    Source:
        Fred Jelinek, Robert L. Mercer, Lalit R. Bahl and James K. Baker, 1977, Perplexity: A
        Measure of the Difficulty of Speech Recognition Tasks.
    """
    try:
        return math.exp(_not_negative(nats))
    except OverflowError:
        return math.inf


def bits(nats: float) -> float:
    """Nats turned into bits: L / log 2.

    Args:
        nats: mean negative log-likelihood per token, at least 0.

    Returns:
        Bits per token; with characters as tokens, bits per character.

    Raises:
        ArgumentError: nats is negative, which no probability gives.

    Cost:
        Constant.

    Example:
        >>> bits(math.log(8))  # three yes-or-no questions find one of eight
        3.0

    Source:
        Claude E. Shannon, 1948, A Mathematical Theory of Communication.
    """
    return _not_negative(nats) / math.log(2.0)


_INT64 = np.iinfo(np.int64)


def _not_negative(nats: float) -> float:
    if nats < 0:
        raise ArgumentError(
            "nats >= 0", f"nats={nats}", "pass the negative log-likelihood, not the log-likelihood"
        )
    return float(nats)
