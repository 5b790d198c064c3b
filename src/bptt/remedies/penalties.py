"""What the regularisers have in common: how they watch a step, and how they add their gradient.

One rule for both. The gradient of the penalty is added to ``.grad`` when the block ends. Where the
penalty or any part of its gradient is not finite, nothing is added: gradients and parameters stay as
the loss left them, and the :class:`Regularised` says ``finite`` False.

Limits: the gradient goes to the parameters of the recurrent step alone, states and inputs being what
they were; a penalty on linear recurrences (MinGRU, LRU), which have no step, is refused.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, cast

import torch
from torch import Tensor, nn

from bptt.choices import REGULARISERS, parse_form
from bptt.errors import ArgumentError, whole
from bptt.recurrence import (
    Call,
    Found,
    FunctionStep,
    Recorder,
    Recurrence,
    States,
    assemble,
    flat,
    total_gradient,
)
from bptt.recurrence.cells import Stack
from bptt.recurrence.record import plain_name
from bptt.remedies.clips import above_zero

Steps = Callable[[tuple[Tensor, ...], States], States]


@dataclass
class Regularised:
    """What a regulariser saw and did; filled when the block ends.

    Attributes:
        value: the penalty, not yet weighted, a mean over the recurrences found; None before.
        finite: whether it and its gradient were.
        recurrences: how many were found.
    """

    value: float | None = None
    finite: bool = True
    recurrences: int = 0

    @property
    def acted(self) -> bool:
        """Whether a gradient was added."""
        return self.value is not None and self.finite

    @property
    def verdict(self) -> str:
        """``"added"``, or ``"left: not finite"``."""
        return "added" if self.acted else "left: not finite"


class Regulariser(ABC):
    """A penalty on a recurrence; instances are values. Subclasses say :meth:`penalty`."""

    weight: float

    @abstractmethod
    def penalty(self, found: Found, step: Steps) -> Tensor:
        """The penalty on one recurrence, differentiable by what ``step`` holds."""

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[Regularised]:
        """Around a forward and backward pass: add weight · penalty's gradient when the block ends.

        Args:
            model: holds recurrent layers or cells.

        Returns:
            on entering, the :class:`Regularised`.

        Raises:
            ArgumentError: nothing recurrent was run and differentiated in the block.
        """
        done = Regularised()
        found: list[Found] = []

        def finished(calls: list[Call]) -> None:
            found.extend(assemble(calls))

        recorder = Recorder(model, lambda: True, finished)
        try:
            yield done
        finally:
            recorder.remove()
        if not found:
            raise ArgumentError(
                "a recurrent layer or cell that is run and differentiated in the block",
                "none",
                "run forward and backward inside the block, on an RNN, GRU, LSTM or your own cell",
            )
        self._add(model, found, done)

    def _add(self, model: nn.Module, found: list[Found], done: Regularised) -> None:
        total = 0.0
        pairs: list[tuple[Tensor, Tensor]] = []
        for one in found:
            step, leaves = differentiable(one)
            with torch.enable_grad():
                value = self.penalty(one, step)
            total += float(value.detach()) / len(found)
            wanted = {n: leaf for n, leaf in leaves.items() if leaf.requires_grad}
            gradients = (
                torch.autograd.grad(value, list(wanted.values()), allow_unused=True)
                if value.requires_grad and bool(value.isfinite())
                else [None] * len(wanted)
            )
            owner = _owner(model, one.name)
            pairs += [
                (_weight(owner, name), g * (self.weight / len(found)))
                for name, g in zip(wanted, gradients, strict=True)
                if g is not None
            ]
        done.value, done.recurrences = total, len(found)
        done.finite = math.isfinite(total) and all(bool(g.isfinite().all()) for _, g in pairs)
        if done.finite:
            for weight, gradient in pairs:
                if weight.requires_grad:
                    # backward, and not weight.grad: a parametrized weight hands it on to what it
                    # is made of.
                    weight.backward(gradient.to(weight.dtype))


def differentiable(found: Found) -> tuple[Steps, dict[str, Tensor]]:
    """A recurrence's step with parameters to be differentiated by, and those by name."""
    step = found.recurrence.step
    leaves = {n: p.detach().requires_grad_() for n, p in step.parameters.items()}
    if isinstance(step, Stack):
        weights = tuple(
            tuple(w if n is None else leaves[n] for n, w in zip(names, ws, strict=True))
            for names, ws in zip(step.names, step.weights, strict=True)
        )
        return replace(step, weights=weights), leaves
    return replace(cast(FunctionStep, step), parameters=leaves), leaves


