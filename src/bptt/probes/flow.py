"""What :func:`bptt.watch` hands out: every measured step, and the questions it answers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from torch import Tensor, nn

from bptt.errors import ArgumentError, BpttError, whole
from bptt.probes.graded_spectrum import join_spectra
from bptt.probes.lag_spectrum import lag_spectrum
from bptt.probes.spectrum import LagSpectrum
from bptt.probes.states import Saturation
from bptt.probes.verdict import Verdict, is_finite, judge, middle, verdict
from bptt.recurrence import Found, Recorder


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
        """One of ``bptt.probes.VERDICTS``: of this module in this step alone."""
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
    """One measured step.

    Attributes:
        step: its number, counted in backward passes from 0.
        modules: every recurrent module in it.
        together: all of them on one clock, where one was given what another returned or the graded
            pass was taken; else None.
        method: ``"layers"`` or ``"graded"``, see :class:`Flow`.
        refusal: why there is no joint spectrum, where there should be one.
    """

    step: int
    modules: tuple[Watched, ...]
    together: Watched | None = None
    method: str = "layers"
    refusal: BpttError | None = None

    @property
    def main(self) -> Watched:
        """All modules together where they are chained; else the one whose gradient is the longest.

        Raises:
            BpttError: they are chained, and could not be measured together.
        """
        if self.refusal is not None:
            raise self.refusal
        if self.together is not None:
            return self.together
        return max(self.modules, key=lambda m: m.carries)


# A verdict is taken over so many measured steps, of the later half of them: what happens while a start
# settles is not what training comes to.
RECENT = 8


@dataclass(eq=False)
class Flow:
    """What :func:`watch` saw; filled as the backward passes inside the block end.

    The figures are those of the last measured step, and in it of all modules together where one is
    given what another returned; else of the module that carries most, the one with the longest gradient.
    ``modules`` holds each by itself, ``history`` the other steps. The verdict is that of the last eight
    measured steps, of the later half of them.

    Attributes:
        history: every measured step, oldest first.
    """

    history: list[Measured] = field(default_factory=list)
    _kept: dict[str, Found] = field(default_factory=dict, repr=False)
    # Of a graded pass, which step each loss depends on; or what keeps it from being told.
    _connected: Tensor | str = field(default="one of a watched run (every=2 or more)", repr=False)

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
    def method(self) -> str:
        """``"layers"``: the closed form over layers and cells, where the graph shows it to be exact.
        ``"graded"``: the backward pass graded by the time of each loss, for any other graph."""
        return self.last.method

    @property
    def joint(self) -> LagSpectrum:
        """The gradient of all recurrent parameters of the model together, on one clock.

        Raises:
            BpttError: they could not be measured together.
        """
        last = self.last
        if last.refusal is not None or last.together is not None:
            return last.main.spectrum
        return join_spectra([m.spectrum for m in last.modules])

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
        """The word of :meth:`judge`: ``"vanishing"``, ``"healthy"``, ``"exploding"``, or another."""
        return self.judge().word

    def judge(
        self, *, k: int | None = None, loss: float | None = None, guess: float | None = None
    ) -> Verdict:
        """The verdict over the last measured steps, with its reason and how sure it is.

        Args:
            k: steps that the gradient is truncated to, where the watched sequences are longer: a watched
                gradient may then be called ``"cut short"``.
            loss, guess: of training now, and of a model that has learned nothing, e.g. log of the number
                of classes; training that stands above it, or is not finite, is called ``"diverged"``.

        Raises:
            WatchError: nothing has been measured yet.
        """
        recent, _ = self._recent()
        return judge([m.spectrum for m in recent], k=k, loss=loss, guess=guess)

    def _recent(self) -> tuple[list[Watched], int]:
        """What the verdict is taken over, and which of it speaks for all."""
        main, n = self.last.main, len(self.history)
        steps = self.history[max(n // 2, n - RECENT) :]
        recent = [m.main for m in steps if m.refusal is None]
        recent = [m for m in recent if m.name == main.name]
        return recent, middle([m.spectrum for m in recent])

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
        """The verdict in sentences, with the numbers of the middle one of the steps it is taken over."""
        recent, place = self._recent()
        one = recent[place]
        return explain(one.spectrum, one.saturation, self.judge())

    def __repr__(self) -> str:
        if not self.history:
            return "Flow(nothing measured yet)"
        last = self.last
        if last.refusal is not None:
            return f"Flow(step {last.step}: {len(last.modules)} modules, not measured together)"
        return (
            f"Flow(horizon {self.horizon} of {self.spectrum.steps} steps, decay {self.decay:.3g}, "
            f"{self.verdict}, {last.method}, {len(last.modules)} "
            f"module{'s' if len(last.modules) != 1 else ''}, {len(self.history)} "
            f"step{'s' if len(self.history) != 1 else ''} measured)"
        )

    def _repr_html_(self) -> str:
        if not self.history:
            return f"<p>{escape(repr(self))}</p>"
        rows = [(m.name or m.kind, m) for m in self.modules]
        if self.last.together is not None and len(rows) > 1:
            rows.append(("together", self.last.together))
        note = "" if self.last.refusal is None else escape(str(self.last.refusal))
        return table(rows) + f"<p>{note or escape(self.explain())}</p>"

    def _at(self, k: int) -> LagSpectrum:
        spectrum = self.spectrum
        k = whole("K", k, remedy="count steps: K=1 is a loss's own step alone")
        if k >= spectrum.steps or bool((spectrum.truncations == k).any()):
            return spectrum
        kept = None if self.last.together is not None else self._kept.get(spectrum.name)
        if kept is None:
            raise ArgumentError(
                "a K that was measured", f"K={k}", f"ask for it: watch(model, at=[{k}])"
            )
        return lag_spectrum(kept.recurrence, kept.direct, at=[k], sample_of=kept.lanes)


def table(rows: Sequence[tuple[str, Watched]]) -> str:
    """Modules as a table for notebooks."""
    head = "".join(f"<th>{h}</th>" for h in ("module", "horizon", "decay", "gradient"))
    lines = [
        f"<tr><td>{escape(name)}</td><td>{m.horizon} of {m.spectrum.steps}</td>"
        f"<td>{m.decay:.3g}</td><td>{m.spectrum.gradient_norm:.3g}</td></tr>"
        for name, m in rows
    ]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def ticks(module: nn.Module) -> bool:
    """Whether a module's forward may mark its steps: its own code, or what that calls, says tick."""
    if type(module).__module__.startswith("torch."):
        return False
    try:
        return "tick" in inspect.getsource(type(module))
    except (OSError, TypeError):
        return True  # code that cannot be read may do anything


