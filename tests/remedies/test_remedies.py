"""What each remedy is, not only that it runs."""

import pytest
import torch
from torch import nn

import bptt
from bptt.errors import ArgumentError
from bptt.remedies import clip_norm, start_forget_bias, start_recurrent
from compare import assert_close

LAYERS = [nn.RNN, nn.GRU, nn.LSTM, bptt.nn.GRU]


def gates(layer):
    counts = {nn.RNN: 1, nn.GRU: 3, nn.LSTM: 4, bptt.nn.GRU: 3}
    for name, parameter in layer.named_parameters():
        if "weight_hh" in name:
            yield from parameter.detach().chunk(counts[type(layer)])


@pytest.mark.parametrize("kind", LAYERS)
def test_starts(kind):
    layer = kind(3, 16, num_layers=2, bidirectional=True)
    others = {n: p.detach().clone() for n, p in layer.named_parameters() if "weight_hh" not in n}
    before = [g.clone() for g in gates(layer)]
    start_recurrent(layer, "default")
    assert_close(list(gates(layer)), before, 0.0)
    start_recurrent(layer, "orthogonal")
    for gate in gates(layer):
        assert_close(torch.linalg.svdvals(gate), torch.ones(16), 1e-5)
    start_recurrent(layer, "identity")
    for gate in gates(layer):
        assert_close(gate, torch.eye(16), 0.0)
    start_recurrent(layer, "small")
    values = torch.cat([gate.flatten() for gate in gates(layer)])
    # A standard deviation estimated from n values is off by about 1/sqrt(2n); five times that.
    assert abs(values.std() / 0.01 - 1) < 5 / (2 * values.numel()) ** 0.5
    assert_close({n: p.detach() for n, p in layer.named_parameters() if n in others}, others, 0.0)


def test_forget_bias_adds_up_to_what_was_asked():
    layer = nn.LSTM(3, 5, num_layers=2)
    start_forget_bias(nn.Sequential(layer), 3.0)
    for n in range(2):
        total = getattr(layer, f"bias_ih_l{n}") + getattr(layer, f"bias_hh_l{n}")
        assert_close(total[5:10].detach(), torch.full((5,), 3.0), 0.0)
        assert total[:5].abs().max() < 1


def test_starts_refuse_what_they_cannot_fill():
    with pytest.raises(ArgumentError, match="recurrent layers"):
        start_recurrent(nn.Linear(2, 2), "orthogonal")
    with pytest.raises(ArgumentError, match="one of default, small"):
        start_recurrent(nn.GRU(2, 2), "lucky")
    for model in (nn.GRU(2, 2), nn.LSTM(2, 2, bias=False)):
        with pytest.raises(ArgumentError, match="LSTM that has biases"):
            start_forget_bias(model, 1.0)


def parameters(*values):
    made = [torch.zeros(len(v), requires_grad=True) for v in values]
    for parameter, value in zip(made, values, strict=True):
        parameter.grad = torch.tensor(value)
    return made


def test_clip_keeps_the_direction_and_reports_the_norm_before():
    one, two = parameters([3.0, 0.0], [0.0, 4.0, 0.0])
    clipped = clip_norm([one, two], 2.5)
    assert clipped.norm == 5
    assert clipped.acted
    assert_close([one.grad, two.grad], [torch.tensor([1.5, 0]), torch.tensor([0, 2.0, 0])], 1e-6)


def test_clip_leaves_small_gradients_exactly_alone():
    (one,) = parameters([0.3, 0.4])
    before = one.grad.clone()
    assert not clip_norm([one], 1.0).acted
    assert_close(one.grad, before, 0.0)
    assert not clip_norm([one], None).acted
    assert_close(clip_norm([one], None).norm, torch.tensor(0.5), 1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_clip_does_not_spread_what_is_not_finite(bad):
    one, two = parameters([bad], [1.0])
    clipped = clip_norm([one, two], 0.1)
    assert not clipped.norm.isfinite()
    assert not clipped.acted
    assert two.grad == 1


def test_clip_refuses():
    with pytest.raises(ArgumentError, match="above 0"):
        clip_norm(parameters([1.0]), 0.0)
    with pytest.raises(ArgumentError, match="backward"):
        clip_norm([torch.zeros(1, requires_grad=True)], 1.0)
