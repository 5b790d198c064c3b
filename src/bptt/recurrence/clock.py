"""Which calls are steps of a recurrence, and at which time each of them stands: read off the graph.

Every call of a recurrent module gets a time: one more than the latest time whose output its state
depends on. Cells stacked at one step share a time; an encoder and its decoder are on one clock. In a
loop written by hand, :func:`bptt.tick` says where a step begins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from bptt.recurrence.tape import Edge, Visit, children_first


def choose(visits: list[Visit]) -> list[Visit]:
    """The calls that are steps of a recurrence, in order.

    Layers and known cells are. A module of the user's is, if it is given what depends on what it
    returned before; the outermost such module takes all that is in it, unless it holds a loop or a
    layer over several steps: then those are the recurrence. From the first tick on ticks alone count.
    """
    first = next((i for i, v in enumerate(visits) if v.kind == "tick"), len(visits))
    ticks = [v for v in visits if v.kind == "tick"]
    visits = visits[:first]
    # Of layers and known cells nothing is to be found out.
    fed = _fed_back(visits) if any(v.kind == "step" for v in visits) else set()
    inner: dict[int, list[Visit]] = {}
    for visit in visits:
        up = visit.parent
        while up is not None:
            inner.setdefault(id(up), []).append(visit)
            up = up.parent
    steps: set[int] = set()
    for visit in visits:
        if visit.kind == "step" and visit.key in fed:
            steps.add(visit.key)
    for visit in visits:
        if visit.key in steps and _holds_a_loop(inner.get(id(visit), []), fed):
            steps.discard(visit.key)
    chosen = []
    for visit in visits:
        if visit.kind == "step" and visit.key not in steps:
            continue
        up = visit.parent
        while up is not None and up.key not in steps:
            up = up.parent
        if up is None:
            chosen.append(visit)
    return chosen + ticks


def _fed_back(visits: list[Visit]) -> set[int]:
    """The modules that are given what depends on what they returned before."""
    bits: dict[int, int] = {}
    marked: dict[Edge, int] = {}
    below: dict[Any, int] = {}
    fed: set[int] = set()
    known: dict[Any, list[Edge]] = {}
    for visit in visits:
        bit = bits.setdefault(visit.key, 1 << len(bits))
        for edge in visit.outputs:
            marked[edge] = marked.get(edge, 0) | bit
    for visit in visits:
        given = [e for position in visit.arguments for e in position]
        for node in children_first((n for n, _ in given), known):
            found = 0
            for edge in known[node]:
                found |= below[edge[0]] | marked.get(edge, 0)
            below[node] = found
        if any((below[e[0]] | marked.get(e, 0)) & bits[visit.key] for e in given):
            fed.add(visit.key)
    return fed


def _holds_a_loop(inside: list[Visit], fed: set[int]) -> bool:
    counts: dict[int, int] = {}
    for visit in inside:
        counts[visit.key] = counts.get(visit.key, 0) + 1
    return any(v.long or (counts[v.key] > 1 and v.key in fed) for v in inside)


@dataclass(eq=False)
class Owner:
    """A step of one module at one time: where its outputs are, and whose.

    Attributes:
        name, module: of the module; a tick's is the model's.
        time: steps since the clock began.
        roots: the edges of its outputs.
        counts: whether it is a step; the place where a tick's step begins is none.
        visit: the call it came from.
    """

    name: str
    module: nn.Module
    time: int
    visit: Visit
    roots: list[Edge] = field(default_factory=list)
    counts: bool = True


@dataclass(frozen=True)
class _Seen:
    """What a place in the graph depends on: of the nearest outputs the earliest and the latest time,
    and whose they are."""

    first: int = -1
    last: int = -1
    of: frozenset[int] = frozenset()

    def with_(self, other: _Seen) -> _Seen:
        if not other.of:
            return self
        if not self.of or self is other:
            return other
        return _Seen(
            min(self.first, other.first), max(self.last, other.last), self.of | other.of
        )  # fmt: skip


_NOTHING = _Seen()


class Clock:
    """Times of the chosen calls, and what each was given.

    Attributes:
        steps: the chosen calls.
        marks: their outputs' edges.
        owners: what stands at which time, in the order of the forward pass.
        unlike: calls whose state came back in another way than as it was, or whose input depends on
            what the same module returned before.
        chained: whether any call was given what another module returned.
    """

    def __init__(self, steps: list[Visit], lengths: dict[int, int]) -> None:
        self.steps = steps
        self.marks: dict[Edge, Visit] = {}
        self.owners: list[Owner] = []
        self.unlike: list[Visit] = []
        self.chained = False
        self._seen: dict[Any, _Seen] = {}
        self._known: dict[Any, list[Edge]] = {}
        self._mark: dict[Edge, _Seen] = {}
        self._states = self._state_places(steps)
        before: Visit | None = None
        for visit in steps:
            if visit.kind == "tick":
                before = self._set_tick(visit, before)
            else:
                self._set(visit, lengths.get(id(visit), 1))

    @property
    def last(self) -> int:
        """The latest time."""
        return max((v.last for v in self.steps), default=-1)

    def look(self, edge: Edge) -> _Seen:
        """What a place depends on."""
        if edge in self._mark:
            return self._mark[edge]
        for node in children_first([edge[0]], self._known):
            found = _NOTHING
            for child in self._known[node]:
                found = found.with_(self._mark.get(child) or self._seen[child[0]])
            self._seen[node] = found
        return self._seen[edge[0]]

    def _state_places(self, steps: list[Visit]) -> dict[int, set[int]]:
        """By module of the user's, the arguments that are states: those its own outputs come back to."""
        marked = {edge: v.key for v in steps for edge in v.outputs}
        found: dict[int, set[int]] = {}
        near: dict[Any, frozenset[int]] = {}
        known: dict[Any, list[Edge]] = {}
        for visit in steps:
            if visit.kind != "step":
                continue
            places = found.setdefault(visit.key, set())
            for place, given in enumerate(visit.arguments):
                for node in children_first((n for n, _ in given), known):
                    owners: set[int] = set()
                    for child in known[node]:
                        owners |= {marked[child]} if child in marked else near[child[0]]
                    near[node] = frozenset(owners)
                if any(visit.key in ({marked[e]} if e in marked else near[e[0]]) for e in given):
                    places.add(place)
        return found

    def _set(self, visit: Visit, length: int) -> None:
        states = self._states.get(visit.key) or set(range(1, max(2, len(visit.arguments))))
        time = 0
        for place, given in enumerate(visit.arguments):
            for edge in given:
                seen = self.look(edge)
                if not seen.of:
                    continue
                own = visit.key in seen.of
                self.chained |= bool(seen.of - {visit.key})
                if place in states:
                    time = max(time, seen.last + 1)
                    as_it_was = edge in self.marks
                elif own:
                    time = max(time, seen.last + 1)
                    as_it_was = False
                else:
                    time = max(time, seen.first if visit.kind == "layer" else seen.last)
                    as_it_was = True
                if own and not as_it_was and visit not in self.unlike:
                    self.unlike.append(visit)
        visit.time, visit.last = time, time + length - 1
        self.owners.append(Owner(visit.name, visit.module, time, visit))
        for place, edge in enumerate(visit.outputs):
            first = visit.time if visit.kind == "layer" and not place else visit.last
            self._put(edge, visit, _Seen(first, visit.last, frozenset([visit.key])))

    def _set_tick(self, visit: Visit, before: Visit | None) -> Visit:
        """The state that enters step k is the output of step k - 1."""
        time = 0 if before is None else before.time + 1
        for edge in visit.arguments[0]:
            seen = self.look(edge)
            time = max(time, seen.last + 1)
            if before is None or (before.outputs and visit.key not in seen.of):
                continue  # it is what the first step begins with
            if edge not in self.marks:
                if not self.owners or self.owners[-1].visit is not visit:
                    self.owners.append(Owner(visit.name, visit.module, before.time, visit))
                self._put(edge, visit, _Seen(before.time, before.time, frozenset([visit.key])))
        visit.time = visit.last = time
        entry = Owner(visit.name, visit.module, time, visit, list(visit.outputs), counts=False)
        self.owners.append(entry)
        for edge in visit.outputs:
            self._mark[edge] = _Seen(time, time, frozenset([visit.key]))
        return visit

    def _put(self, edge: Edge, visit: Visit, seen: _Seen) -> None:
        if edge not in self.marks:
            self.marks[edge] = visit
            self._mark[edge] = seen
            self.owners[-1].roots.append(edge)
