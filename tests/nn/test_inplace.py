"""What a caller writes over a layer's output does not reach its gradients: as it is with torch's layers.

torch's LSTM for padded float32 input (oneDNN's) is the exception among torch's own: it reads its output
again in backward, refuses what autograd sees and takes wrong values for what it does not see. Both
libraries are compared without it, and ours, where that would run, with a layer whose output is copied.
"""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence

import bptt
import over_triton
from compare import assert_close

T, B, N = 3, 5, 4


def without_grad(y):
    with torch.no_grad():
        y.zero_()


def through_numpy(y):
    # A short dtype has no NumPy array; its memory can be written to all the same.
    flat = y.detach()
    (flat if flat.dtype == torch.bfloat16 else flat.numpy())[...] = 0


ON_OUTPUT = {
    "relu_": lambda y: F.relu(y, inplace=True),
    "mul_": lambda y: y.mul_(torch.linspace(0, 1, y.numel()).view(y.shape).to(y.dtype)),
    "add_": lambda y: y.add_(torch.linspace(0, 1, y.numel()).view(y.shape).to(y.dtype)),
    "dropout": lambda y: F.dropout(y, 0.5, True, inplace=True),
    "item": lambda y: y.__setitem__(0, 0.0),
    "slice": lambda y: y[..., 1:].mul_(2),
    "zero_": lambda y: y.zero_(),
    "masked_fill_": lambda y: y.masked_fill_(y > 0, 0.5),
    "clamp_": lambda y: y.clamp_(-0.1, 0.1),
    "copy_": lambda y: y.copy_(y.detach().flip(0)),
    "data.zero_": lambda y: y.data.zero_(),
    "numpy": through_numpy,
    "no_grad": without_grad,
}
ON_STATE = ["mul_", "add_", "zero_", "item", "data.zero_", "numpy"]
FORMS = [
    "plain", "h0", "batch_first", "batch_first h0", "packed", "packed h0", "unbatched", "unbatched h0",
    "float64", "float64 batch_first", "float64 packed", "autocast", "autocast packed",
]  # fmt: skip
MARKED = ["lengths", "reset", "lengths batch_first", "reset batch_first", "reset float64 h0"]


def outcome(lib, kind, layers, both, form, act, on="output", options=None):
    """What is left of the output, and all gradients; or that torch refused."""
    torch.manual_seed(0)
    dtype = torch.float64 if "float64" in form else torch.float32
    first = "batch_first" in form
    layer = getattr(lib, kind)(
        N, N, num_layers=layers, bidirectional=both, batch_first=first, dtype=dtype
    )
    rows = layers * (2 if both else 1)
    x, h, c = (torch.randn(n, B, N, dtype=dtype) for n in (T, rows, rows))
    if "unbatched" in form:
        x, h, c = (v[:, 0].clone() for v in (x, h, c))
    elif first:
        x = x.transpose(0, 1).contiguous()
    given = [x, h, c] if kind == "LSTM" else [x, h]
    given = given if "h0" in form else given[:1]
    for leaf in given:
        leaf.requires_grad_()
    hx = None if len(given) == 1 else tuple(given[1:]) if kind == "LSTM" else h
    if "packed" in form:
        lengths = torch.tensor([3, 1, 2, 3, 2])
        x = pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False)
    short = torch.autocast("cpu", torch.bfloat16)
    torch.manual_seed(1)
    with short if "autocast" in form else contextlib.nullcontext():
        y, states = layer(x, hx, **(options or {}))
    y = y.data if "packed" in form else y
    states = list(states) if isinstance(states, tuple) else [states]
    try:
        act({"output": y, "h_n": states[0], "c_n": states[-1]}[on])
        sum(v.float().square().sum() for v in (y, *states)).backward()
    except RuntimeError as error:
        if "modified" not in str(error):
            raise
        return "refused"
    return [y.detach(), *(leaf.grad for leaf in (*given, *layer.parameters()))]


