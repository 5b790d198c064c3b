"""Triton's kernels, in its interpreter on the CPU: outputs and every gradient are the reference's."""

import json
import os
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from torch.utils.flop_counter import FlopCounterMode

import bptt
import over_triton
from bptt import ops
from bptt.errors import ArgumentError, BackendError, ShapeError
from bptt.ops import eager, triton
from cases import random_case
from compare import assert_close
from ops.test_against_reference import CELLS, TOL32, TOL64, check, solve
from processes import interpreter

# The interpreter runs a kernel line by line in NumPy, some milliseconds a step: sizes are small.
pytestmark = [pytest.mark.slow, pytest.mark.own_backend]
SIZES = [
    (1, 1, 1, 1),
    (4, 3, 2, 5),
    (3, 17, 3, 17),
]  # T, B, I, H: one, odd, more than a tile of each


@pytest.fixture(autouse=True)
def _light(monkeypatch):
    over_triton.lighten(monkeypatch)


@pytest.fixture
def asked():
    ops.set_backend("triton")
    yield
    ops.set_backend("auto")


def marked(case, seed, cut=True):
    rng = np.random.default_rng(seed)
    T, B = case.x.shape[:2]
    return replace(
        case,
        lengths=rng.integers(0, T + 1, B),
        reset=rng.random((T, B)) < 0.3,
        cut=rng.random((T, B)) < 0.3 if cut else None,
    )


@pytest.fixture(params=["one launch", "a launch a step", "tiles of units"])
def launches(request, monkeypatch):
    """Weights on the chip; or not, and then a step is a launch, of one tile of units or of several."""
    if request.param != "one launch":
        monkeypatch.setattr(triton, "ON_CHIP", 0)
    if request.param == "tiles of units":
        monkeypatch.setattr(triton, "TILE", 16)
    return request.param


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_and_gradients_are_the_references(cell, size, monkeypatch):
    poison(monkeypatch)
    case = random_case(cell, *size, seed=3)
    check(triton.recur, case, torch.float64, TOL64)
    check(triton.recur, marked(case, 4), torch.float64, TOL64)
    check(triton.recur, marked(case, 5), torch.float32, TOL32, batch_major=True)


