"""A reading drawn on the text itself: in a page, in a terminal, and as a matplotlib figure.

The shade behind a symbol says how much the marked prediction depends on it. It is logarithmic over two
decades: full where the gradient is the largest, none below a hundredth of that. What a unit does is in
two colours, blue above its mean and orange below, in proportion to the largest.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bptt.errors import ArgumentError, whole
from bptt.probes.flow import Flow, Watched
from bptt.probes.on_text import Reading, Unit, input_gradients
from bptt.report.chart import BLUE, ORANGE
from bptt.report.chart_figure import style
from bptt.report.words import percent
from bptt.shown.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST = 0.01  # of the largest: less than that has no shade
# Of the colour, so that letters stay legible on it in a light page and in a dark one.
STRONGEST = 0.55
LEVELS = 20  # of the shade that differ; neighbours of one level are one piece of the page
LETTERS = "#1d2126"
COLUMNS = 64  # of a figure, and of a terminal at most
# What stands for a symbol that cannot be seen.
_SIGNS = {
    "\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}",
    "\t": "\N{RIGHTWARDS ARROW TO BAR}",
    "": "·",
}


def sign(symbol: str) -> str:
    r"""What is shown for a symbol: itself, or what stands for one that cannot be seen or is obeyed.

    Example:
        >>> sign("a"), sign("\n"), sign("\x1b")
        ('a', '↵', '\\x1b')
    """
    if symbol in _SIGNS:
        return _SIGNS[symbol]
    if unicodedata.combining(symbol[0]):
        return "\N{DOTTED CIRCLE}" + printable(symbol)  # else it would join the symbol before it
    return printable(symbol).replace("\n", _SIGNS["\n"]).replace("\t", _SIGNS["\t"])


def shades(norms: Tensor) -> list[float]:
    """0 to 1: the logarithm of each norm between a hundredth of the largest and the largest.

    Example:
        >>> shades(torch.tensor([1.0, 0.1, 0.001, 0.0]))
        [1.0, 0.5, 0.0, 0.0]
    """
    values = norms.double().tolist()
    top = max((v for v in values if math.isfinite(v)), default=0.0)
    if not top > 0:
        return [0.0] * len(values)
    found = [1 - math.log(max(v / top, LEAST)) / math.log(LEAST) if v == v else 0.0 for v in values]
    return [round(min(1.0, f), 6) for f in found]


def signed(values: Tensor) -> list[float]:
    """-1 to 1: away from the mean, as a share of the largest."""
    away = (values.double() - values.double().mean()).nan_to_num(0.0, 0.0, 0.0)
    top = float(away.abs().max()) or 1.0
    return [round(float(v) / top, 6) for v in away]


def caption(reading: Reading, at: int) -> str:
    """What the picture of one prediction shows, in words."""
    norms = reading.row(at).double()
    what = sign(reading.symbols[at + 1])
    loss = float(reading.losses[at])
    said = f"The prediction of “{what}” (outlined), symbol {at + 1}"
    said += f", at {loss / math.log(2):.2f} bits. " if math.isfinite(loss) else ". "
    if not float(norms.max()) > 0:
        return said + "It depends on nothing that was read."
    far = at - int((norms >= LEAST * norms.max()).nonzero()[0])
    return said + (
        "Shade: how much it depends on each symbol before it, by the norm of the gradient of its loss "
        f"at the symbol’s vector; on a logarithmic scale, down to 1 % of the largest. That far it looks "
        f"back {far} steps, and {float(reading.reach[at]):.1f} on average."
    )


def unit_caption(unit: Unit) -> str:
    """What a unit follows, in words."""
    if unit.follows == "variance":
        why = "chosen because it varies the most; it follows nothing that is looked for"
    else:
        why = f"it follows {unit.follows} (correlation {unit.correlation:+.2f})"
    return f"Unit {unit.number} of the top layer: {why}. Blue: above its mean, orange: below."


# In a page.


def on_page(symbols: Sequence[str], values: Sequence[float], at: int | None = None) -> str:
    """Symbols on their shades, as HTML text that needs no style sheet.

    Args:
        symbols: T or T + 1.
        values: of the first of them, -1 to 1; the others have no shade.
        at: the prediction whose symbol, the one after it, is outlined.

    Cost: a piece for each change of the shade.
    """
    pieces: list[str] = []
    run, level = "", 0

    def close() -> None:
        nonlocal run
        if run and level:
            color = "--blue,#0072b2" if level > 0 else "--orange,#d55e00"
            strength = f"{100 * STRONGEST * abs(level) / LEVELS:.0f}%"
            mixed = f"color-mix(in srgb,var({color}) {strength},transparent)"
            pieces.append(f'<span style="background:{mixed}">{run}</span>')
        elif run:
            pieces.append(run)
        run = ""

    for place, symbol in enumerate(symbols):
        own = round(LEVELS * values[place]) if place < len(values) else 0
        mark = at is not None and place == at + 1
        if own != level or mark:
            close()
            level = own
        run += (
            f'<span style="opacity:.55">{sign(symbol)}</span>'
            if symbol in "\n\t"
            else escape(sign(symbol))
        )
        if mark:
            pieces.append(
                f'<b style="outline:2px solid var(--orange,#d55e00);border-radius:2px">{run}</b>'
            )
            run = ""
        if symbol.endswith("\n"):
            close()
            pieces.append("\n")
    close()
    look = (
        "font-family:ui-monospace,'DejaVu Sans Mono',monospace;font-size:.86rem;line-height:1.55;"
        "white-space:break-spaces;overflow-wrap:anywhere;max-width:44rem;color:var(--ink)"
    )
    return f'<div dir="auto" style="{look}">{"".join(pieces)}</div>'


def pictures(reading: Reading, places: Sequence[int] | None = None) -> list[tuple[str, str, str]]:
    """Name, HTML and caption of each picture of a page: of predictions, and of what units do.

    Args:
        places: the predictions; default the one that looks back the farthest, and the dearest one.
    """
    chosen = told_places(reading) if places is None else places
    found = [
        (
            f"prediction {at + 1}",
            on_page(reading.symbols, shades(reading.row(at)), at),
            caption(reading, at),
        )
        for at in chosen
    ]
    for unit in reading.units:
        drawn = on_page(reading.symbols[:-1], signed(unit.values))
        found.append((f"unit {unit.number}", drawn, unit_caption(unit)))
    return found


def told_places(reading: Reading) -> list[int]:
    """The prediction that looks back the farthest, and the dearest, both of the second half."""
    half = len(reading.losses) // 2
    dear = half + int(reading.losses[half:].nan_to_num(-1.0).argmax())
    return list(dict.fromkeys([reading.farthest(), dear]))


# In a terminal: colours where there are any, else a line of digits under each line of text.


def in_terminal(reading: Reading, console: Any, at: int | None = None) -> None:
    """Print one prediction on its text, and the first unit.

    Args:
        console: a ``rich.console.Console``.
        at: the prediction; default the one that looks back the farthest.
    """
    from bptt.shown.console import plain

    at = reading.farthest() if at is None else at
    console.print(plain(caption(reading, at)))
    if console.color_system is None:
        console.print(
            "Under each line the shade as a digit, 1 to 9; a to i below the mean; ^ outlined."
        )
    for line in lines(reading.symbols[: at + 2], shades(reading.row(at)), console, at):
        console.print(line)
    for unit in reading.units[:1]:
        console.print()
        console.print(plain(unit_caption(unit)))
        for line in lines(reading.symbols[:-1], signed(unit.values), console):
            console.print(line)


def lines(
    symbols: Sequence[str], values: Sequence[float], console: Any, at: int | None = None
) -> list[Any]:
    """Symbols on their shades as lines for a console."""
    from rich.cells import cell_len
    from rich.text import Text

    from bptt.shown.console import plain

    width = max(8, min(COLUMNS, console.width))
    colored = console.color_system is not None
    ascii_only, encoding = console.options.ascii_only, console.encoding
    found: list[Any] = []
    text, below, used = Text(), "", 0

    def close() -> None:
        nonlocal text, below, used
        found.append(text)
        if not colored and below.strip():
            found.append(plain(below.rstrip()))
        text, below, used = Text(), "", 0

    for place, symbol in enumerate(symbols):
        shown = sign(symbol)
        if ascii_only:
            shown = {"\n": r"\n", "\t": r"\t", "": "."}.get(symbol, shown)
        value = values[place] if place < len(values) else 0.0
        mark = at is not None and place == at + 1
        # A letter that the encoding lacks is written as an escape, and takes its room.
        size = cell_len(shown.encode(encoding, "backslashreplace").decode(encoding))
        if used + size > width:
            close()
        text.append(shown, style="reverse bold" if mark else _cell(value) if colored else "")
        below += ("^" if mark else _digit(value)) * size
        used += size
        if symbol.endswith("\n"):
            close()
    if used:
        close()
    return found


def _cell(value: float) -> str:
    """A style on which letters are legible, whatever the terminal's own colours."""
    value = round(value * LEVELS) / LEVELS  # neighbours of one level are one piece
    if not value:
        return ""
    near = np.array([0x9C, 0xC4, 0xE4]) if value > 0 else np.array([0xF2, 0xC0, 0x96])
    far = np.array([0x00, 0x4C, 0x7D]) if value > 0 else np.array([0x8F, 0x3D, 0x00])
    r, g, b = (near + (far - near) * abs(value)).round().astype(int)
    return f"{'white' if abs(value) > 0.5 else 'black'} on #{r:02x}{g:02x}{b:02x}"


