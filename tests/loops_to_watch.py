"""Loops as people write them, with what an oracle needs: a place where every step's state passes.

``mark(state, time)`` is the identity where the loop is watched; the oracle cuts there. A layer of
several steps is run step by step for the oracle.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import bptt

T, B, I, H = 6, 2, 3, 4


def plain(state, time: int):
    return state


class Base(nn.Module):
    """A recurrent loop; ``recurrent`` names the modules whose parameters are split by lag."""

    recurrent: tuple[str, ...] = ("cell",)

    def forward(self, x: Tensor, mark=plain) -> Tensor:
        raise NotImplementedError


class Between(Base):
    """Something is done to the state between two calls."""

    def __init__(self, how: str, cell: type = nn.GRUCell) -> None:
        super().__init__()
        self.cell, self.norm, self.how = cell(I, H), nn.LayerNorm(H), how

    def forward(self, x, mark=plain):
        h = x.new_zeros(B, H)
        state = (h, h) if isinstance(self.cell, nn.LSTMCell) else h
        found = []
        for t in range(T):
            state = mark(self.cell(x[t], state), t)
            h = state[0] if isinstance(state, tuple) else state
            before = h
            if self.how == "dropout":
                h = F.dropout(h, 0.3, True)
            elif self.how == "layernorm":
                h = self.norm(h)
            elif self.how == "decay":
                h = 0.9 * h
            elif self.how == "zoneout" and t:
                h = torch.where(torch.rand(B, H) < 0.3, found[-1], h)
            elif self.how == "in place":
                h.mul_(0.9)
            found.append(h if self.how in ("zoneout", "in place") else before)
            state = (h, state[1]) if isinstance(state, tuple) else h
        return torch.stack(found)


class FreeRunning(Base):
    """A decoder that is given its own output."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(I, H), nn.Linear(H, I)

    def forward(self, x, mark=plain):
        h, y, found = x.new_zeros(B, H), x[0], []
        for t in range(T):
            h = mark(self.cell(y, h), t)
            y = torch.tanh(self.out(h))
            found.append(y)
        return torch.stack(found)


class Attention(Base):
    """Input feeding and attention over all earlier states."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.key = nn.GRUCell(I + H, H), nn.Linear(H, H)

    def forward(self, x, mark=plain):
        h = x.new_zeros(B, H)
        context, states = h, []
        for t in range(T):
            h = mark(self.cell(torch.cat([x[t], context], -1), h), t)
            states.append(h)
            past = torch.stack(states)
            scores = (self.key(past) * h).sum(-1).softmax(0)
            context = (scores.unsqueeze(-1) * past).sum(0)
        return past + context


class EncoderDecoder(Base):
    recurrent = ("encoder", "decoder")

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.bridge = (
            nn.GRUCell(I, H),
            nn.LSTMCell(I, H),
            nn.Linear(H, H),
        )

    def forward(self, x, mark=plain):
        h = x.new_zeros(B, H)
        for t in range(3):
            h = mark(self.encoder(x[t], h), t)
        state = torch.tanh(self.bridge(h)), x.new_zeros(B, H)
        found = []
        for t in range(3, T):
            state = mark(self.decoder(x[t], state), t)
            found.append(state[0])
        return torch.stack(found)


class Stacked(Base):
    recurrent = ("low", "high")

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.GRUCell(I, H), nn.LSTMCell(H, H)

    def forward(self, x, mark=plain):
        h = x.new_zeros(B, H)
        state, found = (h, h), []
        for t in range(T):
            h = mark(self.low(x[t], h), t)
            state = mark(self.high(F.dropout(h, 0.2, True), state), t)
            found.append(state[0] + h)
        return torch.stack(found)


class Exchange(Base):
    """Two cells, each given the other's state."""

    recurrent = ("one", "two")

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.GRUCell(I, H), nn.GRUCell(I, H)

    def forward(self, x, mark=plain):
        a = b = x.new_zeros(B, H)
        found = []
        for t in range(T):
            a, b = mark(self.one(x[t], b), t), mark(self.two(x[t], a), t)
            found.append(a * b)
        return torch.stack(found)


