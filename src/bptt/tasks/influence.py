"""Influence balancing: a task on which a truncated gradient has the wrong sign.

A parameter acts on every unit of a linear chain, on the near ones with plus, on the far ones, which
are more, with minus. What it does to the first unit soon is the opposite of what it does in the end.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bptt.errors import ArgumentError, real, whole


class InfluenceBalancing(nn.Module):
    """h_t = A h_{t-1} + θ·s, A = ½ I + ½ superdiagonal, s = (+1, …, +1, -1, …, -1); y_t = first unit.

    At rest h = (I - A)⁻¹ s θ, and (I - A)⁻¹ is 2 on and above the diagonal: the first unit is
    2·(plus - minus)·θ. Its target 1 is met by θ = 1/(2·(plus - minus)), which is -1/6 for 10 plus and
    13 minus. Within K steps only the first K + 1 units act on the first: up to K = 9 θ moves it up.

    Args:
        plus: units with sign +, the first ones.
        minus: units with sign -.
        start: initial θ.

    Example:
        >>> import torch
        >>> model = InfluenceBalancing()
        >>> round(model.optimum, 4)
        -0.1667
        >>> x, target = influence_batch(steps=3)
        >>> y, carry = model(x)
        >>> y.shape, carry.shape
        (torch.Size([3, 1, 1]), torch.Size([1, 1, 23]))

    Source: C. Tallec and Y. Ollivier, 2017, Unbiased online recurrent optimization.
    """

    matrix: Tensor
    signs: Tensor

    def __init__(self, plus: int = 10, minus: int = 13, start: float = 0.0) -> None:
        super().__init__()
        plus, minus = whole("plus", plus, 0), whole("minus", minus, 0)
        if plus == minus:
            raise ArgumentError(
                "plus and minus not equal",
                f"plus={plus}, minus={minus}",
                "take 10 and 13, as in the paper",
            )
        n = plus + minus
        self.optimum = 1 / (2 * (plus - minus))
        self.theta = nn.Parameter(torch.tensor(real("start", start), dtype=torch.float64))
        chain = 0.5 * torch.eye(n, dtype=torch.float64)
        chain += 0.5 * torch.diag(torch.ones(n - 1, dtype=torch.float64), 1)
        self.register_buffer("matrix", chain, persistent=False)
        signs = torch.ones(n, dtype=torch.float64)
        signs[plus:] = -1
        self.register_buffer("signs", signs, persistent=False)

    def forward(self, x: Tensor, carry: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run as many steps as ``x (T, B, 1)`` has; its values are not read.

        Returns:
            y ``(T, B, 1)`` and the carry ``(1, B, n)``.
        """
        h = x.new_zeros(x.shape[1], len(self.signs)) if carry is None else carry[0]
        outputs = []
        for _ in range(x.shape[0]):
            h = h @ self.matrix.T + self.theta * self.signs
            outputs.append(h[:, :1])
        return torch.stack(outputs), h.unsqueeze(0)


def influence_batch(steps: int, lanes: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs (zeros, not read) and targets (ones), each ``(T, B, 1)`` float64."""
    shape = (whole("steps", steps), whole("lanes", lanes), 1)
    return torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64)


def half_square(output: Tensor, target: Tensor) -> Tensor:
    """The task's loss, ½ (y - target)², summed; name ``reduction="sum"`` to an estimator.

    Example:
        >>> import torch
        >>> half_square(torch.tensor([3.0]), torch.tensor([1.0]))
        tensor(2.)
    """
    return 0.5 * (output - target).square().sum()
