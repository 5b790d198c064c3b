"""Watch a model's own calls by hooks, and hand over its recurrences when a backward pass ends.

What is found: torch's and our layers; RNNCell, GRUCell and LSTMCell; and any module of the user's
that is called once a step as ``(x, state)`` and given back the state it returned. Nothing is copied
and no graph is held: calls are recorded as detached views.

A layer's ``∂L/∂y`` and a cell's ``∂L/∂h`` are taken by tensor hooks in the user's own backward.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from bptt.errors import ArgumentError
from bptt.nn import carry
from bptt.ops.device import autocast_dtype, device_of, random_state
from bptt.recurrence.loops import KNOWN, LAYERS, is_silent, outputs_of, states_of
from bptt.recurrence.tape import Tape, base_of, listen, off_base_forward, on_base_forward, unlisten
from bptt.recurrence.trajectory import lowest


@dataclass(eq=False)
class Call:
    """One call of a module, detached.

    Attributes:
        name, module: which.
        args, kwargs, output: what went in and came out.
        flows: whether a gradient may pass through the states it was given.
        generator: the random generator's state before, where the module drops units between layers.
        embedding: the vectors of tokens, where the layer was given tokens.
        gradients: by the place of the output tensor, what arrived at it in the backward pass.
        versions: of the tensors, so that a change in place is noticed.
        autocast: the dtype it was lowered to, where autocast was on: what went in and came out may
            all be of a higher one.
    """

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    flows: bool
    generator: Tensor | None = None
    embedding: Tensor | None = None
    gradients: dict[int, Tensor] = field(default_factory=dict)
    versions: list[tuple[Tensor, int]] = field(default_factory=list)
    autocast: torch.dtype | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The lowest dtype it was computed in."""
        found = {t.dtype for t, _ in self.versions}
        return lowest(found if self.autocast is None else {*found, self.autocast})

    def check_unchanged(self) -> None:
        """Raise if a recorded tensor was written to since."""
        if any(t._version != v for t, v in self.versions):
            raise ArgumentError(
                f"inputs and outputs of {self.name or 'the model'} as they were in the forward pass",
                "one changed in place before backward",
                "write y = f(y) in place of f_(y), or leave that tensor out of the watched step",
            )


