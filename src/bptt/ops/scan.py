"""First-order linear recurrences, h_t = a_t ⊙ h_{t-1} + b_t, over all time steps at once.

Two ways to compute it, with the same result up to rounding: a loop over time, T small operations; and
the odd-even scan, 2·log₂T large ones for about three times the arithmetic. Neither divides, so an
``a_t`` of zero, or a product over time that underflows, costs no accuracy.

Limits: a reset is an ``a_t`` of zero, and 0·NaN is NaN, so a state that is no longer finite passes it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from bptt.ops import native
from bptt.ops.eager import is_batched


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
        solve = _plain if is_batched(dy) else scan
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
