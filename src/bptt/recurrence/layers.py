"""A call of a recurrent layer, torch's or ours, as recurrences.

One direction: the whole stack is one joint recurrence. Two directions: each layer and direction is a
recurrence of its own, since the lower layer's state at t reaches the upper one's at every step, and
its direct gradient is all that arrives at its output from above.

What a call does not hand out is computed again: the lower layers' outputs by running them once more
without a graph, an LSTM's cell states by a scan over its gates, and dropout masks between layers from
the state the generator had. :func:`bptt.recurrence.check_replay` then compares with what was recorded.
Limits: masks drawn by cuDNN on a GPU cannot be recovered; the comparison says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from bptt import ops
from bptt.nn.inputs import as_lengths, as_marks
from bptt.ops.device import random_kept, set_random_state
from bptt.recurrence.cells import LinearStack, Stack, Weights
from bptt.recurrence.step import States
from bptt.recurrence.trajectory import Recurrence, flat, total_gradient


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of a recurrent layer, everything detached and time-major.

    Attributes:
        name: of the module.
        module: the layer.
        x: ``(T, B, I)``.
        state: ``(h,)`` or ``(h, c)``, each ``(L·directions, B, S)``.
        y: ``(T, B, directions·S)``.
        lengths: ``(B,)`` or None.
        reset: ``(T, B)`` or None.
        cut: ``(T, B)`` or None.
        generator: the random generator's state when the call began; None without dropout.
        packed: the lanes' order inside a PackedSequence, if the call had one.
        by_torch: whether torch's own operator computed it, ours leaving the call to it or not.
    """

    name: str
    module: nn.RNNBase
    x: Tensor
    state: States
    y: Tensor
    lengths: Tensor | None = None
    reset: Tensor | None = None
    cut: Tensor | None = None
    generator: Tensor | None = None
    packed: PackedSequence | None = None
    by_torch: bool = True

    @property
    def live(self) -> Tensor | None:
        """(T, B) bool, None where every step runs."""
        if self.lengths is None or bool((self.lengths == self.x.shape[0]).all()):
            return None
        return torch.arange(self.x.shape[0], device=self.x.device)[:, None] < self.lengths

    @property
    def last(self) -> Tensor:
        """(B,) index of each lane's last step."""
        if self.lengths is None:
            return self.x.new_full((self.x.shape[1],), self.x.shape[0] - 1, dtype=torch.int64)
        return self.lengths - 1

    def select(self, lanes: Tensor) -> LayerCall:
        """The same call on some of its lanes; one with dropout masks stays whole."""
        if self.generator is not None:
            return self

        def pick(value: Tensor | None, axis: int) -> Tensor | None:
            return None if value is None else value.index_select(axis, lanes)

        return replace(
            self,
            x=self.x.index_select(1, lanes),
            state=tuple(s.index_select(1, lanes) for s in self.state),
            y=self.y.index_select(1, lanes),
            lengths=pick(self.lengths, 0),
            reset=pick(self.reset, 1),
            cut=pick(self.cut, 1),
            packed=None,
        )


def layer_recurrences(call: LayerCall) -> tuple[Recurrence, ...]:
    """The recurrences of a call: one for a stack in one direction, else two for each layer."""
    return _both_directions(call) if call.module.bidirectional else (_one_direction(call),)


def layer_direct(
    call: LayerCall,
    recurrences: tuple[Recurrence, ...],
    dy: Tensor | None,
    final: list[Tensor | None],
) -> tuple[States, ...]:
    """δ⁰ of each recurrence: the gradient that arrives at its states from outside it.

    Args:
        dy: ``(T, B, directions·S)`` gradient by the output; None for zeros.
        final: by the final states h (and c), each ``(L·directions, B, S)``; None for zeros.
    """
    if not call.module.bidirectional:
        (only,) = recurrences
        direct = [torch.zeros_like(a) for a in only.after]
        if dy is not None:
            direct[-len(call.state)] += dy
        for layer in range(call.module.num_layers):
            _add_final(direct[layer * len(call.state) :], final, layer, call)
        return (only.check_gradient(tuple(direct)),)
    found: dict[int, States] = {}
    arriving = torch.zeros_like(call.y) if dy is None else dy
    for layer in reversed(range(call.module.num_layers)):
        below: Tensor | float = 0.0
        for direction, part in enumerate(arriving.chunk(2, -1)):
            row = 2 * layer + direction
            one = recurrences[row]
            direct = [torch.zeros_like(a) for a in one.after]
            direct[0] += _turn_time(part, call) if direction else part
            _add_final(direct, final, row, call)
            found[row] = one.check_gradient(tuple(direct))
            if layer:
                below = below + _input_gradient(one, found[row], call, bool(direction))
        if layer:
            masks = dropout_masks(call)
            arriving = below * masks[layer - 1] if masks else cast(Tensor, below)
    return tuple(found[row] for row in range(len(recurrences)))


