"""torch's recurrent layers and cells in a form that ``torch.func.vmap`` can pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bptt.nn import GRU, LSTM, RNN
from bptt.ops import eager


def _step(cell: str, module: nn.RNNCellBase, x: Tensor, state: tuple[Tensor, ...] | None):
    """One step of a cell by the plain recurrence; as in torch, x may lack its batch axis."""
    lanes = x if x.dim() == 2 else x.unsqueeze(0)
    parts = 2 if cell == "LSTM" else 1
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
