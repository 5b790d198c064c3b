"""How many units stand where their activation is flat, and lets no gradient through."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bptt.errors import ArgumentError
from bptt.recurrence import Linear, Recurrence, layer_gates

# Within this of the end of its range a sigmoid or tanh passes less than a fifth, or a tenth, of the
# gradient it passes in the middle: σ' = 0.0475 of 0.25 at σ = 0.95, tanh' = 0.0975 of 1 at 0.95.
EDGE = 0.05
BINS = 20
# What the gradient must pass to change a state, in the order it is looked for (an LSTM has two).
_PASSES = ("tanh(c)", "h", "relu", "candidate")
_SIGNED = ("tanh(c)", "h", "candidate")


@dataclass(frozen=True, eq=False)
class Gate:
    """One activation of one layer over all steps, lanes and units.

    Attributes:
        low: share of values within 0.05 of the range's lower end; of a ReLU, the share that is 0.
        high: share within 0.05 of the upper end; a ReLU has none.
        edges: ``(21,)`` of the histogram's bins.
        shares: ``(20,)`` of the values in each; they sum to 1.
        units: ``(H,)`` each unit's share of saturated steps.
    """

    low: float
    high: float
    edges: Tensor
    shares: Tensor
    units: Tensor

    @property
    def saturated(self) -> float:
        """Share at either end."""
        return self.low + self.high


@dataclass(frozen=True, eq=False)
class Saturation:
    """What :func:`saturation` found.

    Attributes:
        name: of the recurrent module.
        layers: one dict a layer, gate's name → :class:`Gate`. RNN: h, or relu. GRU: reset, update,
            candidate. LSTM: input, forget, candidate, output, tanh(c).
        share: saturated share of the values the gradient must pass to change a state: h of an RNN,
            the candidate of a GRU, tanh(c) of an LSTM; over all layers.
    """

    name: str
    layers: tuple[dict[str, Gate], ...]
    share: float


def saturation(recurrence: Recurrence, linear: Linear | None = None) -> Saturation:
    """Measure the saturation of a known cell along its trajectory.

    Args:
        recurrence: of a known cell (RNN, GRU, LSTM; torch's or ours).
        linear: its linearisation, where it is at hand.

    Raises:
        ArgumentError: the cell's gates are not known.

    Cost: a forward pass, parallel over time.

    Example:
        >>> import torch
        >>> from bptt.recurrence import trace
        >>> (gru,) = trace(torch.nn.GRU(3, 5), torch.randn(7, 2, 3))
        >>> sorted(saturation(gru).layers[0])
        ['candidate', 'reset', 'update']

    Source: A. Karpathy, J. Johnson and L. Fei-Fei, 2015, Visualizing and understanding recurrent
    networks.
    """
    gates = layer_gates(linear or recurrence.linearize())
    if not gates:
        raise ArgumentError(
            "a cell whose gates are known (RNN, GRU, LSTM)",
            recurrence.name or "another",
            "use jacobian_products for a cell of your own",
        )
    live = None if recurrence.live is None else recurrence.live.flatten()
    layers = tuple({name: _gate(name, v, live) for name, v in g.items()} for g in gates)
    passes = [next(g[n] for n in _PASSES if n in g) for g in layers]
    return Saturation(recurrence.name, layers, sum(g.saturated for g in passes) / len(passes))


def _gate(name: str, values: Tensor, live: Tensor | None) -> Gate:
    values = values if live is None else values[live]
    lowest, highest = (-1.0, 1.0) if name in _SIGNED else (0.0, 1.0)
    if name == "relu":
        low, high = values == 0, torch.zeros_like(values, dtype=torch.bool)
        finite = values[values.isfinite()]  # what has overflowed has no place in a histogram
        highest = (float(finite.max()) if finite.numel() else 0.0) or 1.0
    else:
        low, high = values < lowest + EDGE, values > highest - EDGE
    # histc takes no half precision, and what float64 holds may be beyond float32.
    binned = values if values.dtype == torch.float64 else values.float()
    counts = torch.histc(binned, BINS, lowest, highest).double()
    edges = torch.linspace(lowest, highest, BINS + 1, dtype=torch.float64)
    return Gate(
        float(low.double().mean()), float(high.double().mean()), edges,
        (counts / counts.sum().clamp(min=1)).cpu(), (low | high).double().mean(0).cpu(),
    )  # fmt: skip