def _input_gradient(one: Recurrence, direct: States, call: LayerCall, backwards: bool) -> Tensor:
    linear = cast(LinearStack, one.linearize())
    total = total_gradient(one, linear, direct)
    _, dx = linear.gradient_and_input(flat(total), slice(0, one.steps * one.lanes))
    dx = dx.view(one.steps, one.lanes, -1)
    return _turn_time(dx, call) if backwards else dx


def _add_final(direct: list[Tensor], final: list[Tensor | None], row: int, call: LayerCall) -> None:
    lanes = torch.arange(call.x.shape[1], device=call.x.device)
    for state, gradient in zip(direct, final, strict=False):
        if gradient is not None:
            state[call.last, lanes] += gradient[row]


def _one_direction(call: LayerCall) -> Recurrence:
    module, masks = call.module, dropout_masks(call)
    x = call.x if call.live is None else call.x.masked_fill(~call.live.unsqueeze(-1), 0)
    before: list[Tensor] = []
    after: list[Tensor] = []
    weights, names, labels = [], [], []
    value = x
    for layer in range(module.num_layers):
        ws, ns = layer_weights(module, layer, call.y.dtype)
        start = tuple(s[layer] for s in call.state)
        if layer == module.num_layers - 1:
            y = call.y
        else:
            y = _run(call, value, start, ws, reverse=False)
        b, a = _states(module.mode, value, y, start, ws, call.live, call.reset)
        before += b
        after += a
        weights.append(ws)
        names.append(ns)
        labels += [f"{s}_l{layer}" for s in "hc"[: len(start)]]
        value = y * masks[layer] if layer < len(masks) else y
    step = Stack(module.mode, tuple(weights), tuple(names))
    return Recurrence(
        call.name, step, (x, *masks), tuple(before), tuple(after),
        links(call.reset, call.cut, call.live, after[0]), call.live, tuple(labels),
    )  # fmt: skip


def _both_directions(call: LayerCall) -> tuple[Recurrence, ...]:
    module, masks = call.module, dropout_masks(call)
    value = call.x if call.live is None else call.x.masked_fill(~call.live.unsqueeze(-1), 0)
    found: list[Recurrence] = []
    for layer in range(module.num_layers):
        outputs = []
        for direction in (0, 1):
            row = 2 * layer + direction
            ws, ns = layer_weights(module, row, call.y.dtype)
            start = tuple(s[row] for s in call.state)
            if layer == module.num_layers - 1:
                y = call.y.chunk(2, -1)[direction]
            else:
                y = _run(call, value, start, ws, reverse=bool(direction))
            outputs.append(y)
            reset, cut, x = call.reset, call.cut, value
            if direction:
                reset, cut = (_turn_mark(m, call) for m in (reset, cut))
                x, y = _turn_time(x, call), _turn_time(y, call)
            before, after = _states(module.mode, x, y, start, ws, call.live, reset)
            suffix = f"l{layer}{'_reverse' if direction else ''}"
            found.append(
                Recurrence(
                    f"{call.name}.{suffix}" if call.name else suffix,
                    Stack(module.mode, (ws,), (ns,)), (x,), tuple(before), tuple(after),
                    links(reset, cut, call.live, after[0]), call.live,
                    tuple(f"{s}_{suffix}" for s in "hc"[: len(start)]),
                )
            )  # fmt: skip
        value = torch.cat(outputs, -1)
        value = value * masks[layer] if layer < len(masks) else value
    return tuple(found)


