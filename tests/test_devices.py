"""Everything that runs on the CPU runs on a second device, on which a tensor of the CPU is an error.

The device is :mod:`second_device`'s, whose numbers are real: results are compared. On torch's own
``meta`` device, which has no numbers, only what reads none can be walked: layers, forward and backward.
"""

import ast
import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree

import bptt
from bptt import gradients, remedies
from bptt.errors import ArgumentError
from bptt.experiments.compare import Budget
from bptt.experiments.compare.grid import Job
from bptt.experiments.compare.job import run_job
from bptt.experiments.trials import diagnose
from bptt.models import AttentionModel, LanguageModel, WindowModel, token_loss
from bptt.models.language import generate
from bptt.ops import device as devices
from bptt.probes import (
    capacity,
    jacobian_products,
    lag_spectrum,
    lyapunov_spectrum,
    saturation,
    state_gradients,
)
from bptt.recurrence import trace
from bptt.training import Settings, distributed, loop, restore, session, train
from bptt.training.fit import fit_step
from second_device import THERE, SecondDevice, There, here, there

SOURCE = Path(bptt.__file__).parent
CELLS = ("rnn", "rnn-relu", "gru", "lstm", "mingru", "lru")
ESTIMATORS = {
    "full": gradients.Full(),
    "truncated": gradients.Truncated(4),
    "windowed": gradients.Windowed(3, 7),
    "checkpointed": gradients.Checkpointed(3),
    "adaptive": gradients.Adaptive(0.05),
    "randomized": gradients.Randomized(3, 0.5),
    "forward": gradients.ForwardMode(),
    "uoro": gradients.ForwardMode("uoro"),
}


# A rule of the house: a tensor is made where it is said to be, and a number is read where that is known.

MAKES = {
    "zeros", "ones", "empty", "full", "arange", "tensor", "as_tensor", "eye", "rand", "randn", "randint",
    "randperm", "linspace", "logspace", "triu_indices", "tril_indices", "scalar_tensor",
}  # fmt: skip
READS = {"item", "tolist", "numpy", "cpu"}
# Rooms that see the tensors of a model that may lie anywhere.
ROOMS = (
    "ops", "nn", "recurrence", "probes", "gradients", "remedies", "models", "training", "integrations",
)  # fmt: skip
# How often each file reads a number, and why it has to.
READ = {
    "integrations/torchrl.py": (1, "a packed batch has its sizes on the CPU"),
    "models/counts.py": (2, "a count table, which lies on the CPU"),
    "models/language.py": (
        3,
        "the next token, drawn on the CPU; a piece of the text as ids, read there",
    ),
    "nn/inputs.py": (
        2,
        "torch packs by lengths on the CPU; sizes of a packed batch, which lie there",
    ),
    "ops/loss.py": (
        3,
        "a score of a whole text; whether the cotangent of a scalar is 1, on the CPU",
    ),
    "ops/native/check.py": (1, "lengths in a message; the kernels run on the CPU"),
    "ops/split.py": (1, "the marks, in one transfer"),
    "probes/flow.py": (4, "the table of a spectrum, which lies on the CPU"),
    "probes/graded_spectrum.py": (1, "the K of a table"),
    "probes/guard/call_rules.py": (2, "where padding is, beside the lengths of the user's"),
    "probes/guard/loop.py": (1, "the norms of a few gradients, which a threshold is held against"),
    "probes/guard/observe.py": (1, "the norm that a clip returned"),
    "probes/jacobians.py": (7, "products, svd and qr of small matrices in float64, for a table"),
    "probes/lag_spectrum.py": (1, "norms by step, for a table"),
    "probes/on_text.py": (3, "what is drawn"),
    "probes/spectrum.py": (2, "the table itself, which lies on the CPU"),
    "probes/states.py": (2, "histograms, for a table"),
    "probes/verdict.py": (1, "the table of a spectrum, which lies on the CPU"),
    "recurrence/graded.py": (5, "norms by lag decide what is followed on"),
    "recurrence/layers.py": (1, "torch packs by lengths on the CPU"),
    "recurrence/unrolled.py": (1, "sizes of a packed batch, which lie on the CPU"),
    "remedies/adaptive_clipping.py": (2, "the norm that the threshold is made of"),
    "training/checkpoint.py": (1, "what is written is the same from every device"),
    "training/distributed.py": (9, "bytes between processes"),
    "training/evaluate.py": (4, "tokens of the text, as characters"),
    "training/expected.py": (1, "a number in a message"),
    "training/forecast.py": (6, "a small network on the CPU; NumPy does what is around it"),
    "training/fit.py": (3, "loss and norm, which decide whether there is an update"),
    "training/randomness.py": (4, "states of Python's and NumPy's generators"),
    "training/update.py": (2, "the table of a horizon, for the metrics"),
}


