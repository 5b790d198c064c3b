"""Rules about what happens between a backward pass and the update: clipping, zeroing, scaling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from typing_extensions import override

from bptt.probes.guard.loop import Clipping, Finding, Loop, LossCall, Rule, Update

CLIP = "loss.backward(); clip_grad_norm_(model.parameters(), θ); optimizer.step(), in this order"


@dataclass
class ClipTiming(Rule):
    """Gradients are clipped when it no longer, or not yet, changes the update."""

    times: int = 2
    codes: ClassVar[tuple[str, ...]] = ("clip-after-step", "clip-before-backward", "clip-scaled")
    why: ClassVar[dict[str, str]] = {
        "clip-after-step": "The update was made with the gradient as it was.",
        "clip-before-backward": "The gradient that the update uses comes later, and is not clipped.",
        "clip-scaled": "The threshold is compared with a gradient that is too large by the loss scale.",
    }
    claim: ClassVar[dict[str, str]] = {"clip-after-step": "E3", "clip-before-backward": "E3"}
    _times: dict[str, int] = field(default_factory=dict, init=False)

    @override
    def on_clip(self, loop: Loop, clipping: Clipping) -> Iterator[Finding]:
        if clipping.spent:
            code = "clip-before-backward" if clipping.after_forward else "clip-after-step"
            what = "absent or zero" if clipping.empty else "the one that the last update used"
            when = (
                "before the backward pass" if clipping.after_forward else "after optimizer.step()"
            )
            seen = f"gradients were clipped {when}: what was clipped is {what}."
            write = CLIP
        elif clipping.scaled != 1.0:
            code = "clip-scaled"
            seen = f"gradients were clipped while they carried the loss scale, {clipping.scaled:g}."
            write = "scaler.unscale_(optimizer) before clip_grad_norm_"
        else:
            return
        self._times[code] = self._times.get(code, 0) + 1
        if self._times[code] >= self.times:
            yield self.found(loop, code, "optimizer", seen, write)


@dataclass
class ZeroGrad(Rule):
    """The gradient of one update is added to that of the next."""

    times: int = 2  # in a row
    codes: ClassVar[tuple[str, ...]] = ("zero-grad-missing",)
    why: ClassVar[dict[str, str]] = {
        "zero-grad-missing": "Each update uses the sum of all gradients so far."
    }
    _row: int = field(default=0, init=False)

    @override
    def on_update(self, loop: Loop, update: Update) -> Iterator[Finding]:
        self._row = self._row + 1 if update.stale else 0
        if self._row >= self.times:
            yield self.found(
                loop, "zero-grad-missing", "optimizer",
                f"in {self._row} updates in a row the last gradient was still there when the next "
                "was added.",
                "optimizer.zero_grad() before loss.backward()",
            )  # fmt: skip


@dataclass
class TwoSteps(Rule):
    """One gradient is used by two updates."""

    times: int = 2
    codes: ClassVar[tuple[str, ...]] = ("two-steps",)
    why: ClassVar[dict[str, str]] = {
        "two-steps": "The second step goes the same way again: the rate is twice what it says."
    }
    _times: int = field(default=0, init=False)

    @override
    def on_update(self, loop: Loop, update: Update) -> Iterator[Finding]:
        self._times += update.repeated
        if update.repeated and self._times >= self.times:
            yield self.found(
                loop, "two-steps", "optimizer",
                f"{self._times} times the optimiser stepped, and no backward pass came between.",
                "one optimizer.step() for each loss.backward()",
            )  # fmt: skip


@dataclass
class FrozenRecurrent(Rule):
    """Recurrent weights get a gradient, and no optimiser holds them."""

    updates: int = 5  # between two looks
    codes: ClassVar[tuple[str, ...]] = ("frozen-recurrent",)
    why: ClassVar[dict[str, str]] = {
        "frozen-recurrent": "The recurrence stays as it was at the start: nothing is learned "
        "through time."
    }

    @override
    def on_update(self, loop: Loop, update: Update) -> Iterator[Finding]:
        if update.number % self.updates:
            return
        for name, module in loop.recurrent.items():
            left = [
                n
                for n, p in module.named_parameters()
                if p.requires_grad and p.grad is not None and id(p) not in loop.held
            ]
            if left:
                yield self.found(
                    loop, "frozen-recurrent", name,
                    f"{len(left)} of its parameters get a gradient and are in no optimiser: "
                    f"{', '.join(left[:3])}.",
                    "optimizer = Optimizer(model.parameters(), …) after the model is complete",
                )  # fmt: skip


@dataclass
class LossScale(Rule):
    """The chunks of one update count by another measure than their lengths."""

    tolerance: float = 0.05
    times: int = 2
    codes: ClassVar[tuple[str, ...]] = ("loss-scale-by-length",)
    why: ClassVar[dict[str, str]] = {
        "loss-scale-by-length": "A step of a short chunk weighs more than one of a long chunk."
    }
    _times: int = field(default=0, init=False)

    @override
    def on_update(self, loop: Loop, update: Update) -> Iterator[Finding]:
        losses = [x for x in update.losses if x.terms > 0 and x.weight]
        seen = self._unequal(losses) or self._divided_twice(losses)
        self._times += bool(seen)
        if seen and self._times >= self.times:
            yield self.found(
                loop, "loss-scale-by-length", "model", seen,
                "(loss * terms / all_terms).backward() for each chunk, or reduction='sum' and "
                "one division",
            )  # fmt: skip

    def _unequal(self, losses: list[LossCall]) -> str:
        means = [x for x in losses if x.mean]
        sizes = {x.terms for x in means}
        calls = {x.call for x in means}
        if len(sizes) < 2 or len(means) < len(losses) or len(calls) < len(means):
            return ""
        each = [abs(x.weight) / x.terms for x in means]
        equal = max(abs(x.weight) for x in means) <= min(abs(x.weight) for x in means) * (1 + 1e-6)
        if not equal or max(each) <= min(each) * (1 + self.tolerance):
            return ""
        return (
            f"{len(means)} means over {min(sizes)} to {max(sizes)} terms were added with equal "
            "weight: a term "
            f"counts {max(each) / min(each):.2g} times another."
        )

    def _divided_twice(self, losses: list[LossCall]) -> str:
        # A mean over n terms that is divided by n once more.
        if len(losses) != 1 or not losses[0].mean or losses[0].terms < 8:
            return ""
        weight, terms = abs(losses[0].weight), losses[0].terms
        if abs(weight * terms - 1) > 1e-3:
            return ""
        return f"a mean over {terms} terms was divided by {terms} once more."
