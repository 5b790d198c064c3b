"""A walk over the lags that stops where next to nothing is left, and never runs the sequence backward.

What a whole run of training can afford: the full gradient is not taken by BPTT first, step after
step, but is the sum of the lags that were followed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from bptt.probes.walk import HALVES, square
from bptt.recurrence import Linear, Recurrence, Rows, States, add_gradients, flat

Gradients = dict[str, Tensor]


class ShortWalk:
    """As :class:`bptt.probes.walk.Walk`, but not to rounding.

    Only the losses at ``times`` are followed, and lags only until those to come are next to nothing:
    if each is r times the last, as the last was of the one before, they sum to at most
    ‖δ^j‖ r / (1 - r). The walk ends where that is below ``floor`` times the norm of what has been
    followed; what comes after is taken for nothing.
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
        self._recurrence, self._linear = recurrence, linear
        self._half, self._times, self._floor = half, times, floor
        self.total = tuple(torch.zeros_like(d) for d in direct)
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

    def _blocks(
        self, direct: States, truncations: list[int]
    ) -> Iterator[tuple[Gradients, Gradients]]:
        """The parameter gradient of the lags from each K to the next; of half, of several blocks."""
        recurrence, times = self._recurrence, self._times
        B, stride = recurrence.lanes, times.step
        lanes = torch.arange(B, device=direct[0].device)
        sources = torch.arange(times.start, times.stop, stride, device=direct[0].device)
        places = (sources[:, None] * B + lanes).flatten()
        link = recurrence.link.flatten().to(direct[0].dtype).unsqueeze(-1)
        joined = bool(recurrence.link[1:].all())
        current = tuple(d[times.start :: stride].clone() for d in direct)
        spare = tuple(torch.empty_like(d) for d in current)
        size, over = 0.0, False
        together = tuple(torch.zeros_like(d) for d in direct)
        for place, (first, end) in enumerate(pairwise([0, *truncations])):
            block = tuple(torch.zeros_like(d) for d in direct)
            for lag in range(first, end):
                # Of the sources those that have so many steps before them.
                gone = max(0, -(-(lag - times.start) // stride))
                for b, d in zip(block, current, strict=True):
                    b[times.start + gone * stride - lag : recurrence.steps - lag : stride].add_(
                        d[gone:]
                    )
                self.squares.append([square(d[gone:]) for d in current])
                size += sum(self.squares[-1])
                left = max(0, -(-(lag + 1 - times.start) // stride))
                over = left >= len(times) or self._rest() <= self._floor**2 * size
                if over:
                    break
                rows: Rows = slice((times.start + left - lag) * B, (recurrence.steps - lag) * B)
                if stride > 1:
                    rows = places[left * B :] - lag * B
                delta = tuple(d[left:].flatten(0, 1) for d in current)
                if not joined:
                    for d in delta:
                        d.mul_(link[rows])
                self.linked.append(sum(map(square, delta)))
                self._linear.back(delta, rows, tuple(d[left:].flatten(0, 1) for d in spare))
                current, spare = spare, current
            for t, g, b in zip(self.total, together, block, strict=True):
                t.add_(b)
                g[:, : self._half].add_(b[:, : self._half])
            half: Gradients = {}
            whole = slice(0, recurrence.steps * B)
            if self._half and (over or not place % HALVES):
                half = self._linear.gradient(flat(together), whole)
                together = tuple(torch.zeros_like(d) for d in direct)
            yield self._linear.gradient(flat(block), whole), half
            if over:
                return

    def _rest(self) -> float:
        """The square of what the lags to come sum to, if they go on as the last one did."""
        if not self.linked:
            return math.inf
        last, before = sum(self.squares[-1]), self.linked[-1]
        factor = (last / before) ** 0.5 if before > 0 else 0.0
        return last * (factor / (1 - factor)) ** 2 if factor < 1 else math.inf
