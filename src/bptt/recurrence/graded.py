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

from bptt.ops.device import random_kept
from bptt.recurrence.clock import Owner
from bptt.recurrence.divided import Graph, Part
from bptt.recurrence.loops import silent
from bptt.recurrence.nodes import Key, Matrix, Product
from bptt.recurrence.tape import Edge
from bptt.recurrence.trajectory import TOLERANCE

# Losses that are followed at once: more take more memory, fewer more passes.
BLOCK = 16
# A loss is no longer followed where its gradient is below this share of a typical direct one.
PRUNE = 0.25
# Numbers of cotangents whose products are put off.
WAITING = 1 << 20
# Numbers that tell what each loss's gradient is at each step, of so many lanes as they suffice for.
KEPT = 1 << 19
# Numbers of a gradient that are looked at at once.
PIECE = 1 << 12

# Times of losses, ascending, and their cotangents one after the other.
Carried: TypeAlias = tuple[list[int], Tensor]
# Neighbours among cotangents that go to one row: the row, the first and the one after the last.
Run: TypeAlias = tuple[int, int, int]


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
        connected: ``(T, T, lanes)``, of the first lanes: at [t, s] the squared norm of the gradient of
            the loss at t by the states that step s left; None where it was not asked for, or states
            are not (lanes, units).
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
    connected: Tensor | None = None


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
    lanes: int = 0,
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
        lanes: so many there are, if it is to be kept what each loss's gradient is at each step.
    """
    quiet = warnings.catch_warnings()
    with torch.no_grad(), silent(), random_kept(*given), quiet:
        warnings.simplefilter("ignore")  # operators that go through the losses one by one say so
        split = _Split(graph, truncations, floor, ticks)
        split.connect(lanes)
        return split.run(roots, given, block, sources, whole)


class _Split:
    def __init__(
        self, graph: Graph, truncations: list[int], floor: float | None, ticks: bool
    ) -> None:
        self.graph, self.floor, self.ticks = graph, floor, ticks
        self.steps = max(o.time for o in graph.owners) + 1
        self.cap, self.count = truncations[-1], len(truncations)
        lags = torch.arange(self.steps + 1, device="cpu")
        self.block_of = torch.bucketize(
            lags, torch.tensor(truncations, device="cpu"), right=True
        ).tolist()
        self.found = Graded(truncations)
        self.units = graph.units()
        self._sums = Sums(self.count)
        self._total: dict[Edge, Tensor] = {}
        self._limit = 0.0
        self._half: set[int] = set()
        self._lines: dict[Any, list[float]] = {}

    def connect(self, lanes: int) -> None:
        """Keep what each loss's gradient is at each step, of as many lanes as memory allows."""
        self._lanes, kept = lanes, min(lanes, KEPT // self.steps**2)
        if kept:
            self.found.connected = torch.zeros(
                self.steps, self.steps, kept, dtype=torch.float64, device="cpu"
            )

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
            # Each loss goes to its half alone, and both are added up at the end.
            self._half = set(followed[::2])
            self._sums = Sums(2 * self.count)
        for at in range(len(followed), 0, -block):
            self._pass(start, set(followed[max(0, at - block) : at]))
        parts = self._leaves()
        if self._half:
            self.found.half = {key: rows[: self.count] for key, rows in parts.items()}
            parts = {k: rows[self.count :].add_(rows[: self.count]) for k, rows in parts.items()}
        self.found.parts = parts
        if self.cap < self.steps or whole:
            self._sums = Sums(1)
            self._pass(start, set(times), merged=True)
            self.found.whole = {key: rows[0] for key, rows in self._leaves().items()}
        for name, line in self._lines.items():
            into: dict[Any, Tensor] = (
                self.found.linked if isinstance(name, str) else self.found.squares
            )
            into[name] = torch.tensor(line, dtype=torch.float64, device="cpu")
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
            rows = None if owner is None else [0] if merged else self._rows(owner, labels)
            runs = None if rows is None else _runs(rows)
            products: list[Product] = []
            out = part.run(roots, values, None if owner is None else products)
            for (kind, target), value in out.items():
                if kind in ("mark", "node"):
                    to = self.graph.marks[target] if kind == "mark" else target[0]
                    there = pending.setdefault(id(to), {})
                    there[target] = _join(there.get(target), (labels, value))
                elif runs is not None:
                    self._sums.add((kind, target), runs, value)
                elif kind == "leaf" and not merged:
                    total = value.sum(0)
                    old = self.found.outside.get(target)
                    self.found.outside[target] = total if old is None else old + total
            for product in products:
                self._sums.put_off(product, runs or [])

    def _rows(self, owner: Owner, labels: list[int]) -> list[int]:
        """Of each loss: which block of lags, of which half."""
        found = [self.block_of[max(0, t - owner.time)] for t in labels]
        if self._half:
            more = self.count
            found = [
                row if t in self._half else row + more
                for t, row in zip(labels, found, strict=True)
            ]  # fmt: skip
        return found

    def _leaves(self) -> dict[int, Tensor]:
        """What was added up, by parameter; of nodes that lead to parameters alone, taken down to them."""
        self._sums.multiply()
        found = {key: rows for (kind, key), rows in self._sums.rows.items() if kind == "leaf"}
        for (kind, edge), rows in self._sums.rows.items():
            if kind == "side":
                part = self.graph.part([edge], None, direct=True)
                for (below, key), value in part.run([edge], [rows]).items():
                    if below == "leaf":
                        found[key] = found[key] + value if key in found else value.clone()
        return found

    def _count(
        self, owner: Owner, part: Part, labels: list[int], roots: list[Edge], values: list[Tensor]
    ) -> tuple[list[int], list[Tensor]]:
        """Norms by lag, and which losses are followed on."""
        lags = [max(0, t - owner.time) for t in labels]
        whole = [0.0] * len(labels)
        for edge, value in zip(roots, values, strict=True):
            if self.found.connected is None:
                flat = value.reshape(len(value), -1)  # a state may be a number
                norms = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64)
                squares = norms.square().tolist()
            else:
                squares = self._connect(owner.time, labels, value).sum(1).tolist()
            whole = [a + b for a, b in zip(whole, squares, strict=True)]
            self._at((owner.name, f"{owner.roots.index(edge)}"), lags, squares)
            total = value.sum(0)
            self._total[edge] = self._total[edge] + total if edge in self._total else total
        if part.onward:
            self._at(owner.name, lags, whole)
        limit = self._limit**2
        kept = [
            i for i, lag in enumerate(lags) if lag < self.cap and not (limit and whole[i] <= limit)
        ]  # fmt: skip
        if len(kept) == len(labels):
            return labels, values
        return [labels[i] for i in kept], [v[kept] for v in values]

    def _connect(self, time: int, labels: list[int], value: Tensor) -> Tensor:
        """Squared norms of each lane, ``(n, B)``; a state of one axis is that of a single lane."""
        each = value.reshape(len(value), 1, -1) if value.dim() < 3 else value
        norms = torch.linalg.vector_norm(each.flatten(2), dim=2, dtype=torch.float64)
        squares, table = norms.square().cpu(), self.found.connected
        if each.dim() != 3 or each.shape[1] != self._lanes:
            self.found.connected = None  # which of its axes are lanes is not known
        elif table is not None:
            own = squares[:, : table.shape[2]].to(table.dtype)
            table[:, time].index_add_(0, torch.tensor(labels, device="cpu"), own)
        return squares

    def _at(self, name: Any, lags: list[int], squares: list[float]) -> None:
        line = self._lines.setdefault(name, [0.0] * self.steps)
        for lag, square in zip(lags, squares, strict=True):
            line[lag] += square

    def _by_time(self) -> None:
        for edge, total in self._total.items():
            owner = self.graph.marks[edge]
            line = self.found.totals.setdefault(
                owner.name, torch.zeros(self.steps, dtype=torch.float64, device="cpu")
            )
            line[owner.time] += float(total.double().square().sum())
        self._total = {}


