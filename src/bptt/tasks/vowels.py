"""Japanese vowels: who spoke? Series of 12 numbers, each as long as its utterance."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bptt.tasks.files import frequency, read_text, read_ts
from bptt.tasks.task import IGNORED, Batch, ClassTask

Lanes = tuple[list[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class JapaneseVowels(ClassTask):
    """270 utterances to train on, 370 to be tested on, of 7 to 29 steps; 12 coefficients, 9 speakers.

    The split is the data set's own. Coefficients are scaled to mean 0 and deviation 1 over the training
    set. Lanes are padded with zeros after their ``lengths``; the target stands at each lane's last
    step.

    Attributes:
        folder: where ``bptt data fetch japanese-vowels`` wrote; default ``data/japanese-vowels``.

    Raises:
        DataError: a file is not there, or is not what was fetched.

    Source: M. Kudo, J. Toyama and M. Shimbo, 1999, Multidimensional curve classification using
    passing-through regions.
    """

    folder: str | Path | None = None
    _train: Lanes = field(init=False, repr=False)
    _test: Lanes = field(init=False, repr=False)
    name: ClassVar[str] = "japanese-vowels"

    def __post_init__(self) -> None:
        train, test = (
            read_ts(self.name, read_text(self.name, f"{part}.ts", self.folder))
            for part in ("train", "test")
        )
        every = torch.cat(train[0])
        mean, deviation = every.mean(0), every.std(0)
        for which, (series, labels) in (("_train", train), ("_test", test)):
            object.__setattr__(self, which, ([(s - mean) / deviation for s in series], labels))

    @property
    def inputs(self) -> int:
        """12."""
        return self._train[0][0].shape[1]

    @property
    def outputs(self) -> int:
        """9."""
        return int(self._train[1].max()) + 1

    @property
    def chance(self) -> float:
        """Share of the most frequent speaker in the test set."""
        return frequency(self._test[1])

    @property
    def goal(self) -> float:
        """95 %."""
        return 0.95

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """Training utterances, drawn with replacement."""
        chosen = torch.randint(len(self._train[1]), (size,), generator=generator)
        return _padded([self._train[0][i] for i in chosen], self._train[1][chosen])

    def held_out(self) -> Batch:
        """The whole test set."""
        return _padded(*self._test)


def _padded(series: list[Tensor], labels: Tensor) -> Batch:
    lengths = torch.tensor([len(s) for s in series])
    inputs = pad_sequence(series)
    targets = torch.full(inputs.shape[:2], IGNORED)
    targets[lengths - 1, torch.arange(len(series))] = labels
    return Batch(inputs, targets, lengths)
