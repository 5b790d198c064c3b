"""A forecast: weekly CO2 at Mauna Loa, half a year ahead, beside what anybody could say without a model.

python examples/forecast_co2.py [FOLDER]

FOLDER holds co2.csv; without it the series is taken from data/co2, and fetched there once, as
``bptt data fetch co2`` does. What a forecast must beat is not "as it is now" but "as it went a year
before": the season comes back.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import bptt
from bptt.data.fetch import fetch
from bptt.errors import BpttError
from bptt.gradients import Truncated
from bptt.models import Forecaster
from bptt.nn.carry import Carry
from bptt.tasks import CO2

AHEAD, YEAR, UPDATES = 26, 52, 500


class OfChanges(torch.nn.Module):
    """A GRU that sees how much each week differs from the last: a level beyond all that were trained on
    is then nothing new. Its carry is the last value and the GRU's state."""

    hidden_size = 32

    def __init__(self) -> None:
        super().__init__()
        self.gru = bptt.nn.GRU(1, self.hidden_size)

    def forward(self, x: torch.Tensor, carry: Carry = None):
        """As any recurrent layer: ``(x, carry)`` to ``(y, carry)``."""
        last, state = (x[:1], None) if carry is None else carry
        y, state = self.gru(20 * torch.diff(x, dim=0, prepend=last), state)
        return y, (x[-1:], state)


def series_folder() -> str:
    """Where the series is; fetched once."""
    folder = Path("data/co2")
    if not folder.exists():
        print(
            "data/co2 is missing: it is fetched once, as bptt data fetch co2 does", file=sys.stderr
        )
        fetch("co2", folder)
    return str(folder)


def main(folder: str | None) -> None:
    """Train on chunks of the earlier years, judge on the later ones."""
    folder = series_folder() if folder is None else folder
    torch.manual_seed(0)
    torch.set_num_threads(1)
    task = CO2(steps=156, ahead=AHEAD, folder=folder)
    model = Forecaster(OfChanges(), task.outputs)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, UPDATES)
    generator = torch.Generator().manual_seed(1)
    for _ in range(UPDATES):
        batch = task.batch(generator, 16)
        optimizer.zero_grad()
        Truncated(k=78).backward(model, batch.inputs, batch.targets, loss=task.loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    held_out = task.held_out()
    with torch.no_grad():
        score = task.score(model(held_out.inputs)[0], held_out.targets)
    series = held_out.inputs  # long enough before the scored weeks to look a year back
    season = series + series.roll(AHEAD, 0) - series.roll(YEAR, 0)  # x_t + x_(t-26) - x_(t-52)
    print(f"{AHEAD} weeks ahead, error in ppm on the years held out:")
    print(f"as it is now              {task.chance:.2f}")
    print(f"as it went a year before  {task.score(season, held_out.targets):.2f}")
    print(f"GRU of 32 units           {score:.2f}")


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else None)
    except BpttError as error:
        sys.exit(str(error))
