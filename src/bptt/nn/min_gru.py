"""minGRU: a gated recurrent unit whose gate looks at the input alone, so that it is a linear scan."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt.nn.linear_recurrent import LinearRecurrent


class MinGRU(LinearRecurrent):
    """Minimal gated recurrent unit.

    z_t = σ(W_z x_t + b_z),  n_t = W_n x_t + b_n,  h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ n_t,  y_t = h_t.

    This is the paper's version without logarithms. With ``positive``, n_t = g(W_n x_t + b_n) with
    g(v) = v + ½ for v ≥ 0 and σ(v) below: the candidate of its log-space version, which needs it
    positive; here it is computed as it stands.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: L, stacked; each layer reads the states of the one below.
        bias: whether b_z and b_n are there.
        batch_first: whether input and output are ``(B, T, …)``.
        dropout: share of a layer's output dropped before the next, while training.
        positive: the candidate is g(…), above 0.

    Parameters, layer l: ``weight_ih_l{l} (2·H, I)``, ``bias_ih_l{l} (2·H,)``, rows in the order z, n.

    Cost: 2·T·B·H·I multiply-adds a layer forward, twice that backward; memory O(T·B·H). The steps
    are computed together, by :func:`bptt.ops.scan.scan`.

    Example:
        >>> import torch, bptt
        >>> layer = bptt.nn.MinGRU(3, 5, num_layers=2)
        >>> y, h = layer(torch.randn(7, 2, 3))
        >>> y.shape, h.shape
        (torch.Size([7, 2, 5]), torch.Size([2, 2, 5]))

    Source: L. Feng, F. Tung, M. O. Ahmed, Y. Bengio and H. Hajimirsadeghi, 2024, Were RNNs all we
    needed?
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        *,
        positive: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, batch_first, dropout)
        input_size, hidden_size = self.input_size, self.hidden_size
        self.bias = bias
        self.positive = positive
        for layer in range(self.num_layers):
            columns = input_size if layer == 0 else hidden_size
            weight = torch.empty(2 * hidden_size, columns, device=device, dtype=dtype)
            self.register_parameter(f"weight_ih_l{layer}", nn.Parameter(weight))
            offset = torch.empty(2 * hidden_size, device=device, dtype=dtype)
            self.register_parameter(f"bias_ih_l{layer}", nn.Parameter(offset) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in ±1/√(columns), as torch's linear layers."""
        for layer in range(self.num_layers):
            weight, bias = self._weights(layer)
            bound = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound)
            if bias is not None:
                nn.init.uniform_(bias, -bound, bound)

    def _weights(self, layer: int) -> tuple[Tensor, Tensor | None]:
        return getattr(self, f"weight_ih_l{layer}"), getattr(self, f"bias_ih_l{layer}")

    def coefficients(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """a = 1 - z and b = z ⊙ n."""
        gate, candidate = F.linear(x, *self._weights(layer)).chunk(2, -1)
        if self.positive:
            candidate = torch.where(candidate >= 0, candidate + 0.5, torch.sigmoid(candidate))
        # σ(-v) and not 1 - σ(v): the second has no digits left where the gate is nearly open.
        return torch.sigmoid(-gate), torch.sigmoid(gate) * candidate

    def readout(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        """The state itself."""
        return h

    def units(self) -> dict[str, Tensor]:
        """Row r of the weights acts on unit r mod H."""
        names = ["weight_ih_l0", *(["bias_ih_l0"] if self.bias else [])]
        return {name: _row(getattr(self, name)) % self.hidden_size for name in names}


def _row(parameter: Tensor) -> Tensor:
    """Each element's index along the first axis."""
    rows = torch.arange(parameter.shape[0], device=parameter.device)
    return rows.reshape(-1, *[1] * (parameter.dim() - 1)).expand(parameter.shape)
