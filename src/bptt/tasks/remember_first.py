"""Remember-first: read T random symbols, name the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from bptt.tasks.task import Batch, ClassTask, at_least, only_last, symbols


@dataclass(frozen=True)
class RememberFirst(ClassTask):
    """T symbols, uniform and independent; after the last one the first is to be named.

    What lies between is of the same kind as what is to be kept: the state must shield it.

    Attributes:
        steps: T; the distance is T - 1.
        alphabet: how many symbols, V. Chance is 1/V.

    Example:
        >>> task = RememberFirst(20)
        >>> x, y, _, _ = task.batch(torch.Generator().manual_seed(0), 3)
        >>> x.shape, bool((y[-1] == x[0].argmax(-1)).all()), task.chance
        (torch.Size([20, 3, 8]), True, 0.125)

    Source: Chapter 33: Backpropagation Through Time, an interactive textbook; the latching problem
    of Y. Bengio, P. Simard and P. Frasconi, 1994, Learning long-term dependencies with gradient
    descent is difficult.
    """

    steps: int = 200
    alphabet: int = 8
    name: ClassVar[str] = "remember-first"

    def __post_init__(self) -> None:
        at_least(self, steps=1, alphabet=2)

    @property
    def inputs(self) -> int:
        """V."""
        return self.alphabet

    @property
    def outputs(self) -> int:
        """V."""
        return self.alphabet

    @property
    def chance(self) -> float:
        """1/V."""
        return 1 / self.alphabet

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """See :meth:`Task.batch`."""
        read = torch.randint(self.alphabet, (self.steps, size), generator=generator)
        return Batch(symbols(read, self.alphabet), only_last(read[0], self.steps))
