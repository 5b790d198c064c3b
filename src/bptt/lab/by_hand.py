"""Page *BPTT by hand*: three steps of a network of two units, every number shown, beside autograd.

    z_t = w_x x_t + W h_{t−1}      h_t = tanh z_t      o_t = w_y · h_t      L = Σ ½ (o_t − y_t)²

Forward and backward are :mod:`bptt.reference.rnn`; the other side is torch.nn.RNN; both float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import numpy as np
import torch

from bptt.errors import ArgumentError
from bptt.reference import Weights, rnn
from bptt.report.chart import number

T, H = 3, 2
Losses = Literal["every step", "the last step"]

W = (0.8, -0.4, 0.3, 0.6)
W_X = (0.5, -1.0)
W_Y = (1.0, 0.7)
X = (1.0, 0.5, -1.0)
Y = (0.5, -0.5, 1.0)

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class ByHand:
    """Every number of three steps forward and back.

    Attributes:
        w, w_x, w_y: ``(2, 2)``, ``(2,)``, ``(2,)`` the weights.
        x, y: ``(3,)`` input and target.
        z, h, h_in: ``(3, 2)`` argument of tanh, state after the step, state before it.
        o, error: ``(3,)`` output, and o - y; zero where the step has no loss.
        losses: ``(3,)`` ½ error².
        direct: ``(3, 2)`` what the step's own loss sends to its state, w_y error.
        later: ``(3, 2)`` what comes back from the next step, Wᵀ δz.
        delta: ``(3, 2)`` their sum, ∂L/∂h_t.
        slope: ``(3, 2)`` 1 - h².
        dz: ``(3, 2)`` δ ⊙ slope, ∂L/∂z_t.
        terms: ``(3, 2, 2)`` each step's contribution to dW, dz_t h_{t-1}ᵀ.
        gradients: dW, dw_x, dw_y by hand.
        autograd: the same from torch.
    """

    w: Array
    w_x: Array
    w_y: Array
    x: Array
    y: Array
    z: Array
    h: Array
    h_in: Array
    o: Array
    error: Array
    losses: Array
    direct: Array
    later: Array
    delta: Array
    slope: Array
    dz: Array
    terms: Array
    gradients: tuple[Array, Array, Array]
    autograd: tuple[Array, Array, Array]

    @property
    def difference(self) -> float:
        """The largest |by hand − autograd| of the eight gradients."""
        pairs = zip(self.gradients, self.autograd, strict=True)
        return max(float(np.abs(mine - its).max()) for mine, its in pairs)


def by_hand(
    w: Sequence[float] = W,
    w_x: Sequence[float] = W_X,
    w_y: Sequence[float] = W_Y,
    x: Sequence[float] = X,
    y: Sequence[float] = Y,
    losses: Losses = "every step",
) -> ByHand:
    """Run three steps forward and back, and ask autograd the same.

    Args:
        w: four numbers, row by row.
        w_x, w_y: two each.
        x, y: three each.
        losses: where a loss stands.

    Raises:
        ArgumentError: another number of weights, inputs or targets.

    Example:
        >>> found = by_hand()
        >>> bool(found.difference < 1e-15)
        True
    """
    sizes = tuple(len(v) for v in (w, w_x, w_y, x, y))
    if sizes != (H * H, H, H, T, T):
        raise ArgumentError("4, 2, 2, 3 and 3 numbers", f"{sizes}", "pass w row by row")
    matrix, from_x, to_y = np.array(w, float).reshape(H, H), np.array(w_x, float), np.array(w_y)
    inputs, targets = np.array(x, float), np.array(y, float)
    counts = np.array([losses == "every step"] * (T - 1) + [True])

    nothing = np.zeros(H)
    trace = rnn.forward(
        inputs.reshape(T, 1, 1),
        np.zeros((1, H)),
        Weights(from_x.reshape(H, 1), matrix, nothing, nothing),
    )
    h, h_in = trace.y[:, 0], trace.h_in[:, 0]
    o = h @ to_y
    error = np.where(counts, o - targets, 0.0)
    direct = np.outer(error, to_y)
    found = rnn.backward(trace, direct.reshape(T, 1, H))
    delta = found.state[:, 0]
    slope = 1.0 - h**2
    dz = delta * slope
    later = np.zeros((T, H))
    later[:-1] = dz[1:] @ matrix
    return ByHand(
        matrix,
        from_x,
        to_y,
        inputs,
        targets,
        np.outer(inputs, from_x) + h_in @ matrix.T,
        h,
        h_in,
        o,
        error,
        0.5 * error**2,
        direct,
        later,
        delta,
        slope,
        dz,
        dz[:, :, None] * h_in[:, None, :],
        (found.dw_hh, found.dw_ih[:, 0], error @ h),
        _autograd(matrix, from_x, to_y, inputs, targets, counts),
    )


def _autograd(w: Array, w_x: Array, w_y: Array, x: Array, y: Array, counts: Array) -> tuple:
    """The gradients of the same loss by torch's own layer; its random start is skipped."""
    layer = torch.nn.RNN(1, H, bias=False, dtype=torch.float64, device="meta").to_empty(
        device="cpu"
    )
    out = torch.tensor(w_y, dtype=torch.float64, requires_grad=True)
    weights = dict(layer.named_parameters())
    from_x, from_h = weights["weight_ih_l0"], weights["weight_hh_l0"]
    with torch.no_grad():
        from_x.copy_(torch.from_numpy(w_x).reshape(H, 1))
        from_h.copy_(torch.from_numpy(w))
    h, _ = layer(torch.from_numpy(x).reshape(T, 1, 1))
    error = (h[:, 0] @ out - torch.from_numpy(y))[torch.from_numpy(counts)]
    loss = 0.5 * error.square().sum()
    a, b, c = torch.autograd.grad(loss, (from_h, from_x, out))
    return a.numpy(), b[:, 0].numpy(), c.numpy()


