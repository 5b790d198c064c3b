"""Small recurrent models and losses for the estimators' tests, and the gradient taken the slow way."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import bptt

DOUBLE = torch.float64
CLASSES = 5
OURS = (bptt.nn.RNN, bptt.nn.GRU, bptt.nn.LSTM)
LAYERS = (nn.RNN, nn.GRU, nn.LSTM, *OURS)


class Predictor(nn.Module):
    """A recurrent layer, dropout, a readout."""

    def __init__(self, layer, dropout=0.0, dtype=DOUBLE, **options):
        super().__init__()
        self.layer = layer(3, 4, dtype=dtype, **options)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(4, CLASSES, dtype=dtype)

    def forward(self, x, carry=None, **marks):
        h, carry = self.layer(x, carry, **marks)
        return self.out(self.drop(h)), carry


class UserCell(nn.Module):
    """A cell written by hand: lanes first in its state, and more in the carry than floats."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4, dtype=DOUBLE)
        self.out = nn.Linear(4, CLASSES, dtype=DOUBLE)

    def forward(self, x, carry=None, *, reset=None):
        if carry is None:
            carry = {"h": x.new_zeros(x.shape[1], 4), "age": torch.tensor(0), "unused": None}
        h, outputs = carry["h"], []
        for t in range(x.shape[0]):
            if reset is not None:
                h = h.masked_fill(reset[t, :, None], 0)
            h = self.cell(x[t], h)
            outputs.append(self.out(h))
        return torch.stack(outputs), {"h": h, "age": carry["age"] + len(outputs), "unused": None}


class Loss(nn.CrossEntropyLoss):
    """Cross-entropy over (T, B, V): an object that says how it is reduced."""

    def forward(self, output, target):
        return super().forward(output.flatten(0, -2), target.flatten())


def batch(steps, lanes, dtype=DOUBLE):
    """Inputs (T, B, 3) and classes (T, B)."""
    return torch.randn(steps, lanes, 3, dtype=dtype), torch.randint(CLASSES, (steps, lanes))


def grads(model):
    """The gradients that were filled in, taken away from the model."""
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found


def loss_by_loss(model, x, target, depth, reduction, carry=None, **marks):
    """Each loss alone, reaching back exactly ``depth[t]`` steps: run up to there without a graph, then
    on to the loss with one, one backward pass a loss.

    Returns the gradients and the loss. Knows nothing of chunks.
    """
    steps, lanes = target.shape

    def part(start, stop):
        cut = {}
        if marks.get("reset") is not None:
            cut["reset"] = marks["reset"][start:stop]
        if marks.get("lengths") is not None:
            cut["lengths"] = (marks["lengths"] - start).clamp(0, stop - start)
        return cut

    total = [torch.zeros_like(p) for p in model.parameters()]
    value = torch.zeros((), dtype=DOUBLE)
    for t in range(steps):
        start, state = t - int(depth[t]), carry
        if start:
            with torch.no_grad():
                _, state = model(x[:start], carry, **part(0, start))
        output, _ = model(x[start : t + 1], state, **part(start, t + 1))
        term = F.cross_entropy(output[-1], target[t], reduction="sum")
        term = term / (steps * lanes) if reduction == "mean" else term
        value = value + term.detach()
        found = torch.autograd.grad(term, list(model.parameters()), allow_unused=True)
        for whole, grad in zip(total, found, strict=True):
            if grad is not None:
                whole += grad
    return total, value
