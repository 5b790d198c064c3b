"""Claims about how long the gradient's way is: recurrence, attention, shortcuts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bptt import nn as layers
from bptt.claims.learn import SEEDS
from bptt.claims.registry import Measurement, claim
from bptt.models import AttentionModel

FAR, UNITS = 128, 32


class Residual(nn.Module):
    """h_t = h_{t-1} + ½ tanh(W h_{t-1} + x_t) / √T: a shortcut past every step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(UNITS, UNITS)

    def forward(self, x: Tensor) -> Tensor:
        """The last state."""
        h = torch.zeros_like(x[0])
        for value in x:
            h = h + 0.5 * torch.tanh(self.weight(h) + value) / FAR**0.5
        return h


class Highway(nn.Module):
    """h_t = g ⊙ h_{t-1} + (1 - g) ⊙ tanh(W h_{t-1} + x_t), g = σ(U h_{t-1} + 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.gate = nn.Linear(UNITS, UNITS), nn.Linear(UNITS, UNITS)
        nn.init.constant_(self.gate.bias, 4.0)

    def forward(self, x: Tensor) -> Tensor:
        """The last state."""
        h = torch.zeros_like(x[0])
        for value in x:
            keep = torch.sigmoid(self.gate(h))
            h = keep * h + (1 - keep) * torch.tanh(self.weight(h) + value)
        return h


class Attention(nn.Module):
    """One block of causal attention; what it is differentiated by are the tokens' vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.model = AttentionModel(8, width=UNITS, heads=2, layers=1, context=FAR)

    def forward(self, x: Tensor) -> Tensor:
        """The last step's logits; ``x`` takes the place of the embedded tokens."""
        handle = self.model.embedding.register_forward_hook(lambda *_: x)
        try:
            return self.model(torch.zeros(x.shape[:2], dtype=torch.int64))[0][-1]
        finally:
            handle.remove()


class Plain(nn.Module):
    """A tanh RNN as torch starts it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = layers.RNN(UNITS, UNITS)

    def forward(self, x: Tensor) -> Tensor:
        """The last state."""
        return self.layer(x)[0][-1]


def far_over_near(kind: Callable[[], nn.Module], seed: int) -> float:
    """‖∂output/∂x‖ 127 steps back over that 1 step back, for a random cotangent at the end."""
    torch.manual_seed(seed)
    model = kind()
    x = torch.randn(FAR, 16, UNITS, requires_grad=True)
    output = model(x)
    (gradient,) = torch.autograd.grad(output, x, torch.randn_like(output))
    norms = gradient.flatten(1).norm(dim=1)
    return float(norms[0] / norms[-2])


@claim(
    id="C17",
    source="C",
    statement="The gradient's way to a step k back has length 1 under attention and k through an RNN; "
    "residual and highway connections shorten it likewise.",
    published="O(1) / O(T)",
    rule="untrained, 32 units, 128 steps, 3 seeds: the gradient at 127 steps back over that at 1 step "
    "back is under 1e-6 for the RNN, over 0.1 for attention, over 0.01 for residual and highway",
)
def length_of_the_way() -> Measurement:
    kinds = {"RNN": Plain, "attention": Attention, "residual": Residual, "highway": Highway}
    found = {name: [far_over_near(kind, s) for s in SEEDS] for name, kind in kinds.items()}
    return Measurement(
        "far over near: "
        + "; ".join(f"{n} " + " / ".join(f"{v:.2g}" for v in vs) for n, vs in found.items()),
        {
            "RNN: falls with the distance": max(found["RNN"]) < 1e-6,
            "attention: does not": min(found["attention"]) > 0.1,
            "residual: kept": min(found["residual"]) > 0.01,
            "highway: kept": min(found["highway"]) > 0.01,
        },
        "A shortcut keeps what it lets through, times its gate at every step: a gate of 0.98 leaves "
        "0.98^127 = 0.08. It shortens the way only as far as the gate is near 1.",
        found,
    )
