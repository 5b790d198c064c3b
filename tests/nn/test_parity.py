"""torch.nn's layers and ours, given each other's state dict, are the same function."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import bptt
import over_triton
from compare import assert_close

TOL = 1e-10
KINDS = {
    "rnn-tanh": (nn.RNN, bptt.nn.RNN, {}),
    "rnn-relu": (nn.RNN, bptt.nn.RNN, {"nonlinearity": "relu"}),
    "gru": (nn.GRU, bptt.nn.GRU, {}),
    "lstm": (nn.LSTM, bptt.nn.LSTM, {}),
    "lstm-projected": (nn.LSTM, bptt.nn.LSTM, {"proj_size": 2}),
}
SHAPES = [(1, 1), (4, 3)] if over_triton.ASKED else [(1, 1), (1, 3), (5, 1), (6, 4)]  # T, B
kinds = pytest.mark.parametrize("kind", KINDS)


def pair(kind, **options):
    """One of torch's and one of ours, in float64, with weights handed over in both directions."""
    theirs_class, ours_class, extra = KINDS[kind]
    theirs = theirs_class(3, 5, dtype=torch.float64, **extra, **options)
    ours = ours_class(3, 5, dtype=torch.float64, **extra, **options)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    return theirs, ours


def states(layer, lanes, batched=True):
    """A random initial state that fits, with gradients asked for."""
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    sizes = [layer.proj_size or layer.hidden_size]
    sizes += [layer.hidden_size] if layer.mode == "LSTM" else []
    shape = (rows, lanes) if batched else (rows,)
    made = tuple(torch.randn(*shape, size, dtype=torch.float64).requires_grad_() for size in sizes)
    return made if layer.mode == "LSTM" else made[0]


def flat(value):
    return [value] if isinstance(value, torch.Tensor) else [t for v in value for t in flat(v)]


def everything(layer, x, hx, **call):
    """Outputs, final state, and the gradient of a fixed random functional in all that went in."""
    wanted = [*flat(hx if hx is not None else ()), *layer.parameters()]
    data = x.data if isinstance(x, PackedSequence) else x
    y, final = layer(x, hx, **call)
    outputs = [y.data if isinstance(y, PackedSequence) else y, *flat(final)]
    generator = torch.Generator().manual_seed(1)
    total = sum(
        (out * torch.randn(out.shape, dtype=out.dtype, generator=generator)).sum()
        for out in outputs
    )
    return outputs, torch.autograd.grad(total, [data, *wanted])


def no_marks(ours, x):
    """A reset mask without a mark in it: the same function, by our own loop and not torch's."""
    if isinstance(x, PackedSequence):
        return torch.zeros(len(x.batch_sizes), int(x.batch_sizes[0]), dtype=torch.bool)
    return torch.zeros(x.shape[:-1], dtype=torch.bool)


@kinds
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_stacks_directions_and_bias(kind, layers, both, bias):
    theirs, ours = pair(kind, num_layers=layers, bidirectional=both, bias=bias)
    for steps, lanes in SHAPES:
        x = torch.randn(steps, lanes, 3, dtype=torch.float64, requires_grad=True)
        for hx in (None, states(theirs, lanes)):
            expected = everything(theirs, x, hx)
            assert_close(everything(ours, x, hx), expected, TOL, f"T={steps} B={lanes}")
            looped = everything(ours, x, hx, reset=no_marks(ours, x))
            assert_close(looped, expected, TOL, f"looped T={steps} B={lanes}")


@kinds
def test_batch_first_and_unbatched(kind):
    theirs, ours = pair(kind, num_layers=2, bidirectional=True, batch_first=True)
    x = torch.randn(4, 6, 3, dtype=torch.float64, requires_grad=True)
    alone = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    for value, hx in ((x, states(theirs, 4)), (alone, states(theirs, 0, batched=False))):
        expected = everything(theirs, value, hx)
        assert_close(everything(ours, value, hx), expected, TOL)
        assert_close(everything(ours, value, hx, reset=no_marks(ours, value)), expected, TOL)