def layer_weights(
    module: nn.RNNBase, row: int, dtype: torch.dtype | None = None
) -> tuple[Weights, tuple[str | None, ...]]:
    """Weights of one layer and direction, detached, and their names: w_ih, w_hh, b_ih, b_hh (, w_hr).

    Args:
        dtype: that of the call, which is float32 at least; None for the weights' own.
    """
    directions = 2 if module.bidirectional else 1
    suffix = f"l{row // directions}{'_reverse' if row % directions else ''}"
    kinds = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    names: list[str | None] = [
        f"{kind}_{suffix}" if module.bias or kind.startswith("weight") else None for kind in kinds
    ]
    if module.proj_size:
        names.append(f"weight_hr_{suffix}")
    own = (None if n is None else getattr(module, n).detach() for n in names)
    weights = tuple(w if w is None or dtype is None else w.to(dtype) for w in own)
    return weights, tuple(names)


def links(reset: Tensor | None, cut: Tensor | None, live: Tensor | None, like: Tensor) -> Tensor:
    """(T, B): where the gradient passes from a step to the one before it."""
    link = torch.ones(like.shape[:2], dtype=torch.bool, device=like.device)
    link[0] = False
    for stops in (reset, cut, None if live is None else ~live):
        if stops is not None:
            link &= ~stops
    return link


def _states(
    mode: str, x: Tensor, y: Tensor, start: States, weights: Weights,
    live: Tensor | None, reset: Tensor | None,
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """States before and after every step, from the output and, for an LSTM, a scan over its gates."""
    h = before_states(y, start[0], live, reset)
    if mode != "LSTM":
        return [h], [y]
    w_ih, w_hh, b_ih, b_hh = weights[:4]
    gates = F.linear(x, cast(Tensor, w_ih), b_ih) + F.linear(h, cast(Tensor, w_hh), b_hh)
    i, f, g, _ = gates.chunk(4, -1)
    i, f, g = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g)
    new = i * g
    c = start[1]
    for t in range(y.shape[0]):
        if reset is not None:
            c = c.masked_fill(reset[t].unsqueeze(-1), 0)
        c = new[t].addcmul_(f[t], c)
    if live is not None:
        new.masked_fill_(~live.unsqueeze(-1), 0)
    return [h, before_states(new, start[1], live, reset)], [y, new]


def before_states(
    after: Tensor, start: Tensor, live: Tensor | None, reset: Tensor | None
) -> Tensor:
    """The states each step began with, from those it ended with; zero after a reset."""
    before = torch.cat([start.unsqueeze(0), after[:-1]])
    for stops in (reset, None if live is None else ~live):
        if stops is not None:
            before.masked_fill_(stops.unsqueeze(-1), 0)
    return before


def _run(call: LayerCall, x: Tensor, start: States, weights: Weights, reverse: bool) -> Tensor:
    """A lower layer's output, computed as the module itself computed it where that can be had."""
    module = call.module
    with torch.no_grad():
        plain = call.lengths is None and call.reset is None and call.cut is None and not reverse
        if plain and call.by_torch:
            run = getattr(torch._VF, module.mode.lower())
            hx = tuple(s.unsqueeze(0) for s in start)
            state = hx if module.mode == "LSTM" else hx[0]
            given = [w for w in weights if w is not None]
            return run(x, state, given, module.bias, 1, 0.0, False, False, False)[0]
        marks = (
            (shift_mark(call.reset), shift_mark(call.cut)) if reverse else (call.reset, call.cut)
        )
        return ops.recur(
            module.mode, x, start, weights,
            lengths=call.lengths, reset=marks[0], cut=marks[1], reverse=reverse,
        )[0]  # fmt: skip


def dropout_masks(call: LayerCall) -> tuple[Tensor, ...]:
    """The dropout masks between layers, drawn again from the state the generator had."""
    module = call.module
    if call.generator is None:
        return ()
    T, B, width = call.y.shape
    marked = call.reset is not None or call.cut is not None  # then our layers pad a packed input
    masks = []
    with random_kept(call.y):
        set_random_state(call.generator, call.y.device)
        for _ in range(module.num_layers - 1):
            # The same kind of tensor as the module dropped from, or the numbers fall elsewhere.
            rows = call.packed is not None and not marked and module.mode != "LINEAR"
            if rows and call.packed is not None and call.lengths is not None:
                mask = _packed_mask(call, call.packed, call.lengths)
            else:
                mask = F.dropout(call.y.new_ones(T, B, width), module.dropout)
            masks.append(mask)
    return tuple(masks)


def _packed_mask(call: LayerCall, packed: PackedSequence, lengths: Tensor) -> Tensor:
    ones = pack_padded_sequence(call.y.new_ones(call.y.shape), lengths.cpu(), enforce_sorted=False)
    data = F.dropout(ones.data, call.module.dropout)
    mask, _ = pad_packed_sequence(PackedSequence(data, *packed[1:]), total_length=call.y.shape[0])
    return mask


