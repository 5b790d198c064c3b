"""One walk over the lags: every step of every lane moved one step back at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bptt.recurrence import Linear, Recurrence, States, flat, total_gradient

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
