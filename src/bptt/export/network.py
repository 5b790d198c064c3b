"""What is exported, between PyTorch and the targets: a chain of layers with plain NumPy weights.

A backend (C float32, C int8, ONNX) reads this description and nothing of PyTorch. Gate order and
weight shapes are still PyTorch's; each backend converts them to its own. :meth:`Network.run` walks the
chain in float64, its cells by :mod:`bptt.reference`: it is what a backend is tested against, and what
an exported module is compared with before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bptt.ops.cells import BY_KEY
from bptt.reference import Weights, gru, lstm, rnn
from bptt.reference.rnn import Nonlinearity

Floats = NDArray[np.float64]
_NONLINEARITY: dict[str, Nonlinearity] = {"rnn_tanh": "tanh", "rnn_relu": "relu"}


@dataclass(frozen=True, eq=False)
class Embedding:
    """Tokens to vectors: row ``v`` of ``weight (V, I)``. One-hot input is the identity matrix's."""

    name: str
    weight: Floats

    @property
    def output_size(self) -> int:
        """I."""
        return self.weight.shape[1]


@dataclass(frozen=True, eq=False)
class OneHot:
    """Tokens to unit vectors of size V, without a matrix."""

    name: str
    size: int

    @property
    def output_size(self) -> int:
        """V."""
        return self.size


@dataclass(frozen=True, eq=False)
class Linear:
    """y = W x + b, ``weight (O, I)``, ``bias (O,)``."""

    name: str
    weight: Floats
    bias: Floats

    @property
    def output_size(self) -> int:
        """O."""
        return self.weight.shape[0]


@dataclass(frozen=True, eq=False)
class Recurrent:
    """One recurrent layer: PyTorch's equations, gate order and shapes.

    Attributes:
        name: path of the module in the model, and ``layer`` which of its layers this is.
        cell: ``"rnn_tanh"``, ``"rnn_relu"``, ``"gru"`` or ``"lstm"``.
        w_ih: ``(G·H, I)``. w_hh: ``(G·H, H)``. b_ih, b_hh: ``(G·H,)``.
    """

    name: str
    layer: int
    cell: str
    w_ih: Floats
    w_hh: Floats
    b_ih: Floats
    b_hh: Floats

    @property
    def hidden(self) -> int:
        """H."""
        return self.w_hh.shape[1]

    @property
    def output_size(self) -> int:
        """H."""
        return self.hidden

    def run(self, x: Floats, state: tuple[Floats, ...]) -> tuple[Floats, Floats | None]:
        """The layer over (T, B, I) by :mod:`bptt.reference`: h and, of an LSTM, c at every step."""
        weights = Weights(self.w_ih, self.w_hh, self.b_ih, self.b_hh)
        if self.cell == "lstm":
            trace = lstm.forward(x, state[0], state[1], weights)
            return trace.y, trace.c
        if self.cell == "gru":
            return gru.forward(x, state[0], weights).y, None
        return rnn.forward(x, state[0], weights, nonlinearity=_NONLINEARITY[self.cell]).y, None


Layer = Embedding | OneHot | Linear | Recurrent
States = list[tuple[Floats, ...]]


@dataclass(frozen=True)
class Trace:
    """What :meth:`Network.run` saw.

    Attributes:
        output: (T, B, O).
        states: after the last step, one entry for each recurrent layer: (h,) or (h, c), (B, H).
        layers: the output of every layer, (T, B, ·), in the order of the chain.
        cells: c of every LSTM layer at every step (T, B, H), None for the other layers.
    """

    output: Floats
    states: States
    layers: list[Floats]
    cells: list[Floats | None]


@dataclass(frozen=True, eq=False)
class Network:
    """A chain of layers.

    Attributes:
        layers: Embedding or OneHot at most once, in front; at least one Recurrent.
        batch_first: whether the module it was read from has time as axis 1.
    """

    layers: tuple[Layer, ...]
    batch_first: bool = False

    @property
    def tokens(self) -> int | None:
        """V, if the input is tokens."""
        first = self.layers[0]
        if isinstance(first, Embedding):
            return first.weight.shape[0]
        return first.size if isinstance(first, OneHot) else None

    @property
    def input_size(self) -> int:
        """I, for tokens 1."""
        first = self.layers[0]
        if isinstance(first, Linear):
            return first.weight.shape[1]
        return first.w_ih.shape[1] if isinstance(first, Recurrent) else 1

    @property
    def output_size(self) -> int:
        """Size of the last layer's output."""
        return self.layers[-1].output_size

    @property
    def recurrent(self) -> tuple[Recurrent, ...]:
        """The recurrent layers, in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, Recurrent))

    def zeros(self, lanes: int) -> States:
        """The states to start from."""
        return [
            tuple(np.zeros((lanes, r.hidden)) for _ in range(BY_KEY[r.cell].states))
            for r in self.recurrent
        ]

    def run(self, inputs: NDArray[np.generic], states: States | None = None) -> Trace:
        """The whole chain in float64.

        Args:
            inputs: (T, B, I) floats, or tokens (T, B).
            states: one entry a recurrent layer; None starts from zeros.

        Cost: T·B times :func:`multiply_adds`, a Python call or two a step and layer.
        """
        x = np.asarray(inputs)
        states = list(self.zeros(x.shape[1]) if states is None else states)
        outputs: list[Floats] = []
        cells: list[Floats | None] = []
        number = 0
        for layer in self.layers:
            c: Floats | None = None
            if isinstance(layer, Embedding):
                x = layer.weight[x]
            elif isinstance(layer, OneHot):
                x = np.eye(layer.size)[x]
            elif isinstance(layer, Linear):
                x = x @ layer.weight.T + layer.bias
            else:
                x, c = layer.run(x, states[number])
                states[number] = (x[-1],) if c is None else (x[-1], c[-1])
                number += 1
            outputs.append(x)
            cells.append(c)
        return Trace(x, states, outputs, cells)


def multiply_adds(network: Network) -> int:
    """Multiply–adds of one step: the matrix products, a looked-up row counting nothing.

    Cost: none to speak of.
    """
    total = 0
    for index, layer in enumerate(network.layers):
        if isinstance(layer, Linear):
            total += layer.weight.size
        elif isinstance(layer, Recurrent):
            total += layer.w_hh.size
            first = index == 1 and isinstance(network.layers[0], Embedding | OneHot)
            total += 0 if first and looks_up(network) else layer.w_ih.size
    return total


def looks_up(network: Network) -> bool:
    """Whether ``W_ih E`` is stored as one row for each token, which is done where it is not larger.

    A one-hot input always is: its rows are the columns of W_ih themselves.
    """
    if isinstance(network.layers[0], OneHot):
        return True
    if not isinstance(network.layers[0], Embedding) or len(network.layers) < 2:
        return False
    first, second = network.layers[0], network.layers[1]
    weight = second.weight if isinstance(second, Linear) else getattr(second, "w_ih", None)
    if weight is None:
        return False
    return first.weight.shape[0] * weight.shape[0] <= first.weight.size + weight.size
