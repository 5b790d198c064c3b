"""Products in bfloat16: error bounds against float64, dtypes, and the same bits on every instruction set.

``native.recur`` takes x in bfloat16 beside float32 weights on every machine; where the instructions are
missing, others make the same numbers.
"""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bptt
from bptt import ops
from bptt.ops import native
from cases import NAMES, cases, leaves, oracle, random_case
from compare import assert_close

CELLS = {"rnn_tanh": "RNN_TANH", "rnn_relu": "RNN_RELU", "gru": "GRU", "lstm": "LSTM"}
# Each factor is off by 2⁻⁹ of itself at most, each term by 2⁻⁸, and what is kept by 2⁻⁹ again. Sums of
# such terms, of either sign, are off by a few units of 2⁻⁸ of the largest result.
BOUND = 8 * 2**-8
# A number rounded to bfloat16 on its way out.
OUTPUT = 2**-8


def rounded(case):
    """The case with an x that bfloat16 holds."""
    return replace(case, x=torch.tensor(case.x).bfloat16().double().numpy())


def solve(case, **how):
    """Output, final state and every gradient, by name; products in bfloat16."""
    x, state, weights = leaves(case)
    x = x.detach().bfloat16().requires_grad_()
    state = tuple(s.detach().float().requires_grad_() for s in state)
    weights = [w.detach().float().requires_grad_() for w in weights]
    for name in ("lengths", "reset", "cut"):
        mark = getattr(case, name)
        how[name] = None if mark is None else torch.tensor(mark)
    y, final = native.recur(CELLS[case.cell], x, state, tuple(weights), **how)
    total = (y * torch.tensor(case.dy, dtype=y.dtype)).float().sum()
    for s, ds in zip(final, case.dstate, strict=True):
        total = total + (s * torch.tensor(ds, dtype=torch.float32)).sum()
    inputs = [x, *state, *weights]
    grads = torch.autograd.grad(total, inputs, allow_unused=True)
    grads = [torch.zeros_like(v) if g is None else g for g, v in zip(grads, inputs, strict=True)]
    found = {"y": y, "h_n": final[0], "dx": grads[0], "dh0": grads[1]}
    if case.cell == "lstm":
        found |= {"c_n": final[1], "dc0": grads[2]}
    return found | {f"d{name}": g for name, g in zip(NAMES, grads[-4:], strict=True)}


def check(case, **how):
    case = rounded(case)
    found, expected = solve(case, **how), oracle(case)
    for name, value in found.items():
        short = name == "dx" or (name == "y" and case.cell != "gru")
        assert value.dtype == (torch.bfloat16 if short else torch.float32), name
        assert_close(value.detach().double(), expected[name], BOUND, name, floor=1.0)


@given(case=cases())
def test_any_case(case):
    if case.cell == "rnn_relu":  # rounding decides on which side of the kink a unit stands
        case = replace(case, cell="rnn_tanh")
    check(case)


@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "lstm"])
@pytest.mark.parametrize("hidden", [1, 2, 7, 16, 17, 33, 65])
def test_sizes_around_the_edges(cell, hidden):
    rng = np.random.default_rng(hidden)
    for lanes in (1, 5, 13):
        case = random_case(cell, 4, lanes, 3, hidden, seed=hidden)
        check(case)
        lengths = rng.integers(1, 5, size=lanes)
        marks = {name: rng.random((4, lanes)) < 0.2 for name in ("reset", "cut")}
        check(replace(case, lengths=lengths, **marks))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(cell, threads):
    case = random_case(cell, 12, 24, 16, 64, seed=3)
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            found = solve(case)
            # The large products are torch's, who splits their sums as it likes.
            results.append({k: found[k] for k in ("y", "h_n", "dh0", "db_ih", "db_hh")})
    finally:
        torch.set_num_threads(before)
    assert_close(results[1], results[0], 0.0)


# In the cell whose arithmetic is a product, two sums and a comparison, every bit follows from how
# products are rounded.
PRINT_BITS = """
import hashlib, torch
from bptt.ops import native
torch.manual_seed(0)
digest = hashlib.sha256()
for B, H in ((1, 7), (3, 33), (13, 48), (5, 700)):
    weights = [torch.randn(H, 4), torch.randn(H, H) / H**0.5, torch.randn(H), torch.randn(H)]
    x, h0 = torch.randn(6, B, 4).bfloat16(), torch.randn(B, H).requires_grad_()
    xp = torch.randn(6, B, H).bfloat16()
    b = torch.randn(H).requires_grad_()
    y, (h,) = native.recur("RNN_RELU", xp, (h0,), (None, weights[1], b, None))
    for t in (y, h, *torch.autograd.grad(y.float().sum() + h.square().sum(), [h0, b])):
        digest.update(t.detach().float().numpy().tobytes())
print(digest.hexdigest(), native.multiplies_bf16())
"""


