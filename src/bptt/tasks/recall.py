"""Character recall: at every step, name the character read a given number of steps before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from bptt.errors import ArgumentError
from bptt.numbers import optional
from bptt.tasks.task import IGNORED, Batch, ClassTask, at_least, symbols


@dataclass(frozen=True)
class Recall(ClassTask):
    """Random characters; y_t = x_{t - lag}. The state must hold the last ``lag`` characters at once.

    That is lag·log2 V bits, in order and shifted at every step: a test of capacity as much as of reach.

    Attributes:
        steps: the lag, at least 1.
        alphabet: V.
        length: T of a sequence; default 2·lag + 20.

    Example:
        >>> task = Recall(3, alphabet=4)
        >>> x, y, _, _ = task.batch(torch.Generator().manual_seed(0), 2)
        >>> bool((x[:-3].argmax(-1) == y[3:]).all()), y[:3].unique().tolist()
        (True, [-100])

    Source: H. Jaeger, 2001, Short term memory in echo state networks (the delayed copy).
    """

    steps: int = 5
    alphabet: int = 8
    length: int | None = None
    name: ClassVar[str] = "recall"

    def __post_init__(self) -> None:
        at_least(self, steps=1, alphabet=2)
        object.__setattr__(self, "length", optional("length", self.length))
        if self.length is not None and self.length <= self.steps:
            raise ArgumentError(
                f"a length above the lag {self.steps}", f"{self.length}", "leave it out"
            )

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
        T = 2 * self.steps + 20 if self.length is None else self.length
        read = torch.randint(self.alphabet, (T, size), generator=generator)
        targets = torch.full((T, size), IGNORED)
        targets[self.steps :] = read[: -self.steps]
        return Batch(symbols(read, self.alphabet), targets)
