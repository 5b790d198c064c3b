"""Starts: what the recurrent matrix and the gates' biases are before the first update.

A start of the matrix fills that of every gate of every layer and direction; input weights and biases
stay as they were, but under irnn, which says them too. A start of the gates fills biases only, so the two
go together, in one word:
``"orthogonal+chrono:200"``. They work on ``torch.nn``'s layers and cells and on ours alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import is_parametrized

from bptt.choices import STARTS, parse_forms
from bptt.errors import ArgumentError, real, whole
from bptt.nn import MinGRU

# Recurrent matrices that stay orthogonal while they are trained.

Recurrent = nn.RNNBase | nn.RNNCellBase


def recurrent_modules(model: nn.Module) -> Iterator[Recurrent]:
    """Every recurrent layer and cell inside a model that has a recurrent matrix, itself included."""
    return (m for m in model.modules() if isinstance(m, (nn.RNNBase, nn.RNNCellBase)))


class OrthogonalGates(nn.Module):
    """W_g = exp(A_g - A_gᵀ) Q_g for every gate g of a stacked matrix ``(G·H, H)``.

    The exponential of a skew-symmetric matrix is a rotation, so W_g is orthogonal whatever A_g is, and
    every orthogonal matrix with the determinant of Q_g is reached. What is trained is A's lower
    triangle, ``original (G·H, H)``; the rest of it has no effect and no gradient. Assigning to the
    weight sets Q to the orthogonal matrix nearest to what was assigned, and A to zero.

    Args:
        gates: G.
        size: H.
    """

    base: Tensor

    def __init__(self, gates: int, size: int) -> None:
        super().__init__()
        self.gates = whole("gates", gates)
        self.register_buffer("base", torch.eye(whole("size", size)).repeat(self.gates, 1, 1))

    def forward(self, original: Tensor) -> Tensor:
        """The stacked orthogonal matrices ``(G·H, H)``."""
        lower = original.unflatten(0, (self.gates, -1)).tril(-1)
        return (torch.linalg.matrix_exp(lower - lower.mT) @ self.base).flatten(0, 1)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Q from the polar decomposition of each gate's matrix; A = 0."""
        with torch.no_grad():
            left, _, right = torch.linalg.svd(
                weight.detach().unflatten(0, (self.gates, -1)).double()
            )
            self.base = (left @ right).to(weight)
        return torch.zeros_like(weight)


