"""What is exported, between PyTorch and the targets: a chain of layers with plain NumPy weights.

A backend (C float32, C int8, ONNX) reads this description and nothing of PyTorch. Gate order and
weight shapes are still PyTorch's; each backend converts them to its own. :meth:`Network.run` walks the
chain in float64, its cells by :mod:`bptt.reference` where that has them: it is what a backend is tested
against, and what an exported module is compared with before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erf

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
        w_hr: ``(P, H)`` of a projected LSTM, whose h is W_hr times the usual one; w_hh is ``(4·H, P)``.
    """

    name: str
    layer: int
    cell: str
    w_ih: Floats
    w_hh: Floats
    b_ih: Floats
    b_hh: Floats
    w_hr: Floats | None = None

    @property
    def hidden(self) -> int:
        """H."""
        return len(self.w_ih) // BY_KEY[self.cell].gates

    @property
    def input_size(self) -> int:
        """I."""
        return self.w_ih.shape[1]

    @property
    def output_size(self) -> int:
        """H, of a projected LSTM P."""
        return self.w_hh.shape[1]

    def zeros(self, lanes: int) -> tuple[Floats, ...]:
        """The state to start from."""
        sizes = (self.output_size, self.hidden)[: BY_KEY[self.cell].states]
        return tuple(np.zeros((lanes, size)) for size in sizes)

    def run(self, x: Floats, state: tuple[Floats, ...]) -> tuple[Floats, Floats | None]:
        """The layer over (T, B, I) by :mod:`bptt.reference`: h and, of an LSTM, c at every step."""
        if self.w_hr is not None:
            return self._run_projected(x, state, self.w_hr)
        weights = Weights(self.w_ih, self.w_hh, self.b_ih, self.b_hh)
        if self.cell == "lstm":
            trace = lstm.forward(x, state[0], state[1], weights)
            return trace.y, trace.c
        if self.cell == "gru":
            return gru.forward(x, state[0], weights).y, None
        return rnn.forward(x, state[0], weights, nonlinearity=_NONLINEARITY[self.cell]).y, None

    def _run_projected(
        self, x: Floats, state: tuple[Floats, ...], w_hr: Floats
    ) -> tuple[Floats, Floats]:
        (h, c), hs, cs = state, [], []
        for x_t in x:
            z = x_t @ self.w_ih.T + self.b_ih + h @ self.w_hh.T + self.b_hh
            i, f, g, o = np.split(z, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = (sigmoid(o) * np.tanh(c)) @ w_hr.T
            hs.append(h)
            cs.append(c)
        return np.stack(hs), np.stack(cs)


@dataclass(frozen=True, eq=False)
class Both:
    """A bidirectional layer: ``[h of ahead, h of back]`` at every step, ``back`` from the last one on."""

    name: str
    ahead: Recurrent
    back: Recurrent

    @property
    def input_size(self) -> int:
        """I."""
        return self.ahead.input_size

    @property
    def output_size(self) -> int:
        """Of both together."""
        return self.ahead.output_size + self.back.output_size

    def zeros(self, lanes: int) -> tuple[Floats, ...]:
        """Nothing is handed on: a window begins with zero states."""
        return ()

    def run(self, x: Floats, state: tuple[Floats, ...]) -> tuple[Floats, None]:
        """The layer over a window (T, B, I)."""
        lanes = x.shape[1]
        ahead, _ = self.ahead.run(x, self.ahead.zeros(lanes))
        back, _ = self.back.run(x[::-1], self.back.zeros(lanes))
        return np.concatenate([ahead, back[::-1]], axis=2), None


@dataclass(frozen=True, eq=False)
class MinGRU:
    """h = (1 - z) h + z n, with z and n from W x + b alone: ``weight (2·H, I)``, rows in the order z, n.

    With ``positive`` n is v + ½ for v ≥ 0 and σ(v) below.
    """

    name: str
    layer: int
    weight: Floats
    bias: Floats
    positive: bool

    @property
    def input_size(self) -> int:
        """I."""
        return self.weight.shape[1]

    @property
    def output_size(self) -> int:
        """H."""
        return len(self.weight) // 2

    def zeros(self, lanes: int) -> tuple[Floats, ...]:
        """The state to start from."""
        return (np.zeros((lanes, self.output_size)),)

    def run(self, x: Floats, state: tuple[Floats, ...]) -> tuple[Floats, None]:
        """h at every step."""
        (h,), hs = state, []
        z, n = np.split(x @ self.weight.T + self.bias, 2, axis=2)
        n = np.where(n >= 0, n + 0.5, sigmoid(n)) if self.positive else n
        for z_t, n_t in zip(sigmoid(z), n, strict=True):
            h = (1 - z_t) * h + z_t * n_t
            hs.append(h)
        return np.stack(hs), None


@dataclass(frozen=True, eq=False)
class LRU:
    """s = λ s + B x, y = Re(C s) + D x + b, with γ in B.

    Attributes:
        decay: λ ``(N,)`` complex. b_in: B ``(N, I)`` complex. c_out: C ``(H, N)`` complex.
        skip: D ``(H, I)``. bias: ``(H,)``.
    """

    name: str
    layer: int
    decay: NDArray[np.complex128]
    b_in: NDArray[np.complex128]
    c_out: NDArray[np.complex128]
    skip: Floats
    bias: Floats

    @property
    def input_size(self) -> int:
        """I."""
        return self.skip.shape[1]

    @property
    def output_size(self) -> int:
        """H."""
        return len(self.skip)

    def zeros(self, lanes: int) -> tuple[Floats, ...]:
        """Real and imaginary parts to start from."""
        return tuple(np.zeros((lanes, len(self.decay))) for _ in range(2))

    def run(self, x: Floats, state: tuple[Floats, ...]) -> tuple[Floats, Floats]:
        """y at every step, and both parts of s side by side."""
        s = state[0] + 1j * state[1]
        into, ys, states = x @ self.b_in.T, [], []
        for u, x_t in zip(into, x, strict=True):
            s = self.decay * s + u
            ys.append((s @ self.c_out.T).real + x_t @ self.skip.T + self.bias)
            states.append(np.concatenate([s.real, s.imag], axis=1))
        return np.stack(ys), np.stack(states)


@dataclass(frozen=True, eq=False)
class Activation:
    """A function of each number, or softmax of all of them.

    Attributes:
        kind: ``"tanh"``, ``"sigmoid"``, ``"relu"``, ``"leaky_relu"``, ``"gelu"`` or ``"softmax"``.
        size: how many numbers. slope: of ``leaky_relu`` below zero.
    """

    name: str
    kind: str
    size: int
    slope: float = 0.0

    @property
    def output_size(self) -> int:
        """As many as came in."""
        return self.size

    def of(self, x: Floats) -> Floats:
        """Its values over the last axis."""
        if self.kind == "softmax":
            e = np.exp(x - x.max(-1, keepdims=True))
            return e / e.sum(-1, keepdims=True)
        if self.kind == "gelu":
            return 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2.0)))
        if self.kind in ("tanh", "sigmoid"):
            return np.tanh(x) if self.kind == "tanh" else sigmoid(x)
        return np.where(x >= 0, x, self.slope * x)


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm over the last axis: weight (x - mean) / √(variance + eps) + bias."""

    name: str
    weight: Floats
    bias: Floats
    eps: float

    @property
    def output_size(self) -> int:
        """As many as came in."""
        return len(self.weight)

    def of(self, x: Floats) -> Floats:
        """Its values over the last axis."""
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        return centred / np.sqrt(variance + self.eps) * self.weight + self.bias


def sigmoid(x: Floats) -> Floats:
    """σ, without overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)


