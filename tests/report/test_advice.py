"""Every rule applies where it should, and stays silent where it should not."""

from __future__ import annotations

from io import StringIO

import pytest
import torch
from rich.console import Console
from torch import nn

from bptt.report import advise, document, show, write_report
from bptt.report.advice import mean
from models_to_watch import OwnLoop
from report_cases import of


def rules(found) -> set[str]:
    return {a.rule for a in advise(found.main, found.k)}


def filled(model: nn.Module, **values: float) -> nn.Module:
    with torch.no_grad():
        for name, value in values.items():
            getattr(model, name).fill_(value)
    return model


class Chain(nn.Module):
    """Influence balancing (Tallec and Ollivier, 2017): near units up, the more numerous far ones down."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(()))
        self.matrix = 0.5 * torch.eye(23) + 0.5 * torch.diag(torch.ones(22), 1)
        self.signs = torch.cat([torch.ones(10), -torch.ones(13)])

    def forward(self, x, state):
        state = x.new_zeros(x.shape[0], 23) if state is None else state
        state = state @ self.matrix.T + self.theta * self.signs
        return state[:, :1], state


def test_a_truncation_that_leads_the_wrong_way() -> None:
    found = of(OwnLoop(Chain()), steps=80, loss=lambda y, _: y[-1].sum())
    assert "wrong way" in rules(found)
    assert "wrong way" not in rules(of(nn.GRU(3, 6)))


def test_exploding(exploding) -> None:
    assert "exploding" in rules(exploding)


def test_a_k_that_fits_gets_no_advice() -> None:
    found = of(nn.GRU(3, 6))
    near = found.main.watched.spectrum.horizon(0.01)
    assert not {"k too short", "k too long"} & rules(of(nn.GRU(3, 6), k=2 * near))


def test_k_too_short_and_too_long() -> None:
    model = nn.RNN(3, 6)
    near = of(model).main.watched.spectrum.horizon(0.01)
    assert 1 < near < 10
    assert "k too short" in rules(of(model, k=1))
    assert "k too long" in rules(of(model, k=4 * near + 1))
    assert "k too long" not in rules(of(model, k=4 * near))


def test_a_sequence_that_is_too_short_to_tell() -> None:
    remembers = nn.LSTM(3, 6)
    with torch.no_grad():
        remembers.bias_hh_l0[6:12] = 6.0  # forget gates at 0.998: every step counts as much
    assert "sequence too short" in rules(of(remembers, steps=5, loss=lambda y, _: y[-1].sum()))
    assert "sequence too short" not in rules(of(nn.GRU(3, 6)))


def test_saturated() -> None:
    assert "saturated" in rules(of(nn.RNN(3, 6), scale=30.0))
    assert "saturated" not in rules(of(nn.RNN(3, 6), scale=0.1))


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (nn.RNN(3, 6), "plain cell"),
        (filled(nn.LSTM(3, 6), bias_hh_l0=-2.0), "forget gate"),
        (filled(nn.GRU(3, 6), bias_hh_l0=-2.0), "update gate"),
    ],
    ids=["rnn", "lstm", "gru"],
)
def test_what_would_reach_farther(model, rule) -> None:
    found = of(model)
    assert found.main.watched.verdict == "vanishing"
    assert rule in rules(found)


def test_mean_of_a_gate() -> None:
    gate = of(filled(nn.LSTM(3, 6), weight_ih_l0=0, weight_hh_l0=0, bias_hh_l0=0, bias_ih_l0=1.0))
    # σ(1) = 0.731, known to half a bin of 1/20.
    assert abs(mean(gate.main.watched.saturation.layers[0]["forget"]) - 0.731) <= 0.025


def dead() -> nn.Module:
    """Every unit below zero at every step: no gradient passes."""
    model = nn.RNN(3, 6, nonlinearity="relu")
    return filled(model, weight_ih_l0=0, weight_hh_l0=0, bias_ih_l0=-1.0, bias_hh_l0=0)


def test_no_gradient_says_nothing_of_lengths() -> None:
    found = of(dead(), k=2)
    assert found.main.watched.spectrum.gradient_norm == 0
    assert rules(found) == {"no gradient"}
    assert document(found)["modules"][0]["verdict"] is None
    text = StringIO()
    show(found, Console(file=text, width=100))
    assert "healthy" not in text.getvalue()
    assert "no gradient" in text.getvalue()
    assert "≥" not in text.getvalue()


def test_no_gradient_on_the_page(tmp_path) -> None:
    text = write_report(of(dead()), tmp_path / "x.html").read_text("utf-8")
    assert 'class="no-gradient">no gradient<' in text
    assert ">healthy<" not in text


def test_a_gradient_that_is_not_a_number_says_nothing_of_lengths() -> None:
    model = nn.RNN(3, 6)
    with torch.no_grad():
        model.weight_hh_l0[0, 0] = torch.nan
    assert rules(of(model, k=4)) == {"exploding"}


def test_a_k_beyond_what_was_measured_is_not_called_too_long() -> None:
    model = nn.RNN(3, 6)  # of which 1 % is left after fewer than ten steps
    near = of(model).main.watched.spectrum.horizon(0.01)
    assert "k too long" not in rules(of(model, steps=4 * near + 1, k=4 * near + 2))
    assert "k too long" in rules(of(model, steps=4 * near + 1, k=4 * near + 1))
    # Eight steps of a memory that is longer than they are.
    assert "k too long" not in rules(of(filled(nn.LSTM(3, 6), bias_hh_l0=6.0), steps=8, k=100))
