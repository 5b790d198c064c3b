"""MinGRU and LRU against their equations in a plain loop, and the laws of every layer."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence

import bptt
from bptt.errors import ArgumentError, BpttError, ShapeError
from compare import assert_close

# The same sums in another order, a hundred steps at most, in float64.
TOL = 1e-12


def make(kind, **options):
    options = {"dtype": torch.float64, **options}
    if kind == "mingru+":
        return bptt.nn.MinGRU(3, 4, positive=True, **options)
    if kind == "mingru":
        return bptt.nn.MinGRU(3, 4, **options)
    return bptt.nn.LRU(3, 4, state_size=5, **options)


KINDS = ["mingru", "mingru+", "lru"]


def state_of(layer, lanes, layers=1):
    tail = (4,) if isinstance(layer, bptt.nn.MinGRU) else (5, 2)
    return torch.randn(layers, lanes, *tail, dtype=torch.float64)


def by_hand(layer, x, hx):
    """One layer, step by step, from the published equations and the parameters' names alone."""
    p = dict(layer.named_parameters())
    outputs = []
    if isinstance(layer, bptt.nn.MinGRU):
        h = hx[0]
        for x_t in x:
            pre = x_t @ p["weight_ih_l0"].T + p["bias_ih_l0"]
            z, n = torch.sigmoid(pre[:, :4]), pre[:, 4:]
            if layer.positive:
                n = torch.where(n >= 0, n + 0.5, torch.sigmoid(n))
            h = (1 - z) * h + z * n
            outputs.append(h)
        return torch.stack(outputs), h[None]
    h = torch.view_as_complex(hx[0])
    lam = torch.exp(-torch.exp(p["nu_log_l0"]) + 1j * torch.exp(p["theta_log_l0"]))
    into, out = (torch.complex(*p[f"weight_{name}_l0"]) for name in ("in", "out"))
    for x_t in x:
        h = lam * h + torch.exp(p["gamma_log_l0"]) * (x_t.to(into.dtype) @ into.T)
        outputs.append((h @ out.T).real + x_t @ p["weight_skip_l0"].T)
    return torch.stack(outputs), torch.view_as_real(h)[None]


@given(
    kind=st.sampled_from(KINDS),
    steps=st.sampled_from([1, 2, 7, 70]),
    lanes=st.integers(1, 3),
)
def test_against_the_equations(kind, steps, lanes):
    layer = make(kind)
    x = torch.randn(steps, lanes, 3, dtype=torch.float64, requires_grad=True)
    hx = state_of(layer, lanes).requires_grad_()
    results = []
    for run in (layer, lambda x, h: by_hand(layer, x, h)):
        y, h = run(x, hx)
        loss = y.square().sum() + h.cos().sum()
        grads = torch.autograd.grad(loss, [x, hx, *layer.parameters()])
        results.append([y.detach(), h.detach(), grads])
    assert_close(*results, TOL)


