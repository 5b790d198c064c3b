"""Residual and highway recurrences and the attention layer: equations, chunks, marks, lengths."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import bptt
from bptt.errors import ArgumentError, BpttError, ShapeError
from bptt.models import Attention, AttentionModel, Highway, Residual
from compare import assert_close

MAKERS = {
    "residual": lambda: Residual(3, 8, scale=0.3).double(),
    "highway": lambda: Highway(3, 8, gate_bias=1.0).double(),
    "attention": lambda: Attention(3, 8, context=200).double(),
    "window": lambda: Attention(3, 8, 2, context=7).double(),
    "nothing back": lambda: Attention(3, 8, context=1).double(),
}
LOOPS = ("residual", "highway")


@pytest.fixture(params=MAKERS)
def layer(request):
    torch.manual_seed(3)
    return MAKERS[request.param]()


def inputs(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def lane(carry, b):
    """The carry of one lane."""
    if torch.is_tensor(carry):
        return carry[:, b : b + 1]
    return type(carry)(*(part[:, b : b + 1] for part in carry))


def test_the_equations():
    x = inputs(6, 2, 3)
    res = MAKERS["residual"]()
    h = torch.zeros(2, 8).double()
    for t in range(6):
        h = h + 0.3 * torch.tanh(x[t] @ res.weight_ih_l0.T + h @ res.weight_hh_l0.T + res.bias_l0)
    assert_close(res(x)[1][0], h, 1e-12)
    high = MAKERS["highway"]()
    assert bool((high.bias_l0[8:] == 1.0).all())
    h = torch.zeros(2, 8).double()
    for t in range(6):
        n, g = (x[t] @ high.weight_ih_l0.T + h @ high.weight_hh_l0.T + high.bias_l0).split(8, -1)
        h = torch.sigmoid(g) * h + (1 - torch.sigmoid(g)) * torch.tanh(n)
    assert_close(high(x)[1][0], h, 1e-12)


def test_the_attention_layer_is_the_models_blocks():
    torch.manual_seed(1)
    model = AttentionModel(5, width=8, heads=2, layers=2, context=4).double().eval()
    layer = Attention(5, 8, 2, heads=2, context=4).double()
    layer.blocks.load_state_dict(model.blocks.state_dict())
    layer.norm.load_state_dict(model.norm.state_dict())
    with torch.no_grad():
        layer.input.weight.copy_(model.embedding.weight.T)
        layer.input.bias.zero_()
    tokens = torch.randint(5, (100, 3))
    one_hot = torch.nn.functional.one_hot(tokens, 5).double()
    assert_close(model.output(layer(one_hot)[0]), model(tokens)[0], 1e-10)


@pytest.mark.parametrize("cuts", [(1,), (37,), (70, 71, 140)])
def test_in_chunks_as_in_one_call(layer, cuts):
    x = inputs(150, 2, 3)
    whole, last = layer(x)
    parts, carry, begin = [], None, 0
    for end in (*cuts, 150):
        y, carry = layer(x[begin:end], carry)
        parts.append(y)
        begin = end
    assert_close(torch.cat(parts), whole, 1e-10)
    if torch.is_tensor(last):
        assert_close(carry, last, 1e-10)


def test_lanes_of_any_length_with_resets_are_the_lanes_by_themselves(layer):
    """Padding may be anything, NaN included; the carry of each lane is that of its last valid step."""
    lengths = [150, 80, 64, 1, 0]
    x, more = inputs(150, 5, 3), inputs(9, 5, 3)
    reset = torch.zeros(150, 5, dtype=torch.bool)
    reset[20, 1] = reset[77, 0] = reset[79, 1] = reset[0, 2] = reset[100, 3] = True
    _, before = layer(inputs(5, 5, 3))
    padded = x.clone()
    for b, n in enumerate(lengths):
        padded[n:, b] = float("nan")
    padded.requires_grad_()
    y, carry = layer(padded, before, lengths=torch.tensor(lengths), reset=reset)
    after, _ = layer(more, carry)
    (gradient,) = torch.autograd.grad(y.sum() + after.sum(), padded)
    assert bool(gradient.isfinite().all())
    for b, n in enumerate(lengths):
        own = lane(before, b)
        if n:
            alone, own = layer(x[:n, b : b + 1], own, reset=reset[:n, b : b + 1])
            assert_close(y[:n, b : b + 1], alone, 1e-10)
        assert bool((y[n:, b] == 0).all())
        assert_close(after[:, b : b + 1], layer(more[:, b : b + 1], own)[0], 1e-10)


def test_a_reset_begins_a_sequence_of_its_own(layer):
    x = inputs(90, 1, 3)
    reset = torch.zeros(90, 1, dtype=torch.bool)
    reset[70] = True
    y, _ = layer(x, reset=reset)
    assert_close(y[70:], layer(x[70:])[0], 1e-10)
    assert_close(y[:70], layer(x[:70])[0], 1e-10)


def test_packed_sequences_batch_first_and_single_sequences(layer):
    x, lengths = inputs(20, 3, 3), torch.tensor([20, 7, 13])
    whole, _ = layer(x, lengths=lengths)
    packed, _ = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
    assert_close(pad_packed_sequence(packed)[0], whole, 1e-10)
    assert_close(layer(x[:, 0])[0], layer(x[:, :1])[0][:, 0], 1e-10)
    layer.batch_first = True
    assert_close(layer(x.transpose(0, 1))[0], layer_time_first(layer, x), 1e-10)


def layer_time_first(layer, x):
    layer.batch_first = False
    y = layer(x)[0].transpose(0, 1)
    layer.batch_first = True
    return y


@pytest.mark.parametrize("name", LOOPS)
def test_a_cut_stops_the_gradient_and_nothing_else(name):
    layer, x = MAKERS[name](), inputs(12, 2, 3).requires_grad_()
    cut = torch.zeros(12, 2, dtype=torch.bool)
    cut[5, 1] = True
    y, _ = layer(x, cut=cut)
    assert_close(y, layer(x)[0], 0.0)
    (gradient,) = torch.autograd.grad(y[-1].sum(), x)
    assert bool((gradient[:5, 1] == 0).all())
    assert bool((gradient[5:, 1].abs().sum(-1) > 0).all())
    assert bool((gradient[:, 0].abs().sum(-1) > 0).all())


@pytest.mark.parametrize("name", LOOPS)
def test_a_watch_splits_their_gradient_by_lag(name):
    layer, x = MAKERS[name](), inputs(15, 2, 3)
    with bptt.watch(layer) as flow:
        layer(x)[0][-1].square().sum().backward()
    norms = flow.spectrum.norms
    assert len(norms) == 15
    assert bool((norms[1:] > 0).all())
    # By hand: the gradient that is cut K steps before the end.
    for k in (1, 4, 15):
        copy = MAKERS[name]()
        copy.load_state_dict(layer.state_dict())
        cut = torch.zeros(15, 2, dtype=torch.bool)
        if k < 15:
            cut[15 - k] = True
        copy(x, cut=cut)[0][-1].square().sum().backward()
        whole = torch.cat([p.grad.flatten() for n, p in layer.named_parameters()])
        part = torch.cat([p.grad.flatten() for n, p in copy.named_parameters()])
        assert abs(flow.bias(k) - float((part - whole).norm() / whole.norm())) < 1e-6


def test_attention_reaches_its_context_and_no_further():
    layer, x = MAKERS["window"](), inputs(60, 1, 3).requires_grad_()  # 2 layers, 7 steps each
    (gradient,) = torch.autograd.grad(layer(x)[0][-1].square().sum(), x)
    reached = gradient.abs().sum((1, 2)) > 0
    assert reached.flip(0).tolist() == [True] * 13 + [False] * 47


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Residual(3, 4, scale=0), "scale above 0"),
        (lambda: Residual(3, 4, scale=float("nan")), "scale above 0"),
        (lambda: Highway(0, 4), "input_size"),
        (lambda: Highway(3, 4, gate_bias="open"), "gate_bias"),
        (lambda: Attention(3, 7), "hidden_size=7, heads=1"),
        (lambda: Attention(3, 8, heads=3), "divisible by 2 heads"),
        (lambda: Attention(3, 8, context=0), "context"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(BpttError, match=words):
        make()


def test_calls_that_do_not_fit_are_refused(layer):
    for call in (
        lambda: layer(inputs(5, 2, 4)),
        lambda: layer(inputs(5, 2, 3), inputs(1, 3, 8)),
        lambda: layer(inputs(5, 2, 3), lengths=torch.tensor([6, 1])),
    ):
        with pytest.raises((ShapeError, ArgumentError)):
            call()