def _digit(value: float) -> str:
    level = round(9 * abs(value))
    return " " if not level else str(level) if value > 0 else chr(ord("a") + level - 1)


# As a matplotlib figure: ``bptt.plot(flow, on=text)``.


def plot_on(flow: Flow | Watched, on: Any, at: int | None, lane: int) -> Figure:
    """See :func:`bptt.plot`."""
    symbols = _symbols(on)
    lane = whole("lane", lane, 0, "count lanes from 0")
    if not isinstance(flow, Flow):
        raise ArgumentError(
            "the flow itself, to draw on a text",
            type(flow).__name__,
            "pass what bptt.watch handed out",
        )
    two = [m.name for m in flow.modules if m.name.endswith("_reverse")]
    if two:
        raise ArgumentError(
            "recurrences of one direction", f"{two[0]}, which reads in the other",
            "call bptt.probes.connectivity, which differentiates the whole model",
        )  # fmt: skip
    graded = flow.last.together is not None
    norms, at = (_by_states if graded else _by_inputs)(flow, len(symbols), at, lane)
    by = ", by the states" if graded else ""
    return draw(symbols, shades(norms), f"What the loss at step {at} depends on{by}", at)


def _by_inputs(flow: Flow, count: int, at: int | None, lane: int) -> tuple[Tensor, int]:
    kept = flow._kept.get(flow.spectrum.name)
    if kept is None:
        raise ArgumentError(
            "a step whose trajectory was kept", "one of a watched run (every=2 or more)",
            "watch one step (every=1), or call bptt.probes.connectivity",
        )  # fmt: skip
    one = kept.recurrence
    live = one.steps if one.live is None or lane >= one.lanes else int(one.live[:, lane].sum())
    _check(count, live, lane, one.lanes)
    asked = torch.stack([d[:live, lane].abs().sum(-1) for d in kept.direct]).sum(0) > 0
    at = _asked(asked, at, lane)
    return input_gradients(one, kept.direct, lane, at), at


