"""The long short-term memory, forward and backward through time.

    i_t = σ(W_ii x_t + b_ii + W_hi h_{t−1} + b_hi)              input gate
    f_t = σ(W_if x_t + b_if + W_hf h_{t−1} + b_hf)              forget gate
    g_t = tanh(W_ig x_t + b_ig + W_hg h_{t−1} + b_hg)           new content
    o_t = σ(W_io x_t + b_io + W_ho h_{t−1} + b_ho)              output gate
    c_t = f_t ⊙ c_{t−1} + i_t ⊙ g_t
    h_t = o_t ⊙ tanh(c_t)

The state is the pair (h, c): resets, cuts and lengths act on both. Rows are stacked i, f, g, o.
There are no peepholes and no projection of h.
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
class LstmTrace:
    """What one forward pass of the LSTM leaves behind.

    Args:
        y: (T, B, H), h after each step; zero on padded steps.
        h_n, c_n: (B, H) each, the state after each lane's last valid step.
        x: (T, B, I), the input, with padded steps set to zero.
        h_in, c_in: (T, B, H) each, the state that entered each step, after a reset if any.
        i, f, g, o, c: (T, B, H) each, the values of the equations at the top of the file.
        weights, schedule: what the pass was made with.
    """

    y: Array
    h_n: Array
    c_n: Array
    x: Array
    h_in: Array
    c_in: Array
    i: Array
    f: Array
    g: Array
    o: Array
    c: Array
    weights: Weights
    schedule: Schedule


@dataclass(frozen=True, eq=False)
class LstmGradients(Gradients):
    """The gradients of an LSTM: those of every cell, and those of the cell state c.

    Args:
        dc0: (B, H); zero where a reset or a cut stands before the first step.
        cell_state: (T, B, H), ∂L/∂c_t in total: through h_t, and through every later step.
    """

    dc0: Array
    cell_state: Array


def forward(
    x: ArrayLike,
    h0: ArrayLike,
    c0: ArrayLike,
    weights: Weights,
    lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    cut: ArrayLike | None = None,
) -> LstmTrace:
    """Run the LSTM over a batch of sequences and keep what its backward pass needs.

    c_t = f_t ⊙ c_{t−1} + i_t ⊙ g_t;  h_t = o_t ⊙ tanh(c_t);  y_t = h_t

    Args:
        x: (T, B, I), the input; padded steps may hold anything, even NaN.
        h0: (B, H), the state h before the first step.
        c0: (B, H), the cell state before the first step.
        weights: w_ih (4·H, I), w_hh (4·H, H), b_ih (4·H,), b_hh (4·H,), rows i, f, g, o.
        lengths: (B,) integers in 0..T, the steps each lane runs; None means all T.
        reset: (T, B) bool, h and c become zero before the step, h0 and c0 included.
        cut: (T, B) bool, h and c go on but the gradient stops before the step.

    Returns:
        The trace: y (T, B, H), h_n and c_n (B, H), and the gates of every step.

    Raises:
        ShapeError, DtypeError: an array does not fit the others.
        ArgumentError: a length is out of range.

    Cost:
        Time O(T·B·4H·(I+H)); memory O(T·B·(I+8H)).

    Example:
        >>> w = Weights(np.zeros((4, 1)), np.zeros((4, 1)), np.zeros(4), np.zeros(4))
        >>> trace = forward(np.zeros((3, 1, 1)), np.zeros((1, 1)), np.ones((1, 1)), w)
        >>> trace.c[:, 0, 0].tolist()  # f = σ(0) = 1/2 forgets half the cell at every step
        [0.5, 0.25, 0.125]

    Source:
        Sepp Hochreiter and Jürgen Schmidhuber, 1997, Long Short-Term Memory; the forget gate:
        Felix A. Gers, Jürgen Schmidhuber and Fred Cummins, 2000, Learning to Forget: Continual
        Prediction with LSTM.
    """
    x = real("x", x, (None, None, None), "TBI")
    T, B, I = x.shape
    w, H = check_weights(weights, gates=4, inputs=I)
    h = real("h0", h0, (B, H), "BH")
    c = real("c0", c0, (B, H), "BH")
    s = schedule(T, B, lengths, reset, cut)
    x = np.where(s.valid, x, 0.0)  # what stands on padded steps must not reach any sum

    y = np.zeros((T, B, H))
    h_in, c_in = np.zeros((T, B, H)), np.zeros((T, B, H))
    i, f, g, o, cs = (np.zeros((T, B, H)) for _ in range(5))
    for t in range(T):
        # A new sequence begins here: forget what came before, both halves of it.
        h = np.where(s.reset[t], 0.0, h)
        c = np.where(s.reset[t], 0.0, c)
        h_in[t], c_in[t] = h, c

        # a_t = W_ih x_t + b_ih + W_hh h_{t−1} + b_hh      columns 0..H−1 are i, then f, g, o
        a = x[t] @ w.w_ih.T + w.b_ih + h @ w.w_hh.T + w.b_hh
        i[t] = sigmoid(a[:, :H])
        f[t] = sigmoid(a[:, H : 2 * H])
        g[t] = np.tanh(a[:, 2 * H : 3 * H])
        o[t] = sigmoid(a[:, 3 * H :])

        # c_t = f_t ⊙ c_{t−1} + i_t ⊙ g_t
        cs[t] = f[t] * c + i[t] * g[t]
        # h_t = o_t ⊙ tanh(c_t)
        h_new = o[t] * np.tanh(cs[t])

        # A lane past its length keeps its state and puts out zero.
        c = np.where(s.valid[t], cs[t], c)
        h = np.where(s.valid[t], h_new, h)
        y[t] = np.where(s.valid[t], h_new, 0.0)
    return LstmTrace(y, h, c, x, h_in, c_in, i, f, g, o, cs, w, s)


def backward(
    trace: LstmTrace,
    dy: ArrayLike,
    dh_n: ArrayLike | None = None,
    dc_n: ArrayLike | None = None,
) -> LstmGradients:
    """Carry the gradient of a loss back through every step of a trace, to all that went in.

    δh_t = dy_t + W_hhᵀ δa_{t+1};  δc_t = δh_t ⊙ o_t ⊙ (1 − tanh² c_t) + δc_{t+1} ⊙ f_{t+1}

    Args:
        trace: from ``forward``.
        dy: (T, B, H), ∂L/∂y; padded steps may hold anything.
        dh_n: (B, H), ∂L/∂h_n; None means zero.
        dc_n: (B, H), ∂L/∂c_n; None means zero.

    Returns:
        The gradients, with ``state`` = δh_t and ``cell_state`` = δc_t for every step.

    Raises:
        ShapeError, DtypeError: dy, dh_n or dc_n does not fit the trace.

    Cost:
        Time O(T·B·4H·(I+H)), about twice the forward pass; memory O(T·B·(I+2H)).

    Example:
        >>> w = Weights(np.zeros((4, 1)), np.zeros((4, 1)), np.zeros(4), np.zeros(4))
        >>> trace = forward(np.zeros((3, 1, 1)), np.zeros((1, 1)), np.ones((1, 1)), w)
        >>> g = backward(trace, np.zeros((3, 1, 1)), dc_n=np.ones((1, 1)))
        >>> g.dc0.tolist()  # along c the gradient only meets the forget gates
        [[0.125]]

    Source:
        Felix A. Gers, Jürgen Schmidhuber and Fred Cummins, 2000, Learning to Forget: Continual
        Prediction with LSTM; Paul J. Werbos, 1990, Backpropagation Through Time: What It Does and
        How to Do It.
    """
    T, B, H = trace.y.shape
    w, s = trace.weights, trace.schedule
    dy = real("dy", dy, (T, B, H), "TBH")
    # What later steps send back; behind the last valid step that is the final state's share.
    dh = np.zeros((B, H)) if dh_n is None else real("dh_n", dh_n, (B, H), "BH")
    dc = np.zeros((B, H)) if dc_n is None else real("dc_n", dc_n, (B, H), "BH")

    dx = np.zeros_like(trace.x)
    dw_ih, dw_hh, db = np.zeros_like(w.w_ih), np.zeros_like(w.w_hh), np.zeros_like(w.b_ih)
    state, cell_state = np.zeros((T, B, H)), np.zeros((T, B, H))
    for t in reversed(range(T)):
        i, f, g, o = trace.i[t], trace.f[t], trace.g[t], trace.o[t]
        tanh_c = np.tanh(trace.c[t])

        # δh_t = ∂L/∂h_t, directly and through the gates of the next step
        state[t] = np.where(s.valid[t], dy[t] + dh, 0.0)

        # h_t = o_t ⊙ tanh(c_t), so
        # ∂L/∂o = δh ⊙ tanh(c)      δc_t = δh ⊙ o ⊙ (1 − tanh² c) + what c_{t+1} sends back
        do = state[t] * tanh_c
        cell_state[t] = np.where(s.valid[t], state[t] * o * (1.0 - tanh_c**2) + dc, 0.0)

        # c_t = f ⊙ c_{t−1} + i ⊙ g, so each factor receives δc times the other one
        di = cell_state[t] * g
        dg = cell_state[t] * i
        df = cell_state[t] * trace.c_in[t]

        # δa_t: back through σ' = σ (1 − σ) and tanh' = 1 − tanh²
        da = np.concatenate(
            [di * i * (1.0 - i), df * f * (1.0 - f), dg * (1.0 - g**2), do * o * (1.0 - o)], axis=1
        )

        # dW_ih += δa_t x_tᵀ    dW_hh += δa_t h_{t−1}ᵀ    db += δa_t
        dw_ih += da.T @ trace.x[t]
        dw_hh += da.T @ trace.h_in[t]
        db += da.sum(axis=0)

        # dx_t = W_ihᵀ δa_t
        dx[t] = da @ w.w_ih

        # To h_{t−1} goes W_hhᵀ δa_t, to c_{t−1} goes δc_t ⊙ f_t: no matrix on that way. A padded
        # lane passes on what it was given; a reset or a cut lets nothing through on either.
        dh = np.where(s.valid[t], da @ w.w_hh, dh)
        dc = np.where(s.valid[t], cell_state[t] * f, dc)
        dh = np.where(s.reset[t] | s.cut[t], 0.0, dh)
        dc = np.where(s.reset[t] | s.cut[t], 0.0, dc)
    # Both biases enter the same sum, so their gradients are equal.
    return LstmGradients(dx, dh, dw_ih, dw_hh, db, db.copy(), state, dc, cell_state)


def jacobian(trace: LstmTrace, t: int) -> Array:
    """The derivative of the pair (h, c) after step t by the pair before it, lane by lane.

    [[∂h_t/∂h_{t−1}, ∂h_t/∂c_{t−1}], [∂c_t/∂h_{t−1}, ∂c_t/∂c_{t−1}]], where ∂c_t/∂c_{t−1} = diag(f)

    It differentiates the forward map: zero at a reset, the identity on a padded step, and
    untouched by a cut, which stops the gradient but not the state.

    Args:
        trace: from ``forward``.
        t: the step, 0..T−1; at t = 0 the state before is (h0, c0).

    Returns:
        (B, 2H, 2H); rows are h_t then c_t, columns h_{t−1} then c_{t−1}.

    Raises:
        ArgumentError: there is no step t.

    Cost:
        Time O(B·H³) as written; memory O(B·H²).

    Example:
        >>> w = Weights(np.zeros((4, 1)), np.zeros((4, 1)), np.zeros(4), np.zeros(4))
        >>> trace = forward(np.zeros((1, 1, 1)), np.zeros((1, 1)), np.zeros((1, 1)), w)
        >>> jacobian(trace, 0).tolist()  # f = o = 1/2, tanh'(0) = 1
        [[[0.0, 0.25], [0.0, 0.5]]]

    Source:
        Felix A. Gers, Jürgen Schmidhuber and Fred Cummins, 2000, Learning to Forget: Continual
        Prediction with LSTM.
    """
    T, B, H = trace.y.shape
    t = check_step(t, T)
    w_hi, w_hf, w_hg, w_ho = (trace.weights.w_hh[k * H : (k + 1) * H] for k in range(4))
    result = np.zeros((B, 2 * H, 2 * H))
    for b in range(B):
        if not trace.schedule.valid[t, b, 0]:
            result[b] = np.eye(2 * H)
        elif not trace.schedule.reset[t, b, 0]:
            i, f, g, o = trace.i[t, b], trace.f[t, b], trace.g[t, b], trace.o[t, b]
            c_before, tanh_c = trace.c_in[t, b], np.tanh(trace.c[t, b])
            # c_t = f ⊙ c_{t−1} + i ⊙ g
            c_by_h = (
                np.diag(c_before * f * (1.0 - f)) @ w_hf
                + np.diag(g * i * (1.0 - i)) @ w_hi
                + np.diag(i * (1.0 - g**2)) @ w_hg
            )
            c_by_c = np.diag(f)
            # h_t = o ⊙ tanh(c_t)
            through_c = np.diag(o * (1.0 - tanh_c**2))
            h_by_h = np.diag(tanh_c * o * (1.0 - o)) @ w_ho + through_c @ c_by_h
            h_by_c = through_c @ c_by_c
            result[b] = np.block([[h_by_h, h_by_c], [c_by_h, c_by_c]])
    return result
