"""LRU and MinGRU are scans inside one call: their lags against brute force, however they are called."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence

import bptt
from bptt.recurrence import ReplayError, trace

T, B, I, H = 7, 3, 3, 4


@pytest.fixture(autouse=True)
def _double():
    torch.manual_seed(3)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def lru(layers: int = 1, **options) -> nn.Module:
    return bptt.nn.LRU(I, H, layers, bias=True, state_size=5, r_min=0.5, **options)


def min_gru(layers: int = 1, **options) -> nn.Module:
    return bptt.nn.MinGRU(I, H, layers, **options)


every = pytest.mark.parametrize("make", [lru, min_gru])


def weight(t: int) -> float:
    """Losses of different sizes, so that no two lags are alike."""
    return 1.0 + t * t


def loss_of(y: Tensor, t: int) -> Tensor:
    return weight(t) * y.sin().sum()


def flat(model: nn.Module, gradients) -> Tensor:
    pairs = zip(model.parameters(), gradients, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs])


def brute_force(layer, x, k, *, start=None, reset=None, cut=None, lengths=None, end=0.0) -> Tensor:
    """Each loss by itself, with the state detached k steps before it; a step of the layer is a call."""
    steps, total = x.shape[0], 0.0
    lengths = torch.full((x.shape[1],), steps) if lengths is None else lengths
    for t in range(steps):
        h = start
        live = (t < lengths)[:, None]
        for s in range(t + 1):
            if h is not None and s == t - k + 1:
                h = h.detach()
            if cut is not None and h is not None:
                mask = cut[s].reshape(1, -1, *[1] * (h.dim() - 2))
                h = torch.where(mask, h.detach(), h)
            marks = {} if reset is None else {"reset": reset[s : s + 1]}
            y, h = layer(x[s : s + 1], h, **marks)
        loss = loss_of(torch.where(live, y[0], 0.0), t)
        last = (lengths == t + 1).reshape(1, -1, *[1] * (h.dim() - 2))
        loss = loss + end * torch.where(last, h, 0.0).square().sum()
        total = total + flat(
            layer, torch.autograd.grad(loss, [*layer.parameters()], allow_unused=True)
        )
    return total


def check(flow: bptt.Flow, model: nn.Module, truncated) -> None:
    """bias(K), cosine(K) and the norm, at every K."""
    whole = flat(model, [p.grad for p in model.parameters()])
    torch.testing.assert_close(truncated(flow.spectrum.steps), whole, rtol=1e-10, atol=1e-12)
    assert flow.spectrum.gradient_norm == pytest.approx(float(whole.norm()), rel=1e-10)
    biases = []
    for k in range(1, flow.spectrum.steps + 1):
        g = truncated(k)
        biases.append(float((g - whole).norm() / whole.norm()))
        assert flow.bias(k) == pytest.approx(biases[-1], abs=1e-10)
        cosine = float(torch.cosine_similarity(g, whole, 0))
        assert flow.cosine(k) == pytest.approx(cosine, abs=1e-10)
    assert biases[0] > 0.01  # the test can fail


def sum_of_losses(y: Tensor) -> Tensor:
    return torch.stack([loss_of(y[t], t) for t in range(y.shape[0])]).sum()


@every
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("batch_first", [False, True])
def test_every_truncation_is_brute_force(make, layers, batch_first):
    torch.manual_seed(layers)
    layer = make(layers, batch_first=batch_first)
    x = torch.randn(T, B, I)
    with bptt.watch(layer, at="every") as flow:
        y, h = layer(x.transpose(0, 1) if batch_first else x)
        y = y.transpose(0, 1) if batch_first else y
        (sum_of_losses(y) + 0.3 * h.square().sum()).backward()
    layer.batch_first = False
    check(flow, layer, lambda k: brute_force(layer, x, k, end=0.3))
    assert flow.method == "layers"
    assert set(flow.spectrum.layers) == set(range(layers))


@every
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("marks", ["reset", "cut", "both"])
def test_resets_and_cuts(make, layers, marks):
    layer, x = make(layers), torch.randn(T, B, I)
    reset = torch.rand(T, B) < 0.3 if marks != "cut" else None
    cut = torch.rand(T, B) < 0.3 if marks != "reset" else None
    with bptt.watch(layer, at="every") as flow:
        sum_of_losses(layer(x, reset=reset, cut=cut)[0]).backward()
    check(flow, layer, lambda k: brute_force(layer, x, k, reset=reset, cut=cut))


@every
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_lengths(make, layers, packed):
    layer, x, lengths = make(layers), torch.randn(T, B, I), torch.tensor([3, T, 5])
    with bptt.watch(layer, at="every") as flow:
        if packed:
            out, h = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
            y, _ = nn.utils.rnn.pad_packed_sequence(out)
        else:
            y, h = layer(x, lengths=lengths)
        (sum_of_losses(y) + 0.3 * h.square().sum()).backward()
    check(flow, layer, lambda k: brute_force(layer, x, k, lengths=lengths, end=0.3))


@every
def test_chunks_that_hand_their_state_on_and_one_that_does_not_need_a_batch(make):
    layer, x = make(2), torch.randn(T, 1, I)
    with bptt.watch(layer, at="every") as flow:
        first, state = layer(x[:3, 0])  # without lanes
        second, _ = layer(x[3:, 0], state)
        sum_of_losses(torch.cat([first, second])).backward()
    assert flow.spectrum.steps == T
    check(flow, layer, lambda k: brute_force(layer, x, k))


@every
def test_a_state_to_begin_with(make):
    layer, x = make(2), torch.randn(T, B, I)
    start = torch.randn_like(layer(x)[1])
    with bptt.watch(layer, at="every") as flow:
        sum_of_losses(layer(x, start)[0]).backward()
    check(flow, layer, lambda k: brute_force(layer, x, k, start=start))


@every
def test_dropout_between_layers_is_the_step_s_own(make):
    layer, x = make(3, dropout=0.4), torch.randn(T, B, I)
    before = torch.get_rng_state()
    with bptt.watch(layer, at="every") as flow:
        sum_of_losses(layer(x)[0]).backward()
    after = torch.get_rng_state()
    whole = [p.grad.clone() for p in layer.parameters()]
    torch.set_rng_state(before)
    layer.zero_grad()
    sum_of_losses(layer(x)[0]).backward()
    assert torch.equal(after, torch.get_rng_state())
    assert all(torch.equal(p.grad, w) for p, w in zip(layer.parameters(), whole, strict=True))
    torch.set_rng_state(before)
    masks = [torch.dropout(torch.ones(T, B, H), 0.4, True) for _ in range(2)]

    def truncated(k: int) -> Tensor:
        total = 0.0
        for t in range(T):
            h = [torch.zeros(B, layer.state_size, dtype=_kind(layer))] * 3
            for s in range(t + 1):
                h = [v.detach() for v in h] if s == t - k + 1 else h
                y, h = layer.step(x[s], h, [m[s] for m in masks])
            total = total + flat(layer, torch.autograd.grad(loss_of(y, t), [*layer.parameters()]))
        return total

    check(flow, layer, truncated)


def _kind(layer: nn.Module) -> torch.dtype:
    return torch.complex128 if layer.parts == 2 else torch.float64


class Chained(nn.Module):
    """A linear layer between two others, one of them of torch's: one clock for all."""

    def __init__(self, make, order: str, layers: int) -> None:
        super().__init__()
        self.linear, self.gru = make(layers), nn.GRU(H, H)
        self.read = nn.Linear(H, I)
        self.order = order

    def forward(self, x: Tensor, state=(None, None), **marks) -> tuple:
        if self.order == "below":
            y, one = self.linear(x, state[0], **marks)
            y, two = self.gru(torch.tanh(y), state[1])
        else:
            y, two = self.gru(torch.cat([x, x[..., :1]], -1), state[1])
            y, one = self.linear(self.read(y), state[0], **marks)
        return y, (one, two)