def _by_states(flow: Flow, count: int, at: int | None, lane: int) -> tuple[Tensor, int]:
    """Of a graded pass: the graph of any loop has the states that a step left, not what it read."""
    table = flow._connected
    if isinstance(table, str):
        raise ArgumentError(
            "a step of which it was kept what each loss depends on", table,
            "watch one step of one direction, without every=, at= and cap=, or call "
            "bptt.probes.connectivity",
        )  # fmt: skip
    _check(count, len(table), lane, table.shape[2])
    own = table[:, :, lane].sqrt()
    at = _asked(own.diagonal() > 0, at, lane)
    return own[at, : at + 1], at


def _check(count: int, steps: int, lane: int, lanes: int) -> None:
    if lane >= lanes:
        raise ArgumentError(f"a lane from 0 to {lanes - 1}", str(lane), "pick one that was kept")
    if count != steps:
        raise ArgumentError(
            f"a text of {steps} symbols, one for each step of lane {lane}", f"{count}",
            "pass the text that this lane was given, or a list of its tokens",
        )  # fmt: skip


def _asked(asked: Tensor, at: int | None, lane: int) -> int:
    """The step whose loss is pictured: one that a loss asks for."""
    if at is None:
        if not bool(asked.any()):
            raise ArgumentError("a loss on this lane", f"none on lane {lane}", "pick another lane")
        return int(asked.nonzero()[-1])
    at = whole("at", at, 0, "count steps from 0")
    if at >= len(asked):
        raise ArgumentError(
            f"a step from 0 to {len(asked) - 1}", str(at), "pick another prediction"
        )
    if not bool(asked[at]):
        raise ArgumentError(
            "a step whose state a loss asks for", f"step {at}, which none does",
            "pick another one, or leave at out for the last that counts",
        )  # fmt: skip
    return at


