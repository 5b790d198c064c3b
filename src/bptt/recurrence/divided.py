"""The user's graph divided among the steps that its nodes belong to, and run backward part by part.

A node that several steps reach, such as a projection of all inputs at once, belongs to none of them.
No hook of the user's is called and no ``.grad`` is touched: nodes are run one by one, as autograd's
engine runs them, over one cotangent or a batch of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from bptt.errors import BpttError
from bptt.recurrence.clock import Owner
from bptt.recurrence.tape import Edge


class GradedError(BpttError, RuntimeError):
    """The graph of this step cannot be split by lag."""


# Where a part of the graph hands a gradient on: ("mark", edge), ("node", edge), ("side", edge) or
# ("leaf", parameter).
Key: TypeAlias = tuple[str, Any]


@dataclass(eq=False)
class Part:
    """Nodes that run together, from its roots to what it hands on."""

    roots: list[Edge]
    owner: Owner | None
    nodes: list[Any] = field(default_factory=list)
    sends: list[list[tuple[Any, ...] | None]] = field(default_factory=list)
    place: dict[Any, int] = field(default_factory=dict)
    batched: bool = True

    @property
    def keys(self) -> set[Key]:
        """What it may hand gradients to."""
        return {s[1] for sends in self.sends for s in sends if s is not None and s[0] == "out"}

    def run(self, roots: list[Edge], given: Sequence[Tensor]) -> dict[Key, Tensor]:
        """Cotangents ``(n, …)`` at its roots to those it hands on, ``(n, …)`` each."""
        n = given[0].shape[0]
        if n > 1 and self.batched:
            try:
                with _lanes(n) as level:
                    found = self.once(roots, [_batched(v, 0, level) for v in given])
                    return {key: _unbatched(v, level, n, 0) for key, v in found.items()}
            except (RuntimeError, TypeError, ValueError):
                self.batched = False  # an operator without a batching rule: one after the other
        each = [self.once(roots, [g[i] for g in given]) for i in range(n)]
        return {key: torch.stack([e[key] for e in each]) for key in each[0]}

    def once(self, roots: list[Edge], given: Sequence[Tensor]) -> dict[Key, Tensor]:
        """The same for one cotangent each."""
        arrived: list[dict[int, Tensor]] = [{} for _ in self.nodes]
        for (node, nr), value in zip(roots, given, strict=True):
            _add(arrived[self.place[node]], nr, value)
        out: dict[Key, Tensor] = {}
        for i, node in enumerate(self.nodes):
            came = arrived[i]
            if not came:
                continue
            arrived[i] = {}
            for sent, gradient in zip(self.sends[i], _call(node, came), strict=True):
                if sent is None or gradient is None:
                    continue
                kind, target, nr, shape, dtype = sent
                value = gradient
                if value.shape != shape:
                    value = value.sum_to_size(shape)
                if value.dtype != dtype:
                    value = value.to(dtype)
                if kind == "in":
                    _add(arrived[target], nr, value)
                else:
                    out[target] = out[target] + value if target in out else value
        return out


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


def _add(into: dict[int, Tensor], nr: int, value: Tensor) -> None:
    into[nr] = into[nr] + value if nr in into else value


def _call(node: Any, came: dict[int, Tensor]) -> Sequence[Tensor | None]:
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


class Graph:
    """The user's graph, divided among the steps that its nodes belong to.

    Args:
        owners: steps in the order of the forward pass, see :class:`bptt.recurrence.clock.Clock`.
        parameters: those whose gradient is split.
        instead, onward: of unrolled layers, see :class:`bptt.recurrence.unrolled.Unrolled`.
    """

    def __init__(
        self,
        owners: list[Owner],
        parameters: Iterable[Tensor],
        instead: dict[Edge, Edge] | None = None,
        onward: dict[Tensor, Any] | None = None,
    ) -> None:
        self.owners = [o for o in owners if o.roots]
        self.marks: dict[Edge, Owner] = {e: o for o in self.owners for e in o.roots}
        self._wanted = {id(p): p for p in parameters}
        self._instead = instead or {}
        self._onward = {id(k): v for k, v in (onward or {}).items()}
        self._next: dict[Any, list[Edge | Tensor | None]] = {}
        self._owner: dict[Any, Owner | None] = {}
        self._live: dict[Any, bool] = {}
        self._to_mark: dict[Any, bool] = {}
        for owner in self.owners:
            self._claim(owner)
        self.parts = {id(o): self.part(list(o.roots), o) for o in self.owners}
        self._shared: dict[Any, Part] = {}

    def next(self, node: Any) -> list[Edge | Tensor | None]:
        """Where a node's gradients go: an edge, a leaf, or nowhere."""
        found = self._next.get(node)
        if found is None:
            found = [None if n is None else self.resolve((n, nr)) for n, nr in node.next_functions]
            self._next[node] = found
        return found

    def resolve(self, edge: Edge) -> Edge | Tensor | None:
        """An edge with layers replaced by their steps; a parameter for a leaf."""
        while True:
            edge = self._instead.get(edge, edge)
            leaf = getattr(edge[0], "variable", None)
            if leaf is None:
                return edge
            onward = self._onward.get(id(leaf), leaf)
            if isinstance(onward, tuple):
                edge = onward
                continue
            return onward

    def _edges(self, node: Any) -> list[Edge]:
        return [e for e in self.next(node) if isinstance(e, tuple)]

    def _claim(self, owner: Owner) -> None:
        """Nodes reached from one step alone are its own; others are shared, with all below them."""
        stack = [node for node, _ in owner.roots]
        while stack:
            node = stack.pop()
            if node in self._owner:
                if self._owner[node] is owner or self._owner[node] is None:
                    continue
                self._owner[node] = None
            else:
                self._owner[node] = owner
            for edge in self._edges(node):
                if self.marks.get(edge, owner) is owner:
                    stack.append(edge[0])

    def _find_live(self, root: Any) -> None:
        """Whether a node leads to a step or a wanted parameter, and whether to a step."""
        known = self._live
        stack = [(root, iter(self._edges(root)))] if root not in known else []
        opened = {root}
        while stack:
            node, rest = stack[-1]
            for edge in rest:
                if edge not in self.marks and edge[0] not in known and edge[0] not in opened:
                    opened.add(edge[0])
                    stack.append((edge[0], iter(self._edges(edge[0]))))
                    break
            else:
                stack.pop()
                live = to_mark = False
                for target in self.next(node):
                    if isinstance(target, tuple):
                        mark = target in self.marks
                        to_mark |= mark or self._to_mark[target[0]]
                        live |= mark or known[target[0]]
                    elif target is not None:
                        live |= id(target) in self._wanted
                known[node], self._to_mark[node] = live, to_mark

    def part(self, roots: list[Edge], owner: Owner | None, direct: bool = False) -> Part:
        """The nodes below some roots that run together.

        Args:
            owner: whose they are to be; None for a single shared node.
            direct: everything down to the next steps and to the parameters, whoever owns it.
        """
        part = Part(roots, owner)
        for node, _ in roots:
            self._find_live(node)
        single = owner is None and not direct
        top = {node for node, _ in roots}

        def inside(edge: Edge) -> bool:
            if edge in self.marks and (owner is None or self.marks[edge] is not owner):
                return False
            return not single and (direct or self._owner.get(edge[0]) is owner)

        def below(node: Any) -> list[Edge]:
            return [e for e in self._edges(node) if inside(e)]

        order = _order(top, below)
        part.nodes = order[::-1]
        part.place = {node: i for i, node in enumerate(part.nodes)}
        for node in part.nodes:
            sends: list[tuple[Any, ...] | None] = []
            for target in self.next(node):
                sends.append(self._send(target, part, inside))
            part.sends.append(sends)
        return part

    def _send(
        self, target: Edge | Tensor | None, part: Part, inside: Callable[[Edge], bool]
    ) -> tuple[Any, ...] | None:
        if target is None:
            return None
        if isinstance(target, Tensor):
            if id(target) not in self._wanted:
                return None
            return ("out", ("leaf", id(target)), 0, target.shape, target.dtype)
        node, nr = target
        meta = node._input_metadata[nr]
        shape, dtype = torch.Size(meta.shape), meta.dtype
        if inside(target):
            self._find_live(node)
            return ("in", part.place[node], nr, shape, dtype) if self._live[node] else None
        if target in self.marks:
            return ("out", ("mark", target), nr, shape, dtype)
        self._find_live(node)
        if not self._live[node]:
            return None
        kind = "node" if self._to_mark[node] else "side"
        return ("out", (kind, target), nr, shape, dtype)

    def shared(self, node: Any) -> Part:
        """A node that several steps reach."""
        if node not in self._shared:
            roots = [(node, nr) for nr in range(len(node._input_metadata))]
            self._shared[node] = self.part(roots, None)
        return self._shared[node]

    def units(self) -> list[Any]:
        """Owners and shared nodes, each before all that it hands gradients to."""
        seen: set[int] = set()
        order: list[Any] = []

        def targets(unit: Any) -> list[Any]:
            part = self.parts[id(unit)] if isinstance(unit, Owner) else self.shared(unit)
            found = []
            for kind, value in part.keys:
                if kind == "mark":
                    found.append(self.marks[value])
                elif kind == "node":
                    found.append(value[0])
            return found

        for root in reversed(self.owners):
            if id(root) in seen:
                continue
            seen.add(id(root))
            stack = [(root, iter(targets(root)))]
            while stack:
                unit, rest = stack[-1]
                for child in rest:
                    if id(child) not in seen:
                        seen.add(id(child))
                        stack.append((child, iter(targets(child))))
                        break
                else:
                    stack.pop()
                    order.append(unit)
        return order[::-1]

    def direct(self, roots: list[Edge], given: list[Tensor]) -> dict[Key, Tensor]:
        """What reaches the steps and the parameters before any step was passed."""
        inner: list[Edge] = []
        values: list[Tensor] = []
        out: dict[Key, Tensor] = {}
        for root, value in zip(roots, given, strict=True):
            target = self.resolve(root)
            if isinstance(target, tuple) and target in self.marks:
                key = ("mark", target)
                out[key] = out[key] + value if key in out else value
            elif isinstance(target, tuple):
                inner.append(target)
                values.append(value)
        if inner:
            part = self.part(inner, None, direct=True)
            for key, value in part.once(inner, values).items():
                out[key] = out[key] + value if key in out else value
        return out


def _order(roots: set[Any], below: Callable[[Any], list[Edge]]) -> list[Any]:
    """Nodes, each after all that it leads to."""
    known: set[Any] = set()
    order: list[Any] = []
    for root in roots:
        if root in known:
            continue
        known.add(root)
        stack = [(root, iter(below(root)))]
        while stack:
            node, rest = stack[-1]
            for child, _ in rest:
                if child not in known:
                    known.add(child)
                    stack.append((child, iter(below(child))))
                    break
            else:
                stack.pop()
                order.append(node)
    return order
