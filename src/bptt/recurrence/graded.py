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
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from bptt.recurrence.clock import Owner
from bptt.recurrence.divided import Graph, Key, Part
from bptt.recurrence.loops import silent
from bptt.recurrence.tape import Edge
from bptt.recurrence.trajectory import TOLERANCE

# Losses that are followed at once: more take more memory, fewer more passes.
BLOCK = 16
# A loss is no longer followed where its gradient is below this share of a typical direct one.
PRUNE = 0.25
# Numbers of a gradient that are looked at at once.
PIECE = 1 << 14

# Times of losses, ascending, and their cotangents one after the other.
Carried: TypeAlias = tuple[list[int], Tensor]


@dataclass(eq=False)
class Graded:
    """A gradient split by lag.

    Attributes:
        truncations: the K asked for, ascending.
        sources: the share of the losses' times that were followed.
        half: as ``parts``, of every other loss that was followed, where not all were.
        parts: by parameter, ``(n, *shape)``: the gradient of the lags from one K to the next.
        squares: by module's name and output, ``(lags,)``: squared norms at the steps.
        linked: by module's name, ``(lags,)``: of those that go on to an earlier step.
        totals: by module's name, ``(T,)``: squared norms at each time, all lags together.
        outside: by parameter: what reached it past all steps.
        whole: by parameter: the gradient of all lags, also of those beyond a cap.
    """

    truncations: list[int]
    parts: dict[int, Tensor] = field(default_factory=dict)
    half: dict[int, Tensor] = field(default_factory=dict)
    sources: float = 1.0
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
    sources: int | None = None,
    whole: bool = False,
    block: int = BLOCK,
    ticks: bool = False,
) -> Graded:
    """Run the graded pass.

    Args:
        roots, given: where the backward pass begins, and with which cotangents.
        truncations: the K at which the gradient is split; lags from the last on are not followed.
        floor: follow a loss until its gradient falls below about this share; default: to the end.
        sources: the most times of losses to follow, evenly spaced; default all.
        whole: also take the gradient of all lags and losses together, to compare the step's with.
        block: so many losses at once.
        ticks: what reaches a step's parameters from the loss past all steps is of lag 0: the last
            step of a loop has no tick behind it.
    """
    quiet = warnings.catch_warnings()
    with torch.no_grad(), silent(), torch.random.fork_rng(devices=[]), quiet:
        warnings.simplefilter("ignore")  # operators that go through the losses one by one say so
        split = _Split(graph, truncations, floor, ticks)
        return split.run(roots, given, block, sources, whole)


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
        self._half: set[int] = set()

    def run(
        self, roots: list[Edge], given: list[Tensor], block: int, sources: int | None, whole: bool
    ) -> Graded:
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
        followed = times
        if sources is not None and sources < len(times):
            apart = -(-len(times) // sources)
            followed = times[(len(times) - 1) % apart :: apart]
            self.found.sources = len(followed) / len(times)
            self._half = set(followed[::2])
        for at in range(len(followed), 0, -block):
            self._pass(start, set(followed[max(0, at - block) : at]))
        for key, half in self.found.half.items():
            self.found.parts[key] += half
        self._finish_sides()
        if self.cap < self.steps or whole:
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
            bucket = torch.bucketize(lags, self.borders, right=True).tolist()
            into: Any = self.found.parts if kind == "leaf" else self._sides
            if self._half and kind == "leaf":
                self._halve(target, labels, bucket, value)
                return
            if target not in into:
                into[target] = value.new_zeros((len(self.borders), *value.shape[1:]))
            first = 0
            for i in range(1, len(bucket) + 1):  # later losses first, so equal ones are neighbours
                if i == len(bucket) or bucket[i] != bucket[first]:
                    part = value[first] if i == first + 1 else value[first:i].sum(0)
                    into[target][bucket[first]].add_(part)
                    first = i

    def _halve(self, key: int, labels: list[int], bucket: list[int], value: Tensor) -> None:
        """Each loss goes to its half alone: what is added twice would cost as much as the products."""
        for half in (self.found.half, self.found.parts):
            if key not in half:
                half[key] = value.new_zeros((len(self.borders), *value.shape[1:]))
        for i, t in enumerate(labels):
            half = self.found.half if t in self._half else self.found.parts
            half[key][bucket[i]].add_(value[i])

    def _whole(self, kind: str, target: Any, value: Tensor) -> None:
        if kind == "leaf":
            old = self.found.whole.get(target)
            self.found.whole[target] = value if old is None else old + value
            return
        for key, found in self._run_side(target, value.unsqueeze(0)).items():
            self._whole("leaf", key, found[0])

    def _count(
        self, owner: Owner, part: Part, labels: list[int], roots: list[Edge], values: list[Tensor]
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
        part = self.graph.part([edge], None, direct=True)
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
            _, value = _join(
                (labels, value.new_zeros((len(labels), *value.shape[1:]))), (times, value)
            )
        values.append(value)
    return labels, list(waiting), values


def gram(rows: Sequence[Tensor]) -> Tensor:
    """Products of rows with rows, in float64, a piece of the rows at a time."""
    count = sum(len(r) for r in rows)
    found = torch.zeros(count, count, dtype=torch.float64)
    for pieces in zip(*(r.flatten(1).split(PIECE, 1) for r in rows), strict=True):
        piece = torch.cat(pieces).double()
        found += (piece @ piece.t()).cpu()
    return found


def tally(products: Tensor, count: int) -> tuple[float, Tensor, Tensor, Tensor]:
    """Of one parameter, from the products of its gradients by block of lags, and of what no block holds:
    ‖g‖², and at each K ‖r‖² and r·g of what is missing, and ‖·‖² of the block before it."""
    # What is missing at a K is all rows behind it.
    behind = products.flip(0, 1).cumsum(0).cumsum(1).diagonal().flip(0)
    along = products.sum(1).flip(0).cumsum(0).flip(0)
    zero = torch.zeros(1, dtype=torch.float64)
    squares, dots = (torch.cat([v, zero])[1 : count + 1] for v in (behind, along))
    return float(behind[0]), squares.clamp(min=0), dots, products.diagonal()[:count]


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
    return error / (
        TOLERANCE.get(gradient.dtype, 3e-2) * max(size, torch.finfo(gradient.dtype).tiny)
    )