class Skipping(Base):
    """The state of the step before last."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(I, H)

    def forward(self, x, mark=plain):
        states = [x.new_zeros(B, H)] * 2
        for t in range(T):
            states.append(mark(self.cell(x[t], states[-2]), t // 2))
        return torch.stack(states[2:])


class Axes(Base):
    """A state that gains and loses an axis on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(I, H)

    def forward(self, x, mark=plain):
        state, found = x.new_zeros(1, B, H), []
        for t in range(T):
            h = mark(self.cell(x[t], state.squeeze(0)), t)
            state = h.unsqueeze(0)
            found.append(h)
        return torch.stack(found)


class Hand(Base):
    """A loop written by hand."""

    recurrent = ("inner", "outer")

    def __init__(self, behind: bool = True) -> None:
        super().__init__()
        self.behind = behind
        self.inner, self.outer, self.out = nn.Linear(H, H), nn.Linear(I, H), nn.Linear(H, 2)

    def forward(self, x, mark=plain):
        h, found = x.new_zeros(B, H), []
        given = self.outer(x)
        for t in range(T):
            if mark is plain:
                h = bptt.tick(h)
            h = mark(torch.tanh(self.inner(h) + given[t]), t)
            found.append(self.out(h))
        if mark is plain and self.behind:
            bptt.tick(h)
        return torch.stack(found)


class TwoBack(Base):
    """The mean of the last two states goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(I, H)

    def forward(self, x, mark=plain):
        states = [x.new_zeros(B, H)] * 2
        for t in range(T):
            states.append(mark(self.cell(x[t], 0.5 * (states[-1] + states[-2])), t))
        return torch.stack(states[2:])


def gru_steps(layer: nn.GRU, x: Tensor, h: Tensor, mark, start: int) -> tuple[Tensor, Tensor]:
    """A GRU's equations, a step at a time."""
    found = []
    for k, value in enumerate(x):
        gi = F.linear(value, layer.weight_ih_l0, layer.bias_ih_l0).chunk(3, -1)
        gh = F.linear(h, layer.weight_hh_l0, layer.bias_hh_l0).chunk(3, -1)
        r, z = torch.sigmoid(gi[0] + gh[0]), torch.sigmoid(gi[1] + gh[1])
        h = (1 - z) * torch.tanh(gi[2] + r * gh[2]) + z * h
        h = mark(h, start + k)
        found.append(h)
    return torch.stack(found), h


class Chunks(Base):
    """A layer called chunk by chunk, its state changed on the way."""

    recurrent = ("layer",)

    def __init__(self, owner=nn) -> None:
        super().__init__()
        self.layer = owner.GRU(I, H)

    def forward(self, x, mark=plain):
        h, found = x.new_zeros(1, B, H), []
        for start in range(0, T, 2):
            if mark is plain:
                y, h = self.layer(x[start : start + 2], h)
            else:
                y, h = gru_steps(self.layer, x[start : start + 2], h[0], mark, start)
                h = h.unsqueeze(0)
            found.append(y)
            h = F.dropout(h, 0.3, True)
        return torch.cat(found)


class LayerToCell(Base):
    """A layer encodes, a cell decodes, and attends to all that was encoded."""

    recurrent = ("layer", "cell")

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.cell = nn.GRU(I, H), nn.GRUCell(H, H)

    def forward(self, x, mark=plain):
        if mark is plain:
            y, h = self.layer(x[:3])
            h = h[0]
        else:
            y, h = gru_steps(self.layer, x[:3], x.new_zeros(B, H), mark, 0)
        found = []
        for t in range(3, T):
            weight = (y * h).sum(-1).softmax(0)
            h = mark(self.cell((weight.unsqueeze(-1) * y).sum(0), 0.8 * h), t)
            found.append(h)
        return torch.stack(found)


