"""What every estimator has in common: its face, what it returns, and the checks on what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bptt import carry as carries
from bptt.carry import Carry
from bptt.errors import ArgumentError, ShapeError

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """What one call of an estimator did.

    Attributes:
        loss: scalar, detached: the loss the user named, over the whole input.
        carry: the state after the last step, detached, to be handed to the next call.
        terms: number of loss terms that were scored.
        depth: ``(T,)`` int64: how many steps back from its own the loss at each step reached.
    """

    loss: Tensor
    carry: Carry
    terms: int
    depth: Tensor


class Estimator(ABC):
    """A way to take the gradient through time.

    Subclasses are frozen dataclasses; an instance is a value that any trainer can pass around.
    """

    @abstractmethod
    def backward(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        carry: Carry = None,
        loss: Loss | None = None,
        *,
        reset: Tensor | None = None,
    ) -> Step:
        """Add the gradient of ``loss`` to the ``.grad`` of the model's parameters.

        Args:
            model: takes ``(x, carry)`` and returns ``(output, carry)``; ``reset=`` too if that is given.
            inputs: ``(T, B, …)``, or ``(B, T, …)`` with ``batch_first``.
            targets: same leading axes as the inputs.
            carry: the state the sequence begins with, detached; None starts fresh.
            loss: ``loss(output, target) -> scalar``, a mean or a sum over its terms.
            reset: bool, the inputs' leading two axes; the state is zero before a marked step.

        Returns:
            The :class:`Step`; its carry is detached.

        Raises:
            ArgumentError, ShapeError: what does not fit, and what to do.
        """


def check_call(carry: Carry, loss: Loss | None, inputs: Tensor, targets: Tensor, axis: int) -> Loss:
    """Refuse a call that could only go wrong later, or worse, silently."""
    if loss is None or not callable(loss):
        raise ArgumentError(
            "a loss function", repr(loss), "pass loss=, e.g. loss=torch.nn.functional.mse_loss"
        )
    if carries.holds_graph(carry):
        raise ArgumentError(
            "a carry without a graph",
            "one that still reaches into an earlier chunk",
            "pass step.carry, or bptt.carry.detach(carry)",
        )
    if inputs.dim() <= axis or targets.dim() <= axis or inputs.shape[axis] != targets.shape[axis]:
        raise ShapeError(
            "inputs and targets with the same number of time steps",
            f"shapes {tuple(inputs.shape)} and {tuple(targets.shape)}, time on axis {axis}",
            "give one target for every step; set batch_first to where your time axis is",
        )
    if inputs.shape[axis] == 0:
        raise ShapeError("at least one time step", "none", "skip the empty batch")
    return loss


def run_model(model: nn.Module, inputs: Tensor, carry: Carry, reset: Tensor | None):
    """Call the model and check that it answers ``(output, carry)``."""
    result = model(inputs, carry) if reset is None else model(inputs, carry, reset=reset)
    if not isinstance(result, tuple) or len(result) != 2:
        raise ArgumentError(
            "a model that returns (output, carry)",
            f"one that returns {type(result).__name__}",
            "return the state beside the output, as torch's recurrent layers do",
        )
    return result


def call_loss(loss: Loss, output: Any, target: Tensor) -> Tensor:
    """Call the loss and check that it is a scalar."""
    value = loss(output, target)
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(
            "a scalar loss", f"{shape}", "use reduction='mean' or 'sum', or call .mean() on it"
        )
    return value.reshape(())


def depth_of_chunks(steps: int, chunk: int) -> Tensor:
    """How far back each loss reaches when the gradient stops at every ``chunk``-th step."""
    return torch.arange(steps) % chunk