def _turn_time(value: Tensor, call: LayerCall) -> Tensor:
    """(T, B, ·) from a lane's last step to its first, padding left where it is; its own inverse."""
    if call.live is None:
        return value.flip(0)
    T = value.shape[0]
    clock = torch.arange(T, device=value.device)[:, None]
    index = torch.where(call.live, call.last - clock, clock)
    return value.gather(0, index.unsqueeze(-1).expand_as(value))


def shift_mark(mark: Tensor | None) -> Tensor | None:
    """Marks for the reversed direction: entering t from t + 1 crosses the border before t + 1."""
    return None if mark is None else torch.cat([mark[1:], torch.zeros_like(mark[:1])])


def _turn_mark(mark: Tensor | None, call: LayerCall) -> Tensor | None:
    if mark is None:
        return None
    shifted = cast(Tensor, shift_mark(mark))
    return _turn_time(shifted.unsqueeze(-1), call).squeeze(-1)


# What a layer was called with, in normal form: time-major, batched, padded, detached.


def normal_layer_call(
    name: str,
    module: Any,
    input: Any,
    state: Any,
    options: Mapping[str, Any],
    output: Any,
    generator: Tensor | None,
    embedding: Tensor | None = None,
) -> LayerCall:
    """Build a :class:`LayerCall` from what went in and came out.

    Args:
        input: what the layer was given; tokens if ``embedding`` is given.
        options: ``lengths``, ``reset``, ``cut``, as the layer's call took them.
        output: what the call returned.
        generator: state of the random generator before the call.
    """
    # In the dtype of the output, which autocast may have lowered.
    y_raw = output[0]
    packed = y_raw if isinstance(y_raw, PackedSequence) else None
    lengths = options.get("lengths")
    if packed is not None:
        y, lengths = pad_packed_sequence(_detached(packed))
        x, _ = pad_packed_sequence(_detached(input))
        lengths = lengths.to(x.device)
        batched = True
    else:
        batched = y_raw.dim() == 3
        y = time_major(y_raw.detach(), module, batched)
        x = time_major(input.detach(), module, batched)
        if embedding is not None:
            x = F.embedding(x, embedding.detach())
        if lengths is not None:
            lengths = as_lengths(lengths).to(y.device)
    dtype = torch.promote_types(y.dtype, torch.float32)

    def mark(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        value = time_major(as_marks("a mark", value), module, batched).to(y.device)
        if lengths is None:
            return value
        # A mark in the padding marks nothing.
        return value & (torch.arange(value.shape[0], device=y.device)[:, None] < lengths)

    final = output[1] if module.mode == "LSTM" else (output[1],)
    start: States
    if state is None:
        start = tuple(torch.zeros_like(_rows(f, batched), dtype=dtype) for f in final)
    else:
        given = state if module.mode == "LSTM" else (state,)
        start = tuple(_rows(s, batched).to(dtype) for s in given)
    marked = options.get("reset") is not None or options.get("cut") is not None
    plain = not marked and (lengths is None or packed is not None) and embedding is None
    by_torch = not _ours(module) or (
        plain
        and module.mode != "LINEAR"
        and ops.leaves_to_torch(module.mode, x, start, layer_weights(module, 0)[0])
    )
    drops = module.dropout > 0 and module.training and module.num_layers > 1
    return LayerCall(
        name,
        module,
        x.to(dtype),
        start,
        y.to(dtype),
        lengths=lengths,
        reset=mark(options.get("reset")),
        cut=mark(options.get("cut")),
        generator=generator if drops else None,
        packed=packed if packed is None else _detached(packed),
        by_torch=by_torch,
    )


def time_major(value: Tensor, module: nn.RNNBase, batched: bool) -> Tensor:
    """The caller's tensor with time and lanes in front."""
    if not batched:
        return value.unsqueeze(1)
    return value.transpose(0, 1) if module.batch_first else value


def _rows(state: Tensor, batched: bool) -> Tensor:
    return state.detach() if batched else state.detach().unsqueeze(1)


def _detached(packed: PackedSequence) -> PackedSequence:
    return PackedSequence(packed.data.detach(), *packed[1:])


def _ours(module: nn.RNNBase) -> bool:
    return hasattr(module, "forward_tokens")
