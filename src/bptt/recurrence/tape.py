"""A forward pass as places in autograd's graph: every call that may be a step, and every tick."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from bptt.nn import carry
from bptt.recurrence.loops import KNOWN, LAYERS, is_silent

# A node of autograd's graph and which of its outputs.
Edge: TypeAlias = tuple[Any, int]


@dataclass(eq=False)
class Visit:
    """One call of a module that may be recurrent, or one tick, as places in autograd's graph.

    Attributes:
        name, module: which; a tick has the model's.
        kind: ``"layer"``, ``"cell"``, ``"step"`` for a module of the user's, or ``"tick"``.
        arguments: by position the edges of the tensors it was given.
        outputs: the edges of the tensors it returned; of a tick those the step begins with.
        parent: the call it was made in.
        long: whether a layer was given more than one step.
        call: what :class:`bptt.recurrence.Call` holds of it, if it was recorded.
        time: steps since the clock began; of a layer that of its first step. Set by :func:`set_times`.
        last: of a layer, the time of its last step.
    """

    name: str
    module: nn.Module
    kind: str
    arguments: list[list[Edge]]
    outputs: list[Edge] = field(default_factory=list)
    parent: Visit | None = None
    long: bool = False
    call: Any = None
    time: int = -1
    last: int = -1

    @property
    def key(self) -> int:
        """What its other calls have in common with it."""
        return 0 if self.kind == "tick" else id(self.module)


class Tape:
    """What happened in a forward pass, in order."""

    def __init__(self, model: nn.Module, wanted: Callable[[], bool]) -> None:
        self._model, self._wanted = model, wanted
        self.visits: list[Visit] = []
        self._open: list[Visit] = []

    def clear(self) -> None:
        """Forget it."""
        self.visits, self._open = [], []

    def enter(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        """A call begins."""
        kind = "layer" if isinstance(module, LAYERS) else "step"
        kind = "cell" if isinstance(module, KNOWN) else kind
        given = [edges(value) for value in (*args, *kwargs.values())]
        # A call that was left by an error is still open: it holds nothing.
        while self._open and self._open[-1].module is module and not module_within(module):
            self._open.pop()
        parent = self._open[-1] if self._open else None
        self._open.append(Visit(name, module, kind, given, parent=parent))

    def leave(self, module: nn.Module, output: Any, call: Any = None, long: bool = False) -> None:
        """It ends."""
        while self._open:
            visit = self._open.pop()
            if visit.module is module:
                given = {e for position in visit.arguments for e in position}
                visit.outputs = [e for e in dict.fromkeys(edges(output)) if e not in given]
                visit.call, visit.long = call, long
                if visit.outputs:  # else no gradient passes here
                    self.visits.append(visit)
                return

    def tick(self, state: Any) -> Any:
        """A step begins; see :func:`tick`."""
        if is_silent() or not self._wanted() or torch._C._current_graph_task_id() != -1:
            return state
        given = edges(state)
        made: dict[int, Tensor] = {}

        def enter(tensor: Tensor) -> Tensor:
            if not tensor.requires_grad:
                return tensor
            return made.setdefault(id(tensor), tensor.clone())

        begun = carry.apply(enter, state) if torch.is_grad_enabled() else state
        self.visits.append(Visit("", self._model, "tick", [given], edges(begun) if made else []))
        return begun


def module_within(module: nn.Module) -> bool:
    """Whether a module holds itself: never, but a module may call itself through another."""
    return any(m is module for m in [*module.modules()][1:])


_ACTIVE: list[Tape] = []


def listen(tape: Tape) -> None:
    """Have ticks written to a tape."""
    _ACTIVE.append(tape)


def unlisten(tape: Tape) -> None:
    """And no longer."""
    if tape in _ACTIVE:
        _ACTIVE.remove(tape)


def tick(state: Any) -> Any:
    """Say that a new time step begins with this state, in a loop written by hand.

    ``bptt.watch`` finds the steps of layers, cells and modules called with their state by itself. A
    recurrence inside one ``forward`` has no calls to be found: put ``h = bptt.tick(h)`` at the top of
    the loop's body, once a step, with all states in one call.

    Args:
        state: a tensor, or tuples, lists and dicts of them.

    Returns:
        the state; outside a watched step the very same object.

    Cost: outside a watched step none; inside, a copy of the state.

    Example:
        >>> import torch, bptt
        >>> class Mine(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.inner = torch.nn.Linear(5, 5)
        ...     def forward(self, x):
        ...         h = torch.zeros_like(x[0])
        ...         for value in x:
        ...             h = bptt.tick(h)
        ...             h = torch.tanh(self.inner(h) + value)
        ...         return h
        >>> model = Mine()
        >>> with bptt.watch(model) as flow:
        ...     model(torch.randn(9, 2, 5)).square().sum().backward()
        >>> flow.method, flow.spectrum.steps
        ('graded', 9)
    """
    for tape in list(_ACTIVE):
        state = tape.tick(state)
    return state


def edges(value: Any) -> list[Edge]:
    """Where the tensors in a value stand in the graph; leaves and those without a gradient do not."""
    found = []
    for tensor in _tensors(value):
        if tensor.requires_grad and tensor.grad_fn is not None:
            found.append((tensor.grad_fn, tensor.output_nr))
    return found


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return [value.data]
    return carry.tensors(value)


def children_first(roots: Iterable[Any], known: dict[Any, list[Edge]]) -> list[Any]:
    """Every node below the roots that is not known yet, each after all that it leads to.

    Args:
        known: takes them, each with where its gradients go.
    """
    order: list[Any] = []
    for root in roots:
        if root in known:
            continue
        known[root] = [e for e in root.next_functions if e[0] is not None]
        stack = [(root, iter(known[root]))]
        while stack:
            node, rest = stack[-1]
            for child, _ in rest:
                if child not in known:
                    known[child] = below = [e for e in child.next_functions if e[0] is not None]
                    if below:
                        stack.append((child, iter(below)))
                        break
                    order.append(child)
            else:
                stack.pop()
                order.append(node)
    return order


# Be told when a backward pass begins, while its graph is still there, and when a subclass of a layer
# calls the layer's own forward: what no hook of torch's says.

Begun = Callable[[list[Edge], list[Tensor]], None]
Ended = Callable[[], None]
Failed = Callable[[RuntimeError], None]
Listener: TypeAlias = tuple[Begun, Ended, "Failed | None"]

# A pass belongs to those who listen in its own thread: several models may train side by side.
_LISTENERS: list[tuple[int, Begun, Ended, Failed | None]] = []
_ORIGINAL: dict[str, Any] = {}
_CHANGES = threading.Lock()


def on_backward(begun: Begun, ended: Ended, failed: Failed | None = None) -> None:
    """Call one function with the roots of every backward pass that this thread begins and their
    gradients before it runs, and another after it; a third with the error where it ends with one."""
    with _CHANGES:
        if not _LISTENERS:
            _ORIGINAL.update(backward=torch.autograd.backward, grad=torch.autograd.grad)
            torch.autograd.backward = _backward
            torch.autograd.grad = _grad
        _LISTENERS.append((threading.get_ident(), begun, ended, failed))


def off_backward(begun: Begun, ended: Ended) -> None:
    """And no longer."""
    with _CHANGES:
        listening = [one for one in _LISTENERS if one[1:3] == (begun, ended)]
        for one in listening:
            _LISTENERS.remove(one)
        if listening and not _LISTENERS:
            torch.autograd.backward = _ORIGINAL["backward"]
            torch.autograd.grad = _ORIGINAL["grad"]


def _backward(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> Any:
    told = _tell(tensors, grad_tensors)
    return _run(told, "backward", tensors, grad_tensors, *args, **kwargs)


def _grad(outputs: Any, inputs: Any, grad_outputs: Any = None, *args: Any, **kwargs: Any) -> Any:
    told = _tell(outputs, grad_outputs)
    return _run(told, "grad", outputs, inputs, grad_outputs, *args, **kwargs)


def _run(told: list[Listener], name: str, *args: Any, **kwargs: Any) -> Any:
    try:
        done = _ORIGINAL[name](*args, **kwargs)
    except RuntimeError as error:
        for _, _, failed in told:
            if failed is not None:
                failed(error)
        raise
    for _, ended, _ in told:
        ended()
    return done


def _tell(tensors: Any, gradients: Any) -> list[Listener]:
    # Inside a backward pass nothing begins, and what measures is not measured.
    if is_silent() or torch._C._current_graph_task_id() != -1:
        return []
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    given: Sequence[Any] = [gradients] if isinstance(gradients, Tensor) else list(gradients or [])
    roots, values = [], []
    for place, tensor in enumerate(tensors):
        gradient = given[place] if place < len(given) else None
        if not isinstance(tensor, Tensor) or tensor.grad_fn is None:
            continue
        if gradient is None:
            if tensor.numel() != 1:
                return []  # autograd itself will say so
            gradient = torch.ones_like(tensor)
        roots.append((tensor.grad_fn, tensor.output_nr))
        values.append(gradient.detach())
    here = threading.get_ident()
    told = [(b, e, f) for thread, b, e, f in list(_LISTENERS) if thread == here] if roots else []
    for begun, _, _ in told:
        begun(roots, values)
    return told


Inner = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
_INNER: dict[int, list[Inner]] = {}
_FORWARD: dict[type, Any] = {}


def base_of(module: nn.Module) -> type | None:
    """The class whose forward a subclass with a forward of its own can call; None for a plain layer."""
    own = type(module)
    for base in own.__mro__:
        if base.__module__.startswith(("torch.nn.", "bptt.nn.")) and "forward" in vars(base):
            return None if own.forward is base.forward else base  # type: ignore[attr-defined]
    return None


def on_base_forward(module: nn.Module, base: type, inner: Inner) -> None:
    """Hand a function every call of the base class's forward by this module, to make it."""
    if base not in _FORWARD:
        original = base.forward  # type: ignore[attr-defined]

        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            listeners = _INNER.get(id(self))
            if not listeners:
                return original(self, *args, **kwargs)
            return listeners[-1](lambda *a, **k: original(self, *a, **k), args, kwargs)

        _FORWARD[base] = original
        base.forward = forward  # type: ignore[attr-defined]
    _INNER.setdefault(id(module), []).append(inner)


def off_base_forward(module: nn.Module, inner: Inner) -> None:
    """And no longer."""
    listeners = _INNER.get(id(module), [])
    if inner in listeners:
        listeners.remove(inner)
    if not listeners:
        _INNER.pop(id(module), None)
    if not _INNER:
        for base, original in _FORWARD.items():
            base.forward = original  # type: ignore[attr-defined]
        _FORWARD.clear()