@given(
    kind=st.sampled_from(KINDS),
    steps=st.integers(2, 9),
    lanes=st.integers(1, 3),
    layers=st.integers(1, 3),
    data=st.data(),
)
def test_chunks_resets_and_cuts(kind, steps, lanes, layers, data):
    """Two calls that hand on the state are one; a reset is a fresh second call, a cut a detached."""
    at = data.draw(st.integers(1, steps - 1))
    layer = make(kind, num_layers=layers)
    x = torch.randn(steps, lanes, 3, dtype=torch.float64, requires_grad=True)
    hx = state_of(layer, lanes, layers)
    mark = torch.zeros(steps, lanes, dtype=torch.bool)
    mark[at] = True
    first, middle = layer(x[:at], hx)
    wholes = [layer(x, hx), layer(x, hx, reset=mark), layer(x, hx, cut=mark)]
    for (y, end), between in zip(wholes, (middle, None, middle.detach()), strict=True):
        second, expected_end = layer(x[at:], between)
        expected = torch.cat([first, second])
        assert_close([y, end], [expected, expected_end], TOL)
        leaves = [x, *layer.parameters()]
        grads = [
            torch.autograd.grad(v.square().sum(), leaves, retain_graph=True, materialize_grads=True)
            for v in (y, expected)
        ]
        assert_close(*grads, TOL)


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_equal_each_lane_alone_and_packing(kind):
    layer = make(kind, num_layers=2)
    lengths = torch.tensor([5, 1, 3])
    x = torch.randn(6, 3, 3, dtype=torch.float64)
    for lane, end in enumerate(lengths.tolist()):
        x[end:, lane] = float("nan")
    y, h = layer(x, lengths=lengths)
    for lane, end in enumerate(lengths.tolist()):
        alone, final = layer(x[:end, lane])
        assert_close([y[:end, lane], h[:, lane]], [alone, final], TOL)
        assert torch.count_nonzero(y[end:, lane]) == 0
    packed = pack_padded_sequence(x.nan_to_num(), lengths, enforce_sorted=False)
    again, final = layer(packed)
    expected = pack_padded_sequence(y, lengths, enforce_sorted=False)
    assert_close([again.data, final], [expected.data, h], TOL)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_first_and_unbatched(kind):
    layer, plain = make(kind, batch_first=True), make(kind)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    y, h = plain(x.transpose(0, 1))
    assert_close(layer(x), (y.transpose(0, 1), h), 0.0)
    hx = state_of(plain, 1)
    one, h_one = plain(x[0], hx[:, 0])
    both, h_both = plain(x[0][:, None], hx)
    assert_close([one, h_one], [both[:, 0], h_both[:, 0]], 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_their_vectors(kind):
    layer = make(kind, batch_first=True)
    embedding = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    tokens, hx = torch.randint(5, (2, 6)), state_of(layer, 2)
    marks = {"reset": torch.rand(2, 6) < 0.3, "lengths": torch.tensor([6, 2])}
    found = layer.forward_tokens(tokens, embedding, hx, **marks)
    expected = layer(embedding[tokens], hx, **marks)
    assert_close(found, expected, TOL)
    grads = [torch.autograd.grad(y.square().sum(), embedding) for y, _ in (found, expected)]
    assert_close(*grads, TOL)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_acts_between_layers_while_training_only(kind):
    layer = make(kind, num_layers=2, dropout=0.5)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert_close(layer(x), layer(x), 0.0)


def test_the_ring_at_the_start():
    layer = bptt.nn.LRU(2, 400, r_min=0.8, r_max=0.95, max_phase=math.pi / 4)
    lam = layer.eigenvalues().detach()
    # Float32 through two logarithms: a few ulp at the ends of the ring.
    assert float(lam.abs().min()) >= 0.8 - 1e-5
    assert float(lam.abs().max()) <= 0.95 + 1e-5
    assert float(lam.angle().min()) >= -1e-5
    assert float(lam.angle().max()) <= math.pi / 4 + 1e-5
    gain = torch.exp(layer.gamma_log_l0.detach())
    assert_close(gain, (1 - lam.abs().square()).sqrt(), 1e-5)
    # Uniform in the square of the radius: its mean lies in the middle, within 4 standard errors of
    # (r_max² - r_min²)/√(12·400) = 0.0038.
    middle = (0.8**2 + 0.95**2) / 2
    assert abs(float(lam.abs().square().mean()) - middle) < 4 * 0.0038
    whole = bptt.nn.LRU(2, 64, r_min=0.0, r_max=0.0)
    assert all(bool(p.isfinite().all()) for p in whole.parameters())
    assert bool(whole(torch.ones(3, 1, 2))[0].isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_rounds_products_and_not_the_state(kind):
    layer = make(kind, num_layers=2, dtype=torch.float32)
    x = torch.randn(100, 2, 3)
    expected, h = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, final = layer(x)
        layer(x.bfloat16())
        y.float().sum().backward()
    assert final.dtype == torch.float32
    # bfloat16 keeps 8 bits: 4e-3 a product, and a few products one after the other.
    assert_close([y.float(), final], [expected, h], 5e-2)
    assert all(bool(p.grad.isfinite().all()) for p in layer.parameters())


def test_stacked_lrus_are_not_one_linear_system():
    layer = make("lru", num_layers=2)
    x = torch.randn(4, 1, 3, dtype=torch.float64)
    assert float((layer(2 * x)[0] - 2 * layer(x)[0]).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_units_say_which_element_acts_where(kind):
    """∂h_1/∂θ is zero outside the unit named, and nonzero at it."""
    layer = make(kind)
    x, hx = torch.randn(1, 1, 3, dtype=torch.float64), state_of(layer, 1)
    for name, units in layer.units().items():
        rest = dict(layer.named_parameters())

        def final(value, name=name, rest=rest):
            return torch.func.functional_call(layer, {**rest, name: value}, (x, hx))[1]

        jacobian = torch.autograd.functional.jacobian(final, rest[name].detach())
        jacobian = jacobian.reshape(layer.state_size, layer.parts, *units.shape).abs().sum(1)
        where = torch.arange(layer.state_size).reshape(-1, *[1] * units.dim()) == units
        assert torch.equal(jacobian > 0, where)


BAD = [
    (lambda: bptt.nn.MinGRU(3, 0), ArgumentError, "hidden_size >= 1"),
    (lambda: bptt.nn.MinGRU(3, 4, dropout=1.5), ArgumentError, "dropout"),
    (lambda: bptt.nn.LRU(3, 4, r_min=0.9, r_max=0.5), ArgumentError, "r_min <= r_max"),
    (lambda: bptt.nn.LRU(3, 4, r_max=1.0), ArgumentError, "r_max < 1"),
    (lambda: bptt.nn.LRU(3, 4, max_phase=0.0), ArgumentError, "max_phase"),
    (lambda: bptt.nn.LRU(3, 4, state_size=0), ArgumentError, "state_size"),
    (lambda: bptt.nn.LRU(3, 4, dtype=torch.float16), ArgumentError, "complex"),
    (lambda: make("lru")(torch.zeros(2, 1, 3).double(), torch.zeros(1, 1, 5)), ShapeError, "hx"),
    (lambda: make("mingru")(torch.zeros(2, 1, 2).double()), ShapeError, "input_size"),
]


@pytest.mark.parametrize(("call", "kind", "words"), BAD)
def test_bad_input(call, kind, words):
    assert issubclass(kind, BpttError)
    with pytest.raises(kind, match=words):
        call()
