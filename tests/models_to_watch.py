"""Models as people write them, none of which knows that it will be watched."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """Two-layer LSTM, dropout between the layers, the last state decides."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 6, 2, batch_first=True, dropout=dropout)
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        _, (h, _) = self.lstm(x)
        return self.out(h[-1])


class Loop(nn.Module):
    """A cell in a Python loop; the first step is given no state."""

    def __init__(self, cell: type[nn.RNNCellBase] = nn.GRUCell) -> None:
        super().__init__()
        self.cell = cell(3, 6)
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        found = []
        for value in x:
            state = self.cell(value, state)
            found.append(self.out(state[0] if isinstance(state, tuple) else state))
        return torch.stack(found)


class Tagger(nn.Module):
    """Two layers, both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 5, 2, bidirectional=True)
        self.out = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(x)[0])


class OwnCell(nn.Module):
    """(x, state) -> (y, state), with two states, one of which feeds the other within the step."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 5)
        self.read = nn.Linear(5, 2)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple:
        if state is None:
            state = (x.new_zeros(x.shape[0], 5), x.new_zeros(x.shape[0], 5))
        slow, fast = state
        slow = 0.9 * slow + torch.tanh(self.inner(torch.cat([x, fast], -1)))
        fast = torch.sin(slow)
        return self.read(fast), (slow, fast)


class OwnLoop(nn.Module):
    """The user's own cell in a loop."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state = None
        found = []
        for value in x:
            y, state = self.cell(value, state)
            found.append(y)
        return torch.stack(found)