def poison(monkeypatch):
    """Whatever is made without a value holds NaN: what a kernel does not write is seen."""

    def full(make):
        def made(*a, **k):
            tensor = make(*a, **k)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return made

    monkeypatch.setattr(torch.Tensor, "new_empty", full(torch.Tensor.new_empty))
    monkeypatch.setattr(torch, "empty_like", full(torch.empty_like))


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("cell", CELLS)
def test_backwards_in_time_it_is_the_loop(cell):
    def reverse(way):
        return lambda *call, **marks: way(*call, **{**marks, "reverse": True})

    case = marked(random_case(cell, 4, 3, 2, 5, seed=1), 2)
    expected = solve(reverse(eager.recur), case)
    for name, value in solve(reverse(triton.recur), case).items():
        assert_close(value, expected[name], TOL64, name, floor=0.1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_layers_run_on_them_when_asked(kind, bias, asked):
    """Two layers, both directions, marks; and packed: as on the kernels of the CPU."""
    torch.manual_seed(0)
    layer = getattr(bptt.nn, kind)(3, 4, 2, bidirectional=True, bias=bias).double()
    x = torch.randn(4, 3, 3).double()
    marks = {"lengths": torch.tensor([4, 0, 2]), "cut": torch.rand(4, 3) < 0.3}
    packed = pack_sequence([torch.randn(n, 3).double() for n in (4, 2, 1)])
    found = {}
    for backend in ("triton", "auto"):
        ops.set_backend(backend)
        y, _ = layer(x, **marks)
        grads = torch.autograd.grad(y.square().sum(), list(layer.parameters()))
        rows = layer(packed)[0].data
        assert ops.backend().runs == ("triton" if backend == "triton" else "native")
        found[backend] = [y, *grads, rows]
    for one, other in zip(*found.values(), strict=True):
        assert_close(one, other, TOL64, floor=0.1)


@pytest.mark.parametrize("marks", ["none", "all"])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_second_derivatives_are_the_loops(kind, marks, asked):
    """Also of a sum, whose cotangent has no gradient of its own: a penalty on dL/dx needs no more."""
    torch.manual_seed(0)
    layer = getattr(bptt.nn, kind)(3, 4).double()
    x = torch.randn(4, 3, 3).double().requires_grad_()
    given = {"lengths": torch.tensor([4, 0, 2]), "reset": torch.rand(4, 3) < 0.3}
    found = {}
    for backend in ("triton", "eager"):
        ops.set_backend(backend)
        y, final = layer(x, **(given if marks == "all" else {}))
        assert ops.backend().runs == backend
        loss = y.sum() + torch.stack(final if kind == "LSTM" else (final,)).square().sum()
        (dx,) = torch.autograd.grad(loss, x, create_graph=True)
        found[backend] = [dx, *torch.autograd.grad(dx.square().sum(), (x, *layer.parameters()))]
    for one, other in zip(*found.values(), strict=True):
        assert_close(one, other, TOL64, floor=0.1)


def test_what_lies_in_the_padding_is_not_read(asked):
    torch.manual_seed(0)
    layer = bptt.nn.GRU(3, 4)
    x = torch.randn(5, 2, 3)
    x[3:, 1] = float("nan")
    y, h = layer(x, lengths=torch.tensor([5, 3]))
    grads = torch.autograd.grad(y.sum() + h.sum(), list(layer.parameters()))
    assert all(bool(t.isfinite().all()) for t in (y, h, *grads))
    assert bool((y[3:, 1] == 0).all())


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_bfloat16_goes_in_and_float32_adds_up(kind, asked):
    """Weights and input rounded to eight bits; states inside are not rounded from step to step."""
    torch.manual_seed(0)
    layer = getattr(bptt.nn, kind)(8, 16).to(torch.bfloat16)
    x = torch.randn(6, 2, 8).to(torch.bfloat16)
    y, _ = layer(x)
    exact = getattr(bptt.nn, kind)(8, 16).double()
    exact.load_state_dict({k: v.double() for k, v in layer.state_dict().items()})
    ops.set_backend("auto")
    expected, _ = exact(x.double())
    assert y.dtype == torch.bfloat16
    # One rounding of the state before each product and one of the input's product: 2^-9 each, of numbers
    # of order one, and a last one of the output.
    assert_close(y.double(), expected, 3 * 2**-8, floor=1.0)


@pytest.mark.parametrize(
    ("cell", "units", "size", "held"),
    [("RNN_TANH", 128, 4, True), ("RNN_TANH", 256, 4, False), ("GRU", 64, 4, True), ("GRU", 65, 4, False),
     ("LSTM", 64, 4, True), ("LSTM", 128, 2, True), ("LSTM", 256, 2, False)],
)  # fmt: skip
def test_what_lies_on_the_chip(cell, units, size, held):
    dtype = {4: torch.float32, 2: torch.bfloat16}[size]
    weight = torch.empty(1, dtype=dtype).expand(units, units)
    assert triton.holds(cell, weight, 1000) == held
    assert not triton.holds(cell, weight, 2**31)  # more than can be counted


COMPILED = """
import itertools, json, sys
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from bptt.ops import triton as ours
from bptt.ops.triton import gru, lstm, rnn

found = []
for (module, cell), name, held in itertools.product(
    ((rnn, "RNN_TANH"), (gru, "GRU"), (lstm, "LSTM")), ("forward", "backward"), (True, False)
):
    function = getattr(module, name)
    fixed = {"RELU": False, "REVERSE": True, "MARKED": True, "BIAS": True, "HELD": held,
             "ACC": tl.float32, "BB": 16, "HP": 32}
    names = function.arg_names
    kinds = {"marks": "*u8", **dict.fromkeys(("T", "B", "H"), "i32")}
    kinds |= dict.fromkeys(set(fixed) & set(names), "constexpr")
    constants = {(names.index(n),): v for n, v in fixed.items() if n in names}
    source = ASTSource(function, {n: kinds.get(n, "*fp32") for n in names}, constants)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    found.append([cell, name, held, len(made.asm["cubin"]), made.metadata.shared,
                  ours.shared_bytes(cell, 32, 4)])
print(json.dumps(found))
"""


def test_they_compile_for_a_gpu(tmp_path):
    """Without one: Triton's compiler and NVIDIA's assembler, which come with it, take every kernel."""
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [*interpreter(), "-W", "ignore", "-c", COMPILED], capture_output=True, text=True, timeout=600,
        env={**variables, "TRITON_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 12
    for *_, held, size, shared, bound in found:
        assert size > 0
        assert shared <= (bound if held else 0)


WRONG = {
    "w_hh (24, 8)": {"w_hh": torch.randn(21, 8)},
    "w_hh (21, 7)": {"w_hh": torch.randn(20, 7)},
    "x (T, B, I)": {"x": torch.randn(2, 3)},
    "w_ih (21, 4)": {"x": torch.randn(2, 3, 4)},
    "b_hh (21,)": {"b_hh": torch.randn(20)},
    "h0 (3, 7)": {"h0": torch.zeros(1, 7)},
    "lengths (3,)": {"lengths": torch.tensor([1])},
    "reset (2, 3)": {"reset": torch.zeros(2, 1, dtype=torch.bool)},
    "cut (2, 3)": {"cut": torch.zeros(3, 2, dtype=torch.bool)},
}


@pytest.mark.parametrize("expected", WRONG)
def test_nothing_wrong_reaches_a_pointer(expected, asked):
    call = {
        "x": torch.randn(2, 3, 5), "h0": torch.zeros(3, 7), "w_hh": torch.randn(21, 7),
        "b_hh": torch.randn(21), **WRONG[expected],
    }  # fmt: skip
    marks = {name: call.get(name) for name in ("lengths", "reset", "cut")}
    weights = (torch.randn(21, 5), call["w_hh"], torch.randn(21), call["b_hh"])
    with pytest.raises(ShapeError) as told:
        ops.recur("GRU", call["x"], (call["h0"],), weights, **marks)
    assert str(told.value).startswith(f"expected {expected}, received ")


def test_a_weight_whose_memory_was_freed_is_refused(asked):
    layer = bptt.nn.GRU(3, 4)
    layer.weight_hh_l0.untyped_storage().resize_(0)
    with pytest.raises(ArgumentError, match="storage was freed"):
        layer(torch.randn(2, 1, 3))


@pytest.mark.parametrize("launches", ["one launch", "a launch a step"], indirect=True)
@pytest.mark.parametrize(("cell", "gates"), [("RNN_TANH", 1), ("GRU", 3), ("LSTM", 4)])
def test_memory_may_have_gaps(cell, gates, launches):
    """Every tensor in turn lies as memory seldom does; kernels read one element behind the other."""
    T, B, I, H = 2, 2, 2, 5
    shapes = {
        "x": (T, B, I), "h": (B, H), "c": (B, H), "w_ih": (gates * H, I), "w_hh": (gates * H, H),
        "b_ih": (gates * H,), "b_hh": (gates * H,), "dy": (T, B, H), "dh": (B, H), "dc": (B, H),
        "reset": (T, B), "cut": (T, B),
    }  # fmt: skip
    drawn = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}

    def solved(t):
        leaves = [t[name].detach().requires_grad_() for name in list(shapes)[:7]]
        x, h, c, *weights = leaves
        state, ended = (h, c)[: 1 + (cell == "LSTM")], (t["dh"], t["dc"])
        marks = {name: t[name] > 0.7 for name in ("reset", "cut")}
        y, final = triton.recur(cell, x, state, tuple(weights), **marks)
        outputs, cotangents = (y, *final), (t["dy"], *ended[: len(final)])
        return *outputs, *torch.autograd.grad(outputs, [x, *state, *weights], cotangents)

    expected = solved(drawn)
    for name, tensor in drawn.items():
        apart = torch.stack([tensor, tensor + 1], -1)[..., 0]
        assert not apart.is_contiguous()
        for one, other in zip(solved({**drawn, name: apart}), expected, strict=True):
            assert_close(one, other, 1e-14, name)  # torch's own products may add in another order


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("mark", ["lengths", "reset", "cut"])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_nothing_passes_a_mark_where_a_weight_is_infinite(kind, mark, asked):
    """Zero times infinity is NaN: what stops a cotangent has to stand behind the product."""
    given = {
        "lengths": torch.tensor([4, 0]),
        "reset": torch.ones(4, 2) > 0,
        "cut": torch.ones(4, 2) > 0,
    }
    found = []
    for backend in ("triton", "native"):
        ops.set_backend(backend)
        torch.manual_seed(0)
        layer = getattr(bptt.nn, kind)(3, 5)
        with torch.no_grad():
            layer.weight_hh_l0[1, 1] = float("inf")
        x, state = torch.randn(4, 2, 3), torch.zeros(1, 2, 5)
        leaves = [t.requires_grad_() for t in (x, state)]
        hx = (state, torch.zeros(1, 2, 5)) if kind == "LSTM" else state
        y, _ = layer(x, hx, **{mark: given[mark]})
        found.append(torch.autograd.grad(y[..., 3].nan_to_num().sum(), leaves))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.isnan(), other.isnan())
    assert found[1][1].isnan().sum() < state.numel()


