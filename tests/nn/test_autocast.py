"""Under autocast on the CPU outputs, states and gradients have torch's dtypes, near its values."""

import itertools

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import bptt
from compare import assert_close

T, B, I, H = 5, 3, 4, 6
KINDS = [("RNN", 0), ("GRU", 0), ("LSTM", 0), ("LSTM", 2)]
# torch says once that it computes projections without oneDNN.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
FORMS = ["padded", "batch_first", "packed", "unbatched"]


def outcome(lib, kind, proj, form, short, x_dtype, h_dtype, layers, both, grad):
    torch.manual_seed(0)
    first = form == "batch_first"
    layer = getattr(lib, kind)(
        I, H, num_layers=layers, bidirectional=both, batch_first=first,
        **({"proj_size": proj} if proj else {}),
    )  # fmt: skip
    rows = layers * (2 if both else 1)
    x = torch.randn(T, B, I).to(x_dtype)
    hx = None
    if h_dtype is not None:
        hx = [torch.randn(rows, B, n).to(h_dtype) for n in (proj or H, H)]
    if form == "unbatched":
        x = x[:, 0]
        hx = None if hx is None else [h[:, 0] for h in hx]
    elif first:
        x = x.transpose(0, 1)
    leaves = [x, *(hx or [])]
    for leaf in leaves:
        leaf.requires_grad_()
    given = x
    if form == "packed":
        given = pack_padded_sequence(x, torch.tensor([5, 4, 2]))
    state = None if hx is None else tuple(hx) if kind == "LSTM" else hx[0]
    leaves = leaves if kind == "LSTM" else leaves[:2]
    with torch.autocast("cpu", short), torch.set_grad_enabled(grad):
        y, states = layer(given, state)
    y = y.data if form == "packed" else y
    states = list(states) if isinstance(states, tuple) else [states]
    if not grad:
        return [y, *states], []
    total = y.float().sum() + sum(s.float().sum() for s in states)
    return [y, *states], list(torch.autograd.grad(total, [*leaves, *layer.parameters()]))


@pytest.mark.parametrize(("kind", "proj"), KINDS)
@pytest.mark.parametrize("short", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("grad", [True, False])
def test_dtypes_and_values_are_torchs(kind, proj, short, form, grad):
    grid = itertools.product(
        (torch.float32, short), (None, torch.float32, short), [(1, False), (2, True)]
    )
    for x_dtype, h_dtype, (layers, both) in grid:
        arguments = kind, proj, form, short, x_dtype, h_dtype, layers, both, grad
        try:
            expected = outcome(torch.nn, *arguments)
        except RuntimeError as error:
            # oneDNN has no LSTM in float16 that trains; on machines like that torch has no answer.
            if "could not create a primitive" not in str(error):
                raise
            continue
        outputs, gradients = outcome(bptt.nn, *arguments)
        # torch rounds after every product, we at the end: some units of the short dtype apart.
        tol = 0.05 if short == torch.bfloat16 else 0.01
        assert_close(outputs, expected[0], tol, str(arguments))
        if grad:
            assert_close(gradients, expected[1], tol, str(arguments), floor=0.1)


@pytest.mark.parametrize(("kind", "proj"), KINDS)
@pytest.mark.parametrize("short", [torch.bfloat16, torch.float16])
def test_marked_calls_and_tokens_have_the_dtypes_of_plain_ones(kind, proj, short):
    extra = {"proj_size": proj} if proj else {}
    layer = getattr(bptt.nn, kind)(I, H, num_layers=2, **extra)
    table, tokens = torch.randn(2, I), torch.randint(2, (T, B))
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[2] = True
    x = table[tokens]

    def dtypes(result):
        y, states = result
        return [y.dtype, *(s.dtype for s in (states if isinstance(states, tuple) else [states]))]

    with torch.autocast("cpu", short), torch.no_grad():
        expected = dtypes(layer(x))
        assert dtypes(layer(x, reset=reset)) == expected
        assert dtypes(layer(x, lengths=torch.tensor([5, 0, 2]))) == expected
        assert dtypes(layer(x, cut=reset)) == expected
        assert dtypes(layer.forward_tokens(tokens, table)) == expected
        assert dtypes(layer.forward_tokens(tokens, table, reset=reset)) == expected
    y, _ = layer(x, reset=reset)
    with torch.autocast("cpu", short):
        assert_close(layer(x, reset=reset)[0].float(), y, 0.05)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_double_precision_stays(kind):
    layer = getattr(bptt.nn, kind)(I, H, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    expected = layer(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(layer(x)[0], expected, 1e-12)
        assert_close(layer(x, lengths=torch.full((B,), T))[0], expected, 1e-12)


def test_without_autocast_nothing_is_rounded():
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        assert bptt.nn.GRU(I, H)(torch.randn(T, B, I))[0].dtype == torch.float32