def _symbols(on: Any) -> list[str]:
    parts = list(on) if isinstance(on, (str, list, tuple)) else None
    if parts is None or not all(isinstance(p, str) for p in parts):
        raise ArgumentError(
            "on=: a text, or a list of its tokens", type(on).__name__, "pass the text that was read"
        )
    return parts


def draw(
    symbols: Sequence[str], values: Sequence[float], title: str, at: int | None = None
) -> Figure:
    """Symbols on their shades as a figure, a cell each, at most 64 to a line.

    Args:
        at: the step to outline.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    placed: list[tuple[int, int, list[str]]] = []
    row = column = 0
    known = _glyphs()
    for symbol in symbols:
        shown = _cells(sign(symbol), known)
        if column + len(shown) > COLUMNS and column:
            row, column = row + 1, 0
        placed.append((row, column, shown))
        column += len(shown)
        if symbol.endswith("\n"):
            row, column = row + 1, 0
    rows = max((p[0] for p in placed), default=0) + 1
    height = 0.4 + 0.2 * (rows + 2)
    with style() as figure:
        # Letters on shades need a paper that is known: this figure's is white.
        made = figure(figsize=(5.9, height), facecolor="white")
        axes = made.add_axes((0.02, 0.02, 0.96, 1 - 0.4 / height))
        axes.set(xlim=(-0.2, COLUMNS + 0.2), ylim=(rows + 1.6, -0.2))
        axes.axis("off")
        made.text(0.02, 1 - 0.08 / height, title, va="top", fontsize=10.5, color=LETTERS)
        for place, (row, column, shown) in enumerate(placed):
            value = values[place] if place < len(values) else 0.0
            if value:
                color = (*to_rgb(BLUE if value > 0 else ORANGE), STRONGEST * abs(value))
                axes.add_patch(
                    Rectangle((column, row), len(shown), 1, facecolor=color, linewidth=0)
                )
            if place == at:
                axes.add_patch(
                    Rectangle(
                        (column, row), len(shown), 1, fill=False, edgecolor=ORANGE, linewidth=1.6
                    )
                )
            for i, letter in enumerate(shown):
                axes.text(
                    column + i + 0.5, row + 0.54, letter, ha="center", va="center", fontsize=9.5,
                    family="DejaVu Sans Mono", parse_math=False, color=LETTERS,
                )  # fmt: skip
        _legend(axes, rows + 0.6)
    return made


def _cells(text: str, known: set[int]) -> list[str]:
    """A letter a cell; an accent by itself goes with the letter before it."""
    shown = (c if ord(c) in known else c.encode("unicode_escape").decode() for c in text)
    found: list[str] = []
    for letter in "".join(shown):
        if found and unicodedata.combining(letter):
            found[-1] += letter
        else:
            found.append(letter)
    return found


def _legend(axes: Any, row: float) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    for i in range(8):
        color = (*to_rgb(BLUE), STRONGEST * (i + 1) / 8)
        axes.add_patch(Rectangle((i, row), 1, 0.7, facecolor=color, linewidth=0))
    said = (
        f"{percent(LEAST)} of the largest gradient by a step’s input, to the largest (logarithmic)"
    )
    axes.text(8.6, row + 0.36, said, va="center", fontsize=8.5, color=LETTERS)


def _glyphs() -> set[int]:
    """What matplotlib's own monospaced font can draw."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans Mono"))
    return set(font.get_charmap())
