"""The known cells, linearised in closed form: one layer, one direction, N rows at once.

Each class holds what the derivative of its cell needs, computed once from the recorded inputs and
states. A cotangent δ at the new state then costs an elementwise product with fixed coefficients and
one product with W_hh: everything here is linear in δ at fixed rows, so sums of δ over lags may be
pushed through as well as δ itself. ``dz`` are the cotangents at the pre-activations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from bptt.ops.cells import BY_MODE
from bptt.recurrence.step import Linear, Rows, States, Step, take

Weights = tuple[Tensor | None, ...]


class LinearCell(ABC):
    """One layer at N rows; ``x (N, I)``, states ``(N, ·)``; weights as :func:`bptt.ops.recur` takes them.

    Attributes:
        gates: activations by name, ``(N, H)`` each, for those who look at saturation.
        new: the states after the step.
    """

    gates: dict[str, Tensor]
    new: States
    _w_ih: Tensor
    _w_hh: Tensor
    _b: Tensor | None

    def __init__(self, x: Tensor, h: Tensor, weights: Weights) -> None:
        w_ih, w_hh, self._b, _ = weights[:4]
        self._w_ih, self._w_hh = cast(Tensor, w_ih), cast(Tensor, w_hh)
        self._x, self._h = x, h

    @abstractmethod
    def back(
        self, delta: States, rows: Rows, out: States | None, dx: bool
    ) -> tuple[States, Tensor]:
        """Cotangents of the states before the step, and of x if ``dx`` (else anything)."""

    @abstractmethod
    def gradient(self, delta: States, rows: Rows, dx: bool) -> tuple[list[Tensor | None], Tensor]:
        """Gradients in the order of the weights, summed over the rows; and the cotangent of x."""

    def _work(self, n: int, width: int) -> Tensor:
        """Scratch, kept between calls: fresh pages would cost more than the arithmetic."""
        kept = getattr(self, "_scratch", None)
        if kept is None or kept.numel() < n * width:
            kept = self._scratch = self._h.new_empty(n * width)
        return kept[: n * width].view(n, width)

    def _through(self, dz: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradients of W_ih, W_hh and a bias for cotangents that are the same on both sides."""
        left = dz.t()
        return left @ take(self._x, rows), left @ take(self._h, rows), self._bias(dz)

    def _bias(self, dz: Tensor) -> Tensor | None:
        return None if self._b is None else dz.t() @ dz.new_ones(dz.shape[0])


def _product(delta: Tensor, coefficient: Tensor, out: Tensor) -> Tensor:
    """δ (n, H) times each of m coefficients (n, m, H), into (n, m·H)."""
    n, m, width = coefficient.shape
    torch.mul(delta.unsqueeze(1), coefficient, out=out.view(n, m, width))
    return out


class LinearRNN(LinearCell):
    """h' = act(a), a = W_ih x + b_ih + W_hh h + b_hh;  da = δ ⊙ act'(a);  back: W_hhᵀ da."""

    def __init__(self, x: Tensor, states: States, weights: Weights, relu: bool) -> None:
        super().__init__(x, states[0], weights)
        b_ih, b_hh = weights[2:4]
        a = F.linear(x, self._w_ih, b_ih) + F.linear(states[0], self._w_hh, b_hh)
        h = a.relu() if relu else a.tanh()
        self.gates = {"relu" if relu else "h": h}
        self.new = (h,)
        self._slope = (h > 0).to(h.dtype) if relu else 1 - h * h

    def back(
        self, delta: States, rows: Rows, out: States | None, dx: bool
    ) -> tuple[States, Tensor]:
        """See :meth:`LinearCell.back`."""
        da = self._work(*delta[0].shape)
        torch.mul(delta[0], take(self._slope, rows), out=da)
        h = torch.mm(da, self._w_hh, out=None if out is None else out[0])
        return (h,), da @ self._w_ih if dx else da

    def gradient(self, delta: States, rows: Rows, dx: bool) -> tuple[list[Tensor | None], Tensor]:
        """See :meth:`LinearCell.gradient`."""
        da = self._work(*delta[0].shape)
        torch.mul(delta[0], take(self._slope, rows), out=da)
        w_ih, w_hh, b = self._through(da, rows)
        return [w_ih, w_hh, b, b], da @ self._w_ih if dx else da