def compare(kind, layers, both, form, act, on):
    with torch.backends.mkldnn.flags(enabled=False):
        expected = outcome(torch.nn, kind, layers, both, form, act, on)
        found = outcome(bptt.nn, kind, layers, both, form, act, on)
    if "autocast" in form and expected != "refused" != found:
        # torch rounds after every operation: values are near, dtypes and what is zero are the same.
        assert_close(found, expected, 0.1, floor=0.1)
    else:
        assert_close(found, expected, 1e-10 if "float64" in form else 2e-5)


shapes = pytest.mark.parametrize(("layers", "both"), [(1, False), (2, False), (3, True)])


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("form", FORMS)
@shapes
def test_in_place_on_the_output(kind, form, layers, both):
    for name, act in over_triton.some(ON_OUTPUT.items(), 3):
        if "autocast" in form and name in ("relu_", "masked_fill_", "clamp_"):
            continue  # a kink: rounding decides the side, and with it the gradient
        compare(kind, layers, both, form, act, "output")


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("form", FORMS)
@shapes
def test_in_place_on_the_states(kind, form, layers, both):
    for name in over_triton.some(ON_STATE, 2):
        for on in ("h_n", "c_n") if kind == "LSTM" else ("h_n",):
            compare(kind, layers, both, form, ON_OUTPUT[name], on)


def options_of(form):
    if "lengths" in form:
        return {"lengths": torch.tensor([3, 1, 0, 3, 2])}
    reset = torch.zeros((B, T) if "batch_first" in form else (T, B), dtype=torch.bool)
    reset.view(-1)[::4] = True
    return {"reset": reset}


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("form", MARKED)
@shapes
def test_marked_calls(kind, form, layers, both):
    """torch has none of these: the operation on a copy of the output says what must come out."""
    for name, act in over_triton.some(ON_OUTPUT.items(), 3):
        found = outcome(bptt.nn, kind, layers, both, form, act, options=options_of(form))
        copied = outcome(Copying, kind, layers, both, form, act, options=options_of(form))
        assert_close(found, copied, 1e-10 if "float64" in form else 2e-5, name)


class _Copied(torch.nn.Module):
    """A layer whose output is a copy, which nothing else can read."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *arguments, **options):
        y, states = self.layer(*arguments, **options)
        return y.clone(), states


class Copying:
    """The package's layers, copied."""

    RNN, GRU, LSTM = (
        staticmethod(lambda *a, kind=kind, **o: _Copied(kind(*a, **o)))
        for kind in (bptt.nn.RNN, bptt.nn.GRU, bptt.nn.LSTM)
    )


@pytest.mark.parametrize("layers", [1, 2])
def test_an_lstm_trains_where_onednn_would_read_its_output_again(layers, backend):
    for name, act in over_triton.some(ON_OUTPUT.items(), 3):
        found = outcome(bptt.nn, "LSTM", layers, False, "plain", act)
        # The eager backend leaves the call to torch, whatever comes of it.
        lib = torch.nn if backend == "eager" else Copying
        assert_close(found, outcome(lib, "LSTM", layers, False, "plain", act), 2e-5, name)


def test_the_input_is_still_refused():
    """What backward does read, it guards: as torch does."""
    for kind in ("RNN", "GRU", "LSTM"):
        for lib in (torch.nn, bptt.nn):
            layer, x = getattr(lib, kind)(N, N), torch.randn(T, B, N)
            y, _ = layer(x)
            x.zero_()
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("first", [False, True])
def test_the_same_units_are_dropped(kind, first):
    """Dropout draws in the order of memory, so outputs lie in memory as torch's do."""
    found = []
    for lib in (torch.nn, bptt.nn):
        torch.manual_seed(0)
        layer = getattr(lib, kind)(N, N, num_layers=3, dropout=0.4, batch_first=first)
        torch.manual_seed(1)
        y = layer(torch.linspace(-1, 1, T * B * N).view(T, B, N))[0]
        found.append((y, F.dropout(y, 0.5)))
        strides = y.stride()
    assert strides == found[0][0].stride()
    assert_close(found[1], found[0], 1e-5)
