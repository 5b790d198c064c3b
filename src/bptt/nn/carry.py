"""The carry: the hidden state handed from one chunk to the next.

A carry is whatever the model returns beside its output: a tensor, an LSTM's pair, any nesting of
tuples, lists and dicts of tensors, or None for a fresh start. Models of this package keep the lane
on axis 1 of every tensor in it, as torch's recurrent layers do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from bptt.errors import ShapeError

Carry: TypeAlias = Any


def apply(function: Callable[[Tensor], Tensor], carry: Carry) -> Carry:
    """Apply a function to every tensor of a carry and keep its structure.

    Example:
        >>> apply(torch.neg, (torch.ones(1), None))
        (tensor([-1.]), None)
    """
    if isinstance(carry, Tensor):
        return function(carry)
    if isinstance(carry, dict):
        return {key: apply(function, part) for key, part in carry.items()}
    if isinstance(carry, tuple) and hasattr(carry, "_fields"):  # a namedtuple takes its parts apart
        return type(carry)(*(apply(function, part) for part in carry))
    if isinstance(carry, (tuple, list)):
        return type(carry)(apply(function, part) for part in carry)
    return carry


def tensors(carry: Carry) -> Iterator[Tensor]:
    """All tensors of a carry, in a fixed order.

    Example:
        >>> [tuple(t.shape) for t in tensors((torch.zeros(1, 2), [torch.zeros(3)]))]
        [(1, 2), (3,)]
    """
    if isinstance(carry, Tensor):
        yield carry
    elif isinstance(carry, dict):
        for part in carry.values():
            yield from tensors(part)
    elif isinstance(carry, (tuple, list)):
        for part in carry:
            yield from tensors(part)


def detach(carry: Carry) -> Carry:
    """Keep the values, drop the graph: where truncation happens.

    Example:
        >>> h = torch.ones(1, requires_grad=True) * 2
        >>> holds_graph(h), holds_graph(detach(h))
        (True, False)
    """
    return apply(torch.detach, carry)


def holds_graph(carry: Carry) -> bool:
    """Whether backward through this carry would reach into an earlier chunk."""
    return any(t.grad_fn is not None for t in tensors(carry))


def zero_lanes(carry: Carry, lanes: Tensor) -> Carry:
    """A carry in which the marked lanes start from zeros; the others are untouched.

    Args:
        carry: lane on axis 1 of every tensor.
        lanes: ``(B,)`` bool.

    Example:
        >>> zero_lanes(torch.ones(1, 2, 1), torch.tensor([True, False])).flatten()
        tensor([0., 1.])
    """

    def zero(state: Tensor) -> Tensor:
        if state.dim() < 2 or state.shape[1] != lanes.shape[0]:
            raise ShapeError(
                f"a carry with {lanes.shape[0]} lanes on axis 1",
                f"a state of shape {tuple(state.shape)}",
                "mark the lanes of this carry's own batch",
            )
        mask = lanes.to(state.device).reshape(1, -1, *[1] * (state.dim() - 2))
        return state.masked_fill(mask, 0)

    return apply(zero, carry)