def faults(tree):
    """Calls that make a tensor and do not say where; a module's own parameters are torch's to place."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}

    def is_held(node):
        while node is not None and not isinstance(node, ast.stmt):
            node = parents.get(node)
            called = node.func if isinstance(node, ast.Call) else None
            if getattr(called, "attr", "") in ("Parameter", "register_buffer"):
                return True
        return False

    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        of_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
        said = any(word.arg in ("device", None) for word in node.keywords)
        if of_torch and node.func.attr in MAKES and not said and not is_held(node):
            yield f"line {node.lineno}: torch.{node.func.attr} without device="
        if of_torch and node.func.attr == "Generator" and not node.args and not said:
            yield f"line {node.lineno}: torch.Generator without a device"


def reads(tree):
    return sum(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in READS
        and not node.args
        for node in ast.walk(tree)
    )


FILES = sorted(path for room in ROOMS for path in (SOURCE / room).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_no_tensor_is_made_or_read_on_the_cpu_by_habit(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert list(faults(tree)) == []
    allowed = READ.get(path.relative_to(SOURCE).as_posix(), (0, ""))[0]
    assert reads(tree) == allowed, "a number is read; if it has to be, say why in READ"


@pytest.mark.parametrize(
    "text", ["torch.zeros(3)", "torch.tensor([1])", "x + torch.arange(4)", "torch.Generator()"]
)
def test_what_is_made_by_habit_is_found(text):
    assert list(faults(ast.parse(text)))
    assert reads(ast.parse("float(x.item())")) == 1


# The same on both devices.


def both(make, run):
    """What ``run(model, to)`` returns on the CPU and on the second device, and that it is the same."""
    torch.manual_seed(0)
    model = make()
    found = []
    with SecondDevice():
        for one, to in ((model, lambda value: value), (there(copy.deepcopy(model)), there)):
            torch.manual_seed(1)
            found.append(_pytree.tree_leaves(plain(run(one, to))))
    placed = [isinstance(leaf, There) for leaf in found[1]]
    for mine, other in zip(*(here(leaves) for leaves in found), strict=True):
        if isinstance(mine, (str, bool)) or mine is None:
            assert other == mine
        elif isinstance(mine, torch.Tensor):
            torch.testing.assert_close(other, mine, rtol=1e-3, atol=1e-4, equal_nan=True)
        else:
            assert other == pytest.approx(mine, rel=1e-3, abs=1e-5, nan_ok=True)
    return placed


def plain(value):
    """A nest of numbers and tensors out of whatever was measured."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [plain(getattr(value, f.name)) for f in dataclasses.fields(value)]
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return [plain(v) for v in value.values()]
    known = isinstance(value, (torch.Tensor, int, float, str)) or value is None
    return value.detach() if isinstance(value, torch.Tensor) else value if known else None


TOKENS, TARGETS = torch.randint(7, (8, 2)), torch.randint(7, (8, 2))
RESET = torch.rand(8, 2) < 0.2
X, Y = torch.randn(9, 3, 3), torch.randn(9, 3, 4)


def differentiated(estimator, **marks):
    def run(model, to):
        given = {name: to(mark) for name, mark in marks.items()}
        step = estimator.backward(model, to(TOKENS), to(TARGETS), None, token_loss, **given)
        return step.loss, step.carry, step.terms, step.depth, [p.grad for p in model.parameters()]

    return run


def pairs():
    """Every estimator on a GRU and every cell under truncation; all others take longer."""
    for name in ESTIMATORS:
        for cell in CELLS:
            slow = name != "truncated" and (cell != "gru" or name in ("forward", "uoro"))
            yield pytest.param(name, cell, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("name", "cell"), [*pairs()])
def test_every_estimator_and_cell(name, cell):
    model = LanguageModel(7, cell, hidden=3)
    # One measures, and two go step by step: with marks these are slow, and walk no other code.
    marks = {} if name in ("adaptive", "forward", "uoro") else {"reset": RESET}
    placed = both(lambda: model, differentiated(ESTIMATORS[name], **marks))
    assert placed[0], "the loss lies on the device"
    assert all(placed[-len(list(model.parameters())) :])


@pytest.mark.parametrize("reset", [None, RESET], ids=["plain", "reset"])
def test_the_other_models(reset):
    marks = {} if reset is None else {"reset": reset}
    run = differentiated(ESTIMATORS["full"], **marks)
    both(lambda: WindowModel(7, hidden=5, layers=1, embedding=3, window=3), run)
    both(lambda: AttentionModel(7, layers=1, width=8, context=6), run)


