"""Dropout from a key: the numbers are Threefry's, masks repeat, gradients meet them, threads and
instruction sets change nothing."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bptt import ops
from bptt.ops import native
from compare import assert_close, assert_equal


def threefry(key, counters):
    """Threefry-2x32, 20 rounds, as the paper writes it."""
    mask = np.uint64(0xFFFFFFFF)
    ks = [np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)]
    ks.append(ks[0] ^ ks[1] ^ np.uint64(0x1BD11BDA))
    x0 = (np.uint64(counters) & mask) + ks[0] & mask
    x1 = (np.uint64(counters) >> np.uint64(32)) + ks[1] & mask
    turns = (13, 15, 26, 6), (17, 29, 16, 24)
    for i in range(5):
        for r in turns[i % 2]:
            x0 = x0 + x1 & mask
            x1 = (x1 << np.uint64(r) | x1 >> np.uint64(32 - r)) & mask ^ x0
        x0 = x0 + ks[(i + 1) % 3] & mask
        x1 = x1 + ks[(i + 2) % 3] + np.uint64(i + 1) & mask
    return x0, x1


def numbers(key, n):
    """The first n numbers of 16 bits of a key."""
    groups = -(-n // 64)
    x0, x1 = threefry(key, np.arange(groups * 16, dtype=np.uint64).reshape(groups, 16))
    low = np.uint64(0xFFFF)
    halves = [x0 & low, x0 >> np.uint64(16), x1 & low, x1 >> np.uint64(16)]
    return np.stack(halves, 1).reshape(-1)[:n]


def test_the_reference_gives_the_published_numbers():
    found = threefry(0, np.zeros(1, np.uint64))
    assert [int(x[0]) for x in found] == [0x6B200159, 0x99BA4EFE]
    full = np.full(1, 0xFFFFFFFFFFFFFFFF, np.uint64)
    assert [int(x[0]) for x in threefry(0xFFFFFFFFFFFFFFFF, full)] == [0x1CB996FC, 0xBB002BE7]


@given(
    key=st.integers(0, 2**62 - 1),
    n=st.integers(1, 300),
    threshold=st.integers(1, 65535),
)
def test_the_mask_is_the_keys_numbers(key, n, threshold):
    x = torch.randn(n)
    keep = torch.tensor(numbers(key, n).astype(np.int64) >= threshold)
    expected = torch.where(keep, x * float(np.float32(65536 / (65536 - threshold))), 0.0)
    assert_equal(native.dropout(x, threshold, key), expected)


def test_threads_change_nothing():
    x, before = torch.randn(65, 33, 101), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(native.dropout(x, 20000, 7))
    finally:
        torch.set_num_threads(before)
    assert_equal(found[1], found[0])
    assert_equal(found[2], found[0])
    keep = numbers(7, x.numel()) >= 20000
    assert_equal((found[0] != 0).flatten().numpy(), keep & (x.flatten() != 0).numpy())


PRINT = """
import hashlib, torch
from bptt.ops import native
y = native.dropout(torch.arange(1.0, 1000.0), 30000, 12345678901234567)
print(hashlib.sha256(y.numpy().tobytes()).hexdigest())
"""


def test_every_instruction_set_drops_the_same():
    found = set()
    for isa in native.isas():
        done = subprocess.run(
            [sys.executable, "-c", PRINT], env={**os.environ, "BPTT_ISA": isa}, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()
        found.add(done.stdout)
    assert len(found) == 1


def test_the_generator_decides_and_is_moved_by_one_draw():
    x = torch.ones(40, 30)
    torch.manual_seed(5)
    first, second = ops.dropout(x, 0.5), ops.dropout(x, 0.5)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    assert_equal(ops.dropout(x, 0.5), first)
    state = torch.get_rng_state()
    assert_equal(ops.dropout(x, 0.5), second)
    assert_equal(torch.get_rng_state(), after)
    torch.set_rng_state(state)
    assert_equal(ops.dropout(x, 0.5), second)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert ops.dropout(x, 0.0) is x
    assert ops.dropout(x, 0.5, training=False) is x
    assert_equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_shares_and_expectation(p):
    torch.manual_seed(0)
    n = 200_000
    y = ops.dropout(torch.ones(n), p)
    dropped = (y == 0).double().mean().item()
    assert abs(dropped - p) < 5 * (p * (1 - p) / n) ** 0.5 + 2**-16
    assert abs(y.double().mean().item() - 1) < 5 * (p / (1 - p) / n) ** 0.5
    # No neighbour knows of another.
    z = (y == 0).double() - dropped
    for lag in (1, 2, 16, 64):
        assert abs((z[lag:] * z[:-lag]).mean() / z.square().mean()) < 5 / n**0.5


def test_gradients_meet_the_same_mask():
    torch.manual_seed(1)
    x = torch.randn(7, 5, requires_grad=True)
    y = ops.dropout(x, 0.4)
    (mask,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    assert_close(y, x * mask, 0.0)
    # Twice: the mask times what comes, which depends on x here.
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, retain_graph=True)
    assert_close(second, 2 * mask * mask, 1e-6)
    cotangents = torch.randn(3, 7, 5)
    (many,) = torch.autograd.grad(y, x, cotangents, is_grads_batched=True)
    assert_close(many, cotangents * mask, 0.0)


def test_what_is_dropped_is_zero_whatever_it_was():
    x = torch.tensor([float("inf"), float("nan")] * 50)
    y = native.dropout(x, 32768, 3)
    keep = torch.tensor(numbers(3, 100).astype(np.int64) >= 32768)
    assert (y[~keep] == 0).all()
    assert not y[keep].isfinite().any()


@pytest.mark.parametrize("make", [
    lambda: torch.ones(8, 4, dtype=torch.float64), lambda: torch.ones(8, 4).bfloat16(),
    lambda: torch.ones(8, 0), lambda: torch.ones(()), lambda: torch.ones(6, 8).t()[::2],
    lambda: torch.ones(8, 4, device="meta"),
])  # fmt: skip
def test_whatever_goes_in_keeps_its_shape_and_dtype(make):
    x = make()
    y = ops.dropout(x, 0.5)
    assert (y.shape, y.dtype, y.device) == (x.shape, x.dtype, x.device)
    if x.numel() and not x.is_meta:
        assert set(y.flatten().tolist()) <= {0.0, 2.0}


def test_transforms_take_torchs():
    x = torch.randn(3, 4)
    found = torch.func.grad(lambda x: ops.dropout(x, 0.5).sum())(x)
    assert set(found.flatten().tolist()) <= {0.0, 2.0}
