"""The user's graph divided among the steps that its nodes belong to, and run backward part by part.

A node that several steps reach, such as a projection of all inputs at once, belongs to none of them.
No hook of the user's is called and no ``.grad`` is touched: nodes are run one by one, as autograd's
engine runs them, over a batch of cotangents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from bptt.recurrence.clock import Owner
from bptt.recurrence.nodes import (
    EXACT,
    MATRICES,
    RULES,
    Arrived,
    Key,
    Matrix,
    Product,
    Rule,
    Send,
    any_node,
    fit,
    through_matrix,
)
from bptt.recurrence.tape import Edge


@dataclass(eq=False)
class Part:
    """Nodes that run together, from its roots to what it hands on."""

    roots: list[Edge]
    owner: Owner | None
    nodes: list[Any] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    sends: list[list[Send | None]] = field(default_factory=list)
    place: dict[Any, int] = field(default_factory=dict)
    matrices: dict[int, Matrix] = field(default_factory=dict)

    @cached_property
    def keys(self) -> set[Key]:
        """What it may hand gradients to."""
        return {s[1] for sends in self.sends for s in sends if s is not None and s[0] == "out"}

    @cached_property
    def onward(self) -> bool:
        """Whether any of them leads to an earlier step."""
        return any(kind in ("mark", "node") for kind, _ in self.keys)

    def run(
        self, roots: list[Edge], given: Sequence[Tensor], products: list[Product] | None = None
    ) -> dict[Key, Tensor]:
        """Cotangents ``(n, …)`` at its roots to those it hands on, ``(n, …)`` each.

        Args:
            products: takes the gradients of matrices that are still to be multiplied out; without it
                they are handed on as others are.
        """
        arrived: list[Arrived | None] = [None] * len(self.nodes)
        matrices = {} if products is None else self.matrices
        for (node, nr), value in zip(roots, given, strict=True):
            _add(arrived, self.place[node], nr, value)
        out: dict[Key, Tensor] = {}
        for i, came in enumerate(arrived):
            if came is None:
                continue
            arrived[i] = None
            sends = self.sends[i]
            if i in matrices and products is not None and not came[0].is_complex():
                found = through_matrix(self.nodes[i], came[0], sends, matrices[i], products)
            else:
                found = self.rules[i](self.nodes[i], came, sends)
            for sent, gradient in zip(sends, found, strict=True):
                if sent is None or gradient is None:
                    continue
                kind, target, nr, shape, dtype = sent
                value = gradient
                if shape is not None:
                    if value.shape[1:] != shape:
                        value = fit(value, shape)
                    if value.dtype != dtype:
                        value = value.to(dtype)
                if kind == "in":
                    _add(arrived, target, nr, value)
                else:
                    out[target] = out[target] + value if target in out else value
        return out


def _add(arrived: list[Arrived | None], i: int, nr: int, value: Tensor) -> None:
    into = arrived[i]
    if into is None:
        arrived[i] = {nr: value}
    else:
        into[nr] = into[nr] + value if nr in into else value


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
        orders = [self._explore([node for node, _ in o.roots], o) for o in self.owners]
        self.parts = {
            id(o): self.part(list(o.roots), o, order=order)
            for o, order in zip(self.owners, orders, strict=True)
        }
        self._shared: dict[Any, Part] = {}

    def next(self, node: Any) -> list[Edge | Tensor | None]:
        """Where a node's gradients go: an edge, a leaf, or nowhere."""
        found = self._next.get(node)
        if found is None:
            found = [None if e[0] is None else self.resolve(e) for e in node.next_functions]
            self._next[node] = found
        return found

    def resolve(self, edge: Edge) -> Edge | Tensor | None:
        """An edge with layers replaced by their steps; a parameter for a leaf."""
        while True:
            edge = self._instead.get(edge, edge) if self._instead else edge
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

    def _explore(self, roots: Iterable[Any], owner: Owner | None = None) -> list[Any]:
        """Every node below the roots that is not known yet, each after all that it leads to; and whether
        it leads to a step or a wanted parameter, and whether to a step.

        Nodes reached from one step alone are its own; others are shared, with all below them.
        """
        live, to_mark, marks = self._live, self._to_mark, self.marks
        order: list[Any] = []
        for root in roots:
            if root in live:
                if owner is not None and self._owner.get(root) is not owner:
                    self._share(root)
                continue
            live[root] = False
            self._owner[root] = owner
            stack = [(root, iter(self.next(root)))]
            while stack:
                node, rest = stack[-1]
                for target in rest:
                    if not isinstance(target, tuple) or marks.get(target, owner) is not owner:
                        continue
                    child = target[0]
                    if child not in live:
                        live[child] = False
                        self._owner[child] = owner
                        stack.append((child, iter(self.next(child))))
                        break
                    if owner is not None and self._owner[child] is not owner:
                        self._share(child)
                else:
                    stack.pop()
                    order.append(node)
                    reaches = steps = False
                    for target in self._next[node]:
                        if isinstance(target, tuple):
                            steps = steps or target in marks or to_mark[target[0]]
                            reaches = reaches or target in marks or live[target[0]]
                        elif target is not None:
                            reaches = reaches or id(target) in self._wanted
                    live[node], to_mark[node] = reaches, steps
        return order

    def _share(self, node: Any) -> None:
        stack = [node]
        while stack:
            node = stack.pop()
            if self._owner.get(node) is not None:
                self._owner[node] = None
                stack += [e[0] for e in self._edges(node) if e not in self.marks]

    def part(
        self, roots: list[Edge], owner: Owner | None, direct: bool = False,
        order: list[Any] | None = None,
    ) -> Part:  # fmt: skip
        """The nodes below some roots that run together.

        Args:
            owner: whose they are to be; None for a single shared node.
            direct: everything down to the next steps and to the parameters, whoever owns it.
            order: of an owner, its nodes and others, each after all that it leads to.
        """
        part = Part(roots, owner)
        top = {node for node, _ in roots}
        self._explore(top)
        single = owner is None and not direct

        def inside(edge: Edge) -> bool:
            if self.marks.get(edge, owner) is not owner:
                return False
            return not single and (direct or self._owner[edge[0]] is owner)

        def below(node: Any) -> list[Edge]:
            return [e for e in self._edges(node) if inside(e)]

        if order is None or any(self._owner[node] is not owner for node in top):
            order = _order(top, below)
        else:
            order = [node for node in order if self._owner[node] is owner]
        part.nodes = order[::-1]
        part.place = {node: i for i, node in enumerate(part.nodes)}
        for node in part.nodes:
            kind = type(node).__name__
            part.rules.append(RULES.get(kind, any_node))
            # From here on the gradient's shape is what the node's formula gives.
            exact = 0 if kind in EXACT else MATRICES[kind][0] if kind in MATRICES else 99
            sends: list[Send | None] = []
            for place, target in enumerate(self.next(node)):
                if isinstance(target, tuple):
                    sends.append(self._send(target, part, inside(target), place >= exact))
                elif target is None or id(target) not in self._wanted:
                    sends.append(None)
                else:
                    key = "leaf", id(target)
                    sends.append(("out", key, 0, target.shape, target.dtype))
            part.sends.append(sends)
        if owner is not None:
            for i, node in enumerate(part.nodes):
                if type(node).__name__ in MATRICES:
                    found = self._matrix(part, i, node)
                    if found is not None:
                        part.matrices[i] = found
        return part

    def _send(self, target: Edge, part: Part, within: bool, exact: bool) -> Send | None:
        node, nr = target
        mark = target in self.marks
        if (within or not mark) and not self._live[node]:
            return None
        shape = dtype = None
        if not exact:
            meta = node._input_metadata[nr]
            shape, dtype = tuple(meta.shape), meta.dtype
        if within:
            return ("in", part.place[node], nr, shape, dtype)
        kind = "mark" if mark else "node" if self._to_mark[node] else "side"
        return ("out", (kind, target), nr, shape, dtype)

    def _matrix(self, part: Part, i: int, node: Any) -> Matrix | None:
        """Where the gradients of a product go, if that of its matrix goes to parameters alone."""
        x, names = MATRICES[type(node).__name__]
        bias, weight = part.sends[i][0] if x else None, part.sends[i][x + 1]
        turned = False
        if weight is not None and weight[0] == "in":
            turned = type(part.nodes[weight[1]]).__name__ == "TBackward0"
            weight = part.sends[weight[1]][0] if turned else weight
        if weight is not None and (weight[0] == "in" or weight[1][0] not in ("leaf", "side")):
            return None
        if getattr(node, "_saved_alpha", 1) != 1 or getattr(node, "_saved_beta", 1) != 1:
            return None
        row = bias is not None and bias[0] == "out" and bias[1][0] == "leaf"
        row = row and bias is not None and bias[3] is not None and len(bias[3]) == 1
        return Matrix(
            x, names, None if weight is None else weight[1], turned,
            bias[1] if bias is not None and row else None,
        )  # fmt: skip

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
            for key, value in part.run(inner, [v.unsqueeze(0) for v in values]).items():
                out[key] = out[key] + value[0] if key in out else value[0]
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