class Loop(nn.Module):
    """A cell in a loop, perhaps with something between its steps."""

    def __init__(self, kind, between):
        super().__init__()
        self.cell, self.between = kind(3, 4), nn.LayerNorm(4) if between else nn.Identity()

    def forward(self, x):
        state, outputs = None, []
        for now in x:
            new = self.cell(now, state)
            state = (self.between(new[0]), new[1]) if isinstance(new, tuple) else self.between(new)
            outputs.append(state[0] if isinstance(new, tuple) else state)
        return torch.stack(outputs)


class First(nn.Module):
    """A layer's outputs alone."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


WATCHED = {
    "torch": lambda: First(nn.GRU(3, 4)),
    "stacked": lambda: First(bptt.nn.LSTM(3, 4, 2)),
    "both ways": lambda: First(bptt.nn.GRU(3, 2, bidirectional=True)),
    "mingru": lambda: First(bptt.nn.MinGRU(3, 4)),
    "lru": lambda: First(bptt.nn.LRU(3, 4)),
    "cell": lambda: Loop(nn.GRUCell, False),
    "graded": lambda: Loop(nn.LSTMCell, True),
    "graded rnn": lambda: Loop(nn.RNNCell, True),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in ("torch", "graded", "cell") else pytest.mark.slow)
        for n in WATCHED
    ],
)
def test_watch_on_layers_cells_and_any_graph(name):
    def run(model, to):
        with bptt.watch(model, lanes=2) as flow:
            F.mse_loss(model(to(X)), to(Y)).backward()
        return flow.method, flow.horizon, flow.spectrum

    both(WATCHED[name], run)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "lru", "graded"])
def test_a_diagnosis(name):
    both(WATCHED[name], lambda model, to: diagnose(model, (to(X), to(Y)), F.mse_loss, k=5))


@pytest.mark.parametrize(
    "kind",
    [nn.RNN, bptt.nn.GRU, nn.LSTM, bptt.nn.MinGRU, bptt.nn.LRU, nn.GRUCell],
    ids=lambda k: k.__name__,
)
def test_every_probe(kind):
    def run(model, to):
        one = trace(model, to(X))[0]
        direct = tuple(torch.ones_like(after) for after in one.after)
        found = [state_gradients(one, direct), lag_spectrum(one, direct), capacity(one, lags=2)]
        found += [jacobian_products(one, lags=3, count=4), lyapunov_spectrum(one)]
        return (
            found if "LRU" in kind.__name__ or "Min" in kind.__name__ else [*found, saturation(one)]
        )

    both(lambda: kind(3, 4), run)


@pytest.mark.parametrize(
    "form", ["none", "norm:0.1", "value:0.01", "rescale", "auto", "z", "unit:0.01"]
)
def test_every_clip(form):
    def run(model, to):
        F.mse_loss(model(to(X))[0], to(Y)).backward()
        seen = remedies.build_clip(form)(list(model.parameters()))
        return seen, [p.grad for p in model.parameters()]

    both(lambda: nn.GRU(3, 4), run)


@pytest.mark.parametrize("form", ["omega:1", "floss:1"])
@pytest.mark.parametrize("hold", [False, True])
def test_every_penalty_and_a_held_matrix(form, hold):
    def run(model, to):
        model = remedies.hold_orthogonal(model) if hold else model
        descent = torch.optim.SGD(model.parameters(), lr=0.1)
        penalties = () if hold else (remedies.build_regulariser(form),)
        batch = to(X), to(Y)
        fit_step(model, descent, batch, gradients.Truncated(5), F.mse_loss, penalties=penalties)
        return list(model.parameters())

    both(lambda: bptt.nn.RNN(3, 4), run)


@pytest.mark.parametrize(
    "form",
    ["small", "gaussian", "identity", "orthogonal", "np", "radius:0.9", "norm:0.9", "chrono:20",
     "forget:1"],
)  # fmt: skip
def test_every_start(form):
    def run(model, to):
        remedies.start_recurrent(model, form)
        return list(model.parameters())

    assert all(both(lambda: bptt.nn.LSTM(3, 4), run))


@pytest.mark.filterwarnings("ignore::bptt.errors.LoopWarning")
def test_the_guard():
    def run(model, to):
        descent, state = torch.optim.SGD(model.parameters(), lr=0.1), None
        with bptt.guard(model, descent) as guard:
            for _ in range(6):
                descent.zero_grad()
                y, state = model(to(X), state)
                state = state.detach()
                F.mse_loss(y, to(Y)).backward()
                descent.step()
                guard.lengths([9, 3, 7])
        return [finding.code for finding in guard.findings], state

    both(lambda: bptt.nn.GRU(3, 4), run)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "MinGRU", "LRU"])
def test_layers_on_the_device_that_has_no_numbers(kind):
    layer = getattr(bptt.nn, kind)(3, 4).to("meta")
    for marks in ({}, {"reset": torch.zeros(5, 2, dtype=torch.bool, device="meta")}):
        y, _ = layer(torch.empty(5, 2, 3, device="meta"), **marks)
        y.sum().backward()
        assert y.is_meta
        assert y.shape == (5, 2, 4)
        assert all(p.grad.is_meta for p in layer.parameters())


# Runs.


@pytest.fixture
def cuda(monkeypatch):
    """The word cuda names the second device."""

    def choose(word):
        return THERE if word == "cuda" else devices.choose(word)

    for module in (session, loop, restore):
        monkeypatch.setattr(module, "choose", choose)
    with SecondDevice():
        yield


def small(folder, **changes):
    text = folder.parent / "text.txt"
    text.write_text("a rose is a rose is a rose, and so on; " * 12, encoding="utf-8")
    options = {"hidden": 4, "batch": 3, "k": 6, "steps": 4, "dropout": 0.0, "seed": 1, "threads": 1}
    more = {"files": (str(text),), "log_every": 1, "horizon_every": 10, "eval_every": 2}
    return Settings(out=str(folder), **{**options, **more, **changes})


def losses(run):
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


RUNS = [
    {},
    {"cell": "lstm", "layers": 2, "gradient": "windowed", "clip": "auto:10", "steps": 11},
    {"cell": "lru", "optimizer": "sgd", "lr": 0.1, "partition": "random"},
    {"regularise": "omega:1", "gradient": "adaptive", "sample_every": 2},
    {"model": "attention", "hidden": 8, "layers": 1},
    {"model": "ngram", "order": 3},
]


@pytest.mark.parametrize(
    "changes", [RUNS[0], *(pytest.param(r, marks=pytest.mark.slow) for r in RUNS[1:])], ids=str
)
def test_a_run_is_the_same_on_both_devices(changes, cuda, tmp_path):
    mine = train(small(tmp_path / "cpu", device="cpu", **changes))
    other = train(small(tmp_path / "cuda", device="cuda", **changes))
    # The kernels and plain torch round otherwise, and AdamW divides the difference by its own size;
    # another chunk, mask or carry would show in the second digit.
    assert losses(tmp_path / "cuda") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-4)
    assert other.valid.nats == pytest.approx(mine.valid.nats, rel=1e-4)
    where = {t.device for t in (*other.model.parameters(), *other.model.buffers())}
    assert where == {torch.device("cpu") if "order" in changes else THERE}


@pytest.mark.parametrize("first", ["cpu", pytest.param("cuda", marks=pytest.mark.slow)])
def test_a_run_goes_on_on_another_device(first, cuda, tmp_path):
    """Weights, optimiser, carry and position in the text: the loss curve of a run that never moved."""
    then = {"cpu": "cuda", "cuda": "cpu"}[first]
    same = {"lr": 0.003, "decay": "none", "warmup": 0.0}
    train(small(tmp_path / "whole", device=first, **same))
    train(small(tmp_path / "moved", device=first, **{**same, "steps": 2}))
    train(small(tmp_path / "moved", device=then, **same), resume=tmp_path / "moved")
    assert losses(tmp_path / "moved") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    model, vocabulary, _ = restore.load_model(tmp_path / "moved", "cuda")
    assert devices.device_of(model) == THERE
    written = [
        "".join(generate(m, vocabulary, length=8, seed=3)) for m in (model, here_model(model))
    ]
    assert written[0] == written[1]


def here_model(model):
    """A copy on the CPU."""
    made = LanguageModel(model.vocabulary_size, hidden=4)
    made.load_state_dict({name: here(value) for name, value in model.state_dict().items()})
    return made


def test_a_comparison_on_both_devices():
    job = Job(
        "adding",
        6,
        "gru",
        "default",
        "norm:1",
        "none",
        "truncated:3",
        "none",
        0,
        Budget(4, 4, 4, every=2),
    )
    with SecondDevice():
        mine, other = (run_job(job, where) for where in ("cpu", THERE.type))
    assert other["error"] is None
    assert other["score"] == pytest.approx(mine["score"], rel=1e-4)


# The first losses of three runs, as the release before had them: no option of theirs names a device.
FIXED = {
    "gru": ({}, 4.644391059875488, 4.299258885590742),
    "windowed": ({"gradient": "windowed", "cell": "rnn"}, 4.644391059875488, 4.221430061639559),
    "lru": ({"cell": "lru"}, 4.644391059875488, 4.097768305737487),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "gru" else pytest.mark.slow) for n in FIXED]
)
def test_the_cpu_is_what_it_was(name, tmp_path):
    changes, first, last = FIXED[name]
    options = {"hidden": 16, "batch": 4, "k": 16, "steps": 30, "seed": 1, "threads": 1}
    every = {"log_every": 1, "horizon_every": 10, "eval_every": 10}
    found = []
    for where in ("cpu", "auto"):
        out = str(tmp_path / where)
        done = train(Settings(out=out, device=where, **options, **every, **changes))
        found.append((losses(tmp_path / where), done.valid.nats))
    if not torch.cuda.is_available():
        assert found[0] == found[1]
    assert found[0][0][0] == pytest.approx(first, rel=1e-6)
    # Sums in another order, on another processor, part in the sixth place after thirty updates.
    assert found[0][1] == pytest.approx(last, rel=1e-4)


def test_bfloat16_where_it_is_safe(tmp_path):
    exact, short = (
        train(small(tmp_path / str(amp), amp=amp, device="cpu")) for amp in (False, True)
    )
    one, other = losses(tmp_path / "False"), losses(tmp_path / "True")
    assert other != one
    assert other == pytest.approx(one, rel=0.01)  # eight bits of a product, of which many are added
    assert all(p.dtype == torch.float32 for p in short.model.parameters())
    assert abs(short.valid.nats - exact.valid.nats) < 0.02


# Words, and what is said where a device is not here.


@pytest.mark.parametrize("word", ["gpu", "cuda:", "cuda:x", "CUDA", "", "mps:0", "cuda:-1", 3])
def test_other_words_are_refused(word):
    for read in (devices.choose, lambda w: Settings(device=w)):
        with pytest.raises(
            ArgumentError, match="expected auto, cpu, cuda, cuda:N or mps for --device"
        ):
            read(word)


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many GPUs."""

    def of(gpus, build="12.8", current=0):
        monkeypatch.setattr(torch.version, "cuda", build)
        monkeypatch.setattr(torch.version, "hip", None, raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: current)

    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return of


