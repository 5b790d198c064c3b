"""A call of a recurrent layer once more, step by step: a layer's own graph has no steps to be cut at;
and a layer that computes all steps by a scan as a recurrence.

The call is run again by plain tensor operations on copies of what went in, with the same weights and
the same dropout masks. Its graph stands in for the layer's: what arrives at the layer's output goes to
the copy's, and what reaches the copy's input goes on from the layer's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from bptt.nn import carry
from bptt.nn.linear import LinearRecurrent
from bptt.recurrence.clock import Owner
from bptt.recurrence.layers import (
    LayerCall,
    before_states,
    dropout_masks,
    links,
    normal_layer_call,
    shift_mark,
    time_major,
)
from bptt.recurrence.record import Call
from bptt.recurrence.step import FunctionStep, States
from bptt.recurrence.tape import Edge, Visit, edges
from bptt.recurrence.trajectory import TOLERANCE, Recurrence, ReplayError, lowest

Advance: TypeAlias = Callable[[int, list[Tensor]], tuple[Tensor, list[Tensor]]]


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
    linear = isinstance(module, LinearRecurrent)
    weights = _own_weights(module) if linear else used_weights(module)
    copies = {name: _leaf(w) for name, w in weights.items()}
    onward.update({copies[n]: (_edge(w) or w) for n, w in weights.items() if w.requires_grad})
    with torch.enable_grad():
        made = (_ScanSteps if linear else _Steps)(normal, copies, visit)
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
        suffix = f"_l{layer}{'_reverse' if backwards else ''}"

        def advance(t: int, before: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            new = step(self.call.module.mode, projected[t], before, self.weights, suffix)
            return new[0], new

        projected = x.unbind(0)
        return self._through(state, advance, backwards)

    def _through(
        self, state: list[Tensor], advance: Advance, backwards: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Every step, each an owner of what it returned: y ``(T, B, S)``, and the last states."""
        call = self.call
        T, live = call.y.shape[0], call.live
        reset, cut = call.reset, call.cut
        if backwards:
            reset, cut = shift_mark(reset), shift_mark(cut)
        trail = [state]
        ys: list[Tensor] = [call.y] * T
        for k in range(T):
            t = T - 1 - k if backwards else k
            before = state
            if reset is not None:
                before = [s.masked_fill(reset[t].unsqueeze(-1), 0) for s in before]
            if cut is not None:
                before = [torch.where(cut[t].unsqueeze(-1), s.detach(), s) for s in before]
            out, new = advance(t, before)
            ys[t] = out
            if live is not None:
                here = live[t].unsqueeze(-1)
                new = [torch.where(here, n, s) for n, s in zip(new, state, strict=True)]
                ys[t] = out.masked_fill(~here, 0)
            state = new
            trail.append(state)
            roots = list(dict.fromkeys(e for s in (*state, out) for e in edges(s)))
            visit = self.visit
            self.owners.append(Owner(visit.name, visit.module, visit.time + k, visit, roots))
        if live is not None and call.lengths is not None and not backwards:
            lanes = torch.arange(call.y.shape[1], device=call.y.device)
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
        order = (
            torch.arange(y.shape[1], device=y.device)
            if out.sorted_indices is None
            else out.sorted_indices
        )
        return torch.cat([y[t, order[:n]] for t, n in enumerate(sizes)])
    if out.dim() == 2:
        return y.squeeze(1)
    return y.transpose(0, 1) if normal.module.batch_first else y


# A layer whose steps a scan computes together, ``h_t = a_t ⊙ h_{t-1} + b_t``: its step is known, and
# what the layer hands out beside its states depends on them alone, and is never fed back.


class _Within(nn.Module):
    """A layer under other weights: ``functional_call`` runs a forward, and a step is none."""

    def __init__(self, layer: LinearRecurrent) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, run: Callable[[LinearRecurrent], Any]) -> Any:
        """Whatever is to be run."""
        return run(self.layer)


def _under(
    module: LinearRecurrent,
    weights: Mapping[str, Tensor],
    run: Callable[[LinearRecurrent], tuple[Tensor, list[Tensor]]],
) -> tuple[Tensor, list[Tensor]]:
    """What ``run`` gives, as (y, states) with flat real states, under the weights given."""
    # A parametrization may change its buffers: they are the user's.
    given = {**weights, **{n: b.clone() for n, b in module.named_buffers()}}
    named = {f"layer.{name}": value for name, value in given.items()}
    y, states = torch.func.functional_call(_Within(module), named, (run,))
    return y, [_flat(module, module.pack_state(s)) for s in states]


def _flat(module: LinearRecurrent, state: Tensor) -> Tensor:
    return state.flatten(-2) if module.parts > 1 else state


