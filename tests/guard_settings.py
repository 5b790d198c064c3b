"""What the loops of both lists are written with: small models and small data."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

VOCABULARY, LANES, STEPS = 12, 4, 20


class Text(nn.Module):
    """Tokens to logits through one recurrent layer, as tutorials write it."""

    def __init__(self, layer=nn.LSTM, hidden=16, dropout=0.0, batch_first=True):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.rnn = layer(8, hidden, batch_first=batch_first)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, VOCABULARY)

    def forward(self, x, h=None):
        """Logits and the new state."""
        y, h = self.rnn(self.embed(x), h)
        return self.out(self.drop(y)), h


class Last(nn.Module):
    """The class of a sequence from its final state."""

    def __init__(self, layer=nn.GRU, hidden=16, dropout=0.0):
        super().__init__()
        self.rnn = layer(3, hidden, batch_first=True)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, 5)

    def forward(self, x):
        """Logits, (B, 5)."""
        _, h = self.rnn(x)
        h = h[0] if isinstance(h, tuple) else h
        return self.out(self.drop(h[-1]))


class Stepped(nn.Module):
    """A cell called in a loop by the model's own forward."""

    def __init__(self, cell=nn.GRUCell, hidden=16):
        super().__init__()
        self.cell, self.out, self.hidden = cell(3, hidden), nn.Linear(hidden, 5), hidden

    def forward(self, x, h=None):
        """(T, B, 3) to (T, B, 5) and the last state."""
        ys = []
        for row in x:
            h = self.cell(row, h)
            ys.append(self.out(h[0] if isinstance(h, tuple) else h))
        return torch.stack(ys), h


@dataclass
class Setting:
    """A model, its optimiser, its data.

    Attributes:
        guard: what the loop may tell; None where it is run without one.
    """

    model: Any
    optimizer: Any
    guard: Any = None
    updates: int = 12

    def __post_init__(self):
        torch.manual_seed(0)
        self.text = torch.randint(VOCABULARY, (LANES, 4001))
        self.x = torch.randn(256, STEPS, 3)
        self.label = (self.x[:, 0, 0] > 0).long()

    def chunk(self, i, steps=STEPS):
        """The i-th pair of inputs and targets, in order, as views."""
        a = i * steps
        return self.text[:, a : a + steps], self.text[:, a + 1 : a + steps + 1]


def text(**options):
    """A text model under SGD."""
    torch.manual_seed(1)
    model = Text(**options)
    return Setting(model, torch.optim.SGD(model.parameters(), 0.1))


def last(**options):
    """A classifier under Adam."""
    torch.manual_seed(1)
    model = Last(**options)
    return Setting(model, torch.optim.Adam(model.parameters(), 1e-3))


def stepped(**options):
    """A loop over cells under SGD."""
    torch.manual_seed(1)
    model = Stepped(**options)
    return Setting(model, torch.optim.SGD(model.parameters(), 0.05))


def detach(h):
    """As people write it."""
    return tuple(s.detach() for s in h) if isinstance(h, tuple) else h.detach()


def score(logits, targets):
    """Cross-entropy of a chunk."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
