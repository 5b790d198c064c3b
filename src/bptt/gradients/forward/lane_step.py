"""One time step of any model as a function of what forward-mode needs to vary: its parameters, a lane
each, and its carry, flat.

The model stays a black box ``(x, carry) -> (output, carry)``. Every lane is given parameters of its
own, all equal, so that one backward pass gives ∂(carry after)/∂(parameters) for all lanes at once:
``torch.func.vmap`` runs the model over the lanes, and ordinary autograd records it. The step is
computed once, so everything taken from it saw the same dropout masks.

Limits: a model that changes a buffer while training (batch normalisation) cannot be run lane by lane.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bptt.errors import ArgumentError, DtypeError, ShapeError
from bptt.gradients.step import run_model
from bptt.nn import GRU, LSTM, RNN
from bptt.nn import carry as carries
from bptt.nn.carry import Carry
from bptt.ops import eager
from bptt.ops.cells import BY_MODE

# torch's recurrent layers and cells in a form that ``torch.func.vmap`` can pass.


def _step(cell: str, module: nn.RNNCellBase, x: Tensor, state: tuple[Tensor, ...] | None):
    """One step of a cell by the plain recurrence; as in torch, x may lack its batch axis."""
    lanes = x if x.dim() == 2 else x.unsqueeze(0)
    parts = BY_MODE[cell].states
    if state is None:
        state = (lanes.new_zeros(lanes.shape[0], module.hidden_size),) * parts
    state = tuple(s if s.dim() == 2 else s.unsqueeze(0) for s in state)
    weights = (module.weight_ih, module.weight_hh, module.bias_ih, module.bias_hh)
    _, state = eager.recur(cell, lanes.unsqueeze(0), state, weights)
    return state if x.dim() == 2 else tuple(s.squeeze(0) for s in state)


class _RNNCell(nn.RNNCell):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        state = None if hx is None else (hx,)
        return _step(f"RNN_{self.nonlinearity.upper()}", self, input, state)[0]


class _GRUCell(nn.GRUCell):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return _step("GRU", self, input, None if hx is None else (hx,))[0]


class _LSTMCell(nn.LSTMCell):
    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None):
        return _step("LSTM", self, input, hx)


_OURS: dict[type, type] = {
    nn.RNN: RNN,
    nn.GRU: GRU,
    nn.LSTM: LSTM,
    nn.RNNCell: _RNNCell,
    nn.GRUCell: _GRUCell,
    nn.LSTMCell: _LSTMCell,
}


@contextmanager
def passable(model: nn.Module, turn: bool) -> Iterator[None]:
    """While this is open, every torch recurrence in a model computes in operations vmap knows.

    The operators behind ``torch.nn``'s layers and cells have no batching rule. Ours compute the same
    from the same attributes, so only the instance's class changes, and changes back.

    Args:
        model: any module.
        turn: False leaves the classes; oneDNN is off either way, as its LSTM has no second derivative.
    """
    turned = [(m, type(m), _turned(m)) for m in model.modules() if turn and _turned(m)]
    enabled = torch.backends.mkldnn.enabled
    try:
        for module, _, kind in turned:
            module.__class__ = kind
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
        yield
    finally:
        torch.backends.mkldnn.enabled = enabled
        for module, kind, _ in turned:
            module.__class__ = kind


def _turned(module: nn.Module) -> Any:
    """The class that a module of torch's computes in here; None for any other module."""
    ours = _OURS.get(parametrize.type_before_parametrizations(module))
    if ours is None or not parametrize.is_parametrized(module):
        return ours
    # The class that a parametrization makes holds the properties that compute the weights.
    computed: Any = module.parametrizations
    return type(ours.__name__, (ours,), {name: vars(type(module))[name] for name in computed})


