"""Adding: two of T numbers are marked, their sum is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bptt.tasks.task import Batch, SquaredError, ValueTask, at_least


@dataclass(frozen=True)
class Adding(ValueTask):
    """T numbers, uniform in [0, 1), and beside them T marks, two of them 1: one in each half.

    The answer after the last step is the sum of the two marked numbers. Always answering 1 has the mean
    squared error 2·Var = 1/6, the chance level.

    Attributes:
        steps: T >= 2.

    Example:
        >>> task = Adding(50)
        >>> x, y, _, _ = task.batch(torch.Generator().manual_seed(0), 3)
        >>> bool(torch.allclose(y[-1, :, 0], (x[..., 0] * x[..., 1]).sum(0))), round(task.chance, 4)
        (True, 0.1667)

    Source: S. Hochreiter and J. Schmidhuber, 1997, Long short-term memory; in this form Q. V. Le,
    N. Jaitly and G. E. Hinton, 2015, A simple way to initialize recurrent networks of rectified
    linear units.
    """

    steps: int = 150
    name: ClassVar[str] = "adding"

    def __post_init__(self) -> None:
        at_least(self, steps=2)

    @property
    def inputs(self) -> int:
        """The number and the mark."""
        return 2

    @property
    def outputs(self) -> int:
        """The sum."""
        return 1

    @property
    def chance(self) -> float:
        """1/6."""
        return 1 / 6

    @property
    def goal(self) -> float:
        """A root mean squared error of a tenth."""
        return 0.01

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Mean squared error."""
        return SquaredError(1)

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """See :meth:`Task.batch`."""
        half = self.steps // 2
        numbers = torch.rand(self.steps, size, generator=generator)
        first = torch.randint(half, (size,), generator=generator)
        second = torch.randint(half, self.steps, (size,), generator=generator)
        lanes = torch.arange(size)
        marks = torch.zeros(self.steps, size)
        marks[first, lanes] = 1
        marks[second, lanes] = 1
        targets = torch.full((self.steps, size, 1), torch.nan)
        targets[-1, :, 0] = numbers[first, lanes] + numbers[second, lanes]
        return Batch(torch.stack([numbers, marks], -1), targets)