def test_every_instruction_set_makes_the_same_bits():
    found = {}
    for isa in native.isas():
        done = subprocess.run(
            [sys.executable, "-c", PRINT_BITS],
            env={**os.environ, "BPTT_ISA": isa},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        bits, multiplies = done.stdout.split()
        assert (multiplies == "True") == isa.endswith("bf16")
        found[isa] = bits
    assert len(set(found.values())) == 1, found


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("form", ["plain", "tokens", "packed", "compiled"])
def test_autocast_takes_it_where_it_is_fast(monkeypatch, kind, form):
    monkeypatch.setattr("bptt.ops.native.seam.multiplies_bf16", lambda: True)
    torch.manual_seed(0)
    layer = getattr(bptt.nn, kind)(5, 20, num_layers=2)
    table, tokens = torch.randn(3, 5, requires_grad=True), torch.randint(3, (6, 4))
    inputs = [table, *layer.parameters()]

    def run():
        if form == "tokens":
            return layer.forward_tokens(tokens, table)[0]
        if form == "packed":
            packed = torch.nn.utils.rnn.pack_padded_sequence(
                table[tokens], torch.tensor([6, 5, 5, 1])
            )
            return layer(packed)[0].data
        if form == "compiled":
            weights = [p for n, p in layer.named_parameters() if n.endswith("l0")]
            state = [torch.zeros(4, 20)] * (2 if kind == "LSTM" else 1)
            mode = "RNN_TANH" if kind == "RNN" else kind

            def call(table):
                return native.recur(mode, table[tokens], state, weights)[0]

            # aot_eager: the whole of the capture, without a C++ compiler's minutes.
            return torch.compile(call, fullgraph=True, backend="aot_eager")(table)
        return layer(table[tokens])[0]

    exact = run()
    with torch.autocast("cpu", torch.bfloat16):
        y = run()
        assert "with products in bfloat16" in ops.backend().why or form == "compiled"
    assert (y.float() - exact).abs().max() > 1e-5, "nothing was rounded"
    assert_close(y.float(), exact, BOUND)
    found = torch.autograd.grad(y.float().square().sum(), inputs, allow_unused=True)
    expected = torch.autograd.grad(exact.square().sum(), inputs, allow_unused=True)
    for f, e in zip(found, expected, strict=True):
        assert (f is None) == (e is None)
        if f is not None:
            assert f.dtype == torch.float32
            assert_close(f, e, BOUND, floor=0.1)


@pytest.mark.parametrize("mode", CELLS.values())
def test_opcheck_and_second_derivatives(mode):
    gates, H = {"GRU": 3, "LSTM": 4}.get(mode, 1), 6
    x = torch.randn(4, 3, 5).bfloat16().requires_grad_()
    weights = [torch.randn(gates * H, n, requires_grad=True) for n in (5, H)]
    biases = [torch.randn(gates * H, requires_grad=True) for _ in range(2)]
    h0 = torch.randn(3, H, requires_grad=True)
    c0 = torch.randn(3, H, requires_grad=True) if mode == "LSTM" else None
    number = list(CELLS.values()).index(mode)
    arguments = (
        number, x, None, h0, c0, *weights, *biases, None, None, None, None, False, False, True, None,
    )  # fmt: skip
    torch.library.opcheck(
        torch.ops.bptt.recur.default,
        arguments,
        test_utils=("test_schema", "test_faketensor"),
    )
    state = (h0,) if c0 is None else (h0, c0)
    y, _ = native.recur(mode, x, state, (*weights, *biases))
    (first,) = torch.autograd.grad(y.float().square().sum(), weights[1], create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert second.dtype == torch.bfloat16
    assert second.isfinite().all()


def test_a_backward_pass_inside_autocast_is_the_one_outside(monkeypatch):
    for fast in (False, True):
        monkeypatch.setattr("bptt.ops.native.seam.multiplies_bf16", lambda fast=fast: fast)
        layer, x = bptt.nn.LSTM(5, 20), torch.randn(6, 4, 5, requires_grad=True)
        results = []
        for inside in (False, True):
            with torch.autocast("cpu", torch.bfloat16):
                loss = layer(x)[0].float().square().sum()
                if inside:
                    results.append(torch.autograd.grad(loss, [x, *layer.parameters()]))
            if not inside:
                results.append(torch.autograd.grad(loss, [x, *layer.parameters()]))
        assert_close(results[1], results[0], 0.0)


@given(value=st.floats(width=32, allow_nan=True, allow_infinity=True))
def test_numbers_are_rounded_as_torch_rounds_them(value):
    # Through an RNN without a recurrence: relu(x) comes out as it went in, rounded.
    if abs(value) < 2.0**-126:
        value = 0.0
    h0, w = torch.tensor([[value]]), torch.zeros(1, 1)
    zeros = torch.zeros(1, 1, 1, dtype=torch.bfloat16)
    bias = torch.tensor([value])
    y, _ = native.recur("RNN_RELU", zeros, (torch.zeros_like(h0),), (None, w, bias, None))
    expected = torch.tensor(value).relu().bfloat16()
    assert y.item() == expected.item() or (y.isnan().all() and expected.isnan())
