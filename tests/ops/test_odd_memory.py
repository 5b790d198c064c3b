"""Tensors whose memory is not what their shape suggests, and processes that are not what they seem."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

import bptt
from bptt import ops
from bptt.errors import ArgumentError, BpttError, DeviceError, DtypeError, ShapeError
from bptt.ops import native
from bptt.ops.native.check import extension
from compare import assert_close
from processes import interpreter

T, B, H = 5, 3, 4


def negated(tensor):
    """The same values, as a view that torch promises to negate when it is read."""
    view = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    assert view.is_neg()
    return view


@pytest.mark.parametrize("mode", ["RNN_TANH", "GRU", "LSTM"])
def test_a_projected_input_that_is_expanded(mode):
    """All its rows lie in one place: read as if they lay in order, the kernel would run past it."""
    G = {"RNN_TANH": 1, "GRU": 3, "LSTM": 4}[mode]
    row = torch.randn(1, 1, G * H, dtype=torch.float64)
    weights = (None, torch.randn(G * H, H, dtype=torch.float64), None, None)
    state = tuple(torch.randn(B, H, dtype=torch.float64) for _ in range(2 if mode == "LSTM" else 1))
    y, _ = native.recur(mode, row.expand(T, B, -1), state, weights)
    expected, _ = native.recur(mode, row.expand(T, B, -1).contiguous(), state, weights)
    assert_close(y, expected, tol=0)


@pytest.mark.parametrize("kind", [bptt.nn.RNN, bptt.nn.GRU, bptt.nn.LSTM])
def test_views_that_are_negated(kind):
    layer = kind(3, H).double()
    x, h = torch.randn(T, B, 3, dtype=torch.float64), torch.randn(1, B, H, dtype=torch.float64)
    wrap = (lambda s: (s, s.clone())) if kind is bptt.nn.LSTM else (lambda s: s)
    y, _ = layer(negated(x), wrap(negated(h)))
    expected, _ = layer(x, wrap(h))
    assert_close(y, expected, tol=0)
    cotangent = torch.randn_like(y)
    found = torch.autograd.grad(y, list(layer.parameters()), negated(cotangent))
    wanted = torch.autograd.grad(expected, list(layer.parameters()), cotangent)
    for mine, theirs in zip(found, wanted, strict=True):
        assert_close(mine, theirs, tol=0)


def test_a_weight_on_meta_is_not_multiplied_by_what_lies_in_memory():
    x, state = torch.randn(T, B, 1), (torch.randn(B, 1),)
    weights = [torch.randn(1, 1), torch.randn(1, 1, device="meta"), None, None]
    with pytest.raises(DeviceError, match="meta"):
        ops.recur("RNN_TANH", x, state, tuple(weights))


@pytest.mark.parametrize("wrong", ["saved", "dy", "dh_n", "needs", "lengths"])
def test_the_backward_operator_looks_at_every_size(wrong):
    x, h0 = torch.randn(T, B, 2), torch.randn(B, H)
    w_ih, w_hh = torch.randn(3 * H, 2), torch.randn(3 * H, H)
    y, _, _, saved = torch.ops.bptt.recur(
        2,
        x,
        None,
        h0,
        None,
        w_ih,
        w_hh,
        None,
        None,
        None,
        None,
        None,
        None,
        False,
        False,
        True,
        None,
    )
    given = {
        "dy": torch.randn_like(y), "dh_n": torch.randn(B, H), "saved": saved,
        "lengths": None, "needs": [True, True, False, True, True, True, True],
    }  # fmt: skip

    def run():
        return torch.ops.bptt.recur_backward(
            2, given["dy"], given["dh_n"], None, x, None, h0, None, w_ih, w_hh, given["lengths"],
            None, None, False, False, given["saved"], given["needs"], False, None,
        )  # fmt: skip

    run()
    if wrong == "lengths":
        given["lengths"] = torch.tensor([1, 2, 1 << 40])
    else:
        given[wrong] = given[wrong][:-1]
    with pytest.raises(BpttError):
        run()


def test_the_seam_wants_as_many_states_as_the_cell_has():
    x, weights = (
        torch.randn(T, B, 2),
        tuple(torch.randn(s) for s in ((16, 2), (16, 4), (16,), (16,))),
    )
    with pytest.raises(ShapeError, match=r"\(h0, c0\)"):
        ops.recur("LSTM", x, (torch.randn(B, 4),), weights)


@pytest.mark.own_backend  # Triton's interpreter runs one kernel at a time
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "MinGRU", "LRU"])
def test_threads_may_share_a_layer(kind):
    torch.manual_seed(1)
    layer = getattr(bptt.nn, kind)(3, 8)
    inputs = [torch.randn(9, 2, 3) for _ in range(8)]

    def run(x):
        y, _ = layer(x)
        return y.detach(), torch.autograd.grad(y.sum(), list(layer.parameters()))

    serial = [run(x) for x in inputs]
    found = [None] * len(inputs)
    barrier = threading.Barrier(len(inputs))

    def work(place):
        barrier.wait()
        for _ in range(5):
            found[place] = run(inputs[place])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (y, gradients), (expected, wanted) in zip(found, serial, strict=True):
        assert_close(y, expected, tol=0)
        for mine, theirs in zip(gradients, wanted, strict=True):
            assert_close(mine, theirs, tol=0)


FORKED = """
import os, torch, bptt
from torch.utils.data import DataLoader, Dataset
torch.set_num_threads(2)
gru, x = bptt.nn.GRU(32, 64), torch.randn(50, 16, 32)
gru(x)[0].sum().backward()          # the pool of threads is there now
torch.randn(512, 512) @ torch.randn(512, 512)
expected = gru(x)[0].detach()

