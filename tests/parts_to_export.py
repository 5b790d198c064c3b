"""Layers that can be exported, and what may stand around them, with weights of their own."""

import pytest
import torch

import bptt

CELLS = {
    "rnn": lambda *a, **k: bptt.nn.RNN(*a, **k),
    "relu": lambda *a, **k: bptt.nn.RNN(*a, nonlinearity="relu", **k),
    "gru": lambda *a, **k: bptt.nn.GRU(*a, **k),
    "lstm": lambda *a, **k: bptt.nn.LSTM(*a, **k),
}
# torch says this once of every LSTM with a projection.
UNPROJECTED = pytest.mark.filterwarnings(
    "ignore:LSTM with projections is not supported with oneDNN"
)


def trained(norm):
    """A BatchNorm1d that has seen data, with weights of its own."""
    for values, low, high in (
        (norm.weight, 0.5, 2), (norm.bias, -1, 1), (norm.running_mean, -1, 1), (norm.running_var, 0.3, 3),
    ):  # fmt: skip
        torch.nn.init.uniform_(values, low, high)
    return norm


def scaled(norm):
    torch.nn.init.uniform_(norm.weight, 0.5, 2)
    torch.nn.init.uniform_(norm.bias, -1, 1)
    return norm


# What stands around recurrent layers, and recurrent layers that float32 has and int8 has not.
INT8_PARTS = {
    "tanh": lambda size: torch.nn.Tanh(),
    "sigmoid": lambda size: torch.nn.Sigmoid(),
    "relu": lambda size: torch.nn.ReLU(),
    "leaky relu": lambda size: torch.nn.LeakyReLU(0.2),
    "batch norm": lambda size: trained(torch.nn.BatchNorm1d(size)),
    "dropout": lambda size: torch.nn.Dropout(0.5),
}
PARTS = INT8_PARTS | {
    "softmax": lambda size: torch.nn.Softmax(-1),
    "layer norm": lambda size: scaled(torch.nn.LayerNorm(size)),
}
MORE = {
    "projected": lambda i, h, n, bias=True: torch.nn.LSTM(i, h + 1, n, bias=bias, proj_size=h),
    "mingru": bptt.nn.MinGRU,
    "positive mingru": lambda *a, **k: bptt.nn.MinGRU(*a, positive=True, **k),
    "lru": lambda *a, **k: bptt.nn.LRU(*a, state_size=a[1] + 2, **k),
}
