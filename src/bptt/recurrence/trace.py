"""Run a module over a sequence and record it as recurrences: for those who have no training step."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bptt import carry
from bptt.errors import ArgumentError
from bptt.recurrence.cellcalls import chain_cells, normal_cell_call
from bptt.recurrence.layercalls import normal_layer_call
from bptt.recurrence.layers import layer_recurrences
from bptt.recurrence.recurrence import Recurrence
from bptt.recurrence.replay import check_replay, lowest


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
    if isinstance(module, nn.RNNBase):
        generator = torch.get_rng_state()
        with torch.no_grad():
            output = module(x, *(() if state is None else (state,)), **options)
        call = normal_layer_call("", module, x, state, options, output, generator)
        dtype = lowest(o.dtype for o in carry.tensors(output[1]))
        return tuple(check_replay(r, dtype=dtype) for r in layer_recurrences(call))
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
