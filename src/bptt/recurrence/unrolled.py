"""A call of a recurrent layer once more, step by step: a layer's own graph has no steps to be cut at.

The call is run again by plain tensor operations on copies of what went in, with the same weights and
the same dropout masks. Its graph stands in for the layer's: what arrives at the layer's output goes to
the copy's, and what reaches the copy's input goes on from the layer's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from bptt.nn import carry
from bptt.recurrence.clock import Owner
from bptt.recurrence.layers import (
    LayerCall,
    dropout_masks,
    normal_layer_call,
    shift_mark,
    time_major,
)
from bptt.recurrence.record import Call
from bptt.recurrence.tape import Edge, Visit, edges
from bptt.recurrence.trajectory import TOLERANCE, ReplayError, lowest


@dataclass(eq=False)
class Unrolled:
    """A layer's call step by step.

    Attributes:
        owners: the steps of each layer and direction, in the order they were computed.
        instead: the layer's own output edges, and those that stand in for them.
        onward: the copies of what went in, each with the edge it is a copy of; None for a constant.
        lanes: B.
    """

    owners: list[Owner]
    instead: dict[Edge, Edge]
    onward: dict[Tensor, Edge | Tensor | None]
    lanes: int


def unroll(visit: Visit) -> Unrolled:
    """Run a recorded layer's call again, step by step, under autograd.

    Raises:
        ReplayError: it does not give what the layer gave.

    Cost: a forward pass by plain operations, and its memory.
    """
    call: Call = visit.call
    module: Any = call.module
    given = call.args[0] if call.args else call.kwargs["input"]
    hx = call.args[1] if len(call.args) > 1 else call.kwargs.get("hx")
    normal = normal_layer_call(
        call.name, module, given, hx, call.kwargs, call.output, call.generator, call.embedding
    )
    onward: dict[Tensor, Edge | Tensor | None] = {}
    leaves = [_leaf(v) for v in carry.tensors(hx)] if hx is not None else []
    if call.embedding is None:
        raw = given.data if isinstance(given, PackedSequence) else given
        leaf = _leaf(raw)
        onward[leaf] = _only(visit.arguments[0]) if visit.arguments else None
        x = _normal(leaf, given, module, normal)
    else:
        x = normal.x
    places = visit.arguments[1] if len(visit.arguments) > 1 else []
    if len(places) == len(leaves):
        onward.update(zip(leaves, places, strict=True))
    else:  # zeros, or a state that was cut
        onward.update(dict.fromkeys(leaves))
    batched = normal.y.dim() == 3 and (isinstance(given, PackedSequence) or _raw_dim(call) == 3)
    start = [s if batched else s.unsqueeze(1) for s in leaves] or list(normal.state)
    weights = used_weights(module)
    copies = {name: _leaf(w) for name, w in weights.items()}
    onward.update({copies[n]: (_edge(w) or w) for n, w in weights.items() if w.requires_grad})
    with torch.enable_grad():
        made = _Steps(normal, copies, visit)
        y, final = made.run(x.to(normal.x.dtype), [s.to(normal.x.dtype) for s in start])
        _check(normal, y, call)
        out = _as_returned(y, call, normal)
        ends = [f if batched else f.squeeze(1) for f in final]
    real = [call.output[0].data if isinstance(call.output[0], PackedSequence) else call.output[0]]
    real += list(carry.tensors(call.output[1]))
    instead = {}
    for place, edge in zip(visit_places(visit, len(real)), visit.outputs, strict=False):
        stand_in = _edge([out, *ends][place])
        if stand_in is not None:
            instead[edge] = stand_in
    return Unrolled(made.owners, instead, onward, normal.y.shape[1])


def visit_places(visit: Visit, count: int) -> range:
    """Which of a layer's outputs its edges are: all of them, y first."""
    if len(visit.outputs) != count:
        raise ReplayError(
            f"a gradient at every output of {visit.name or 'the layer'}",
            f"{len(visit.outputs)} of {count}",
            "let the layer's parameters or its input require gradients",
        )
    return range(count)


def used_weights(module: nn.RNNBase) -> dict[str, Tensor]:
    """The tensors that a layer's last call computed with, by name.

    A parametrized one is computed anew by whoever asks for it, which can change what it is: the layer
    keeps those it used.
    """
    names = [n for names in module._all_weights for n in names]
    found: dict[str, Tensor] = {}
    kept = getattr(module, "_used", None)  # our layers', where weights are computed
    flat = module._flat_weights if kept is None or kept.weights is None else kept.weights
    for name, used in zip(module._flat_weights_names, flat, strict=False):
        weight = module._parameters.get(name)
        weight = used if weight is None else weight
        if name in names and weight is not None:
            found[name] = weight
    return found