def hold_orthogonal(model: nn.Module) -> nn.Module:
    """Hold the recurrent matrix of every gate, layer and direction orthogonal, in place.

    All singular values are 1 from now on, through every update, and in the state dict. It begins at
    the orthogonal matrix nearest to the present one, which for a Gaussian one is Haar-distributed, and
    for an identity is the identity. In a gated cell only W is held so; its gates still scale the state.

    Args:
        model: holds at least one RNN, GRU or LSTM, torch's or ours, layer or cell. Call
            :func:`bptt.convert` before, never after; make the optimiser after, since the parameters
            are other ones.

    Returns:
        the same model.

    Raises:
        ArgumentError: nothing recurrent inside, a matrix that is not square (``proj_size``), or one
            that is parametrized already.

    Cost: per use of a weight one matrix exponential a gate, about 10·H³ multiply-adds; a call of our
    layers is one use. ``torch.nn.utils.parametrize.cached()`` around a step makes that once a step.

    Example:
        >>> rnn = hold_orthogonal(nn.RNN(3, 5))
        >>> y, h = rnn(torch.randn(7, 2, 3))
        >>> bool(torch.allclose(rnn.weight_hh_l0 @ rnn.weight_hh_l0.T, torch.eye(5), atol=1e-5))
        True

    Source: M. Lezcano-Casado and D. Martínez-Rubio, 2019, Cheap orthogonal constraints in neural
    networks: a simple parametrization of the orthogonal and unitary group.
    """
    modules = list(recurrent_modules(model))
    if not modules:
        raise ArgumentError(
            "a model with recurrent layers that have a recurrent matrix",
            type(model).__name__,
            "use an RNN, GRU or LSTM",
        )
    for module in modules:
        if parametrize.is_parametrized(module):
            raise ArgumentError(
                "recurrent layers without parametrizations",
                f"{type(module).__name__} with one",
                "hold a layer orthogonal once",
            )
        names = [n for n, _ in module.named_parameters(recurse=False) if n.startswith("weight_hh")]
        for name in names:
            weight = getattr(module, name)
            rows, size = weight.shape
            if size != module.hidden_size:
                raise ArgumentError(
                    "square recurrent matrices", f"gates of {module.hidden_size} by {size}",
                    "leave proj_size out",
                )  # fmt: skip
            held = OrthogonalGates(rows // size, size).to(weight)
            parametrize.register_parametrization(module, name, held)
    return model


Generator = torch.Generator | None


def start_recurrent(model: nn.Module, start: str, *, generator: Generator = None) -> None:
    """Fill the recurrent matrices of a model, gate by gate, or the biases of its gates.

    Args:
        model: holds at least one RNN, GRU or LSTM, a layer or a cell; with chrono a MinGRU will do.
        start: one of these, or several joined by ``+`` and done in that order; W is ``(H, H)``:

            - ``"default"``: leave torch's uniform ±1/√H.
            - ``"small:0.01"``: normal, of this deviation.
            - ``"gaussian:1"``: normal, of deviation gain/√H; a gain g gives a spectral radius of about g.
            - ``"identity:1"``: this multiple of I; input weights and biases stay as they were.
            - ``"irnn:1"``: see :func:`start_irnn`.
            - ``"orthogonal:1"``: Haar-distributed, times a gain; all singular values are the gain
              (Saxe, McClelland and Ganguli 2014).
            - ``"np"``: (A + I)/λ_max(A + I) with A = R Rᵀ/H, R standard normal: symmetric, positive
              definite, largest eigenvalue 1 (np-RNN, Talathi and Vartak 2015).
            - ``"radius:1"``: what is there, scaled to this spectral radius, max abs λ.
            - ``"norm:1"``: what is there, scaled to this spectral norm σ_max.
            - ``"forget:b"``: see :func:`start_forget_bias`.
            - ``"chrono:T"``: see :func:`start_chrono`.
            - ``"hold"``: from here on, see :func:`bptt.remedies.hold_orthogonal`; goes last.
        generator: of the random numbers; default torch's own.

    Raises:
        ArgumentError: the start is unknown, there is nothing to fill, or a matrix cannot be scaled.

    Cost: O(H³) for each orthogonal, np, radius or norm matrix, O(H²) for the others.

    Example:
        >>> gru = nn.GRU(3, 5)
        >>> start_recurrent(gru, "orthogonal+chrono:100")
        >>> update = gru.weight_hh_l0[5:10]
        >>> bool(torch.allclose(update @ update.T, torch.eye(5), atol=1e-5))
        True
    """
    for name, number in parse_forms(start, STARTS):
        if name == "chrono":
            start_chrono(model, _given(number), generator=generator)
        elif name == "forget":
            start_forget_bias(model, _given(number))
        elif name == "irnn":
            start_irnn(model, _given(number), generator=generator)
        elif name == "hold":
            hold_orthogonal(model)
        else:
            fill = _FILLS[name]
            for gate in list(_gates(model)):
                if fill is not None:
                    fill(gate, 1.0 if number is None else number, generator)


SMALL_INPUT = 0.001  # deviation of the weights that do not recur


def start_irnn(model: nn.Module, scale: float = 1.0, *, generator: Generator = None) -> None:
    """Let a plain recurrence keep its state: W_h = scale I, W_x ~ N(0, 0.001²), b = 0.

    Without an input h_t = f(h_{t-1}), and a ReLU leaves a state that is not negative alone, as it does
    its gradient. Torch's biases of ±1/√H would add up over the steps.

    Args:
        model: holds at least one RNN, a layer or a cell; meant for ReLU.
        scale: of the identity; the paper takes 1, and 0.01 where long distances do not matter.
        generator: of the random numbers; default torch's own.

    Raises:
        ArgumentError: nothing recurrent inside, or a gated layer.

    Cost: O(H² + H·I) per layer.

    Example:
        >>> rnn = nn.RNN(3, 5, nonlinearity="relu")
        >>> start_irnn(rnn)
        >>> h = torch.rand(1, 2, 5)
        >>> bool((rnn(torch.zeros(100, 2, 3), h)[1] == h).all())
        True

    Source: Q. V. Le, N. Jaitly and G. E. Hinton, 2015, A simple way to initialize recurrent networks of
    rectified linear units.
    """
    scale = real("scale", scale)
    gates = list(_gates(model))
    gated = [m for m in recurrent_modules(model) if not isinstance(m, (nn.RNN, nn.RNNCell))]
    if gated:
        raise ArgumentError(
            "plain recurrent layers for irnn, which has no gates", type(gated[0]).__name__,
            "use --cell rnn-relu, or identity in place of irnn",
        )  # fmt: skip
    for gate in gates:
        _identity(gate, scale, generator)
    for module in recurrent_modules(model):
        for name, parameter in module.named_parameters(recurse=False):
            if name.startswith("weight_ih"):
                _small(parameter.detach(), SMALL_INPUT, generator)
            elif name.startswith("bias"):
                nn.init.zeros_(parameter)


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
    bias = real("bias", bias)
    modules = [m for m in recurrent_modules(model) if _is_lstm(m) and m.bias]
    if not modules:
        raise ArgumentError(
            "a model with an LSTM that has biases", "none", "use --cell lstm, or leave the bias out"
        )
    for module in modules:
        for side, parts in _biases(module):
            parts[1].fill_(bias if side == "bias_ih" else 0.0)


def start_chrono(model: nn.Module, steps: float, *, generator: Generator = None) -> None:
    """Spread the memories of the gated units over 1 … ``steps`` time steps.

    A gate that keeps the share σ(b) forgets in about 1 + e^b steps; b = log u with u uniform in
    (1, T - 1) makes that time uniform. LSTM: b_f = log u, b_i = -b_f. GRU (z keeps): b_z = log u.
    minGRU (z takes): b_z = -log u.

    Args:
        model: holds at least one LSTM, GRU or MinGRU with biases.
        steps: T_max > 2, the longest dependency that is expected.
        generator: of the random numbers; default torch's own.

    Raises:
        ArgumentError: no gate with a bias inside, or T_max is not above 2.

    Cost: O(H) per layer.

    Example:
        >>> lstm = nn.LSTM(3, 5)
        >>> start_chrono(lstm, 100)
        >>> input, forget = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach().chunk(4)[:2]
        >>> bool((forget >= 0).all()), bool((input == -forget).all())
        (True, True)

    Source: C. Tallec and Y. Ollivier, 2018, Can recurrent neural networks warp time?
    """
    steps = real("steps", steps, "give the longest dependency")
    if not 2 < steps < math.inf:
        raise ArgumentError("chrono steps above 2", f"{steps!r}", "give the longest dependency")
    done = False
    for module in model.modules():
        if isinstance(module, MinGRU) and module.bias:
            for layer in range(module.num_layers):
                with torch.no_grad():
                    bias = getattr(module, f"bias_ih_l{layer}").chunk(2)[0]
                    bias.copy_(-_log_times(bias, steps, generator))
            done = True
        elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)) and module.bias:
            done |= _start_chrono(module, steps, generator)
    if not done:
        raise ArgumentError(
            "a model with an LSTM, GRU or MinGRU that has biases",
            f"{type(model).__name__} without",
            "use a gated cell, or leave chrono out",
        )


