"""Recurrent matrices that stay orthogonal while they are trained."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bptt.errors import ArgumentError, whole

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
