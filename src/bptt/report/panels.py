"""Two drawings more than :mod:`bptt.report.chart` has: a heat map over training, and histograms of
gates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from bptt.probes import Saturation
from bptt.report.chart import paint
from bptt.report.figures import borders, heat, series
from bptt.report.words import thousands

# J. R. Nuñez, C. R. Anderton and R. S. Renslow, 2018, Optimizing colormaps with consideration for color
# vision deficiency: cividis, at every sixteenth of its length. It reads the same in light and dark.
CIVIDIS = (
    "#00224e", "#002b62", "#123570", "#213d6e", "#2f476d", "#3b516c", "#48596c", "#53636d", "#5f6c70",
    "#7d7c78", "#8b8778", "#999174", "#a89c70", "#b9a86a", "#cbb55f", "#dcc350", "#f1d53e",
)  # fmt: skip
DECADES = 4
COLUMNS = 60
WIDTH, HEIGHT = 440, 290
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 78


def heat_map(title: str, records: Sequence[Mapping[str, Any]], k: int | None, caption: str) -> str:
    """The bias of every truncation over training: :func:`bptt.report.figures.heat` as SVG text.

    Args:
        title: above it.
        records: lines of ``metrics.jsonl``, one with a spectrum among them.
        k: the truncation trained with, marked.
        caption: under it.

    Cost: a few milliseconds; neighbours of one colour are one piece of a path.
    """
    steps, grid, values = heat(records, COLUMNS)
    x, y = borders(steps), borders(np.log(grid))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def across(value: float) -> float:
        return float(LEFT + (value - x[0]) / (x[-1] - x[0]) * wide)

    def up(value: float) -> float:
        return float(TOP + (1 - (value - y[0]) / (y[-1] - y[0])) * high)

    last = len(CIVIDIS) - 1
    shade = np.clip(np.rint((values / DECADES + 1) * last), 0, last).astype(int)
    paths: dict[int, str] = {}
    for column, row in enumerate(shade):
        begin = 0
        for end in range(1, len(row) + 1):
            if end == len(row) or row[end] != row[begin]:
                # Half a unit over each border, so that no seam shows.
                box = (
                    f"M{across(x[column]):.1f} {up(y[end]):.1f}H{across(x[column + 1]) + 0.4:.1f}"
                    f"V{up(y[begin]) + 0.4:.1f}H{across(x[column]):.1f}Z"
                )
                paths[int(row[begin])] = paths.get(int(row[begin]), "") + box
                begin = end
    cells = "".join(f'<path fill="{CIVIDIS[c]}" d="{d}"/>' for c, d in sorted(paths.items()))
    lines = ""
    at, reach = series(records, "horizon")
    points = [
        f"{across(s):.1f} {min(max(up(math.log(h)), TOP), TOP + high):.1f}"
        for s, h in zip(at, reach, strict=True)
        if h > 0
    ]
    if len(points) > 1:
        lines += _outlined(f"M{'L'.join(points)}", "")
    if k is not None and grid[0] <= k <= grid[-1]:
        lines += _outlined(
            f"M{LEFT} {up(math.log(k)):.1f}H{LEFT + wide}", ' stroke-dasharray="2 5"'
        )
    ticks = [t for t in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if grid[0] <= t <= grid[-1]]
    text = "".join(_text(LEFT - 6, up(math.log(t)) + 4, str(t), "end") for t in ticks)
    shown = sorted({float(steps[0]), float(steps[len(steps) // 2]), float(steps[-1])})
    text += "".join(_text(across(s), TOP + high + 16, thousands(s), "middle") for s in shown)
    text += _text(LEFT + wide / 2, TOP + high + 33, "training step", "middle")
    middle = TOP + high / 2
    text += (
        f'<text transform="translate(13 {middle:.0f}) rotate(-90)" text-anchor="middle" '
        'fill="currentColor">truncation K, steps back</text>'
    )
    return _figure(title, cells + lines + text + _scale(HEIGHT - 22), HEIGHT, caption)


def gate_bars(title: str, found: Saturation, layer: int, caption: str) -> str:
    """Where one layer's activations stand in their range; the flat ends in orange.

    Args:
        title: above it.
        found: the measurement.
        layer: which, from 0.
        caption: under it.
    """
    gates, row, left, wide = found.layers[layer], 46, 108, 250
    parts = ""
    for place, (name, gate) in enumerate(gates.items()):
        base = (place + 1) * row
        edges, shares = gate.edges.tolist(), gate.shares.tolist()
        top = max(*shares, 1e-12)
        step = wide / len(shares)
        for i, share in enumerate(shares):
            high = 34 * share / top
            color = "orange" if i in (0, len(shares) - 1) else "blue"
            parts += (
                f'<rect x="{left + i * step + 0.5:.1f}" y="{base - high:.1f}" width="{step - 1:.1f}" '
                f'height="{high:.1f}" fill="{paint(color)}"/>'  # type: ignore[arg-type]
            )
        low, high_end = f"{edges[0]:.2g}", f"{edges[-1]:.2g}"
        parts += _text(left - 8, base - 16, name, "end")
        parts += _text(
            left - 8, base - 1, f"{low} … {high_end}".replace("-", "\N{MINUS SIGN}"), "end"
        )
        parts += _text(left + wide + 8, base - 4, f"{100 * gate.saturated:.0f} % flat", "start")
        parts += f'<path d="M{left} {base}H{left + wide}" stroke="currentColor" opacity="0.5"/>'
    return _figure(title, parts, len(gates) * row + 10, caption)


def samples(texts: Iterable[tuple[int, str]]) -> str:
    """What the model writes, checkpoint by checkpoint."""
    rows = "".join(
        f"<dt>step {thousands(step)}</dt><dd>{escape(text)}</dd>" for step, text in texts
    )
    return f'<dl class="samples">{rows}</dl>' if rows else ""


def _figure(title: str, inside: str, height: int, caption: str) -> str:
    said = escape(f"{title}. {caption}")
    return (
        f'<figure class="chart"><div class="title">{escape(title)}</div>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{said}" font-size="12.5">{inside}'
        f"</svg><figcaption>{escape(caption)}</figcaption></figure>"
    )


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">'
        f"{escape(words)}</text>"
    )


def _outlined(path: str, dash: str) -> str:
    """White on black: seen on every colour of the map."""
    return "".join(
        f'<path d="{path}" fill="none" stroke="{ink}" stroke-width="{width}" '
        f'stroke-linejoin="round"{dash if ink == "#fff" else ""}/>'
        for ink, width in (("#000", 3.6), ("#fff", 1.8))
    )


def _scale(top: float) -> str:
    """What the colours mean."""
    wide, left = 200, 150
    each = wide / len(CIVIDIS)
    boxes = "".join(
        f'<rect x="{left + i * each:.1f}" y="{top}" width="{each + 0.4:.1f}" height="9" fill="{c}"/>'
        for i, c in enumerate(CIVIDIS)
    )
    return (
        boxes
        + _text(left - 6, top + 9, "bias: 0.01 %", "end")
        + _text(left + wide + 6, top + 9, "100 %", "start")
    )
