"""One recurrent layer in one direction, in plain torch: a Python loop over time.

This is the path that runs everywhere: every dtype, every device, second derivatives, ``torch.func``.
Autograd differentiates it, so its backward needs no code. The fast paths answer to it.

Axes: ``x (T, B, I)``, state ``(B, H)``, weights in PyTorch's shapes and gate order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from bptt.ops import native

State: TypeAlias = tuple[Tensor, ...]
Step: TypeAlias = Callable[[Tensor, State], State]


def recur(
    cell: str,
    x: Tensor,
    state: State,
    weights: tuple[Tensor | None, ...],
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    cut: Tensor | None = None,
    reverse: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Run ``cell`` over all time steps; see :func:`bptt.ops.recur` for the meaning of each argument."""
    if batch_sizes is not None:
        # By indexing, which has derivatives of every kind; torch's own unpacking has not.
        counts = batch_sizes.to(x.device)[:, None]
        lane = torch.arange(int(batch_sizes[0]), device=x.device)
        valid = lane < counts
        rows = (counts.cumsum(0) - counts + lane).masked_fill(~valid, 0)
        y, state = recur(cell, x[rows], state, weights, lengths=valid.sum(0), reverse=reverse)
        # Row by row, the valid steps of lanes that are sorted by length are the packed rows.
        return y[valid], state
    w_ih, w_hh, b_ih, b_hh, *projection = cast(tuple[Tensor, ...], weights)
    steps = x.shape[0]
    live = None
    if lengths is not None:
        clock = torch.arange(steps, device=x.device)[:, None]
        live = clock < lengths.to(x.device)
        # A mark in the padding marks nothing: the lane has finished.
        reset, cut = (None if mark is None else mark & live for mark in (reset, cut))
        live = live.unsqueeze(-1)
        # What lies in the padding may be anything, NaN included; it must not meet a live number.
        x = x.masked_fill(~live, 0)
    xp = F.linear(x, w_ih, b_ih)
    if live is not None:
        xp = xp.masked_fill(~live, 0)  # zero times an infinite weight is not zero
    step = _STEPS[cell](w_hh, b_hh, *projection)

    outputs: list[Tensor] = [x] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        if cut is not None:
            here = cut[t].unsqueeze(-1)
            state = tuple(torch.where(here, s.detach(), s) for s in state)
        if reset is not None:
            here = reset[t].unsqueeze(-1)
            state = tuple(s.masked_fill(here, 0) for s in state)
        # A lane that does not run must not be computed on what it holds: a NaN among the unused
        # results would still reach the gradients, as zero times NaN.
        running = state if live is None else tuple(s.masked_fill(~live[t], 0) for s in state)
        new = step(xp[t], running)
        if live is None:
            state, outputs[t] = new, new[0]
        else:
            # A finished lane keeps its state; a reversed one has not begun yet.
            state = tuple(torch.where(live[t], n, s) for n, s in zip(new, state, strict=True))
            outputs[t] = new[0].masked_fill(~live[t], 0)
    return torch.stack(outputs), state


def _rnn_step(activation: Callable[[Tensor], Tensor]):
    """h_t = act(xp_t + W_hh h_{t-1} + b_hh)."""

    def build(w_hh: Tensor, b_hh: Tensor | None) -> Step:
        def step(xp: Tensor, state: State) -> State:
            return (activation(xp + F.linear(state[0], w_hh, b_hh)),)

        return step

    return build


def _gru_step(w_hh: Tensor, b_hh: Tensor | None) -> Step:
    """r, z = sigma(xp_rz + W_rz h + b_rz);  n = tanh(xp_n + r * (W_n h + b_n));  h' = n + z * (h - n).

    The hidden bias of ``n`` stands inside the reset gate, as in PyTorch and cuDNN.
    """

    def step(xp: Tensor, state: State) -> State:
        (h,) = state
        xr, xz, xn = xp.chunk(3, -1)
        hr, hz, hn = F.linear(h, w_hh, b_hh).chunk(3, -1)
        r = torch.sigmoid(xr + hr)
        z = torch.sigmoid(xz + hz)
        n = torch.tanh(xn + r * hn)
        return (n + z * (h - n),)

    return step


def _lstm_step(w_hh: Tensor, b_hh: Tensor | None, w_hr: Tensor | None = None) -> Step:
    """c' = sigma(f) * c + sigma(i) * tanh(g);  h' = sigma(o) * tanh(c'), projected by W_hr if given."""

    def step(xp: Tensor, state: State) -> State:
        h, c = state
        i, f, g, o = (xp + F.linear(h, w_hh, b_hh)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h if w_hr is None else F.linear(h, w_hr)), c

    return step


_STEPS: dict[str, Callable[..., Step]] = {
    "RNN_TANH": _rnn_step(torch.tanh),
    "RNN_RELU": _rnn_step(torch.relu),
    "GRU": _gru_step,
    "LSTM": _lstm_step,
}


