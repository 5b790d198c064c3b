"""The integer network in NumPy: the same numbers, bit for bit, as the generated C gives.

It serves two ends: the oracle of the tests, and the measure of what quantisation costs without a
compiler. Many streams run side by side; every operation is exact in int64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bptt.export.quantise import (
    GATE_BITS,
    LARGEST,
    LOGIT_BITS,
    TABLE_STEP,
    UNIT_BITS,
    Ints,
    Product,
    QEmbedding,
    QLinear,
    QNetwork,
    QRecurrent,
    table,
)

_TABLE = table()
_END = (len(_TABLE) - 1 << TABLE_STEP) - 1


class Simulator:
    """Streams of the integer network.

    Args:
        q: the network.
        lanes: B, streams side by side.

    Cost: a step takes about ten NumPy calls a layer and the matrix product.

    Example:
        >>> import torch
        >>> from bptt.export.extract import read_network
        >>> from bptt.export.quantise import quantise
        >>> x = torch.randn(1000, 1, 3)
        >>> q = quantise(read_network(torch.nn.GRU(3, 5), x), x.double().numpy())
        >>> Simulator(q).step(q_input(q, x[0].numpy())).shape
        (1, 5)
    """

    def __init__(self, q: QNetwork, lanes: int = 1) -> None:
        self.q = q
        self.states = [
            [np.zeros((lanes, r.hidden), np.int64) for _ in range(2 if r.cell == "lstm" else 1)]
            for r in q.layers
            if isinstance(r, QRecurrent)
        ]
        # Sums stay below 2^31, so float64 holds them exactly and its matrix product is fast.
        self._float = {
            id(p): np.ascontiguousarray(p.weight.T.astype(np.float64))
            for layer in q.layers
            if not isinstance(layer, QEmbedding)
            for p in _products(layer)
        }

    def step(self, x: NDArray[np.integer]) -> Ints:
        """One time step: int8 values (B, I) or tokens (B,), to outputs (B, O)."""
        value = np.asarray(x, np.int64)
        number = 0
        for layer in self.q.layers:
            if isinstance(layer, QEmbedding):
                value = layer.weight[value]
            elif isinstance(layer, QLinear):
                z = self._scaled(layer.product, value, layer.rows) + layer.bias
                value = relative(z) if layer.relative else saturate(z, layer.bits)
            else:
                value = self._recurrent(layer, value, self.states[number])
                number += 1
        if isinstance(self.q.layers[-1], QRecurrent) and self.q.output_bits == 8:
            value = saturate(value + 128 >> 8, 8)
        return value

    def run(self, inputs: NDArray[np.integer]) -> Ints:
        """Many steps: (T, B, I) or (T, B) to (T, B, O)."""
        return np.stack([self.step(x) for x in inputs])

    def _scaled(self, p: Product, x: Ints, rows: bool) -> Ints:
        total = p.weight.T[x] if rows else (x @ self._float[id(p)]).astype(np.int64)
        # m < 2^31 and |total| < 2^31: the product and the half fit 63 bits.
        z = total * p.multiplier + (np.int64(1) << p.shift - 1) >> p.shift
        return np.clip(z, -LARGEST, LARGEST)

    def _recurrent(self, r: QRecurrent, x: Ints, state: list[Ints]) -> Ints:
        H = r.hidden
        h = state[0]
        zx, zh = self._scaled(r.x, x, r.rows), self._scaled(r.h, h, False)
        if r.cell == "gru":
            n, hn = zx[:, :H] + r.start[:H], zh[:, 2 * H :] + r.start[3 * H :]
            gates = sigmoid(zx[:, H:] + zh[:, : 2 * H] + r.start[H : 3 * H])
            reset, update = gates[:, :H], gates[:, H:]
            n = tanh(n + down(reset * hn, UNIT_BITS))
            state[0] = n + down(update * (h - n), UNIT_BITS)
            return state[0]
        z = zx + zh + r.start
        if r.cell == "rnn_tanh":
            state[0] = tanh(z)
        elif r.cell == "rnn_relu":
            state[0] = np.clip(z, 0, 32767)
        else:
            gates, g = sigmoid(z[:, : 3 * H]), tanh(z[:, 3 * H :])
            i, f, o = gates[:, :H], gates[:, H : 2 * H], gates[:, 2 * H :]
            c = f * state[1] + down(i * g, UNIT_BITS - r.cell_shift)
            state[1] = saturate(down(c, UNIT_BITS), 16)
            state[0] = down(o * curve(state[1] << 15 - r.cell_shift), UNIT_BITS)
        return state[0]


def q_input(q: QNetwork, x: NDArray[np.floating]) -> Ints:
    """Real input in the units of the int8 network, rounded and held to -128 … 127."""
    return np.clip(np.rint(np.asarray(x, np.float64) * 2.0**q.input_shift), -128, 127).astype(int)


def curve(u: Ints) -> Ints:
    """T(u) = tanh(u / 2) in Q15 of u in Q14: linear between the entries of the table."""
    a = np.minimum(np.abs(u), _END)
    i, f = a >> TABLE_STEP, a & (1 << TABLE_STEP) - 1
    low = _TABLE[i]
    v = low + ((_TABLE[i + 1] - low) * f + (1 << TABLE_STEP - 1) >> TABLE_STEP)
    return np.where(u < 0, -v, v)


def tanh(z: Ints) -> Ints:
    """Q14 to Q15."""
    return curve(2 * z)


def sigmoid(z: Ints) -> Ints:
    """Q14 to Q15, 0 … 32768: (1 + T) / 2."""
    return 32768 + curve(z) + 1 >> 1


def down(x: Ints, bits: int) -> Ints:
    """x / 2^bits to nearest, halves up."""
    return x + (1 << bits - 1) >> bits if bits else x


def relative(z: Ints) -> Ints:
    """Logits (B, V) in Q14 less the largest, which alone gets 127, in units of 2^-4; int8."""
    best = z.argmax(1)[:, None]
    value = down(z - np.take_along_axis(z, best, 1), GATE_BITS - LOGIT_BITS) + 127
    value = np.clip(value, -128, 126)
    np.put_along_axis(value, best, 127, 1)
    return value


def saturate(x: Ints, bits: int) -> Ints:
    """Held to a signed integer of so many bits."""
    return np.clip(x, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _products(layer: QLinear | QRecurrent) -> tuple[Product, ...]:
    return (layer.product,) if isinstance(layer, QLinear) else (layer.x, layer.h)
