"""Several cotangents in one backward pass, and derivatives of every kind, against one at a time."""

import itertools
from contextlib import nullcontext

import pytest
import torch
from torch.autograd.functional import hessian, jacobian
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode

import bptt
import over_triton
from bptt import ops
from compare import assert_close

KINDS = ["RNN", "GRU", "LSTM"]
FORMS = ["plain", "lengths", "reset", "cut", "packed", "tokens", "stacked", "projected"]
T, B, I, H, N = 4, 2, 3, 5, 6
# torch scripts some formulas when forward-mode differentiation is first asked for.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def case(kind, form):
    """A layer, its input, and the output and final states as one vector of the input."""
    torch.manual_seed(2)
    options = {}
    if form == "stacked":
        options = {"num_layers": 2, "bidirectional": True, "batch_first": True}
    if form == "projected":
        options = {"proj_size": 2}
    layer = getattr(bptt.nn, kind)(I, H, dtype=torch.float64, **options)
    x = torch.randn(T, B, I, dtype=torch.float64)
    marks = {}
    if form == "lengths":
        marks = {"lengths": torch.tensor([3, 4])}
    if form in ("reset", "cut"):
        marks = {form: torch.zeros(T, B, dtype=torch.bool)}
        marks[form][2, 1] = True
    tokens = torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0]])
    if form == "tokens":
        x = torch.randn(2, I, dtype=torch.float64)
    if form == "packed":
        x = torch.randn(6, I, dtype=torch.float64)

    def run(x):
        if form == "tokens":
            y, state = layer.forward_tokens(tokens, x)
        elif form == "packed":
            # Not by torch's packing function, which has no such derivatives.
            y, state = layer(PackedSequence(x, torch.tensor([2, 2, 1, 1])))
            y = y.data
        else:
            y, state = layer(x, **marks)
        states = state if isinstance(state, tuple) else (state,)
        return torch.cat([y.flatten(), *(s.flatten() for s in states)]).tanh()

    return layer, x, run


GRID = [
    (kind, form)
    for kind, form in itertools.product(KINDS, FORMS)
    if form != "projected" or kind == "LSTM"
]


@pytest.mark.parametrize(("kind", "form"), GRID)
@pytest.mark.parametrize("by", ["is_grads_batched", "vmap"])
@pytest.mark.parametrize("through", ["function", "operator"])
def test_a_batch_of_cotangents_is_each_of_them(kind, form, by, through):
    layer, x, run = case(kind, form)
    x.requires_grad_()
    # The tracer's mode sends the call through torch's dispatcher.
    with Seen() if through == "operator" else nullcontext():
        y = run(x)
    inputs = [x, *layer.parameters()]
    cotangents = torch.randn(N, *y.shape, dtype=torch.float64)
    one = [torch.autograd.grad(y, inputs, c, retain_graph=True) for c in cotangents]
    if by == "vmap":
        found = torch.vmap(lambda c: torch.autograd.grad(y, inputs, c, retain_graph=True))(
            cotangents
        )
    else:
        found = torch.autograd.grad(y, inputs, cotangents, is_grads_batched=True)
    assert_close(found, [torch.stack(each) for each in zip(*one, strict=True)], 1e-12)
    # A table of tokens is read by the native kernels alone.
    others = {"projected": "eager", "tokens": "native"}
    assert ops.backend().runs == others.get(form, over_triton.KERNELS)


class Seen(TorchDispatchMode):
    """Sees every operator and lets it pass."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("kind", "form"), GRID)
def test_jacobians_of_every_make_agree(kind, form):
    _, x, run = case(kind, form)
    expected = jacobian(run, x)
    assert_close(jacobian(run, x, vectorize=True), expected, 1e-12)
    assert_close(jacobian(run, x, vectorize=True, create_graph=True).detach(), expected, 1e-12)
    assert_close(torch.func.jacrev(run)(x), expected, 1e-12)
    assert_close(torch.func.jacfwd(run)(x), expected, 1e-12)


@pytest.mark.parametrize(("kind", "form"), GRID)
def test_hessians_of_every_make_agree(kind, form):
    _, x, run = case(kind, form)

    def loss(x):
        return run(x).square().sum()

    expected = hessian(loss, x)
    assert_close(hessian(loss, x, vectorize=True), expected, 1e-10)
    assert_close(torch.func.hessian(loss)(x), expected, 1e-10)
    x.requires_grad_()
    (first,) = torch.autograd.grad(loss(x), x, create_graph=True)
    rows = torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape)
    (found,) = torch.autograd.grad(first, x, rows, is_grads_batched=True)
    assert_close(found.view(expected.shape), expected, 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_forward_mode_agrees(kind):
    _, x, run = case(kind, "plain")
    expected = jacobian(run, x)
    found = jacobian(run, x, vectorize=True, strategy="forward-mode")
    assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_over_inputs_and_weights(kind):
    layer, x, run = case(kind, "plain")
    xs = torch.randn(N, *x.shape, dtype=torch.float64)
    assert_close(torch.vmap(run)(xs), torch.stack([run(x) for x in xs]), 1e-12)
    weights = dict(layer.named_parameters())

    def loss(weights, x):
        return torch.func.functional_call(layer, weights, (x,))[0].square().sum()

    found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, xs)
    each = [torch.autograd.grad(loss(weights, x), list(weights.values())) for x in xs]
    assert_close(list(found.values()), [torch.stack(g) for g in zip(*each, strict=True)], 1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("autocast", [False, True])
def test_single_precision_and_autocast(kind, autocast):
    layer = getattr(bptt.nn, kind)(I, H)
    x = torch.randn(T, B, I, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        y = layer(x)[0]
    inputs = [x, *layer.parameters()]
    cotangents = torch.randn(N, *y.shape).to(y.dtype)
    one = [torch.autograd.grad(y, inputs, c, retain_graph=True) for c in cotangents]
    found = torch.autograd.grad(y, inputs, cotangents, is_grads_batched=True)
    assert_close(found, [torch.stack(each) for each in zip(*one, strict=True)], 1e-5)
