"""One training step taken apart, everything the probes can say of it: :func:`diagnose`.

Limits: the Jacobian's measurements are made where all states side by side have at most 1024 numbers,
memory where the input is a vector. What could not be measured is named in ``notes`` with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import torch
from torch import Tensor, nn

from bptt.errors import ArgumentError, BpttError, optional
from bptt.ops.device import random_kept
from bptt.probes import (
    Capacity,
    JacobianProducts,
    Lyapunov,
    capacity,
    default_truncations,
    jacobian_products,
    lyapunov_spectrum,
)
from bptt.probes.flow import explain, table
from bptt.probes.jacobians import carried
from bptt.probes.on_text import Reading
from bptt.probes.spectrum import LagSpectrum
from bptt.probes.verdict import Verdict, judge, middle
from bptt.probes.watch import Flow, Watched, watch
from bptt.recurrence import Recurrence

# A singular value decomposition takes S³: beyond this a report would take minutes.
STATES = 1024
JACOBIAN_LAGS = 32
# Products that end at so many places; at fewer where one takes long: a decomposition takes S³.
JACOBIAN_ENDS = 4
LARGE = 128
EXPONENTS = 24
CAPACITY_LAGS = 32
# Truncations are asked for up to here; those beyond the sequence's length fall away.
LONGEST = 1 << 20
# What stands for all modules that are chained.
TOGETHER = "all together"


@dataclass(frozen=True, eq=False)
class ModuleDiagnosis:
    """What was measured of one recurrent module.

    Attributes:
        watched: its lag spectrum and saturation, as :func:`bptt.watch` gives them.
        jacobians: products along the trajectory, see :mod:`bptt.probes`; None where not measured.
        lyapunov: exponents, likewise.
        capacity: memory of the input, likewise.
        notes: for each of those, why not.
    """

    watched: Watched
    jacobians: JacobianProducts | None
    lyapunov: Lyapunov | None
    capacity: Capacity | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What :func:`diagnose` found.

    Attributes:
        modules: every recurrent module, in the order of their first call; where they are chained, at
            the end all of them together, on one clock.
        loss: of the measured batch; of several, of the middle one.
        k: the truncation that the caller trains with; None if there is none.
        trials: remedies tried on the model; empty if none were.
        reading: a piece of a text as the model reads it, for a language model; None where none was read.
        hands_on: whether the model returned its carry beside its output, so that it can be trained in
            chunks.
        spectra: of ``main``, on every batch that was measured.
        trained: the training loss that a run ended with, NaN where a number that was not finite stopped
            it; None of a model that is no run's.
        guess: the loss of a model that has learned nothing; None where that is not known.
    """

    modules: tuple[ModuleDiagnosis, ...]
    loss: float
    k: int | None = None
    trials: tuple[Trial, ...] = ()
    hands_on: bool = False
    reading: Reading | None = None
    spectra: tuple[LagSpectrum, ...] = ()
    trained: float | None = None
    guess: float | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict on ``main``, over all batches that were measured."""
        trained = None if self.guess is None else self.trained
        spectra = self.spectra or (self.main.watched.spectrum,)
        return judge(spectra, k=self.k, loss=trained, guess=self.guess, trials=self.trials)

    def explain(self) -> str:
        """The verdict in sentences, with the numbers behind it."""
        main = self.main.watched
        return explain(main.spectrum, main.saturation, self.verdict)

    @property
    def main(self) -> ModuleDiagnosis:
        """The module that carries most: the one whose parameters' gradient is the longest.

        One that is not finite comes before any other: it is what has to be looked at.
        """
        last = self.modules[-1]
        if last.watched.name == TOGETHER:
            return last
        return max(self.modules, key=lambda m: m.watched.carries)

    def _repr_html_(self) -> str:
        rows = [(m.watched.name or m.watched.kind, m.watched) for m in self.modules]
        return table(rows) + f"<p>{escape(self.explain())}</p>"


def diagnose(
    model: nn.Module,
    batch: tuple[Any, Any],
    loss: Callable[[Any, Any], Tensor],
    *,
    k: int | None = None,
    lanes: int | None = None,
    others: Sequence[tuple[Any, Any]] = (),
) -> Diagnosis:
    """Run one forward and backward pass and measure everything about it that runs through time.

    Parameters, ``.grad``, random numbers and training mode are afterwards what they were.

    Args:
        model: any module with recurrent layers or cells; see :func:`bptt.watch`.
        batch: ``(inputs, target)``; inputs a tensor, or a tuple of all arguments of the model.
        loss: ``loss(output, target)``, a scalar. From a model that returns ``(output, carry)`` it is
            given the output.
        k: the truncation you train with: its bias is measured and judged. Steps.
        lanes: the most lanes to measure; default all.
        others: further batches: the verdict is taken over all, says how far they differ, and everything
            else of the gradient is of the one whose horizon is in the middle.

    Returns:
        :class:`Diagnosis`, without trials; draw it with :func:`bptt.report.write_report`, or print
        it with :func:`bptt.report.show`.

    Raises:
        ArgumentError: the batch is no pair, k is out of range, or nothing in the model is recurrent.
        WatchError: the loss does not depend on a recurrent module.

    Cost: for each module that of :func:`bptt.probes.lag_spectrum`, and some seconds for the products
    of Jacobians of 512 states; for each further batch that of the first.

    Example:
        >>> import torch
        >>> model = torch.nn.GRU(3, 5)
        >>> batch = torch.randn(20, 2, 3), torch.randn(20, 2, 5)
        >>> found = diagnose(model, batch, torch.nn.functional.mse_loss, k=7)
        >>> [m.watched.name for m in found.modules], found.k, model.weight_ih_l0.grad
        ([''], 7, None)
    """
    k = optional("k", k, remedy="pass the steps you truncate to, or leave it out")
    at = _truncations(k)
    steps = [_run(model, one, loss, at, lanes) for one in (batch, *others)]
    mains = [flow.last.main for flow, _, _ in steps]
    same = [m.spectrum for m in mains if m.name == mains[0].name]
    chosen = next(i for i, m in enumerate(mains) if m.spectrum is same[middle(same)])
    flow, value, hands_on = steps[chosen]
    together = flow.last.main if flow.last.together is not None or flow.last.refusal else None
    watched = flow.modules
    if together is not None and len(watched) > 1:  # what is chained is judged as one
        watched = (*watched, replace(together, name=TOGETHER))
    kept = [flow._kept, *(f._kept for f, _, _ in steps if f is not flow)]
    modules = tuple(
        _measure(one, [found[one.name].recurrence for found in kept if one.name in found])
        for one in watched
    )
    return Diagnosis(modules, value, k, hands_on=hands_on, spectra=tuple(same))


def spectra_of(
    model: nn.Module,
    batches: Sequence[tuple[Any, Any]],
    loss: Callable[[Any, Any], Tensor],
    *,
    k: int | None = None,
) -> tuple[LagSpectrum, ...]:
    """The gradient by lag on each of several batches, of what :attr:`Diagnosis.main` would be.

    Args:
        model, loss, k: as :func:`diagnose` takes them.
        batches: ``(inputs, targets)`` each.
    """
    at = _truncations(k)
    mains = [_run(model, one, loss, at, None)[0].last.main for one in batches]
    return tuple(m.spectrum for m in mains if m.name == mains[0].name)


def _truncations(k: int | None) -> list[int]:
    return sorted({*default_truncations(LONGEST), *([] if k is None else [k])})


def _run(
    model: nn.Module, batch: tuple[Any, Any], loss: Callable[[Any, Any], Tensor], at: list[int],
    lanes: int | None,
) -> tuple[Flow, float, bool]:  # fmt: skip
    """One watched step, its loss, and whether the model handed its carry on."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise ArgumentError(
            "a batch (inputs, target)", type(batch).__name__, "pass both as one tuple"
        )
    inputs, target = batch
    with _untouched(model), torch.enable_grad(), watch(model, at=at, lanes=lanes) as flow:
        output = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
        value = loss(output[0] if isinstance(output, tuple) else output, target)
        value.backward()
    hands_on = isinstance(output, tuple) and not isinstance(inputs, tuple)
    return flow, float(value.detach()), hands_on


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    gradients = [(p, p.grad) for p in model.parameters()]
    with random_kept(*(p for p, _ in gradients)):
        for parameter, _ in gradients:
            parameter.grad = None
        try:
            yield
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient


