"""From recorded calls and the gradients that arrived at them to recurrences and their direct gradients.

Which calls follow each other is found by their states: a call goes on from an earlier one in those
lanes where the state it was given equals the state that one returned, if a gradient may pass. Other
lanes begin afresh, as they do where a caller clears the states of finished episodes.

Limits: calls with lengths or packed input, and layers of two directions, are each a sequence of their
own, also where their final state was handed on. Cells that feed each other within one step, such as
two GRUCells one above the other, are each a recurrence of their own; write the step as one module
``(x, state) -> (y, state)`` for the joint one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from bptt.errors import ArgumentError, BpttError, optional
from bptt.nn import carry
from bptt.nn.linear import LinearRecurrent
from bptt.ops.device import device_of, random_state
from bptt.recurrence.layers import (
    LayerCall,
    layer_direct,
    layer_recurrences,
    normal_layer_call,
    time_major,
)
from bptt.recurrence.loops import KNOWN, LAYERS, CellCall, chain_cells, normal_cell_call, states_of
from bptt.recurrence.record import Call, watched_outputs
from bptt.recurrence.step import States
from bptt.recurrence.trajectory import (
    Recurrence,
    check_replay,
    concatenate,
    direct_gradient,
    lowest,
    merge,
    padded,
)
from bptt.recurrence.unrolled import scan_direct, scan_recurrences


@dataclass(frozen=True, eq=False)
class Found:
    """One recurrence of one step of training.

    Attributes:
        name: of the module, with the layer and direction where it has two.
        kind: class of the module.
        recurrence: as it ran.
        direct: δ⁰, each ``(T, B, S)``.
        lanes: how many there were before some were chosen.
    """

    name: str
    kind: str
    recurrence: Recurrence
    direct: States
    lanes: int


def assemble(calls: list[Call], lanes: int | None = None) -> list[Found]:
    """Every recurrence among the calls of one step.

    Args:
        calls: as a :class:`Recorder` hands them over, in order.
        lanes: the most lanes to keep, evenly spaced.

    Raises:
        ReplayError: what was recorded does not give what was computed.
        ArgumentError: nothing among the calls is a recurrence.
    """
    lanes = optional("lanes", lanes)
    for call in calls:
        call.check_unchanged()
    groups: dict[int, list[Call]] = {}
    for call in calls:
        groups.setdefault(id(call.module), []).append(call)
    found: list[Found] = []
    inside: set[int] = set()
    refused: set[int] = set()
    refusal: BpttError | None = None
    # The outermost step takes all that is in it: its states are cut together.
    for group in sorted(groups.values(), key=lambda g: g[0].name.count(".") + bool(g[0].name)):
        module = group[0].module
        if isinstance(module, (*LAYERS, *KNOWN)) or id(module) in inside:
            continue
        within = [groups[id(m)] for m in module.modules() if m is not module and id(m) in groups]
        layers = [g for g in within if isinstance(g[0].module, LAYERS)]
        if any(_long(g[0]) or _hands_through(group, g) for g in layers):
            continue  # a model called chunk by chunk: the layer in it is the recurrence
        try:
            made = _cells(group, lanes)
        except BpttError as error:
            refusal = error
            refused |= {id(m) for m in module.modules()}
            continue
        if made:
            found += made
            inside |= {id(m) for m in module.modules()}
    for key, group in groups.items():
        module = group[0].module
        if key in inside or not isinstance(module, (*LAYERS, *KNOWN)):
            continue
        made = _layers(group, lanes) if isinstance(module, LAYERS) else _cells(group, lanes)
        if refusal and key in refused and not any(bool(f.recurrence.link.any()) for f in made):
            raise refusal  # what goes on from call to call is in the step around it
        found += made
    if not found and refusal is not None:
        raise refusal
    return found


def _long(call: Call) -> bool:
    y = call.output[0]
    if isinstance(y, PackedSequence):
        return len(y.batch_sizes) > 1
    module: Any = call.module
    return y.shape[1 if y.dim() == 3 and module.batch_first else 0] > 1


def _hands_through(wrapper: list[Call], layer: list[Call]) -> bool:
    """Whether every call of a wrapper gives a layer its own state and returns the layer's as it is.

    Such a state has the layer's axes: what comes first in it are not the lanes.
    """
    if len(wrapper) != len(layer):
        return False
    for outer, inner in zip(wrapper, layer, strict=True):
        given = _places([*outer.args[1:], *outer.kwargs.values()])
        if given and given != _places(_state_of(inner)):  # at the first step there may be none
            return False
        if _places(states_of(outer.module, outer.output)) != _places(inner.output[1]):
            return False
    return True


def _places(value: Any) -> list[tuple[int, torch.Size]]:
    return [(t.data_ptr(), t.shape) for t in carry.tensors(value)]


def _state_of(call: Call) -> Any:
    return call.args[1] if len(call.args) > 1 else call.kwargs.get("hx")


def _chosen(total: int, lanes: int | None, like: Tensor) -> Tensor | None:
    if lanes is None or lanes >= total:
        return None
    return torch.arange(lanes, device=like.device) * total // lanes


def _cells(group: list[Call], lanes: int | None) -> list[Found]:
    known = isinstance(group[0].module, KNOWN)
    dtype = lowest(c.dtype for c in group)
    calls = [
        normal_cell_call(c.name, c.module, c.args, c.kwargs, c.output, outputs=not known)
        for c in group
    ]
    total = calls[0].after[0].shape[0]
    arrived = [_cell_gradients(call, cell) for call, cell in zip(group, calls, strict=True)]
    chosen = _chosen(total, lanes, calls[0].after[0])
    if chosen is not None:
        calls = [c.select(chosen) for c in calls]
        arrived = [tuple(a.index_select(0, chosen) for a in states) for states in arrived]
    chains = _chains(
        [c.before for c in calls], [c.after for c in calls], [c.flows for c in group], lane_axis=0
    )
    if not known and all(len(chain) == 1 for chain, _ in chains):
        return []  # called once, or never given back what it returned: no step of a loop
    parts, gradients = [], []
    for places, masks in chains:
        one = chain_cells([calls[i] for i in places], masks)
        columns = zip(*(arrived[i] for i in places), strict=True)
        seen = tuple(torch.stack(c).flatten(2) for c in columns)
        whole = torch.ones(one.steps, dtype=torch.bool, device="cpu")
        check_replay(one, dtype=dtype)
        gradients.append(direct_gradient(one, one.check_gradient(seen), whole))
        parts.append(one)
    return [_joined(group[0], parts, gradients, total)]


def _cell_gradients(call: Call, cell: CellCall) -> States:
    outputs = watched_outputs(call.module, call.output)
    found = []
    for place, (output, like) in enumerate(zip(outputs, cell.after + cell.outputs, strict=True)):
        gradient = call.gradients.get(place, torch.zeros_like(output))
        found.append(gradient.reshape(like.shape))
    return tuple(found)


def _layers(group: list[Call], lanes: int | None) -> list[Found]:
    calls, outside = [], []
    total = 0
    for call in group:
        module: Any = call.module
        given = call.args[0] if call.args else call.kwargs["input"]
        normal = normal_layer_call(
            call.name,
            module,
            given,
            _state_of(call),
            call.kwargs,
            call.output,
            call.generator,
            call.embedding,
        )
        gradients = _layer_gradients(call, normal)
        total = normal.y.shape[1]
        chosen = _chosen(total, lanes, normal.y)
        if chosen is not None and normal.generator is None:
            normal = normal.select(chosen)
            gradients = tuple(None if g is None else g.index_select(1, chosen) for g in gradients)
        calls.append(normal)
        outside.append(gradients)
    dtype = lowest(c.dtype for c in group)
    linear = isinstance(group[0].module, LinearRecurrent)
    recurrences, take = (
        (scan_recurrences, scan_direct) if linear else (layer_recurrences, layer_direct)
    )
    made = [tuple(check_replay(r, dtype=dtype) for r in recurrences(c)) for c in calls]
    direct = [
        take(c, rs, dy, list(final))
        for c, rs, (dy, *final) in zip(calls, made, outside, strict=True)
    ]
    if calls[0].module.bidirectional or any(c.lengths is not None for c in calls):
        return [
            _joined(group[0], [m[i] for m in made], [d[i] for d in direct], total)
            for i in range(len(made[0]))
        ]
    ends = [_final_states(c.output, c, n) for c, n in zip(group, calls, strict=True)]
    chains = _chains([n.state for n in calls], ends, [c.flows for c in group], lane_axis=1)
    parts, whole_gradients = [], []
    for places, masks in chains:
        pieces = [made[i][0] for i in places]
        borders = [_unstopped(calls[i], mask) for i, mask in zip(places, masks, strict=True)]
        one = concatenate(pieces, borders[1:])
        seen = tuple(
            torch.cat(column) for column in zip(*(direct[i][0] for i in places), strict=True)
        )
        whole = torch.zeros(one.steps, dtype=torch.bool, device="cpu")
        # The final state of a call is seen whole: with what the next call sends back.
        whole[torch.tensor([p.steps for p in pieces], device="cpu").cumsum(0) - 1] = True
        parts.append(one)
        whole_gradients.append(direct_gradient(one, seen, whole))
    return [_joined(group[0], parts, whole_gradients, total)]


def _unstopped(call: LayerCall, lanes: Tensor) -> Tensor:
    """(B,): the lanes that go on from the call before, without those stopped at the first step."""
    for stops in (call.reset, call.cut):
        if stops is not None:
            lanes = lanes & ~stops[0]
    return lanes


def _final_states(output: Any, call: Call, normal: LayerCall) -> States:
    final = tuple(carry.tensors(output[1]))
    batched = isinstance(output[0], PackedSequence) or output[0].dim() == 3
    final = tuple((f if batched else f.unsqueeze(1)).to(normal.y.dtype) for f in final)
    if final[0].shape[1] == normal.y.shape[1]:
        return final
    chosen = torch.arange(normal.y.shape[1], device=normal.y.device) * final[0].shape[1]
    return tuple(f.index_select(1, chosen // normal.y.shape[1]) for f in final)


def _layer_gradients(call: Call, normal: LayerCall) -> tuple[Tensor | None, ...]:
    """Gradients by y, h_n (and c_n), in normal form."""
    dtype = normal.y.dtype
    dy: Tensor | None = call.gradients.get(0)
    packed = isinstance(call.output[0], PackedSequence)
    batched = packed or call.output[0].dim() == 3
    if dy is not None:
        if packed:
            dy, _ = pad_packed_sequence(PackedSequence(dy, *call.output[0][1:]))
        else:
            dy = time_major(dy, normal.module, batched)
        dy = dy.to(dtype)
    final = []
    for place in range(1, 1 + len(normal.state)):
        gradient = call.gradients.get(place)
        if gradient is not None and not batched:
            gradient = gradient.unsqueeze(1)
        final.append(None if gradient is None else gradient.to(dtype))
    return (dy, *final)


def _chains(
    given: list[States | None] | list[States],
    returned: list[States],
    flows: list[bool],
    lane_axis: int,
) -> list[tuple[list[int], list[Tensor]]]:
    """Calls that follow each other: their places, and for each the lanes that go on from the last."""
    chains: list[tuple[list[int], list[Tensor]]] = []
    for place, (state, flow) in enumerate(zip(given, flows, strict=True)):
        none = torch.zeros(
            returned[place][0].shape[lane_axis], dtype=torch.bool, device=returned[place][0].device
        )
        for places, masks in reversed(chains):
            same = _same(state, returned[places[-1]], lane_axis) if state and flow else None
            if same is not None and bool(same.any()):
                places.append(place)
                masks.append(same)
                break
        else:
            chains.append(([place], [none]))
    return chains


def _same(state: States, end: States, lane_axis: int) -> Tensor | None:
    """(B,): the lanes whose state is the one that was returned."""
    if [s.shape for s in state] != [e.shape for e in end]:
        return None
    pairs = zip(state, end, strict=True)
    equal = [(s == e.to(s.dtype)).movedim(lane_axis, 0).flatten(1).all(1) for s, e in pairs]
    return torch.stack(equal).all(0)


def _joined(first: Call, parts: list[Recurrence], gradients: list[States], lanes: int) -> Found:
    one = merge(parts)
    direct = tuple(
        torch.cat([padded(g, one.steps) for g in column], 1)
        for column in zip(*gradients, strict=True)
    )
    if not parts:
        raise ArgumentError("calls of a recurrent module", "none", "run the model in the block")
    frozen = frozenset(n for n, p in first.module.named_parameters() if not p.requires_grad)
    one = replace(one, frozen=frozen & one.step.parameters.keys())
    return Found(one.name, type(first.module).__name__, one, direct, lanes * len(parts))


# Run a module over a sequence and record it as recurrences: for those who have no training step.


def trace(module: nn.Module, x: Any, state: Any = None, **options: Any) -> tuple[Recurrence, ...]:
    """Run a recurrent layer or cell over a sequence and record every step.

    Args:
        module: ``torch.nn`` RNN, GRU, LSTM or ours; an RNNCell, GRUCell or LSTMCell; or a module
            called as ``(x, state)`` that returns the new state, or ``(y, state)``.
        x: ``(T, B, I)``, in a layer's case anything the layer takes.
        state: what the first step begins with; None for zeros.
        options: further arguments of a layer's call: ``lengths``, ``reset``, ``cut``.

    Returns:
        one :class:`Recurrence`; with two directions one for each layer and direction.

    Raises:
        ArgumentError: the module is none of these.
        ReplayError: its steps cannot be run again.

    Cost: a forward pass, and one more to check it.

    Example:
        >>> import torch
        >>> [r.name for r in trace(torch.nn.GRU(3, 5, bidirectional=True), torch.randn(4, 2, 3))]
        ['l0', 'l0_reverse']
    """
    if not isinstance(module, nn.Module):
        raise ArgumentError("a torch.nn.Module", type(module).__name__, "pass the layer or cell")
    if isinstance(module, LAYERS):
        generator = random_state(device_of(module))
        with torch.no_grad():
            output = module(x, *(() if state is None else (state,)), **options)
        call = normal_layer_call("", module, x, state, options, output, generator)
        dtype = lowest(o.dtype for o in carry.tensors(output[1]))
        linear = isinstance(module, LinearRecurrent)
        made = scan_recurrences(call) if linear else layer_recurrences(call)
        return tuple(check_replay(r, dtype=dtype) for r in made)
    calls = []
    with torch.no_grad():
        for value in x:
            output = module(value, state)
            calls.append(normal_cell_call("", module, (value, state), {}, output))
            state = output[1] if isinstance(output, tuple) and not is_lstm(module) else output
    return (check_replay(chain_cells(calls)),)


def is_lstm(module: nn.Module) -> bool:
    """Whether the module's output is the pair (h, c)."""
    return isinstance(module, nn.LSTMCell)