class Recorder:
    """Hooks on a model.

    Args:
        model: any module.
        wanted: asked at every call, whether it is to be recorded.
        finished: called when a backward pass has ended that reached recorded calls, with them; or,
            where nothing was recorded, with an empty list.
    """

    def __init__(
        self,
        model: nn.Module,
        wanted: Callable[[], bool],
        finished: Callable[[list[Call]], None],
    ) -> None:
        self._wanted, self._finished = wanted, finished
        self._calls: list[Call] = []
        self._handles: list[Any] = []
        self._patched: list[Tokens] = []
        self._generators: dict[nn.Module, Tensor] = {}
        self._queued = False
        self._counted = False
        self.without_gradient = 0
        self.recorded = 0
        self.candidates: list[str] = []
        self.called: set[str] = set()
        self.own_forward: list[str] = []
        self._within: list[tuple[nn.Module, Any]] = []
        self.tape = Tape(model, wanted)
        listen(self.tape)
        self.found = self._attach(model)

    def _attach(self, model: nn.Module) -> list[str]:
        """Hook every module that may be recurrent; the names of those that are for certain."""
        found = []
        seen: set[int] = set()
        for name, module in model.named_modules():
            name = plain_name(name)
            if isinstance(module, (*LAYERS, *KNOWN)):
                found.append(name)
            elif type(module).__module__.startswith("torch."):
                continue  # torch's other layers take no state
            elif takes_two(module):
                self.candidates.append(name)
            else:
                continue
            if id(module) in seen:
                continue
            seen.add(id(module))
            if isinstance(module, LAYERS):
                self._handles.append(module.register_forward_pre_hook(Hook(self._keep_generator)))
                if hasattr(module, "forward_tokens"):
                    self._patch(name, module)
                base = base_of(module)
                if base is not None:
                    self._listen_within(name, module, base)
                    continue

            def enter(m: Any, args: Any, kwargs: Any, name: str = name) -> None:
                if self._listens():
                    self.tape.enter(name, m, args, kwargs)

            def hook(m: Any, args: Any, kwargs: Any, output: Any, name: str = name) -> Any:
                return self._record(name, m, args, kwargs, output)

            self._handles += [
                module.register_forward_pre_hook(Hook(enter), with_kwargs=True),
                module.register_forward_hook(Hook(hook), with_kwargs=True),
            ]
        return found

    def _patch(self, name: str, module: nn.Module) -> None:

        def around(
            inner: Any, tokens: Tensor, embedding: Tensor, hx: Any = None, **marks: Any
        ) -> Any:
            self._keep_generator(module)
            if self._listens():
                self.tape.enter(name, module, (tokens, hx), marks)
            output = inner(tokens, embedding, hx, **marks)
            changed = self._record(name, module, (tokens, hx), marks, output, embedding)
            return output if changed is None else changed

        self._patched.append(Tokens(module, around))

    def _listen_within(self, name: str, module: nn.Module, base: type) -> None:
        """A subclass may do more than its base: the recurrence is what the base computes."""
        self.own_forward.append(name)

        def inner(forward: Any, args: Any, kwargs: Any) -> Any:
            if self._listens():
                self.tape.enter(name, module, args, kwargs)
            output = forward(*args, **kwargs)
            self._record(name, module, args, kwargs, output)
            return output

        on_base_forward(module, base, inner)
        self._within.append((module, inner))

    def _listens(self) -> bool:
        # A checkpointed part runs again inside backward; it is not another call.
        return self._wanted() and not is_silent() and torch._C._current_graph_task_id() == -1

    def _count(self, modules: set[nn.Module]) -> None:
        """Let a parameter of each tell that a backward pass was made: between measured steps that is
        a hook a pass, and not several a call."""
        innermost = [m for m in modules if modules.isdisjoint([*m.modules()][1:])]
        trained = [next((p for p in m.parameters() if p.requires_grad), None) for m in innermost]
        found = [p for p in trained if p is not None]
        self._counted = len(found) == len(trained)
        if self._counted:
            self._handles += [p.register_hook(self._queue) for p in found]

    def remove(self) -> None:
        """Take every hook off."""
        for handle in self._handles:
            handle.remove()
        for layer, inner in self._within:
            off_base_forward(layer, inner)
        unlisten(self.tape)
        self.tape.clear()
        for tokens in self._patched:
            tokens.remove()
        self._handles, self._patched, self._calls, self._within = [], [], [], []

    def _keep_generator(self, module: Any, *_: Any) -> None:
        if module.dropout > 0 and module.training and module.num_layers > 1 and self._wanted():
            self._generators[module] = random_state(device_of(module))

    def _record(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any],
        output: Any, embedding: Tensor | None = None,
    ) -> Any:  # fmt: skip
        # A checkpointed part runs again inside backward; it is not another call.
        if is_silent() or torch._C._current_graph_task_id() != -1:
            return None
        wanted = self._wanted()
        if not wanted and self._counted:
            return None
        known = isinstance(module, (*LAYERS, *KNOWN))
        step = known or looks_like_step(module, args, kwargs, output)
        if not any(t.requires_grad for t in _tensors(output)):
            self.without_gradient += known
            if wanted:
                self.tape.leave(module, None)
            return None
        if not wanted:
            # Whichever of them the loss depends on: it may be the last state alone.
            if step:
                self._tell_of(output)
            return None
        if not step:
            self.called.add(name)
            self._tell_of(output)
            self.tape.leave(module, output)
            return None
        raw = output
        if not isinstance(module, nn.RNNBase):
            # A state may be used once more inside the cell, as an LSTM's c is for h, and a layer's output
            # may be the states that its last state is taken from. A copy is seen by the outside alone,
            # and may be written to.
            output = _copies(output)
        states = [*_tensors(args)[1:], *_tensors(list(kwargs.values()))]
        call = Call(
            name, module, _detach(args), _detach(kwargs), _detach(raw),
            any(s.requires_grad and not s.is_leaf for s in states),
            self._generators.pop(module, None), None if embedding is None else embedding.detach(),
        )  # fmt: skip
        call.versions = [(t, t._version) for t in _tensors([call.args, call.kwargs, call.output])]
        call.autocast = autocast_dtype(call.versions[-1][0].device)
        for place, tensor in enumerate(watched_outputs(module, output)):
            if tensor.requires_grad:
                tensor.register_hook(lambda g, place=place: self._arrive(call, place, g))
        self.recorded += 1
        self._calls.append(call)
        if isinstance(module, LAYERS):
            self.tape.leave(module, output, call, _steps(module, output) > 1)
        else:
            self.tape.leave(module, output, call)
        return None if output is raw else output

    def _tell_of(self, output: Any) -> None:
        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(self._queue)

    @property
    def calls(self) -> list[Call]:
        """Those of this step so far."""
        return self._calls

    def _arrive(self, call: Call, place: int, gradient: Tensor | None) -> None:
        # Outputs of one operator are all reported; None came to those the loss does not touch.
        if gradient is not None:
            call.gradients[place] = gradient.detach()
        self._queue()

    def _queue(self, _: Tensor | None = None) -> None:
        if not self._queued:
            self._queued = True
            # The engine runs it when the whole backward pass is done: as distributed training does.
            engine: Any = torch.autograd.Variable._execution_engine
            engine.queue_callback(self._finish)

    def _finish(self) -> None:
        reached = [c for c in self._calls if c.gradients]
        if reached and not self._counted:
            self._count({c.module for c in reached})
        self._calls, self._queued = [], False
        self._generators.clear()
        self.tape.clear()
        with torch.no_grad():
            self._finished(reached)