def reason(recorder: Recorder, ticked: bool) -> BpttError:
    """Why a watched block ended and nothing was measured."""
    if recorder.recorded or ticked:
        return WatchError(
            "a backward pass inside the block",
            "none that reached a recurrent module",
            "call loss.backward() before the block ends, on a loss of this model's output",
        )
    if recorder.without_gradient:
        return WatchError(
            "recurrent calls that autograd records",
            "gradients switched off",
            "leave torch.no_grad() or inference_mode for the watched step, and let parameters "
            "require gradients",
        )
    names = ", ".join(n or "the model" for n in recorder.found)
    if recorder.own_forward:
        return WatchError(
            "a call of the layer that a subclass is built on",
            f"a forward of {', '.join(n or 'the model' for n in recorder.own_forward)}'s own that "
            "makes none",
            "call super().forward in it, or mark its loop with bptt.tick",
        )
    if recorder.called:
        return WatchError(
            "a recurrent module: one that is given back the state it returned",
            f"calls of {', '.join(n or 'the model' for n in sorted(recorder.called)[:3])} that each "
            "begin afresh",
            "if a recurrence runs inside one call, mark the top of its loop with h = bptt.tick(h); a "
            "scan or a fused kernel has no steps to mark",
        )
    return WatchError(
        "a call of a recurrent module inside the block",
        f"none ({names or 'no layer or cell known'})",
        "run the model's forward and backward pass inside the block",
    )


# A lag spectrum in sentences: the verdict and the numbers behind it.


