"""Anybody's cell as a step: its derivative by autograd, all rows in one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bptt.recurrence.linear import Linear, Rows, States, Step

Function = Callable[[tuple[Tensor, ...], States, Mapping[str, Tensor]], States]


@dataclass(frozen=True, eq=False)
class FunctionStep(Step):
    """A step given as a function of inputs, states and parameters, differentiable by torch.

    Attributes:
        function: ``(inputs, states, parameters) -> states``; row n of the result must depend on row
            n of the arguments alone.
        parameters: by name, detached.
    """

    function: Function
    parameters: Mapping[str, Tensor]

    @property
    def layer_of(self) -> dict[str, int]:  # type: ignore[override]
        """One layer: nothing is known of what is inside."""
        return dict.fromkeys(self.parameters, 0)

    def __call__(self, inputs: tuple[Tensor, ...], states: States) -> States:
        """The states after the step."""
        return self.function(inputs, states, self.parameters)

    def linearize(self, inputs: tuple[Tensor, ...], states: States) -> LinearFunction:
        """The step's derivative at each of N rows: one graph over the whole batch."""
        return LinearFunction(self, inputs, states)


class LinearFunction(Linear):
    """Vector-Jacobian products of a graph that is built once and walked once a lag."""

    def __init__(self, step: FunctionStep, inputs: tuple[Tensor, ...], states: States) -> None:
        self._parameters = {n: p.detach().requires_grad_() for n, p in step.parameters.items()}
        self._before = tuple(s.detach().requires_grad_() for s in states)
        with torch.enable_grad():
            self._after = step.function(inputs, self._before, self._parameters)

    def zeros(self, *shape: int) -> Tensor:
        """Zeros of the trajectory's dtype and device."""
        return self._before[0].new_zeros(shape)

    def back(self, delta: States, rows: Rows, out: States | None = None) -> States:
        """J_tᵀ δ_t; see :meth:`Linear.back`."""
        found = self._grad(delta, rows, self._before)
        result = tuple(f[rows] for f in found)
        if out is None:
            return result
        for o, r in zip(out, result, strict=True):
            o.copy_(r)
        return out

    def gradient(self, delta: States, rows: Rows) -> dict[str, Tensor]:
        """Σ over the rows; see :meth:`Linear.gradient`."""
        found = self._grad(delta, rows, tuple(self._parameters.values()))
        return dict(zip(self._parameters, found, strict=True))

    def _grad(self, delta: States, rows: Rows, targets: tuple[Tensor, ...]) -> list[Tensor]:
        pairs = [
            (a, self._whole(d, a, rows))
            for a, d in zip(self._after, delta, strict=True)
            if a.requires_grad
        ]
        if not pairs:
            return [torch.zeros_like(t) for t in targets]
        found = torch.autograd.grad(
            [a for a, _ in pairs],
            targets,
            [d for _, d in pairs],
            retain_graph=True,
            allow_unused=True,
        )
        return [
            torch.zeros_like(t) if f is None else f for t, f in zip(targets, found, strict=True)
        ]

    @staticmethod
    def _whole(delta: Tensor, after: Tensor, rows: Rows) -> Tensor:
        """The cotangent over all N rows: zero where none was given."""
        if delta.shape[0] == after.shape[0] and isinstance(rows, slice):
            return delta
        whole = torch.zeros_like(after)
        whole[rows] = delta
        return whole
