"""The backward pass graded by the time of each loss: any autograd graph, split by lag.

Let t be the time at which the gradient of the loss first meets a recurrent step on its way back, and s
the time of a step that it passes later, by whatever path. What it leaves in the parameters used at s
has lag t - s. So one cotangent is carried for each t. Walked step by step from the last to the first,
each step's part of the graph is run once, over all the t that reach it, and its parameters' gradient
at time s is filed under t - s.

The graph is the user's own, walked node by node: no hook of theirs is called, no ``.grad`` touched, no
random number drawn, and what was drawn in the forward pass is in the graph.

A node that several steps reach, such as a projection of all inputs at once, belongs to none: the
cotangents that arrive there are added up by t, or, where it leads to parameters alone, by lag.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from bptt.errors import BpttError
from bptt.recurrence.cellcalls import silent
from bptt.recurrence.clock import Edge, Owner, children_first
from bptt.recurrence.replay import TOLERANCE

# Losses that are followed at once: more take more memory, fewer more passes.
BLOCK = 32
# A loss is no longer followed where its gradient is below this share of a typical direct one.
PRUNE = 0.25


class GradedError(BpttError, RuntimeError):
    """The graph of this step cannot be split by lag."""


# Where a part of the graph hands a gradient on: ("mark", edge), ("node", edge), ("side", edge) or
# ("leaf", parameter).
Key: TypeAlias = tuple[str, Any]
# Times of losses, ascending, and their cotangents one after the other.
Carried: TypeAlias = tuple[list[int], Tensor]


@dataclass(eq=False)
class _Part:
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
            keys: list[Key] = []

            def batch(*values: Tensor) -> tuple[Tensor, ...]:
                found = self.once(roots, values)
                keys[:] = list(found)
                return tuple(found.values())

            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = torch.vmap(batch)(*given)
                return dict(zip(keys, found, strict=True))
            except (RuntimeError, NotImplementedError, TypeError, ValueError):
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
            for sent, value in zip(self.sends[i], _call(node, came), strict=True):
                if sent is None or value is None:
                    continue
                kind, target, nr, shape, dtype = sent
                if value.shape != shape:
                    value = value.sum_to_size(shape)
                if value.dtype != dtype:
                    value = value.to(dtype)
                if kind == "in":
                    _add(arrived[target], nr, value)
                else:
                    out[target] = out[target] + value if target in out else value
        return out


def _add(into: dict[int, Tensor], nr: int, value: Tensor) -> None:
    into[nr] = into[nr] + value if nr in into else value


def _call(node: Any, came: dict[int, Tensor]) -> Sequence[Tensor | None]:
    """Run one node backward; autograd's engine does no more."""
    count = len(node._input_metadata)
    given = [came.get(nr) for nr in range(count)]
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
    for nr, (value, meta) in enumerate(zip(given, node._input_metadata, strict=True)):
        if value is None:
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
        self.parts = {id(o): self._part(list(o.roots), o) for o in self.owners}
        self._shared: dict[Any, _Part] = {}

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

    def _part(self, roots: list[Edge], owner: Owner | None, direct: bool = False) -> _Part:
        part = _Part(roots, owner)
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
        self, target: Edge | Tensor | None, part: _Part, inside: Callable[[Edge], bool]
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

    def shared(self, node: Any) -> _Part:
        """A node that several steps reach."""
        if node not in self._shared:
            roots = [(node, nr) for nr in range(len(node._input_metadata))]
            self._shared[node] = self._part(roots, None)
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
        inner, values, out = [], [], {}
        for root, value in zip(roots, given, strict=True):
            target = self.resolve(root)
            if isinstance(target, tuple) and target in self.marks:
                key = ("mark", target)
                out[key] = out[key] + value if key in out else value
            elif isinstance(target, tuple):
                inner.append(target)
                values.append(value)
        if inner:
            part = self._part(inner, None, direct=True)
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


@dataclass(eq=False)
class Graded:
    """A gradient split by lag.

    Attributes:
        truncations: the K asked for, ascending.
        parts: by parameter, ``(n, *shape)``: the gradient of the lags from one K to the next.
        squares: by module's name and output, ``(lags,)``: squared norms at the steps.
        linked: by module's name, ``(lags,)``: of those that go on to an earlier step.
        totals: by module's name, ``(T,)``: squared norms at each time, all lags together.
        outside: by parameter: what reached it past all steps.
        whole: by parameter: the gradient of all lags, also of those beyond a cap.
    """

    truncations: list[int]
    parts: dict[int, Tensor] = field(default_factory=dict)
    squares: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    linked: dict[str, Tensor] = field(default_factory=dict)
    totals: dict[str, Tensor] = field(default_factory=dict)
    outside: dict[int, Tensor] = field(default_factory=dict)
    whole: dict[int, Tensor] = field(default_factory=dict)