def shown(value: float, digits: int) -> str:
    """A number rounded to so many digits after the point; zero has no sign.

    Example:
        >>> shown(-0.12345, 3), shown(-1e-9, 3)
        ('−0.123', '0.000')
    """
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "\u2212")


def table(found: ByHand, digits: int) -> str:
    """Forward and backward, a column a step."""

    def row(name: str, values: Array) -> str:
        cells = "".join(f"<td>{_stack(one, digits)}</td>" for one in values)
        return f'<tr><th scope="row">{name}</th>{cells}</tr>'

    def part(title: str) -> str:
        return f'<tr class="part"><th colspan="{T + 1}" scope="rowgroup">{title}</th></tr>'

    head = "".join(f'<th scope="col">step {t}</th>' for t in range(1, T + 1))
    rows = (
        part("Forward, from left to right"),
        row("x", found.x),
        row("z = w<sub>x</sub> x + W h<sub>before</sub>", found.z),
        row("h = tanh z", found.h),
        row("o = w<sub>y</sub> · h", found.o),
        row("y", found.y),
        row("e = o − y", found.error),
        row("loss ½ e²", found.losses),
        part("Backward, from right to left"),
        row("own loss w<sub>y</sub> e", found.direct),
        row("next step Wᵀ δz<sub>next</sub>", found.later),
        row("δ = their sum", found.delta),
        row("slope 1 − h²", found.slope),
        row("δz = δ ⊙ slope", found.dz),
    )
    return _table("Three steps", f"<tr><td></td>{head}</tr>", rows)


def sums(found: ByHand, digits: int) -> str:
    """Each step's contribution to dW and their sum."""
    head = "".join(f'<th scope="col">step {t}</th>' for t in range(1, T + 1))
    rows = [
        f'<tr><th scope="row">w{_low(i + 1, j + 1)}</th>'
        + "".join(f"<td>{shown(v, digits)}</td>" for v in found.terms[:, i, j])
        + f'<td class="sum">{shown(found.gradients[0][i, j], digits)}</td></tr>'
        for i in range(H)
        for j in range(H)
    ]
    return _table(
        "dW = Σ δz hᵀ, the same matrix at every step",
        f'<tr><td></td>{head}<th scope="col">sum</th></tr>',
        rows,
        "h is the state before the step: zero before step 1, so step 1 adds nothing.",
    )


def check(found: ByHand, digits: int) -> str:
    """The eight gradients beside autograd's."""
    names = [f"w{_low(i + 1, j + 1)}" for i in range(H) for j in range(H)]
    names += [f"w{_low('x', i + 1)}" for i in range(H)]
    names += [f"w{_low('y', i + 1)}" for i in range(H)]
    mine = np.concatenate([one.ravel() for one in found.gradients])
    its = np.concatenate([one.ravel() for one in found.autograd])
    rows = [
        f'<tr><th scope="row">{name}</th><td>{shown(a, digits)}</td><td>{shown(b, digits)}</td>'
        f"<td>{number(abs(a - b), 2)}</td></tr>"
        for name, a, b in zip(names, mine.tolist(), its.tolist(), strict=True)
    ]
    head = "".join(f'<th scope="col">{word}</th>' for word in ("by hand", "autograd", "difference"))
    return _table("Beside torch's autograd", f"<tr><td></td>{head}</tr>", rows)


