"""The operators as torch sees them: schema, fake, autograd, compile, export, autocast, backend."""

import subprocess
import sys
import warnings

import pytest
import torch
import torch._dynamo.config

import bptt
import over_triton
from bptt import ops
from bptt.errors import ArgumentError, BackendError, BpttError
from bptt.ops import native
from compare import assert_close

MODES = ["RNN_TANH", "RNN_RELU", "GRU", "LSTM"]
GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "GRU": 3, "LSTM": 4}
T, B, I, H = 4, 3, 2, 5


@pytest.fixture(autouse=True)
def _restored():
    before = ops.backend().setting
    yield
    ops.set_backend(before)


def problem(mode, dtype=torch.float64):
    rows = GATES[mode] * H
    shapes = [(rows, I), (rows, H), (rows,), (rows,)]
    weights = [torch.randn(s, dtype=dtype, requires_grad=True) for s in shapes]
    count = 2 if mode == "LSTM" else 1
    state = [torch.randn(B, H, dtype=dtype, requires_grad=True) for _ in range(count)]
    return torch.randn(T, B, I, dtype=dtype, requires_grad=True), state, weights


def marks():
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[2, 1] = True
    return {"lengths": torch.tensor([4, 3, 1]), "reset": reset}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("marked", [False, True])
def test_gradcheck_on_the_kernel(mode, marked):
    x, state, weights = problem(mode)

    def run(x, *rest):
        state_, weights_ = rest[: len(state)], rest[len(state) :]
        y, final = native.recur(mode, x, state_, weights_, **(marks() if marked else {}))
        return (y, *final)

    assert torch.autograd.gradcheck(run, (x, *state, *weights))


# From torch 2.14 on its own checker reads .grad of the views that it makes, and is warned of it.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("with_tokens", [False, True])
def test_opcheck(mode, with_tokens):
    x, state, weights = problem(mode)
    w_ih, *rest = weights
    tokens = None
    if with_tokens:
        x, w_ih = torch.randn(7, GATES[mode] * H, dtype=torch.float64, requires_grad=True), None
        tokens = torch.randint(7, (T, B))
    m = marks()
    c0 = state[1] if mode == "LSTM" else None
    arguments = (MODES.index(mode), x, tokens, state[0], c0, w_ih, *rest)
    arguments += (m["lengths"], m["reset"], None, None, False, False, True, None)
    torch.library.opcheck(torch.ops.bptt.recur.default, arguments)


@pytest.mark.parametrize("mode", MODES)
def test_second_derivatives(mode):
    x, state, weights = problem(mode)

    def run(x):
        return native.recur(mode, x, [s.detach() for s in state], [w.detach() for w in weights])[0]

    assert torch.autograd.gradgradcheck(run, (x,))


@pytest.mark.parametrize("kind", [bptt.nn.RNN, bptt.nn.GRU, bptt.nn.LSTM])
def test_torch_func_goes_to_the_eager_path(kind):
    layer = kind(I, H, dtype=torch.float64)
    xs = torch.randn(6, T, B, I, dtype=torch.float64)
    mapped = torch.func.vmap(lambda x: layer(x)[0])(xs)
    assert_close(mapped, torch.stack([layer(x)[0] for x in xs]), 1e-12)
    jacobian = torch.func.jacrev(lambda x: layer(x)[0])(xs[0])
    assert_close(jacobian, torch.autograd.functional.jacobian(lambda x: layer(x)[0], xs[0]), 1e-12)


@pytest.mark.parametrize("kind", [bptt.nn.RNN, bptt.nn.GRU, bptt.nn.LSTM])
def test_export(kind):
    layer = kind(I, H)
    x = torch.randn(T, B, I)
    exported = torch.export.export(layer, (x,))
    assert_close(exported.module()(x)[0], layer(x)[0], 1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_the_operator_compiles_without_graph_breaks(mode):
    x, state, weights = problem(mode)

    def run(x, state, weights):
        return ops.recur(mode, x, state, weights, **marks())[0]

    results = []
    for function in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        y = function(x, tuple(state), tuple(weights))
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, *state, *weights])))
    assert_close(results[1], results[0], 1e-12)


@pytest.mark.parametrize("kind", [bptt.nn.RNN, bptt.nn.GRU, bptt.nn.LSTM])
@torch._dynamo.config.patch(allow_rnn=True)  # else the compiler refuses torch's classes by type
def test_layers_compile_without_graph_breaks(kind):
    layer = kind(I, H, num_layers=2)
    x = torch.randn(T, B, I, requires_grad=True)
    # aot_eager: the whole of the capture, without a C++ compiler's minutes.
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for run in (layer, compiled):
        y = run(x)[0]
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])))
    assert_close(results[1], results[0], 1e-6)


