"""What runs on a GPU: there where there is one, else on the CPU, so that the tests themselves are tried.

    TRITON_INTERPRET=0 python -m pytest tests/gpu

What they compare with is the same call in float64 on the CPU, which answers to the reference. Without a
GPU Triton's kernels are interpreted.
"""

import copy
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import bptt
from bptt import ops
from bptt.errors import BackendError
from bptt.models import LanguageModel, token_loss
from bptt.ops import split, triton
from bptt.ops.device import seed_device
from bptt.training import Settings, train
from bptt.training.restore import load_model
from compare import assert_close

pytestmark = pytest.mark.gpu
GPU = torch.cuda.is_available()
PLACE = "cuda" if GPU else "cpu"
interpreted = pytest.mark.slow  # where there is no GPU: milliseconds a step
TOL = 2e-4  # float32 sums of some hundred terms, TF32 off
KINDS = ("RNN", "GRU", "LSTM")


@pytest.fixture(autouse=True)
def exact():
    """TF32 rounds products to eleven bits."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    ops.set_backend("auto")


@pytest.fixture(autouse=True, scope="session")
def compiled():
    """Triton decides when it is imported; on a GPU an interpreter is not what is to be tried."""
    assert triton.interpreted() != GPU, "expected TRITON_INTERPRET=0 on a GPU: set it"


def marks(kind, T, B):
    source = torch.Generator("cpu").manual_seed(1)
    lengths = torch.randint(0, T + 1, (B,), generator=source)
    mark = torch.rand(T, B, generator=source) < 0.2
    return {
        "none": {}, "lengths": {"lengths": lengths}, "reset": {"reset": mark}, "cut": {"cut": mark},
        "all": {"lengths": lengths, "reset": mark, "cut": mark.roll(1, 0)},
    }[kind]  # fmt: skip


def solved(layer, x, given, device, dtype):
    layer = copy.deepcopy(layer).to(device, dtype)
    x = x.to(device, dtype).requires_grad_()
    y, final = layer(x, **{name: mark.to(device) for name, mark in given.items()})
    ended = final if isinstance(final, tuple) else (final,)
    loss = y.square().sum() + sum(s.sum() for s in ended)
    return [y, *ended, *torch.autograd.grad(loss, [x, *layer.parameters()])]


def same(layer, x, given, dtype=torch.float32, tol=TOL):
    expected = solved(layer, x, given, "cpu", torch.float64)
    found = solved(layer, x, given, PLACE, dtype)
    for mine, other in zip(found, expected, strict=True):
        assert mine.device.type == PLACE
        assert_close(mine.double().cpu(), other, tol, floor=0.1)


@pytest.mark.parametrize("given", ["none", "lengths", "reset", "cut", "all"])
@pytest.mark.parametrize("hidden", [5, 64, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_with_and_without_marks(kind, hidden, given):
    torch.manual_seed(0)
    layer = getattr(bptt.nn, kind)(7, hidden, 2, bidirectional=True)
    same(layer, torch.randn(19, 21, 7), marks(given, 19, 21))
    runs = ops.backend().runs
    if not GPU:
        assert runs == "native"
        return
    held = triton.holds(layer.mode, layer.weight_hh_l0.to("cuda"), 19 * 21)
    if given in ("cut", "all") or (given != "none" and held):
        assert runs == "triton"
    elif given != "none":
        assert runs == "torch"


@interpreted
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_tritons_kernels_by_name(kind, dtype, held, monkeypatch):
    if not held:
        monkeypatch.setattr(triton, "ON_CHIP", 0)
    torch.manual_seed(0)
    layer = getattr(bptt.nn, kind)(7, 40)
    if dtype == torch.bfloat16:  # the same weights for both: rounded once
        layer = layer.to(dtype).float()
    ops.set_backend("triton")
    x = torch.randn(12, 33, 7).to(dtype).float()
    given = marks("all", 12, 33)
    found = solved(layer, x, given, PLACE, dtype)
    assert ops.backend().runs == "triton"
    ops.set_backend("auto")
    expected = solved(layer, x, given, "cpu", torch.float64)
    for mine, other in zip(found, expected, strict=True):
        assert_close(mine.double().cpu(), other, TOL if dtype == torch.float32 else 6e-2, floor=1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_split_by_itself(kind):
    torch.manual_seed(0)
    layer = getattr(bptt.nn, kind)(7, 40)
    mode, x, given = layer.mode, torch.randn(12, 9, 7), marks("all", 12, 9)
    del given["cut"]
    expected = layer.double()(x.double(), **given)[0]
    weights = tuple(p.float().to(PLACE) for p in layer.parameters())
    state = tuple(torch.zeros(9, 40, device=PLACE) for _ in range(1 + (kind == "LSTM")))
    there = {name: mark.to(PLACE) for name, mark in given.items()}
    y, _ = split.recur(mode, x.to(PLACE), state, weights, **there)
    assert_close(y.double().cpu(), expected, TOL, floor=0.1)


def test_native_kernels_are_refused_by_name():
    ops.set_backend("native")
    there = PLACE if GPU else "meta"
    with pytest.raises(BackendError, match="run on the CPU"):
        bptt.nn.GRU(3, 4).to(there)(torch.randn(2, 1, 3, device=there))


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "mingru", "lru"])
def test_a_language_model_and_its_gradient_in_evaluation_mode(cell):
    torch.manual_seed(0)
    model = LanguageModel(11, cell, hidden=24, layers=2).eval()
    tokens, targets = torch.randint(11, (30, 5)), torch.randint(11, (30, 5))
    found = []
    for device, dtype in (("cpu", torch.float64), (PLACE, torch.float32)):
        one = copy.deepcopy(model).to(device, dtype)
        loss = token_loss(one(tokens.to(device))[0], targets.to(device))
        grads = torch.autograd.grad(loss, list(one.parameters()))
        found.append([loss.double().cpu(), *(g.double().cpu() for g in grads)])
    for mine, other in zip(found[1], found[0], strict=True):
        assert_close(mine, other, TOL, floor=0.01)


@pytest.mark.parametrize(
    "layer", [torch.nn.GRU(3, 8), bptt.nn.LSTM(3, 8), bptt.nn.LRU(3, 8)], ids=str
)
def test_watch(layer):
    torch.manual_seed(0)
    x, target = torch.randn(40, 3, 3), torch.randn(40, 3, 8)
    horizons = []
    for device in ("cpu", PLACE):
        one = copy.deepcopy(layer).to(device)
        with bptt.watch(one) as flow:
            F.mse_loss(one(x.to(device))[0], target.to(device)).backward()
        horizons.append(flow.spectrum.measured_bias)
    assert_close(horizons[1], horizons[0], 1e-2, floor=0.1)


def losses(run):
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


def small(folder, **changes):
    options = {
        "hidden": 24,
        "batch": 4,
        "k": 16,
        "steps": 20,
        "log_every": 1,
        "eval_every": 10,
        "seed": 1,
    }
    more = {"horizon_every": 10, "decay": "none", "warmup": 0.0, "threads": 1}
    return Settings(out=str(folder), **{**options, **more, **changes})


def test_a_run_goes_on_on_the_other_device(tmp_path):
    """Without dropout both devices have the same curve, and a run may move between them."""
    whole = train(small(tmp_path / "cpu", device="cpu", dropout=0.0))
    other = train(small(tmp_path / "there", device=PLACE, dropout=0.0))
    assert next(other.model.parameters()).device.type == PLACE
    assert losses(tmp_path / "there") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-3)
    assert other.valid.nats == pytest.approx(whole.valid.nats, rel=1e-3)
    for n, (first, then) in enumerate((("cpu", PLACE), (PLACE, "cpu"))):
        place = tmp_path / str(n)
        train(small(place, device=first, dropout=0.0, steps=10))
        train(small(place, device=then, dropout=0.0), resume=place)
        assert losses(place) == pytest.approx(losses(tmp_path / "cpu"), rel=1e-3)
        assert load_model(place, PLACE)[0].output.weight.device.type == PLACE


def test_dropout_goes_on_where_it_stopped(tmp_path):
    """The masks are the GPU's own, and its generator's state is in the checkpoint."""
    train(small(tmp_path / "whole", device=PLACE, dropout=0.5))
    train(small(tmp_path / "parts", device=PLACE, dropout=0.5, steps=10))
    seed_device(torch.device(PLACE), 99)
    train(small(tmp_path / "parts", device=PLACE, dropout=0.5), resume=tmp_path / "parts")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def test_bfloat16_where_it_is_safe(tmp_path):
    for amp in (False, True):
        train(small(tmp_path / str(amp), device=PLACE, dropout=0.0, amp=amp))
    one, other = losses(tmp_path / "False"), losses(tmp_path / "True")
    assert other != one
    assert other == pytest.approx(one, rel=0.03)


@interpreted
def test_the_script_agrees(monkeypatch):
    """benchmarks/gpu.py checks before it times; here it only checks."""
    place = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("gpu_script", place)
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)  # where its dataclasses look themselves up
    spec.loader.exec_module(script)
    for marked in script.MARKS:
        problem = script.Problem("GRU", 64, 16, 20, marked, torch.float32, torch.device(PLACE))
        rows = list(script.compare(problem, lambda run: 1.0, float("inf")))
        assert not [row for row in rows if "WRONG" in row], rows
        assert any(" auto " in row for row in rows), rows
