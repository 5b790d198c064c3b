"""A training run over its steps: loss, horizon, and the bias of every truncation as a heat map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bptt.report.style import BLUE, GREEN, INK, ORANGE

Record = Mapping[str, Any]
COLUMNS = 120  # measurements the heat map shows; more are thinned out, the last one kept


def series(records: Iterable[Record], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one number, where it was written and is finite.

    Example:
        >>> series([{"step": 1, "loss": 2.0}, {"step": 2}, {"step": 3, "loss": 1.5}], "loss")
        (array([1., 3.]), array([2. , 1.5]))
    """
    pairs = [(r.get("step"), r.get(name)) for r in records]
    good = [(s, v) for s, v in pairs if number(s) and number(v)]
    array = np.array(good, dtype=float).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def spectra(records: Iterable[Record]) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """(step, truncations, bias) of every line that carries a well-formed spectrum."""
    found = []
    for record in records:
        spectrum, step = record.get("spectrum"), record.get("step", 0)
        if not isinstance(spectrum, Mapping) or not number(step):
            continue
        at, bias = spectrum.get("truncations"), spectrum.get("bias")
        if not isinstance(at, list) or not isinstance(bias, list) or len(at) != len(bias):
            continue
        if at and all(number(k) and k >= 1 for k in at) and all(number(b) for b in bias):
            order = np.argsort(at)
            found.append((float(step), np.array(at, float)[order], np.array(bias, float)[order]))
    return found


def number(value: Any) -> bool:
    """Whether a value of a line is a number that can be drawn: a finite one, and no True."""
    kind = isinstance(value, (int, float)) and not isinstance(value, bool)
    return kind and bool(abs(value) < 1e300)


def draw_loss(axes: Any, records: Sequence[Record]) -> None:
    """Bits per token: in training, smoothed by what a line averages, and held out."""
    axes.plot(*series(records, "bits"), color=BLUE, linewidth=1.3, label="training")
    scores = [
        {"step": r.get("step"), "bits": r["valid"].get("bits")}
        for r in records
        if isinstance(r.get("valid"), Mapping)
    ]
    steps, bits = series(scores, "bits")
    if len(steps):
        axes.plot(steps, bits, "o-", color=ORANGE, markersize=4, label="held out")
        axes.legend(loc="upper right")
    axes.set(title="Loss", xlabel="training step", ylabel="bits per token")


def draw_horizon(axes: Any, records: Sequence[Record], k: int | None = None) -> None:
    """The horizon over training, and the k that was trained with."""
    axes.plot(*series(records, "horizon"), color=GREEN, drawstyle="steps-post")
    if k is not None:
        axes.axhline(k, color=INK, linestyle=":", linewidth=1.3)
        axes.annotate(
            f"k = {k}", (1, k), xycoords=axes.get_yaxis_transform(), xytext=(0, 3), ha="right",
            textcoords="offset points", color=INK, fontsize=9.5,
        )  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.set(title="Horizon over training", xlabel="training step", ylabel="steps back")


def heat(
    records: Iterable[Record], columns: int = COLUMNS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bias of every truncation over training, on a common grid.

    Args:
        records: lines of ``metrics.jsonl``, one with a spectrum among them.
        columns: more measurements are thinned out, first and last kept.

    Returns:
        steps ``(n,)``, truncations K ``(m,)`` and log10 of the bias ``(n, m)``, between -4 and 0.

    Example:
        >>> line = {"step": 10, "spectrum": {"truncations": [1, 2], "bias": [0.1, 0.0]}}
        >>> heat([line])[2].tolist()
        [[-1.0, -4.0]]
    """
    found = spectra(records)
    if len(found) > columns:
        found = [found[i] for i in np.linspace(0, len(found) - 1, columns).round().astype(int)]
    grid = np.unique(np.concatenate([at for _, at, _ in found]))
    # log of the bias, which changes by decades; beyond what was measured the last value holds.
    values = [
        np.interp(np.log(grid), np.log(at), np.log10(np.clip(b, 1e-4, 1))) for _, at, b in found
    ]
    return np.array([step for step, _, _ in found]), grid, np.array(values)


def draw_heat(axes: Any, records: Sequence[Record], k: int | None = None) -> None:
    """Bias by training step and truncation; dark: nothing is left out."""
    steps, grid, values = heat(records)
    longest = grid[-1]
    image = axes.pcolormesh(
        borders(steps), np.exp(borders(np.log(grid))), values.T,
        cmap="cividis", vmin=-4, vmax=0, rasterized=True,
    )  # fmt: skip
    bar = axes.figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_ticks([-4, -3, -2, -1, 0], labels=["0.01 %", "0.1 %", "1 %", "10 %", "100 %"])
    bar.outline.set_visible(False)
    axes.set_yscale("log")
    ticks = [t for t in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if t <= longest]
    axes.set_yticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    if k is not None and k <= longest:
        axes.axhline(k, color="white", linestyle=":", linewidth=1.3)
    axes.grid(False)
    axes.set(title="Bias by truncation, over training", xlabel="training step", ylabel="K")


def borders(centres: np.ndarray) -> np.ndarray:
    """Cell borders halfway between centres."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    inner = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - inner[0]], inner, [2 * centres[-1] - inner[-1]]])
