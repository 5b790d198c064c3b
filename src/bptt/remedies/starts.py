"""Starts: what the recurrent matrix and the forget gate are before the first update.

Each start fills the recurrent matrix of every gate of every layer and direction; input weights and
biases stay as they were. They work on ``torch.nn``'s layers and on ours alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from bptt.errors import ArgumentError

GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "GRU": 3, "LSTM": 4}


def recurrent_modules(model: nn.Module) -> Iterator[nn.RNNBase]:
    """Every recurrent layer inside a model, the model itself included."""
    return (module for module in model.modules() if isinstance(module, nn.RNNBase))


def start_recurrent(model: nn.Module, start: str) -> None:
    """Fill the recurrent matrices of a model, gate by gate.

    Args:
        model: holds at least one RNN, GRU or LSTM.
        start: ``"default"`` (leave torch's uniform ±1/√H), ``"small"`` (normal, deviation 0.01),
            ``"identity"`` (Le, Jaitly and Hinton 2015; meant for ReLU), ``"orthogonal"``
            (Saxe, McClelland and Ganguli 2014).

    Raises:
        ArgumentError: the start is unknown, or there is nothing to fill.

    Cost: O(H³) for each orthogonal matrix, O(H²) for the others.

    Example:
        >>> gru = nn.GRU(3, 5)
        >>> start_recurrent(gru, "orthogonal")
        >>> update = gru.weight_hh_l0[5:10]
        >>> bool(torch.allclose(update @ update.T, torch.eye(5), atol=1e-5))
        True
    """
    if start not in STARTS:
        raise ArgumentError(f"one of {', '.join(STARTS)}", repr(start), "pick a start by its name")
    modules = list(recurrent_modules(model))
    if not modules:
        raise ArgumentError("a model with recurrent layers", type(model).__name__, "leave it out")
    fill = STARTS[start]
    if fill is None:
        return
    for module in modules:
        for name, parameter in module.named_parameters(recurse=False):
            if name.startswith("weight_hh"):
                with torch.no_grad():
                    for gate in parameter.chunk(GATES[module.mode]):
                        fill(gate)


def start_forget_bias(model: nn.Module, bias: float) -> None:
    """Set the forget gates of every LSTM so that they open with the given bias.

    ``bias_ih`` takes the value and ``bias_hh`` zero: the two are added.

    Args:
        model: holds at least one LSTM with biases.
        bias: 0 is a half-open gate; 1 keeps 73 % of the cell per step, 3 keeps 95 %.

    Raises:
        ArgumentError: no LSTM with biases inside.

    Source: F. Gers, J. Schmidhuber and F. Cummins, 2000, Learning to forget.
    """
    modules = [m for m in recurrent_modules(model) if m.mode == "LSTM" and m.bias]
    if not modules:
        raise ArgumentError(
            "a model with an LSTM that has biases", "none", "use --cell lstm, or leave the bias out"
        )
    for module in modules:
        for name, parameter in module.named_parameters(recurse=False):
            if name.startswith("bias"):
                with torch.no_grad():
                    forget = parameter.chunk(GATES["LSTM"])[1]
                    forget.fill_(bias if name.startswith("bias_ih") else 0.0)


def _identity(gate: Tensor) -> None:
    nn.init.eye_(gate)


def _small(gate: Tensor) -> None:
    nn.init.normal_(gate, std=0.01)


def _orthogonal(gate: Tensor) -> None:
    nn.init.orthogonal_(gate)


STARTS: dict[str, Callable[[Tensor], None] | None] = {
    "default": None,
    "small": _small,
    "identity": _identity,
    "orthogonal": _orthogonal,
}
