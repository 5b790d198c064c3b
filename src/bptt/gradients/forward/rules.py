"""How the influence of the past is carried: exactly, unit by unit, or by a stand-in of rank one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bptt.nn.linear import LinearRecurrent

# The influence of the parameters on the state, carried forward: exact real-time recurrent learning.
#
# With s_t the state of a lane and θ the parameters, S_t = ds_t/dθ obeys
# S_t = J_t S_{t-1} + ∂s_t/∂θ, where J_t = ∂s_t/∂s_{t-1} and ∂ holds s_{t-1} constant. Whatever gradient a
# loss has by s_t, multiplied by S_t, is its gradient by θ through all of the past.
#
# An influence is a dict by parameter name of tensors with the lane on axis 1, as in a carry.

Influence = dict[str, Any]


@dataclass(frozen=True)
class Recorded:
    """A step that was computed, with its graph.

    Attributes:
        before: ``(B, n)`` leaf that asks for a gradient; None for a fresh start.
        after: ``(B, n)``.
        each: parameters as each lane had them, ``(B, …)``.
        batched: whether several vector–Jacobian products may be taken in one pass.
    """

    before: Tensor | None
    after: Tensor
    each: dict[str, Tensor]
    batched: bool = True


class Rule(ABC):
    """How an influence is carried over a step, and turned into a gradient."""

    @abstractmethod
    def advance(self, influence: Influence, step: Recorded) -> Influence:
        """The influence after the step; {} stands for none at all."""

    @abstractmethod
    def gradient(self, influence: Influence, dstate: Tensor) -> dict[str, Tensor]:
        """Σ over lanes of (∂ℓ/∂s)ᵀ S, flat by parameter, given ∂ℓ/∂s ``(B, n)``."""


class Exact(Rule):
    """The whole matrix S, ``{name: (n, B, size of the parameter)}``.

    Cost a step: n backward passes through it, B·n²·P multiply-adds; memory 2·B·n·P.
    """

    def advance(self, influence: Influence, step: Recorded) -> Influence:
        """S ← J S + ∂s/∂θ, both from n vector–Jacobian products."""
        jacobian, direct = rows(step, list(step.each))
        result = {}
        for name in [*influence, *(n for n in direct if n not in influence)]:
            new = direct.get(name)
            if name in influence and jacobian is not None:
                passed = torch.einsum("jbk,kbp->jbp", jacobian, influence[name])
                new = passed if new is None else new + passed
            if new is not None:
                result[name] = new
        return result

    def gradient(self, influence: Influence, dstate: Tensor) -> dict[str, Tensor]:
        """See :meth:`Rule.gradient`."""
        return {n: torch.einsum("bj,jbp->p", dstate, s) for n, s in influence.items()}


def rows(step: Recorded, names: list[str]) -> tuple[Tensor | None, dict[str, Tensor]]:
    """J ``(n, B, n)``, and ∂s/∂θ ``{name: (n, B, size)}`` of those named that act on the state."""
    lanes, n = step.after.shape
    basis = torch.eye(n, dtype=step.after.dtype, device=step.after.device)
    basis = basis.unsqueeze(1).expand(n, lanes, n)
    return pulled(step, names, basis)


def pulled(
    step: Recorded, names: list[str], cotangents: Tensor
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Vector–Jacobian products of a step for cotangents ``(m, B, n)``; keeps the graph.

    Returns:
        by the state before ``(m, B, n)``, None if it has no part in it; and by parameter
        ``{name: (m, B, size)}`` for those that have.
    """
    sources = [step.each[name] for name in names]
    if step.before is not None:
        sources.append(step.before)
    if not step.after.requires_grad:
        return None, {}

    def pull(cotangent: Tensor, batched: bool) -> list[Tensor | None]:
        return list(
            torch.autograd.grad(
                step.after,
                sources,
                cotangent,
                is_grads_batched=batched,
                allow_unused=True,
                retain_graph=True,
            )
        )

    if step.batched:
        found = pull(cotangents, True)
    else:
        found = [
            None if parts[0] is None else torch.stack(parts)
            for parts in zip(*(pull(c, False) for c in cotangents), strict=True)
        ]
    jacobian = found.pop() if step.before is not None else None
    m, lanes = cotangents.shape[:2]
    direct = {
        name: g.reshape(m, lanes, -1) for name, g in zip(names, found, strict=True) if g is not None
    }
    return jacobian, direct


# Real-time recurrent learning where every unit of the state depends on itself alone.
#
# In a linear recurrence h_t = a_t ⊙ h_{t-1} + b_t the Jacobian is diagonal and each of the layer's
# parameters acts on one unit u(p), so one number a parameter (two in a complex layer) is its whole
# influence: S_t(p) = a_{t,u(p)} S_{t-1}(p) + ∂h_{t,u(p)}/∂p. Both come out of a single backward pass with
# ones. Parameters that act through the layer's input, such as an embedding, act on all units: they need
# n numbers each, carried on by the diagonal, still without the n² of the general rule.


