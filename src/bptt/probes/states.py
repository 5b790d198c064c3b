"""What the states are like: how many units stand where their activation is flat, and lets no gradient
through; and how well an input of k steps ago can be read back from them, by a linear map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bptt.errors import ArgumentError, real, whole
from bptt.probes.jacobians import carried
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

    @property
    def blocks(self) -> float:
        """The share of the values that stop the gradient of their state: of a plain RNN those at a flat
        end; of a GRU and an LSTM none, for their state is handed on past the activation."""
        stops = [g[n].saturated for g in self.layers for n in ("h", "relu") if n in g]
        return sum(stops) / len(self.layers)


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
    edges = torch.linspace(lowest, highest, BINS + 1, dtype=torch.float64, device="cpu")
    return Gate(
        float(low.double().mean()), float(high.double().mean()), edges,
        (counts / counts.sum().clamp(min=1)).cpu(), (low | high).double().mean(0).cpu(),
    )  # fmt: skip


# Memory.


@dataclass(frozen=True, eq=False)
class Capacity:
    """What :func:`capacity` found.

    Attributes:
        name: of the recurrent module.
        explained: ``(lags,)`` float64: share of the variance of x_{t-k} that the state at t explains
            at steps it was not fitted to, k = 0 … lags-1; 1 is perfect memory, 0 none (a fit no better
            than the mean counts as 0, and so does a lag over which no lane runs without a border).
        total: their sum: how many steps' worth of input the state holds.
    """

    name: str
    explained: Tensor
    total: float


def capacity(recurrence: Recurrence, lags: int, *, ridge: float = 1e-6) -> Capacity:
    """Read x_{t-k} back from the states after step t by ridge regression, for every k below ``lags``.

    W_k = argmin Σ ‖W h_t + b - x_{t-k}‖² + ridge·n·s²·‖W‖², fitted on every other block of steps and
    scored on the rest, in every lane; s² is the mean variance of the state's units. Unlike the
    gradient's horizon it tells what the state holds, not what the loss would change. What a cell
    returns beside its states is not read.

    Args:
        recurrence: as it ran, with an input that differs from step to step, for more than one block:
            max(lags, 8) steps.
        lags: how far back, from 1 to T / 2.
        ridge: relative strength of the penalty.

    Raises:
        ArgumentError: lags out of range, no step is left to score a fit on, the inputs are not
            floating-point numbers, or inputs or states are not finite.

    Cost: one decomposition (S, S) and a product for each lag.

    Example:
        >>> from bptt.recurrence import trace
        >>> (rnn,) = trace(torch.nn.RNN(1, 20), torch.randn(200, 4, 1))
        >>> found = capacity(rnn, 10)
        >>> bool(found.explained[0] > 0.9), bool(found.explained[9] < found.explained[0])
        (True, True)

    Source: H. Jaeger, 2001, Short term memory in echo state networks.
    """
    recurrence = carried(recurrence)
    T = recurrence.steps
    lags, ridge = whole("lags", lags, None, "count steps"), real("ridge", ridge)
    if not 1 <= lags <= max(1, T // 2):
        raise ArgumentError(
            f"lags from 1 to T/2={max(1, T // 2)}", f"{lags}", "record a longer sequence"
        )
    states = _scaled("states", torch.cat(recurrence.after, -1), recurrence.live)
    x = _scaled("inputs", recurrence.inputs[0], recurrence.live)
    passed = _unbroken(recurrence.link)
    # Blocks longer than the lags, so that what is scored was not next to what was fitted.
    block = torch.arange(T, device=states.device) // max(lags, 8)
    explained = []
    for k in range(lags):
        good = passed >= k
        if recurrence.live is not None:
            good = good & recurrence.live
        past = torch.zeros_like(x)
        past[k:] = x[: T - k]
        held = (block % 2 == 1).unsqueeze(1) & good
        fit = (block % 2 == 0).unsqueeze(1) & good
        if bool(fit.any()) and not bool(held.any()):
            raise ArgumentError(
                f"steps to score a fit on, beyond the {max(lags, 8)} it was fitted to",
                f"none at lag {k} of T={T} steps",
                "record a longer sequence, or ask for fewer lags",
            )
        explained.append(_explained(states, past, fit, held, ridge))
    values = torch.tensor(explained, dtype=torch.float64, device="cpu")
    return Capacity(recurrence.name, values, float(values.sum()))


def _scaled(name: str, values: Tensor, live: Tensor | None) -> Tensor:
    """In float64, by a power of two below 1 in size: shares of variance stay, squares cannot overflow."""
    if not values.is_floating_point():
        raise ArgumentError(
            f"floating-point {name}",
            str(values.dtype),
            "probe the recurrence behind the embedding, whose inputs are vectors",
        )
    ran = values if live is None else values.masked_fill(~live.unsqueeze(-1), 0)
    if not bool(ran.isfinite().all()):
        raise ArgumentError(
            f"finite {name}", "NaN or infinity", "look for weights or inputs that are not finite"
        )
    ran = ran.double()
    largest = ran.abs().amax().clamp(min=torch.finfo(torch.float64).tiny)
    return ran * 2.0 ** -int(torch.frexp(largest).exponent)


def _unbroken(link: Tensor) -> Tensor:
    """(T, B): how many steps back the lane goes without a border."""
    step = torch.arange(len(link), device=link.device).unsqueeze(1)
    # The newest border at or before each step; step 0 is one.
    border = torch.where(link, 0, step).cummax(0).values
    return step - border


def _explained(states: Tensor, past: Tensor, fit: Tensor, held: Tensor, ridge: float) -> float:
    if not bool(fit.any()):
        return 0.0
    h, y = states[fit], past[fit]
    mean_h, mean_y = h.mean(0), y.mean(0)
    h, y = h - mean_h, y - mean_y
    square = h.t() @ h
    penalty = ridge * square.diagonal().mean().clamp(min=1e-300)
    eye = torch.eye(len(square), dtype=square.dtype, device=square.device)
    weight = torch.linalg.solve(square + penalty * eye, h.t() @ y)
    error = past[held] - ((states[held] - mean_h) @ weight + mean_y)
    around = past[held] - past[held].mean(0)
    spread = float(around.square().sum())
    return max(0.0, 1 - float(error.square().sum()) / spread) if spread > 0 else 0.0