# First-order linear recurrences, h_t = a_t ⊙ h_{t-1} + b_t, over all time steps at once.
#
# Two ways to compute it, with the same result up to rounding: a loop over time, T small operations; and
# the odd-even scan, 2·log₂T large ones for about three times the arithmetic. Neither divides, so an
# ``a_t`` of zero, or a product over time that underflows, costs no accuracy.
#
# Limits: a reset is an ``a_t`` of zero, and 0·NaN is NaN, so a state that is no longer finite passes it.


def scan(a: Tensor, b: Tensor, h0: Tensor, cut: Tensor | None = None) -> Tensor:
    """All states of h_t = a_t ⊙ h_{t-1} + b_t.

    Backward is the same recurrence from the end to the start: with δ_t the gradient that reaches h_t,
    δ_t = ∂ℓ/∂h_t + ā_{t+1} ⊙ δ_{t+1}, then ∂ℓ/∂a_t = δ_t ⊙ h̄_{t-1} and ∂ℓ/∂b_t = δ_t. It is made of
    differentiable operations, so derivatives of any order follow; ``torch.func`` transforms and
    forward-mode differentiation take the loop in plain torch.

    Args:
        a: ``(T, B, H)``, real or complex; an expanded view costs no copy. Zero at a step is a reset.
        b: ``(T, B, H)``, same dtype.
        h0: ``(B, H)``, the state before the first step.
        cut: ``(T, B)`` bool: before a marked step the state goes on and its gradient does not.

    Returns:
        ``(T, B, H)``, the state after every step.

    Cost: O(T·B·H) time and memory, forward and backward.

    Example:
        >>> import torch
        >>> scan(torch.full((3, 1, 1), 0.5), torch.ones(3, 1, 1), torch.zeros(1, 1)).flatten()
        tensor([1.0000, 1.5000, 1.7500])

    Source: G. E. Blelloch, 1990, Prefix sums and their applications.
    """
    if native.transformed() or forward_ad._current_level >= 0:
        return _plain(a, b, h0, cut)
    return _Scan.apply(a, b, h0, cut)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, h0, cut):
        y = _solve(a, b, h0)
        ctx.save_for_backward(a, h0, y, cut)
        return y

    @staticmethod
    def backward(ctx, *grads):
        (dy,) = grads
        a, h0, y, cut = ctx.saved_tensors
        back = a.conj().resolve_conj()
        before = torch.cat([h0.unsqueeze(0), y[:-1]])
        if cut is not None:
            marked = cut.unsqueeze(-1)
            back = back.masked_fill(marked, 0)
            # Constant across a cut for derivatives of the derivative too.
            before = torch.where(marked, before.detach(), before)
        # From the last step to the first; what reaches h_t from t + 1 is weighed by a_{t+1}.
        later = torch.cat([torch.zeros_like(back[:1]), back[1:].flip(0)])
        # Several cotangents in one pass (is_grads_batched) go through operations that know of them.
        batched = torch._C._functorch.is_legacy_batchedtensor(dy)
        solve = _plain if batched else scan
        delta = solve(later, dy.flip(0), torch.zeros_like(h0), None).flip(0)
        needs = ctx.needs_input_grad
        da = delta * before.conj() if needs[0] else None
        dh0 = back[0] * delta[0] if needs[2] else None
        return da, delta if needs[1] else None, dh0, None


def _plain(a: Tensor, b: Tensor, h0: Tensor, cut: Tensor | None) -> Tensor:
    """The loop, one differentiable operation after the other."""
    h, states = h0, []
    for t in range(b.shape[0]):
        if cut is not None:
            h = torch.where(cut[t].unsqueeze(-1), h.detach(), h)
        h = a[t] * h + b[t]
        states.append(h)
    return torch.stack(states)


def _solve(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    steps, width = b.shape[0], b[0].numel()
    # Measured by benchmarks/scan.py on a CPU: a step of the loop costs about 4 µs however narrow it
    # is, and the scan's larger traffic outweighs that once its buffers leave the cache.
    narrow = width <= 256 or (width <= 1024 and b.numel() <= 2**18)
    if steps >= 64 and (narrow or b.device.type != "cpu"):
        b = b.clone()
        b[0].addcmul_(a[0], h0)
        return _odd_even(a, b)
    y = torch.empty(b.shape, dtype=b.dtype, device=b.device)
    h = h0
    for a_t, b_t, y_t in zip(a.unbind(), b.unbind(), y.unbind(), strict=True):
        h = torch.addcmul(b_t, a_t, h, out=y_t)
    return y


def _odd_even(a: Tensor, b: Tensor) -> Tensor:
    """The recurrence from a zero state: two steps joined to one, solved, and the others filled in.

    h_{2i+1} = a_{2i+1} a_{2i} h_{2i-1} + (a_{2i+1} b_{2i} + b_{2i+1}) is again such a recurrence, of half
    the length; the even states follow from it in one step.
    """
    steps = b.shape[0]
    if steps == 1:
        return b
    even, odd = slice(0, steps - 1, 2), slice(1, steps, 2)
    states = _odd_even(a[odd] * a[even], torch.addcmul(b[odd], a[odd], b[even]))
    y = torch.empty_like(b)
    y[0] = b[0]
    y[odd] = states
    y[2::2] = torch.addcmul(b[2::2], a[2::2], states[: (steps - 1) // 2])
    return y
