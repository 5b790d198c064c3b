"""Rules about the gradient's norm, what it reaches, and numbers that leave their range."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median, quantiles
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from bptt.ops.cells import BY_MODE
from bptt.probes.guard.loop import Call, Finding, Loop, Rule, Update
from bptt.recurrence.loops import LAYERS


@dataclass
class AtThreshold(Rule):
    """Clipping acts at nearly every update, or is so far away that it never will."""

    window: int = 100  # updates
    by_hand: int = 50  # updates, where the clip is no function's
    share: float = 0.95
    spread: float = 0.02  # of the clipped norms: those of updates of one length
    near: float = 0.01  # of the threshold: the largest norm stays below it
    always: ClassVar[bool] = True
    codes: ClassVar[tuple[str, ...]] = ("always-clipped", "never-near")
    why: ClassVar[dict[str, str]] = {
        "always-clipped": "Every update has the same length, whatever the gradient: the rate is "
        "too high for "
        "it, the start is bad, or the threshold too low.",
        "never-near": "The threshold protects from nothing that this training does.",
    }
    claim: ClassVar[dict[str, str]] = {"always-clipped": "C14", "never-near": "B7"}
    _norms: deque[tuple[float, float | None]] = field(default_factory=deque, init=False)

    @override
    def on_update(self, loop: Loop, update: Update) -> Iterator[Finding]:
        if update.before is None or not math.isfinite(update.before):
            return
        if update.acted is None and not update.attended:
            return  # a clip of one's own is not seen then
        self._norms.append((update.before, update.after if update.clipped else None))
        window = self.window if update.acted is not None else self.by_hand
        if len(self._norms) < window:
            return
        recent = [self._norms.popleft() for _ in range(window)]
        norms = sorted(n for n, _ in recent)
        after = [a for _, a in recent if a is not None]
        share = len(after) / window
        low, middle, high = quantiles(norms, n=4)
        # A clip by value makes every update smaller and leaves each a length of its own.
        if share >= self.share and 0 < max(after) <= (1 + self.spread) * min(after):
            at = "" if update.threshold is None else f" at {update.threshold:g}"
            yield self.found(
                loop, "always-clipped", "optimizer",
                f"{share:.0%} of the last {window} updates were clipped{at}; the norm before "
                f"is {middle:.3g} "
                f"(quartiles {low:.3g} … {high:.3g}).",
                f"clip_grad_norm_(model.parameters(), {high:.2g}), or a smaller rate",
            )  # fmt: skip
        elif update.threshold is not None and norms[-1] < self.near * update.threshold:
            yield self.found(
                loop, "never-near", "optimizer",
                f"in {window} updates the norm was at most {norms[-1]:.3g} (median "
                f"{middle:.3g}), and the "
                f"threshold is {update.threshold:g}.",
                f"clip_grad_norm_(model.parameters(), {2 * norms[-1]:.2g})",
            )  # fmt: skip


@dataclass
class NormTrend(Rule):
    """The norm before clipping grows from window to window, or jumps, and stays there or not."""

    window: int = 50  # updates
    growth: float = 3.0  # from each window's median to the next's, three times in a row
    jump: float = 20.0  # times the median of the 25 updates before
    stay: int = 20  # updates above half the jump
    always: ClassVar[bool] = True
    codes: ClassVar[tuple[str, ...]] = ("norm-grows", "spike", "spike-stays")
    why: ClassVar[dict[str, str]] = {
        "norm-grows": "A gradient that grows steadily ends out of range: the recurrence is "
        "becoming unstable.",
        "spike": "One such update undoes many others, unless it is clipped.",
        "spike-stays": "The update that did it has left the weights where the gradient is this large.",
    }
    claim: ClassVar[dict[str, str]] = {"norm-grows": "C14", "spike": "B7", "spike-stays": "E3"}
    _norms: list[float] = field(default_factory=list, init=False)
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=25), init=False)
    _medians: list[float] = field(default_factory=list, init=False)
    _since: int = field(default=0, init=False)  # the update that jumped; 0: none did
    _begun: int = field(default=0, init=False)  # the update the window begins after
    _level: float = field(default=0.0, init=False)
    _unclipped: bool = field(default=False, init=False)

    @override
    def on_update(self, loop: Loop, update: Update) -> Iterator[Finding]:
        if update.before is None or not math.isfinite(update.before):
            return
        before = update.before
        full = len(self._recent) == self._recent.maxlen
        # A median is taken only where the norm could be a jump from it.
        if full and (self._since or before > self.jump * min(self._recent)):
            usual = median(self._recent)
            if not self._since and before > self.jump * usual > 0:
                self._since, self._level, self._unclipped = update.number, usual, not update.clipped
            elif self._since and before <= self.jump / 2 * self._level:
                self._since = 0
                if self._unclipped:
                    yield self.found(
                        loop, "spike", "optimizer",
                        f"the norm jumped over {self.jump:g} times its median, {self._level:.3g}, "
                        "and was not clipped.",
                        f"clip_grad_norm_(model.parameters(), {2 * self._level:.2g}) before "
                        "optimizer.step()",
                    )  # fmt: skip
            elif self._since and update.number - self._since >= self.stay - 1:
                self._since = 0
                yield self.found(
                    loop, "spike-stays", "optimizer",
                    f"the norm jumped from {self._level:.3g} to {before:.3g} and stayed for "
                    f"{self.stay} updates.",
                    "go back to a checkpoint, then clip_grad_norm_(model.parameters(), "
                    f"{2 * self._level:.2g})",
                )  # fmt: skip
        if not self._since:
            self._recent.append(before)
        self._norms.append(before)
        if update.number - self._begun < self.window:
            return
        self._begun = update.number
        self._medians = [*self._medians[-3:], median(self._norms)]
        self._norms = []
        row = self._medians
        if len(row) == 4 and all(b > self.growth * a > 0 for a, b in pairwise(row)):
            yield self.found(
                loop, "norm-grows", "optimizer",
                f"its median over {self.window} updates went {', '.join(f'{m:.3g}' for m in row)}.",
                "bptt.remedies.start_recurrent(model, 'orthogonal') before training, or a smaller rate",
            )  # fmt: skip


@dataclass
class NearZero(Rule):
    """The gradient is next to nothing beside the weights; the horizon tells why."""

    updates: int = 30  # in a row
    ratio: float = 1e-6  # of the weights' norm
    short: float = 0.25  # of the steps: a horizon below it is a gradient that vanishes on the way
    always: ClassVar[bool] = True
    codes: ClassVar[tuple[str, ...]] = ("near-zero",)
    why: ClassVar[dict[str, str]] = {"near-zero": "Nothing is learned at this rate."}
    claim: ClassVar[dict[str, str]] = {"near-zero": "C14"}
    _row: int = field(default=0, init=False)
    _weights: float = field(default=0.0, init=False)

    @override
    def on_update(self, loop: Loop, update: Update) -> Iterator[Finding]:
        if update.before is None:
            return
        if not self._weights:
            with torch.no_grad():
                self._weights = sum(float(p.norm()) ** 2 for p in loop.model.parameters()) ** 0.5
        small = update.before < self.ratio * self._weights
        self._row = self._row + 1 if small else 0
        if self._row < self.updates:
            return
        seen = (
            f"for {self._row} updates the norm was under {self.ratio * self._weights:.1e}, a "
            "millionth of the weights'."
        )
        if loop.horizon is None:
            how, write = (
                "was not measured",
                "with bptt.watch(model) as flow: …; print(flow.horizon)",
            )
        elif loop.horizon < self.short * loop.steps:
            how = f"is {loop.horizon} of {loop.steps} steps: it vanishes through time"
            write = "a gated cell (bptt.nn.LSTM), or the loss at more steps than the last"
        else:
            how = f"is {loop.horizon} of {loop.steps} steps: it is small everywhere, not only far back"
            write = "print(loss): it is at its floor, or multiplied by something small"
        yield self.found(loop, "near-zero", "model", f"{seen} Its horizon {how}.", write)


@dataclass
class Saturated(Rule):
    """Most units stand where their activation is flat; some do so at every step."""

    share: float = 0.8  # of a layer's values that the gradient must pass
    dead: float = 0.5  # of a layer's units that never leave the flat part
    codes: ClassVar[tuple[str, ...]] = ("saturated", "dead-units")
    why: ClassVar[dict[str, str]] = {
        "saturated": "A flat activation lets no gradient through.",
        "dead-units": "A unit that never leaves the flat part does not learn.",
    }

    @override
    def on_flow(self, loop: Loop, flow: Any) -> Iterator[Finding]:
        for module in flow.modules:
            if module.saturation is None:
                continue
            name = module.name or "model"
            # A ReLU is off half the time by design: of it only the units that are never on count.
            # Of gated cells none stops the gradient: see bptt.probes.Saturation.blocks.
            ramps = any("relu" in gates for gates in module.saturation.layers)
            if module.saturation.blocks >= self.share and not ramps:
                yield self.found(
                    loop, "saturated", name,
                    f"{module.saturation.blocks:.0%} of its values are at an end of their range.",
                    "x = (x - mean) / spread for the inputs, or a smaller start and rate",
                )  # fmt: skip
                continue
            # Of gated cells none: a candidate or a cell that stands at its end is written and kept by
            # gates, which learn on.
            for layer, gates in enumerate(module.saturation.layers):
                for gate in (gates[g] for g in ("h", "relu") if g in gates):
                    dead = float((gate.units >= 1.0).float().mean())
                    if dead >= self.dead:
                        yield self.found(
                            loop, "dead-units", name,
                            f"{dead:.0%} of layer {layer}'s units are flat at every step.",
                            "a smaller rate and a new start: module.reset_parameters()",
                        )  # fmt: skip


@dataclass
class NotFinite(Rule):
    """A number left the float range: where first."""

    always: ClassVar[bool] = True
    codes: ClassVar[tuple[str, ...]] = ("not-finite",)
    why: ClassVar[dict[str, str]] = {
        "not-finite": "Every weight that an update with it touches is lost."
    }
    claim: ClassVar[dict[str, str]] = {"not-finite": "E3"}
    _told: bool = field(default=False, init=False)

    @override
    def on_return(self, loop: Loop, call: Call) -> Iterator[Finding]:
        if self._told or not call.graph or not isinstance(call.module, LAYERS):
            return
        output = call.output[0] if isinstance(call.output, (tuple, list)) else call.output
        if not call.returned or math.isfinite(float(call.returned[0].detach().sum())):
            return
        if not isinstance(output, Tensor) or output.dim() != 3:
            self._told = True
            yield self._place(loop, call.name, "its final state is not finite.")
            return
        axis = call.time_axis
        fine = output.detach().isfinite().flatten(2).all(-1)
        steps = (~fine).any(1 - axis).nonzero()
        if not len(steps):
            return
        self._told = True
        step = int(steps[0])
        lane = int((~fine.select(axis, step)).nonzero()[0])
        if call.x is not None and not bool(call.x.detach().isfinite().all()):
            yield self._place(loop, call.name, "the input it was given is not finite.")
            return
        bad = [
            n for n, p in call.module.named_parameters() if not bool(p.detach().isfinite().all())
        ]
        if bad:
            yield self._place(loop, call.name, f"its parameter {bad[0]} is not finite.")
            return
        yield self._place(
            loop,
            call.name,
            f"its state left the range at step {step} of the chunk, in lane {lane}.",
        )

    @override
    def on_update(self, loop: Loop, update: Update) -> Iterator[Finding]:
        if self._told or update.before is None or math.isfinite(update.before):
            return
        self._told = True
        for name, parameter in loop.model.named_parameters():
            gradient = parameter.grad
            if gradient is None or bool(gradient.isfinite().all()):
                continue
            module, _, leaf = name.rpartition(".")
            yield self._place(
                loop,
                module or "model",
                f"the gradient of {leaf}{_gate(loop, module, leaf, gradient)} is not finite.",
            )
            return

    def _place(self, loop: Loop, module: str, seen: str) -> Finding:
        return self.found(
            loop, "not-finite", module, seen,
            "clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True) before optimizer.step()",
        )  # fmt: skip


def _gate(loop: Loop, module: str, leaf: str, gradient: Tensor) -> str:
    """The first gate whose rows are not finite, in words."""
    layer = loop.recurrent.get(module or "model")
    cell = BY_MODE.get(getattr(layer, "mode", ""))
    if cell is None or cell.gates == 1 or not leaf.startswith(("weight_", "bias_")):
        return ""
    for name, block in zip(cell.rows, gradient.chunk(cell.gates), strict=True):
        if not bool(block.isfinite().all()):
            return f" ({name} gate)"
    return ""
