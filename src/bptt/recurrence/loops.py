"""Calls of a cell in a Python loop, put together into one recurrence.

A known cell gets its closed form. Any other module ``(x, state) -> state`` or ``(y, state)`` is
differentiated by autograd over all its steps at once, which needs row n of its result to depend on
row n of its arguments alone: :func:`bptt.recurrence.check_replay` finds out.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bptt.errors import ShapeError
from bptt.nn import carry
from bptt.nn.linear import LinearRecurrent
from bptt.recurrence.cells import Stack
from bptt.recurrence.step import FunctionStep, States, Step
from bptt.recurrence.trajectory import Recurrence, lowest

KNOWN = (nn.RNNCell, nn.GRUCell, nn.LSTMCell)
# Layers whose recurrence is known: all steps in one call.
LAYERS = (nn.RNNBase, LinearRecurrent)


@dataclass(frozen=True, eq=False)
class CellCall:
    """One step of a cell, detached.

    Attributes:
        name: of the module.
        module: the cell.
        given: its arguments, ``(args, kwargs)``.
        inputs: the tensors among them that are not states, ``(B, ·)`` first axis lanes.
        before: the states it was given, None where it was given none.
        after: the states it returned, each ``(B, …)``.
        outputs: what else it returned; empty where nobody asks.
    """

    name: str
    module: nn.Module
    given: tuple[tuple[Any, ...], dict[str, Any]]
    inputs: tuple[Tensor, ...]
    before: States | None
    after: States
    outputs: States = ()

    def select(self, lanes: Tensor) -> CellCall:
        """The same call on some of its lanes."""

        def pick(values: States) -> States:
            return tuple(v.index_select(0, lanes) for v in values)

        before = None if self.before is None else pick(self.before)
        return replace(
            self, inputs=pick(self.inputs), before=before, after=pick(self.after),
            outputs=pick(self.outputs),
        )  # fmt: skip


def outputs_of(module: nn.Module, output: Any) -> States:
    """What a cell returned beside its states, without those that are a state themselves."""
    states = states_of(module, output)
    return tuple(
        o
        for o in carry.tensors(output)
        if all(o is not s for s in states) and o.is_floating_point()
    )


def states_of(module: nn.Module, output: Any) -> States:
    """The new states within what a cell returned: the second of a pair (y, state), else all of it."""
    if (
        isinstance(output, (tuple, list))
        and len(output) == 2
        and not isinstance(module, nn.LSTMCell)
    ):
        return tuple(carry.tensors(output[1]))
    return tuple(carry.tensors(output))


def split_arguments(
    args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """Input and state tensors of a call ``cell(x, state)``: the first argument, and all others."""
    values = [*args, *kwargs.values()]
    return list(carry.tensors(values[:1])), list(carry.tensors(values[1:]))


def normal_cell_call(
    name: str,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
    outputs: bool = False,
) -> CellCall:
    """Build a :class:`CellCall` from what went in and came out; ``outputs``: with what is no state."""
    beside = outputs_of(module, output) if outputs else ()
    args, kwargs = carry.detach(args), carry.detach(kwargs)
    inputs, before = split_arguments(args, kwargs)
    after = tuple(s.detach() for s in states_of(module, output))
    if isinstance(module, KNOWN) and inputs[0].dim() == 1:
        inputs, before = [i.unsqueeze(0) for i in inputs], [s.unsqueeze(0) for s in before]
        after = tuple(s.unsqueeze(0) for s in after)
    if before and len(before) != len(after):
        raise ShapeError(
            f"{name or type(module).__name__} to return as many states as it is given, {len(before)}",
            f"{len(after)}",
            "write the step as (x, state) -> (y, state), the state as its second argument and result",
        )
    beside = tuple(o.detach() for o in beside)
    return CellCall(
        name, module, (args, kwargs), tuple(inputs), tuple(before) or None, after, beside
    )


def chain_cells(calls: Sequence[CellCall], links: Sequence[Tensor] | None = None) -> Recurrence:
    """One recurrence out of the calls of a loop.

    Args:
        calls: in the order they were made.
        links: for each call ``(B,)`` bool, whether the gradient passes from it to the call before;
            default: from every one but the first.
    """
    first = calls[0]
    lanes = first.after[0].shape[0]
    if links is None:
        device = first.after[0].device
        links = [torch.full((lanes,), t > 0, device=device) for t in range(len(calls))]
    after = tuple(
        _rows(column) for column in zip(*(c.after + c.outputs for c in calls), strict=True)
    )
    # What is returned beside the states takes a loss's gradient as they do, and is never fed back.
    start = [
        (c.before or tuple(map(torch.zeros_like, c.after)))
        + tuple(map(torch.zeros_like, c.outputs))
        for c in calls
    ]
    before = tuple(_rows(column) for column in zip(*start, strict=True))
    inputs = tuple(_rows(column) for column in zip(*(c.inputs for c in calls), strict=True))
    after, before, inputs = (_raised(values, first.module) for values in (after, before, inputs))
    if len(first.after) == 1:
        labels: tuple[str, ...] = ("h",)
    elif isinstance(first.module, nn.LSTMCell):
        labels = ("h", "c")
    else:
        labels = tuple(f"state{i}" for i in range(len(first.after)))
    labels += tuple(f"output{i}" for i in range(len(first.outputs)))
    link = torch.stack(list(links))
    link[0] = False
    return Recurrence(first.name, _step(calls), inputs, before, after, link, None, labels)


def _raised(values: States, module: nn.Module) -> States:
    """In the parameters' dtype what is of a lower one: autocast lowered it, the replay is without."""
    own = [p.dtype for p in module.parameters()]
    if not own:
        return values
    least = lowest(own)
    return tuple(
        v.to(torch.promote_types(v.dtype, least)) if v.is_floating_point() else v for v in values
    )


