"""What layers with an element-wise linear recurrence share: h_t = a_t ⊙ h_{t-1} + b_t.

``a_t`` and ``b_t`` do not depend on the state. So all steps are computed at once by a scan, and the
Jacobian ∂h_t/∂h_{t-1} = diag(a_t) is diagonal, which makes real-time recurrent learning exact at a
small cost: each recurrent parameter acts on one unit alone (:meth:`LinearRecurrent.units`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from bptt.errors import ArgumentError, real, whole
from bptt.nn.inputs import Sequence as Inputs
from bptt.nn.inputs import check_state, normalise, normalise_tokens
from bptt.ops.scan import scan


class LinearRecurrent(nn.Module):
    """A stack of element-wise linear recurrences; a subclass says what a, b and the output are.

    Attributes:
        parts: numbers a unit of the state consists of: 1 real, 2 a complex one's real and imaginary.
    """

    parts = 1
    # What torch's layers say of themselves, for those who ask any layer.
    mode = "LINEAR"
    bidirectional = False

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int, batch_first: bool, dropout: float
    ) -> None:
        super().__init__()
        dropout = real("dropout", dropout, "give the share to drop")
        if not 0 <= dropout <= 1:
            raise ArgumentError("dropout from 0 to 1", f"{dropout!r}", "give the share to drop")
        self.input_size = whole("input_size", input_size)
        self.hidden_size = whole("hidden_size", hidden_size)
        self.num_layers = whole("num_layers", num_layers)
        self.batch_first = batch_first
        self.dropout = dropout

    @property
    def state_size(self) -> int:
        """Units of the state, a layer."""
        return self.hidden_size

    @abstractmethod
    def coefficients(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """``a`` and ``b``, each ``(T, B, state_size)``, of one layer for its input ``(T, B, I)``."""

    @abstractmethod
    def readout(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        """Output ``(T, B, H)`` of one layer from its input and its states ``(T, B, state_size)``."""

    @abstractmethod
    def units(self) -> dict[str, Tensor]:
        """For every parameter of the first layer that acts on the state: which unit each element
        acts on, int64 in the parameter's shape."""

    def pack_state(self, h: Tensor) -> Tensor:
        """A state as the caller sees it; real layers leave it as it is."""
        return h

    def unpack_state(self, hx: Tensor) -> Tensor:
        """The inverse of :meth:`pack_state`."""
        return hx

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        cut: Tensor | None = None,
    ):
        """Run the layers over a sequence.

        Args:
            input: ``(T, B, I)``, ``(B, T, I)`` with ``batch_first``, ``(T, I)``, or a PackedSequence.
            hx: initial state, ``(L, B, H)``; of a complex layer ``(L, B, N, 2)``, real and imaginary
                parts last. Default zeros.
            lengths: ``(B,)`` valid steps of each lane; outputs beyond them are zero and the final
                state is that after the last valid step.
            reset: bool, the input's leading two axes; the state is zero before a marked step.
            cut: bool, the input's leading two axes; the gradient stops before a marked step.

        Returns:
            The output in the input's form, and the final state, in the form of ``hx``.

        Raises:
            ShapeError, DtypeError, DeviceError, ArgumentError: what does not fit, and what to do.
        """
        sequence = normalise(
            input,
            input_size=self.input_size,
            batch_first=self.batch_first,
            weight=next(self.parameters()),
            lengths=lengths,
            reset=reset,
            cut=cut,
        )
        return self._finish(sequence, hx)

    def forward_tokens(
        self,
        tokens: Tensor,
        embedding: Tensor,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        cut: Tensor | None = None,
    ):
        """Run the layers over the vectors of tokens: ``forward(embedding[tokens], …)``.

        Args:
            tokens: ``(T, B)`` int64, ``(B, T)`` with ``batch_first``, or ``(T,)``; each in 0…V-1.
            embedding: ``(V, I)``, e.g. the weight of an ``nn.Embedding``.
            hx: as in :meth:`forward`, and so are the other arguments and what is returned.

        Raises:
            ShapeError, DtypeError, DeviceError, ArgumentError: what does not fit, and what to do.
        """
        sequence = normalise_tokens(
            tokens,
            embedding,
            input_size=self.input_size,
            batch_first=self.batch_first,
            weight=next(self.parameters()),
            lengths=lengths,
            reset=reset,
            cut=cut,
        )
        vectors = F.embedding(cast(Tensor, sequence.tokens), embedding)
        return self._finish(replace(sequence, x=vectors, tokens=None), hx)

    def _finish(self, sequence: Inputs, hx: Tensor | None):
        y, final = self._run(sequence, self._initial_state(hx, sequence))
        if not sequence.batched:
            final = final.squeeze(1)
        return sequence.restore(y), final

    def _run(self, sequence: Inputs, state: Tensor) -> tuple[Tensor, Tensor]:
        y, reset, cut, live, last = sequence.x, sequence.reset, sequence.cut, None, None
        steps = y.shape[0]
        if sequence.lengths is not None:
            clock = torch.arange(steps, device=y.device)[:, None]
            live = clock < sequence.lengths
            reset, cut = (None if mark is None else mark & live for mark in (reset, cut))
            # What lies in the padding may be anything, NaN included; it must not meet a live number.
            y = y.masked_fill(~live.unsqueeze(-1), 0)
            last = sequence.lengths - 1
        h0 = [self.unpack_state(h) for h in state]
        y, states = self.trajectory(y, h0, reset=reset, cut=cut, live=live, drop=self._drop)
        finals = []
        for h, first in zip(states, h0, strict=True):
            if last is None:
                final = h[-1]
            else:
                index = last.clamp(min=0)[None, :, None].expand(1, -1, h.shape[-1])
                ended = h.gather(0, index).squeeze(0)
                # A lane without a single valid step keeps the state it came with.
                final = torch.where((last < 0).unsqueeze(-1), first, ended)
            finals.append(self.pack_state(final))
        return y, torch.stack(finals)

    def _drop(self, layer: int, y: Tensor) -> Tensor:
        return F.dropout(y, self.dropout, self.training) if self.dropout > 0 else y

    def trajectory(
        self,
        x: Tensor,
        h0: list[Tensor],
        *,
        reset: Tensor | None = None,
        cut: Tensor | None = None,
        live: Tensor | None = None,
        drop: Callable[[int, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """All steps of all layers.

        Args:
            x: ``(T, B, I)``, zeros in the padding.
            h0: of each layer, as :meth:`unpack_state` gives it.
            reset, cut, live: ``(T, B)`` bool.
            drop: given a layer above the first and what it is about to read.

        Returns:
            y ``(T, B, H)``, and the states of each layer ``(T, B, state_size)``.
        """
        y, states = x, []
        for layer, first in enumerate(h0):
            if layer and drop is not None:
                y = drop(layer, y)
            # Under autocast the products come in a short dtype; a state that adds them up does not.
            a, b = (part.to(first.dtype) for part in self.coefficients(layer, y))
            if reset is not None:
                a = a.masked_fill(reset.unsqueeze(-1), 0)
            h = scan(a, b, first, cut)
            y = self.readout(layer, y, h)
            if live is not None:
                y = y.masked_fill(~live.unsqueeze(-1), 0)
            states.append(h)
        return y, states

    def step(
        self, x: Tensor, states: Sequence[Tensor], masks: Sequence[Tensor] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """One step of all layers, by plain operations.

        Args:
            x: ``(N, I)``.
            states: of each layer ``(N, state_size)``, as :meth:`unpack_state` gives them.
            masks: of each layer above the first ``(N, H)``, what its input is multiplied by.

        Returns:
            y ``(N, H)``, and the states after the step.
        """
        y, after = x.unsqueeze(0), []
        for layer, h in enumerate(states):
            if layer and masks:
                y = y * masks[layer - 1]
            a, b = (part.to(h.dtype) for part in self.coefficients(layer, y))
            new = a * h + b
            y = self.readout(layer, y, new)
            after.append(new.squeeze(0))
        return y.squeeze(0), after

    def _initial_state(self, hx: Tensor | None, sequence: Inputs) -> Tensor:
        tail = (self.state_size,) if self.parts == 1 else (self.state_size, self.parts)
        shape = (self.num_layers, sequence.lanes, *tail)
        if hx is None:
            return sequence.x.new_zeros(shape, dtype=next(self.parameters()).dtype)
        return check_state(hx, shape, sequence.batched, sequence.x, "hx")

    def extra_repr(self) -> str:
        """The arguments the layer was built with."""
        text = f"{self.input_size}, {self.hidden_size}"
        if self.num_layers != 1:
            text += f", num_layers={self.num_layers}"
        if self.batch_first:
            text += ", batch_first=True"
        if self.dropout:
            text += f", dropout={self.dropout}"
        return text


# minGRU: a gated recurrent unit whose gate looks at the input alone, so that it is a linear scan.


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
