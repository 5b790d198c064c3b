"""The gated recurrent unit in PyTorch's form, forward and backward through time.

    r_t = σ(W_ir x_t + b_ir + W_hr h_{t−1} + b_hr)              reset gate
    z_t = σ(W_iz x_t + b_iz + W_hz h_{t−1} + b_hz)              update gate
    q_t = W_hn h_{t−1} + b_hn                                   what the state proposes
    n_t = tanh(W_in x_t + b_in + r_t ⊙ q_t)                     new content
    h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t−1}

PyTorch gates the product (r ⊙ (W h + b)); the first paper gates the state (W (r ⊙ h)). The two are
different networks: weights of one do not serve the other. Rows are stacked r, z, n.

The reset *gate* r is part of the cell. The ``reset`` argument is something else: a new sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bptt.reference.sequence import (
    Array,
    Gradients,
    Schedule,
    Weights,
    check_step,
    check_weights,
    real,
    schedule,
    sigmoid,
)


@dataclass(frozen=True, eq=False)
class GruTrace:
    """What one forward pass of the GRU leaves behind.

    Args:
        y: (T, B, H), the state after each step; zero on padded steps.
        h_n: (B, H), the state after each lane's last valid step.
        x: (T, B, I), the input, with padded steps set to zero.
        h_in: (T, B, H), the state that entered each step, after a reset if there was one.
        r, z, n, q: (T, B, H) each, the values of the equations at the top of the file.
        weights, schedule: what the pass was made with.
    """

    y: Array
    h_n: Array
    x: Array
    h_in: Array
    r: Array
    z: Array
    n: Array
    q: Array
    weights: Weights
    schedule: Schedule


def forward(
    x: ArrayLike,
    h0: ArrayLike,
    weights: Weights,
    lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    cut: ArrayLike | None = None,
) -> GruTrace:
    """Run the GRU over a batch of sequences and keep what its backward pass needs.

    h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t−1}, with r, z, n as at the top of the file;  y_t = h_t

    Args:
        x: (T, B, I), the input; padded steps may hold anything, even NaN.
        h0: (B, H), the state before the first step.
        weights: w_ih (3·H, I), w_hh (3·H, H), b_ih (3·H,), b_hh (3·H,), rows r, z, n.
        lengths: (B,) integers in 0..T, the steps each lane runs; None means all T.
        reset: (T, B) bool, the lane's state becomes zero before the step, h0 included.
        cut: (T, B) bool, the state goes on but the gradient stops before the step.

    Returns:
        The trace: outputs y (T, B, H), final state h_n (B, H), and the gates of every step.

    Raises:
        ShapeError, DtypeError: an array does not fit the others.
        ArgumentError: a length is out of range.

    Cost:
        Time O(T·B·3H·(I+H)); memory O(T·B·(I+6H)).

    Example:
        >>> w = Weights(np.zeros((3, 1)), np.zeros((3, 1)), np.zeros(3), np.zeros(3))
        >>> trace = forward(np.zeros((3, 1, 1)), np.ones((1, 1)), w)
        >>> trace.y[:, 0, 0].tolist()  # z = σ(0) = 1/2 keeps half the state at every step
        [0.5, 0.25, 0.125]

    Source:
        Kyunghyun Cho et al., 2014, Learning Phrase Representations using RNN Encoder–Decoder for
        Statistical Machine Translation; the product is gated as in torch.nn.GRU.
    """
    x = real("x", x, (None, None, None), "TBI")
    T, B, I = x.shape
    w, H = check_weights(weights, gates=3, inputs=I)
    h = real("h0", h0, (B, H), "BH")
    s = schedule(T, B, lengths, reset, cut)
    x = np.where(s.valid, x, 0.0)  # what stands on padded steps must not reach any sum

    y = np.zeros((T, B, H))
    h_in = np.zeros((T, B, H))
    r, z, n, q = (np.zeros((T, B, H)) for _ in range(4))
    for t in range(T):
        # A new sequence begins here: forget what came before.
        h = np.where(s.reset[t], 0.0, h)
        h_in[t] = h

        # The input's and the state's part of all three gates; columns 0..H−1 are r, then z, then n.
        from_x = x[t] @ w.w_ih.T + w.b_ih
        from_h = h @ w.w_hh.T + w.b_hh

        # r_t = σ(W_ir x_t + b_ir + W_hr h_{t−1} + b_hr)
        r[t] = sigmoid(from_x[:, :H] + from_h[:, :H])
        # z_t = σ(W_iz x_t + b_iz + W_hz h_{t−1} + b_hz)
        z[t] = sigmoid(from_x[:, H : 2 * H] + from_h[:, H : 2 * H])
        # q_t = W_hn h_{t−1} + b_hn
        q[t] = from_h[:, 2 * H :]
        # n_t = tanh(W_in x_t + b_in + r_t ⊙ q_t)
        n[t] = np.tanh(from_x[:, 2 * H :] + r[t] * q[t])
        # h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t−1}
        h_new = (1.0 - z[t]) * n[t] + z[t] * h

        # A lane past its length keeps its state and puts out zero.
        h = np.where(s.valid[t], h_new, h)
        y[t] = np.where(s.valid[t], h_new, 0.0)
    return GruTrace(y, h, x, h_in, r, z, n, q, w, s)


def backward(trace: GruTrace, dy: ArrayLike, dh_n: ArrayLike | None = None) -> Gradients:
    """Carry the gradient of a loss back through every step of a trace, to all that went in.

    δ_t = dy_t + (what step t+1 sends back);  δ_t then goes through h_t's equation in reverse

    Args:
        trace: from ``forward``.
        dy: (T, B, H), ∂L/∂y; padded steps may hold anything.
        dh_n: (B, H), ∂L/∂h_n; None means zero.

    Returns:
        The gradients, with ``state`` = δ_t = ∂L/∂h_t for every step.

    Raises:
        ShapeError, DtypeError: dy or dh_n does not fit the trace.

    Cost:
        Time O(T·B·3H·(I+H)), about twice the forward pass; memory O(T·B·(I+H)).

    Example:
        >>> w = Weights(np.zeros((3, 1)), np.zeros((3, 1)), np.zeros(3), np.zeros(3))
        >>> trace = forward(np.zeros((3, 1, 1)), np.ones((1, 1)), w)
        >>> g = backward(trace, np.zeros((3, 1, 1)), dh_n=np.ones((1, 1)))
        >>> g.dh0.tolist()  # three steps, each passing half the gradient on
        [[0.125]]

    Source:
        Kyunghyun Cho et al., 2014, Learning Phrase Representations using RNN Encoder–Decoder for
        Statistical Machine Translation; Paul J. Werbos, 1990, Backpropagation Through Time:
        What It Does and How to Do It.
    """
    T, B, H = trace.y.shape
    w, s = trace.weights, trace.schedule
    dy = real("dy", dy, (T, B, H), "TBH")
    # dh is what later steps send back; behind the last valid step that is the final state's share.
    dh = np.zeros((B, H)) if dh_n is None else real("dh_n", dh_n, (B, H), "BH")

    dx = np.zeros_like(trace.x)
    dw_ih, dw_hh = np.zeros_like(w.w_ih), np.zeros_like(w.w_hh)
    db_ih, db_hh = np.zeros_like(w.b_ih), np.zeros_like(w.b_hh)
    state = np.zeros((T, B, H))
    for t in reversed(range(T)):
        r, z, n, q, h = trace.r[t], trace.z[t], trace.n[t], trace.q[t], trace.h_in[t]

        # δ_t = ∂L/∂h_t, directly and through the next step
        state[t] = np.where(s.valid[t], dy[t] + dh, 0.0)

        # h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t−1}, so
        # ∂L/∂n = δ ⊙ (1 − z)      ∂L/∂z = δ ⊙ (h_{t−1} − n)
        dn = state[t] * (1.0 - z)
        dz = state[t] * (h - n)

        # Below, a_r, a_z, a_n are the arguments of the two sigmoids and the tanh.
        # n = tanh(a_n), a_n = W_in x + b_in + r ⊙ q, so
        # ∂L/∂a_n = ∂L/∂n ⊙ (1 − n²)      ∂L/∂q = ∂L/∂a_n ⊙ r      ∂L/∂r = ∂L/∂a_n ⊙ q
        da_n = dn * (1.0 - n**2)
        dq = da_n * r
        dr = da_n * q

        # σ' = σ (1 − σ)
        da_r = dr * r * (1.0 - r)
        da_z = dz * z * (1.0 - z)

        # The input meets a_r, a_z, a_n; the state meets a_r, a_z and q, which r scales.
        to_x = np.concatenate([da_r, da_z, da_n], axis=1)
        to_h = np.concatenate([da_r, da_z, dq], axis=1)

        # dW_ih += to_x x_tᵀ    dW_hh += to_h h_{t−1}ᵀ    db likewise
        dw_ih += to_x.T @ trace.x[t]
        dw_hh += to_h.T @ h
        db_ih += to_x.sum(axis=0)
        db_hh += to_h.sum(axis=0)

        # dx_t = W_ihᵀ to_x
        dx[t] = to_x @ w.w_ih

        # h_{t−1} was used twice: as itself, times z, and inside W_hh h_{t−1}. A padded lane passes
        # on what it was given; a reset or a cut lets nothing through.
        dh = np.where(s.valid[t], state[t] * z + to_h @ w.w_hh, dh)
        dh = np.where(s.reset[t] | s.cut[t], 0.0, dh)
    return Gradients(dx, dh, dw_ih, dw_hh, db_ih, db_hh, state)


def jacobian(trace: GruTrace, t: int) -> Array:
    """The derivative of the state after step t by the state before it, lane by lane.

    ∂h_t/∂h_{t−1} = diag(z) + diag((h_{t−1} − n) z (1−z)) W_hz
                  + diag((1−z)(1−n²)) [diag(r) W_hn + diag(q r (1−r)) W_hr]

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
        >>> w = Weights(np.zeros((3, 1)), np.zeros((3, 1)), np.zeros(3), np.zeros(3))
        >>> jacobian(forward(np.zeros((1, 1, 1)), np.ones((1, 1)), w), 0).tolist()
        [[[0.5]]]

    Source:
        Kyunghyun Cho et al., 2014, Learning Phrase Representations using RNN Encoder–Decoder for
        Statistical Machine Translation; the product is gated as in torch.nn.GRU.
    """
    T, B, H = trace.y.shape
    t = check_step(t, T)
    w_hr = trace.weights.w_hh[:H]
    w_hz = trace.weights.w_hh[H : 2 * H]
    w_hn = trace.weights.w_hh[2 * H :]
    result = np.zeros((B, H, H))
    for b in range(B):
        if not trace.schedule.valid[t, b, 0]:
            result[b] = np.eye(H)
        elif not trace.schedule.reset[t, b, 0]:
            r, z, n, q = trace.r[t, b], trace.z[t, b], trace.n[t, b], trace.q[t, b]
            h = trace.h_in[t, b]
            # ∂n/∂h_{t−1} = diag(1 − n²) [diag(r) W_hn + diag(q r (1−r)) W_hr]
            by_n = np.diag(1.0 - n**2) @ (np.diag(r) @ w_hn + np.diag(q * r * (1.0 - r)) @ w_hr)
            # ∂z/∂h_{t−1} = diag(z (1−z)) W_hz
            by_z = np.diag(z * (1.0 - z)) @ w_hz
            # h_t = (1 − z) ⊙ n + z ⊙ h_{t−1}, each factor in turn
            result[b] = np.diag(z) + np.diag(1.0 - z) @ by_n + np.diag(h - n) @ by_z
    return result
