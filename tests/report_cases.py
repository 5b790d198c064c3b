"""A diagnosis of any model that takes (T, B, 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import bptt
from bptt.probes.diagnose import Diagnosis


def square(y: Tensor, _: Tensor) -> Tensor:
    return y.square().mean()


def of(
    model: nn.Module, steps: int = 40, k: int | None = None, scale: float = 1.0, loss: Any = square
) -> Diagnosis:
    torch.manual_seed(1)
    x = scale * torch.randn(steps, 3, 3)
    return bptt.diagnose(model, (x, torch.zeros(())), loss, k=k)