@pytest.mark.parametrize("size", [1e-2, 1e-5, 1e-8])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_small_numbers_keep_their_digits(kind, size, asked):
    """Without a bias the states are as small as the input, and so is what a rounding may be."""
    layer = getattr(bptt.nn, kind)(3, 5, bias=False)
    x = size * torch.randn(4, 2, 3)
    found = layer(x)[0]
    ops.set_backend("eager")
    expected = layer.double()(x.double())[0]
    assert_close(found, expected, 1e-6, floor=0, check_dtype=False)  # some roundings of 1.2e-7


@pytest.mark.parametrize(
    ("word", "so"),
    [
        *((yes, True) for yes in ("1", "true", "True", "ON", "yes", "y")),
        *((no, False) for no in ("0", "off", "no", "2", "")),
    ],
)
def test_the_word_for_the_interpreter_is_tritons(word, so, monkeypatch):
    from triton import knobs

    monkeypatch.setenv("TRITON_INTERPRET", word)
    assert triton.interpreted() == knobs.runtime.interpret == so


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_what_is_infinite_stays_in_its_unit(kind, asked):
    """The tile is wider than the layer. Infinity times the zeros there is NaN, and reached every unit."""
    found = {}
    for backend in ("triton", "auto"):
        ops.set_backend(backend)
        torch.manual_seed(0)
        options = {"nonlinearity": "relu"} if kind == "RNN" else {}
        layer = getattr(bptt.nn, kind)(3, 5, **options)
        with torch.no_grad():
            layer.weight_hh_l0.uniform_(0.1, 0.5)  # no zero of its own to meet
        x = torch.randn(4, 2, 3).requires_grad_()
        state = torch.zeros(1, 2, 5)
        state[0, 0, 1] = float("inf")
        y, _ = layer(x, (state, torch.zeros(1, 2, 5)) if kind == "LSTM" else state)
        weight = torch.ones_like(y)
        weight[2, 0, 3] = float("inf")
        grads = torch.autograd.grad((y * weight).sum(), (x, *layer.parameters()))
        found[backend] = [torch.where(t.isnan(), 2, t.isinf() * t.sign()) for t in (y, *grads)]
    assert found["auto"][0].eq(0).any()  # not every unit, or nothing would be told apart
    assert any(kinds.ne(0).any() for kinds in found["auto"])
    for one, other in zip(*found.values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("cell", "rows"), [("RNN_RELU", 4), ("GRU", 12), ("LSTM", 16)])
