"""What one row measures: a cell at one size in one mode against one peer, and its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bptt import nn as ours

OURS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": ours.RNN, "gru": ours.GRU, "lstm": ours.LSTM}
TORCH: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
GATES = {"rnn": 1, "gru": 3, "lstm": 4}


@dataclass(frozen=True)
class Case:
    """One row to be.

    Attributes:
        cell: ``"rnn"`` (tanh), ``"gru"`` or ``"lstm"``.
        hidden: H, and the input size I as well.
        batch: B; a stream has one lane whatever this says.
        steps: T.
        mode: ``"train"``, ``"infer"``, ``"packed"``, ``"reset"``, ``"stream"`` or ``"model"``.
        peer: ``"torch"``, ``"jax"`` or ``"onnxruntime"``.
        seed: of weights and inputs.
        seconds: time budget of the measurement.
    """

    cell: str
    hidden: int
    batch: int
    steps: int
    mode: str
    peer: str = "torch"
    seed: int = 0
    seconds: float = 2.0

    @property
    def lanes(self) -> int:
        """B of what really runs."""
        return 1 if self.mode == "stream" else self.batch

    @property
    def step_flops(self) -> int:
        """Floating-point operations of the layer's matrix products, forward, for one step of one lane.

        2·G·H·(I + H) with I = H; a training step takes three times as many.
        """
        return 2 * GATES[self.cell] * self.hidden * 2 * self.hidden

    def random(self) -> torch.Generator:
        """A fresh generator: the same case has the same inputs, whatever ran before it."""
        return torch.Generator().manual_seed(self.seed)

    def input(self, random: torch.Generator) -> Tensor:
        """x ``(T, B, I)``."""
        return torch.randn(self.steps, self.lanes, self.hidden, generator=random)

    def layers(self) -> tuple[nn.RNNBase, nn.RNNBase]:
        """Our layer and torch's, with the same weights as torch draws them."""
        random = self.random()
        theirs = TORCH[self.cell](self.hidden, self.hidden)
        with torch.no_grad():
            for weight in theirs.parameters():
                weight.uniform_(-(self.hidden**-0.5), self.hidden**-0.5, generator=random)
        mine = OURS[self.cell](self.hidden, self.hidden)
        mine.load_state_dict(theirs.state_dict())
        return mine, theirs
