"""What happens to a gradient on its way back along a trajectory, step by step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bptt.errors import ArgumentError, whole
from bptt.recurrence import Recurrence, total_gradient
from bptt.recurrence.cells import Stack
from bptt.recurrence.step import FunctionStep, States

# What a recurrence carries on from step to step, without what its cell returns beside its states.


def carried(recurrence: Recurrence) -> Recurrence:
    """The same recurrence with its states alone.

    A cell's outputs are recorded behind its states, because a loss may stand at them; they are never
    fed back, so they have no part in what the recurrence itself does or holds.
    """
    kept = sum(not label.startswith("output") for label in recurrence.labels)
    step = recurrence.step
    if kept == len(recurrence.labels) or not isinstance(step, FunctionStep):
        return recurrence

    def states_alone(inputs: tuple[Tensor, ...], states: States, parameters) -> States:
        return step.function(inputs, states, parameters)[:kept]

    return replace(
        recurrence, step=replace(step, function=states_alone), before=recurrence.before[:kept],
        after=recurrence.after[:kept], labels=recurrence.labels[:kept],
    )  # fmt: skip


# ∂L/∂h_t for every step: the textbook picture of a gradient that vanishes on its way back.


@dataclass(frozen=True, eq=False)
class StateGradients:
    """What :func:`state_gradients` found; units of the loss per unit of the state.

    Attributes:
        name: of the recurrent module.
        norms: state's label → ``(T, B)`` float64: ‖∂L/∂h_t‖ of each lane, by the order of the steps;
            0 in the padding.
        together: ``(T, B)``: of all states side by side.
    """

    name: str
    norms: dict[str, Tensor]
    together: Tensor


def state_gradients(recurrence: Recurrence, direct: States) -> StateGradients:
    """The gradient of the loss by the state at every step, from outside and from all later steps.

    D_t = δ_t⁰ + J_{t+1}ᵀ D_{t+1}.

    Args:
        recurrence: as it ran.
        direct: δ⁰, for each state ``(T, B, S)``.

    Raises:
        ShapeError: ``direct`` does not fit the states.

    Cost: the backward pass of the layer.

    Example:
        >>> import torch
        >>> from bptt.recurrence import trace
        >>> (rnn,) = trace(torch.nn.RNN(3, 5), torch.randn(7, 2, 3))
        >>> last = torch.zeros(7, 2, 5)
        >>> last[-1] = 1.0                       # a loss on the last state only
        >>> state_gradients(rnn, (last,)).together.shape
        torch.Size([7, 2])

    Source: P. J. Werbos, 1990, Backpropagation through time: what it does and how to do it.
    """
    direct = recurrence.check_gradient(direct)
    total = total_gradient(recurrence, recurrence.linearize(), direct)
    norms = [torch.linalg.vector_norm(d, dim=-1).double().cpu() for d in total]
    together = torch.stack([n.square() for n in norms]).sum(0).sqrt()
    return StateGradients(
        recurrence.name, dict(zip(recurrence.labels, norms, strict=True)), together
    )


# Products of state Jacobians along real trajectories: what the recurrence itself does to a gradient.


# Jacobians are made so many steps at a time, (steps, n, S, S), and so many numbers of them at most.
BLOCK, NUMBERS = 64, 2**21

# Memory ends where less than this share of a gradient is left, and stays so: one rule for all who say it.
MEMORY_LEFT = 1e-4


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
    ends = _ends(T, B, count) if ends is None else torch.as_tensor(ends, device="cpu")
    if not bool(((ends >= 0) & (ends < torch.tensor([T, B], device="cpu"))).all()):
        raise ArgumentError(
            f"ends (t, lane) below ({T}, {B})", f"{ends.tolist()}", "count both from 0"
        )
    kept = _columns(recurrence, states)
    linear, link = recurrence.linearize(), recurrence.link.cpu()
    n, total = len(ends), sum(sizes)
    product = torch.eye(total, dtype=torch.float64, device="cpu").expand(n, total, total)
    values = torch.full((n, lags, len(kept)), torch.nan, dtype=torch.float64, device="cpu")
    alone = torch.zeros(0, device="cpu")
    complete = torch.ones(n, dtype=torch.bool, device="cpu")
    many = max(1, min(BLOCK, NUMBERS // max(1, n * total**2)))
    for first in range(0, lags, many):
        back = torch.arange(first, min(first + many, lags), device="cpu")[:, None]
        at = ends[:, 0] - back
        # The sequence had begun by then, and the step just passed leads on to this one.
        leads = (at >= 0) & ((back == 0) | link[(at + 1).clamp(0, T - 1), ends[:, 1]])
        reached = torch.cat([complete[None], leads]).cumprod(0)[1:].bool()
        reached = reached[reached.any(1)]
        if not len(reached):
            break
        rows = (at[: len(reached)].clamp(min=0) * B + ends[:, 1]).flatten()
        jacobians = linear.jacobian(rows.to(recurrence.link.device), sizes).double().cpu()
        products = jacobians.view(len(reached), n, total, total)
        alone = products[0].clone() if first == 0 else alone
        for place, complete in enumerate(reached):
            product = products[place] = product @ products[place]
            if not bool(product[complete].isfinite().all()):
                raise ArgumentError(
                    "Jacobians whose products are finite",
                    f"one that is not, {first + place + 1} steps back",
                    "look for weights or states that are not finite, or ask for fewer lags",
                )
        values[:, first : first + len(reached)][reached.T] = torch.linalg.svdvals(
            products.transpose(0, 1)[reached.T][:, kept][:, :, kept]
        )
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
        bound=None
        if sigma is None
        else sigma ** torch.arange(1, lags + 1, dtype=torch.float64, device="cpu"),
    )


def _ends(T: int, B: int, count: int) -> Tensor:
    count = min(count, B * ((T + 1) // 2))
    places = torch.arange(count, device="cpu")
    lanes = places % B if count >= B else places * B // count
    return torch.stack([T - 1 - places // B, lanes], 1)


def _columns(recurrence: Recurrence, states: tuple[str, ...] | None) -> Tensor:
    """The places of the states asked for, among all side by side."""
    starts = torch.tensor([0, *recurrence.sizes], device="cpu").cumsum(0).tolist()
    if states is None:
        return torch.arange(starts[-1], device="cpu")
    unknown = [s for s in states if s not in recurrence.labels]
    if unknown or not states:
        raise ArgumentError(
            f"states among {', '.join(recurrence.labels)}", f"{states}", "name some of these"
        )
    places = [recurrence.labels.index(s) for s in states]
    return torch.cat([torch.arange(starts[p], starts[p + 1], device="cpu") for p in places])


def _weight(recurrence: Recurrence) -> Tensor | None:
    step = recurrence.step
    if isinstance(step, Stack) and step.cell.startswith("RNN") and len(step.weights) == 1:
        weight = step.weights[0][1]
        return None if weight is None else weight.double().cpu()
    return None


# Lyapunov exponents of a recurrence under its own input: growth and decay per step, in the long run.


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
    noise = torch.sin(torch.arange(1.0, total * total + 1, dtype=torch.float64, device="cpu")).view(
        total, total
    )
    q = torch.linalg.qr(noise)[0][:, :count].expand(n, total, count)
    growth = torch.zeros(n, count, dtype=torch.float64, device="cpu")
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
    error = (
        each.std(0) / n**0.5
        if n > 1
        else torch.full((count,), torch.nan, dtype=torch.float64, device="cpu")
    )
    return Lyapunov(recurrence.name, each.mean(0), error, T - warm_up)
