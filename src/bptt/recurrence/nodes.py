"""One node of autograd's graph run backward for many cotangents at once.

What arrives and what goes on has one axis more in front, ``(n, …)``: of the cotangents. Nodes that a
step is full of are run as they are over that axis, or are written here; all others by ``torch.vmap``'s
batching rules, and those that have none one cotangent after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from bptt.errors import BpttError


class GradedError(BpttError, RuntimeError):
    """The graph of this step cannot be split by lag."""


# Where a part of the graph hands a gradient on: ("mark", edge), ("node", edge), ("side", edge) or
# ("leaf", parameter).
Key: TypeAlias = tuple[str, Any]
# Where one gradient of a node goes: "in" to the node of that number or "out" to a key, to which of its
# outputs, and the shape and dtype it has there; None where the node's formula gives that shape.
Send: TypeAlias = tuple[str, Any, int, tuple[int, ...] | None, torch.dtype | None]
# By the output of a node, what arrived there, ``(n, …)``.
Arrived: TypeAlias = dict[int, Tensor]
# A node's gradients, ``(n, …)`` each, from what arrived at it and where they go.
Rule: TypeAlias = Callable[[Any, Arrived, Sequence[Send | None]], Sequence[Tensor | None]]


@dataclass(frozen=True)
class Matrix:
    """Where the gradients of a product ``x W`` of a step go, that of W by the key alone.

    Attributes:
        x: which argument of the node it is; W is the next.
        names: of x and W among what it saved.
        key: of W; None where it is not trained.
        turned: whether the key is that of Wᵀ.
        bias: of what is added to each row; None where it is not trained or no such thing.
    """

    x: int
    names: tuple[str, str]
    key: Key | None
    turned: bool
    bias: Key | None


# The gradient of a matrix, still to be multiplied out, of each cotangent ``gᵀ x`` or its transpose: where
# it goes, g ``(n, B, O)`` at the product's output, and x ``(B, I)``; None where it is not trained.
Product: TypeAlias = tuple[Matrix, Tensor, Tensor | None]


def any_node(node: Any, came: Arrived, _: Any = None) -> Sequence[Tensor | None]:
    """Any node's gradients."""
    n = next(iter(came.values())).shape[0]
    if n > 1:
        try:
            with _lanes(n) as level:
                many = _call(node, {nr: _batched(v, 0, level) for nr, v in came.items()})
                return [None if v is None else _unbatched(v, level, n, 0) for v in many]
        except (RuntimeError, TypeError, ValueError):
            pass  # an operator without a batching rule: one after the other, and its errors are raised
    each = [_call(node, {nr: v[j] for nr, v in came.items()}) for j in range(n)]
    return [None if v[0] is None else torch.stack(v) for v in zip(*each, strict=True)]


def fit(value: Tensor, shape: Sequence[int]) -> Tensor:
    """Sum over what the forward pass broadcast: ``(n, …)`` to ``(n, *shape)``."""
    more = value.dim() - 1 - len(shape)
    if more:
        value = value.sum(tuple(range(1, 1 + more)))
    return value.sum_to_size((value.shape[0], *shape))


# Nodes that need no batching: what they compute is right with one axis more in front, or is written
# here. A batching rule of ``torch.vmap`` takes ten times as long as such a node at a step's size.


def _elementwise(node: Any, came: Arrived, _: Any) -> Sequence[Tensor | None]:
    found = node(came[0])
    return found if isinstance(found, tuple) else (found,)


