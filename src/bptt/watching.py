"""Watch a training step and see how far back it learns: :func:`watch`.

Limits: the recurrences are those of :mod:`bptt.recurrence`. While a step is measured, parts under
``torch.compile`` run as plain PyTorch, so that their hooks are seen: the same mathematics, rounded as
eager code rounds it. Second derivatives through a watched step are not measured.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import nn

from bptt.errors import ArgumentError, BpttError
from bptt.numbers import optional, whole
from bptt.probes import LagSpectrum, Saturation, lag_spectrum, saturation
from bptt.probes.explain import explain
from bptt.probes.verdict import verdict
from bptt.recurrence import Call, Found, Recorder, Recurrence, assemble, layer_gates
from bptt.recurrence.stack import Stack
from bptt.recurrence.userstep import FunctionStep


class WatchError(BpttError, RuntimeError):
    """A watched block ended and there is nothing to say, or something was asked too early."""


@dataclass(frozen=True, eq=False)
class Watched:
    """What was measured of one recurrent module in one step.

    Attributes:
        name: as in ``model.named_modules()``, with layer and direction where it has two directions.
        kind: the module's class.
        spectrum: :class:`bptt.probes.LagSpectrum`.
        saturation: :class:`bptt.probes.Saturation`; None for a cell whose gates are not known.
    """

    name: str
    kind: str
    spectrum: LagSpectrum
    saturation: Saturation | None

    @property
    def horizon(self) -> int:
        """Steps: the smallest K whose truncated gradient is, and stays, within 5 %."""
        return self.spectrum.horizon()

    @property
    def decay(self) -> float:
        """Factor by which the gradient changes per step back."""
        return self.spectrum.decay

    @property
    def verdict(self) -> str:
        """``"vanishing"``, ``"healthy"`` or ``"exploding"``."""
        return verdict(self.spectrum)

    @property
    def carries(self) -> float:
        """Norm of its parameters' gradient; infinite where it is not finite, so that it comes first."""
        norm = self.spectrum.gradient_norm
        return norm if math.isfinite(norm) else math.inf

    def explain(self) -> str:
        """The verdict in sentences, with the numbers behind it."""
        return explain(self.spectrum, self.saturation)


@dataclass(frozen=True, eq=False)
class Measured:
    """One measured step: its number, counted in backward passes from 0, and every module in it."""

    step: int
    modules: tuple[Watched, ...]

    @property
    def main(self) -> Watched:
        """The module that carries most: the one whose parameters' gradient is the longest."""
        return max(self.modules, key=lambda m: m.carries)


@dataclass(eq=False)
class Flow:
    """What :func:`watch` saw; filled as the backward passes inside the block end.

    The figures are those of the last measured step, and in it of the module that carries most, the
    one with the longest gradient; ``modules`` holds the others, ``history`` the other steps.

    Attributes:
        history: every measured step, oldest first.
    """

    history: list[Measured] = field(default_factory=list)
    _kept: dict[str, Found] = field(default_factory=dict, repr=False)

    @property
    def last(self) -> Measured:
        """The last measured step.

        Raises:
            WatchError: none has been measured yet.
        """
        if not self.history:
            raise WatchError(
                "a backward pass inside the block",
                "none so far",
                "call loss.backward() inside `with bptt.watch(model) as flow:` and ask after it",
            )
        return self.history[-1]

    @property
    def modules(self) -> tuple[Watched, ...]:
        """Every recurrent module of the last measured step."""
        return self.last.modules

    @property
    def spectrum(self) -> LagSpectrum:
        """The gradient by lag, with bias and cosine of every truncation."""
        return self.last.main.spectrum

    @property
    def horizon(self) -> int:
        """The smallest K from which on truncation biases the gradient by at most 5 %, in steps."""
        return self.last.main.horizon

    @property
    def decay(self) -> float:
        """Factor by which the gradient changes per step back."""
        return self.last.main.decay

    @property
    def verdict(self) -> str:
        """``"vanishing"``, ``"healthy"`` or ``"exploding"``."""
        return self.last.main.verdict

    def bias(self, k: int) -> float:
        """Relative bias ‖g_k - g‖ / ‖g‖ of the gradient truncated to k steps, exact for any k.

        A k that was not among those measured is measured now, on the last step's own trajectory.

        Raises:
            ArgumentError: k is below 1; or it was not measured and several steps are watched, which
                keep no trajectory.
        """
        return self._at(k).bias_of(k)

    def cosine(self, k: int) -> float:
        """Cosine of the angle between the gradient truncated to k steps and the full one."""
        return self._at(k).cosine_of(k)

    def explain(self) -> str:
        """The verdict in sentences, with the numbers behind it."""
        return self.last.main.explain()

    def _at(self, k: int) -> LagSpectrum:
        spectrum = self.spectrum
        k = whole("K", k, remedy="count steps: K=1 is a loss's own step alone")
        if k >= spectrum.steps or bool((spectrum.truncations == k).any()):
            return spectrum
        kept = self._kept.get(spectrum.name)
        if kept is None:
            raise ArgumentError(
                "a K that was measured", f"K={k}", f"ask for it: watch(model, at=[{k}])"
            )
        return lag_spectrum(kept.recurrence, kept.direct, at=[k], sample_of=kept.lanes)


class watch:
    """Observe training steps and measure how far back their gradient reaches.

    ``with bptt.watch(model) as flow: criterion(model(x), y).backward()`` finds the recurrent modules
    in ``model``, records their calls, and at the end of the backward pass splits each one's gradient
    by lag (:func:`bptt.probes.lag_spectrum`). Parameters, ``.grad``, random numbers, training mode
    and outputs stay what they would have been. Each backward pass is one step; with gradient
    accumulation, each part of it.

    A module called several times in a step: calls that take over the state of an earlier one go on
    where it ended; others are sequences side by side.

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

    def __enter__(self) -> Flow:
        self._recorder = Recorder(self._model, self._wanted, self._finished)
        if not self._recorder.found and not self._recorder.candidates:
            self._recorder.remove()
            raise ArgumentError(
                "a model with recurrent layers or cells",
                f"{type(self._model).__name__} without any",
                "pass the model that holds them; a step of your own is a module (x, state) -> (y, state)",
            )
        self._take_stance()
        return self._flow

    def __exit__(self, kind: Any, *_: object) -> None:
        recorder = cast(Recorder, self._recorder)
        recorder.remove()
        self._leave_stance()
        if kind is not None or self._flow.history:
            return
        if recorder.recorded:
            raise WatchError(
                "a backward pass inside the block",
                "none that reached a recurrent module",
                "call loss.backward() before the block ends, on a loss of this model's output",
            )
        if recorder.without_gradient:
            raise WatchError(
                "recurrent calls that autograd records",
                "gradients switched off",
                "leave torch.no_grad() or inference_mode for the watched step, and let parameters "
                "require gradients",
            )
        raise WatchError(
            "a call of a recurrent module inside the block",
            f"none ({', '.join(n or 'the model' for n in recorder.found) or 'no layer or cell known'})",
            "run the model's forward and backward pass inside the block",
        )

    def _wanted(self) -> bool:
        return self._step % self._every == 0

    def _finished(self, calls: list[Call]) -> None:
        if self._wanted() and calls:
            found = assemble(calls, self._lanes)
            if found:
                modules = tuple(self._measure(one) for one in found)
                self._flow.history.append(Measured(self._step, modules))
                if self._every == 1:
                    self._flow._kept = {one.name: _snapshot(one) for one in found}
        self._step += 1
        self._take_stance()

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
