"""Tasks on real data: digits, vowels and CO₂, read from packages that a user has."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bptt.errors import ArgumentError, DataError
from bptt.files.read import read_plain
from bptt.tasks.task import IGNORED, Batch, ClassTask, SquaredError, ValueTask, at_least, only_last

# Tasks on real data: where their files lie, and what to do when they do not.


def read_text(name: str, file: str, folder: str | Path | None) -> str:
    """A file that ``bptt data fetch NAME`` wrote; by default into ``data/NAME``."""
    path = (Path("data") / name if folder is None else Path(folder)) / file
    try:
        return read_plain(path)
    except (OSError, ValueError) as error:  # not UTF-8, or a NUL in the name
        raise DataError(
            f"the data set {name!r} at {str(path)[:200]}",
            str(error.strerror if isinstance(error, OSError) else error),
            f"run: bptt data fetch {name}, or name its folder",
        ) from None


def read_table(name: str, text: str, columns: int, header: bool = False) -> list[list[str]]:
    """The rows of a CSV file, all of the same width."""
    try:
        rows = [row for row in csv.reader(text.splitlines()) if row][int(header) :]
    except csv.Error as error:
        raise broken(name, "a table", str(error)) from None
    if not rows or any(len(row) != columns for row in rows):
        raise broken(name, f"{columns} columns a line", "another table")
    return rows


def read_ts(name: str, text: str) -> tuple[list[Tensor], Tensor]:
    """Series ``(T, dims)`` float32 and labels from a ``.ts`` file of the UEA archive.

    Example:
        >>> series, labels = read_ts("made", "@data\\n1,2:3,4:b\\n5:6:a\\n")
        >>> series[0].tolist(), labels.tolist()
        ([[1.0, 3.0], [2.0, 4.0]], [1, 0])
    """
    lines = [line.strip() for line in text.splitlines()]
    starts = [number for number, line in enumerate(lines) if line.lower() == "@data"]
    if not starts:
        raise broken(name, "a line @data", "none")
    series, names = [], []
    for line in filter(None, lines[starts[0] + 1 :]):
        *channels, label = line.split(":")
        try:
            values = [[float(v) for v in channel.split(",")] for channel in channels]
            series.append(torch.tensor(values).transpose(0, -1).contiguous())
        except (ValueError, IndexError) as error:
            raise broken(name, "numbers, as many in each channel", str(error)) from None
        names.append(label)
    if not series or len({each.shape[1:] for each in series}) > 1 or series[0].dim() != 2:
        raise broken(name, "series of as many channels each", "none, or others")
    classes = {label: place for place, label in enumerate(sorted(set(names)))}
    return series, torch.tensor([classes[label] for label in names])


def broken(name: str, expected: str, received: str) -> DataError:
    """The error for a file that is not what was fetched."""
    return DataError(
        f"{expected} in {name!r}", received, f"remove it and run: bptt data fetch {name}"
    )


def frequency(labels: Tensor) -> float:
    """Share of the most frequent label: the best answer that looks at no input."""
    return float(labels.bincount().max()) / len(labels)


# Sequential digits: an 8 by 8 image of a digit, read pixel by pixel or row by row.

SPLIT_SEED, TEST_SHARE = 0, 0.2


@dataclass(frozen=True, eq=False)
class Digits(ClassTask):
    """1797 handwritten digits; after the last step the digit is to be named.

    A fifth of the images, drawn by a fixed seed, is held out: the writers are the same as in training.

    Attributes:
        by: ``"pixel"``, T=64 steps of one number, or ``"row"``, T=8 steps of eight; 0 … 1.
        folder: where ``bptt data fetch digits`` wrote; default ``data/digits``.

    Raises:
        DataError: the file is not there, or is not what was fetched.

    Source: E. Alpaydin and C. Kaynak, 1998, Optical recognition of handwritten digits (UCI), as
    scikit-learn carries it; pixel by pixel after Q. V. Le, N. Jaitly and G. E. Hinton, 2015.
    """

    by: str = "pixel"
    folder: str | Path | None = None
    _images: Tensor = field(init=False, repr=False)
    _labels: Tensor = field(init=False, repr=False)
    _order: Tensor = field(init=False, repr=False)
    name: ClassVar[str] = "digits"

    def __post_init__(self) -> None:
        if self.by not in ("pixel", "row"):
            raise ArgumentError("by pixel or by row", repr(self.by), "pick one of them")
        rows = read_table(self.name, read_text(self.name, "digits.csv", self.folder), 65)
        try:
            values = torch.tensor([[float(v) for v in row] for row in rows])
        except ValueError as error:
            raise broken(self.name, "numbers", str(error)) from None
        steps = 64 if self.by == "pixel" else 8
        object.__setattr__(self, "_images", (values[:, :64] / 16).view(-1, steps, 64 // steps))
        object.__setattr__(self, "_labels", values[:, 64].long())
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(SPLIT_SEED))
        object.__setattr__(self, "_order", order)

    @property
    def inputs(self) -> int:
        """1 or 8."""
        return self._images.shape[2]

    @property
    def outputs(self) -> int:
        """Ten digits."""
        return 10

    @property
    def chance(self) -> float:
        """Share of the most frequent digit among those held out."""
        return frequency(self._labels[self._test])

    @property
    def goal(self) -> float:
        """95 %."""
        return 0.95

    @property
    def _test(self) -> Tensor:
        return self._order[: int(TEST_SHARE * len(self._order))]

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """Training images, drawn with replacement."""
        train = self._order[len(self._test) :]
        return self._of(train[torch.randint(len(train), (size,), generator=generator)])

    def held_out(self) -> Batch:
        """All images that are not trained on."""
        return self._of(self._test)

    def _of(self, which: Tensor) -> Batch:
        images = self._images[which].transpose(0, 1).contiguous()
        return Batch(images, only_last(self._labels[which], images.shape[0]))


# Japanese vowels: who spoke? Series of 12 numbers, each as long as its utterance.

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


# CO₂ at Mauna Loa: one series with a trend and a season, to be forecast.

CO2_TEST_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class CO2(ValueTask):
    """Weekly concentrations, 1958 to 2001; at every week the one ``ahead`` weeks later is to be named.

    Missing weeks are filled linearly. Values are scaled by mean and deviation of the first four fifths,
    which are trained on; the last fifth is forecast week by week, after a window of ``steps`` that is
    read and not scored. The score is the root mean squared error in ppm; chance is "as it is now".

    Attributes:
        steps: weeks in a training window.
        ahead: how far, in weeks; 1 is the next.
        folder: where ``bptt data fetch co2`` wrote; default ``data/co2``.

    Raises:
        DataError: the file is not there, or is not what was fetched.

    Source: C. D. Keeling and T. P. Whorf, 2004, Atmospheric CO₂ concentrations derived from flask air
    samples at sites in the SIO network; as statsmodels carries it.
    """

    steps: int = 104
    ahead: int = 4
    folder: str | Path | None = None
    _values: Tensor = field(init=False, repr=False)
    _unit: float = field(init=False, repr=False)
    name: ClassVar[str] = "co2"
    metric: ClassVar[str] = "error in ppm"

    def __post_init__(self) -> None:
        at_least(self, steps=2, ahead=1)
        rows = read_table(self.name, read_text(self.name, "co2.csv", self.folder), 2, header=True)
        try:
            ppm = np.array([float(value) if value else np.nan for _, value in rows])
        except ValueError as error:
            raise broken(self.name, "numbers", str(error)) from None
        if self._border(len(ppm)) < self.steps + self.ahead or np.isnan(ppm).all():
            raise broken(self.name, f"{self.steps + self.ahead} weeks to train on", f"{len(ppm)}")
        there = ~np.isnan(ppm)
        weeks = np.arange(len(ppm))
        ppm = np.interp(weeks, weeks[there], ppm[there])
        train = ppm[: self._border(len(ppm))]
        scaled = torch.tensor((ppm - train.mean()) / train.std(), dtype=torch.float32)
        object.__setattr__(self, "_values", scaled)
        object.__setattr__(self, "_unit", float(train.std()))

    @staticmethod
    def _border(weeks: int) -> int:
        return int((1 - CO2_TEST_SHARE) * weeks)

    @property
    def inputs(self) -> int:
        """The concentration."""
        return 1

    @property
    def outputs(self) -> int:
        """The later concentration."""
        return 1

    @property
    def chance(self) -> float:
        """The error of answering with the present value."""
        batch = self.held_out()
        return self.score(batch.inputs, batch.targets)

    @property
    def goal(self) -> float:
        """Half the error of that."""
        return self.chance / 2

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Mean squared error in scaled units."""
        return SquaredError(self.steps)

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """Windows of the first four fifths."""
        last = self._border(len(self._values)) - self.steps - self.ahead
        starts = torch.randint(last + 1, (size,), generator=generator)
        weeks = starts + torch.arange(self.steps)[:, None]
        values = self._values
        return Batch(values[weeks].unsqueeze(-1), values[weeks + self.ahead].unsqueeze(-1))

    def held_out(self) -> Batch:
        """The last fifth, one lane, after a window that is not scored."""
        begin = self._border(len(self._values)) - self.steps
        values = self._values[begin:]
        targets = values[self.ahead :].clone()
        targets[: self.steps] = torch.nan
        return Batch(values[: -self.ahead].view(-1, 1, 1), targets.view(-1, 1, 1))

    def score(self, output: Tensor, targets: Tensor) -> float:
        """Root mean squared error in ppm."""
        return self._unit * super().score(output, targets) ** 0.5