class LaneStep:
    """A model, one step at a time.

    Args:
        model: takes ``(x, carry)`` and returns ``(output, carry)``.
        lanes: B; the state is ``(B, n)``.
        input_axis: the lane's axis in inputs and outputs.
        carry_axis: the lane's axis in every tensor of the carry; None: lanes are not told apart, the
            state is ``(1, n)``, and the model may mix them.
        vectorize: over lanes by ``vmap``; otherwise one after the other.
    """

    def __init__(
        self,
        model: nn.Module,
        lanes: int,
        input_axis: int,
        carry_axis: int | None,
        vectorize: bool = True,
    ) -> None:
        self.model = model
        self.lanes = 1 if carry_axis is None else lanes
        self.input_axis = input_axis
        self.carry_axis = carry_axis
        self.vectorize = vectorize
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise ArgumentError(
                "a model with parameters that require a gradient", "none", "unfreeze some"
            )
        self._form: Carry = None  # the carry of one lane, as tensors without storage

    def flatten(self, carry: Carry) -> Tensor:
        """A carry as the state ``(B, n)``; its form is kept for :meth:`restore`."""
        found = list(carries.tensors(carry))
        if not found:
            raise ArgumentError(
                "a carry that holds tensors", type(carry).__name__, "return the state of the model"
            )
        for tensor in found:
            if not tensor.is_floating_point():
                raise DtypeError(
                    "a carry of real floating-point tensors",
                    str(tensor.dtype),
                    "return torch.view_as_real of a complex state; keep counters out of the carry",
                )
            if self.carry_axis is not None and (
                tensor.dim() <= self.carry_axis or tensor.shape[self.carry_axis] != self.lanes
            ):
                raise ShapeError(
                    f"a carry with {self.lanes} lanes on axis {self.carry_axis}",
                    f"a tensor of shape {tuple(tensor.shape)}",
                    "name the lane's axis with ForwardMode(lane_axis=…), None if there is none",
                )
        if self.carry_axis is None:
            self._form = carries.apply(_bare, carry)
            return torch.cat([t.reshape(1, -1) for t in found], 1)
        axis = self.carry_axis
        self._form = carries.apply(lambda t: _bare(t.narrow(axis, 0, 1)), carry)
        return torch.cat([t.movedim(axis, 0).reshape(self.lanes, -1) for t in found], 1)

    def restore(self, state: Tensor) -> Carry:
        """The carry of all lanes that the state ``(B, n)`` holds."""
        if self.carry_axis is None:
            return self._shape(state[0])
        axis, start = self.carry_axis, 0

        def take(form: Tensor) -> Tensor:
            nonlocal start
            piece = state[:, start : start + form.numel()]
            start += form.numel()
            shape = [self.lanes, *form.shape[:axis], *form.shape[axis + 1 :]]
            return piece.reshape(shape).movedim(0, axis)

        return carries.apply(take, self._form)

    def __call__(
        self, x: Tensor, state: Tensor | None, reset: Tensor | None, lengths: Tensor | None
    ) -> tuple[Any, Tensor, dict[str, Tensor]]:
        """Run one step.

        Args:
            x: the inputs of one time step, time axis kept.
            state: ``(B, n)``, or None for a fresh start.
            reset: of x's leading two axes, or None.
            lengths: ``(B,)``, each 0 or 1, or None.

        Returns:
            The output in the model's own form, the state after ``(B, n)``, and the parameters as each
            lane had them, ``(B, …)``.
        """
        each = {
            name: p.expand(self.lanes, *p.shape) if p.requires_grad else p
            for name, p in self.parameters.items()
        }
        with passable(self.model, turn=self.vectorize):
            output, after = self._over_lanes(each, x, state, reset, lengths)
        if self.carry_axis is None:
            return carries.apply(lambda t: t.squeeze(0), output), after, each
        axis = self.input_axis
        return carries.apply(lambda t: t.movedim(0, axis), output), after, each

    def _over_lanes(self, each, x, state, reset, lengths):
        arguments = [each, x, state, reset, lengths]
        one = self._one_lane
        if self.carry_axis is None:  # all lanes are one
            one = self._run
            arguments = [
                a if i in (0, 2) or a is None else a.unsqueeze(0) for i, a in enumerate(arguments)
            ]
        else:
            arguments[1] = x.movedim(self.input_axis, 0)
            arguments[3] = None if reset is None else reset.movedim(self.input_axis, 0)
        if self.vectorize:
            # A lane's step is drawn its own dropout mask.
            dims = tuple(None if a is None else 0 for a in arguments)
            return torch.func.vmap(one, dims, randomness="different")(*arguments)
        results = []
        for lane in range(self.lanes):
            own = {name: p[lane] for name, p in each.items()}
            rest = [None if a is None else a[lane] for a in arguments[1:]]
            results.append(one(own, *rest))
        outputs = [list(carries.tensors(output)) for output, _ in results]
        stacked = iter([torch.stack(parts) for parts in zip(*outputs, strict=True)])
        output = carries.apply(lambda _: next(stacked), results[0][0])
        return output, torch.stack([after for _, after in results])

    def _one_lane(self, parameters, x, state, reset, lengths):
        """One lane, its axis put back with one lane in it, as the model expects its input."""
        axis = self.input_axis
        output, after = self._run(
            parameters,
            x.unsqueeze(axis),
            state,
            None if reset is None else reset.unsqueeze(axis),
            None if lengths is None else lengths.unsqueeze(0),
        )
        return carries.apply(lambda t: t.squeeze(axis), output), after

    def _run(self, parameters, x, state, reset, lengths) -> tuple[Any, Tensor]:
        marks = {} if lengths is None else {"lengths": lengths}

        def call(x: Tensor, carry: Carry, **more: Any) -> Any:
            return torch.func.functional_call(self.model, parameters, (x, carry), {**more, **marks})

        carry = None if state is None else self._shape(state)
        output, carry = run_model(call, x, carry, reset, of=self.model)  # type: ignore[arg-type]
        found = list(carries.tensors(carry))
        if state is None:
            self._form = carries.apply(_bare, carry)
        axis = self.carry_axis
        if axis is not None and any(t.dim() <= axis or t.shape[axis] != 1 for t in found):
            raise ShapeError(
                f"a carry with the lane on axis {axis}, run here with one lane",
                f"shapes {[tuple(t.shape) for t in found]}",
                "name the lane's axis with ForwardMode(lane_axis=…), None if there is none",
            )
        if not found or not all(t.is_floating_point() for t in found):
            self.flatten(carry)  # says what is wrong with it
        return output, torch.cat([t.reshape(-1) for t in found])

    def _shape(self, flat: Tensor) -> Carry:
        """The carry, in the form of one call, that a flat state ``(n,)`` holds."""
        start = 0

        def take(form: Tensor) -> Tensor:
            nonlocal start
            piece = flat[start : start + form.numel()]
            start += form.numel()
            return piece.reshape(form.shape)

        return carries.apply(take, self._form)


def _bare(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, device="meta")
