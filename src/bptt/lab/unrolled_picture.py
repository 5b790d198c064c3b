"""The picture of page *Unrolled*: the network step by step downwards, its gradient coming back up."""

from __future__ import annotations

import math
from html import escape

from bptt.lab.unrolled import Unrolled, minus, place
from bptt.report.chart import Color, Line, Mark, chart, paint, raised

WIDTH, ROW, TOP, CELL = 440, 84, 8, 25
CELLS = (62, 352)  # where the cells of a state begin and end
LEGEND: tuple[tuple[str, Color], ...] = (
    ("state above 0", "blue"),
    ("state below 0", "orange"),
    ("gradient above 0", "green"),
    ("gradient below 0", "purple"),
)


def draw(found: Unrolled, position: int) -> str:
    """The network unrolled, time downwards: letter, state, next letter; beneath each state its δ."""
    now, back = place(found, position)
    T = found.steps
    body = "".join(_row(found, k, now, back) for k in range(1, T + 1))
    height = TOP + T * ROW - 8
    caption = (
        "Each row is a step: the letter read, the state hₖ, the letter that should come next and its "
        "loss in nats; below the state the gradient δₖ, in units of the power of ten on the right."
    )
    legend = "".join(
        f'<li><svg width="26" height="14" aria-hidden="true"><rect y="1" width="26" height="12" '
        f'fill="{paint(color)}" opacity="0.5"/></svg>{name}</li>'
        for name, color in LEGEND
    )
    return (
        f'<figure class="chart"><div class="title">“{escape(found.word)}”, unrolled</div>'
        f'<ul class="legend">{legend}</ul><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(caption)}" font-size="12.5" fill="currentColor">{body}</svg>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _row(found: Unrolled, k: int, now: int, back: bool) -> str:
    top = TOP + (k - 1) * ROW
    read = back or k <= now
    middle = top + CELL / 2
    H = found.trace.h.shape[1]
    fade = "" if read else ' opacity="0.45"'
    parts = []
    if k == now:
        parts.append(
            f'<rect x="2" y="{top - 5}" width="{WIDTH - 4}" height="{2 * CELL + 11}" rx="8" '
            f'fill="none" stroke="var(--ink)" stroke-width="1.5"/>'
        )
    word = found.word
    parts.append(
        f'<g{fade}><circle cx="26" cy="{middle}" r="12.5" fill="none" stroke="currentColor"/>'
        f'<text x="26" y="{middle + 4.5}" text-anchor="middle" fill="var(--ink)">{word[k - 1]}</text>'
        f"{_arrow(41, middle, 58, middle)}{_arrow(CELLS[1] + 3, middle, CELLS[1] + 15, middle)}</g>"
    )
    state = found.trace.h[k - 1].tolist() if read else [None] * H
    parts.append(_cells(f"h{k}", state, top, ("blue", "orange"), 1.0, "{:.2f}"))
    if read:
        followed = k == found.follow
        mark = ' font-weight="700" fill="var(--ink)"' if followed else ""
        parts.append(
            f'<text x="{CELLS[1] + 19}" y="{middle + 4.5}"{mark}>{word[k]}: '
            f"{found.trace.losses[k - 1]:.2f}</text>"
        )
    come = back and k >= now
    size = found.sizes[k - 1]
    delta: list[float | None] = [None] * H
    unit = 0
    if come:
        delta = list(found.deltas[k - 1])
        largest = max(abs(v) for v in found.deltas[k - 1])
        unit = math.floor(math.log10(largest)) if largest > 0 else 0
    under = top + CELL + 1
    if come and size > 0:
        scale = 10.0**unit
        shown = [None if v is None else v / scale for v in delta]
        parts.append(_cells(f"δ{k}", shown, under, ("green", "purple"), 10.0, "{:.2f}", delta))
        if unit:
            parts.append(
                f'<text x="{CELLS[1] + 19}" y="{under + CELL / 2 + 4.5}">·10{raised(unit)}</text>'
            )
    else:
        zero: list[float | None] = [0.0] * H if come else delta
        parts.append(_cells(f"δ{k}", zero, under, ("green", "purple"), 1.0, "{:.0f}"))
    parts.append(
        f'<text x="{CELLS[0] - 8}" y="{under + CELL / 2 + 4.5}" text-anchor="end">δ</text>'
    )
    if k < found.steps:
        low, high = under + CELL + 7, top + ROW - 7
        lit = k + 1 == now and not back
        gone = back or k + 1 <= now
        parts.append(_link(low, high, 150, "Wₕ", "blue", lit, gone))
        lit = back and k == now and k < found.follow
        gone = back and now <= k < found.follow
        parts.append(_link(high, low, 250, "Wₕᵀ", "green", lit, gone))
    return "".join(parts)


def _cells(
    name: str,
    values: list[float | None],
    top: float,
    colors: tuple[Color, Color],
    full: float,
    form: str,
    exact: list[float | None] | None = None,
) -> str:
    width = (CELLS[1] - CELLS[0]) / len(values)
    text = ""
    for i, value in enumerate(values):
        left = CELLS[0] + i * width
        box = f'x="{left:.1f}" y="{top}" width="{width:.1f}" height="{CELL}"'
        if value is None:
            text += (
                f'<rect {box} fill="none" stroke="currentColor" stroke-dasharray="2 3" '
                f'opacity="0.4"/>'
            )
            continue
        color = paint(colors[0] if value >= 0 else colors[1])
        share = 0.08 + 0.42 * min(1.0, abs(value) / full)
        precise = value if exact is None else exact[i]
        text += (
            f"<g><title>{name}[{i + 1}] = {precise!r}</title>"
            f'<rect {box} fill="{color}" fill-opacity="{share:.2f}" stroke="currentColor" '
            f'stroke-opacity="0.5"/><text x="{left + width / 2:.1f}" y="{top + CELL / 2 + 4.5}" '
            f'text-anchor="middle" fill="var(--ink)">{minus(form.format(value))}</text></g>'
        )
    return text


def _arrow(x1: float, y1: float, x2: float, y2: float, width: float = 1.4) -> str:
    head = 4
    if x1 == x2:
        way = 1 if y2 > y1 else -1
        tip = f"M{x2 - head} {y2 - way * head}L{x2} {y2}L{x2 + head} {y2 - way * head}"
    else:
        tip = f"M{x2 - head} {y2 - head}L{x2} {y2}L{x2 - head} {y2 + head}"
    return (
        f'<path d="M{x1} {y1}L{x2} {y2}{tip}" stroke="currentColor" stroke-width="{width}" '
        f'fill="none"/>'
    )


def _link(y1: float, y2: float, x: float, name: str, color: Color, lit: bool, gone: bool) -> str:
    ink = paint(color) if gone or lit else "currentColor"
    faint = "" if gone or lit else ' opacity="0.4"'
    weight = ' font-weight="700"' if lit else ""
    return (
        f'<g color="{ink}"{faint}{weight}>{_arrow(x, y1, x, y2, 2.6 if lit else 1.4)}'
        f'<text x="{x + 9}" y="{(y1 + y2) / 2 + 4.5}" fill="currentColor" font-size="11">'
        f"{name}</text></g>"
    )


def draw_sizes(found: Unrolled, position: int) -> str:
    """‖δ_k‖ by step."""
    now, back = place(found, position)
    steps = list(range(1, found.follow + 1))
    reached = found.sizes[: found.follow]
    top = 1.01 * max(reached)
    parts: list[Line | Mark] = [Line("", steps, reached, "green", dots=True)]
    if back:
        parts.append(Mark(f"step {now}", x=now))
    return chart(
        f"How much of loss {found.follow} reaches each step",
        parts,
        x="step k",
        y="‖δₖ‖",
        log=True,
        xlim=(0.8, found.steps + 0.2),
        ylim=(10.0 ** math.floor(math.log10(min(reached))), 10.0 ** math.ceil(math.log10(top))),
        caption="Each step back multiplies by Wₕᵀ and by the slopes of tanh.",
    )