class LinearGRU(LinearCell):
    """r, z = σ(·); n = tanh(x_n + r ⊙ a), a = W_hn h + b_hn; h' = n + z ⊙ (h - n).

    With e = δ ⊙ (1 - z)(1 - n²):  dn = e;  da = e ⊙ r;  dr = e ⊙ a ⊙ r(1 - r);
    dz = δ ⊙ (h - n) ⊙ z(1 - z);  back: δ ⊙ z + W_hhᵀ (dr, dz, da).
    """

    def __init__(self, x: Tensor, states: States, weights: Weights) -> None:
        (h,) = states
        super().__init__(x, h, weights)
        b_ih, b_hh = weights[2:4]
        xr, xz, xn = F.linear(x, self._w_ih, b_ih).chunk(3, -1)
        hr, hz, a = F.linear(h, self._w_hh, b_hh).chunk(3, -1)
        r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
        n = torch.tanh(xn + r * a)
        self.gates = {"reset": r, "update": z, "candidate": n}
        self.new = (n + z * (h - n),)
        e = (1 - z) * (1 - n * n)
        # In the order r, z, a, n: the first three are W_hh's rows.
        self._coefficients = torch.stack(
            [e * a * r * (1 - r), (h - n) * z * (1 - z), e * r, e], dim=1
        )
        self._z = z
        self._size = h.shape[1]

    def back(
        self, delta: States, rows: Rows, out: States | None, dx: bool
    ) -> tuple[States, Tensor]:
        """See :meth:`LinearCell.back`."""
        n, H = delta[0].shape
        coefficients = take(self._coefficients, rows)
        count = 4 if dx else 3
        d = _product(delta[0], coefficients[:, :count], self._work(n, count * H))
        h = torch.mul(delta[0], take(self._z, rows), out=None if out is None else out[0])
        h.addmm_(d[:, : 3 * H], self._w_hh)
        return (h,), self._input(d) if dx else d

    def gradient(self, delta: States, rows: Rows, dx: bool) -> tuple[list[Tensor | None], Tensor]:
        """See :meth:`LinearCell.gradient`."""
        n, H = delta[0].shape
        d = _product(delta[0], take(self._coefficients, rows), self._work(n, 4 * H))
        x, left = take(self._x, rows), d.t()
        w_ih = torch.empty_like(self._w_ih)
        torch.mm(left[: 2 * H], x, out=w_ih[: 2 * H])
        torch.mm(left[3 * H :], x, out=w_ih[2 * H :])
        w_hh = left[: 3 * H] @ take(self._h, rows)
        bias = self._bias(d)
        if bias is None:
            return [w_ih, w_hh, None, None], self._input(d) if dx else d
        b_ih, b_hh = torch.cat([bias[: 2 * H], bias[3 * H :]]), bias[: 3 * H]
        return [w_ih, w_hh, b_ih, b_hh], self._input(d) if dx else d

    def _input(self, d: Tensor) -> Tensor:
        H = self._size
        return (d[:, : 2 * H] @ self._w_ih[: 2 * H]).addmm_(d[:, 3 * H :], self._w_ih[2 * H :])