def split_by_lag(
    graph: Graph,
    roots: list[Edge],
    given: list[Tensor],
    truncations: list[int],
    *,
    floor: float | None = None,
    block: int = BLOCK,
    ticks: bool = False,
) -> Graded:
    """Run the graded pass.

    Args:
        roots, given: where the backward pass begins, and with which cotangents.
        truncations: the K at which the gradient is split; lags from the last on are not followed.
        floor: follow a loss until its gradient falls below about this share; default: to the end.
        block: so many losses at once.
        ticks: what reaches a step's parameters from the loss past all steps is of lag 0: the last
            step of a loop has no tick behind it.
    """
    with torch.no_grad(), silent(), torch.random.fork_rng(devices=[]):
        return _Split(graph, truncations, floor, ticks).run(roots, given, block)


class _Split:
    def __init__(
        self, graph: Graph, truncations: list[int], floor: float | None, ticks: bool
    ) -> None:
        self.graph, self.floor, self.ticks = graph, floor, ticks
        self.steps = max(o.time for o in graph.owners) + 1
        self.cap = truncations[-1]
        self.borders = torch.tensor(truncations)
        self.found = Graded(truncations)
        self.units = graph.units()
        self._sides: dict[Edge, Tensor] = {}
        self._total: dict[Edge, Tensor] = {}
        self._limit = 0.0

    def run(self, roots: list[Edge], given: list[Tensor], block: int) -> Graded:
        arrived = self.graph.direct(roots, given)
        start: dict[int, dict[Edge, Tensor]] = {}
        for (kind, value), gradient in arrived.items():
            if kind == "leaf":
                self.found.outside[value] = gradient
            else:
                start.setdefault(id(self.graph.marks[value]), {})[value] = gradient
        times = sorted({o.time for o in self.graph.owners if id(o) in start})
        if self.floor is not None and start:
            norms = [float(g.square().sum()) for gs in start.values() for g in gs.values()]
            self._limit = self.floor * PRUNE * (sum(norms) / max(1, len(norms))) ** 0.5
        for at in range(len(times), 0, -block):
            self._pass(start, set(times[max(0, at - block) : at]))
        self._finish_sides()
        if self.cap < self.steps or self.floor is not None:
            self._pass(start, set(times), merged=True)
        self._by_time()
        if self.ticks:
            for key, gradient in self.found.outside.items():
                if key in self.found.parts:
                    self.found.parts[key][0] += gradient
                    if key in self.found.whole:
                        self.found.whole[key] = self.found.whole[key] + gradient
            for key in self.found.parts:
                self.found.outside.pop(key, None)
        return self.found

    def _pass(
        self, start: dict[int, dict[Edge, Tensor]], times: set[int], merged: bool = False
    ) -> None:
        pending: dict[int, dict[Edge, Carried]] = {}
        for unit in self.units:
            waiting = pending.pop(id(unit), {})
            owner = unit if isinstance(unit, Owner) else None
            if owner is not None and owner.time in times:
                label = [0 if merged else owner.time]
                for edge, gradient in start.get(id(owner), {}).items():
                    waiting[edge] = _join(waiting.get(edge), (label, gradient.unsqueeze(0)))
            if not waiting:
                continue
            part = self.graph.parts[id(owner)] if owner else self.graph.shared(unit)
            labels, roots, values = _aligned(waiting)
            if owner is not None and owner.counts and not merged:
                labels, values = self._count(owner, part, labels, roots, values)
                if not labels:
                    continue
            for key, value in part.run(roots, values).items():
                self._send(owner, key, labels, value, pending, merged)

    def _send(
        self, owner: Owner | None, key: Key, labels: list[int], value: Tensor,
        pending: dict[int, dict[Edge, Carried]], merged: bool,
    ) -> None:  # fmt: skip
        kind, target = key
        if kind in ("mark", "node"):
            unit = self.graph.marks[target] if kind == "mark" else target[0]
            there = pending.setdefault(id(unit), {})
            there[target] = _join(there.get(target), (labels, value))
        elif owner is None:
            if kind == "leaf" and not merged:
                total = value.sum(0)
                old = self.found.outside.get(target)
                self.found.outside[target] = total if old is None else old + total
        elif merged:
            self._whole(kind, target, value[0])
        else:
            lags = torch.tensor([max(0, t - owner.time) for t in labels])
            bucket = torch.bucketize(lags, self.borders, right=True).to(value.device)
            into: Any = self.found.parts if kind == "leaf" else self._sides
            if target not in into:
                into[target] = value.new_zeros((len(self.borders), *value.shape[1:]))
            into[target].index_add_(0, bucket, value)

    def _whole(self, kind: str, target: Any, value: Tensor) -> None:
        if kind == "leaf":
            old = self.found.whole.get(target)
            self.found.whole[target] = value if old is None else old + value
            return
        for key, found in self._run_side(target, value.unsqueeze(0)).items():
            self._whole("leaf", key, found[0])

    def _count(
        self, owner: Owner, part: _Part, labels: list[int], roots: list[Edge], values: list[Tensor]
    ) -> tuple[list[int], list[Tensor]]:
        """Norms by lag, and which losses are followed on."""
        lags = [max(0, t - owner.time) for t in labels]
        onward = any(kind in ("mark", "node") for kind, _ in part.keys)
        whole = torch.zeros(len(labels), dtype=torch.float64)
        for edge, value in zip(roots, values, strict=True):
            squares = torch.linalg.vector_norm(value.flatten(1).double(), dim=1).square().cpu()
            whole += squares
            name = owner.name, f"{owner.roots.index(edge)}"
            if name not in self.found.squares:
                self.found.squares[name] = torch.zeros(self.steps, dtype=torch.float64)
            self.found.squares[name].index_add_(0, torch.tensor(lags), squares)
            total = value.sum(0)
            self._total[edge] = self._total[edge] + total if edge in self._total else total
        if onward:
            line = self.found.linked.setdefault(
                owner.name, torch.zeros(self.steps, dtype=torch.float64)
            )
            line.index_add_(0, torch.tensor(lags), whole)
        kept = [
            i for i, lag in enumerate(lags)
            if lag < self.cap and not float(whole[i]) ** 0.5 <= self._limit
        ]  # fmt: skip
        if self._limit == 0.0:
            kept = [i for i, lag in enumerate(lags) if lag < self.cap]
        if len(kept) == len(labels):
            return labels, values
        return [labels[i] for i in kept], [v[kept] for v in values]

    def _run_side(self, edge: Edge, value: Tensor) -> dict[int, Tensor]:
        """From a node that leads to parameters alone, down to them."""
        part = self.graph._part([edge], None, direct=True)
        return {key[1]: v for key, v in part.run([edge], [value]).items() if key[0] == "leaf"}

    def _finish_sides(self) -> None:
        for edge, buckets in self._sides.items():
            for key, value in self._run_side(edge, buckets).items():
                old = self.found.parts.get(key)
                self.found.parts[key] = value.clone() if old is None else old + value
        self._sides = {}

    def _by_time(self) -> None:
        for edge, total in self._total.items():
            owner = self.graph.marks[edge]
            line = self.found.totals.setdefault(
                owner.name, torch.zeros(self.steps, dtype=torch.float64)
            )
            line[owner.time] += float(total.double().square().sum())
        self._total = {}


