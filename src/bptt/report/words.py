"""A paragraph of plain words for every picture, with the measured numbers in it."""

from __future__ import annotations

import math
from typing import cast

from bptt.probes import Capacity, JacobianProducts, LagSpectrum, Saturation
from bptt.probes.diagnose import ModuleDiagnosis, Trial
from bptt.probes.verdict import rank, spread

# Numbers as a reader likes them.


def has_gradient(spectrum: LagSpectrum) -> bool:
    """Whether there is a gradient to measure a truncation by: neither nothing, nor not finite.

    Without one no truncation has a bias, and a horizon as long as the sequence says nothing of it.
    """
    return 0 < spectrum.gradient_norm < math.inf


def percent(value: float) -> str:
    """A share with two significant digits, and no more than two after the point.

    Example:
        >>> percent(0.1234), percent(0.0512), percent(0.00012), percent(0.0)
        ('12 %', '5.1 %', '0.01 %', '0 %')
    """
    if not math.isfinite(value):
        return "-"
    size = 100 * abs(value)
    if size == 0 or size >= 9.95:
        return f"{100 * value:.0f} %"
    return f"{100 * value:.1f} %" if size >= 0.995 else f"{100 * value:.2f} %"


def thousands(number: float) -> str:
    """A count with thin spaces between its thousands.

    Example:
        >>> thousands(12345) == "12\u2009345"
        True
    """
    return f"{number:,.0f}".replace(",", "\u2009")


# The remedies that were tried, as rows and as a sentence.


def tried_title(trials: tuple[Trial, ...]) -> str:
    """What was done.

    Example:
        >>> tried_title((Trial("as it is", "", 90, 2.0, 1.5, 12, 20, 0.8, "vanishing", starts=3),))
        'Tried on this model: fresh copies, 90 updates each from 3 starts'
    """
    starts = trials[0].starts
    from_starts = f" from {starts} starts" if starts > 1 else ""
    return f"Tried on this model: fresh copies, {trials[0].updates} updates each{from_starts}"


def tried_rows(trials: tuple[Trial, ...]) -> tuple[tuple[str, ...], ...]:
    """The table, its head first. No verdict: that is on the model as it was trained, and there is one."""
    head = ("remedy", "switch", "loss", "horizon 5 %", "1 %", "time", "note")
    first = trials[0].seconds / max(1, trials[0].updates)
    rows = []
    for t in trials:
        pace = t.seconds / max(1, t.updates) / first if first > 0 else math.nan
        reach = _steps(t.horizon)
        if t.low is not None and t.low != t.high:
            reach += f" ({t.low} to {t.high})"
        rows.append(
            (
                t.name,
                t.switch,
                spread(t) if math.isfinite(t.loss) else "-",
                reach,
                _steps(t.near),
                _number(pace, ".2f"),
                t.note,
            )
        )
    return (head, *rows)


def on_tried(trials: tuple[Trial, ...]) -> str:
    """What the trials tell: which remedy the task shows a use for, or why they cannot be ranked.

    Example:
        >>> own = Trial("as it is", "", 90, 2.0, 1.5, 12, 20, 0.8, "vanishing", starts=3, spread=0.01)
        >>> print(on_tried((own, Trial("GRU", "--cell gru", 90, 2.5, 1.4, 30, 60, 0.9, "healthy"))))
        Not enough updates to rank the remedies: 90 each, and 100 are needed.
    """
    ranking = rank(trials)
    if not ranking.enough:
        return ranking.said
    return f"{ranking.said} Who wins after hours is a question for bptt compare."


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _steps(value: int | None) -> str:
    return "-" if value is None else str(value)


# A factor per step this near 1 is tenfold, or a tenth, only after two thousand steps: an orthogonal
# matrix has it to rounding, on either side.
NEAR = 1e-3


def on_lags(found: ModuleDiagnosis) -> str:
    """What the gradient by lag says."""
    spectrum = found.watched.spectrum
    return (
        "How large the gradient is after so many steps back through the recurrence. What happened "
        f"more than {spectrum.horizon()} steps ago changes the update by less than 5 %, more than "
        f"{spectrum.horizon(0.01)} steps ago by less than 1 %. A straight fall on this scale is a "
        f"constant factor per step: here {found.watched.decay:.3g}."
    )


