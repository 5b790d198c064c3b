"""Look closely at a training loop: every call of the model and its recurrent modules, loss and batch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import RandomSampler, dataloader

from bptt.choices import IGNORED
from bptt.nn import carry
from bptt.probes.guard.loop import Call, Hooks, Loop, LossCall, count_terms, states_out
from bptt.recurrence.loops import KNOWN, LAYERS, is_silent
from bptt.recurrence.record import Hook, Tokens, plain_name, takes_two

LOSSES = (
    "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss",
    "binary_cross_entropy", "binary_cross_entropy_with_logits",
)  # fmt: skip
RECURRENT = (*LAYERS, nn.RNNCellBase, *KNOWN)


class Calls:
    """Hooks of modules, wrappers around losses and loaders: while :meth:`attend` is in force.

    Args:
        loop: whose count of calls it keeps.
        tell: called with the name of an event and its record; never raises.

    Attributes:
        forward: the model was called, with gradients, since whoever asks set this to False.
        losses: those that were differentiated, since whoever asks emptied it.
    """

    def __init__(self, loop: Loop, tell: Callable[[str, Any], Any]) -> None:
        self.loop, self._tell = loop, tell
        self._thread = threading.get_ident()
        self._hooks = Hooks()
        self._called: set[int] = set()
        self._open: dict[int, Call] = {}
        self.forward = False
        self.losses: list[LossCall] = []

    def attend(self) -> Hooks:
        """Set the hooks; others may join them, and are taken off with them."""
        for name, module in self.loop.model.named_modules():
            if module is self.loop.outer and not isinstance(module, RECURRENT):
                self._hook("model", module, whole=True)
            elif isinstance(module, RECURRENT):
                self._hook(plain_name(name) or "model", module, whole=module is self.loop.outer)
            elif not type(module).__module__.startswith("torch.") and takes_two(module):
                self._hook(plain_name(name), module, whole=False)
        for name in LOSSES:
            self._hooks.wrap(F, name, self._loss)
        self._hooks.wrap(dataloader._BaseDataLoaderIter, "__next__", self._batch)
        return self._hooks

    def rest(self) -> None:
        """Take all hooks off."""
        self._hooks.release()
        self._called.clear()
        self._open.clear()
        self.losses = []

    def backward_ended(self) -> None:
        """The next call of each module is its first again."""
        self._called.clear()

    def _hook(self, name: str, module: nn.Module, whole: bool) -> None:
        def enter(m: nn.Module, args: Any, kwargs: Any) -> None:
            self._entered(name, m, whole, args, kwargs)

        def leave(m: nn.Module, args: Any, output: Any) -> None:
            self._left(m, output)

        def around(inner: Any, *args: Any, **kwargs: Any) -> Any:
            enter(module, (args[0], *args[2:]), kwargs)  # without the embedding's weight
            output = inner(*args, **kwargs)
            leave(module, args, output)
            return output

        self._hooks.handles.append(module.register_forward_pre_hook(Hook(enter), with_kwargs=True))
        if whole or isinstance(module, LAYERS):
            self._hooks.handles.append(module.register_forward_hook(Hook(leave)))
        if hasattr(module, "forward_tokens"):
            self._hooks.handles.append(Tokens(module, around))

    def _entered(self, name: str, module: nn.Module, whole: bool, args: Any, kwargs: Any) -> None:
        first = id(module) not in self._called
        if not first and not whole and not isinstance(module, LAYERS):
            return  # a cell inside its loop: only where a loop begins is of interest
        if self._is_elsewhere():
            return
        self._called.add(id(module))
        if whole:
            self.loop.calls += 1
        graph = torch.is_grad_enabled()
        self.forward |= graph
        call = self._call(name, module, whole, args, kwargs, first, graph)
        self._open[id(module)] = call  # until it returns: what it was given lives that long anyway
        self._tell("on_call", call)

    def _left(self, module: nn.Module, output: Any) -> None:
        call = self._open.pop(id(module), None)
        if call is None or self._is_elsewhere():
            return
        call.output, call.returned = output, states_out(module, output)
        self._tell("on_return", call)

    def _call(
        self,
        name: str,
        module: nn.Module,
        whole: bool,
        args: Any,
        kwargs: Any,
        first: bool,
        graph: bool,
    ) -> Call:
        names = [f"argument {i + 1}" for i in range(len(args))] + list(kwargs)
        values = [*args, *kwargs.values()]
        lengths = "lengths" in kwargs and kwargs["lengths"] is not None
        x: Tensor | None = None
        states: list[Tensor] = []
        argument = "the state"
        for place, (label, value) in enumerate(zip(names, values, strict=True)):
            if label in ("lengths", "reset"):
                continue
            if isinstance(value, PackedSequence):
                lengths, value = True, value.data
            tensors = list(carry.tensors(value)) if isinstance(value, (Tensor, tuple, list)) else []
            if place == 0:
                x = tensors[0] if tensors else None
            elif tensors and all(t.is_floating_point() for t in tensors):
                states += tensors
                argument = label if label in kwargs else "the state"
        return Call(
            name, module, whole, x, tuple(states), argument, lengths, module.training, graph, first
        )

    def _is_elsewhere(self) -> bool:
        # A part that is checkpointed runs again inside backward; it is not another call.
        return (
            is_silent()
            or threading.get_ident() != self._thread
            or torch.compiler.is_compiling()
            or torch._C._current_graph_task_id() != -1
        )

    def _batch(self, original: Any, iterator: Any) -> Any:
        batch = original(iterator)
        sampler = getattr(iterator, "_index_sampler", None)
        sampler = getattr(sampler, "sampler", sampler)
        if isinstance(batch, (Tensor, tuple, list, dict)):
            for tensor in carry.tensors(list(batch.values()) if isinstance(batch, dict) else batch):
                self.loop.batches.note(tensor, shuffled=isinstance(sampler, RandomSampler))
        return batch

    def _loss(self, original: Any, input: Any, target: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(input, target, *args, **kwargs)
        mean = kwargs.get("reduction", "mean")
        if (
            isinstance(result, Tensor)
            and result.requires_grad
            and result.dim() == 0
            and mean in ("mean", "sum")
            and not args
            and kwargs.get("weight") is None
        ):
            terms = count_terms(target, kwargs.get("ignore_index", IGNORED))
            record = LossCall(terms, mean == "mean", self.loop.calls)

            def weigh(gradient: Tensor) -> None:
                record.weight += float(gradient)
                if not any(record is one for one in self.losses):
                    self.losses.append(record)

            result.register_hook(weigh)
        return result
