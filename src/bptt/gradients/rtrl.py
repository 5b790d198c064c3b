"""The influence of the parameters on the state, carried forward: exact real-time recurrent learning.

With s_t the state of a lane and θ the parameters, S_t = ds_t/dθ obeys
S_t = J_t S_{t-1} + ∂s_t/∂θ, where J_t = ∂s_t/∂s_{t-1} and ∂ holds s_{t-1} constant. Whatever gradient a
loss has by s_t, multiplied by S_t, is its gradient by θ through all of the past.

An influence is a dict by parameter name of tensors with the lane on axis 1, as in a carry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