def written(found: ByHand, step: int, digits: int) -> str:
    """The arithmetic of one step, spelled out."""
    t = step - 1

    def n(value: float) -> str:
        text = shown(value, digits)
        return f"({text})" if text.startswith("\u2212") else text

    def p(value: float) -> str:
        text = f"{value:g}".replace("-", "\u2212")  # a slider's own number, in tenths
        return f"({text})" if value < 0 else text

    def product(weights: Array, values: Array) -> str:
        return " + ".join(f"{p(a)}·{n(b)}" for a, b in zip(weights, values, strict=True))

    def line(name: str, work: str, value: float) -> str:
        return f"{name} = {work} = <b>{shown(value, digits)}</b>"

    w, s = found.w, _low(step)
    before, after = found.h_in[t], found.dz[t + 1] if step < T else np.zeros(H)
    forward = [
        line(
            f"z{s}[{i + 1}]",
            f"{p(found.w_x[i])}·{p(found.x[t])} + {product(w[i], before)}",
            found.z[t, i],
        )
        for i in range(H)
    ]
    forward += [line(f"h{s}[{i + 1}]", f"tanh {n(found.z[t, i])}", found.h[t, i]) for i in range(H)]
    h = found.h[t]
    forward.append(line(f"o{s}", product(found.w_y, h), found.o[t]))
    back = [
        line(
            f"δ{s}[{i + 1}]",
            f"{p(found.w_y[i])}·{n(found.error[t])} + {product(w[:, i], after)}",
            found.delta[t, i],
        )
        for i in range(H)
    ]
    back += [
        line(f"δz{s}[{i + 1}]", f"{n(found.delta[t, i])}·(1 − {n(h[i])}²)", found.dz[t, i])
        for i in range(H)
    ]
    back += [
        line(
            f"dw{_low(i + 1, j + 1)} of step {step}",
            f"{n(found.dz[t, i])}·{n(before[j])}",
            found.terms[t, i, j],
        )
        for i in range(H)
        for j in range(H)
    ]
    return _lines(f"Step {step} forward", forward) + _lines(f"Step {step} backward", back)


def off(found: ByHand, digits: int) -> list[tuple[str, int]]:
    """Where rounded terms do not add up to the rounded sum: the entry, and by how many last places."""
    unit = Decimal(1).scaleb(-digits)
    apart = []
    for i in range(H):
        for j in range(H):
            terms = [Decimal(f"{v:.{digits}f}") for v in found.terms[:, i, j].tolist()]
            total = Decimal(f"{found.gradients[0][i, j]:.{digits}f}")
            places = int((sum(terms) - total) / unit)
            if places:
                apart.append((f"w{'₁₂'[i]}{'₁₂'[j]}", places))
    return apart


def tell(found: ByHand, digits: int) -> tuple[str, ...]:
    """What the numbers show, and how they are rounded."""
    difference = number(found.difference, 2)
    apart = off(found, digits)
    first = (
        f"By hand and autograd differ by at most {difference}; float64 rounds at about 2·10⁻¹⁶ of a "
        "number. They are two programs: the reference in NumPy, and torch.nn.RNN."
    )
    rule = f"Every number is computed in full and rounded by itself, to {digits} digits after the point."
    if not apart:
        rule += " Here the rounded terms of dW add up to the rounded sums exactly."
    else:
        entries = ", ".join(
            f"{abs(places)} {'more' if places > 0 else 'less'} at {name}" for name, places in apart
        )
        rule += (
            " So rounded terms need not add up to the rounded sum: in the last place shown they make "
            f"{entries}."
        )
    return (
        first,
        rule,
        "Try: put the loss at the last step and watch what reaches step 1; make W large and the "
        "slopes go to zero; make it small and the terms of the early steps do.",
    )


def _low(*indices: int | str) -> str:
    return f"<sub>{''.join(str(one) for one in indices)}</sub>"


def _stack(value: float | Array, digits: int) -> str:
    values: Iterable[float] = np.atleast_1d(value).tolist()
    return "".join(f"<span>{shown(v, digits)}</span>" for v in values)


def _table(title: str, head: str, rows: Iterable[str], caption: str = "") -> str:
    note = f"<figcaption>{caption}</figcaption>" if caption else ""
    return (
        f'<figure class="chart"><div class="title">{title}</div><table class="numbers">'
        f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>{note}</figure>"
    )


def _lines(title: str, lines: Iterable[str]) -> str:
    rows = "".join(f'<li class="wait"><span class="formula">{line}</span></li>' for line in lines)
    return f'<div><div class="title">{title}</div><ul class="equations sums">{rows}</ul></div>'
