"""The remedies that were tried, as rows and as a sentence."""

from __future__ import annotations

import math

from bptt.trials import Trial

# A horizon that differs by less than this factor may differ by the batch alone.
FARTHER = 1.25


def tried_title(trials: tuple[Trial, ...]) -> str:
    """What was done.

    Example:
        >>> tried_title((Trial("as it is", "", 90, 2.0, 1.5, 12, 20, 0.8, "vanishing"),))
        'Tried on this model: fresh copies, 90 updates each'
    """
    return f"Tried on this model: fresh copies, {trials[0].updates} updates each"


def tried_rows(trials: tuple[Trial, ...]) -> tuple[tuple[str, ...], ...]:
    """The table, its head first."""
    head = ("remedy", "switch", "loss", "horizon 5 %", "1 %", "a step", "time", "verdict")
    first = trials[0].seconds / max(1, trials[0].updates)
    rows = []
    for t in trials:
        pace = t.seconds / max(1, t.updates) / first if first > 0 else math.nan
        rows.append(
            (
                t.name,
                t.switch,
                _number(t.loss, ".4g"),
                _steps(t.horizon),
                _steps(t.near),
                _number(t.decay, ".3f"),
                _number(pace, ".2f"),
                t.verdict if not t.note else f"{t.verdict} ({t.note})".strip(),
            )
        )
    return (head, *rows)


def on_tried(trials: tuple[Trial, ...]) -> str:
    """Which remedy reaches farthest and which learned most, in a sentence or two.

    Example:
        >>> own = Trial("as it is", "", 90, 2.0, 1.5, 12, 20, 0.8, "vanishing")
        >>> print(on_tried((own, Trial("GRU", "--cell gru", 90, 2.5, 1.4, 30, 60, 0.9, "healthy"))))
        Farthest back: GRU, 30 steps against 12 as it is. Lowest loss: GRU, 1.4 against 1.5. A few \
seconds show what a remedy does to the gradient, not who wins in the end.
    """
    own, *others = trials
    said = []
    known = [(t.horizon, t.name) for t in others if t.horizon is not None]
    if known and own.horizon is not None:
        farthest, name = max(known, key=lambda pair: pair[0])
        if farthest > FARTHER * own.horizon:
            said.append(f"Farthest back: {name}, {farthest} steps against {own.horizon} as it is.")
        else:
            said.append(f"None reaches clearly farther than the {own.horizon} steps as it is.")
    finite = [t for t in trials if math.isfinite(t.loss)]
    if finite:
        least = min(finite, key=lambda t: t.loss)
        if least is own:
            said.append(f"None has a lower loss than {own.loss:.4g} as it is.")
        else:
            said.append(f"Lowest loss: {least.name}, {least.loss:.4g} against {own.loss:.4g}.")
    said.append("A few seconds show what a remedy does to the gradient, not who wins in the end.")
    return " ".join(said)


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _steps(value: int | None) -> str:
    return "-" if value is None else str(value)