def _start_chrono(module: Recurrent, steps: float, generator: Generator) -> bool:
    gates = 4 if _is_lstm(module) else 3 if isinstance(module, (nn.GRU, nn.GRUCell)) else 0
    for side, parts in _biases(module) if gates else ():
        if side == "bias_hh":  # added to the other one, which says it all
            parts[1].zero_()
            if gates == 4:
                parts[0].zero_()
            continue
        times = _log_times(parts[1], steps, generator)
        parts[1].copy_(times)
        if gates == 4:
            parts[0].copy_(-times)
    return bool(gates)


def _log_times(like: Tensor, steps: float, generator: Generator) -> Tensor:
    return torch.empty_like(like).uniform_(1, steps - 1, generator=generator).log()


def _is_lstm(module: nn.Module) -> bool:
    return isinstance(module, (nn.LSTM, nn.LSTMCell))


def _biases(module: Recurrent) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """``"bias_ih"`` or ``"bias_hh"`` of every layer and direction, its gates as views to be filled."""
    for name, parameter in module.named_parameters(recurse=False):
        if name.startswith("bias"):
            yield name[:7], parameter.detach().split(module.hidden_size)


def _gates(model: nn.Module) -> Iterator[Tensor]:
    """The recurrent matrix of every gate, as a view to be filled."""
    modules = list(recurrent_modules(model))
    if not modules:
        raise ArgumentError(
            "a model with recurrent layers that have a recurrent matrix",
            type(model).__name__,
            "leave the start out, or use an RNN, GRU or LSTM",
        )
    for module in modules:
        if is_parametrized(module):
            raise ArgumentError(
                "recurrent layers without parametrizations",
                f"{type(module).__name__} with one",
                "start the model first and hold it orthogonal afterwards",
            )
        for name, parameter in module.named_parameters(recurse=False):
            if name.startswith("weight_hh"):
                yield from parameter.detach().split(module.hidden_size)