Stateful = Recurrent | Both | MinGRU | LRU
Layer = Embedding | OneHot | Linear | Stateful | Activation | Norm
States = list[tuple[Floats, ...]]


@dataclass(frozen=True)
class Trace:
    """What :meth:`Network.run` saw.

    Attributes:
        output: (T, B, O).
        states: after the last step, one entry for each recurrent layer: (h,) or (h, c), (B, H); of an
            LRU the real and the imaginary part, of a bidirectional layer nothing.
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
        layers: Embedding or OneHot at most once, in front; at least one with a state.
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
        return 1 if isinstance(first, Embedding | OneHot) else input_size(first)

    @property
    def output_size(self) -> int:
        """Size of the last layer's output."""
        return self.layers[-1].output_size

    @property
    def recurrent(self) -> tuple[Stateful, ...]:
        """The recurrent layers, in order."""
        return tuple(layer for layer in self.layers if isinstance(layer, Stateful))

    @property
    def both_ways(self) -> bool:
        """Whether a layer needs the end of the sequence: there is no step then."""
        return any(isinstance(r, Both) for r in self.recurrent)

    def zeros(self, lanes: int) -> States:
        """The states to start from."""
        return [layer.zeros(lanes) for layer in self.recurrent]

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
            elif isinstance(layer, Activation | Norm):
                x = layer.of(x)
            else:
                x, c = layer.run(x, states[number])
                states[number] = _after(layer, x, c)
                c = c if isinstance(layer, Recurrent) else None
                number += 1
            outputs.append(x)
            cells.append(c)
        return Trace(x, states, outputs, cells)


def _after(layer: Stateful, x: Floats, c: Floats | None) -> tuple[Floats, ...]:
    """The state after the last step."""
    if isinstance(layer, Both):
        return ()
    if isinstance(layer, LRU) and c is not None:
        return tuple(np.split(c[-1], 2, axis=1))
    return (x[-1],) if c is None else (x[-1], c[-1])


def input_size(layer: Layer) -> int:
    """How many numbers a layer takes."""
    if isinstance(layer, Linear):
        return layer.weight.shape[1]
    return layer.output_size if isinstance(layer, Activation | Norm) else layer.input_size  # type: ignore[union-attr]


def multiply_adds(network: Network) -> int:
    """Multiply–adds of one step: the matrix products, a looked-up row counting nothing."""
    total = 0
    for index, layer in enumerate(network.layers):
        tokens = index == 1 and isinstance(network.layers[0], Embedding | OneHot)
        row = tokens and looks_up(network)
        if isinstance(layer, Linear | MinGRU):
            total += layer.weight.size
        elif isinstance(layer, LRU):
            # A complex number times a real one is two, and Re(C s) takes two as well.
            total += 2 * layer.b_in.size + 2 * layer.c_out.size + layer.skip.size
        elif isinstance(layer, Recurrent | Both):
            parts = (layer.ahead, layer.back) if isinstance(layer, Both) else (layer,)
            for part in parts:
                total += part.w_hh.size + (0 if row else part.w_ih.size)
                total += 0 if part.w_hr is None else part.w_hr.size
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