@pytest.mark.parametrize(
    ("build", "said"), [(None, "a build without CUDA"), ("12.8", r"built for CUDA 12\.8")]
)
@pytest.mark.parametrize("word", ["cuda", "cuda:1"])
def test_cuda_that_is_not_here(word, build, said, machine):
    machine(0, build)
    with pytest.raises(
        ArgumentError, match=rf"--device {word}, received torch \S+, {said}; torch\.cuda\.is_ava"
    ):
        devices.choose(word)
    assert devices.choose("auto") == torch.device("cpu")


def test_mps_that_is_not_here():
    with pytest.raises(
        ArgumentError, match=r"an Apple GPU for --device mps, received torch .* is False: use"
    ):
        devices.choose("mps")
    with pytest.raises(ArgumentError, match="cpu or cuda beside --amp for --device, received mps"):
        Settings(device="mps", amp=True)


def test_which_gpu(machine, monkeypatch):
    machine(2, current=1)
    assert [devices.choose(w).index for w in ("auto", "cuda", "cuda:0")] == [1, 1, 0]
    with pytest.raises(ArgumentError, match="number 5 for --device cuda:5, received 2 GPUs"):
        devices.choose("cuda:5")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert [devices.choose(w).index for w in ("auto", "cuda")] == [0, 0]
    with pytest.raises(ArgumentError, match="received --device cuda:1: leave the number out"):
        devices.choose("cuda:1")
    machine(1)
    assert devices.choose("auto") == torch.device("cpu")
    with pytest.raises(
        ArgumentError, match=r"a GPU for each process.*received 2 processes and 1 GPUs"
    ):
        devices.choose("cuda")
    with pytest.raises(ArgumentError, match="for several processes, received --device mps"):
        devices.choose("mps")


@pytest.mark.parametrize(("where", "backend"), [("cpu", "gloo"), ("cuda:1", "nccl")])
def test_processes_meet_where_they_train(where, backend, monkeypatch):
    """gloo on the CPU; nccl on CUDA, and on the process's own GPU."""
    said = []
    for name in distributed.TORCHRUN:
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda name, **_: said.append(name))
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed.dist, "get_backend", lambda: said[-1])
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_device", said.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with distributed.joined(torch.device(where)) as group:
        assert group.device == where
    assert said == ([backend] if backend == "gloo" else [torch.device("cuda:1"), backend])