class _Steps:
    """The stack of layers and directions, one step after the other."""

    def __init__(self, call: LayerCall, weights: dict[str, Tensor], visit: Visit) -> None:
        self.call, self.weights, self.visit = call, weights, visit
        self.owners: list[Owner] = []

    def run(self, x: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """y ``(T, B, directions·S)`` and the final states, ``(L·directions, B, S)`` each."""
        call, module = self.call, self.call.module
        directions = 2 if module.bidirectional else 1
        masks = dropout_masks(call)
        live = call.live
        if live is not None:
            x = x.masked_fill(~live.unsqueeze(-1), 0)
        finals: list[list[Tensor]] = []
        for layer in range(module.num_layers):
            outputs = []
            for direction in range(directions):
                row = layer * directions + direction
                y, final = self._direction(x, [s[row] for s in state], layer, bool(direction))
                outputs.append(y)
                finals.append(final)
            x = torch.cat(outputs, -1) if directions == 2 else outputs[0]
            if layer < len(masks):
                x = x * masks[layer]
        return x, [torch.stack(list(column)) for column in zip(*finals, strict=True)]

    def _direction(
        self, x: Tensor, state: list[Tensor], layer: int, backwards: bool
    ) -> tuple[Tensor, list[Tensor]]:
        call = self.call
        T, live = x.shape[0], call.live
        suffix = f"_l{layer}{'_reverse' if backwards else ''}"
        reset, cut = call.reset, call.cut
        if backwards:
            reset, cut = shift_mark(reset), shift_mark(cut)
        trail = [state]
        ys: list[Tensor] = [x] * T
        projected = x.unbind(0)
        for k in range(T):
            t = T - 1 - k if backwards else k
            before = state
            if reset is not None:
                before = [s.masked_fill(reset[t].unsqueeze(-1), 0) for s in before]
            if cut is not None:
                before = [torch.where(cut[t].unsqueeze(-1), s.detach(), s) for s in before]
            new = step(call.module.mode, projected[t], before, self.weights, suffix)
            if live is not None:
                here = live[t].unsqueeze(-1)
                new = [torch.where(here, n, s) for n, s in zip(new, state, strict=True)]
                ys[t] = new[0].masked_fill(~here, 0)
            else:
                ys[t] = new[0]
            state = new
            trail.append(state)
            roots = [e for s in state for e in edges(s)]
            visit = self.visit
            self.owners.append(Owner(visit.name, visit.module, visit.time + k, visit, roots))
        if live is not None and call.lengths is not None and not backwards:
            lanes = torch.arange(x.shape[1], device=x.device)
            ends = [torch.stack(list(c))[call.lengths, lanes] for c in zip(*trail, strict=True)]
        else:
            ends = state
        return torch.stack(ys), ends


def step(
    mode: str, x: Tensor, state: list[Tensor], weights: dict[str, Tensor], suffix: str
) -> list[Tensor]:
    """One step of a cell, as torch computes it."""
    w_ih, w_hh = weights[f"weight_ih{suffix}"], weights[f"weight_hh{suffix}"]
    b_ih, b_hh = weights.get(f"bias_ih{suffix}"), weights.get(f"bias_hh{suffix}")
    h = state[0]
    gi, gh = F.linear(x, w_ih, b_ih), F.linear(h, w_hh, b_hh)
    if mode.startswith("RNN"):
        return [torch.tanh(gi + gh) if mode == "RNN_TANH" else torch.relu(gi + gh)]
    if mode == "GRU":
        (ri, zi, ni), (rh, zh, nh) = gi.chunk(3, -1), gh.chunk(3, -1)
        r, z = torch.sigmoid(ri + rh), torch.sigmoid(zi + zh)
        n = torch.tanh(ni + r * nh)
        return [(h - n) * z + n]
    i, f, g, o = (gi + gh).chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    down = weights.get(f"weight_hr{suffix}")
    return [h if down is None else F.linear(h, down), c]


def _check(call: LayerCall, y: Tensor, recorded: Call) -> None:
    tolerance = TOLERANCE.get(lowest([recorded.dtype, call.y.dtype]), 3e-2)
    error = (y.detach() - call.y).abs()
    seen = call.y.isfinite() & y.detach().isfinite()
    worst = float(error[seen].max()) if bool(seen.any()) else 0.0
    unit = max(1.0, float(call.y[seen].abs().max())) if bool(seen.any()) else 1.0
    if worst > tolerance * unit:
        raise ReplayError(
            f"the layer {call.name or type(call.module).__name__}, run again step by step, to give "
            f"what it gave (within {tolerance:g})",
            f"an output off by {worst:.3g}",
            "let a subclass call its base's forward with what it was given, or mark a loop of its own "
            "with bptt.tick",
        )


def _leaf(value: Tensor) -> Tensor:
    value = value.detach()
    return value.clone().requires_grad_() if value.is_floating_point() else value


def _edge(value: Tensor) -> Edge | None:
    return next(iter(edges(value)), None)


def _only(given: list[Edge]) -> Edge | None:
    return given[0] if given else None


def _raw_dim(call: Call) -> int:
    return int(call.output[0].dim())


def _normal(leaf: Tensor, given: Any, module: nn.RNNBase, call: LayerCall) -> Tensor:
    if isinstance(given, PackedSequence):
        return pad_packed_sequence(PackedSequence(leaf, *given[1:]))[0]
    return time_major(leaf, module, given.dim() == 3)


def _as_returned(y: Tensor, call: Call, normal: LayerCall) -> Tensor:
    out = call.output[0]
    if isinstance(out, PackedSequence):
        sizes = out.batch_sizes.tolist()
        order = torch.arange(y.shape[1]) if out.sorted_indices is None else out.sorted_indices
        return torch.cat([y[t, order[:n]] for t, n in enumerate(sizes)])
    if out.dim() == 2:
        return y.squeeze(1)
    return y.transpose(0, 1) if normal.module.batch_first else y
