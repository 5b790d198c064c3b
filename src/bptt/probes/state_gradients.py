"""∂L/∂h_t for every step: the textbook picture of a gradient that vanishes on its way back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bptt.recurrence import Recurrence, States, total_gradient


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
