"""Be told when a backward pass begins, while its graph is still there, and when a subclass of a layer
calls the layer's own forward: what no hook of torch's says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bptt.recurrence.cellcalls import is_silent
from bptt.recurrence.tape import Edge

Begun = Callable[[list[Edge], list[Tensor]], None]
Ended = Callable[[], None]

# A pass belongs to those who listen in its own thread: several models may train side by side.
_LISTENERS: list[tuple[int, Begun, Ended]] = []
_ORIGINAL: dict[str, Any] = {}
_CHANGES = threading.Lock()


def on_backward(begun: Begun, ended: Ended) -> None:
    """Call one function with the roots of every backward pass that this thread begins and their
    gradients before it runs, and another after it."""
    with _CHANGES:
        if not _LISTENERS:
            _ORIGINAL.update(backward=torch.autograd.backward, grad=torch.autograd.grad)
            torch.autograd.backward = _backward
            torch.autograd.grad = _grad
        _LISTENERS.append((threading.get_ident(), begun, ended))


def off_backward(begun: Begun, ended: Ended) -> None:
    """And no longer."""
    with _CHANGES:
        listening = [one for one in _LISTENERS if one[1:] == (begun, ended)]
        for one in listening:
            _LISTENERS.remove(one)
        if listening and not _LISTENERS:
            torch.autograd.backward = _ORIGINAL["backward"]
            torch.autograd.grad = _ORIGINAL["grad"]


def _backward(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> Any:
    told = _tell(tensors, grad_tensors)
    done = _ORIGINAL["backward"](tensors, grad_tensors, *args, **kwargs)
    for _, ended in told:
        ended()
    return done


def _grad(outputs: Any, inputs: Any, grad_outputs: Any = None, *args: Any, **kwargs: Any) -> Any:
    told = _tell(outputs, grad_outputs)
    done = _ORIGINAL["grad"](outputs, inputs, grad_outputs, *args, **kwargs)
    for _, ended in told:
        ended()
    return done


def _tell(tensors: Any, gradients: Any) -> list[tuple[Begun, Ended]]:
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
    told = [(b, e) for thread, b, e in list(_LISTENERS) if thread == here] if roots else []
    for begun, _ in told:
        begun(roots, values)
    return told


Inner = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
_INNER: dict[int, list[Inner]] = {}
_FORWARD: dict[type, Any] = {}


def base_of(module: nn.RNNBase) -> type | None:
    """The class whose forward a subclass with a forward of its own can call; None for a plain layer."""
    own = type(module)
    for base in own.__mro__:
        if base.__module__.startswith(("torch.nn.", "bptt.nn.")) and "forward" in vars(base):
            return None if own.forward is base.forward else base  # type: ignore[attr-defined]
    return None


def on_base_forward(module: nn.RNNBase, base: type, inner: Inner) -> None:
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


def off_base_forward(module: nn.RNNBase, inner: Inner) -> None:
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
