"""Recurrences held orthogonal: through updates, state dicts and both kinds of layers."""

import copy

import pytest
import torch
from torch import nn

import bptt
from bptt.errors import ArgumentError
from bptt.remedies import hold_orthogonal
from compare import assert_close

LAYERS = [nn.RNN, nn.GRU, nn.LSTM, bptt.nn.RNN, bptt.nn.GRU, bptt.nn.LSTM]


def gates(layer):
    return [
        gate
        for name in ("weight_hh_l0", "weight_hh_l1", "weight_hh_l0_reverse")
        if hasattr(layer, name)
        for gate in getattr(layer, name).detach().split(layer.hidden_size)
    ]


@pytest.mark.parametrize("kind", LAYERS)
def test_all_singular_values_stay_one_while_it_learns(kind):
    layer = hold_orthogonal(kind(3, 8, num_layers=2, bidirectional=True))
    start = [g.clone() for g in gates(layer)]
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    x, target = torch.randn(9, 4, 3), 0.5 * torch.randn(9, 4, 16).clamp(-1, 1)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(layer(x)[0], target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    for gate, first in zip(gates(layer), start, strict=True):
        # float32: the exponential's own error, some tens of 2⁻²⁴.
        assert_close(torch.linalg.svdvals(gate), torch.ones(8), 1e-5)
        assert (gate - first).abs().max() > 0.05  # it moved


def test_it_begins_at_the_nearest_orthogonal_matrix():
    layer = nn.GRU(2, 5).double()
    rotation = torch.linalg.qr(torch.randn(5, 5).double())[0]
    positive = torch.diag(torch.rand(5).double() + 0.5)
    with torch.no_grad():
        for gate in layer.weight_hh_l0.split(5):
            gate.copy_(rotation @ positive)  # a polar decomposition that is known
    hold_orthogonal(layer)
    for gate in gates(layer):
        assert_close(gate, rotation, 1e-12)


def test_gradient_against_finite_differences():
    layer = hold_orthogonal(nn.RNN(2, 3).double())
    x = torch.randn(4, 2, 2).double()
    original = layer.parametrizations.weight_hh_l0.original
    with torch.no_grad():
        original.copy_(torch.randn(3, 3))

    def loss():
        return layer(x)[0].square().sum()

    loss().backward()
    for place in ((1, 0), (2, 1), (0, 1)):
        sides = []
        for sign in (1e-6, -1e-6):
            with torch.no_grad():
                original[place] += sign
                sides.append(loss().item())
                original[place] -= sign
        # Central differences: about 1e-10; above the diagonal both are exactly zero.
        assert float(original.grad[place]) == pytest.approx(
            (sides[0] - sides[1]) / 2e-6, rel=1e-6, abs=1e-8
        )
    assert original.grad[0, 1] == 0


def test_the_state_dict_brings_the_matrix_with_it():
    one, other = (hold_orthogonal(nn.LSTM(2, 4)) for _ in range(2))
    with torch.no_grad():
        one.parametrizations.weight_hh_l0.original.normal_()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert_close(gates(other), gates(one), 0.0)
    x = torch.randn(3, 2, 2)
    assert_close(other(x)[0].detach(), one(x)[0].detach(), 0.0)


def test_assigning_projects():
    layer = hold_orthogonal(nn.RNN(2, 4))
    layer.weight_hh_l0 = 3 * torch.eye(4)
    assert_close(layer.weight_hh_l0.detach(), torch.eye(4), 1e-6)


def test_ours_and_torchs_agree():
    theirs = nn.GRU(3, 6)
    ours = bptt.convert(copy.deepcopy(theirs))
    x = torch.randn(5, 2, 3)
    results = []
    for layer in (hold_orthogonal(theirs), hold_orthogonal(ours)):
        y, _ = layer(x)
        y.square().sum().backward()
        results.append([y.detach(), layer.parametrizations.weight_hh_l0.original.grad])
    # Two float32 implementations over 5 steps.
    assert_close(results[1], results[0], 1e-5)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_a_cell_held_orthogonal_is_watched_as_the_cell_with_its_matrix(kind):
    held = hold_orthogonal(kind(3, 4).double())
    plain = kind(3, 4).double()
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(getattr(held, name))
    x, spectra = torch.randn(7, 2, 3, dtype=torch.float64), []
    for cell in (held, plain):
        with bptt.watch(cell) as flow:
            state, total = None, 0.0
            for step in x:
                state = cell(step, state)
                total = total + (state[0] if isinstance(state, tuple) else state).square().sum()
            total.backward()
        spectra.append(flow.spectrum.norms)
    assert_close(spectra[0], spectra[1], 1e-12)


def test_refusals():
    with pytest.raises(ArgumentError, match="recurrent layers"):
        hold_orthogonal(nn.Linear(2, 2))
    with pytest.raises(ArgumentError, match="once"):
        hold_orthogonal(hold_orthogonal(nn.RNN(2, 3)))
    with pytest.raises(ArgumentError, match="square"):
        hold_orthogonal(nn.LSTM(2, 3, proj_size=2))
    with pytest.raises(ArgumentError, match="convert the model first"):
        bptt.convert(hold_orthogonal(nn.GRU(2, 3)))