def explain(
    spectrum: LagSpectrum, gates: Saturation | None = None, judged: Verdict | None = None
) -> str:
    """What the gradient does, with evidence, a sentence each.

    Args:
        spectrum: of one batch.
        gates: its saturation.
        judged: the verdict it belongs to; default: of this batch alone.

    Example:
        >>> import torch
        >>> from bptt.probes import lag_spectrum
        >>> from bptt.recurrence import trace
        >>> (one,) = trace(torch.nn.GRU(3, 5), torch.randn(7, 2, 3))
        >>> explain(lag_spectrum(one, (torch.ones(7, 2, 5),))).count(".") > 2
        True
    """
    judged = judge([spectrum]) if judged is None else judged
    if judged.word == "no gradient":
        return "No gradient reaches the recurrent module's parameters: its norm is 0."
    subject = "The training has" if judged.word == "diverged" else "The gradient is"
    lines = [f"{subject} {judged.word}."]
    if judged.word in ("diverged", "exploding"):
        lines.append(judged.reason)
    if not is_finite(spectrum):
        return " ".join([*lines, "Clip it, or lower the learning rate."])
    if spectrum.gradient_norm == 0:
        return " ".join(lines)
    horizon, T = spectrum.horizon(), spectrum.steps
    if horizon >= T:
        lines.append(_reach(spectrum))
    else:
        lines.append(f"Truncated to {horizon} steps of {T} it is within 5 % of the full one.")
    lines.append(_share(spectrum))
    if math.isfinite(spectrum.decay):
        lines.append(_factor(spectrum.decay))
    wrong = (spectrum.measured_cosine < 0).nonzero()
    if len(wrong):
        k = int(spectrum.truncations[wrong[-1, 0]])
        lines.append(
            f"Truncated to {k} steps or fewer it can point the wrong way (cosine below 0)."
        )
    if gates is not None:
        units = "values are at or near the flat ends of their activation"
        lines.append(f"{100 * gates.share:.0f} % of the units' {units}.")
    if spectrum.lanes[0] < spectrum.lanes[1] or spectrum.sources < 1:
        error = float(spectrum.bias_error.nan_to_num(-1.0).max())  # NaN: no two halves to compare
        by = f"by up to {100 * error:.2g} %" if error >= 0 else "by what one step cannot tell"
        some = f"{spectrum.lanes[0]} of {spectrum.lanes[1]} lanes"
        if spectrum.sources < 1:
            followed = round(spectrum.sources * spectrum.steps)
            some += f" and the losses of {followed} of {spectrum.steps} steps"
        lines.append(f"Measured on {some}: the biases are uncertain {by}.")
    return " ".join(lines)


def _reach(spectrum: LagSpectrum) -> str:
    """How far a gradient reaches of which no measured truncation says enough."""
    T, at = spectrum.steps, spectrum.truncations.tolist()
    shorter = [
        pair for pair in zip(at, spectrum.measured_bias.tolist(), strict=True) if pair[0] < T
    ]
    if T == 1:
        return "It has one step, and so nothing to truncate."
    if not shorter:
        return f"No truncation of its {T} steps was measured."
    k, bias = shorter[-1]
    return (
        f"Truncated to {k} steps of {T}, the longest truncation measured, it is still off by "
        f"{100 * bias:.2g} %: it reaches farther back than that."
    )


def _share(spectrum: LagSpectrum) -> str:
    """How much comes from farther back than the place where it says most: bias between 5 and 50 %."""
    pairs = list(zip(spectrum.truncations.tolist(), spectrum.measured_bias.tolist(), strict=True))
    telling = [(k, b) for k, b in pairs if 0.1 <= b <= 0.3]
    k, bias = telling[len(telling) // 2] if telling else min(pairs, key=lambda p: abs(p[1] - 0.17))
    return f"{100 * bias:.2g} % of the gradient comes from more than {k} steps back."


def _factor(decay: float) -> str:
    """The factor of a straight line through the fall: a number, and no reason of a verdict."""
    text = f"In the middle of its fall the factor per step is {decay:.3g}"
    steps = max(1, math.ceil(math.log(0.1) / math.log(decay))) if 0 < decay < 1 else 1
    return f"{text}: a tenth is left after {steps} steps." if 0 < decay < 0.9 else f"{text}."
