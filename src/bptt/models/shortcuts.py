"""Layers with a shorter way for the gradient than one through every step: residual and highway
recurrences, attention.

A plain recurrence hands a gradient back through W and a tanh at every step; the first two add a term
that goes back without meeting either. Their loop is plain torch, and each step is marked with
:func:`bptt.tick`, so that :func:`bptt.watch` measures them as it does any loop. Attention has no steps.

Limits: the recurrences have one layer and one direction, and no kernels: a step costs a few dozen
microseconds however small it is.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from bptt.errors import ArgumentError, ShapeError, describe, optional, real, whole
from bptt.models.attention import AttentionBlock, Windows
from bptt.models.window import check_sizes
from bptt.nn.inputs import check_state, normalise
from bptt.recurrence import tick


class Shortcut(nn.Module):
    """What both share: torch's face, and the loop over time; a subclass says what one step does.

    Attributes:
        gates: G, how many times H rows the weights have.
    """

    gates = 1
    num_layers = 1
    bidirectional = False

    def __init__(self, input_size: int, hidden_size: int, batch_first: bool) -> None:
        super().__init__()
        self.input_size = whole("input_size", input_size)
        self.hidden_size = whole("hidden_size", hidden_size)
        self.batch_first = batch_first
        rows = self.gates * self.hidden_size
        self.weight_ih_l0 = nn.Parameter(torch.empty(rows, self.input_size))
        self.weight_hh_l0 = nn.Parameter(torch.empty(rows, self.hidden_size))
        self.bias_l0 = nn.Parameter(torch.empty(rows))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in ±1/√H, as torch's recurrent layers."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    @abstractmethod
    def step(self, z: Tensor, h: Tensor) -> Tensor:
        """The next state ``(B, H)`` from W_x x + b, ``(B, G·H)``, and the state before."""

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        cut: Tensor | None = None,
    ):
        """Run over a sequence.

        Args:
            input: ``(T, B, I)``, ``(B, T, I)`` with ``batch_first``, ``(T, I)``, or a PackedSequence.
            hx: initial state ``(1, B, H)``; default zeros.
            lengths: ``(B,)`` valid steps of each lane; outputs beyond them are zero and the final
                state is that after the last valid step.
            reset: bool, the input's leading two axes; the state is zero before a marked step.
            cut: bool, the input's leading two axes; the gradient stops before a marked step.

        Returns:
            the states in the input's form, and the last one, ``(1, B, H)``.

        Raises:
            ShapeError, DtypeError, DeviceError, ArgumentError: what does not fit, and what to do.
        """
        sequence = normalise(
            input, input_size=self.input_size, batch_first=self.batch_first,
            weight=self.weight_hh_l0, lengths=lengths, reset=reset, cut=cut,
        )  # fmt: skip
        x, reset, cut, live = sequence.x, sequence.reset, sequence.cut, None
        shape = (1, sequence.lanes, self.hidden_size)
        if hx is None:
            h = x.new_zeros(shape[1:], dtype=self.weight_hh_l0.dtype)
        else:
            h = check_state(hx, shape, sequence.batched, x, "hx")[0]
        if sequence.lengths is not None:
            live = (torch.arange(len(x), device=x.device)[:, None] < sequence.lengths).unsqueeze(-1)
            x = x.masked_fill(~live, 0)  # what lies in the padding may be anything
        z = F.linear(x, self.weight_ih_l0, self.bias_l0)
        states = []
        for t in range(len(x)):
            before = h = tick(h)
            if reset is not None:
                h = h.masked_fill(reset[t].unsqueeze(-1), 0)
            if cut is not None:
                h = torch.where(cut[t].unsqueeze(-1), h.detach(), h)
            h = self.step(z[t], h)
            states.append(h if live is None else h.masked_fill(~live[t], 0))
            if live is not None:
                h = torch.where(live[t], h, before)
        y = torch.stack(states) if states else z[..., : self.hidden_size]
        return sequence.restore(y), h.unsqueeze(0) if sequence.batched else h

    def extra_repr(self) -> str:
        """The arguments the layer was built with."""
        text = f"{self.input_size}, {self.hidden_size}"
        return text + ", batch_first=True" if self.batch_first else text


class Residual(Shortcut):
    """A recurrence that adds to its state: h_t = h_{t-1} + α tanh(W_x x_t + W_h h_{t-1} + b).

    The Jacobian is I + α diag(1 - tanh²) W_h. A gradient goes back along the I unchanged, whatever the
    distance, and what the second term adds or takes away is as small as α: over T steps a factor of
    about e^{αT‖W_h‖} at most. The state itself is free to grow, by α a step.

    Args:
        input_size: I.
        hidden_size: H.
        batch_first: whether input and output are ``(B, T, …)``.
        scale: α > 0; about 1/√T for sequences of T steps.

    Parameters: ``weight_ih_l0 (H, I)``, ``weight_hh_l0 (H, H)``, ``bias_l0 (H,)``.

    Raises:
        ArgumentError: a size or the scale is out of range.

    Cost: 2·T·B·H·(I + H) multiply-adds forward, twice that backward; memory O(T·B·H); T steps of plain
    torch.

    Example:
        >>> layer = Residual(3, 5)
        >>> y, h = layer(torch.randn(7, 2, 3))
        >>> y.shape, h.shape
        (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]))

    Source: K. He, X. Zhang, S. Ren and J. Sun, 2016, Deep residual learning for image recognition;
    over time B. Chang, M. Chen, E. Haber and E. Chi, 2019, AntisymmetricRNN.
    """

    def __init__(
        self, input_size: int, hidden_size: int, batch_first: bool = False, *, scale: float = 0.1
    ) -> None:
        self.scale = real("scale", scale)
        if not 0 < self.scale < math.inf:
            raise ArgumentError("scale above 0", f"{self.scale!r}", "about 1/√T for T steps")
        super().__init__(input_size, hidden_size, batch_first)

    def step(self, z: Tensor, h: Tensor) -> Tensor:
        """One step."""
        return h + self.scale * torch.tanh(z + F.linear(h, self.weight_hh_l0))


class Highway(Shortcut):
    """A recurrence with one gate between old and new: h_t = g_t ⊙ h_{t-1} + (1 - g_t) ⊙ n_t,
    n_t = tanh(W_x x_t + W_h h_{t-1} + b), g_t = σ(U_x x_t + U_h h_{t-1} + c).

    A gradient that goes past a step is multiplied by g_t: at the start by σ(c), and σ(c)^k is what is
    left of it after k steps. A GRU is this with a second gate, which decides what n_t sees of the old
    state.

    Args:
        input_size: I.
        hidden_size: H.
        batch_first: whether input and output are ``(B, T, …)``.
        gate_bias: c at the start: 3 keeps 95 % a step, 5 keeps 99.3 %.

    Parameters: ``weight_ih_l0 (2·H, I)``, ``weight_hh_l0 (2·H, H)``, ``bias_l0 (2·H,)``, rows in the
    order n, g.

    Raises:
        ArgumentError: a size is out of range.

    Cost: 4·T·B·H·(I + H) multiply-adds forward, twice that backward; memory O(T·B·H); T steps of plain
    torch.

    Example:
        >>> layer = Highway(3, 5, batch_first=True)
        >>> y, h = layer(torch.randn(2, 7, 3), lengths=torch.tensor([7, 4]))
        >>> y.shape, h.shape
        (torch.Size([2, 7, 5]), torch.Size([1, 2, 5]))

    Source: R. K. Srivastava, K. Greff and J. Schmidhuber, 2015, Highway networks; over time J. G. Zilly,
    R. K. Srivastava, J. Koutník and J. Schmidhuber, 2017, Recurrent highway networks.
    """

    gates = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        batch_first: bool = False,
        *,
        gate_bias: float = 3.0,
    ) -> None:
        self.gate_bias = real("gate_bias", gate_bias)
        super().__init__(input_size, hidden_size, batch_first)

    def reset_parameters(self) -> None:
        """As torch's recurrent layers, and the gate's bias as it was asked for."""
        super().reset_parameters()
        with torch.no_grad():
            self.bias_l0[self.hidden_size :].fill_(self.gate_bias)

    def step(self, z: Tensor, h: Tensor) -> Tensor:
        """One step."""
        new, gate = (z + F.linear(h, self.weight_hh_l0)).chunk(2, -1)
        keep = torch.sigmoid(gate)
        return keep * h + (1 - keep) * torch.tanh(new)


class Attention(Windows):
    """Causal attention with a recurrent layer's face: y_t looks at x_{t-context+1} … x_t at once.

    ``x⁰ = W_in x``; per layer ``x = x + W_o softmax(Q Kᵀ / √d + mask) V``, then ``x = x + W_2 GELU(W_1
    x)``, both behind a layer norm; ``y = LN(x)``. The gradient's way from y_t to any x_s is one
    product with a weight of the softmax, however far s is; a recurrence's has t - s factors. The
    price: its memory grows with the context, and every step reads all of it.

    Args:
        input_size: I.
        hidden_size: H, even; features of the output, and of every head together.
        num_layers: L.
        heads: of a layer; default the most of 4, 3, 2 and 1 that part H into even shares.
        context: steps a layer looks at, the present one among them; what lies further back has no
        effect (L
            layers: L (context - 1) steps).
        batch_first: whether input and output are ``(B, T, …)``.

    Raises:
        ArgumentError: a size is out of range, or the heads do not part H.

    Cost: 12·L·H² + 2·L·H·min(T, context) + I·H multiply-adds a step forward; memory O(T·B·L·H).

    Example:
        >>> layer = Attention(3, 8, context=5)
        >>> y, carry = layer(torch.randn(7, 2, 3))
        >>> y.shape, carry.keys.shape
        (torch.Size([7, 2, 8]), torch.Size([1, 2, 4, 4, 2]))
        >>> more, carry = layer(torch.randn(1, 2, 3), carry)      # goes on from there

    Source: D. Bahdanau, K. Cho and Y. Bengio, 2015, Neural machine translation by jointly learning to
    align and translate; Vaswani et al., 2017, Attention is all you need.
    """

    bidirectional = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        heads: int | None = None,
        context: int = 64,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        input_size, hidden_size, num_layers, context = check_sizes(
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, context=context
        )
        heads = optional("heads", heads, remedy="leave it out")
        if heads is None:
            heads = next((n for n in (4, 3, 2) if hidden_size % (2 * n) == 0), 1)
        if hidden_size % (2 * heads):
            raise ArgumentError(
                "hidden_size divisible by 2 heads",
                f"hidden_size={hidden_size}, heads={heads}",
                f"pass for example hidden_size={2 * heads * max(hidden_size // (2 * heads), 1)}",
            )
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.heads, self.width, self.context = heads, hidden_size, context
        self.batch_first = batch_first
        self.input = nn.Linear(input_size, hidden_size)
        self.blocks = nn.ModuleList(
            AttentionBlock(hidden_size, heads, 0.0) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_size)
        self._draw_blocks()

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor, Tensor] | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
    ):
        """Look back from every step of a sequence.

        Args:
            input: ``(T, B, I)``, ``(B, T, I)`` with ``batch_first``, ``(T, I)``, or a PackedSequence;
            T >= 1.
            hx: what an earlier call returned, see :class:`AttentionCarry`; None starts fresh.
            lengths: ``(B,)`` valid steps of each lane; outputs beyond them are zero, and the carry is
            that
                after the last valid step.
            reset: bool, the input's leading two axes; from a marked step on nothing before it is seen.

        Returns:
            the output in the input's form, and the carry.

        Raises:
            ShapeError, DtypeError, DeviceError, ArgumentError: what does not fit, and what to do.
        """
        sequence = normalise(
            input, input_size=self.input_size, batch_first=self.batch_first, weight=self.input.weight,
            lengths=lengths, reset=reset,
        )  # fmt: skip
        x, live = sequence.x, None
        if not len(x):
            raise ShapeError("an input of at least 1 step", describe(x.shape), "leave it out")
        if sequence.lengths is not None:
            live = (torch.arange(len(x), device=x.device)[:, None] < sequence.lengths).unsqueeze(-1)
            x = x.masked_fill(~live, 0)  # what lies in the padding may be anything
        y, carry = self._run(x, hx, sequence.reset, sequence.lengths)
        return sequence.restore(y if live is None else y.masked_fill(~live, 0)), carry

    def _vectors(self, inputs: Tensor) -> Tensor:
        return self.input(inputs)

    def _answer(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def extra_repr(self) -> str:
        """The sizes that the blocks do not show."""
        return f"context={self.context}" + (", batch_first=True" if self.batch_first else "")
