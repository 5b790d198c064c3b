"""Products of state Jacobians along real trajectories: what the recurrence itself does to a gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bptt.errors import ArgumentError
from bptt.numbers import whole
from bptt.probes.carried import carried
from bptt.recurrence import Recurrence
from bptt.recurrence.stack import Stack


@dataclass(frozen=True, eq=False)
class JacobianProducts:
    """What :func:`jacobian_products` found; all float64, S the size of all states side by side.

    What a cell returns beside its states is none of them: it is not fed back.

    Attributes:
        name: of the recurrent module.
        ends: ``(n, 2)`` int64, (t, lane): where each product ends.
        singular_values: ``(n, lags, S)``: of J_t J_{t-1} … J_{t-k+1}, k = 1 … lags, descending; NaN
            where the sequence, or what a reset or cut left of it, began less than k steps before.
        norms: ``(n, lags)``: the largest of each, the product's spectral norm.
        spectral_radius: ``(n,)``: largest modulus of J_t's eigenvalues. It says what repeating this
            one map would do in the end; a norm says what it can do at once. They differ.
        spectral_norm: ``(n,)``: largest singular value of J_t alone.
        weight_radius: largest eigenvalue modulus of W_hh; None if the cell is not one RNN layer.
        weight_norm: σ_max, the spectral norm of W_hh; None likewise.
        bound: ``(lags,)``: (γ σ_max)^k with γ = 1, the largest slope of tanh and of ReLU: no product's
            norm exceeds it; None likewise.
    """

    name: str
    ends: Tensor
    singular_values: Tensor
    norms: Tensor
    spectral_radius: Tensor
    spectral_norm: Tensor
    weight_radius: float | None
    weight_norm: float | None
    bound: Tensor | None


def jacobian_products(
    recurrence: Recurrence,
    lags: int,
    *,
    ends: Tensor | None = None,
    count: int = 8,
    states: tuple[str, ...] | None = None,
) -> JacobianProducts:
    """Norms and singular values of J_t … J_{t-k+1} for k up to ``lags``.

    Args:
        recurrence: as it ran.
        lags: the longest product, at least 1.
        ends: ``(n, 2)`` (t, lane) where products end; default ``count`` last steps of evenly spaced
            lanes, and steps spread over the second half if there are fewer lanes.
        count: how many.
        states: labels of the states whose block of the product is looked at, e.g. ``("c_l0",)`` for
            an LSTM's cell state apart; the product itself is always that of the joint map.

    Raises:
        ArgumentError: lags below 1, an end outside the sequence, a label that is not there, or a
            Jacobian or product that is not finite.

    Cost: n·lags products (S, S) and as many singular value decompositions.

    Example:
        >>> from bptt.recurrence import trace
        >>> (rnn,) = trace(torch.nn.RNN(3, 5), torch.randn(7, 2, 3))
        >>> found = jacobian_products(rnn, 4)
        >>> bool((found.norms <= found.bound + 1e-6).all())
        True

    Source: R. Pascanu, T. Mikolov and Y. Bengio, 2013, On the difficulty of training recurrent neural
    networks, section 2.1.
    """
    recurrence = carried(recurrence)
    T, B, sizes = recurrence.steps, recurrence.lanes, recurrence.sizes
    lags = whole("lags", lags, remedy="ask for products of one Jacobian or more")
    count = whole("count", count)
    ends = _ends(T, B, count) if ends is None else torch.as_tensor(ends)
    if not bool(((ends >= 0) & (ends < torch.tensor([T, B]))).all()):
        raise ArgumentError(
            f"ends (t, lane) below ({T}, {B})", f"{ends.tolist()}", "count both from 0"
        )
    kept = _columns(recurrence, states)
    linear, link = recurrence.linearize(), recurrence.link
    n, total = len(ends), sum(sizes)
    product = torch.eye(total, dtype=torch.float64).expand(n, total, total)
    values = torch.full((n, lags, len(kept)), torch.nan, dtype=torch.float64)
    alone = torch.zeros(0)
    complete = torch.ones(n, dtype=torch.bool)
    for k in range(lags):
        at = ends[:, 0] - k
        complete = complete & (at >= 0)
        if k:  # the step just passed must lead on to this one
            complete = complete & link[(at + 1).clamp(min=0), ends[:, 1]].cpu()
        if not bool(complete.any()):
            break
        rows = (at.clamp(min=0) * B + ends[:, 1]).to(link.device)
        jacobian = linear.jacobian(rows, sizes).double().cpu()
        alone = jacobian if k == 0 else alone
        product = product @ jacobian
        if not bool(product[complete].isfinite().all()):
            raise ArgumentError(
                "Jacobians whose products are finite",
                f"one that is not, {k + 1} steps back",
                "look for weights or states that are not finite, or ask for fewer lags",
            )
        block = product[complete][:, kept][:, :, kept]
        values[complete, k] = torch.linalg.svdvals(block)
    alone = alone[:, kept][:, :, kept]
    weight = _weight(recurrence)
    sigma = None if weight is None else float(torch.linalg.matrix_norm(weight, 2))
    return JacobianProducts(
        name=recurrence.name,
        ends=ends,
        singular_values=values,
        norms=values[:, :, 0],
        spectral_radius=torch.linalg.eigvals(alone).abs().amax(-1),
        spectral_norm=torch.linalg.matrix_norm(alone, 2),
        weight_radius=None if weight is None else float(torch.linalg.eigvals(weight).abs().max()),
        weight_norm=sigma,
        bound=None if sigma is None else sigma ** torch.arange(1, lags + 1, dtype=torch.float64),
    )


def _ends(T: int, B: int, count: int) -> Tensor:
    count = min(count, B * ((T + 1) // 2))
    places = torch.arange(count)
    lanes = places % B if count >= B else places * B // count
    return torch.stack([T - 1 - places // B, lanes], 1)


def _columns(recurrence: Recurrence, states: tuple[str, ...] | None) -> Tensor:
    """The places of the states asked for, among all side by side."""
    starts = torch.tensor([0, *recurrence.sizes]).cumsum(0).tolist()
    if states is None:
        return torch.arange(starts[-1])
    unknown = [s for s in states if s not in recurrence.labels]
    if unknown or not states:
        raise ArgumentError(
            f"states among {', '.join(recurrence.labels)}", f"{states}", "name some of these"
        )
    places = [recurrence.labels.index(s) for s in states]
    return torch.cat([torch.arange(starts[p], starts[p + 1]) for p in places])


def _weight(recurrence: Recurrence) -> Tensor | None:
    step = recurrence.step
    if isinstance(step, Stack) and step.cell.startswith("RNN") and len(step.weights) == 1:
        weight = step.weights[0][1]
        return None if weight is None else weight.double().cpu()
    return None
