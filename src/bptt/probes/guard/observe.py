"""Watch a training loop from outside: hooks of modules, optimisers and autograd, and torch's own
functions that clip, scale and score, wrapped while a guard is on.

Nothing is changed: every wrapper calls what it wraps with what it was given and returns what came back.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad
from torch.optim import optimizer as optimizers

from bptt.probes.guard.calls import Calls
from bptt.probes.guard.loop import (
    CLIPS,
    Clipping,
    Hooks,
    Loop,
    Stamp,
    Update,
    as_list,
    asks_itself,
    first_gradients,
    is_as_stamped,
    norm_of,
    sentinels,
    stamp,
)
from bptt.recurrence import off_backward, on_backward
from bptt.recurrence.record import Hook

# Updates that are looked at closely: the first, and then so many of each cycle. Of the others only the
# norm is known: from whoever clips by it, else it is taken at every third.
FIRST, BURST, CYCLE, SELDOM, TOGETHER = 64, 8, 512, 3, 16


class Observer:
    """Hooks on a loop; tells of its events.

    Args:
        loop: whose counts it keeps.
        optimizers: those that update the model.
        tell: called with the name of an event and its record; never raises.
    """

    def __init__(
        self,
        loop: Loop,
        optimizers: list[torch.optim.Optimizer],
        tell: Callable[[str, Any], Any],
    ) -> None:
        self.loop, self._tell = loop, tell
        self._thread = threading.get_ident()
        self._always, self._close = Hooks(), Calls(loop, tell)
        self._ours = {id(p) for p in loop.model.parameters()}
        self._parameters = list(loop.model.parameters())
        self._sentinels = sentinels(loop)
        self._guarded = {id(o) for o in optimizers}
        loop.held |= {
            id(p): type(o).__name__ for o in optimizers for g in o.param_groups for p in g["params"]
        }
        self._newest = -1
        # Since the last update.
        self._passes = 0
        self._clean = False
        self._before: float | None = None
        self._after: float | None = None
        self._clips = False
        self._order = 2.0
        self._threshold: float | None = None
        self._acted: bool | None = None
        self._attends = False
        self._partly = False  # attention began within this update
        self._sound = True  # clipping came at the right time so far
        # Updates at rest: number, norm before and after, threshold, whether the clip acted.
        self._waiting: list[tuple[int, float | None, float | None, float | None, bool | None]] = []
        self._used: dict[int, Stamp | None] = {}
        self._repeated = False
        self._scale = 1.0
        self._unscaled = False

    def tell_updates(self) -> None:
        """Tell of the updates that wait."""
        waiting, self._waiting = self._waiting, []
        for number, before, after, threshold, acted in waiting:
            after = before if after is None else after
            self._tell_one(
                Update(number, False, before, after, threshold, acted, 0, False, False, [], False)
            )

    def _tell_one(self, update: Update) -> None:
        self.loop.at = update.number
        self._tell("on_update", update)

    # Coming and going.

    def attach(self) -> None:
        """Set every hook."""
        self._always.handles += [
            optimizers.register_optimizer_step_pre_hook(self._step_begins),
            optimizers.register_optimizer_step_post_hook(self._step_ended),
            self.loop.outer.register_forward_pre_hook(Hook(self._called_while_resting)),
        ]
        CLIPS.append(self._our_clip)
        self._always.undo.append(lambda: CLIPS.remove(self._our_clip))
        # Who imported clip_grad_norm_ before holds torch's own; what that calls is looked up each time.
        for name in ("_clip_grads_with_norm_", "clip_grads_with_norm_"):
            self._always.wrap(clip_grad, name, self._clip_by_norm)
        for place in (clip_grad, nn.utils):
            self._always.wrap(place, "clip_grad_value_", self._clip_by_value)
        self._always.wrap(torch.amp.GradScaler, "scale", self._scaled)
        self._always.wrap(torch.amp.GradScaler, "unscale_", self._unscale)
        self._attend()

    def detach(self) -> None:
        """Take every hook off, the last first."""
        self.tell_updates()
        self._rest()
        self._always.release()

    @property
    def _rests(self) -> bool:
        """Whether norms alone are looked at."""
        return not self._attends and self._sound

    def _attend(self) -> None:
        """Look at every call, loss and backward pass from here on."""
        if self._attends:
            return
        self._attends = True
        hooks = self._close.attend()
        on_backward(self._backward_begins, self._backward_ended)
        hooks.undo.append(lambda: off_backward(self._backward_begins, self._backward_ended))
        for name in ("_get_total_norm", "get_total_norm"):
            hooks.wrap(clip_grad, name, self._total_norm)

    def _rest(self) -> None:
        """Look at norms alone: what else goes wrong goes wrong early, or in every update."""
        if not self._attends:
            return
        self._attends = False
        self._close.rest()

    def _called_while_resting(self, module: nn.Module, args: Any) -> None:
        if not self._attends and not torch.is_grad_enabled():
            self.tell_updates()
            self._attend()  # an evaluation: the hooks just set see its next call
            self._partly = True

    # Gradients.

    def _backward_begins(self, roots: list[Any], given: list[Tensor]) -> None:
        numbers = [node._sequence_nr() for node, _ in roots]
        self._newest = max(numbers, default=-1)
        if not self._clean:
            gradient = next((p.grad for p in self._sentinels if p.grad is not None), None)
            self._clean = gradient is None or not bool(gradient.any())

    def _backward_ended(self) -> None:
        self.loop.last_node = self._newest
        self.loop.passes += 1
        self._passes += 1
        self._close.backward_ended()
        # Where torch's clipping comes before every update, it tells the norm, and none is taken here.
        if not self._clips:
            self._before = self._norm()
        self._acted = self._threshold = self._after = (
            None  # what was clipped before is not the whole
        )

    def _norm(self) -> float | None:
        return norm_of([p.grad for p in self._parameters if p.grad is not None])

    def _spent(self, parameters: list[Any]) -> bool:
        """Whether an update used their gradients already, or none has come yet."""
        if self._passes:
            return False
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.loop.updates == 0:
            return not gradients
        if any(p.grad is not None and id(p) not in self._used for p in parameters):
            return False
        return all(
            is_as_stamped(g, self._used.get(id(p))) or not bool(g.any())
            for p, g in first_gradients(parameters)
        )

    def _clip_by_norm(
        self,
        original: Any,
        parameters: Any,
        max_norm: Any,
        total_norm: Any,
        *rest: Any,
        **more: Any,
    ) -> Any:
        parameters, threshold = as_list(parameters), float(max_norm)
        careful = not self._rests
        spent = self._before_clip(parameters, threshold) if careful else False
        done = original(parameters, max_norm, total_norm, *rest, **more)
        if not spent and self._order == 2.0 and self._holds_all(parameters):
            self._note_norm(threshold, total_norm.item())
        elif careful:
            self._after_clip(parameters, spent)
        return done

    def _note_norm(self, threshold: float, norm: float) -> None:
        """The whole gradient was clipped by its norm."""
        self._before, self._after = norm, norm * min(1.0, threshold / (norm + 1e-6))
        self._threshold, self._acted, self._clips = threshold, norm > threshold, True

    def _our_clip(
        self, parameters: list[Tensor], threshold: float | None, norm: Tensor, by_norm: bool
    ) -> None:
        if threading.get_ident() != self._thread or not self._holds_all(parameters):
            return
        if not self._rests:
            self._before_clip(parameters, threshold if by_norm else None)
        if by_norm and threshold is not None:
            self._note_norm(threshold, float(norm))
        elif threshold is None:  # measured only
            self._before = self._after = float(norm)
            self._clips = True
        else:  # a clip by another measure is meant to act as often as it does
            self._before, self._after, self._acted, self._clips = float(norm), None, False, True

    def _total_norm(
        self, original: Any, tensors: Any, norm_type: Any = 2.0, *args: Any, **more: Any
    ) -> Any:
        self._order = float(norm_type)
        return original(tensors, norm_type, *args, **more)

    def _holds_all(self, parameters: list[Any]) -> bool:
        own = self._parameters
        if len(parameters) == len(own) and all(map(is_, parameters, own)):
            return True
        given = {id(p) for p in parameters}
        return given <= self._ours and all(id(p) in given for p in own if p.grad is not None)

    def _clip_by_value(self, original: Any, parameters: Any, *args: Any, **kwargs: Any) -> Any:
        parameters = as_list(parameters)
        careful = not self._rests
        spent = self._before_clip(parameters, None) if careful else False
        done = original(parameters, *args, **kwargs)
        if careful:
            self._after_clip(parameters, spent)
        return done

    def _before_clip(self, parameters: list[Any], threshold: float | None) -> bool:
        ours = [p for p in parameters if id(p) in self._ours]
        if not ours:
            return False
        gradients = [p.grad for p in ours if p.grad is not None]
        spent = self._spent(ours)
        scaled = self._scale if not (self._unscaled or spent) else 1.0
        empty = spent and not any(bool(g.any()) for g in gradients)
        self._sound = self._sound and not spent and scaled == 1.0
        if not spent:
            self._threshold = threshold
        self._tell(
            "on_clip", Clipping(threshold, len(ours), spent, empty, scaled, self._close.forward)
        )
        return spent

    def _after_clip(self, parameters: list[Any], spent: bool) -> None:
        if not any(id(p) in self._ours for p in parameters):
            return
        if spent:  # written to, and still the gradient that was used
            self._note_used(parameters)
        else:
            self._after = self._norm()

    def _scaled(self, original: Any, scaler: Any, outputs: Any) -> Any:
        done = original(scaler, outputs)
        self._scale, self._unscaled = (
            (float(scaler.get_scale()) if scaler.is_enabled() else 1.0),
            False,
        )
        return done

    def _unscale(self, original: Any, scaler: Any, optimizer: Any) -> Any:
        done = original(scaler, optimizer)
        if self._owns(optimizer):
            self._unscaled = True
            self._before = self._norm()
        return done

    # Updates.

    def _note_used(self, parameters: list[Any]) -> None:
        for p in parameters:
            self._used[id(p)] = None
            self.loop.held.setdefault(id(p), "")  # a group that was added since
        for p, gradient in first_gradients(parameters):
            self._used[id(p)] = stamp(gradient)

    def _owns(self, optimizer: torch.optim.Optimizer) -> bool:
        if id(optimizer) in self._guarded:
            return True
        found = any(id(p) in self._ours for g in optimizer.param_groups for p in g["params"])
        if found:
            self._guarded.add(id(optimizer))
        for group in optimizer.param_groups:
            for p in group["params"]:
                self.loop.held.setdefault(id(p), type(optimizer).__name__)
        return found

    def _step_begins(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        # At rest, where a clip has told the norm, there is nothing to see; that is most updates.
        if self._after is not None and id(optimizer) in self._guarded and self._rests:
            return
        if threading.get_ident() != self._thread or not self._owns(optimizer):
            return
        closure = asks_itself(args, kwargs)
        if not self._attends:
            if not closure and (self._before is not None or self.loop.updates % SELDOM == 0):
                self._take_norms()
            if self._sound:
                return
        held = [p for g in optimizer.param_groups for p in g["params"]]
        seen = list(first_gradients(held))
        same = bool(seen) and all(is_as_stamped(g, self._used.get(id(p))) for p, g in seen)
        self._repeated = same and not closure and not self._passes
        if not closure:
            self._take_norms()

    def _take_norms(self) -> None:
        if self._after is None:
            self._after = self._norm()
            if self._before is None:  # clipping told it so far, and did not this time
                self._before, self._clips = self._after, False

    def _step_ended(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if threading.get_ident() != self._thread or id(optimizer) not in self._guarded:
            return
        self.loop.updates = at = self.loop.updates + 1
        closure = asks_itself(args, kwargs)
        before, resting = self._before, self._rests and not closure
        if resting:
            self._waiting.append((at, before, self._after, self._threshold, self._acted))
        else:
            self._tell_closely(closure)
        attend = at < FIRST or at % CYCLE < BURST
        if attend or not resting:
            self._note_used([p for g in optimizer.param_groups for p in g["params"]])
            self._close.losses = []
            self._passes, self._close.forward = 0, False
            self._clean = self._partly = self._repeated = False
        self._before = self._after = self._threshold = self._acted = None
        self._scale, self._unscaled = 1.0, False
        # What rests is told a few at a time: the code of the rules is cold in each update's memory.
        if resting and (
            attend
            or len(self._waiting) >= TOGETHER
            or at >= self.loop.wake
            or not (before is None or math.isfinite(before))
        ):
            self.tell_updates()
        if attend:
            self._attend()
        elif self._attends:
            self._rest()

    def _tell_closely(self, closure: bool) -> None:
        """Tell of the update that was just made, with all that was seen of it."""
        if closure and self._before is None and (self._attends or self.loop.updates % SELDOM == 0):
            self._before = self._norm()  # the gradient still stands
        after = self._before if self._after is None else self._after
        stale = self._passes > 0 and not self._clean and bool(self._used) and not self._partly
        self.tell_updates()
        self._tell_one(
            Update(
                self.loop.updates, self._attends, self._before, after, self._threshold, self._acted,
                self._passes, self._repeated and not self._partly, stale,
                [] if self._partly else self._close.losses, closure,
            )
        )  # fmt: skip