def _unpacked(module: LinearRecurrent, states: Sequence[Tensor]) -> list[Tensor]:
    parts = module.parts
    return [module.unpack_state(s.unflatten(-1, (-1, parts)) if parts > 1 else s) for s in states]


def _hooked_weights(module: nn.Module) -> list[str]:
    # A hook of torch's older weight_norm or spectral_norm computes them: they are no parameters, and who
    # runs a step alone does not see them.
    return [n for n, v in vars(module).items() if isinstance(v, Tensor)]


def plain_weights(module: Any) -> bool:
    """Whether the closed form of a layer is in the parameters that are trained."""
    if isinstance(module, LinearRecurrent):
        return not _hooked_weights(module)
    return all(n in module._parameters for names in module._all_weights for n in names)


def _own_weights(module: nn.Module) -> dict[str, Tensor]:
    hooked = _hooked_weights(module)
    if hooked:
        raise ReplayError(
            "weights that are parameters, or parametrized",
            f"{', '.join(hooked)} of {type(module).__name__}, which a hook computes",
            "use torch.nn.utils.parametrizations in place of torch.nn.utils.weight_norm and its kin",
        )
    return dict(module.named_parameters())


class _ScanSteps(_Steps):
    def run(self, x: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """y ``(T, B, H)`` and the final states, one ``(L, B, …)``."""
        module: Any = self.call.module
        masks = dropout_masks(self.call)
        if self.call.live is not None:
            x = x.masked_fill(~self.call.live.unsqueeze(-1), 0)

        def advance(t: int, before: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            states, dropped = _unpacked(module, before), [m[t] for m in masks]
            return _under(module, self.weights, lambda layer: layer.step(x[t], states, dropped))

        y, final = self._through([_flat(module, s) for s in state[0].unbind(0)], advance)
        return y, [torch.stack(final).reshape(state[0].shape)]


def scan_recurrences(call: LayerCall) -> tuple[Recurrence, ...]:
    """The stack of layers as one recurrence, with the output beside the states.

    Raises:
        ReplayError: a hook computes its weights.

    Cost: one more pass of the layer, without a graph.
    """
    module: Any = call.module
    masks, live = dropout_masks(call), call.live
    weights = {n: w.detach().to(call.y.dtype) for n, w in _own_weights(module).items()}
    x = call.x if live is None else call.x.masked_fill(~live.unsqueeze(-1), 0)
    start = [_flat(module, s) for s in call.state[0].unbind(0)]

    def trajectory(layer: LinearRecurrent) -> tuple[Tensor, list[Tensor]]:
        return layer.trajectory(
            x, _unpacked(layer, start), reset=call.reset, live=live,
            drop=(lambda above, y: y * masks[above - 1]) if masks else None,
        )  # fmt: skip

    with torch.no_grad():
        _, after = _under(module, weights, trajectory)
    if live is not None:
        after = [a.masked_fill(~live.unsqueeze(-1), 0) for a in after]
    pairs = zip(after, start, strict=True)
    before = [before_states(a, s, live, call.reset) for a, s in pairs]

    def function(
        inputs: tuple[Tensor, ...], states: States, parameters: Mapping[str, Tensor]
    ) -> States:
        given, *dropped = inputs
        own = _unpacked(module, states[: module.num_layers])  # the output comes after them
        y, new = _under(module, parameters, lambda layer: layer.step(given, own, dropped))
        return (*new, y)

    numbers = {n: int((re.search(r"_l(\d+)", n) or [0, 0])[1]) for n in weights}
    labels = (*(f"h_l{layer}" for layer in range(len(after))), "output")
    return (
        Recurrence(
            call.name, FunctionStep(function, weights, numbers), (x, *masks),
            (*before, torch.zeros_like(call.y)), (*after, call.y),
            links(call.reset, call.cut, live, call.y), live, labels,
        ),
    )  # fmt: skip


def scan_direct(
    call: LayerCall,
    recurrences: tuple[Recurrence, ...],
    dy: Tensor | None,
    final: list[Tensor | None],
) -> tuple[States, ...]:
    """δ⁰, as :func:`bptt.recurrence.layers.layer_direct` gives it for torch's layers."""
    (only,) = recurrences
    direct = [torch.zeros_like(a) for a in only.after]
    if dy is not None:
        direct[-1] += dy
    if final[0] is not None:
        module: Any = call.module
        lanes = torch.arange(call.y.shape[1], device=call.y.device)
        for state, gradient in zip(direct, final[0].unbind(0), strict=False):
            state[call.last, lanes] += _flat(module, gradient)
    return (only.check_gradient(tuple(direct)),)