def _weight(owner: nn.Module, name: str) -> Tensor:
    """A parameter by its name, or the tensor that a parametrization puts in its place."""
    found: Any = reduce(getattr, name.split("."), owner)
    return found


def _owner(model: nn.Module, name: str) -> nn.Module:
    """The module a recurrence came from; one of two directions has the direction in its name."""
    modules = {plain_name(n): m for n, m in model.named_modules()}
    return modules[name] if name in modules else modules[name.rpartition(".")[0]]


# Regularisers of the recurrence: keep the gradient's length on its way back, or exponents at zero.


@dataclass(frozen=True)
class Omega(Regulariser):
    """Ω = mean over steps and lanes of (‖J_tᵀ δ_t‖ / ‖δ_t‖ - 1)², with δ_t = ∂L/∂h_t, all of it.

    Small where each step back neither shortens nor lengthens the gradient that truly arrives there;
    other directions may do what they like. As in the paper, only the immediate dependence of J_t on
    the parameters is differentiated: h and δ are held constant. The paper sums over steps, this is a
    mean, so that a weight keeps its meaning when T changes. Steps that no gradient reaches, or none
    leaves (resets, cuts, padding), do not count; nor does what a cell returns beside its states.

    Attributes:
        weight: of Ω in the loss, above 0.

    Cost: per step of training one more forward and two backward passes, parallel over time.

    Example:
        >>> import torch
        >>> rnn, x = torch.nn.RNN(3, 5), torch.randn(7, 2, 3)
        >>> with Omega(0.5).on(rnn) as done:
        ...     rnn(x)[0][-1].sum().backward()          # .grad holds the gradient of loss + 0.5·Ω
        >>> done.verdict, 0 < done.value < 1
        ('added', True)

    Source: R. Pascanu, T. Mikolov and Y. Bengio, 2013, On the difficulty of training recurrent
    neural networks, section 3.3.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        above_zero("weight", self.weight, of=self)

    def penalty(self, found: Found, step: Steps) -> Tensor:
        """Ω of one recurrence."""
        if found.kind in ("MinGRU", "LRU"):
            # Measured with its output beside the state, whose share of ∂L/∂h_t would be missing here.
            raise ArgumentError(
                "a recurrence whose output is its state inside the block", found.kind,
                "leave Ω out there: a linear recurrence's factors are its own gates",
            )  # fmt: skip
        recurrence, kept = found.recurrence, _states(found.recurrence)
        total = total_gradient(recurrence, recurrence.linearize(), found.direct)
        delta = torch.cat([total[i] for i in kept], -1)[1:].flatten(0, 1)
        length = torch.linalg.vector_norm(delta, dim=-1)
        rows = (recurrence.link[1:].flatten() & ~(length == 0)).nonzero().squeeze(1)
        if not len(rows):
            return delta.new_zeros(())
        unit = (delta[rows] / length[rows, None]).split([recurrence.sizes[i] for i in kept], -1)
        rows = rows + recurrence.lanes  # the first step was left out
        before = tuple(s[rows].detach().requires_grad_() for s in flat(recurrence.before))
        after = step(tuple(i[rows] for i in flat(recurrence.inputs)), before)
        back = torch.autograd.grad(
            [after[i] for i in kept], before, list(unit), create_graph=True, allow_unused=True
        )
        length = torch.linalg.vector_norm(torch.cat([b for b in back if b is not None], -1), dim=-1)
        return (length - 1).square().mean()


@dataclass(frozen=True)
class Floss(Regulariser):
    """Gradient flossing: mean over lanes and the first ``count`` Lyapunov exponents of λ².

    λ_i is the finite-time exponent along the sequence, by QR: J_t Q_{t-1} = Q_t R_t,
    λ_i = mean over t of log abs R_t[i, i], in nats per step; see
    :func:`bptt.probes.lyapunov_spectrum`. At λ = 0 the product of Jacobians keeps that direction's
    length over all T steps. Everything is differentiated, the QR decompositions and the states too.

    Attributes:
        weight: of the penalty in the loss, above 0.
        count: how many exponents, the largest first; all, where the state has fewer units.
        lanes: the most lanes to follow; those with a reset, cut or padding are left out.

    Cost: T·lanes Jacobians (S, S), kept for the backward pass, and as many QR decompositions (S, count),
    S the size of all states together. Floss in some updates only, as the paper does, for long T.

    Example:
        >>> import torch
        >>> rnn, x = torch.nn.RNN(3, 5), torch.randn(7, 2, 3)
        >>> with Floss(count=2).on(rnn) as done:
        ...     rnn(x)[0].sum().backward()
        >>> done.acted
        True

    Source: R. Engelken, 2023, Gradient flossing: improving gradient descent through dynamic control
    of Jacobians.
    """

    weight: float = 1.0
    count: int = 8
    lanes: int = 2

    def __post_init__(self) -> None:
        above_zero("weight", self.weight, of=self)
        for name in ("count", "lanes"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))

    def penalty(self, found: Found, step: Steps) -> Tensor:
        """Mean of the squared exponents of one recurrence."""
        recurrence, kept = found.recurrence, _states(found.recurrence)
        whole = recurrence.link[1:].all(0).nonzero().squeeze(1)[: self.lanes]
        if not len(whole):
            raise ArgumentError(
                "a lane without reset, cut or padding", "none", "floss on batches that have one"
            )
        recurrence = recurrence.select(whole)
        T, n = recurrence.steps, len(whole)
        states = tuple(s[0] for s in recurrence.before)
        line = []
        for t in range(T):
            line.append(states)
            states = step(tuple(i[t] for i in recurrence.inputs), states)
        befores = [torch.cat(column) for column in zip(*line, strict=True)]
        before = tuple(b if b.requires_grad else b.requires_grad_() for b in befores)
        after = torch.cat([step(flat(recurrence.inputs), before)[i] for i in kept], -1)
        size = after.shape[-1]
        basis = torch.eye(size, dtype=after.dtype, device=after.device)
        rows = torch.autograd.grad(
            after, [before[i] for i in kept], basis[:, None].expand(size, T * n, size),
            create_graph=True, is_grads_batched=True,
        )  # fmt: skip
        jacobians = torch.cat(rows, -1).movedim(0, 1).double().unflatten(0, (T, n))
        q = _frame(size, min(self.count, size)).to(jacobians).expand(n, -1, -1)
        growth = jacobians.new_zeros(())
        for jacobian in jacobians:
            q, r = torch.linalg.qr(jacobian @ q)
            growth = growth + r.diagonal(dim1=-2, dim2=-1).abs().log()
        return (growth / T).square().mean()


def _states(recurrence: Recurrence) -> list[int]:
    """The places of what goes on to the next step; a cell's outputs do not."""
    return [i for i, label in enumerate(recurrence.labels) if not label.startswith("output")]


def _frame(size: int, count: int) -> Tensor:
    """Orthonormal columns; fixed ones, so that the caller's random numbers stay as they are."""
    noise = torch.sin(torch.arange(1.0, size * size + 1, dtype=torch.float64, device="cpu")).view(
        size, size
    )
    return torch.linalg.qr(noise)[0][:, :count]


_REGULARISERS: dict[str, Callable[[float], Regulariser]] = {"omega": Omega, "floss": Floss}


def build_regulariser(form: str | None) -> Regulariser | None:
    """A regulariser from its form: ``"omega:weight"`` or ``"floss:weight"``; None for ``"none"``.

    Raises:
        ArgumentError: an unknown form, or a weight that is not above 0.

    Example:
        >>> build_regulariser("omega:2")
        Omega(weight=2.0)
    """
    name, number = parse_form("none" if form is None else form, REGULARISERS)
    return None if number is None else _REGULARISERS[name](number)