class Lengths(Base):
    """Lanes of different lengths, the state of a finished one standing still."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(I, H)

    def forward(self, x, mark=plain):
        h, found = x.new_zeros(B, H), []
        lengths = torch.tensor([T, 3])
        for t in range(T):
            new = mark(self.cell(x[t], h), t)
            h = torch.where((t < lengths).unsqueeze(-1), new, h)
            found.append(h)
        return torch.stack(found)


class ThreeArguments(Base):
    """``(x, s1, s2) -> (y, s1, s2)``."""

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.i, self.h = nn.Linear(I, H), nn.Linear(H, H)

        def forward(self, x, a, b):
            a = 0.9 * a + self.i(x)
            b = torch.tanh(self.h(b) + a)
            return 2 * b, a, b

    def __init__(self) -> None:
        super().__init__()
        self.cell = self.Cell()

    def forward(self, x, mark=plain):
        a = b = x.new_zeros(B, H)
        found = []
        for t in range(T):
            y, a, b = mark(self.cell(x[t], a, b), t)
            found.append(y)
        return torch.stack(found)


class DictState(Base):
    """States in a dict, the first argument, with dropout inside the step."""

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(H + I, H)

        def forward(self, state, x):
            h = torch.tanh(self.inner(F.dropout(torch.cat([state["h"][0], x], -1), 0.2, True)))
            return {"h": (h, state["h"][1] + h)}

    def __init__(self) -> None:
        super().__init__()
        self.cell = self.Cell()

    def forward(self, x, mark=plain):
        zero = x.new_zeros(B, H)
        state, found = {"h": (zero, zero)}, []
        for t in range(T):
            state = mark(self.cell(state, x[t]), t)
            found.append(torch.sin(state["h"][1]))
        return torch.stack(found)


class Normed(Base):
    """A cell whose recurrent weights are computed from those that are trained."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.cell = nn.GRUCell(I, H)
        if how == "weight norm":
            parametrizations.weight_norm(self.cell, "weight_hh")
        elif how == "mask":
            prune.random_unstructured(self.cell, "weight_hh", 0.5)
        else:
            parametrizations.orthogonal(self.cell, "weight_hh")

    def forward(self, x, mark=plain):
        h, found = x.new_zeros(B, H), []
        for t in range(T):
            h = mark(self.cell(x[t], h), t)
            found.append(h)
            h = 0.9 * h
        return torch.stack(found)


class Products(Base):
    """A step out of the operators that a step may be made of: matrices either way round, rows added in
    several forms, pieces of which some are not used, a norm with weights of its own."""

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.row = nn.Parameter(torch.randn(H, 3 * H)), nn.Parameter(torch.randn(1, H))
            self.u, self.scale = nn.Parameter(torch.randn(H, H)), nn.Parameter(torch.randn(()))
            self.inner, self.norm = nn.Linear(I, H, bias=False), nn.LayerNorm(H)
            self.frozen = nn.Linear(H, H).requires_grad_(False)
            self.rows = nn.Parameter(torch.randn(2 * H))

        def forward(self, x, h):
            first, _, third = (h @ self.w).chunk(3, -1)
            fourth, fifth = F.linear(h, torch.cat([self.u, self.u.t()]), self.rows).split(H, dim=-1)
            new = torch.addmm(self.row, h, self.u, alpha=0.5, beta=2.0) + self.inner(x)
            new = torch.where(first > 0, new, -third) / (1 + fourth.square()) - fifth
            new = self.norm(new + torch.relu(self.frozen(h)) * self.scale)
            return torch.tanh(torch.einsum("bi,ij->bj", new, self.u) + (self.u @ h.t()).t())

    def __init__(self) -> None:
        super().__init__()
        self.cell = self.Cell()

    def forward(self, x, mark=plain):
        h, found = x.new_zeros(B, H), []
        for t in range(T):
            h = mark(self.cell(x[t], 0.9 * h), t)
            found.append(h)
        return torch.stack(found)


LOOPS = {
    **{how: lambda how=how: Between(how) for how in
       ("dropout", "layernorm", "decay", "zoneout", "in place", "nothing")},
    "lstm with dropout": lambda: Between("dropout", nn.LSTMCell),
    "free running": FreeRunning, "attention": Attention, "encoder and decoder": EncoderDecoder,
    "stacked": Stacked, "exchange": Exchange, "skipping": Skipping, "axes": Axes, "hand": Hand,
    "hand, no tick behind": lambda: Hand(False), "two back": TwoBack,
    "chunks": Chunks, "our chunks": lambda: Chunks(bptt.nn), "layer to cell": LayerToCell,
    "lengths": Lengths, "three arguments": ThreeArguments, "products": Products, "dict": DictState,
    "weight norm": lambda: Normed("weight norm"), "mask": lambda: Normed("mask"),
    "orthogonal": lambda: Normed("orthogonal"),
}  # fmt: skip
