"""Lyapunov exponents of a recurrence under its own input: growth and decay per step, in the long run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bptt.errors import ArgumentError
from bptt.numbers import whole
from bptt.probes.carried import carried
from bptt.recurrence import Recurrence

# Jacobians are made this many steps at a time: (steps, S, S) numbers.
BLOCK = 64


@dataclass(frozen=True, eq=False)
class Lyapunov:
    """What :func:`lyapunov_spectrum` found.

    Attributes:
        name: of the recurrent module.
        exponents: ``(count,)`` float64, descending, in nats per step: λ > 0 is chaos and a gradient
            that explodes, λ < 0 forgetting; e^λ is the factor per step. Mean over the lanes.
        error: ``(count,)``: standard error of that mean; NaN with one lane.
        steps: how many steps each lane's growth was averaged over.
    """

    name: str
    exponents: Tensor
    error: Tensor
    steps: int


def lyapunov_spectrum(
    recurrence: Recurrence, *, count: int | None = None, warm_up: int = 0, lanes: int = 4
) -> Lyapunov:
    """Lyapunov exponents by repeated QR: J_t Q_{t-1} = Q_t R_t, λ_i = mean over t of log abs R_t[i, i].

    Driven by the input: the exponents are those of the trajectory that this input caused.

    Args:
        recurrence: as it ran; lanes with resets, cuts or padding are left out.
        count: how many exponents, the largest first; default all S, the states' size side by side.
            What a cell returns beside its states is none of them.
        warm_up: steps before growth is counted, in which Q finds its directions.
        lanes: the most lanes to follow.

    Raises:
        ArgumentError: no lane runs through, no step is left after the warm-up, or a Jacobian is not
            finite.

    Cost: T·lanes Jacobians (S, S) and QR decompositions (S, count).

    Example:
        >>> from bptt.recurrence import trace
        >>> (rnn,) = trace(torch.nn.RNN(3, 5), torch.randn(30, 2, 3))
        >>> bool(lyapunov_spectrum(rnn).exponents[0] < 0)     # a small RNN as torch starts it forgets
        True

    Source: R. Engelken, F. Wolf and L. F. Abbott, 2023, Lyapunov spectra of chaotic recurrent neural
    networks; G. Benettin et al., 1980.
    """
    recurrence = carried(recurrence)
    T, B, sizes = recurrence.steps, recurrence.lanes, recurrence.sizes
    total = sum(sizes)
    count = total if count is None else whole("count", count, None, "leave it out for all")
    warm_up, lanes = whole("warm_up", warm_up, None), whole("lanes", lanes)
    through = recurrence.link[1:].all(0).nonzero().squeeze(1)[:lanes]
    if not 1 <= count <= total:
        raise ArgumentError(f"count from 1 to {total}", f"{count}", "leave it out for all")
    if not len(through) or not 0 <= warm_up < T:
        raise ArgumentError(
            "a lane without reset, cut or padding, longer than the warm-up",
            f"{len(through)} such lanes of {T} steps, warm_up={warm_up}",
            "record a longer sequence without marks",
        )
    linear = recurrence.linearize()
    n = len(through)
    # Any orthogonal start will do; a fixed one keeps the caller's random numbers as they are.
    noise = torch.sin(torch.arange(1.0, total * total + 1, dtype=torch.float64)).view(total, total)
    q = torch.linalg.qr(noise)[0][:, :count].expand(n, total, count)
    growth = torch.zeros(n, count, dtype=torch.float64)
    for start in range(0, T, BLOCK):
        stop = min(T, start + BLOCK)
        clock = torch.arange(start, stop, device=through.device)
        rows = (clock[:, None] * B + through).flatten()
        jacobians = linear.jacobian(rows, sizes).double().cpu().view(stop - start, n, total, total)
        if not bool(jacobians.isfinite().all()):
            raise ArgumentError(
                "finite Jacobians",
                f"one that is not, in steps {start} to {stop - 1}",
                "look for weights or states that are not finite",
            )
        for t, jacobian in enumerate(jacobians, start):
            q, r = torch.linalg.qr(jacobian @ q)
            if t >= warm_up:
                growth += r.diagonal(dim1=-2, dim2=-1).abs().log()
    each = (growth / (T - warm_up)).sort(-1, descending=True).values
    error = each.std(0) / n**0.5 if n > 1 else torch.full((count,), torch.nan, dtype=torch.float64)
    return Lyapunov(recurrence.name, each.mean(0), error, T - warm_up)
