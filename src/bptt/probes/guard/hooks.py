"""Hooks that are set together and taken off together, and what is read off a call's arguments."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from bptt.probes.guard.loop import Loop
from bptt.recurrence.loops import states_of


class Hooks:
    """Handles of hooks, and wrappers around functions of torch's.

    Attributes:
        handles: each is removed on release.
        undo: called on release, the last first.
    """

    def __init__(self) -> None:
        self.handles: list[Any] = []
        self.undo: list[Callable[[], None]] = []
        self._thread = threading.get_ident()

    def wrap(self, place: Any, name: str, around: Callable[..., Any]) -> None:
        """Put ``around(original, ...)`` in the place of a function, for calls of this thread."""
        original = getattr(place, name, None)
        if original is None:  # not in every version of torch
            return
        thread = self._thread

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or threading.get_ident() != thread:
                return original(*args, **kwargs)
            return around(original, *args, **kwargs)

        wrapper.__name__, wrapper.__doc__ = name, original.__doc__
        setattr(place, name, wrapper)
        self.undo.append(lambda: setattr(place, name, original))

    def release(self) -> None:
        """Put everything back."""
        for handle in self.handles:
            handle.remove()
        for undo in reversed(self.undo):
            undo()
        self.handles, self.undo = [], []


def sentinels(loop: Loop) -> list[Tensor]:
    """Small parameters that every backward pass through the recurrence reaches."""
    recurrent = [p for m in loop.recurrent.values() for p in m.parameters() if p.requires_grad]
    chosen: list[Tensor] = list(
        recurrent or (p for p in loop.model.parameters() if p.requires_grad)
    )
    return sorted(chosen, key=lambda p: p.numel())[:4]


def first_gradients(parameters: list[Any], most: int = 2) -> Iterator[tuple[Tensor, Tensor]]:
    """The first few that have a gradient, with it."""
    found = ((p, p.grad) for p in parameters if p.grad is not None)
    return islice(found, most)


def asks_itself(args: Any, kwargs: Any) -> bool:
    """Whether a step was given a closure; the optimiser itself stands first in its arguments."""
    return any(callable(a) for a in args[1:]) or kwargs.get("closure") is not None


def states_out(module: nn.Module, output: Any) -> tuple[Tensor, ...]:
    """The states in what a module returned; none where it is nothing of the kind."""
    try:
        return states_of(module, output)
    except (TypeError, ValueError):
        return ()


def count_terms(target: Any, ignored: Any) -> int:
    """Over how many numbers a loss is taken."""
    if not isinstance(target, Tensor):
        return 0
    if target.is_floating_point():
        return target.numel()
    return int((target != ignored).sum())


def as_list(parameters: Any) -> list[Any]:
    """Parameters as clipping functions take them: one, or an iterable."""
    if isinstance(parameters, Tensor):
        return [parameters]
    return list(parameters) if isinstance(parameters, Iterable) else []
