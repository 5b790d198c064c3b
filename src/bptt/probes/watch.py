"""Watch a training step and see how far back it learns: :func:`watch`.

Limits: the recurrences are those of :mod:`bptt.recurrence`. While a step is measured, parts under
``torch.compile`` run as plain PyTorch, so that their hooks are seen: the same mathematics, rounded as
eager code rounds it. Second derivatives through a watched step are not measured.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from bptt.errors import ArgumentError, BpttError, optional, whole
from bptt.probes import lag_spectrum, saturation
from bptt.probes.flow import Flow, Measured, Watched, WatchError, reason, ticks
from bptt.probes.graded_spectrum import Begun, begin, closed_forms
from bptt.recurrence import (
    Call,
    Found,
    Graded,
    Recorder,
    Recurrence,
    layer_gates,
    off_backward,
    on_backward,
)
from bptt.recurrence.cells import Stack
from bptt.recurrence.loops import silent
from bptt.recurrence.step import FunctionStep

__all__ = ["Flow", "Measured", "WatchError", "Watched", "coarse_truncations", "watch"]


class watch:
    """Observe training steps and measure how far back their gradient reaches.

    ``with bptt.watch(model) as flow: criterion(model(x), y).backward()`` finds the recurrent modules
    in ``model``, records their calls, and at the end of the backward pass splits each one's gradient
    by lag (:func:`bptt.probes.lag_spectrum`). Parameters, ``.grad``, random numbers, training mode
    and outputs stay what they would have been. Each backward pass is one step; with gradient
    accumulation, each part of it.

    A module called several times in a step: calls that take over the state of an earlier one go on
    where it ended; others are sequences side by side. Where the graph does not show that the state came
    back as it was and nothing else did, or one module is given what another returned, the backward pass
    is graded by the time of each loss (``bptt.recurrence.graded``), over all lanes. A loop inside one
    ``forward`` is marked with :func:`bptt.tick`.

    Nothing is raised inside the watched code: what a measurement finds wrong is raised as the block ends.

    Args:
        model: any module that holds recurrent layers or cells, wrapped or compiled as it may be.
        every: measure each n-th step, from the first on. With more than 1 the block may hold a whole
            training run: to keep it cheap, ``lanes`` is then 2, ``sources`` at most 32 and ``at``
            a geometric grid, unless given, and lags are followed until those to come carry a hundredth
            of the gradient.
        at, cap, lanes, sources: as :func:`bptt.probes.lag_spectrum` takes them.

    Returns:
        on entering, a :class:`Flow`.

    Raises:
        ArgumentError: the model holds nothing recurrent, or an option is out of range.
        WatchError: on leaving, when no backward pass reached a recurrent module.

    Cost: of a measured step, see :func:`bptt.probes.lag_spectrum`; of any other, a call per module.
    Memory of a measured step: the layers' inputs and outputs, by reference, until backward ends; with
    ``every=1`` the last step's stay until the flow is dropped, so that any ``flow.bias(k)`` can be
    answered.

    Example:
        >>> import torch, bptt
        >>> model = torch.nn.GRU(3, 5)
        >>> with bptt.watch(model) as flow:
        ...     model(torch.randn(20, 2, 3))[0].square().mean().backward()
        >>> 1 <= flow.horizon <= 20, flow.bias(20)
        (True, 0.0)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 1,
        at: Sequence[int] | str | None = None,
        cap: int | None = None,
        lanes: int | None = None,
        sources: int | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ArgumentError("a torch.nn.Module", type(model).__name__, "pass the model itself")
        steps = "pass a number of steps"
        every, cap = whole("every", every, remedy=steps), optional("cap", cap, remedy=steps)
        lanes = optional("lanes", lanes, remedy="pass a number of lanes")
        sources = optional("sources", sources, remedy=steps)
        self._model, self._every = model, every
        self._options: dict[str, Any] = {"at": at, "cap": cap, "sources": sources}
        self._sampled = every > 1
        self._lanes = lanes if lanes is not None or not self._sampled else LANES
        self._step = 0
        self._flow = Flow()
        self._stance: Any = None
        self._recorder: Recorder | None = None
        self._begun: Begun | None = None
        self.failed = False
        self.error: BpttError | None = None

    def __enter__(self) -> Flow:
        self._recorder = Recorder(self._model, self._wanted, self._finished)
        if not self._recorder.found and not self._recorder.candidates and self._nothing_ticks():
            self._recorder.remove()
            raise ArgumentError(
                "a model with recurrent layers or cells",
                f"{type(self._model).__name__} without any",
                "pass the model that holds them; a step of your own is a module (x, state) -> (y, "
                "state), or a loop marked with bptt.tick",
            )
        on_backward(self._began, self._ended)
        self._take_stance()
        return self._flow

    def __exit__(self, kind: Any, *_: object) -> None:
        recorder = cast(Recorder, self._recorder)
        ticked = any(v.kind == "tick" for v in recorder.tape.visits)
        off_backward(self._began, self._ended)
        recorder.remove()
        self._leave_stance()
        if kind is not None or (self._flow.history and self.error is None):
            return
        if self.error is not None:
            raise self.error
        raise reason(recorder, ticked)

    def _nothing_ticks(self) -> bool:
        """Whether no forward of the model's own code calls anything named tick."""
        return not any(ticks(module) for module in self._model.modules())

    def _wanted(self) -> bool:
        return self._step % self._every == 0

    def _began(self, roots: list[Any], given: list[Tensor]) -> None:
        """The graph is there: nothing may be raised here, inside the user's own call."""
        recorder = cast(Recorder, self._recorder)
        self._begun = None
        if not self._wanted() or not recorder.tape.visits:
            return
        try:
            with silent(), _without_collections():
                self._begun = begin(
                    recorder, self._model, roots, given, at=self._options["at"],
                    cap=self._options["cap"], coarse=coarse_truncations, sampled=self._sampled,
                    check=not self._sampled or self._step == 0,
                    floor=FLOOR if self._sampled and self._options["cap"] is None else None,
                )  # fmt: skip
        except Exception as error:  # of any kind: the training that is observed goes on
            self._keep(error)

    def _ended(self) -> None:
        """A loop with ticks alone has no calls whose hooks tell that the pass has ended."""
        recorder = cast(Recorder, self._recorder)
        if self._begun is not None or not (recorder.found or recorder.candidates):
            recorder.tape.clear()
            self._finished([])

    def _keep(self, error: Exception) -> None:
        if not isinstance(error, BpttError):
            said = f"{type(error).__name__} ({str(error).partition(chr(10))[0]})"
            wrapped = WatchError(
                "a step that can be measured", said, "measure another step, or mark its loop with "
                "bptt.tick",
            )  # fmt: skip
            wrapped.__cause__ = error
            error = wrapped
        self.error = self.error or error
        self.failed = True

    def _finished(self, calls: list[Call]) -> None:
        """The pass has ended, still inside the user's own call: nothing may be raised here either."""
        begun, self._begun = self._begun, None
        try:
            if self._wanted() and not self.failed:
                with silent():
                    self._conclude(begun, calls)
        except Exception as error:  # likewise
            self._keep(error)
        self.failed = False
        self._step += 1
        self._take_stance()

    def _conclude(self, begun: Begun | None, calls: list[Call]) -> None:
        if begun is not None:
            begun.finish()
        found = closed_forms(begun, calls, self._lanes)
        measured = {one.name: self._measure(one) for one in found if trains(one)}
        together = None
        if begun is not None:
            for name, (kind, spectrum) in begun.spectra.items():
                if name not in measured:
                    measured[name] = Watched(name, kind, spectrum, None)
            if begun.joint is not None:
                kind = begun.spectra[begun.joint.name][0] if len(begun.spectra) == 1 else "model"
                together = Watched(begun.joint.name, kind, begun.joint, None)
            if begun.refusal is not None and not measured:
                raise begun.refusal
        if not measured:
            return
        step = Measured(
            self._step, tuple(measured.values()), together,
            "layers" if together is None else "graded", None if begun is None else begun.refusal,
        )  # fmt: skip
        self._flow.history.append(step)
        if self._every == 1:
            self._flow._kept = {one.name: _snapshot(one) for one in found}
            if begun is not None and begun.graded is not None:
                self._flow._connected = _connected(begun, begun.graded)

    def _measure(self, one: Found) -> Watched:
        options = dict(self._options)
        if self._sampled and options["at"] is None:
            options["at"] = coarse_truncations(one.recurrence.steps)
        if self._sampled and options["cap"] is None:
            options["floor"] = FLOOR
            if options["sources"] is None and one.recurrence.steps > SOURCES:
                options["sources"] = SOURCES
        linear = one.recurrence.linearize()
        spectrum = lag_spectrum(
            one.recurrence, one.direct, lanes=self._lanes, sample_of=one.lanes, linear=linear,
            **options,
        )  # fmt: skip
        known = saturation(one.recurrence, linear) if layer_gates(linear) else None
        return Watched(one.name, one.kind, spectrum, known)

    def _take_stance(self) -> None:
        """Compiled code is entered past its hooks: a step that is measured runs without it."""
        wanted = self._wanted()
        if wanted and self._stance is None and "torch._dynamo" in sys.modules:
            self._stance = torch.compiler.set_stance("force_eager")
        elif not wanted:
            self._leave_stance()

    def _leave_stance(self) -> None:
        if self._stance is not None:
            self._stance.__exit__(None, None, None)
            self._stance = None