class Hook:
    """A hook of a module that stays behind where the module is copied or saved whole.

    A copy is not watched, and a file of one must load where this package is not installed: what stands
    there in its place is a function of the standard library that does nothing.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        """Call it; a compiler reads nothing here, and breaks no graph at it."""
        return None if torch.compiler.is_compiling() else self._function(*args)

    def __reduce__(self) -> Any:
        return getattr, (nullcontext(), "__exit__")


class Tokens:
    """A function around ``forward_tokens``, our layers' other entrance, which hooks do not see.

    Args:
        module: a layer; its entrance is wrapped at once.
        around: called with what it wraps and with the arguments.
    """

    def __init__(self, module: Any, around: Callable[..., Any]) -> None:
        self._module, self._around = module, around
        self._before = module.__dict__.get("forward_tokens")
        self._inner = module.forward_tokens
        self._live = True
        module.__dict__["forward_tokens"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call what is around the entrance, or the entrance itself once that was removed."""
        if self._live and not torch.compiler.is_compiling():
            return self._around(self._inner, *args, **kwargs)
        return self._inner(*args, **kwargs)

    def remove(self) -> None:
        """Take it off, in any order with others."""
        self._live = False
        top = self._module.__dict__.get("forward_tokens")
        while isinstance(top, Tokens) and not top._live:
            top = top._before
        if top is None:
            self._module.__dict__.pop("forward_tokens", None)
        else:
            self._module.__dict__["forward_tokens"] = top

    def __reduce__(self) -> Any:  # a copy has its own entrance, with nothing around it
        return getattr, (self._module, "forward_tokens")


def takes_two(module: nn.Module) -> bool:
    """Whether a module's forward can be called as (x, state)."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return True
    places = [p.kind for p in parameters]
    return len(places) > 1 or inspect.Parameter.VAR_POSITIONAL in places


def looks_like_step(module: nn.Module, args: Any, kwargs: Any, output: Any) -> bool:
    """Whether a call could be a step (x, state) of a user's cell: states out as they came in."""
    if len(args) + len(kwargs) < 2 or not args:
        return False
    inputs = list(carry.tensors(args[:1]))
    given = list(carry.tensors([*args[1:], *kwargs.values()]))
    states = states_of(module, output)
    if not inputs or not states or not all(s.is_floating_point() for s in states):
        return False
    lanes = inputs[0].shape[:1]
    if not lanes or any(s.dim() < 1 or s.shape[:1] != lanes for s in states):
        return False
    if not given:  # a first step may be given no state
        return all(v is None for v in [*args[1:], *kwargs.values()])
    return [g.shape for g in given] == [s.shape for s in states]


def watched_outputs(module: nn.Module, output: Any) -> tuple[Tensor, ...]:
    """The tensors whose gradient is taken: a layer's y, h_n (, c_n); a cell's states, then outputs."""
    if isinstance(module, LAYERS):
        y = output[0].data if isinstance(output[0], PackedSequence) else output[0]
        return (y, *carry.tensors(output[1]))
    if isinstance(module, KNOWN):
        return states_of(module, output)
    return states_of(module, output) + outputs_of(module, output)


def plain_name(name: str) -> str:
    """A module's name without what wrappers put into it."""
    return ".".join(
        p for p in name.split(".") if p not in ("_orig_mod", "module", "_fsdp_wrapped_module")
    )


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return [t for part in value for t in _tensors(part)]
    return list(carry.tensors(value))


def _detach(value: Any) -> Any:
    if isinstance(value, PackedSequence):
        return PackedSequence(value.data.detach(), *value[1:])
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(_detach(part) for part in value)
    return carry.detach(value)


def _copies(output: Any) -> Any:
    """The same structure over copies; one tensor that stands in two places stays one."""
    made: dict[int, Tensor] = {}

    def copy(tensor: Tensor) -> Tensor:
        if not tensor.requires_grad:
            return tensor
        return made.setdefault(id(tensor), tensor.clone())

    return carry.apply(copy, output)


def _steps(module: Any, output: Any) -> int:
    y = output[0]
    if isinstance(y, PackedSequence):
        return len(y.batch_sizes)
    return int(y.shape[1 if y.dim() == 3 and module.batch_first else 0])