def find_layer(model: nn.Module) -> tuple[str, LinearRecurrent] | None:
    """The one element-wise recurrence of a model and its name; None if there is none, or more."""
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, LinearRecurrent)]
    return found[0] if len(found) == 1 and found[0][1].num_layers == 1 else None


class ElementWise(Rule):
    """The influence ``{name: (c, B, size)}``, c = 1 for a real layer, 2 for a complex one; ``(n, B,
    size)`` of parameters that act through the layer's input.

    Cost a step: 1 + 2·c backward passes, the check included, and B·c²·P multiply-adds; n more passes
    if there are parameters before the layer.
    """

    def __init__(self, name: str, layer: LinearRecurrent) -> None:
        prefix = f"{name}." if name else ""
        self.parts = layer.parts
        self.size = layer.state_size * layer.parts
        self.units = {prefix + key: u.reshape(-1) for key, u in layer.units().items()}

    def holds(self, step: Recorded) -> bool:
        """Whether this step really is element-wise: the layer's state is the model's whole carry,
        nothing feeds it back into the layer's input, and its parameters serve nowhere else.

        One product with an arbitrary vector tells: it must be what the diagonal alone gives.
        """
        if step.after.shape[1] != self.size:
            return False
        names = [n for n in self.units if n in step.each]
        wave = torch.arange(1, self.size + 1, dtype=step.after.dtype, device=step.after.device)
        probe = wave.cos().expand_as(step.after)
        whole_j, whole_d = pulled(step, names, probe.unsqueeze(0))
        diagonal, direct = self._own(step, names)
        split = probe[0].reshape(-1, self.parts)
        pairs = [
            (whole_d[n][0], torch.einsum("pk,kbp->bp", split[self.units[n]], direct[n]))
            for n in direct
        ]
        if whole_j is not None and diagonal is not None:
            by_parts = torch.einsum("uk,kbul->bul", split, diagonal)
            pairs.append((whole_j[0], by_parts.flatten(1)))
        tolerance = torch.finfo(step.after.dtype).eps ** 0.75
        return all(
            bool((a - b).abs().max() <= tolerance * (a.abs().max() + b.abs().max()))
            for a, b in pairs
            if a.numel()
        )

    def expand(self, influence: Influence) -> Influence:
        """The same influence in the form of the general rule, ``(n, B, size)``."""
        result = {}
        for name, s in influence.items():
            if name in self.units:
                unit = torch.arange(self.size // self.parts, device=s.device)[:, None]
                own = (unit == self.units[name].to(s.device)).to(s.dtype)
                s = torch.einsum("up,kbp->ukbp", own, s).flatten(0, 1)
            result[name] = s
        return result

    def _own(self, step: Recorded, names: list[str]) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The diagonal blocks ``(c, B, u, c)`` and the layer's parameters' own ``(c, B, size)``."""
        lanes = step.after.shape[0]
        ones = torch.eye(self.parts, dtype=step.after.dtype, device=step.after.device)
        ones = ones.repeat(1, self.size // self.parts)  # (c, n): part k of every unit
        jacobian, direct = pulled(step, names, ones.unsqueeze(1).expand(-1, lanes, -1))
        if jacobian is not None:
            jacobian = jacobian.reshape(self.parts, lanes, -1, self.parts)
        return jacobian, direct

    def advance(self, influence: Influence, step: Recorded) -> Influence:
        """See the module's head."""
        # One pass over all parameters also tells which of them act on the state at all.
        diagonal, direct = self._own(step, list(step.each))
        others = [n for n in direct if n not in self.units]
        before = [n for n in influence if n not in direct]
        through = rows(step, others)[1] if others else {}
        result = {}
        for name in [*direct, *before]:
            new = through[name] if name in through else direct.get(name)
            old = influence.get(name)
            if old is not None and diagonal is not None:
                passed = self._pass(name, diagonal, old)
                new = passed if new is None else new + passed
            if new is not None:
                result[name] = new
        return result

    def _pass(self, name: str, diagonal: Tensor, old: Tensor) -> Tensor:
        if name in self.units:
            return torch.einsum("kbpl,lbp->kbp", diagonal[:, :, self.units[name]], old)
        split = old.unflatten(0, (-1, self.parts))
        return torch.einsum("kbul,ulbp->ukbp", diagonal, split).flatten(0, 1)

    def gradient(self, influence: Influence, dstate: Tensor) -> dict[str, Tensor]:
        """See :meth:`Rule.gradient`."""
        split = dstate.unflatten(1, (-1, self.parts))
        result = {}
        for name, s in influence.items():
            if name in self.units:
                result[name] = torch.einsum("bpk,kbp->p", split[:, self.units[name]], s)
            else:
                result[name] = torch.einsum("bj,jbp->p", dstate, s)
        return result


# A rank-one stand-in for the influence, right on average: unbiased online recurrent optimisation.

_STATE = "state"
_PARAMETERS = "parameters"


class RankOne(Rule):
    """S ≈ s̃ θ̃ᵀ in every lane, with E[s̃ θ̃ᵀ] = S: ``{"state": (1, B, n), "parameters": {name: (1, B,
    size)}}``.

    With ν of independent random signs, E[ν νᵀ] is the identity and E[ν] zero, so
    s̃ ← ρ₀ J s̃ + ρ₁ ν,  θ̃ ← θ̃/ρ₀ + (νᵀ ∂s/∂θ)/ρ₁
    has S's recursion as its mean, whatever ρ₀, ρ₁ > 0, as long as neither depends on a sign of ν.
    ρ₀ = √(‖θ̃‖/‖J s̃‖) and ρ₁ = √(‖νᵀ∂s/∂θ‖/‖ν‖) balance the norms of the two factors, which keeps
    the variance low. Where a norm is zero its term is zero too, and is left out.

    Cost a step: two backward passes and one of second order; memory 2·B·P.
    """

    def __init__(self, generator: torch.Generator, epsilon: float) -> None:
        self.generator = generator
        self.epsilon = epsilon

    def advance(self, influence: Influence, step: Recorded) -> Influence:
        """See the class."""
        nu = self._signs(step.after)
        _, direct = pulled(step, list(step.each), nu.unsqueeze(0))
        old = influence.get(_PARAMETERS, {})
        passed = self._pass(step, influence[_STATE][0]) if influence else torch.zeros_like(nu)

        keep, rho0 = self._balance(_norm(old, like=nu), passed.norm(dim=1))
        take, rho1 = self._balance(_norm(direct, like=nu), nu.norm(dim=1))
        state = (keep * rho0)[:, None] * passed + (take * rho1)[:, None] * nu
        parameters = {}
        for name in [*old, *(n for n in direct if n not in old)]:
            parts = []
            if name in old:
                parts.append((keep / rho0)[:, None] * old[name])
            if name in direct:
                parts.append((take / rho1)[:, None] * direct[name])
            parameters[name] = sum(parts[1:], parts[0])
        return {_STATE: state.unsqueeze(0), _PARAMETERS: parameters}

    def _signs(self, like: Tensor) -> Tensor:
        bits = torch.randint(0, 2, like.shape, generator=self.generator, device="cpu")
        return (2 * bits - 1).to(like)

    def _balance(self, of_parameters: Tensor, of_state: Tensor) -> tuple[Tensor, Tensor]:
        """Whether a term is there, 1 or 0, and its ρ, each ``(B,)``."""
        there = (of_parameters > 0) & (of_state > 0)
        ratio = torch.where(there, of_parameters, 1) / torch.where(there, of_state, 1)
        # Any positive number keeps the mean; the bounds keep it finite.
        rho = ratio.sqrt().clamp(self.epsilon, 1 / self.epsilon)
        return there.to(rho), rho

    @staticmethod
    def _pass(step: Recorded, direction: Tensor) -> Tensor:
        """J s̃: a vector–Jacobian product is linear in its vector, and its derivative by that is J."""
        if step.before is None:
            return torch.zeros_like(direction)
        dual = torch.zeros_like(step.after, requires_grad=True)
        (pull,) = torch.autograd.grad(
            step.after, step.before, dual, create_graph=True, allow_unused=True
        )
        if pull is None or not pull.requires_grad:
            return torch.zeros_like(direction)
        (push,) = torch.autograd.grad(pull, dual, direction, allow_unused=True, retain_graph=True)
        return torch.zeros_like(direction) if push is None else push

    def gradient(self, influence: Influence, dstate: Tensor) -> dict[str, Tensor]:
        """See :meth:`Rule.gradient`."""
        if not influence:
            return {}
        weight = (dstate * influence[_STATE][0]).sum(1)
        return {
            name: torch.einsum("b,bp->p", weight, p[0])
            for name, p in influence[_PARAMETERS].items()
        }


def _norm(parts: dict[str, Tensor], like: Tensor) -> Tensor:
    """Norm of a lane's vector over all parameters ``{name: (1, B, size)}``, ``(B,)``."""
    square = like.new_zeros(like.shape[0])
    for part in parts.values():
        square = square + part[0].square().sum(1)
    return square.sqrt()
