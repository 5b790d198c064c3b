"""Packed rows in the kernels: no padding anywhere, the same numbers as the eager path."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from bptt.errors import ShapeError
from bptt.ops import eager, native
from compare import assert_close

MODES = ["RNN_TANH", "RNN_RELU", "GRU", "LSTM"]
GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "GRU": 3, "LSTM": 4}
I, H = 2, 5
LENGTHS = [[1], [4, 4, 4], [6, 3, 3, 1], [7, 2]]
# Both sides add up at most 7·4 products of numbers near 1, in another order.
TOL = 1e-12


def problem(mode, lengths):
    """x as packed rows, how many lanes run at each step, states and weights, all to be differentiated."""
    packed = pack_padded_sequence(
        torch.randn(max(lengths), len(lengths), I, dtype=torch.float64), torch.tensor(lengths)
    )
    rows = GATES[mode] * H
    shapes = [(len(lengths), H)] * (2 if mode == "LSTM" else 1)
    shapes += [(rows, I), (rows, H), (rows,), (rows,)]
    leaves = [packed.data, *(torch.randn(s, dtype=torch.float64) for s in shapes)]
    return [leaf.requires_grad_() for leaf in leaves], packed.batch_sizes


def caller(recur, mode, counts, reverse):
    states = 2 if mode == "LSTM" else 1

    def run(x, *rest):
        y, final = recur(mode, x, rest[:states], rest[states:], batch_sizes=counts, reverse=reverse)
        return (y, *final)

    return run


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_equal_to_the_eager_path_with_every_gradient(mode, lengths, reverse):
    leaves, counts = problem(mode, lengths)
    results = []
    for recur in (native.recur, eager.recur):
        outputs = caller(recur, mode, counts, reverse)(*leaves)
        cotangents = [torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view_as(o) for o in outputs]
        results.append((*outputs, *torch.autograd.grad(outputs, leaves, cotangents)))
    for place, (actual, expected) in enumerate(zip(*results, strict=True)):
        assert_close(actual, expected, TOL, f"result {place}")


# From torch 2.14 on its own checker reads .grad of the views that it makes, and is warned of it.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("mode", MODES)
def test_gradcheck_twice_and_opcheck(mode):
    leaves, counts = problem(mode, [3, 1])
    run = caller(native.recur, mode, counts, False)
    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)
    states = 2 if mode == "LSTM" else 1
    x, h0, c0 = leaves[0], leaves[1], leaves[2] if states == 2 else None
    arguments = (MODES.index(mode), x, None, h0, c0, *leaves[1 + states :])
    arguments += (None, None, None, None, False, False, True, counts)
    torch.library.opcheck(torch.ops.bptt.recur.default, arguments)


@pytest.mark.parametrize("counts", [[2, 3], [2, 0], [3, 1], [2, 2, 1], [1, 1], [2, -1]], ids=str)
def test_counts_that_do_not_fit_the_rows_never_reach_a_pointer(counts):
    leaves, _ = problem("GRU", [2, 1])
    with pytest.raises(ShapeError, match="batch_sizes"):
        caller(native.recur, "GRU", torch.tensor(counts), False)(*leaves)
