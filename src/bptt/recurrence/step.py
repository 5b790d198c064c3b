"""What every step has in common: it maps states to states, and it can be linearised along a trajectory.

Rows: the T·B pairs of a step and a lane, time-major, so row t·B + b is step t of lane b. One product
over a range of rows moves every step in it at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

States: TypeAlias = tuple[Tensor, ...]
Rows: TypeAlias = "slice | Tensor"


class Step(ABC):
    """One step of a recurrence, ``(inputs, states) -> states``, every tensor ``(N, ·)``.

    Attributes:
        parameters: by name, detached: those the gradient is taken to.
        layer_of: the layer each of them belongs to.
    """

    parameters: Mapping[str, Tensor]
    layer_of: Mapping[str, int]

    @abstractmethod
    def __call__(self, inputs: tuple[Tensor, ...], states: States) -> States:
        """The states after the step."""

    @abstractmethod
    def linearize(self, inputs: tuple[Tensor, ...], states: States) -> Linear:
        """The step's derivative at each of N rows."""


class Linear(ABC):
    """A step's derivative at N recorded rows; everything in it is linear in ``delta``."""

    @abstractmethod
    def back(self, delta: States, rows: Rows, out: States | None = None) -> States:
        """J_tᵀ δ_t for the rows given.

        Args:
            delta: gradient by the states after the step, each ``(n, S)``.
            rows: which n of the N rows they stand at.
            out: tensors ``(n, S)`` to write into; must not overlap ``delta``.

        Returns:
            gradient by the states before the step, each ``(n, S)``.
        """

    @abstractmethod
    def gradient(self, delta: States, rows: Rows) -> dict[str, Tensor]:
        """Σ over the rows of (∂h_t/∂θ)ᵀ δ_t, for every parameter θ by name."""

    def jacobian(self, rows: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """J_t at the rows given, ``(n, S, S)`` over the states side by side, S their sizes' sum."""
        n, total = rows.shape[0], sum(sizes)
        lines = []
        for state, size in enumerate(sizes):
            for unit in range(size):
                delta = tuple(self.zeros(n, s) for s in sizes)
                delta[state][:, unit] = 1
                lines.append(torch.cat(self.back(delta, rows), -1))
        return torch.stack(lines, 1) if total else self.zeros(n, 0)

    @abstractmethod
    def zeros(self, *shape: int) -> Tensor:
        """Zeros of the trajectory's dtype and device."""


def take(value: Tensor, rows: Rows) -> Tensor:
    """The rows of a tensor: a view for a range, a copy for numbers."""
    return value[rows] if isinstance(rows, slice) else value.index_select(0, rows)


def add_gradients(total: dict[str, Tensor], more: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add gradients by name into ``total``."""
    for name, value in more.items():
        total[name] = total[name] + value if name in total else value
    return total


# Anybody's cell as a step: its derivative by autograd, all rows in one batch.

# Rows of a graph that several Jacobians are taken from at once.
LARGEST = 1 << 13

Function = Callable[[tuple[Tensor, ...], States, Mapping[str, Tensor]], States]


@dataclass(frozen=True, eq=False)
class FunctionStep(Step):
    """A step given as a function of inputs, states and parameters, differentiable by torch.

    Attributes:
        function: ``(inputs, states, parameters) -> states``; row n of the result must depend on row
            n of the arguments alone.
        parameters: by name, detached.
        numbers: the layer each parameter belongs to; those that are not named belong to the first.
    """

    function: Function
    parameters: Mapping[str, Tensor]
    numbers: Mapping[str, int] = field(default_factory=dict)

    @property
    def layer_of(self) -> dict[str, int]:  # type: ignore[override]
        """One layer, where nothing is known of what is inside."""
        return {name: self.numbers.get(name, 0) for name in self.parameters}

    def __call__(self, inputs: tuple[Tensor, ...], states: States) -> States:
        """The states after the step."""
        return self.function(inputs, states, self.parameters)

    def linearize(self, inputs: tuple[Tensor, ...], states: States) -> LinearFunction:
        """The step's derivative at each of N rows: one graph over the whole batch."""
        return LinearFunction(self, inputs, states)


class LinearFunction(Linear):
    """Vector-Jacobian products of a graph that is built once and walked once a lag.

    Few rows get a graph of their own: the whole one would be walked for nothing.
    """

    def __init__(self, step: FunctionStep, inputs: tuple[Tensor, ...], states: States) -> None:
        self._function, self._inputs, self._states = step.function, inputs, states
        self._parameters = {n: p.detach().requires_grad_() for n, p in step.parameters.items()}
        self._graph = self._built(None)

    def _built(self, rows: Rows | None) -> tuple[States, States]:
        """The states before and after, in a graph of these rows; None for all."""
        inputs, states = self._inputs, self._states
        if rows is not None:
            inputs, states = (tuple(take(v, rows) for v in vs) for vs in (inputs, states))
        before = tuple(s.detach().requires_grad_() for s in states)
        with torch.enable_grad():
            return before, self._function(inputs, before, self._parameters)

    def zeros(self, *shape: int) -> Tensor:
        """Zeros of the trajectory's dtype and device."""
        return self._states[0].new_zeros(shape)

    def back(self, delta: States, rows: Rows, out: States | None = None) -> States:
        """J_tᵀ δ_t; see :meth:`Linear.back`."""
        result = tuple(self._grad(delta, rows, None))
        if out is None:
            return result
        for o, r in zip(out, result, strict=True):
            o.copy_(r)
        return out

    def gradient(self, delta: States, rows: Rows) -> dict[str, Tensor]:
        """Σ over the rows; see :meth:`Linear.gradient`."""
        found = self._grad(delta, rows, list(self._parameters.values()))
        return dict(zip(self._parameters, found, strict=True))

    def jacobian(self, rows: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """See :meth:`Linear.jacobian`; here every row stands as often as there are units."""
        n, total = rows.shape[0], sum(sizes)
        units = torch.eye(total, dtype=self._states[0].dtype, device=self._states[0].device)
        found = [self.zeros(0, n, total)]
        for some in units.split(max(1, LARGEST // max(1, n))):
            delta = some.repeat_interleave(n, 0).split(list(sizes), 1)
            part = self._grad(delta, rows.repeat(len(some)), None, apart=True)
            found.append(torch.cat(list(part), -1).view(len(some), n, total))
        return torch.cat(found).transpose(0, 1)

    def _grad(
        self, delta: States, rows: Rows, targets: list[Tensor] | None, apart: bool = False
    ) -> list[Tensor]:
        """By the targets; by the states before the rows, where there are none."""
        n = delta[0].shape[0]
        apart = apart or 2 * n <= self._states[0].shape[0]
        before, after = self._built(rows) if apart else self._graph
        pairs = [
            (a, d if apart else self._whole(d, a, rows))
            for a, d in zip(after, delta, strict=True)
            # Nothing comes back to an output that is never fed back: at most lags it is all zeros.
            if a.requires_grad and bool(d.any())
        ]
        wanted = list(before) if targets is None else targets
        found: list[Tensor | None] = [None] * len(wanted)
        if pairs:
            found = list(
                torch.autograd.grad(
                    [a for a, _ in pairs], wanted, [d for _, d in pairs],
                    retain_graph=not apart, allow_unused=True,
                )
            )  # fmt: skip
        made = [torch.zeros_like(w) if f is None else f for w, f in zip(wanted, found, strict=True)]
        return made if apart or targets is not None else [f[rows] for f in made]

    @staticmethod
    def _whole(delta: Tensor, after: Tensor, rows: Rows) -> Tensor:
        """The cotangent over all N rows: zero where none was given."""
        if delta.shape[0] == after.shape[0] and isinstance(rows, slice):
            return delta
        whole = torch.zeros_like(after)
        whole[rows] = delta
        return whole
