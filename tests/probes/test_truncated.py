"""bias(K) and cosine(K) against gradients truncated one loss at a time by a slow loop."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bptt
from compare import assert_close

T, B = 23, 2
# The bias is a difference of two gradients: rounding of their sums, relative to the whole.
TOLERANCE = 1e-12


def truncated_gradient(module: nn.RNNBase, x, weight, k: int, reset=None) -> torch.Tensor:
    """Σ_t of ∂ℓ_t/∂θ with the state k steps before held constant: k steps run again for each t."""
    marks = (lambda s, t: {}) if reset is None else (lambda s, t: {"reset": reset[s : t + 1]})
    states = [None]
    for t in range(T):
        states.append(module(x[t : t + 1], states[t], **marks(t, t))[1])
    parameters = list(module.parameters())
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    for t in range(T):
        start = max(0, t - k + 1)
        state = states[start]
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state
        state = state.detach() if isinstance(state, torch.Tensor) else state
        y, _ = module(x[start : t + 1], state, **marks(start, t))
        found = torch.autograd.grad((y[-1] * weight[t]).sum(), parameters)
        total += torch.cat([g.flatten() for g in found])
    return total


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
def test_every_k_up_to_twenty(cell: str, marked: bool) -> None:
    module = getattr(bptt.nn, cell)(3, 4, num_layers=2).double()
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(1.8)  # so that lags matter beyond the first few
    x, weight = (torch.randn(T, B, n, dtype=torch.float64) for n in (3, 4))
    reset = torch.rand(T, B) < 0.1 if marked else None
    options = {} if reset is None else {"reset": reset}
    with bptt.watch(module) as flow:
        (module(x, **options)[0] * weight).sum().backward()
    full = torch.cat([p.grad.flatten() for p in module.parameters()])
    for k in range(1, 21):
        g = truncated_gradient(module, x, weight, k, reset)
        bias = float((g - full).norm() / full.norm())
        cosine = float(torch.dot(g, full) / (g.norm() * full.norm()))
        assert_close(flow.bias(k), bias, TOLERANCE, f"bias({k})", floor=1.0)
        assert_close(flow.cosine(k), cosine, TOLERANCE, f"cosine({k})", floor=1.0)
        assert_close(float(flow.spectrum.bias[k - 1]), bias, TOLERANCE, floor=1.0)
    first = next(k for k in range(1, T + 1) if flow.bias(k) <= 0.05)
    assert flow.horizon >= first
    assert all(flow.bias(k) <= 0.05 for k in range(flow.horizon, T))
    assert flow.horizon == 1 or flow.bias(flow.horizon - 1) > 0.05


def test_a_k_between_those_measured_is_measured_when_asked_for() -> None:
    module = nn.GRU(3, 4).double()
    with torch.no_grad():
        module.bias_hh_l0[4:8] += 3.0
    x = torch.randn(90, 2, 3, dtype=torch.float64)
    with bptt.watch(module) as flow:
        module(x)[0].square().sum().backward()
    with bptt.watch(module, at="every") as every:
        module(x)[0].square().sum().backward()
    with torch.no_grad():  # as an optimiser does; what was measured stays
        module.weight_hh_l0.zero_()
    assert 70 not in flow.spectrum.truncations.tolist()
    assert_close(flow.bias(70), every.bias(70), TOLERANCE, floor=1.0)
    assert flow.spectrum.bias.shape == flow.spectrum.norms.shape == (90,)
    # Interpolated between K=64 and K=76, on a curve that is smooth.
    assert_close(float(flow.spectrum.bias[69]), every.bias(70), 0.1)


def test_a_cap_leaves_the_biases_below_it_exact() -> None:
    module = nn.LSTM(3, 4).double()
    x = torch.randn(30, 2, 3, dtype=torch.float64)

    def measure(**options):
        with bptt.watch(module, **options) as flow:
            module(x)[0].square().sum().backward()
        return flow.spectrum

    whole, capped = measure(), measure(cap=10)
    assert len(capped.norms) == 10
    assert_close(capped.norms, whole.norms[:10], TOLERANCE)
    assert_close(capped.measured_bias, whole.measured_bias[:10], TOLERANCE, floor=1.0)


@pytest.mark.parametrize("options", [{"lanes": 4}, {"sources": 15}, {"lanes": 1, "sources": 10}])
def test_a_sample_says_how_far_it_may_be_off(options: dict) -> None:
    module = nn.GRU(3, 4).double()
    x = torch.randn(30, 8, 3, dtype=torch.float64)
    weight = torch.randn(30, 8, 4, dtype=torch.float64)

    def measure(**chosen):
        with bptt.watch(module, **chosen) as flow:
            (module(x)[0] * weight).sum().backward()
        return flow.spectrum

    whole, sample = measure(), measure(**options)
    assert sample.lanes == (options.get("lanes", 8), 8)
    assert_close(sample.sources, options.get("sources", 30) / 30, 1e-15)
    assert 0 < float(sample.bias_error.max()) < 1
    assert float(whole.bias_error.max()) == 0
    assert sample.bias_of(30) == 0
    if "sources" not in options:  # exact for the loss on the lanes that were chosen
        gradient = torch.autograd.grad(
            (module(x[:, ::2])[0] * weight[:, ::2]).sum(), list(module.parameters())
        )
        norm = sum(float(g.square().sum()) for g in gradient) ** 0.5
        assert_close(sample.gradient_norm, norm, TOLERANCE)
