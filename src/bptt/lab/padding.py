"""Page *Padding, detach and memory*: three habits whose absence raises no error, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from bptt.experiments.claims.learn import Held
from bptt.gradients import Checkpointed, Estimator, Full, Truncated
from bptt.lab.live import drawn_from, table
from bptt.nn import GRU, LSTM, RNN, carry
from bptt.report.chart import Chart, Line, Mark, number
from bptt.report.words import percent, thousands

Cell = Literal["RNN", "GRU", "LSTM"]
LAYERS = {"RNN": RNN, "GRU": GRU, "LSTM": LSTM}
INPUTS, HIDDEN, LANES, STEPS = 6, 24, 16, 20


@dataclass(frozen=True, eq=False)
class Habits:
    """What the page shows.

    Attributes:
        cell: RNN, GRU or LSTM.
        off: ``(P + 1,)`` how far the final state is off, relative to its size, after 0 … P steps of
            padding; the median lane.
        lengths: the same after P steps where the lengths were told.
        kept: bytes that autograd holds after each chunk, the state handed on as it is.
        detached: the same where it is detached.
        chunk: K, steps of a chunk.
        peaks: estimator's form → the most bytes it held on the way to the gradient of all chunks.
    """

    cell: Cell
    off: list[float]
    lengths: float
    kept: list[int]
    detached: list[int]
    chunk: int
    peaks: dict[str, int]

    @property
    def padding(self) -> int:
        """P."""
        return len(self.off) - 1

    @property
    def chunks(self) -> int:
        """Chunks that were run."""
        return len(self.kept)


def habits(
    cell: Cell = "GRU", padding: int = 20, chunks: int = 12, chunk: int = 20, *, seed: int = 0
) -> Habits:
    """Run a layer over padding, over chunks with and without detach, and through three estimators.

    Args:
        cell: of the layer, 24 units, 16 lanes.
        padding: P, steps of zeros behind sequences of 20.
        chunks: how many are run.
        chunk: K.
        seed: of weights and inputs.

    Cost: some forward and backward passes over chunks · K steps.

    Example:
        >>> found = habits(padding=10, chunks=4)
        >>> found.off[0], found.lengths, found.off[-1] > 0.1, found.kept[-1] > 3 * found.detached[-1]
        (0.0, 0.0, True, True)
    """
    with drawn_from(seed) as generator:
        layer = LAYERS[cell](INPUTS, HIDDEN)
    x = torch.randn(STEPS, LANES, INPUTS, generator=generator)
    off, told = _pad(layer, x, padding)
    kept, detached = (_carry(layer, chunks, chunk, generator, way) for way in (False, True))
    text = torch.randn(chunks * chunk, LANES, INPUTS, generator=generator)
    target = torch.zeros(chunks * chunk, LANES, HIDDEN)
    estimators: dict[str, Estimator] = {
        "Full()": Full(),
        "Checkpointed()": Checkpointed(),
        f"Truncated({chunk})": Truncated(chunk),
    }
    peaks = {}
    for name, estimator in estimators.items():
        layer.zero_grad()
        with Held(text, target, *layer.parameters()) as held:
            estimator.backward(layer, text, target, loss=F.mse_loss)
        peaks[name] = held.peak
    return Habits(cell, off, told, kept, detached, chunk, peaks)


def _pad(layer: torch.nn.Module, x: torch.Tensor, padding: int) -> tuple[list[float], float]:
    """How far the final state is off after every number of padding steps; and with lengths."""
    zeros = x.new_zeros(padding, LANES, INPUTS)
    with torch.no_grad():
        y, state = layer(x)
        right = y[-1]
        after = layer(zeros, state)[0] if padding else y[:0]
        lengths = torch.full((LANES,), STEPS)
        told = next(iter(carry.tensors(layer(torch.cat((x, zeros)), lengths=lengths)[1])))[-1]
    size = right.norm(dim=-1)
    off = [float(((h - right).norm(dim=-1) / size).quantile(0.5)) for h in (right, *after)]
    return off, float(((told - right).norm(dim=-1) / size).max())


def _carry(
    layer: torch.nn.Module, chunks: int, chunk: int, generator: torch.Generator, detach: bool
) -> list[int]:
    """Bytes held for a backward pass after each chunk."""
    found, state, total = [], None, torch.zeros(())
    with Held(*layer.parameters()) as held:
        for _ in range(chunks):
            x = torch.randn(chunk, LANES, INPUTS, generator=generator)
            y, state = layer(x, state)
            loss = y.square().mean()
            found.append(held.bytes)
            if detach:
                loss.backward()
                state = carry.detach(state)
            else:
                total = total + loss  # its graph is held until somebody goes back through all of it
            del x, y, loss
    layer.zero_grad()
    return found


def draw_padding(found: Habits) -> Chart:
    """How far the final state is off."""
    steps = list(range(found.padding + 1))
    return Chart(
        "The final state, run over padding",
        [
            Line("padding read as zeros", steps, found.off, "orange"),
            Line("lengths told", steps, [found.lengths] * len(steps), "blue", "dashed"),
        ],
        x="steps of padding", y="off by, over its size", xlim=(0, max(1, found.padding)),
        ylim=(-0.03, 1.15 * max([*found.off, 0.5])),
        caption=f"The median of {LANES} sequences of {STEPS} steps. No error is raised: it is a state "
        "like any other.",
    )  # fmt: skip


def draw_memory(found: Habits) -> Chart:
    """Bytes held after every chunk."""
    at = list(range(1, found.chunks + 1))
    return Chart(
        "Held for the backward pass",
        [
            Line("state as it is", at, [v / 1e3 for v in found.kept], "orange", dots=True),
            Line("state.detach()", at, [v / 1e3 for v in found.detached], "blue", "dashed"),
            Mark("", y=found.detached[0] / 1e3),
        ],
        x="chunks", y="kB", xlim=(1, max(2, found.chunks)), ylim=(0, 1.1 * max(found.kept) / 1e3),
        caption=f"Chunks of {found.chunk} steps. With its graph the state keeps every chunk alive, and a "
        "backward pass goes through all of them.",
    )  # fmt: skip


def list_peaks(found: Habits) -> str:
    """What each estimator holds at most."""
    most = max(found.peaks.values())
    gradient = {"F": "exact", "C": "exact", "T": f"of {found.chunk} steps"}
    rows = [
        (form, gradient[form[0]], f"{thousands(round(size / 1e3))} kB", percent(size / most))
        for form, size in found.peaks.items()
    ]
    return table(
        (f"over {found.chunks * found.chunk} steps", "gradient", "held at most", "of Full"), rows
    )


def tell(found: Habits) -> tuple[str, ...]:
    """The same in words."""
    grown = found.kept[-1] / found.kept[0]
    first = (
        f"After {found.padding} steps of padding the final state is {percent(found.off[-1])} of its size "
        f"away from the right one; with lengths told it is {percent(found.lengths)} away."
    )
    second = (
        f"After {found.chunks} chunks {number(grown)} times as much is held as after the first, if "
        f"nobody detaches the state; detached, {number(found.detached[-1] / found.detached[0])} times."
    )
    full, again, cut = found.peaks.values()
    third = (
        f"Three ways to go back over {found.chunks * found.chunk} steps: all of it held; checkpointed, "
        f"the same gradient for {percent(again / full)} of that; truncated, another gradient for "
        f"{percent(cut / full)}."
    )
    return first, second, third