@every
@pytest.mark.parametrize("order", ["below", "above"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("reset", [False, True])
def test_with_other_layers_it_is_on_one_clock(make, order, layers, reset):
    model, x = Chained(make, order, layers), torch.randn(T, B, I)
    marks = {"reset": torch.rand(T, B) < 0.3} if reset else {}
    with bptt.watch(model, at="every") as flow:
        sum_of_losses(model(x, **marks)[0]).backward()
    assert flow.method == "graded"
    recurrent = [*model.linear.parameters(), *model.gru.parameters()]

    def truncated(k: int) -> Tensor:
        total = 0.0
        for t in range(T):
            state = (None, None)
            for s in range(t + 1):
                if s == t - k + 1:
                    state = tuple(v if v is None else v.detach() for v in state)
                here = {n: m[s : s + 1] for n, m in marks.items()}
                y, state = model(x[s : s + 1], state, **here)
            found = torch.autograd.grad(loss_of(y[0], t), recurrent)
            total = total + torch.cat([g.flatten() for g in found])
        return total

    whole = torch.cat([p.grad.flatten() for p in recurrent])
    for k in range(1, T + 1):
        bias = float((truncated(k) - whole).norm() / whole.norm())
        assert flow.bias(k) == pytest.approx(bias, abs=1e-10)


@every
def test_a_parametrized_weight_is_measured_in_what_is_trained(make):
    layer, x = make(), torch.randn(T, B, I)
    name = "weight_in_l0" if make is lru else "weight_ih_l0"
    parametrizations.weight_norm(layer, name)
    with bptt.watch(layer, at="every") as flow:
        sum_of_losses(layer(x)[0]).backward()
    check(flow, layer, lambda k: brute_force(layer, x, k))
    assert any("original" in n for n in flow.spectrum.parameters)


@every
def test_a_frozen_parameter_is_not_counted(make):
    layer, x = make(), torch.randn(T, B, I)
    name, frozen = next(iter(layer.named_parameters()))
    frozen.requires_grad_(False)
    with bptt.watch(layer, at="every") as flow:
        sum_of_losses(layer(x)[0]).backward()
    assert name not in flow.spectrum.parameters
    size = sum(float(p.grad.square().sum()) for p in layer.parameters() if p.requires_grad)
    assert flow.spectrum.gradient_norm == pytest.approx(size**0.5)


@pytest.mark.filterwarnings("ignore")
def test_a_weight_that_a_hook_computes_is_refused_with_its_reason():
    layer = nn.utils.weight_norm(min_gru(), "weight_ih_l0")
    with pytest.raises(ReplayError, match=r"weight_ih_l0 of MinGRU.*torch\.nn\.utils\.param"):  # noqa: SIM117
        with bptt.watch(layer):
            layer(torch.randn(T, B, I))[0].sum().backward()


@every
def test_tokens_and_a_recorded_trajectory(make):
    layer, vectors = make(), nn.Embedding(9, I)
    tokens = torch.randint(9, (T, B))
    with bptt.watch(layer, at="every") as flow:
        sum_of_losses(layer.forward_tokens(tokens, vectors.weight)[0]).backward()
    x = vectors(tokens).detach()
    check(flow, layer, lambda k: brute_force(layer, x, k))
    (one,) = trace(layer, x)
    assert one.labels == ("h_l0", "output")
    torch.testing.assert_close(one.after[-1], layer(x)[0].detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_short_numbers(dtype):
    layer = min_gru(2, dtype=dtype)
    with bptt.watch(layer) as flow:
        layer(torch.randn(T, B, I, dtype=dtype))[0].float().square().sum().backward()
    assert flow.bias(T) == 0.0
    assert 0 < flow.bias(1) < 1


@every
def test_what_else_is_measured_of_it(make):
    """Jacobians of the states alone: the output is never fed back."""
    layer = make()
    (one,) = trace(layer, torch.randn(40, B, I))
    found = bptt.probes.jacobian_products(one, 3)
    gates = layer.coefficients(0, one.inputs[0])[0].detach().abs()
    assert float(found.norms.min()) > 0
    assert float(found.norms.max()) <= float(gates.max()) + 1e-9
    exponents = bptt.probes.lyapunov_spectrum(one, count=2).exponents
    assert bool(exponents.isfinite().all())
    assert bptt.probes.capacity(one, 5).total > 0.5
