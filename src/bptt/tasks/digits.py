"""Sequential digits: an 8 by 8 image of a digit, read pixel by pixel or row by row."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from bptt.errors import ArgumentError
from bptt.tasks.files import broken, frequency, read_table, read_text
from bptt.tasks.task import Batch, ClassTask, only_last

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