class Sums:
    """Gradients of parameters, and of nodes that lead to them alone, added up row by row.

    Attributes:
        rows: by what they are gradients of, ``(count, *shape)``.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.rows: dict[Key, Tensor] = {}
        self._waiting: dict[Matrix, dict[int, list[tuple[Tensor, Tensor | None]]]] = {}
        self._numbers = 0

    def _into(self, key: Key, like: Tensor, shape: Sequence[int]) -> Tensor:
        if key not in self.rows:
            self.rows[key] = like.new_zeros((self.count, *shape))
        return self.rows[key]

    def add(self, key: Key, runs: list[Run], value: Tensor) -> None:
        """Add cotangents to the rows they belong to."""
        into = self._into(key, value, value.shape[1:])
        for row, first, last in runs:
            into[row].add_(value[first] if last == first + 1 else value[first:last].sum(0))

    def put_off(self, product: Product, runs: list[Run]) -> None:
        """Add products likewise, later: those of many steps are one, and cost a third."""
        matrix, g, x = product
        by_row = self._waiting.setdefault(matrix, {})
        alone = len(runs) == len(g)
        for (row, first, last), one in zip(
            runs, g.unbind(0) if alone else [g] * len(runs), strict=True
        ):
            if not alone:  # no views: they would keep what was added up
                one = one[first].clone() if last == first + 1 else one[first:last].sum(0)
            by_row.setdefault(row, []).append((one, x))
            self._numbers += one.numel()
        if self._numbers > WAITING:
            self.multiply()

    def multiply(self) -> None:
        """Multiply out all that was put off."""
        for matrix, by_row in self._waiting.items():
            for row, waiting in by_row.items():
                g = torch.cat([one for one, _ in waiting])
                if matrix.bias is not None:
                    self._into(matrix.bias, g, g.shape[1:])[row].add_(g.sum(0))
                if matrix.key is not None:
                    x = torch.cat([x for _, x in waiting if x is not None])
                    left, right = (g, x) if matrix.turned else (x, g)
                    shape = (left.shape[1], right.shape[1])
                    self._into(matrix.key, g, shape)[row].addmm_(left.t(), right)
        self._waiting, self._numbers = {}, 0


def _runs(rows: list[int]) -> list[Run]:
    found, first = [], 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or rows[i] != rows[first]:
            found.append((rows[first], first, i))
            first = i
    return found


def _join(old: Carried | None, new: Carried) -> Carried:
    if old is None:
        return new
    if old[0] == new[0]:
        return old[0], old[1] + new[1]
    if new[0][-1] < old[0][0]:  # a step's own loss is earlier than those that came to it
        return new[0] + old[0], torch.cat([new[1], old[1]])
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
    found = torch.zeros(count, count, dtype=torch.float64, device="cpu")
    held = torch.empty(count, PIECE, dtype=torch.float64, device=rows[0].device)
    for pieces in zip(*(r.reshape(len(r), -1).split(PIECE, 1) for r in rows), strict=True):
        piece = held[:, : pieces[0].shape[1]]
        at = 0
        for rows_of in pieces:
            piece[at : at + len(rows_of)].copy_(rows_of)
            at += len(rows_of)
        found += (piece @ piece.t()).cpu()
    return found


def tally(products: Tensor, count: int) -> tuple[float, Tensor, Tensor, Tensor]:
    """Of one parameter, from the products of its gradients by block of lags, and of what no block holds:
    ‖g‖², and at each K ‖r‖² and r·g of what is missing, and ‖·‖² of the block before it."""
    # What is missing at a K is all rows behind it.
    behind = products.flip(0, 1).cumsum(0).cumsum(1).diagonal().flip(0)
    along = products.sum(1).flip(0).cumsum(0).flip(0)
    zero = torch.zeros(1, dtype=torch.float64, device="cpu")
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
