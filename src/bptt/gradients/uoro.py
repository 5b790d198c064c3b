"""A rank-one stand-in for the influence, right on average: unbiased online recurrent optimisation."""

from __future__ import annotations

import torch
from torch import Tensor

from bptt.gradients.rtrl import Influence, Recorded, Rule, pulled

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
        bits = torch.randint(0, 2, like.shape, generator=self.generator)
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
