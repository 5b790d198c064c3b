"""What each start is: singular values, eigenvalues, distributions, times."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import bptt
from bptt.errors import ArgumentError
from bptt.remedies import hold_orthogonal, start_chrono, start_irnn, start_recurrent
from compare import assert_close

H = 24
LAYERS = [nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell, bptt.nn.LSTM]


def gates(layer):
    """Every (H, H) recurrent matrix."""
    return [
        gate
        for name, p in layer.named_parameters()
        if name.startswith("weight_hh")
        for gate in p.detach().split(layer.hidden_size)
    ]


@pytest.mark.parametrize("kind", LAYERS)
def test_positive_definite(kind):
    layer = kind(3, H).double()
    start_recurrent(layer, "np")
    for gate in gates(layer):
        assert_close(gate, gate.T.contiguous(), 0.0)
        values = torch.linalg.eigvalsh(gate)
        # One division by a computed eigenvalue, H=24: a few units of 2⁻⁵³.
        assert_close(values[-1], torch.tensor(1.0).double(), 1e-13)
        # A + I over λ_max: the smallest is at least 1/λ_max, and λ_max is below 1 + (1+√1)²·1.5.
        assert values[0] > 1 / 7


@given(st.sampled_from(LAYERS), st.floats(0.05, 5), st.integers(1, 9), st.floats(1e-3, 1e3))
def test_radius_and_norm_are_what_was_asked_and_forget_the_scale(kind, wanted, size, factor):
    layer, scaled = kind(2, size).double(), kind(2, size).double()
    # Normal, not torch's uniform, and by a seed of the example: eigenvalues of a drawn matrix are
    # never so close to zero that the scaling loses digits that the tolerance needs.
    start_recurrent(layer, "gaussian", generator=torch.Generator().manual_seed(size))
    for a, b in zip(gates(layer), gates(scaled), strict=True):
        b.copy_(a * factor)
    for name, measure in (
        ("radius", lambda g: torch.linalg.eigvals(g).abs().max()),
        ("norm", lambda g: torch.linalg.matrix_norm(g, 2)),
    ):
        for each in (layer, scaled):
            start_recurrent(each, f"{name}:{wanted!r}")
            for gate in gates(each):
                # Eigenvalues of a non-normal matrix: its condition times 2⁻⁵³, for H<10 far below.
                assert_close(measure(gate), torch.tensor(wanted, dtype=torch.float64), 1e-8)
        assert_close(gates(scaled), gates(layer), 1e-8)


def test_the_distributions():
    layer = nn.GRU(3, 64)
    for form, deviation in (("gaussian:1.5", 1.5 / 8), ("small:0.003", 0.003)):
        start_recurrent(layer, form)
        values = torch.cat([g.flatten() for g in gates(layer)])
        n = values.numel()
        # Standard errors of a mean and of a deviation over n normal values; five of them.
        assert abs(values.mean()) < 5 * deviation / math.sqrt(n)
        assert abs(values.std() / deviation - 1) < 5 / math.sqrt(2 * n)
        # Kurtosis of a normal is 3, of a uniform 1.8; its standard error √(24/n) = 0.04.
        assert abs((values / deviation).pow(4).mean() - 3) < 5 * math.sqrt(24 / n)


def test_a_multiple_of_the_identity_and_a_gain():
    layer = nn.LSTM(3, 5)
    start_recurrent(layer, "identity:0.5")
    assert_close(gates(layer), [0.5 * torch.eye(5)] * 4, 0.0)
    start_recurrent(layer, "orthogonal:2")
    for gate in gates(layer):
        assert_close(torch.linalg.svdvals(gate), torch.full((5,), 2.0), 1e-5)


def test_a_generator_makes_it_repeatable():
    forms = ("small", "gaussian", "orthogonal", "np", "gaussian+chrono:9")
    for form in forms:
        made = []
        for _ in range(2):
            layer = nn.GRU(3, 5)
            start_recurrent(layer, "identity")
            with torch.no_grad():
                layer.bias_ih_l0.zero_()
            start_recurrent(layer, form, generator=torch.Generator().manual_seed(3))
            made.append([*gates(layer), layer.bias_ih_l0.detach()])
        assert_close(made[1], made[0], 0.0, form)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, bptt.nn.MinGRU])
def test_chrono_makes_the_forgetting_times_uniform(kind):
    steps, size = 100.0, 4000
    layer = kind(1, 2).double()
    # Biases only: the large layer's matrices would be 16 million numbers.
    for name, p in list(layer.named_parameters()):
        if name.startswith("bias"):
            gate_count = p.shape[0] // 2
            setattr(layer, name, nn.Parameter(torch.randn(gate_count * size).double()))
    before = {n: p.detach().clone() for n, p in layer.named_parameters()}
    layer.hidden_size = size
    start_chrono(layer, steps)
    after = {n: p.detach() for n, p in layer.named_parameters()}
    total = sum(p for n, p in after.items() if n.startswith("bias")).split(size)
    gated = {nn.LSTM: (1, 0), nn.LSTMCell: (1, 0), nn.GRU: (1, 1), nn.GRUCell: (1, 1)}
    keep = -total[0] if kind is bptt.nn.MinGRU else total[gated[kind][0]]
    times = keep.exp()
    assert times.min() >= 1
    assert times.max() <= steps - 1
    # Kolmogorov–Smirnov against the uniform: 1.95/√n is passed by all but one of a thousand draws.
    share = (times.sort().values - 1) / (steps - 2)
    assert (share - torch.arange(1, size + 1) / size).abs().max() < 1.95 / math.sqrt(size)
    if kind in (nn.LSTM, nn.LSTMCell):
        assert_close(total[0], -total[1], 0.0)
    others = [n for n in before if n.startswith("weight")]
    assert_close({n: after[n] for n in others}, {n: before[n] for n in others}, 0.0)
    if kind is not bptt.nn.MinGRU:  # the candidate's bias is nobody's gate
        name = next(n for n in before if n.startswith("bias_hh"))
        assert_close(after[name].split(size)[2], before[name].split(size)[2], 0.0)


def test_a_gru_with_chrono_forgets_in_the_time_that_was_drawn():
    """The keep gate is z in torch's GRU: with weights of zero, h shrinks by σ(b) a step."""
    gru = nn.GRU(1, 3).double()
    start_recurrent(gru, "identity:1e-300+chrono:50")
    with torch.no_grad():
        gru.weight_ih_l0.zero_()
        for side in (gru.bias_ih_l0, gru.bias_hh_l0):
            side[6:] = 0
    h0 = torch.ones(1, 1, 3).double()
    _, h = gru(torch.zeros(1, 1, 1).double(), h0)
    assert_close(h.detach()[0, 0], torch.sigmoid(gru.bias_ih_l0.detach()[3:6]), 1e-12)


