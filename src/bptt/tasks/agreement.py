"""Subject-verb agreement over a clause: "the keys that the man near the doors … ARE"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from bptt.numbers import real
from bptt.tasks.task import Batch, ClassTask, at_least, only_last, symbols

NOUNS, FILLERS = 5, 6


@dataclass(frozen=True)
class Agreement(ClassTask):
    """A subject, a clause of ``steps`` words, and the verb: is it singular or plural?

    Words are tokens: ``NOUNS`` nouns, each in the singular and the plural, ``FILLERS`` words without
    number, and the verb's place. Every word of the clause is a noun of random number with probability
    ``attractors``, else a filler; the number of the verb is the subject's, whatever stands nearest.

    Attributes:
        steps: words between subject and verb, at least 0; the sequence is two longer.
        attractors: share of nouns in the clause, 0 … 1.

    Example:
        >>> task = Agreement(5)
        >>> x, y, _, _ = task.batch(torch.Generator().manual_seed(0), 3)
        >>> x.shape, bool((x[0].argmax(-1) % 2 == y[-1]).all())      # odd nouns are plurals
        (torch.Size([7, 3, 17]), True)

    Source: T. Linzen, E. Dupoux and Y. Goldberg, 2016, Assessing the ability of LSTMs to learn
    syntax-sensitive dependencies.
    """

    steps: int = 20
    attractors: float = 0.3
    name: ClassVar[str] = "agreement"

    def __post_init__(self) -> None:
        at_least(self, steps=0)
        object.__setattr__(self, "attractors", real("attractors", self.attractors))

    @property
    def inputs(self) -> int:
        """Nouns in both numbers, fillers, the verb's place."""
        return 2 * NOUNS + FILLERS + 1

    @property
    def outputs(self) -> int:
        """Singular, plural."""
        return 2

    @property
    def chance(self) -> float:
        """1/2."""
        return 0.5

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """See :meth:`Task.batch`."""
        T = self.steps + 2
        nouns = torch.randint(2 * NOUNS, (T, size), generator=generator)
        fillers = torch.randint(2 * NOUNS, self.inputs - 1, (T, size), generator=generator)
        clause = torch.rand(T, size, generator=generator) < self.attractors
        read = torch.where(clause, nouns, fillers)
        read[0], read[-1] = nouns[0], self.inputs - 1
        return Batch(symbols(read, self.inputs), only_last(nouns[0] % 2, T))
