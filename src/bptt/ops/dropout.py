"""Dropout whose mask follows from one number drawn from torch's generator.

torch draws a mask one number at a time, which takes a sixth of an RNN's training step. Here one draw
makes a key, and the mask is a function of the key and of an element's place: vectors at a time, on all
threads, and made again for the gradient instead of being kept. A run whose generator is put back draws
the same masks, to the bit, on every instruction set.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bptt.errors import ArgumentError, real
from bptt.ops import native
from bptt.ops.backend import backend
from bptt.ops.eager import is_batched

STEPS = 65536  # of the share that is dropped


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Zero a share p of the elements, and scale the others so that the expected value stays.

    Args:
        x: of any shape.
        p: from 0 to below 1; rounded to a multiple of 2⁻¹⁶, which the scale knows of.
        training: False: x, as it is.

    Returns:
        Of x's shape. Where the compiled kernels do not run (another dtype or device than float32 on the
        CPU, ``torch.func``, compiled graphs), torch's own dropout, whose masks are others.

    Raises:
        ArgumentError: p is no such number.

    Cost: one pass over x, forward and back; no memory for the mask.

    Source: N. Srivastava et al., 2014, Dropout: a simple way to prevent neural networks from overfitting.

    Example:
        >>> y = dropout(torch.ones(1000), 0.25)
        >>> sorted({round(v, 3) for v in y.tolist()})
        [0.0, 1.333]
    """
    p = real("p", p)
    if not 0 <= p < 1:
        raise ArgumentError("0 <= p < 1", f"p={p:g}", "pass the share to drop")
    if not training or p == 0:
        return x
    if not runs_here(x):
        return F.dropout(x, p, training)
    key = int(torch.randint(2**62, (), device="cpu"))
    return _Dropout.apply(x, min(round(p * STEPS), STEPS - 1), key)


def runs_here(x: Tensor) -> bool:
    """Whether a kernel beside the recurrence may take x: float32 on the CPU, plain autograd."""
    return (
        native.missing is None
        and type(x) is Tensor
        and x.dtype == torch.float32
        and x.is_cpu
        and x.layout == torch.strided
        and not torch.compiler.is_compiling()
        and not native.transformed()
        and not native.forward_mode()
        and torch._C._get_tracing_state() is None
        and backend().setting != "eager"
    )


class _Dropout(torch.autograd.Function):
    """Linear in x, so its gradient is itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: int, key: int) -> Tensor:
        ctx.threshold, ctx.key = threshold, key
        return native.dropout(x, threshold, key)

    @staticmethod
    def backward(ctx: Any, dy: Tensor):
        if torch.is_grad_enabled() or is_batched(dy):
            # Differentiated again, or several cotangents at once: as a product with the mask.
            return (
                dy * native.dropout(torch.ones(dy.shape, device="cpu"), ctx.threshold, ctx.key),
                None,
                None,
            )
        return native.dropout(dy, ctx.threshold, ctx.key), None, None


__all__ = ["dropout"]
