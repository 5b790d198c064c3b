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

from bptt.errors import ArgumentError
from bptt.recurrence import Call, Found, FunctionStep, Recorder, States, assemble
from bptt.recurrence.recorder import plain_name
from bptt.recurrence.stack import Stack

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