def test_what_cannot_be_started_is_refused():
    with pytest.raises(ArgumentError, match="without"):
        start_chrono(nn.RNN(2, 3), 10)
    with pytest.raises(ArgumentError, match="above 2"):
        start_chrono(nn.GRU(2, 3), 2)
    with pytest.raises(ArgumentError, match="recurrent matrix"):
        start_recurrent(bptt.nn.MinGRU(2, 3), "orthogonal")
    with pytest.raises(ArgumentError, match="square"):
        start_recurrent(nn.LSTM(2, 3, proj_size=2), "radius")
    with pytest.raises(ArgumentError, match="first and hold it"):
        start_recurrent(hold_orthogonal(nn.RNN(2, 3)), "np")
    empty = nn.RNN(2, 3)
    nn.init.zeros_(empty.weight_hh_l0)
    with pytest.raises(ArgumentError, match="fill it first"):
        start_recurrent(empty, "norm")


PLAIN = [nn.RNN, nn.RNNCell, bptt.nn.RNN]


@pytest.mark.parametrize("kind", PLAIN)
def test_irnn_is_the_papers_start(kind):
    layer = kind(40, 50, nonlinearity="relu")
    start_recurrent(layer, "irnn")
    assert_close(gates(layer), [torch.eye(50)], 0.0)
    named = dict(layer.named_parameters())
    assert all(bool((p == 0).all()) for n, p in named.items() if n.startswith("bias"))
    inputs = torch.cat(
        [p.detach().flatten() for n, p in named.items() if n.startswith("weight_ih")]
    )
    assert abs(inputs.std() / 0.001 - 1) < 5 / math.sqrt(2 * inputs.numel())
    start_irnn(layer, 0.01, generator=torch.Generator().manual_seed(3))
    once = [p.detach().clone() for p in layer.parameters()]
    assert_close(gates(layer), [0.01 * torch.eye(50)], 0.0)
    start_recurrent(layer, "irnn:0.01", generator=torch.Generator().manual_seed(3))
    assert_close([p.detach() for p in layer.parameters()], once, 0.0)


def test_irnn_fills_every_layer_and_direction_and_keeps_state_and_gradient():
    layer = nn.RNN(3, 8, num_layers=2, bidirectional=True, nonlinearity="relu").double()
    start_recurrent(layer, "irnn")
    assert_close(gates(layer), [torch.eye(8).double()] * 4, 0.0)
    h0 = torch.rand(4, 2, 8, dtype=torch.float64, requires_grad=True)
    h = layer(torch.zeros(300, 2, 3).double(), h0)[1]
    assert_close(h[0].detach(), h0[0].detach(), 0.0)
    (gradient,) = torch.autograd.grad(h[0].sum(), h0)
    assert_close(gradient[0], torch.ones(2, 8).double(), 0.0)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.GRUCell, bptt.nn.LSTM])
def test_irnn_is_refused_where_there_are_gates_and_nothing_is_changed(kind):
    layer = nn.ModuleList([nn.RNN(2, 3), kind(2, 3)])
    before = {n: p.detach().clone() for n, p in layer.named_parameters()}
    with pytest.raises(ArgumentError, match=f"irnn.*received {kind.__name__}: use --cell rnn-relu"):
        start_recurrent(layer, "irnn")
    assert_close({n: p.detach() for n, p in layer.named_parameters()}, before, 0.0)