@contextmanager
def _without_collections() -> Iterator[None]:
    """A graph looked at node by node is many small objects, none of them garbage: collections that they
    set off would search all of the program's objects, and take as long as a step."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# In a training run: so many lanes, and at most so many time steps of the loss, show what the batch
# does at a small part of its cost.
LANES, SOURCES = 2, 32
# Lags that together carry less than this share of the gradient are not followed there: two lanes
# of a batch tell its horizon no better than that.
FLOOR = 1e-2


def coarse_truncations(steps: int) -> list[int]:
    """One K to the octave up to 8, then two: enough to see a horizon move in training.

    Example:
        >>> coarse_truncations(32)
        [1, 2, 4, 8, 11, 16, 23, 32]
    """
    octaves = [0, 1, 2, *(half / 2 for half in range(6, 2 * steps.bit_length() + 1))]
    return [*(k for k in (round(2**octave) for octave in octaves) if k < steps), steps]


def trains(one: Found) -> bool:
    """Whether any of its parameters is trained: what is frozen has no gradient to split."""
    return len(one.recurrence.frozen) < len(one.recurrence.step.parameters)


def _connected(begun: Begun, graded: Graded) -> Tensor | str:
    """Which step each loss depends on; or what keeps it from being told."""
    if graded.connected is not None:
        return graded.connected
    steps, followed = len(next(iter(graded.totals.values()), ())), graded.truncations[-1]
    if begun.two is not None:
        return f"one in which {begun.two or 'the model'} reads in two directions"
    if followed < steps:
        return f"one whose lags were followed up to {followed}"
    return f"one of {steps} steps, which are too many, or of states that are not (lanes, units)"


def _snapshot(one: Found) -> Found:
    """With parameters of its own: the optimiser will change the model's."""
    step = one.recurrence.step
    if isinstance(step, Stack):
        weights = tuple(tuple(None if w is None else w.clone() for w in ws) for ws in step.weights)
        own: Any = replace(step, weights=weights)
    elif isinstance(step, FunctionStep):
        own = replace(step, parameters={n: p.clone() for n, p in step.parameters.items()})
    else:
        own = step
    recurrence: Recurrence = replace(one.recurrence, step=own)
    return replace(one, recurrence=recurrence)