def _rows(column: Sequence[Tensor]) -> Tensor:
    """(T, B, S): what a step has beyond its lanes is one axis."""
    stacked = torch.stack(list(column))
    return stacked.flatten(2) if stacked.dim() > 2 else stacked.unsqueeze(-1)


def _step(calls: Sequence[CellCall]) -> Step:
    module = calls[0].module
    if isinstance(module, KNOWN):
        # By isinstance: a parametrization gives its module a class of its own.
        if isinstance(module, nn.RNNCell):
            mode = f"RNN_{module.nonlinearity.upper()}"
        else:
            mode = "GRU" if isinstance(module, nn.GRUCell) else "LSTM"
        names = tuple(
            kind if module.bias or kind.startswith("weight") else None
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        weights = tuple(None if n is None else getattr(module, n).detach() for n in names)
        return Stack(mode, (weights,), (names,))
    return _function_step(module, calls)


def _function_step(module: nn.Module, calls: Sequence[CellCall]) -> FunctionStep:
    # A call that was given a state shows how to give one; the first may have had none.
    model = next((c for c in calls if c.before is not None), calls[0])
    args, kwargs = model.given
    shapes = [i.shape[1:] for i in model.inputs]
    kinds = [s.shape[1:] for s in model.after]
    beside = bool(model.outputs)
    buffers = dict(module.named_buffers())

    def function(
        inputs: tuple[Tensor, ...], states: States, parameters: Mapping[str, Tensor]
    ) -> States:
        rows = states[0].shape[0]
        given = [i.reshape(rows, *s) for i, s in zip(inputs, shapes, strict=True)]
        if model.before is not None:
            given += [s.reshape(rows, *k) for s, k in zip(states, kinds, strict=False)]
        source = iter(given)
        called = carry.apply(lambda _: next(source), [*args, *kwargs.values()])
        positional, named = called[: len(args)], called[len(args) :]
        copies = {name: b.clone() for name, b in buffers.items()}
        with silent():
            output = torch.func.functional_call(
                module, {**parameters, **copies}, tuple(positional),
                dict(zip(kwargs, named, strict=True)),
            )  # fmt: skip
        found = states_of(module, output) + (outputs_of(module, output) if beside else ())
        return tuple(s.reshape(rows, -1) for s in found)

    return FunctionStep(function, {n: p.detach() for n, p in module.named_parameters()})


class _Silence(threading.local):
    """Whether calls are replays, which recorders must not take for the user's own. Each thread has its
    own answer: while one replays, another may train."""

    depth = 0


_SILENCE = _Silence()


class silent:
    """While it lasts, calls are not recorded."""

    def __enter__(self) -> None:
        _SILENCE.depth += 1

    def __exit__(self, *_: object) -> None:
        _SILENCE.depth -= 1


def is_silent() -> bool:
    """Whether the call under way is a replay."""
    return _SILENCE.depth > 0