class Outputs(Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, place):
        with torch.no_grad():
            return gru(x)[0]

child = os.fork()
if child == 0:
    y, _ = gru(x)
    y.sum().backward()
    os._exit(0 if torch.equal(y, expected) and torch.get_num_threads() == 1 else 1)
assert os.waitpid(child, 0)[1] == 0
for batch in DataLoader(Outputs(), num_workers=1, multiprocessing_context="fork"):
    assert torch.equal(batch[0], expected)
assert torch.get_num_threads() == 2  # the parent's own
print("done")
"""


def test_a_forked_process_does_not_wait_for_threads_it_does_not_have():
    done = subprocess.run(
        [*interpreter(), "-W", "ignore", "-c", FORKED], capture_output=True, text=True, timeout=60,
        check=False, env={**os.environ, "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert done.stdout.strip() == "done", done.stderr[-2000:]


@pytest.mark.parametrize("kind", ["GRU", "MinGRU"])
@pytest.mark.parametrize("sizes", [[3, 9], [9, 3], [-1, 3], [], [3, 2], [3, 4, -2], [2**40, 5]])
def test_a_packed_sequence_that_nobody_packed(kind, sizes):
    """torch's unpacking believes the sizes and writes past its memory."""
    layer = getattr(bptt.nn, kind)(2, 4)
    packed = PackedSequence(torch.randn(6, 2), torch.tensor(sizes, dtype=torch.int64))
    with pytest.raises(ShapeError, match="batch_sizes"):
        layer(packed)


def test_a_stream_refuses_what_is_no_tensor():
    stream = bptt.Stream(nn.GRU(3, 4), 2)
    for call in (
        lambda: stream.step([1.0]),
        lambda: stream.reset([True, False]),
        lambda: setattr(stream, "state", "zero"),
        lambda: stream.step(torch.randn(2, 3, device="meta")),
    ):
        with pytest.raises(BpttError):
            call()
    x = torch.randn(2, 3)
    first = stream.step(x).clone()
    stream.reset()
    assert_close(stream.step(negated(x)), first, tol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("name", ["lengths", "reset", "cut"])
def test_marks_that_a_conversion_would_cut_are_refused(name, dtype):
    given = {name: torch.ones((2,) if name == "lengths" else (4, 2), dtype=dtype)}
    weights = (torch.randn(5, 3), torch.randn(5, 5), None, None)
    with pytest.raises(DtypeError, match=str(dtype)):
        ops.recur("RNN_TANH", torch.randn(4, 2, 3), (torch.zeros(2, 5),), weights, **given)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("form", ["plain", "packed", "both ways", "tokens", "twice"])
def test_a_default_device_does_not_move_the_kernels_memory(kind, form):
    """Memory that is made along the way lies where the tensors lie, not where new ones would."""
    layer = getattr(bptt.nn, kind)(3, H, bidirectional=form == "both ways")
    x = torch.randn(5, 2, 3)
    tokens = torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0], [0, 1]])

    def run():
        layer.zero_grad()
        if form == "tokens":
            y = layer.forward_tokens(tokens, x[0])[0]
        elif form == "packed":
            y = layer(nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3], device="cpu")))[
                0
            ].data
        else:
            y = layer(x)[0]
        if form == "twice":
            first = torch.autograd.grad(y.square().sum(), layer.weight_hh_l0, create_graph=True)[0]
            return y.detach(), torch.autograd.grad(first.sum(), layer.weight_ih_l0)[0]
        y.square().sum().backward()
        return y.detach(), [p.grad.clone() for p in layer.parameters()]

    want = run()
    with torch.device("meta"):
        got = run()
    assert_close(got, want, tol=0)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_a_weight_whose_memory_was_freed_is_refused(kind):
    layer, x = getattr(bptt.nn, kind)(3, H), torch.randn(5, 2, 3)
    layer.weight_hh_l0.untyped_storage().resize_(0)
    with pytest.raises(BpttError, match="storage was freed"):
        layer(x)
    with pytest.raises(BpttError, match="storage was freed"), torch.no_grad():
        layer(x)


@pytest.mark.parametrize("sizes", [(-1, 2, 3, 1), (5, -1, 3, 1), (5, 2, 0, 1), (5, 2, 3, 0)])
def test_sizes_that_are_none_make_no_problem(sizes):
    T, B, H, threads = sizes
    with pytest.raises(ArgumentError, match="T, B >= 0 and H, threads >= 1"):
        extension.Problem(T, B, H, B, 1, 0, 0, 0, False, threads, 0)
    problem = extension.Problem(5, 2, 3, 2, 1, 0, 0, 0, False, 1, 0)
    for cell in (-1, 4):
        with pytest.raises(ArgumentError, match="a cell number"):
            extension.workspace_f32(cell, problem, False)
