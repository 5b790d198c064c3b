"""A network in integers: int8 weights, int16 state, int32 sums, and the factors between them.

The scheme, per matrix row j and with every scale a power of two but that of the rows::

    W_ji  ≈ s_j · w_ji,       w int8 from -127 to 127,  s_j = max_i |W_ji| / 127
    z_j   = (Σ_i w_ji x_i) · m_j / 2^k_j,   m_j from 2^30 to 2^31: s_j and both scales, to 31 bits
    z     is Q14 (units of 2^-14), tanh and sigmoid are Q15 by a table of 257 entries, h is Q15
    c     of an LSTM and h of a ReLU network: int16 with a scale from the calibration data
    input int8 and output int8 (or int16), with a scale from the calibration data
    tanh, sigmoid, ReLU and leaky ReLU between layers: int16 to int16, the first two by the table

States are rounded to nearest, not cut off: truncation pulls a state that hardly moves towards zero.

Source: the rows' scales and multipliers as in B. Jacob et al., 2018, Quantization and training of
neural networks for efficient integer-arithmetic-only inference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bptt.errors import ArgumentError
from bptt.export.c_float import reorder
from bptt.export.ctext import check_integers
from bptt.export.network import (
    Activation,
    Embedding,
    Floats,
    Linear,
    Network,
    OneHot,
    Recurrent,
    looks_up,
)
from bptt.ops.cells import BY_KEY

Ints = NDArray[np.int64]

GATE_BITS = 14  # z in Q14: |z| < 16 matters to tanh and sigmoid, beyond they are constant
UNIT_BITS = 15  # h of bounded cells, tanh and sigmoid in Q15
TABLE_STEP = 10  # a table entry every 2^10 units of Q14: 1/16
LOGIT_BITS = 4  # logits in int8: 2^-4 nats a unit
LARGEST = 2**24  # z is held within this, so that sums of three stay in int32
MIN_STEPS = 1000
_TABLE_SIZE = 257


def table() -> Ints:
    """T[i] = tanh(i / 32) in Q15, i = 0 … 256: both tanh(x) = T(2x) and 2σ(x) - 1 = T(x)."""
    return np.minimum(np.rint(2.0**15 * np.tanh(np.arange(_TABLE_SIZE) / 32)), 32767).astype(int)


@dataclass(frozen=True, eq=False)
class Product:
    """Σ_i w_ji x_i, then z_j = (sum · multiplier_j + half) >> shift_j.

    Attributes:
        weight: (N, K) int8 values. multiplier, shift: (N,).
    """

    weight: Ints
    multiplier: Ints
    shift: Ints


@dataclass(frozen=True, eq=False)
class QLinear:
    """Product plus bias, to ``bits`` bits at 2^-output_shift a unit; ``rows`` if x is a token.

    ``relative``: the outputs are logits less the largest of the step, which alone gets 127. Softmax
    and choice do not change by that, and 8 bits reach where it matters: 16 nats down, in sixteenths.
    """

    name: str
    product: Product
    bias: Ints
    output_shift: int
    bits: int
    rows: bool
    relative: bool


@dataclass(frozen=True, eq=False)
class QRecurrent:
    """One recurrent layer; gates ordered as :func:`bptt.export.c_float.reorder` does."""

    name: str
    layer: int
    cell: str
    hidden: int
    x: Product
    h: Product
    start: Ints
    state_shift: int
    cell_shift: int
    rows: bool


@dataclass(frozen=True, eq=False)
class QEmbedding:
    """Rows of int8 by token."""

    name: str
    weight: Ints


@dataclass(frozen=True, eq=False)
class QActivation:
    """A function of each number: of x in units of 2^-in_shift.

    Attributes:
        kind: as :class:`~bptt.export.network.Activation`. shift: a unit of its values is 2^-shift.
        slope: of ``leaky_relu``, in units of 2^-15.
    """

    name: str
    kind: str
    size: int
    in_shift: int
    shift: int
    slope: int


QLayer = QLinear | QRecurrent | QEmbedding | QActivation


@dataclass(frozen=True, eq=False)
class QNetwork:
    """The chain in integers.

    Attributes:
        network: what it was made of.
        layers: in order.
        input_shift, output_shift: a unit of the input and output is 2^-shift.
        output_bits: 8 or 16.
    """

    network: Network
    layers: tuple[QLayer, ...]
    input_shift: int
    output_shift: int
    output_bits: int


def quantise(network: Network, calibration: NDArray[np.generic], output_bits: int = 8) -> QNetwork:
    """Weights to int8, and scales from the network's own data.

    Args:
        network: what to quantise.
        calibration: (T, B, I) or tokens (T, B), at least 1000 steps over all lanes: it says how large
            inputs, outputs and unbounded states get. Twice that is left as head room for states.
        output_bits: 8 or 16.

    Raises:
        ArgumentError: too little data, a layer that int8 has not, or one whose sums do not fit 32 bits.

    Cost: one float64 pass over the calibration data.

    Example:
        >>> import torch
        >>> from bptt.export.extract import read_network
        >>> x = torch.randn(1000, 1, 3)
        >>> q = quantise(read_network(torch.nn.GRU(3, 5), x), x.double().numpy())
        >>> q.layers[0].h.weight.shape, int(abs(q.layers[0].h.weight).max()), q.output_shift
        ((15, 5), 127, 7)
    """
    steps = int(np.prod(calibration.shape[:2]))
    if steps < MIN_STEPS:
        raise ArgumentError(
            f"at least {MIN_STEPS} steps of calibration data",
            str(steps),
            "give a longer stretch of the data the network will see",
        )
    if output_bits not in (8, 16):
        raise ArgumentError("output_bits 8 or 16", str(output_bits), "pass 8 or 16")
    for layer in network.layers:
        check_integers(layer)
    trace = network.run(calibration)
    layers: list[QLayer] = []
    # How large a unit of the value that flows along the chain is.
    unit, peak, row = 1.0, 128, None
    input_shift = 0
    if network.tokens is None:
        input_shift = _shift_for(_size(calibration), 127)
        unit = 2.0**-input_shift
    for number, layer in enumerate(network.layers):
        last = number == len(network.layers) - 1
        seen = _size(trace.layers[number])
        if isinstance(layer, Embedding) and not looks_up(network):
            unit = max(_size(layer.weight), 1e-30) / 127
            layers.append(QEmbedding(layer.name, np.rint(layer.weight / unit).astype(int)))
        elif isinstance(layer, Embedding):
            row = layer.weight
        elif isinstance(layer, OneHot):
            row = np.eye(layer.size)
        elif isinstance(layer, Linear):
            bits = output_bits if last else 16
            relative = last and bits == 8 and network.tokens == layer.output_size
            shift = GATE_BITS if relative else _shift_for(seen, 2 ** (bits - 1) - 1)
            weight, step = (layer.weight, unit) if row is None else (layer.weight @ row.T, 1.0)
            product = _product(layer.name, weight, step, shift, peak if row is None else 1)
            bias = _to_int(layer.bias, shift)
            shift = LOGIT_BITS if relative else shift
            layers.append(
                QLinear(layer.name, product, bias, shift, bits, row is not None, relative)
            )
            unit, peak, row = 2.0**-shift, 2**15, None
        elif isinstance(layer, Activation):
            found = _activation(layer, unit)
            layers.append(found)
            unit, peak = 2.0**-found.shift, 2**15
        elif isinstance(layer, Recurrent):
            relu = layer.cell == "rnn_relu"
            state_shift = _shift_for(2 * seen, 32767) if relu else UNIT_BITS
            c = trace.cells[number]
            # At most Q14: f·c and i·g are added in 32 bits.
            cell_shift = 0 if c is None else max(min(_shift_for(2 * _size(c), 32767), 14), 0)
            gate_bits = state_shift if relu else GATE_BITS
            w_ih, w_hh, start = reorder(layer)
            weight, step = (w_ih, unit) if row is None else (w_ih @ row.T, 1.0)
            where = f"{layer.name}.weight_ih_l{layer.layer}"
            x = _product(where, weight, step, gate_bits, peak if row is None else 1)
            where = f"{layer.name}.weight_hh_l{layer.layer}"
            h = _product(where, w_hh, 2.0**-state_shift, gate_bits, 2**15)
            layers.append(
                QRecurrent(
                    layer.name, layer.layer, layer.cell, layer.hidden, x, h,
                    _to_int(start, gate_bits), state_shift, cell_shift, row is not None,
                )
            )  # fmt: skip
            unit, peak, row = 2.0**-state_shift, 2**15, None
    final = layers[-1]
    if isinstance(final, QLinear):
        output_shift = final.output_shift
    else:
        output_shift = round(-np.log2(unit)) - (16 - output_bits)
    return QNetwork(network, tuple(layers), input_shift, output_shift, output_bits)


def _activation(layer: Activation, unit: float) -> QActivation:
    before = round(-np.log2(unit))
    shift = UNIT_BITS if layer.kind in ("tanh", "sigmoid") else before
    slope = round(layer.slope * 2.0**UNIT_BITS)
    return QActivation(layer.name, layer.kind, layer.size, before, shift, slope)


def _size(values: NDArray[np.generic]) -> float:
    return float(np.abs(values).max())


def _shift_for(largest: float, limit: int) -> int:
    """The finest power of two at which ``largest`` still fits: largest · 2^shift <= limit."""
    if largest == 0.0:
        return 0
    return int(np.clip(np.floor(np.log2(limit / largest)), -30, 30))


def _to_int(values: Floats, shift: int) -> Ints:
    return np.clip(np.rint(values * 2.0**shift), -LARGEST, LARGEST).astype(np.int64)


def _product(name: str, weight: Floats, unit: float, shift: int, peak: int) -> Product:
    """Rows of int8 and the factors that take their sums, in ``unit``, to 2^-shift a unit."""
    size = np.abs(weight).max(axis=1)
    scale = np.where(size > 0, size, 1.0) / 127
    w = np.rint(weight / scale[:, None]).astype(np.int64)
    worst = int(np.abs(w).sum(axis=1).max()) * peak
    if worst >= 2**31:
        raise ArgumentError(
            "sums that fit 32 bits",
            f"up to 2^{np.log2(worst):.1f} in {name}",
            "export this network in float32, or make the layer narrower",
        )
    mantissa, exponent = np.frexp(scale * unit * 2.0**shift)
    multiplier = np.rint(mantissa * 2.0**31).astype(np.int64)
    over = multiplier == 2**31
    multiplier, exponent = np.where(over, 2**30, multiplier), exponent + over
    k = 31 - exponent.astype(np.int64)
    # Smaller than 2^-31 a unit: the sum rounds to nothing whatever it is.
    multiplier = np.where(k > 62, 0, multiplier)
    if int(k.min()) < 1:
        raise ArgumentError(
            "weights whose products fit 32 bits",
            f"a row of size {size.max():.3g} in {name}",
            "export this network in float32",
        )
    return Product(w, multiplier, np.minimum(k, 62))


# The integer network in NumPy: the same numbers, bit for bit, as the generated C gives.
#
# It serves two ends: the oracle of the tests, and the measure of what quantisation costs without a
# compiler. Many streams run side by side; every operation is exact in int64.

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
            [np.zeros((lanes, r.hidden), np.int64) for _ in range(BY_KEY[r.cell].states)]
            for r in q.layers
            if isinstance(r, QRecurrent)
        ]
        # Sums stay below 2^31, so float64 holds them exactly and its matrix product is fast.
        self._float = {
            id(p): np.ascontiguousarray(p.weight.T.astype(np.float64))
            for layer in q.layers
            if isinstance(layer, QLinear | QRecurrent)
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
            elif isinstance(layer, QActivation):
                value = activated(layer, value)
            else:
                value = self._recurrent(layer, value, self.states[number])
                number += 1
        if not isinstance(self.q.layers[-1], QLinear) and self.q.output_bits == 8:
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


def activated(layer: QActivation, x: Ints) -> Ints:
    """The function of each number; int16 to int16."""
    if layer.kind in ("tanh", "sigmoid"):
        z = to_gates(x, layer.in_shift)
        return saturate(tanh(z) if layer.kind == "tanh" else sigmoid(z), 16)
    below = down(x * layer.slope, UNIT_BITS) if layer.slope else np.zeros_like(x)
    return np.where(x > 0, x, below)


def to_gates(x: Ints, shift: int) -> Ints:
    """Units of 2^-shift to Q14, held where tanh and sigmoid are constant."""
    up = GATE_BITS - shift
    z = x * 2 ** min(up, 24) if up >= 0 else down(x, -up)
    return np.clip(z, -LARGEST, LARGEST)


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