def on_bias(found: ModuleDiagnosis, k: int | None) -> str:
    """What the bias against K says."""
    spectrum = found.watched.spectrum
    text = (
        "How far the gradient truncated to K steps is from the full one, as a share of it: "
        f"{how_exact(spectrum)}, for every loss counted K steps back."
    )
    if k is not None:
        text += (
            f" At your k = {k} it is {percent(spectrum.bias_of(k))}. Training by chunks of k steps cuts "
            "harder than that: a loss near the start of a chunk reaches only to that start."
        )
    return text


def how_exact(spectrum: LagSpectrum) -> str:
    """Whether the biases are those of the batch, or of a sample of it."""
    kept, of = spectrum.lanes
    if kept == of and spectrum.sources >= 1:
        return "exact on this batch"
    sample = f"measured on {kept} of {of} lanes"
    if spectrum.sources < 1:
        sample += f" and on {percent(spectrum.sources)} of the loss's steps"
    return f"{sample}, and an estimate for this batch"


def on_cosine(found: ModuleDiagnosis) -> str:
    """What the cosine against K says."""
    cosine = found.watched.spectrum.measured_cosine
    if bool((cosine < 0).any()):
        return (
            "Where the curve is below zero, the truncated gradient leads uphill: short truncation does "
            "not learn slowly here, it learns the wrong thing."
        )
    return (
        "1 is the same direction as the full gradient, 0 a right angle. It never falls below "
        f"{float(cosine.min()):.2f} here: truncation shortens the step or turns it, and does not "
        "reverse it."
    )


def on_products(found: ModuleDiagnosis) -> str:
    """What the products of Jacobians say."""
    jacobians = cast(JacobianProducts, found.jacobians)
    text = (
        "What the recurrence alone does to a gradient, whatever the loss: the gain of the direction that "
        "survives best, and of the middle one; the band is the range over places in the text. Below "
        "1 it shrinks."
    )
    if jacobians.weight_norm is not None:
        text += _on_weight(jacobians.weight_norm, jacobians)
    return text


def _on_weight(norm: float, jacobians: JacobianProducts) -> str:
    """What follows from the recurrent matrix alone: a bound, and so nothing where it is above 1."""
    if norm < 1 - NEAR:
        return (
            f" The recurrent matrix has spectral norm {norm:.3f}, below 1: every step back shrinks the "
            "gradient, and it must vanish."
        )
    if norm <= 1 + NEAR:
        return (
            f" The recurrent matrix has spectral norm {norm:.3f}, about 1: it lets the gradient neither "
            "grow nor, in its best direction, shrink; what shrinks is the slope of the units."
        )
    return (
        f" The recurrent matrix has spectral radius {jacobians.weight_radius:.2f} and spectral norm "
        f"{norm:.2f}: the dotted bound follows from the norm, and the real products may lie far below it."
    )


def on_spectrum(found: ModuleDiagnosis) -> str:
    """What the singular values and the exponents say."""
    text = (
        "Blue: by how much one step stretches or shrinks each direction. A direction near 1 is carried "
        "on. "
    )
    exponents = found.lyapunov
    if exponents is not None:
        first = float(exponents.exponents[0])
        text += (
            "Orange: the factor per step in the long run; the largest, "
            f"e^λ = {math.exp(first):.3f}, is {_on_exponent(first)}"
        )
    return text


def _on_exponent(first: float) -> str:
    if abs(first) <= NEAR:
        return "about 1: the slowest memory neither fades nor grows."
    if first > 0:
        return "above 1: nearby states drift apart, and a gradient explodes."
    steps = max(1, round(math.log(0.1) / first))
    return f"below 1: the slowest memory fades to a tenth in {steps:,} steps."


def on_gates(found: ModuleDiagnosis) -> str:
    """What the gates' histograms say."""
    gates = cast(Saturation, found.watched.saturation)
    return (
        "Where the activations stand within their range, over all steps, lanes and units. Orange: within "
        "a twentieth of either end, where a sigmoid or tanh passes a fifth of the gradient or less. "
        f"Of the values that carry the state {percent(gates.share)} are there. Gates may saturate, which "
        "is how they keep or drop; a plain state that saturates blocks."
    )


def on_memory(found: ModuleDiagnosis) -> str:
    """What the capacity says."""
    memory = cast(Capacity, found.capacity)
    held, horizon = memory.total, found.watched.horizon
    text = (
        "How much of the input of so many steps ago a linear map reads back from the state: what the "
        "network holds, whether or not the loss asks for it. In all it holds "
        f"{held:.1f} inputs' worth."
    )
    if horizon > 2 * held:
        text += " The gradient reaches back farther than that."
    elif held > 2 * horizon:
        text += " It holds more than the gradient reaches back for."
    return text
