"""A stack of known cells as one joint recurrence: the states of all layers side by side.

h^l_t = cell_l(m^l_t ⊙ h^{l-1}_t, h^l_{t-1}), with h^0 = x and m^l the dropout mask between layers. A
truncation cuts all layers at once, so the joint map is the one whose lags add up to truncated BPTT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from bptt.recurrence.cells import LinearCell, Weights, linear_cell
from bptt.recurrence.linear import Linear, Rows, States, Step


@dataclass(frozen=True, eq=False)
class Stack(Step):
    """L layers of a known cell.

    Inputs of the step: x ``(N, I)``, then the mask of each layer above the first, ``(N, H)``, if
    there are any. States: layer by layer, for an LSTM h and c of each.

    Attributes:
        cell: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"GRU"`` or ``"LSTM"``.
        weights: of each layer, as :func:`bptt.ops.recur` takes them, detached.
        names: of the same, None where a bias is absent.
    """

    cell: str
    weights: tuple[Weights, ...]
    names: tuple[tuple[str | None, ...], ...]

    @property
    def parameters(self) -> dict[str, Tensor]:  # type: ignore[override]
        """By name."""
        pairs = zip(self.names, self.weights, strict=True)
        return {
            name: w
            for names, ws in pairs
            for name, w in zip(names, ws, strict=True)
            if name is not None and w is not None
        }

    @property
    def layer_of(self) -> dict[str, int]:  # type: ignore[override]
        """The layer of each parameter, from 0."""
        return {n: layer for layer, names in enumerate(self.names) for n in names if n is not None}

    def __call__(self, inputs: tuple[Tensor, ...], states: States) -> States:
        """The states after the step."""
        return tuple(s for layer in self._layers(inputs, states) for s in layer.new)

    def linearize(self, inputs: tuple[Tensor, ...], states: States) -> LinearStack:
        """The step's derivative at each of N rows."""
        return LinearStack(self._layers(inputs, states), inputs[1:], self.names)

    def _layers(self, inputs: tuple[Tensor, ...], states: States) -> list[LinearCell]:
        x, *masks = inputs
        each = 2 if self.cell == "LSTM" else 1
        layers: list[LinearCell] = []
        for layer, weights in enumerate(self.weights):
            if layer:
                x = layers[-1].new[0]
                x = x * masks[layer - 1] if masks else x
            layers.append(
                linear_cell(self.cell, x, states[layer * each : (layer + 1) * each], weights)
            )
        return layers


class LinearStack(Linear):
    """The stack's derivative at N rows."""

    def __init__(
        self,
        layers: Sequence[LinearCell],
        masks: tuple[Tensor, ...],
        names: tuple[tuple[str | None, ...], ...],
    ) -> None:
        self.layers, self._masks, self._names = layers, masks, names
        self._each = len(layers[0].new)

    def zeros(self, *shape: int) -> Tensor:
        """Zeros of the trajectory's dtype and device."""
        return self.layers[0].new[0].new_zeros(shape)

    def back(self, delta: States, rows: Rows, out: States | None = None) -> States:
        """J_tᵀ δ_t; see :meth:`Linear.back`."""
        found: list[States] = []
        arriving: Tensor | None = None
        for layer in reversed(range(len(self.layers))):
            here = self._here(delta, layer, arriving)
            part = None if out is None else out[layer * self._each : (layer + 1) * self._each]
            states, dx = self.layers[layer].back(here, rows, part, dx=layer > 0)
            arriving = self._below(layer, dx, rows)
            found.append(states)
        return tuple(s for states in reversed(found) for s in states)

    def gradient(self, delta: States, rows: Rows) -> dict[str, Tensor]:
        """Σ over the rows; see :meth:`Linear.gradient`."""
        return self.gradient_and_input(delta, rows, dx=False)[0]

    def gradient_and_input(
        self, delta: States, rows: Rows, dx: bool = True
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The gradient of the parameters, and that of x ``(n, I)`` if ``dx``."""
        found: dict[str, Tensor] = {}
        arriving: Tensor | None = None
        for layer in reversed(range(len(self.layers))):
            here = self._here(delta, layer, arriving)
            values, below = self.layers[layer].gradient(here, rows, dx=dx or layer > 0)
            for name, value in zip(self._names[layer], values, strict=True):
                if name is not None and value is not None:
                    found[name] = value
            arriving = self._below(layer, below, rows)
        return found, cast(Tensor, arriving)

    def _here(self, delta: States, layer: int, arriving: Tensor | None) -> States:
        h, *rest = delta[layer * self._each : (layer + 1) * self._each]
        return (h if arriving is None else h + arriving, *rest)

    def _below(self, layer: int, dx: Tensor, rows: Rows) -> Tensor:
        return dx * self._masks[layer - 1][rows] if layer and self._masks else dx


def layer_gates(linear: Linear) -> list[dict[str, Tensor]]:
    """The gates of each layer, bottom first; empty where the cell is not a known one."""
    return [layer.gates for layer in linear.layers] if isinstance(linear, LinearStack) else []
