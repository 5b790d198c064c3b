"""What a guard knows of a training loop, and the face of a rule.

An observer (:mod:`bptt.probes.guard.observe`) tells of four events: a module was called, a backward pass
began, gradients were clipped, an update was made. A rule answers an event with what it found. Rules
keep numbers and weak references of what they are shown, never a tensor: what the loop lets go of is
freed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from bptt.recurrence.loops import LAYERS, states_of


@dataclass(frozen=True)
class Finding:
    """A mistake that a guard saw.

    Attributes:
        code: of the rule, e.g. ``"missing-detach"``.
        update: how many updates had been made when it was seen.
        module: where, a name of ``model.named_modules()``; ``"optimizer"`` or ``"model"`` besides.
        seen: what was seen, with numbers.
        why: why it matters.
        claim: the row of the ledger that measured it; empty where none does.
        write: the line to write.
    """

    code: str
    update: int
    module: str
    seen: str
    why: str
    claim: str
    write: str

    @property
    def page(self) -> str:
        """Where the mistake is described: the loop, what it costs, the right loop."""
        return f"docs/mistakes.md#{self.code}"

    def __str__(self) -> str:
        """One line.

        Example:
            >>> print(Finding("spike", 3, "optimizer", "It jumped.", "Why.", "B7", "clip"))
            spike, update 3, optimizer: It jumped. Why. (ledger: B7) Write: clip (docs/mistakes.md#spike)
        """
        row = f" (ledger: {self.claim})" if self.claim else ""
        return (
            f"{self.code}, update {self.update}, {self.module}: {self.seen} {self.why}{row} "
            f"Write: {self.write} ({self.page})"
        )


@dataclass(eq=False)
class Call:
    """One call of the model or of a recurrent module in it.

    Attributes:
        name, module: which; ``"model"`` for the model itself.
        whole: whether it is the model itself.
        x: its first tensor.
        states: the state it was given; empty where it was given none.
        argument: how that argument is called.
        lengths: whether it knows the lengths of its sequences.
        training: of the module.
        graph: whether gradients were enabled.
        first: whether it is this module's first since the last backward pass ended.
        output, returned: what came out, and the states in it; None and empty on the way in.
    """

    name: str
    module: nn.Module
    whole: bool
    x: Tensor | None
    states: tuple[Tensor, ...]
    argument: str
    lengths: bool
    training: bool
    graph: bool
    first: bool
    output: Any = None
    returned: tuple[Tensor, ...] = ()

    @property
    def time_axis(self) -> int:
        """Of ``x``, where the module is a layer or the model around one."""
        return 1 if getattr(self.module, "batch_first", False) else 0


@dataclass(eq=False)
class LossCall:
    """One call of a loss function.

    Attributes:
        terms: how many numbers it averaged or summed.
        mean: whether it averaged.
        call: how often the model had been called by then: losses of one call are of several heads.
        weight: ∂(what was differentiated)/∂(its result); 0 until the backward pass.
    """

    terms: int
    mean: bool
    call: int
    weight: float = 0.0


@dataclass(eq=False)
class Clipping:
    """One call of a function that clips.

    Attributes:
        threshold: the largest norm; None where values are clipped.
        parameters: how many of the model's.
        spent: their gradients were used by an update already, and no new ones have come.
        empty: they are all absent or zero.
        scaled: the factor of a loss scale they still carry; 1 otherwise.
        after_forward: the model was called since the last update.
    """

    threshold: float | None
    parameters: int
    spent: bool
    empty: bool
    scaled: float
    after_forward: bool


@dataclass(eq=False, slots=True)
class Update:
    """One step of an optimiser.

    Attributes:
        number: from 1.
        attended: calls and backward passes were looked at; otherwise only norms are known.
        before, after: norm of the gradient as backward left it, and as the update used it; None where
            it could not be told.
        threshold: that a clipping function was called with, if one was.
        acted: whether a function that clips the whole gradient by its norm changed it; None where none
            was called.
        passes: backward passes since the last update.
        repeated: the gradient is the very one that the last update used.
        stale: no gradient was zeroed since the last update: the new one was added to the old.
        losses: the losses that the passes differentiated.
        closure: the optimiser asks for the gradient itself.
    """

    number: int
    attended: bool
    before: float | None
    after: float | None
    threshold: float | None
    acted: bool | None
    passes: int
    repeated: bool
    stale: bool
    losses: list[LossCall]
    closure: bool

    @property
    def clipped(self) -> bool:
        """Whether the gradient became smaller on its way to the update."""
        if self.acted is not None:
            return self.acted
        return (
            self.before is not None
            and self.after is not None
            and self.after < self.before * (1 - 1e-5)
        )


@dataclass(eq=False)
class Loop:
    """The facts that rules share.

    Attributes:
        model: the guarded model.
        recurrent: its recurrent modules by name.
        outer: the module whose calls are the model's.
        updates, passes, calls: how many there have been; calls are those of the model.
        at: the update that is judged; at rest they are judged a few at a time.
        wake: the update from which on each one is told at once.
        last_node: number of the newest autograd node when the last backward pass began.
        lengths: (B,) that the user told for the batch to come.
        fresh: the user told which lanes begin a new sequence with the batch to come.
        hinted: whether the user ever did.
        batches: where the batches of loaders lie, and whether they were drawn at random.
        horizon: measured last; None before.
        steps: T of that measurement: of all modules on one clock where they are chained.
        held: parameters that an optimiser holds, by id.
    """

    model: nn.Module
    recurrent: dict[str, nn.Module]
    outer: nn.Module
    updates: int = 0
    passes: int = 0
    calls: int = 0
    at: int = 0
    wake: int = 0
    last_node: int = -1
    lengths: Tensor | None = None
    fresh: Tensor | bool | None = None
    hinted: bool = False
    batches: Places = field(default_factory=lambda: Places())
    horizon: int | None = None
    steps: int = 0
    held: dict[int, str] = field(default_factory=dict)

    @property
    def time_axis(self) -> int:
        """Of a batch, as the model's first layer has it."""
        layers = (m for m in self.recurrent.values() if isinstance(m, LAYERS))
        return int(next((m.batch_first for m in layers), False))


class Places:
    """Where states lay in memory, by weak references: an address alone may be another tensor's by now."""

    def __init__(self, most: int = 32) -> None:
        self._most = most
        self._kept: list[tuple[StorageWeakRef, dict[str, Any]]] = []

    def note(self, tensor: Tensor, **facts: Any) -> None:
        """Remember facts about a tensor's memory; the oldest are forgotten."""
        reference = StorageWeakRef(tensor.untyped_storage())
        self._kept = [k for k in self._kept if k[0].cdata != reference.cdata and not k[0].expired()]
        self._kept = [*self._kept[1 - self._most :], (reference, facts)]

    def find(self, tensor: Tensor) -> dict[str, Any] | None:
        """The facts about a tensor's memory, whatever view of it this is."""
        place = tensor.untyped_storage()._cdata
        for reference, facts in self._kept:
            if reference.cdata == place and not reference.expired():
                return facts
        return None


class Rule:
    """One kind of mistake: thresholds that can be set, a reason, a source.

    A subclass is a dataclass whose fields are its thresholds. It answers the events it needs with
    :meth:`found`; each of its codes is told once.
    """

    codes: ClassVar[tuple[str, ...]] = ()
    why: ClassVar[dict[str, str]] = {}
    always: ClassVar[bool] = False  # asked about updates of which only norms are known, too
    claim: ClassVar[dict[str, str]] = {}

    def on_call(self, loop: Loop, call: Call) -> Iterator[Finding]:
        """The model or a recurrent module is about to run; nothing has come out yet."""
        yield from ()

    def on_return(self, loop: Loop, call: Call) -> Iterator[Finding]:
        """It has run."""
        yield from ()

    def on_clip(self, loop: Loop, clipping: Clipping) -> Iterator[Finding]:
        """Gradients are about to be clipped."""
        yield from ()

    def on_update(self, loop: Loop, update: Update) -> Iterator[Finding]:
        """An update was made."""
        yield from ()

    def on_flow(self, loop: Loop, flow: Any) -> Iterator[Finding]:
        """How far back the gradient reaches was measured."""
        yield from ()

    def on_error(self, loop: Loop, error: BaseException) -> Iterator[Finding]:
        """The loop ended with an error."""
        yield from ()

    def found(self, loop: Loop, code: str, module: str, seen: str, write: str) -> Finding:
        """A finding of this rule."""
        return Finding(code, loop.at, module, seen, self.why[code], self.claim.get(code, ""), write)


def oldest_reached(tensors: tuple[Tensor, ...], than: int, most: int = 200) -> bool:
    """Whether a tensor's graph reaches a node as old as the last backward pass.

    Nodes are numbered as they are made; leaves have no place in this order.

    Cost: at most ``most`` nodes are looked at.
    """
    ahead = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen: set[Any] = set()
    while ahead and len(seen) < most:
        node = ahead.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::AccumulateGrad":
            continue
        if node._sequence_nr() <= than:
            return True
        ahead += [n for n, _ in node.next_functions if n is not None]
    return False


# Who is told when a clip of bptt.remedies is called: with the parameters that have a gradient, before it
# is changed, the threshold, the norm, and whether that is what the threshold is one of.
CLIPS: list[Callable[[list[Tensor], float | None, Tensor, bool], None]] = []

Stamp: TypeAlias = tuple[StorageWeakRef, int]


def stamp(tensor: Tensor | None) -> Stamp | None:
    """A tensor as it is now: its memory, and how often it was written to."""
    return None if tensor is None else (StorageWeakRef(tensor.untyped_storage()), tensor._version)


def is_as_stamped(tensor: Tensor | None, before: Stamp | None) -> bool:
    """Whether it is that tensor and was not written to since."""
    if tensor is None or before is None or before[0].expired():
        return False
    return before[0].cdata == tensor.untyped_storage()._cdata and before[1] == tensor._version


FEW = 32  # tensors


def norm_of(gradients: list[Tensor]) -> float:
    """2-norm of all numbers in a list of gradients."""
    if not gradients:
        return 0.0
    with torch.no_grad():
        if any(g.is_sparse for g in gradients):
            gradients = [g.coalesce().values() if g.is_sparse else g for g in gradients]
        norms = torch._foreach_norm(gradients)
        many = len(norms) > FEW or not norms[0].is_cpu
        if many and len({n.device for n in norms}) == len({n.dtype for n in norms}) == 1:
            return float(torch.linalg.vector_norm(torch.stack(norms)))
        # A few numbers of a CPU are read sooner than stacked.
        return math.hypot(*(n.item() for n in norms))


# Hooks that are set together and taken off together, and what is read off a call's arguments.


class Hooks:
    """Handles of hooks, and wrappers around functions of torch's.

    Attributes:
        handles: each is removed on release.
        undo: called on release, the last first.
    """

    def __init__(self) -> None:
        self.handles: list[Any] = []
        self.undo: list[Callable[[], None]] = []
        self._thread = threading.get_ident()

    def wrap(self, place: Any, name: str, around: Callable[..., Any]) -> None:
        """Put ``around(original, ...)`` in the place of a function, for calls of this thread."""
        original = getattr(place, name, None)
        if original is None:  # not in every version of torch
            return
        thread = self._thread

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling() or threading.get_ident() != thread:
                return original(*args, **kwargs)
            return around(original, *args, **kwargs)

        wrapper.__name__, wrapper.__doc__ = name, original.__doc__
        setattr(place, name, wrapper)
        self.undo.append(lambda: setattr(place, name, original))

    def release(self) -> None:
        """Put everything back."""
        for handle in self.handles:
            handle.remove()
        for undo in reversed(self.undo):
            undo()
        self.handles, self.undo = [], []


def outermost(model: nn.Module, recurrent: dict[str, nn.Module]) -> nn.Module:
    """The module that is called as a whole: the model, or in one without a forward of its own the only
    child that holds everything recurrent."""
    own = next((c for c in type(model).__mro__ if "forward" in vars(c)), nn.Module)
    without = own is nn.Module or own.__module__.startswith(("lightning.", "pytorch_lightning."))
    held = [m for m in model.children() if set(recurrent.values()) <= set(m.modules())]
    compiled = hasattr(model, "_orig_mod")  # inside of it nothing is called
    return held[0] if without and len(held) == 1 and not compiled else model


def sentinels(loop: Loop) -> list[Tensor]:
    """Small parameters that every backward pass through the recurrence reaches."""
    recurrent = [p for m in loop.recurrent.values() for p in m.parameters() if p.requires_grad]
    chosen: list[Tensor] = list(
        recurrent or (p for p in loop.model.parameters() if p.requires_grad)
    )
    return sorted(chosen, key=lambda p: p.numel())[:4]


def first_gradients(parameters: list[Any], most: int = 2) -> Iterator[tuple[Tensor, Tensor]]:
    """The first few that have a gradient, with it."""
    found = ((p, p.grad) for p in parameters if p.grad is not None)
    return islice(found, most)


def asks_itself(args: Any, kwargs: Any) -> bool:
    """Whether a step was given a closure; the optimiser itself stands first in its arguments."""
    if len(args) == 1 and not kwargs:
        return False
    return any(callable(a) for a in args[1:]) or kwargs.get("closure") is not None


def states_out(module: nn.Module, output: Any) -> tuple[Tensor, ...]:
    """The states in what a module returned; none where it is nothing of the kind."""
    try:
        return states_of(module, output)
    except (TypeError, ValueError):
        return ()


def count_terms(target: Any, ignored: Any) -> int:
    """Over how many numbers a loss is taken."""
    if not isinstance(target, Tensor):
        return 0
    if target.is_floating_point():
        return target.numel()
    return int((target != ignored).sum())


def as_list(parameters: Any) -> list[Any]:
    """Parameters as clipping functions take them: one, or an iterable."""
    if type(parameters) is list:
        return parameters
    if isinstance(parameters, Tensor):
        return [parameters]
    return list(parameters) if isinstance(parameters, Iterable) else []
