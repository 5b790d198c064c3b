"""Temporal order: two signals far apart among noise; which came first, and which second?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from bptt.tasks.task import Batch, ClassTask, at_least, only_last, symbols

NOISE = 4


@dataclass(frozen=True)
class TemporalOrder(ClassTask):
    """Noise of four symbols, and in it two signals, each X or Y; the class is XX, XY, YX or YY.

    The first stands in [T/10, 2T/10), the second in [5T/10, 6T/10); the answer follows the last step.

    Attributes:
        steps: T >= 10.

    Example:
        >>> task = TemporalOrder(50)
        >>> x, y, _, _ = task.batch(torch.Generator().manual_seed(0), 3)
        >>> x[..., 4:].sum((0, 2)).tolist(), task.chance        # two signals in every lane
        ([2.0, 2.0, 2.0], 0.25)

    Source: S. Hochreiter and J. Schmidhuber, 1997, Long short-term memory, task 6a.
    """

    steps: int = 100
    name: ClassVar[str] = "temporal-order"

    def __post_init__(self) -> None:
        at_least(self, steps=10)

    @property
    def inputs(self) -> int:
        """Four of noise, X and Y."""
        return NOISE + 2

    @property
    def outputs(self) -> int:
        """XX, XY, YX, YY."""
        return 4

    @property
    def chance(self) -> float:
        """1/4."""
        return 0.25

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """See :meth:`Task.batch`."""
        T, lanes = self.steps, torch.arange(size)
        read = torch.randint(NOISE, (T, size), generator=generator)
        kinds = torch.randint(2, (2, size), generator=generator)
        for kind, (start, stop) in zip(kinds, ((1, 2), (5, 6)), strict=True):
            place = torch.randint(start * T // 10, stop * T // 10, (size,), generator=generator)
            read[place, lanes] = NOISE + kind
        return Batch(symbols(read, self.inputs), only_last(2 * kinds[0] + kinds[1], T))