def _split(node: Any, came: Arrived, _: Any) -> Sequence[Tensor | None]:
    sizes, dim = node._saved_self_sym_sizes, node._saved_dim
    dim -= len(sizes) if dim < 1 << 63 else 1 << 64  # a negative one is handed out as unsigned
    if len(came) < -(-sizes[dim] // node._saved_split_size):
        return any_node(node, came)  # some piece was not used
    return (torch.cat([came[nr] for nr in sorted(came)], dim),)


def _layer_norm(node: Any, came: Arrived, sends: Any) -> Sequence[Tensor | None]:
    if sends[1] is not None or sends[2] is not None or list(came) != [0]:
        return any_node(node, came)
    g, mean, scale = came[0], node._saved_result1, node._saved_result2
    many = (g.shape[0], *mean.shape)
    found: Any = torch.ops.aten.native_layer_norm_backward(
        g, node._saved_input.expand(g.shape), node._saved_normalized_shape,
        mean.expand(many).contiguous(), scale.expand(many).contiguous(),
        node._saved_weight, node._saved_bias, (True, False, False),
    )  # fmt: skip
    return found


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            "AddBackward0", "SubBackward0", "MulBackward0", "DivBackward0", "NegBackward0",
            "SigmoidBackward0", "TanhBackward0", "ReluBackward0", "CloneBackward0", "WhereBackward0",
        ), _elementwise,
    ),
    "SplitBackward0": _split, "UnsafeSplitBackward0": _split,
    "NativeLayerNormBackward0": _layer_norm,
}  # fmt: skip
# Their gradients have the shape of what they are gradients of: nothing was broadcast.
EXACT = {
    "SigmoidBackward0", "TanhBackward0", "ReluBackward0", "CloneBackward0", "NegBackward0",
    "TBackward0", "SplitBackward0", "UnsafeSplitBackward0", "NativeLayerNormBackward0",
}  # fmt: skip
# Products of two matrices: which argument is the first, and the names of both among what is saved.
MATRICES = {"AddmmBackward0": (1, ("mat1", "mat2")), "MmBackward0": (0, ("self", "mat2"))}


def through_matrix(
    node: Any, g: Tensor, sends: list[Send | None], matrix: Matrix, products: list[Product]
) -> Sequence[Tensor | None]:
    """A product's gradients, that of its matrix put off."""
    found: list[Tensor | None] = [None] * len(sends)
    left, right = (f"_saved_{name}" for name in matrix.names)
    if sends[matrix.x] is not None:
        weight = getattr(node, right)
        found[matrix.x] = torch.mm(g.flatten(0, 1), weight.t()).view(*g.shape[:2], -1)
    if matrix.x and matrix.bias is None:
        found[0] = g
    if matrix.key is not None or matrix.bias is not None:
        products.append((matrix, g, getattr(node, left) if matrix.key else None))
    return found


# What ``torch.vmap`` does, without its walk over nested structures, which would take as long as a step's
# products do.
_batched: Any = torch._C._functorch._add_batch_dim
_unbatched: Any = torch._C._functorch._remove_batch_dim


@contextmanager
def _lanes(count: int) -> Iterator[int]:
    torch._functorch.vmap.lazy_load_decompositions()
    level: int = torch._C._functorch._vmap_increment_nesting(count, "error")
    try:
        yield level
    finally:
        torch._C._functorch._vmap_decrement_nesting()


def _call(node: Any, came: Arrived) -> Sequence[Tensor | None]:
    """Run one node backward; autograd's engine does no more."""
    count = len(node._input_metadata)
    given: list[Tensor | None] = [came.get(nr) for nr in range(count)]
    if callable(node):
        found = node(*given)
        return found if isinstance(found, tuple) else (found,)
    if type(node).__name__ == "CheckpointFunctionBackward":
        raise GradedError(
            "a graph without reentrant checkpoints",
            "one between two recurrent steps",
            "call torch.utils.checkpoint with use_reentrant=False",
        )
    # A function written in Python takes zeros for None, and returns None for what is no tensor.
    like = next(iter(came.values()))
    for nr, meta in enumerate(node._input_metadata):
        if given[nr] is None:
            given[nr] = torch.zeros(tuple(meta.shape), dtype=meta.dtype, device=like.device)
    found = node.apply(*given)
    found = found if isinstance(found, tuple) else (found,)
    tensors = iter([f for f, needed in zip(found, node.needs_input_grad, strict=False) if needed])
    return [None if n is None else next(tensors) for n, _ in node.next_functions]
