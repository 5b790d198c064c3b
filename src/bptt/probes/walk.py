"""One walk over the lags: every step of every lane moved one step back at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from bptt.recurrence import Linear, Recurrence, States, add_gradients, flat, total_gradient

# The error of a sample changes slowly with K: it is measured at the first and at every so many on.
HALVES = 4


class Walk:
    """One walk over the lags; iterating it yields, for each K, what is missing of the gradient."""

    def __init__(
        self,
        recurrence: Recurrence,
        direct: States,
        truncations: list[int],
        cap: int | None,
        half: int,
    ) -> None:
        self.recurrence = recurrence
        self._truncations = truncations
        self._last = recurrence.steps if cap is None else min(recurrence.steps, cap)
        self._linear: Linear = recurrence.linearize()
        self._direct = direct
        self.total = total_gradient(recurrence, self._linear, direct)
        self._half, self._turn = half, 0
        # Of all lanes, and of the first half of them.
        self.gradient, self.half_gradient = self._gradients(flat(self.total))
        self.squares: list[list[float]] = []  # by lag, by state
        self.linked: list[float] = []  # by lag: the part that has a step before it

    def _gradients(self, delta: States) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        n, B = delta[0].shape[0], self.recurrence.lanes
        if not n:
            return {}, {}
        found = self._linear.gradient(delta, slice(0, n))
        self._turn += 1
        # The first turn is the whole gradient, the second the first K.
        if not self._half or (self._turn > 1 and self._turn % HALVES != 2):
            return found, {}
        part = tuple(d.clone() for d in delta)
        for d in part:
            d.view(n // B, B, -1)[:, self._half :] = 0
        return found, self._linear.gradient(part, slice(0, n))

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """For each K the gradient of all lags from K on, of all lanes and of half; empty for none."""
        B = self.recurrence.lanes
        # Two buffers that swap: a lag is read from one and the next written to the other.
        current = tuple(d.clone() for d in flat(self._direct))
        spare = tuple(torch.empty_like(d) for d in current)
        rest = tuple(d.clone() for d in flat(self.total))
        link = self.recurrence.link.flatten().to(current[0].dtype).unsqueeze(-1)
        whole = bool(self.recurrence.link[1:].all())
        # What lies below this, summed over all lags to come, is lost in the rounding of the total.
        floor = sum(map(square, rest)) * (1e-3 * torch.finfo(rest[0].dtype).eps) ** 2
        asked = iter(self._truncations)
        k = next(asked)
        n = current[0].shape[0]
        for lag in range(self._last):
            for r, d in zip(rest, current, strict=True):
                r[:n].sub_(d[:n])
            self.squares.append([square(d[:n]) for d in current])
            left = n - B
            if lag + 1 == k:
                yield self._gradients(tuple(r[:left] for r in rest))
                k = next(asked, self._last + 1)
            if not left or not sum(self.squares[-1]) > floor:
                break
            delta = tuple(d[B:n] for d in current)
            if not whole:
                for d in delta:
                    d.mul_(link[B:n])
            self.linked.append(sum(map(square, delta)))
            into = tuple(d[:left] for d in spare)
            self._linear.back(delta, slice(B, n), into)  # the two buffers take turns
            current, spare, n = spare, current, left
        while k <= self._last:
            yield {}, {}
            k = next(asked, self._last + 1)


def square(value: Tensor) -> float:
    """‖value‖²."""
    return float(torch.linalg.vector_norm(value)) ** 2


# A walk over the lags that stops where next to nothing is left, and never runs the sequence backward.
#
# What a whole run of training can afford: the full gradient is not taken by BPTT first, step after
# step, but is the sum of the lags that were followed.

Gradients = dict[str, Tensor]


class ShortWalk:
    """As :class:`bptt.probes.walk.Walk`, but not to rounding.

    Only the losses at ``times`` are followed, and lags only until those to come are next to nothing:
    if each is r times the last, as the last was of the one before, they sum to at most
    ‖δ^j‖ r / (1 - r). The walk ends where that is below ``floor`` times the norm of what has been
    followed; what comes after is taken for nothing. ``linear`` is the recurrence's own; where
    sources lie apart another is made, of its steps in the order of :class:`_Order`.
    """

    def __init__(
        self,
        recurrence: Recurrence,
        direct: States,
        truncations: list[int],
        half: int,
        times: range,
        floor: float,
        linear: Linear,
    ) -> None:
        self._order = _Order(recurrence.steps, times.step)
        if times.step > 1:
            recurrence = recurrence.at(self._order.times)
            linear = recurrence.linearize()
        self._recurrence, self._linear = recurrence, linear
        self._half, self._times, self._floor = half, times, floor
        self._total = tuple(torch.zeros_like(d) for d in direct)
        self.squares: list[list[float]] = []
        self.linked: list[float] = []
        # From the last block to the first: what is missing at a K is the sum of those behind it.
        missing: list[tuple[Gradients, Gradients]] = [({}, {})]
        for parts in reversed([*self._blocks(direct, truncations)]):
            whole, of_half = (
                add_gradients(dict(rest), part)
                for rest, part in zip(missing[-1], parts, strict=True)
            )
            missing.append((whole, of_half))
        (self.gradient, self.half_gradient), *self._missing = reversed(missing)
        # A sample's error changes slowly with K: its half is measured for several blocks together.
        for place, (whole, _) in enumerate(self._missing):
            if place % HALVES:
                self._missing[place] = (whole, {})
        self._missing += [({}, {})] * (len(truncations) - len(self._missing))

    def __iter__(self) -> Iterator[tuple[Gradients, Gradients]]:
        """For each K the gradient of all lags from K on, of all lanes and of half; empty for none."""
        return iter(self._missing)

    @property
    def total(self) -> States:
        """∂L/∂h_t, ``(T, B, S)`` of each state, of the lags that were followed."""
        found = tuple(torch.empty_like(t) for t in self._total)
        for f, t in zip(found, self._total, strict=True):
            f[self._order.times] = t
        return found

    def _blocks(
        self, direct: States, truncations: list[int]
    ) -> Iterator[tuple[Gradients, Gradients]]:
        """The parameter gradient of the lags from each K to the next; of half, of several blocks."""
        times, B = self._times, self._recurrence.lanes
        link = self._recurrence.link.flatten().to(direct[0].dtype).unsqueeze(-1)
        joined = int(self._recurrence.link.sum()) == (self._recurrence.steps - 1) * B
        current = flat(tuple(d[times.start :: times.step] for d in direct))
        current = tuple(d.clone() for d in current)
        spare = tuple(torch.empty_like(d) for d in current)
        size, over = 0.0, False
        together = tuple(torch.zeros_like(d) for d in direct)
        for place, (first, end) in enumerate(pairwise([0, *truncations])):
            block = tuple(torch.zeros_like(d) for d in direct)
            into = flat(block)
            for lag in range(first, end):
                # Of the sources those that have so many steps before them.
                gone, left = self._gone(lag), self._gone(lag + 1)
                start = self._order.place(times.start + gone * times.step - lag)
                end_row = (start + len(times) - gone) * B
                here = tuple(d[gone * B :] for d in current)
                for b, d in zip(into, here, strict=True):
                    b[start * B : end_row].add_(d)
                self.squares.append([square(d) for d in here])
                size += sum(self.squares[-1])
                over = left == len(times) or self._rest() <= self._floor**2 * size
                if over:
                    break
                rows = slice((start + left - gone) * B, end_row)
                delta = here if left == gone else tuple(d[left * B :] for d in current)
                if not joined:
                    for d in delta:
                        d.mul_(link[rows])
                # Where no source has come to its first step, it is what was just measured.
                same = joined and left == gone
                self.linked.append(sum(self.squares[-1]) if same else sum(map(square, delta)))
                self._linear.back(delta, rows, tuple(d[left * B :] for d in spare))
                current, spare = spare, current
            for t, g, b in zip(self._total, together, block, strict=True):
                t.add_(b)
                g[:, : self._half].add_(b[:, : self._half])
            half: Gradients = {}
            if self._half and (over or not place % HALVES):
                half = self._gradient(together, slice(0, self._recurrence.steps))
                together = tuple(torch.zeros_like(d) for d in direct)
            yield self._gradient(block, self._order.reached(times.start, range(first, end))), half
            if over:
                return

    def _gone(self, lag: int) -> int:
        """How many of the sources, the first ones, have not so many steps before them."""
        return min(len(self._times), max(0, -(-(lag - self._times.start) // self._times.step)))

    def _gradient(self, delta: States, places: slice) -> Gradients:
        """Of the parameters; elsewhere ``delta`` is zero."""
        B = self._recurrence.lanes
        rows = slice(places.start * B, places.stop * B)
        return self._linear.gradient(flat(tuple(d[places] for d in delta)), rows)

    def _rest(self) -> float:
        """The square of what the lags to come sum to, if they go on as the last one did."""
        if not self.linked:
            return math.inf
        last, before = sum(self.squares[-1]), self.linked[-1]
        factor = (last / before) ** 0.5 if before > 0 else 0.0
        return last * (factor / (1 - factor)) ** 2 if factor < 1 else math.inf


@dataclass(frozen=True)
class _Order:
    """Time steps by their phase t mod ``apart``, and those of one phase in time.

    Sources that are so far apart stand side by side, and at every lag they still do: what is looked
    up for them is a range, which need not be copied.
    """

    steps: int
    apart: int

    @property
    def times(self) -> Tensor:
        """``(T,)`` the time step that stands at each place."""
        return torch.cat(
            [torch.arange(p, self.steps, self.apart, device="cpu") for p in range(self.apart)]
        )

    def _first(self, phase: int) -> int:
        return phase * (self.steps // self.apart) + min(phase, self.steps % self.apart)

    def place(self, time: int) -> int:
        """Where a time stands; those of its phase that are later follow it."""
        return self._first(time % self.apart) + time // self.apart

    def reached(self, start: int, lags: range) -> slice:
        """Places that hold everything that sources, the first at ``start``, reach at these lags."""
        last, first = start - lags.start, start - (lags.stop - 1)
        low, high = first % self.apart, last % self.apart
        if high - low != last - first:  # round and round, or over the edge
            return slice(0, self.steps)
        return slice(self._first(low), self._first(high + 1))