def test_opcheck(cell, rows):
    x, w_ih, w_hh, b_ih, b_hh, h, c = (
        torch.randn(s, dtype=torch.float64, requires_grad=True)
        for s in ((3, 2, 2), (rows, 2), (rows, 4), (rows,), (rows,), (2, 4), (2, 4))
    )
    marks = torch.randint(1, 8, (3, 2), dtype=torch.uint8)
    call = (cell, False, marks, x, w_ih, w_hh, b_ih, b_hh, h, c if cell == "LSTM" else None)
    torch.library.opcheck(torch.ops.bptt.triton_recur.default, call)


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize(
    "how", [{}, {"is_grads_batched": True}, {"create_graph": True}], ids=["once", "batch", "twice"]
)
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_a_backward_pass_inside_autocast_is_the_one_outside(kind, how, asked):
    """Forward ran in full precision. What rounds products around backward is not obeyed."""
    layer = getattr(bptt.nn, kind)(3, 4)
    x = torch.randn(4, 2, 3, requires_grad=True)
    y = layer(x)[0]
    dy = torch.randn(2, *y.shape) if "is_grads_batched" in how else torch.randn(y.shape)

    def gradients():
        leaves = [x, *layer.parameters()]
        return torch.autograd.grad(y, leaves, dy, retain_graph=True, **how)

    outside = gradients()
    with torch.autocast("cpu", torch.bfloat16):
        inside = gradients()
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_torch_counts_what_they_multiply(kind, asked):
    layer, x = getattr(bptt.nn, kind)(3, 5), torch.randn(4, 2, 3, requires_grad=True)
    states = [torch.randn(1, 2, 5, requires_grad=True) for _ in range(1 + (kind == "LSTM"))]
    counted = []
    for backend in ("triton", "auto"):
        ops.set_backend(backend)
        with FlopCounterMode(display=False) as counter:
            layer(x, tuple(states) if kind == "LSTM" else states[0])[0].sum().backward()
        counted.append(counter.get_total_flops())
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    # Two products of an input and a state forward, each with two of its own backward.
    assert counted == [3 * 2 * 4 * 2 * gates * 5 * (3 + 5)] * 2


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_they_compile_without_graph_breaks(kind, asked):
    layer = getattr(bptt.nn, kind)(2, 5, num_layers=2)
    x, marks = torch.randn(4, 3, 2, requires_grad=True), {"reset": torch.rand(4, 3) < 0.3}
    results = []
    with torch._dynamo.config.patch(allow_rnn=True):
        for run in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
            y = run(x, **marks)[0]
            results.append((y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])))
    assert ops.backend().runs == "triton"
    for one, other in zip(*results, strict=True):
        assert_close(one, other, TOL32)


def test_what_they_do_not_cover_is_said(asked, monkeypatch):
    layer = bptt.nn.LSTM(3, 5, proj_size=2)
    with pytest.raises(BackendError, match="projected states"):
        layer(torch.randn(2, 1, 3))
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(BackendError, match="run on a GPU, and x is on cpu"):
        bptt.nn.GRU(3, 4)(torch.randn(2, 1, 3))
    monkeypatch.setattr(triton, "missing", "the package triton is not installed")
    with pytest.raises(BackendError, match="the package triton is not installed"):
        ops.set_backend("triton")
    with pytest.raises(ArgumentError, match="triton"):
        ops.set_backend("tritone")
