"""What ForwardMode refuses, and what it says then."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bptt.errors import ArgumentError, DtypeError, ShapeError
from bptt.gradients import ForwardMode

BAD = [
    (lambda m, x, t: ForwardMode("exact"), ArgumentError, "a method among"),
    (lambda m, x, t: ForwardMode(epsilon=0.0), ArgumentError, "epsilon"),
    (lambda m, x, t: ForwardMode(generator=3), ArgumentError, "torch.Generator"),
    (
        lambda m, x, t: ForwardMode(lane_axis=0).backward(
            nn.GRU(3, 4, 2).double(), x, t, loss=F.mse_loss
        ),
        ShapeError,
        "the lane on axis 0",
    ),
    (
        lambda m, x, t: ForwardMode().backward(m, x, t, torch.zeros(1, 3, 4), F.mse_loss),
        ShapeError,
        "inputs' batch, B=2",
    ),
    (
        lambda m, x, t: ForwardMode().backward(m, x, t, torch.zeros(1, 2, 4).int(), F.mse_loss),
        DtypeError,
        "view_as_real",
    ),
    (lambda m, x, t: ForwardMode().backward(m, x, t), ArgumentError, "pass loss="),
    (
        lambda m, x, t: ForwardMode().backward(m.requires_grad_(False), x, t, loss=F.mse_loss),
        ArgumentError,
        "unfreeze",
    ),
]


@pytest.mark.parametrize(("call", "kind", "words"), BAD)
def test_bad_calls(call, kind, words):
    x, target = (torch.randn(3, 2, size, dtype=torch.float64) for size in (3, 4))
    with pytest.raises(kind, match=words):
        call(nn.GRU(3, 4, dtype=torch.float64), x, target)