class LinearLSTM(LinearCell):
    """c' = f ⊙ c + i ⊙ g;  h' = o ⊙ tanh(c'), projected by W_hr if given.

    With u = W_hrᵀ δ_h (or δ_h):  dc = δ_c + u ⊙ o(1 - tanh²c');  do = u ⊙ tanh(c') ⊙ o(1 - o);
    di, df, dg = dc ⊙ (g ⊙ i(1 - i), c ⊙ f(1 - f), i ⊙ (1 - g²));
    back: δ_h ← W_hhᵀ (di, df, dg, do), δ_c ← dc ⊙ f.
    """

    def __init__(self, x: Tensor, states: States, weights: Weights) -> None:
        h, c = states
        super().__init__(x, h, weights)
        b_ih, b_hh = weights[2:4]
        self._w_hr = weights[4] if len(weights) > 4 else None
        a = F.linear(x, self._w_ih, b_ih) + F.linear(h, self._w_hh, b_hh)
        i, f, g, o = a.chunk(4, -1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        new = f * c + i * g
        s = torch.tanh(new)
        self.gates = {"input": i, "forget": f, "candidate": g, "output": o, "tanh(c)": s}
        self._raw = o * s
        self.new = (self._raw if self._w_hr is None else F.linear(self._raw, self._w_hr), new)
        self._cell = torch.stack([g * i * (1 - i), c * f * (1 - f), i * (1 - g * g)], dim=1)
        self._output = s * o * (1 - o)
        self._h_to_c = o * (1 - s * s)
        self._f = f

    def _pull(self, delta: States, rows: Rows) -> tuple[Tensor, Tensor]:
        """dz ``(n, 4H)`` and dc ``(n, H)``."""
        dh, dc = delta
        u = dh if self._w_hr is None else dh @ self._w_hr
        n, H = dc.shape
        dc = torch.addcmul(dc, u, take(self._h_to_c, rows))
        dz = self._work(n, 4 * H)
        torch.mul(dc.unsqueeze(1), take(self._cell, rows), out=dz.view(n, 4, H)[:, :3])
        torch.mul(u, take(self._output, rows), out=dz[:, 3 * H :])
        return dz, dc

    def back(
        self, delta: States, rows: Rows, out: States | None, dx: bool
    ) -> tuple[States, Tensor]:
        """See :meth:`LinearCell.back`."""
        dz, dc = self._pull(delta, rows)
        h = torch.mm(dz, self._w_hh, out=None if out is None else out[0])
        c = torch.mul(dc, take(self._f, rows), out=None if out is None else out[1])
        return (h, c), dz @ self._w_ih if dx else dz

    def gradient(self, delta: States, rows: Rows, dx: bool) -> tuple[list[Tensor | None], Tensor]:
        """See :meth:`LinearCell.gradient`."""
        dz, _ = self._pull(delta, rows)
        w_ih, w_hh, b = self._through(dz, rows)
        found = [w_ih, w_hh, b, b]
        if self._w_hr is not None:
            found.append(delta[0].t() @ take(self._raw, rows))
        return found, dz @ self._w_ih if dx else dz


def linear_cell(cell: str, x: Tensor, states: States, weights: Weights) -> LinearCell:
    """The cell named as :func:`bptt.ops.recur` names it, linearised at N rows."""
    if cell == "GRU":
        return LinearGRU(x, states, weights)
    if cell == "LSTM":
        return LinearLSTM(x, states, weights)
    return LinearRNN(x, states, weights, relu=cell == "RNN_RELU")


# A stack of known cells as one joint recurrence: the states of all layers side by side.
#
# h^l_t = cell_l(m^l_t ⊙ h^{l-1}_t, h^l_{t-1}), with h^0 = x and m^l the dropout mask between layers. A
# truncation cuts all layers at once, so the joint map is the one whose lags add up to truncated BPTT.


@dataclass(frozen=True, eq=False)
class Stack(Step):
    """L layers of a known cell.

    Inputs of the step: x ``(N, I)``, then the mask of each layer above the first, ``(N, H)``, if
    there are any. States: layer by layer, for an LSTM h and c of each.

    Attributes:
        cell: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"GRU"`` or ``"LSTM"``.
        weights: of each layer, as :func:`bptt.ops.recur` takes them, detached.
        names: of the same, None where a bias is absent.
    """

    cell: str
    weights: tuple[Weights, ...]
    names: tuple[tuple[str | None, ...], ...]

    @property
    def parameters(self) -> dict[str, Tensor]:  # type: ignore[override]
        """By name."""
        pairs = zip(self.names, self.weights, strict=True)
        return {
            name: w
            for names, ws in pairs
            for name, w in zip(names, ws, strict=True)
            if name is not None and w is not None
        }

    @property
    def layer_of(self) -> dict[str, int]:  # type: ignore[override]
        """The layer of each parameter, from 0."""
        return {n: layer for layer, names in enumerate(self.names) for n in names if n is not None}

    def __call__(self, inputs: tuple[Tensor, ...], states: States) -> States:
        """The states after the step."""
        return tuple(s for layer in self._layers(inputs, states) for s in layer.new)

    def linearize(self, inputs: tuple[Tensor, ...], states: States) -> LinearStack:
        """The step's derivative at each of N rows."""
        return LinearStack(self._layers(inputs, states), inputs[1:], self.names)

    def _layers(self, inputs: tuple[Tensor, ...], states: States) -> list[LinearCell]:
        x, *masks = inputs
        each = BY_MODE[self.cell].states
        layers: list[LinearCell] = []
        for layer, weights in enumerate(self.weights):
            if layer:
                x = layers[-1].new[0]
                x = x * masks[layer - 1] if masks else x
            layers.append(
                linear_cell(self.cell, x, states[layer * each : (layer + 1) * each], weights)
            )
        return layers


class LinearStack(Linear):
    """The stack's derivative at N rows."""

    def __init__(
        self,
        layers: Sequence[LinearCell],
        masks: tuple[Tensor, ...],
        names: tuple[tuple[str | None, ...], ...],
    ) -> None:
        self.layers, self._masks, self._names = layers, masks, names
        self._each = len(layers[0].new)

    def zeros(self, *shape: int) -> Tensor:
        """Zeros of the trajectory's dtype and device."""
        return self.layers[0].new[0].new_zeros(shape)

    def back(self, delta: States, rows: Rows, out: States | None = None) -> States:
        """J_tᵀ δ_t; see :meth:`Linear.back`."""
        found: list[States] = []
        arriving: Tensor | None = None
        for layer in reversed(range(len(self.layers))):
            here = self._here(delta, layer, arriving)
            part = None if out is None else out[layer * self._each : (layer + 1) * self._each]
            states, dx = self.layers[layer].back(here, rows, part, dx=layer > 0)
            arriving = self._below(layer, dx, rows)
            found.append(states)
        return tuple(s for states in reversed(found) for s in states)

    def gradient(self, delta: States, rows: Rows) -> dict[str, Tensor]:
        """Σ over the rows; see :meth:`Linear.gradient`."""
        return self.gradient_and_input(delta, rows, dx=False)[0]

    def gradient_and_input(
        self, delta: States, rows: Rows, dx: bool = True
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The gradient of the parameters, and that of x ``(n, I)`` if ``dx``."""
        found: dict[str, Tensor] = {}
        arriving: Tensor | None = None
        for layer in reversed(range(len(self.layers))):
            here = self._here(delta, layer, arriving)
            values, below = self.layers[layer].gradient(here, rows, dx=dx or layer > 0)
            for name, value in zip(self._names[layer], values, strict=True):
                if name is not None and value is not None:
                    found[name] = value
            arriving = self._below(layer, below, rows)
        return found, cast(Tensor, arriving)

    def _here(self, delta: States, layer: int, arriving: Tensor | None) -> States:
        h, *rest = delta[layer * self._each : (layer + 1) * self._each]
        return (h if arriving is None else h + arriving, *rest)

    def _below(self, layer: int, dx: Tensor, rows: Rows) -> Tensor:
        return dx * self._masks[layer - 1][rows] if layer and self._masks else dx


def layer_gates(linear: Linear) -> list[dict[str, Tensor]]:
    """The gates of each layer, bottom first; empty where the cell is not a known one."""
    return [layer.gates for layer in linear.layers] if isinstance(linear, LinearStack) else []
