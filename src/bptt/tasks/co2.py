"""CO₂ at Mauna Loa: one series with a trend and a season, to be forecast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bptt.tasks.files import broken, read_table, read_text
from bptt.tasks.task import Batch, SquaredError, ValueTask, at_least

TEST_SHARE = 0.2


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
        return int((1 - TEST_SHARE) * weeks)

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
