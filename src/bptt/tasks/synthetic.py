"""Tasks made by a generator: what has to be remembered, and for how long, is known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bptt.errors import ArgumentError, optional, real
from bptt.tasks.task import (
    IGNORED,
    Batch,
    ClassTask,
    SquaredError,
    ValueTask,
    at_least,
    check_answer,
    only_last,
    symbols,
)

# Remember-first: read T random symbols, name the first.


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


# Copy: read a word, wait, write the word.


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


# Adding: two of T numbers are marked, their sum is wanted.


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


# Temporal order: two signals far apart among noise; which came first, and which second?

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


# Character recall: at every step, name the character read a given number of steps before.


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


# Subject-verb agreement over a clause: "the keys that the man near the doors … ARE".

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