def _given(number: float | None) -> float:
    return cast(float, number)  # the table says that one must be given


def _small(gate: Tensor, deviation: float, generator: Generator) -> None:
    nn.init.normal_(gate, std=deviation, generator=generator)


def _gaussian(gate: Tensor, gain: float, generator: Generator) -> None:
    nn.init.normal_(gate, std=gain / math.sqrt(gate.shape[1]), generator=generator)


def _identity(gate: Tensor, scale: float, generator: Generator) -> None:
    nn.init.eye_(gate).mul_(scale)


def _orthogonal(gate: Tensor, gain: float, generator: Generator) -> None:
    nn.init.orthogonal_(gate, gain, generator=generator)


def _positive(gate: Tensor, _: float, generator: Generator) -> None:
    n = _square(gate, "np")
    device = "cpu" if generator is None else generator.device
    normal = torch.empty(n, n, dtype=torch.float64, device=device).normal_(generator=generator)
    matrix = normal @ normal.T / n + torch.eye(n, dtype=torch.float64, device=device)
    gate.copy_(matrix / torch.linalg.eigvalsh(matrix)[-1])


def _radius(gate: Tensor, radius: float, _: Generator) -> None:
    _square(gate, "radius")
    _scale(gate, radius, float(torch.linalg.eigvals(gate.double()).abs().max()))


def _norm(gate: Tensor, norm: float, _: Generator) -> None:
    _scale(gate, norm, float(torch.linalg.matrix_norm(gate.double(), 2)))


def _scale(gate: Tensor, wanted: float, found: float) -> None:
    if not 0 < found < math.inf:
        raise ArgumentError(
            "a recurrent matrix whose radius or norm is finite and above 0",
            f"{found:g}",
            "fill it first, e.g. gaussian+radius:0.9",
        )
    gate.mul_(wanted / found)


def _square(gate: Tensor, start: str) -> int:
    rows, columns = gate.shape
    if rows != columns:
        raise ArgumentError(
            f"square recurrent matrices for {start}",
            f"{rows} by {columns}",
            "leave proj_size out, or take norm in place of radius",
        )
    return rows


_FILLS: dict[str, Callable[[Tensor, float, Generator], None] | None] = {
    "default": None,
    "small": _small,
    "gaussian": _gaussian,
    "identity": _identity,
    "orthogonal": _orthogonal,
    "np": _positive,
    "radius": _radius,
    "norm": _norm,
}
