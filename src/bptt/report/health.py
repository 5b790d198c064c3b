"""What a run's own numbers say about its settings: clipping, and k beside the horizon."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bptt.report.advice import TOO_LONG, Advice
from bptt.report.course import number
from bptt.training.settings import Settings

# The later half of a run: what happens while a start settles is no fault of the settings.
SETTLED = 0.5
# Share of updates that were clipped. Always at the threshold, the clip and not the rate sets the step.
ALWAYS = 0.9
# A pre-clip norm so small beside the threshold that no update of it was ever near being cut.
NEAR_ZERO = 1e-3
# A horizon within a tenth of the chunk's length is the chunk's, not the gradient's.
FILLED = 0.9


def health(records: Iterable[dict[str, Any]], settings: Settings) -> tuple[Advice, ...]:
    """Every rule that a run's metrics meet, from the later half of its lines.

    Args:
        records: lines of ``metrics.jsonl``.
        settings: of the run.

    Example:
        >>> lines = [{"step": n, "norm": 9.0, "clipped": 1.0} for n in range(20)]
        >>> [advice.rule for advice in health(lines, Settings())]
        ['always clipped']
    """
    lines = list(records)
    lines = lines[int(len(lines) * SETTLED) :]
    trained = [line for line in lines if number(line.get("norm")) and number(line.get("clipped"))]
    if not trained:
        return ()
    return (*_clipping(trained, settings.clip), *_truncation(trained, settings))


def _clipping(lines: list[dict[str, Any]], clip: object) -> Iterable[Advice]:
    threshold = clip if isinstance(clip, (int, float)) else 1.0
    norm = sum(line["norm"] for line in lines) / len(lines)
    clipped = sum(line["clipped"] for line in lines) / len(lines)
    if clipped > ALWAYS:
        yield Advice(
            "always clipped",
            f"{clipped:.0%} of the updates were clipped, at a mean norm of {norm:.2g}: the threshold, "
            "not the rate, sets the step. Lower --lr, raise --clip, or try another --init.",
        )
    if norm < NEAR_ZERO * threshold:
        yield Advice(
            "norm near zero",
            f"The gradient's mean norm is {norm:.2g}: it vanishes, or there is nothing left to learn. "
            "bptt diagnose RUN says which.",
        )


def _truncation(lines: list[dict[str, Any]], settings: Settings) -> Iterable[Advice]:
    measured = [line for line in lines if number(line.get("horizon")) and _spectrum(line)]
    if not measured or settings.gradient != "truncated":
        return
    last = measured[-1]
    spectrum = _spectrum(last)
    if last["horizon"] >= FILLED * settings.k1:
        yield Advice(
            "k may be too short",
            f"The gradient reaches {last['horizon']} steps, all of k = {settings.k1}: it may go on "
            "beyond. bptt diagnose RUN measures it on longer sequences.",
        )
        return
    near = settings.k1
    for k, share in reversed(spectrum):
        if share is None or share > 0.01:
            break
        near = int(k)
    if settings.k1 > TOO_LONG * near:
        yield Advice(
            "k too long",
            f"Beyond {near} steps only 1 % of the gradient is left, and k = {settings.k1}: a shorter k "
            "gives nearly the same gradient and more updates in the same text.",
        )


def _spectrum(line: dict[str, Any]) -> list[tuple[float, float | None]]:
    """(k, bias) of a line, ascending; empty where it carries none, or a broken one."""
    spectrum = line.get("spectrum")
    if not isinstance(spectrum, dict):
        return []
    grid, bias = spectrum.get("truncations"), spectrum.get("bias")
    if not isinstance(grid, (list, tuple)) or not isinstance(bias, (list, tuple)):
        return []
    if len(grid) != len(bias) or not all(map(number, grid)):
        return []
    return list(zip(grid, bias, strict=True)) if all(b is None or number(b) for b in bias) else []