@pytest.mark.own_backend  # Triton's kernels cover no call under autocast
def test_autocast_runs_the_kernel_in_single_precision(monkeypatch):
    # As on every processor without fast products in bfloat16.
    monkeypatch.setattr("bptt.ops.native.seam.multiplies_bf16", lambda: False)
    layer, x = bptt.nn.GRU(I, H), torch.randn(T, B, I)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = layer(x.bfloat16())
    # Rounded once, at the end, and to torch's dtype.
    assert_close(y, layer(x.bfloat16().float())[0].bfloat16(), 0.0)
    assert ops.backend().runs == "native"
    assert "in float32 under autocast" not in ops.backend().why
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x)
        assert "in float32 under autocast" in ops.backend().why


def test_backend_says_which_and_why():
    assert native.missing is None, "the tests need the compiled kernels"
    ops.set_backend("auto")
    layer = bptt.nn.GRU(I, H)
    layer(torch.randn(T, B, I))
    assert ops.backend().runs == over_triton.KERNELS
    layer.half()(torch.randn(T, B, I).half())
    assert ops.backend().runs == "eager"
    assert "float16" in ops.backend().why


def test_an_explicit_backend_never_falls_back():
    ops.set_backend("native")
    with pytest.raises(BackendError, match="float16"):
        bptt.nn.GRU(I, H).half()(torch.randn(T, B, I).half())
    with pytest.raises(ArgumentError, match="one of auto, native, triton, eager"):
        ops.set_backend("fast")


@pytest.mark.parametrize(
    "change",
    [
        {"x": torch.randn(T, B, I + 1)},
        {"x": torch.randn(T, I)},
        {"h": torch.randn(B, H + 1)},
        {"w_hh": torch.randn(3 * H, H + 1)},
        {"w_hh": torch.randn(3 * H + 1, H)},
        {"b": torch.randn(H)},
        {"lengths": torch.tensor([-1, 1, 2])},
        {"lengths": torch.tensor([5, 1, 2])},
        {"lengths": torch.tensor([1, 2])},
        {"reset": torch.zeros(B, T, dtype=torch.bool)},
        {"reset": torch.zeros(T, B)},
        {"x": torch.randn(T, B, I).double()},
    ],
    ids=lambda c: next(iter(c)),
)
def test_nothing_wrong_reaches_a_pointer(change):
    values = {
        "x": torch.randn(T, B, I), "h": torch.randn(B, H), "w_ih": torch.randn(3 * H, I),
        "w_hh": torch.randn(3 * H, H), "b": torch.randn(3 * H), "lengths": None, "reset": None,
    }  # fmt: skip
    values |= change
    with pytest.raises(BpttError):
        native.recur(
            "GRU",
            values["x"],
            (values["h"],),
            (values["w_ih"], values["w_hh"], values["b"], values["b"]),
            lengths=values["lengths"],
            reset=values["reset"],
        )


def test_tensors_that_lie_oddly_in_memory():
    layer = bptt.nn.LSTM(I, H)
    x = torch.randn(T, B, I)
    expected = layer(x)[0]
    wide = torch.randn(T, B, 2 * I)
    wide[..., ::2] = x
    odd = [wide[..., ::2], x.permute(2, 1, 0).contiguous().permute(2, 1, 0), x.flip(0).flip(0)]
    for value in odd:
        assert_close(layer(value)[0], expected, 1e-6)
    same = torch.randn(1, 1, I).expand(T, B, I)
    assert_close(layer(same)[0], layer(same.contiguous())[0], 1e-6)


@pytest.mark.parametrize("isa", native.isas())
def test_every_instruction_set_of_this_machine(isa):
    code = (
        "import torch, bptt; torch.manual_seed(0)\n"
        "from bptt.ops import native, set_backend\n"
        f"assert native.isa() == {isa!r}, native.isa()\n"
        "for dtype, tol in ((torch.float32, 2e-6), (torch.float64, 1e-13)):\n"
        "    for kind in (bptt.nn.RNN, bptt.nn.GRU, bptt.nn.LSTM):\n"
        "        layer = kind(5, 33, num_layers=2, bidirectional=True, dtype=dtype)\n"
        "        x = torch.randn(6, 7, 5, dtype=dtype)\n"
        "        results = []\n"
        "        for backend in ('native', 'eager'):\n"
        "            set_backend(backend); y = layer(x)[0]\n"
        "            results.append([y, *torch.autograd.grad(y.sum(), list(layer.parameters()))])\n"
        "        for a, b in zip(*results):\n"
        "            assert (a - b).abs().max() <= tol * b.abs().max().clamp(min=1), (kind, dtype)\n"
    )
    import os

    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "BPTT_ISA": isa}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_without_the_extension_everything_runs_and_it_is_said_once():
    code = (
        "import sys, warnings; sys.modules['bptt._native'] = None\n"
        "import torch, bptt\n"
        "with warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(3): bptt.nn.GRU(2, 3)(torch.randn(4, 1, 2))\n"
        "assert len(said) == 1, said\n"
        "assert 'plain torch' in str(said[0].message)\n"
        "assert bptt.ops.backend().runs == 'eager'\n"
        "try: bptt.ops.set_backend('native')\n"
        "except bptt.errors.BackendError: pass\n"
        "else: raise SystemExit('fell back in silence')\n"
    )
    with warnings.catch_warnings():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
