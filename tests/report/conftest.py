"""Diagnoses to draw."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bptt.probes.diagnose import Diagnosis
from report_cases import of


@pytest.fixture(scope="session")
def gru() -> Diagnosis:
    torch.manual_seed(0)
    return of(nn.GRU(3, 6), k=5)


@pytest.fixture(scope="session")
def lstm() -> Diagnosis:
    torch.manual_seed(0)
    return of(nn.LSTM(3, 6, 2))


@pytest.fixture(scope="session")
def exploding() -> Diagnosis:
    model = nn.RNN(3, 4, nonlinearity="relu")
    with torch.no_grad():
        model.weight_hh_l0.fill_(1e9)
        model.bias_ih_l0.fill_(1.0)
    return of(model, k=4)
