"""Copy: read a word, wait, write the word."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bptt.tasks.task import Batch, ClassTask, at_least, check_answer, symbols


@dataclass(frozen=True)
class Copy(ClassTask):
    """S random symbols, T - 1 blanks, a signal, S blanks; the answer is T + S blanks and the S symbols.

    Every step is scored by the loss; the score is the share of right ones among the S symbols. The
    best answer without memory has the loss S·ln V / (T + 2S).

    Attributes:
        steps: T, the delay. The sequence has T + 2·S steps.
        alphabet: V symbols to remember; with the blank and the signal V + 2 come in.
        word: S, how many.

    Example:
        >>> task = Copy(200)
        >>> x, y, _, _ = task.batch(torch.Generator().manual_seed(0), 3)
        >>> x.shape, round(task.memoryless, 4)
        (torch.Size([220, 3, 10]), 0.0945)

    Source: S. Hochreiter and J. Schmidhuber, 1997, Long short-term memory; in this form M. Arjovsky,
    A. Shah and Y. Bengio, 2016, Unitary evolution recurrent neural networks.
    """

    steps: int = 100
    alphabet: int = 8
    word: int = 10
    name: ClassVar[str] = "copy"

    def __post_init__(self) -> None:
        at_least(self, steps=1, alphabet=2, word=1)

    @property
    def inputs(self) -> int:
        """V + 2."""
        return self.alphabet + 2

    @property
    def outputs(self) -> int:
        """V + 1: the symbols and the blank."""
        return self.alphabet + 1

    @property
    def chance(self) -> float:
        """1/V."""
        return 1 / self.alphabet

    @property
    def memoryless(self) -> float:
        """Loss in nats of the best answer that remembers nothing."""
        return self.word * math.log(self.alphabet) / (self.steps + 2 * self.word)

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """See :meth:`Task.batch`."""
        blank, signal = self.alphabet, self.alphabet + 1
        word = torch.randint(self.alphabet, (self.word, size), generator=generator)
        read = torch.full((self.steps + 2 * self.word, size), blank)
        targets = read.clone()
        read[: self.word] = word
        read[self.word + self.steps - 1] = signal
        targets[-self.word :] = word
        return Batch(symbols(read, self.inputs), targets)

    def score(self, output: Tensor, targets: Tensor) -> float:
        """Share of right ones among the last S steps; a blank there is wrong."""
        check_answer(output, targets, 3)
        return super().score(output[-self.word :], targets[-self.word :])