def _join(old: Carried | None, new: Carried) -> Carried:
    if old is None:
        return new
    if old[0] == new[0]:
        return old[0], old[1] + new[1]
    labels = sorted({*old[0], *new[0]})
    place = {t: i for i, t in enumerate(labels)}
    total = new[1].new_zeros((len(labels), *new[1].shape[1:]))
    for times, value in (old, new):
        total.index_add_(0, torch.tensor([place[t] for t in times], device=total.device), value)
    return labels, total


def _aligned(waiting: dict[Edge, Carried]) -> tuple[list[int], list[Edge], list[Tensor]]:
    labels = sorted({t for times, _ in waiting.values() for t in times})
    values = []
    for times, value in waiting.values():
        if times != labels:
            _, value = _join((labels, value.new_zeros((len(labels), *value.shape[1:]))), (times, value))
        values.append(value)
    return labels, list(waiting), values


def check_sum(graded: Graded, parameter: nn.Parameter, gradient: Tensor) -> float:
    """By how much the lags miss the gradient that the step left, relative to it, over the tolerance:
    up to 1 is rounding."""
    part = graded.whole.get(id(parameter))
    if part is None:
        parts = graded.parts.get(id(parameter))
        part = torch.zeros_like(gradient) if parts is None else parts.sum(0)
    outside = graded.outside.get(id(parameter))
    total = part if outside is None else part + outside
    size = float(gradient.double().norm())
    if not (size < float("inf")) or not bool(total.isfinite().all()):
        return 0.0
    error = float((total.double() - gradient.double()).norm())
    return error / (TOLERANCE.get(gradient.dtype, 3e-2) * max(size, torch.finfo(gradient.dtype).tiny))