@kinds
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [[6, 5, 5, 1], [2, 6, 1, 4], [6, 6, 6, 6], [1]])
def test_packed(kind, batch_first, lengths):
    theirs, ours = pair(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    x = torch.randn(max(lengths), len(lengths), 3, dtype=torch.float64)
    x = x.transpose(0, 1) if batch_first else x
    packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first, enforce_sorted=False)
    packed = PackedSequence(packed.data.requires_grad_(), *packed[1:])
    for hx in (None, states(theirs, len(lengths))):
        expected = everything(theirs, packed, hx)
        assert_close(everything(ours, packed, hx), expected, TOL)
        assert_close(everything(ours, packed, hx, reset=no_marks(ours, packed)), expected, TOL)


def test_packed_output_is_packed_as_the_input_was():
    theirs, ours = pair("gru")
    x = torch.randn(4, 3, 3, dtype=torch.float64)
    packed = pack_padded_sequence(x, torch.tensor([2, 4, 2]), enforce_sorted=False)
    for call in ({}, {"reset": torch.zeros(4, 3, dtype=torch.bool)}):
        y, _ = ours(packed, **call)
        expected, _ = theirs(packed)
        assert isinstance(y, PackedSequence)
        assert_close(tuple(y), tuple(expected), TOL)


@kinds
@pytest.mark.parametrize("both", [False, True])
def test_lengths_equal_packing(kind, both):
    theirs, ours = pair(kind, num_layers=2, bidirectional=both)
    lengths = torch.tensor([3, 6, 1, 5])
    x = torch.randn(6, 4, 3, dtype=torch.float64, requires_grad=True)
    hx = states(theirs, 4)
    y, final = ours(x, hx, lengths=lengths)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    packed_y, expected_final = theirs(packed, hx)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(packed_y)
    assert_close([y, *flat(final)], [expected, *flat(expected_final)], TOL)
    wanted = [x, *flat(hx), *theirs.parameters()]
    for_ours = torch.autograd.grad(
        y.square().sum() + sum(f.sum() for f in flat(final)), [x, *flat(hx), *ours.parameters()]
    )
    for_theirs = torch.autograd.grad(
        expected.square().sum() + sum(f.sum() for f in flat(expected_final)), wanted
    )
    assert_close(for_ours, for_theirs, TOL)


@kinds
def test_what_lies_in_the_padding_does_not_matter(kind):
    _, ours = pair(kind, num_layers=2, bidirectional=True)
    lengths = torch.tensor([3, 6, 1])
    x = torch.randn(6, 3, 3, dtype=torch.float64)
    poisoned = x.clone()
    for lane, length in enumerate(lengths):
        poisoned[length:, lane] = torch.nan
    clean, dirty = (v.clone().requires_grad_() for v in (x, poisoned))
    a, b = (everything(ours, v, None, lengths=lengths) for v in (clean, dirty))
    assert_close(b, a, 0.0)


@pytest.mark.parametrize("kind", ["rnn-tanh", "gru", "lstm"])
def test_float32_and_dropout_between_layers(kind):
    """With the same random state both drop the same units, so even dropout compares exactly."""
    theirs, ours = pair(kind, num_layers=3, dropout=0.5)
    theirs, ours = theirs.float(), ours.float()
    x = torch.randn(6, 4, 3)
    results = []
    for layer in (theirs, ours):
        torch.manual_seed(5)
        results.append(layer(x)[0])
    assert_close(results[1], results[0], 1e-6)
    ours.eval()
    assert_close(ours(x)[0], ours(x)[0], 0.0)


def test_state_dict_is_torchs():
    theirs, ours = pair("lstm-projected", num_layers=2, bidirectional=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert repr(ours) == f"bptt.nn.{theirs!r}"
    assert isinstance(ours, nn.LSTM)


def test_functional_call_sees_replaced_weights():
    _, ours = pair("gru")
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    zeros = {name: torch.zeros_like(p) for name, p in ours.named_parameters()}
    reset = torch.zeros(4, 2, dtype=torch.bool)
    for call in ({}, {"reset": reset}):
        y, _ = torch.func.functional_call(ours, zeros, (x,), call)
        assert_close(y, torch.zeros_like(y), 0.0)


def test_double_backward_of_the_loop():
    _, ours = pair("gru")
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    reset = torch.zeros(3, 2, dtype=torch.bool)
    reset[1, 0] = True
    assert torch.autograd.gradgradcheck(lambda v: ours(v, reset=reset)[0], (x,))
