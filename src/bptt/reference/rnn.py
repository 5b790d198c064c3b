"""The simple recurrent network, forward and backward through time, one step after the other.

    z_t = W_ih x_t + b_ih + W_hh h_{t−1} + b_hh
    h_t = f(z_t)                                    f is tanh, ReLU or, for study, the identity

Read this file first: the GRU and the LSTM differ from it in the step alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from bptt.errors import ArgumentError
from bptt.reference.sequence import (
    Array,
    Gradients,
    Schedule,
    Weights,
    check_step,
    check_weights,
    real,
    schedule,
)

Nonlinearity = Literal["tanh", "relu", "linear"]


@dataclass(frozen=True, eq=False)
class RnnTrace:
    """What one forward pass of the RNN leaves behind.

    Args:
        y: (T, B, H), the state after each step; zero on padded steps.
        h_n: (B, H), the state after each lane's last valid step.
        x: (T, B, I), the input, with padded steps set to zero.
        h_in: (T, B, H), the state that entered each step, after a reset if there was one.
        weights, nonlinearity, schedule: what the pass was made with.
    """

    y: Array
    h_n: Array
    x: Array
    h_in: Array
    weights: Weights
    nonlinearity: Nonlinearity
    schedule: Schedule


def forward(
    x: ArrayLike,
    h0: ArrayLike,
    weights: Weights,
    lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    cut: ArrayLike | None = None,
    *,
    nonlinearity: Nonlinearity = "tanh",
) -> RnnTrace:
    """Run the RNN over a batch of sequences and keep what its backward pass needs.

    z_t = W_ih x_t + b_ih + W_hh h_{t−1} + b_hh;  h_t = f(z_t);  y_t = h_t

    Args:
        x: (T, B, I), the input; padded steps may hold anything, even NaN.
        h0: (B, H), the state before the first step.
        weights: w_ih (H, I), w_hh (H, H), b_ih (H,), b_hh (H,).
        lengths: (B,) integers in 0..T, the steps each lane runs; None means all T.
        reset: (T, B) bool, the lane's state becomes zero before the step, h0 included.
        cut: (T, B) bool, the state goes on but the gradient stops before the step.
        nonlinearity: "tanh", "relu", or "linear" (f(z) = z, to study the product of Jacobians).

    Returns:
        The trace: outputs y (T, B, H), final state h_n (B, H), and the inputs of every step.

    Raises:
        ShapeError, DtypeError: an array does not fit the others.
        ArgumentError: a length is out of range, or the nonlinearity is unknown.

    Cost:
        Time O(T·B·H·(I+H)); memory O(T·B·(I+H)).

    Example:
        >>> w = Weights(np.array([[1.0]]), np.array([[0.5]]), np.zeros(1), np.zeros(1))
        >>> trace = forward(np.array([[[1.0]], [[0.0]], [[0.0]]]), np.zeros((1, 1)), w)
        >>> trace.y[:, 0, 0].round(4).tolist()  # one impulse, fading
        [0.7616, 0.3634, 0.1797]

    Source:
        Jeffrey L. Elman, 1990, Finding Structure in Time.
    """
    if nonlinearity not in get_args(Nonlinearity):
        raise ArgumentError(
            '"tanh", "relu" or "linear"', repr(nonlinearity), "choose one of the three"
        )
    x = real("x", x, (None, None, None), "TBI")
    T, B, I = x.shape
    w, H = check_weights(weights, gates=1, inputs=I)
    h = real("h0", h0, (B, H), "BH")
    s = schedule(T, B, lengths, reset, cut)
    x = np.where(s.valid, x, 0.0)  # what stands on padded steps must not reach any sum

    y = np.zeros((T, B, H))
    h_in = np.zeros((T, B, H))
    for t in range(T):
        # A new sequence begins here: forget what came before.
        h = np.where(s.reset[t], 0.0, h)
        h_in[t] = h

        # z_t = W_ih x_t + b_ih + W_hh h_{t−1} + b_hh      (lanes are rows, hence the transposes)
        z = x[t] @ w.w_ih.T + w.b_ih + h @ w.w_hh.T + w.b_hh
        # h_t = f(z_t)
        h_new = _activate(z, nonlinearity)

        # A lane past its length keeps its state and puts out zero.
        h = np.where(s.valid[t], h_new, h)
        y[t] = np.where(s.valid[t], h_new, 0.0)
    return RnnTrace(y, h, x, h_in, w, nonlinearity, s)


def backward(trace: RnnTrace, dy: ArrayLike, dh_n: ArrayLike | None = None) -> Gradients:
    """Carry the gradient of a loss back through every step of a trace, to all that went in.

    δ_t = dy_t + W_hhᵀ δz_{t+1};  δz_t = δ_t ⊙ f'(z_t);  dW_hh = Σ_t δz_t h_{t−1}ᵀ

    Args:
        trace: from ``forward``.
        dy: (T, B, H), ∂L/∂y; padded steps may hold anything.
        dh_n: (B, H), ∂L/∂h_n; None means zero.

    Returns:
        The gradients, with ``state`` = δ_t = ∂L/∂h_t for every step.

    Raises:
        ShapeError, DtypeError: dy or dh_n does not fit the trace.

    Cost:
        Time O(T·B·H·(I+H)), about twice the forward pass; memory O(T·B·(I+H)).

    Example:
        >>> w = Weights(np.array([[1.0]]), np.array([[0.5]]), np.zeros(1), np.zeros(1))
        >>> trace = forward(np.array([[[1.0]], [[0.0]], [[0.0]]]), np.zeros((1, 1)), w)
        >>> g = backward(trace, np.zeros((3, 1, 1)), dh_n=np.ones((1, 1)))
        >>> g.state[:, 0, 0].round(4).tolist()  # how much each state mattered for the last one
        [0.21, 0.4838, 1.0]

    Source:
        Paul J. Werbos, 1990, Backpropagation Through Time: What It Does and How to Do It;
        for cuts: Ronald J. Williams and Jing Peng, 1990, An Efficient Gradient-Based Algorithm
        for On-Line Training of Recurrent Network Trajectories.
    """
    T, B, H = trace.y.shape
    w, s = trace.weights, trace.schedule
    dy = real("dy", dy, (T, B, H), "TBH")
    # dh is what later steps send back; behind the last valid step that is the final state's share.
    dh = np.zeros((B, H)) if dh_n is None else real("dh_n", dh_n, (B, H), "BH")

    dx = np.zeros_like(trace.x)
    dw_ih = np.zeros_like(w.w_ih)
    dw_hh = np.zeros_like(w.w_hh)
    db = np.zeros_like(w.b_ih)
    state = np.zeros((T, B, H))
    for t in reversed(range(T)):
        # δ_t = dy_t + W_hhᵀ δz_{t+1}      the loss reaches h_t directly and through the next step
        state[t] = np.where(s.valid[t], dy[t] + dh, 0.0)

        # δz_t = δ_t ⊙ f'(z_t)
        dz = state[t] * _slope(trace.y[t], trace.nonlinearity)

        # The weights are the same at every step, so every step adds its share:
        # dW_ih += δz_t x_tᵀ    dW_hh += δz_t h_{t−1}ᵀ    db += δz_t
        dw_ih += dz.T @ trace.x[t]
        dw_hh += dz.T @ trace.h_in[t]
        db += dz.sum(axis=0)

        # dx_t = W_ihᵀ δz_t
        dx[t] = dz @ w.w_ih

        # W_hhᵀ δz_t goes back to h_{t−1}; a padded lane passes on what it was given; a reset or a
        # cut lets nothing through. A cut has still used h_{t−1} in dW_hh above: the value counts.
        dh = np.where(s.valid[t], dz @ w.w_hh, dh)
        dh = np.where(s.reset[t] | s.cut[t], 0.0, dh)
    # Both biases enter the same sum, so their gradients are equal.
    return Gradients(dx, dh, dw_ih, dw_hh, db, db.copy(), state)


def jacobian(trace: RnnTrace, t: int) -> Array:
    """The derivative of the state after step t by the state before it, lane by lane.

    ∂h_t/∂h_{t−1} = diag(f'(z_t)) W_hh, which for tanh is diag(1 − h_t²) W_hh

    It differentiates the forward map: zero at a reset, the identity on a padded step, and
    untouched by a cut, which stops the gradient but not the state.

    Args:
        trace: from ``forward``.
        t: the step, 0..T−1; at t = 0 the state before is h0.

    Returns:
        (B, H, H); entry [b, i, j] is ∂h_t[i] / ∂h_{t−1}[j] in lane b.

    Raises:
        ArgumentError: there is no step t.

    Cost:
        Time O(B·H³) as written; memory O(B·H²).

    Example:
        >>> w = Weights(np.array([[1.0]]), np.array([[0.5]]), np.zeros(1), np.zeros(1))
        >>> trace = forward(np.array([[[0.0]]]), np.zeros((1, 1)), w)
        >>> jacobian(trace, 0).tolist()  # at h = 0 tanh has slope 1
        [[[0.5]]]

    Source:
        Razvan Pascanu, Tomas Mikolov and Yoshua Bengio, 2013, On the Difficulty of Training
        Recurrent Neural Networks.
    """
    T, B, H = trace.y.shape
    t = check_step(t, T)
    result = np.zeros((B, H, H))
    slope = _slope(trace.y[t], trace.nonlinearity)
    for b in range(B):
        if not trace.schedule.valid[t, b, 0]:
            result[b] = np.eye(H)
        elif not trace.schedule.reset[t, b, 0]:
            # diag(f'(z_t)) W_hh
            result[b] = np.diag(slope[b]) @ trace.weights.w_hh
    return result


def _activate(z: Array, nonlinearity: Nonlinearity) -> Array:
    if nonlinearity == "tanh":
        return np.tanh(z)
    if nonlinearity == "relu":
        return np.maximum(z, 0.0)
    return z


def _slope(h: Array, nonlinearity: Nonlinearity) -> Array:
    """f'(z), from h = f(z) alone."""
    if nonlinearity == "tanh":
        return 1.0 - h**2  # tanh' = 1 − tanh²
    if nonlinearity == "relu":
        return np.where(h > 0.0, 1.0, 0.0)  # at the kink we take 0, as PyTorch does
    return np.ones_like(h)
