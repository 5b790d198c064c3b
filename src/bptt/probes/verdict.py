"""One verdict on how far back a model learns: its words and rules, how sure it is, and its reason.

Whoever speaks of a verdict asks here: what was measured of one batch or of several goes in, one word with
its numbers comes out. The rules look at what share of the gradient comes from how far back, beside what
the run truncates to, and beside what the task can use where remedies were tried. No rule looks at a
factor per step: a line through a fall that is not straight says one thing of its head and another of its
tail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from bptt.errors import ArgumentError, optional, real
from bptt.probes.spectrum import LagSpectrum

# A gradient that has grown tenfold on its way back drowns what the nearer steps say.
GROWTH = 10.0
# A truncation that leaves out a fifth turns an update by 11 degrees at most; what the gradient of one
# batch differs by from that of the next is more.
CUTS = 0.2
# A gradient that ends within a quarter of the steps that it may go back wastes three quarters of work.
QUARTER = 4
# And one that reaches 32 steps is never called vanishing, however long the sequence: that is as far as
# the truncations in common use go (35 in Zaremba et al., 2014).
REACHES = 32
# A model that has not learned yet scores a little worse than a guess.
WORSE = 1.05
# A horizon that differs by less than this factor may differ by the batch alone.
FARTHER = 1.25
# Before so many updates the order of two starts is that of their first steps.
ENOUGH = 100
# A loss is lower where it is so by this many standard errors: three starts give few degrees of freedom.
ERRORS = 3.0


@dataclass(frozen=True)
class Kind:
    """One of the words.

    Attributes:
        number: where only numbers are taken; the farther from 0, the worse.
        rule: when it is said. The first rule that is met holds.
        advice: what to do.
    """

    number: float
    rule: str
    advice: str


VERDICTS: dict[str, Kind] = {
    "diverged": Kind(
        2.0,
        "The training loss is not finite, or more than 5 % above that of a model that has learned "
        "nothing (of a text with V symbols: log V).",
        "Train anew with a third of the rate.",
    ),
    "no gradient": Kind(
        -2.0,
        "The gradient of the recurrent parameters is 0.",
        "Look for units that are all shut (a ReLU that is 0 everywhere), a detach() on the way, or a "
        "loss that does not ask for the output.",
    ),
    "exploding": Kind(
        1.0,
        f"The gradient is not finite, or grows {GROWTH:g}-fold on its way back.",
        "Clip its norm, start the recurrent matrix orthogonal, or lower the rate.",
    ),
    "cut short": Kind(
        -0.5,
        f"More than {100 * CUTS:.0f} % of the gradient comes from beyond the k steps that it is "
        "truncated to; or a longer k was tried, reached farther, and the loss fell.",
        "Train with a longer k.",
    ),
    "vanishing": Kind(
        -1.0,
        f"All but 5 % of the gradient comes from the nearest quarter of the steps that it may go back, "
        f"and from {REACHES} at most; or a remedy was tried, reached farther, and the loss fell.",
        "Try whether a remedy reaches farther and lowers the loss: that tells whether the task can use "
        "more.",
    ),
    "healthy": Kind(
        0.0,
        "None of these; or remedies were tried, and none that reached farther lowered the loss.",
        "Nothing has to change. Train on; with a shorter k, where that gives nearly the same gradient.",
    ),
}
WORDS = tuple(VERDICTS)


@dataclass(frozen=True)
class Verdict:
    """What :func:`judge` found: the word and the numbers behind it.

    The numbers are those of one batch, the middle one by its horizon; ``low``, ``high`` and ``agree`` say
    what the others make of it.

    Attributes:
        word: one of :data:`VERDICTS`.
        reason: why, in a sentence or two.
        horizon: steps after which truncation costs at most 5 %; ``near``: at most 1 %.
        low, high: the smallest and the largest horizon among the batches.
        steps: T of the measured sequences.
        k: steps that the gradient is truncated to; None if it is not, or not known.
        left_out: share of the gradient that k leaves out; None without k.
        batches: how many were measured.
        agree: how many of them, each judged alone, come to the same word.
        settled: whether trials decided: whether the task can use more than the gradient reaches.
        switch: of the remedy that reached farther and lowered the loss; empty if none did.
    """

    word: str
    reason: str
    horizon: int
    near: int
    low: int
    high: int
    steps: int
    k: int | None
    left_out: float | None
    batches: int
    agree: int
    settled: bool = False
    switch: str = ""

    @property
    def number(self) -> float:
        """The word where only numbers are taken."""
        return VERDICTS[self.word].number

    @property
    def sure(self) -> str:
        """How sure it is, in a sentence."""
        if self.batches == 1:
            return "One batch was measured: how far others differ is not known."
        spread = "" if self.low == self.high else f"; horizons from {self.low} to {self.high} steps"
        if self.settled or self.word == "diverged":
            return f"{self.batches} batches were measured{spread}."
        return f"{self.agree} of {self.batches} batches, each judged alone, say so{spread}."

    def __str__(self) -> str:
        return f"{self.word}. {self.reason} {self.sure}"

    def as_dict(self) -> dict[str, Any]:
        """Of numbers and words alone, for JSON."""
        return asdict(self) | {"sure": self.sure}

    @classmethod
    def read(cls, found: object) -> Verdict | None:
        """Out of what :meth:`as_dict` gave; None where it is none of those."""
        if not isinstance(found, Mapping):
            return None
        values = {f.name: found.get(f.name, f.default) for f in fields(cls)}
        whole = ("horizon", "near", "low", "high", "steps", "batches", "agree")
        k, left, settled = values["k"], values["left_out"], values["settled"]
        good = (
            values["word"] in WORDS
            and all(isinstance(values[name], str) for name in ("word", "reason", "switch"))
            and all(type(values[name]) is int and values[name] >= 0 for name in whole)
            and (k is None or (type(k) is int and k > 0))
            and (left is None or (type(left) in (int, float) and 0 <= left < math.inf))
            and type(settled) is bool
        )
        return cls(**values) if good else None


def judge(
    spectra: Sequence[LagSpectrum],
    *,
    k: int | None = None,
    loss: float | None = None,
    guess: float | None = None,
    trials: Sequence[Any] = (),
) -> Verdict:
    """The verdict on a model, from its gradient by lag on a batch or several.

    Args:
        spectra: one of each batch, of the same module, or of all that are chained on one clock.
        k: steps that the gradient is truncated to in training; None for all of the sequence.
        loss: of training, at its end.
        guess: the loss of a model that has learned nothing: above it, training has diverged.
        trials: remedies tried on the model (:class:`bptt.probes.diagnose.Trial`), itself first.

    Raises:
        ArgumentError: no spectrum, or a number out of range.

    Example:
        >>> import torch
        >>> from bptt.probes import lag_spectrum
        >>> from bptt.recurrence import trace
        >>> rnn = torch.nn.RNN(3, 5)
        >>> _ = torch.nn.init.zeros_(rnn.weight_hh_l0)
        >>> (one,) = trace(rnn, torch.randn(7, 2, 3))
        >>> found = judge([lag_spectrum(one, (torch.ones(7, 2, 5),))])
        >>> found.word, found.horizon
        ('vanishing', 1)
        >>> judge([lag_spectrum(one, (torch.ones(7, 2, 5),))], loss=9.0, guess=3.0).word
        'diverged'
    """
    k = optional("k", k)
    loss = None if loss is None else real("loss", loss)
    guess = None if guess is None else real("guess", guess)
    if not spectra:
        raise ArgumentError("a spectrum to judge", "none", "measure a batch first: bptt.watch")
    one = spectra[middle(spectra)]
    word, reason = _of_one(one, k)
    alone = word
    settled, switch = False, ""
    if loss is not None and not (math.isfinite(loss) and (guess is None or loss <= WORSE * guess)):
        word, reason = "diverged", _on_loss(loss, guess)
    elif trials and word in ("healthy", "vanishing", "cut short"):
        ranking = rank(trials)
        reason += f" {ranking.said}"
        settled = ranking.enough
        if ranking.best is not None:
            word, switch = "cut short" if ranking.best.longer else "vanishing", ranking.best.switch
        elif settled:
            word = "healthy"
    horizons = [s.horizon() for s in spectra]
    agree = sum(_of_one(s, k)[0] == alone for s in spectra)
    left = None if k is None else left_out(one, k)
    return Verdict(
        word, reason, one.horizon(), one.horizon(0.01), min(horizons), max(horizons), one.steps, k,
        left if left is None or math.isfinite(left) else None, len(spectra), agree, settled, switch,
    )  # fmt: skip


def middle(spectra: Sequence[LagSpectrum]) -> int:
    """Which of several batches speaks for them: the middle one by its horizon.

    One whose gradient is not finite comes before all: it is what an update breaks on.
    """
    broken = [i for i, s in enumerate(spectra) if not is_finite(s)]
    if broken:
        return broken[0]
    order = sorted(range(len(spectra)), key=lambda i: (spectra[i].horizon(), i))
    return order[(len(order) - 1) // 2]


def verdict(spectrum: LagSpectrum, k: int | None = None) -> str:
    """The word for one batch alone: that of :func:`judge`.

    Example:
        >>> import torch
        >>> from bptt.probes import lag_spectrum
        >>> from bptt.recurrence import trace
        >>> (one,) = trace(torch.nn.RNN(3, 5), torch.randn(7, 2, 3))
        >>> verdict(lag_spectrum(one, (torch.zeros(7, 2, 5),)))
        'no gradient'
    """
    return judge([spectrum], k=k).word


def is_finite(spectrum: LagSpectrum) -> bool:
    """Whether all of its gradient is."""
    return math.isfinite(spectrum.gradient_norm) and bool(spectrum.norms.isfinite().all())


def growth(spectrum: LagSpectrum) -> float:
    """The largest product of the factors on the way back: 1 if the gradient never grows."""
    largest = level = 1.0
    for factor in spectrum.factors.tolist():
        level *= factor
        largest = max(largest, level)
    return largest


def left_out(spectrum: LagSpectrum, k: int) -> float:
    """The share of the gradient that a truncation to k leaves out, as near as it was measured."""
    if k >= spectrum.steps:
        return 0.0
    if bool((spectrum.truncations == k).any()):
        return spectrum.bias_of(k)
    return float(spectrum.bias[min(k, len(spectrum.bias)) - 1])


def _of_one(spectrum: LagSpectrum, k: int | None) -> tuple[str, str]:
    """The word for one batch, and why."""
    if not is_finite(spectrum):
        return "exploding", "The gradient is not finite."
    if spectrum.gradient_norm == 0:
        return "no gradient", "No gradient reaches the recurrent module: its norm is 0."
    largest = growth(spectrum)
    if largest >= GROWTH:
        return "exploding", (
            f"On its way back the gradient grows to {largest:.3g} times its size (limit {GROWTH:g})."
        )
    horizon, steps = spectrum.horizon(), spectrum.steps
    cut = 0.0 if k is None else left_out(spectrum, k)
    if cut > CUTS:
        return "cut short", (
            f"{100 * cut:.2g} % of the gradient comes from more than k = {k} steps back, and is cut off "
            f"(limit {100 * CUTS:.0f} %)."
        )
    given = steps if k is None else min(k, steps)
    may = f"the {given} steps" if k is None or k > steps else f"the k = {k} steps"
    if horizon <= min(given / QUARTER, REACHES):
        return "vanishing", (
            f"All but 5 % of the gradient comes from the last {horizon} of {may} that it may go back."
        )
    if horizon >= steps:
        reason = f"The gradient reaches back over all {steps} steps that were measured."
    else:
        reason = f"All but 5 % of the gradient comes from the last {horizon} of {steps} steps."
    if k is not None and k < steps:
        share = "less than 0.1" if cut < 1e-3 else f"{100 * cut:.2g}"
        reason = f"{reason[:-1]}; k = {k} leaves {share} % of it out."
    return "healthy", reason


def _on_loss(loss: float, guess: float | None) -> str:
    if guess is None or not math.isfinite(loss):
        return "The training loss is not a finite number."
    return (
        f"The training loss is {loss:.4g}; a model that has learned nothing has {guess:.4g}: the updates "
        "are too large."
    )


# Remedies side by side: which of them shows that the task can use more than the gradient reaches.


@dataclass(frozen=True)
class Ranking:
    """What trials tell.

    Attributes:
        enough: whether they may be ranked.
        best: the remedy that reached farther and lowered the loss, the lowest of several; or None.
        said: that in a sentence, with updates and spread; or what is missing.
    """

    enough: bool
    best: Any
    said: str


def rank(trials: Sequence[Any]) -> Ranking:
    """Compare remedies with the model as it is, where that can be told.

    A remedy shows a use where it reaches farther (by a quarter at least) and its loss is lower by three
    standard errors over the starts. Fewer than 100 updates, or one start each, rank nothing.

    Args:
        trials: :class:`bptt.probes.diagnose.Trial`, the model as it is first.
    """
    own, *others = trials
    if own.starts < 2:
        return Ranking(False, None, "One start each was tried: without a spread there is no rank.")
    if own.updates < ENOUGH:
        return Ranking(
            False, None,
            f"Not enough updates to rank the remedies: {own.updates} each, and {ENOUGH} are needed.",
        )  # fmt: skip
    made = f"{own.updates} updates and {own.starts} starts each"
    good = [t for t in others if t.updates >= ENOUGH and math.isfinite(t.loss) and t.horizon]
    useful = [t for t in good if is_lower(t, own) and t.horizon > FARTHER * (own.horizon or 1)]
    if not useful or not own.horizon:
        return Ranking(
            True, None,
            f"None of {len(good)} remedies reached farther and lowered the loss ({made}): the task shows "
            "no use for more.",
        )  # fmt: skip
    best = min(useful, key=lambda t: t.loss)
    return Ranking(
        True, best,
        f"The task can use more: with {best.name} the gradient reached {best.horizon} steps in place of "
        f"{own.horizon}, and the loss fell from {spread(own)} to {spread(best)} ({made}).",
    )  # fmt: skip


def is_lower(one: Any, other: Any) -> bool:
    """Whether a trial's loss is lower than another's by more than chance."""
    return bool(other.loss - one.loss > ERRORS * math.hypot(one.spread, other.spread))


def spread(trial: Any) -> str:
    """A loss with its standard error over the starts."""
    if not math.isfinite(trial.spread):
        return f"{trial.loss:.4g}"
    return f"{trial.loss:.4g} ± {trial.spread:.2g}"