def _measure(watched: Watched, ran: Sequence[Recurrence]) -> ModuleDiagnosis:
    """What runs through time in one module, whatever the loss: along the trajectories of all batches."""
    if not ran:
        note = (
            "Jacobian products, Lyapunov exponents and memory not measured: they need a module that "
            "gets back the state it returned as it was"
        )
        return ModuleDiagnosis(watched, None, None, None, (note,))
    recurrence, notes = ran[0].beside(ran[1:]), []
    T, S = recurrence.steps, sum(carried(recurrence).sizes)

    def attempt(what: str, measure: Callable[[], Any], possible: str = "") -> Any:
        try:
            if possible:
                raise ArgumentError("a smaller module", possible, "probe it by itself")
            return measure()
        except BpttError as error:
            notes.append(f"{what} not measured: {error}")
            return None

    large = f"{S} states" if S > STATES else ""
    lags, ends = min(JACOBIAN_LAGS, T), JACOBIAN_ENDS if S <= LARGE else JACOBIAN_ENDS // 2
    jacobians = attempt(
        "Jacobian products",
        lambda: jacobian_products(recurrence, lags, count=ends),
        large,
    )
    exponents = attempt(
        "Lyapunov exponents",
        lambda: lyapunov_spectrum(recurrence, count=min(S, EXPONENTS), warm_up=T // 8),
        large,
    )
    memory = attempt("memory", lambda: capacity(recurrence, max(1, min(CAPACITY_LAGS, T // 2))))
    return ModuleDiagnosis(watched, jacobians, exponents, memory, tuple(notes))


@dataclass(frozen=True)
class Trial:
    """What a variant came to.

    Attributes:
        name, switch: of the :class:`Variant`.
        updates: made.
        seconds: taken by them.
        loss: on the measured batch afterwards; the mean over the starts.
        horizon: steps, 5 % bias; the middle one of the starts; None if it could not be measured.
        near: steps, 1 % bias.
        decay: factor per step.
        verdict: on the copy that was trained, on the measured batch alone.
        note: why there is no horizon, or why there were fewer updates.
        starts: how many copies were trained, each from a start of its own.
        spread: standard error of the loss over the starts; NaN of one.
        low, high: the smallest and the largest horizon of the starts; None if not measured.
        longer: it is a longer truncation, and nothing else.
    """

    name: str
    switch: str
    updates: int
    seconds: float
    loss: float
    horizon: int | None
    near: int | None
    decay: float
    verdict: str
    note: str = ""
    starts: int = 1
    spread: float = math.nan
    low: int | None = None
    high: int | None = None
    longer: bool = False
