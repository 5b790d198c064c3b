"""Whole runs on the CPU and on a second device: the same losses, and each goes on on the other."""

import json
import math
from importlib import import_module

import pytest
import torch

from bptt.cli import main
from bptt.errors import BackendError
from bptt.experiments.compare import Budget
from bptt.experiments.compare.grid import Job
from bptt.experiments.compare.job import run_job
from bptt.experiments.judged import judge_outcome
from bptt.models import LanguageModel
from bptt.models.language import generate
from bptt.ops import device as devices
from bptt.training import Settings, forecast, loop, restore, session, train
from second_device import THERE, SecondDevice, here


@pytest.fixture
def cuda(monkeypatch):
    """The word cuda names the second device."""

    real = devices.choose

    def choose(word):
        return THERE if word == "cuda" else real(word)

    for module in (session, loop, restore, devices):
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


@pytest.mark.parametrize("cell", ["gru", pytest.param("lstm", marks=pytest.mark.slow)])
def test_a_forecast_on_both_devices(cell, cuda, tmp_path, monkeypatch, capsys):
    """The command trains there and keeps a run of the CPU's; what it says next can be said on either."""
    hours = (
        f"2024-03-{1 + t // 24:02}T{t % 24:02}:00,{9 * math.sin(t / 4) + t % 7}" for t in range(300)
    )
    series = tmp_path / "load.csv"
    series.write_text("\n".join(("time,load", *hours)))

    trained, said = [], []
    real = forecast.fit_step
    monkeypatch.setattr(
        forecast,
        "fit_step",
        lambda *a, **k: trained.append(devices.device_of(a[0])) or real(*a, **k),
    )
    for where in ("cpu", "cuda"):
        words = ["forecast", str(series), "--out", str(tmp_path / where), "--device", where]
        more = ["--steps", "6", "--hidden", "4", "--horizon", "3", "--cell", cell, "--json"]
        assert main([*words, *more]) == 0
        said.append(json.loads(capsys.readouterr().out))
    nexts = []
    for where in ("cpu", "cuda"):
        assert main(["sample", str(tmp_path / "cuda"), "--device", where, "--json"]) == 0
        nexts.append(json.loads(capsys.readouterr().out)["forecast"])
    half = len(trained) // 2
    assert trained == [devices.CPU] * half + [THERE] * half
    assert {
        t.device for t in restore.load_forecaster(tmp_path / "cuda")[0].state_dict().values()
    } == {devices.CPU}
    mine, other = ([score["mae"] for score in found["scores"]] for found in said)
    assert other == pytest.approx(mine, rel=1e-4)
    for one, two in zip(*nexts, strict=True):
        assert one["value"] == pytest.approx(two["value"], rel=1e-5)


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


@pytest.mark.slow  # Triton is there where these run
@pytest.mark.parametrize(
    ("environment", "remedy"),
    [(True, "unset BPTT_BACKEND"), (False, r"use set_backend\('auto'\) for this call")],
)
def test_a_backend_that_runs_nothing_here_is_told_before_a_folder_is_made(
    environment, remedy, tmp_path, monkeypatch
):
    monkeypatch.delenv("TRITON_INTERPRET")
    backend = import_module("bptt.ops.backend")  # by name: the package has a function called so
    monkeypatch.setattr(backend, "_setting", "triton")
    monkeypatch.setattr(backend, "_by_environment", environment)
    with pytest.raises(
        BackendError, match=f"runs on cpu, received triton: .*run on a GPU.*: {remedy}$"
    ):
        train(small(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    train(small(tmp_path / "window", model="window"))  # which asks for no recurrence


def test_bfloat16_where_it_is_safe(tmp_path):
    exact, short = (
        train(small(tmp_path / str(amp), amp=amp, device="cpu")) for amp in (False, True)
    )
    one, other = losses(tmp_path / "False"), losses(tmp_path / "True")
    assert other != one
    assert other == pytest.approx(one, rel=0.01)  # eight bits of a product, of which many are added
    assert all(p.dtype == torch.float32 for p in short.model.parameters())
    assert abs(short.valid.nats - exact.valid.nats) < 0.02


@pytest.mark.parametrize("short", [False, True], ids=["measured there", "has no float64"])
def test_a_run_is_judged_the_same_on_both_devices(short, cuda, tmp_path, monkeypatch):
    if short:
        monkeypatch.setattr(devices, "SHORT", {THERE.type})
    found = []
    for where in ("cpu", "cuda"):
        done = train(small(tmp_path / where, device=where))
        found.append(judge_outcome(done))
        assert devices.device_of(done.model) == (THERE if where == "cuda" else devices.CPU)
    mine, other = found
    assert (other.word, other.horizon, other.low, other.high) == (
        mine.word, mine.horizon, mine.low, mine.high,
    )  # fmt: skip
