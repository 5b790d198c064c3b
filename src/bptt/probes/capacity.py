"""Memory: how well an input of k steps ago can be read back from the state, by a linear map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bptt.errors import ArgumentError, real, whole
from bptt.probes.jacobians import carried
from bptt.recurrence import Recurrence


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
    values = torch.tensor(explained, dtype=torch.float64)
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
