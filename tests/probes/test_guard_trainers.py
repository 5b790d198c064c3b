"""A guard over loops that others wrote: ``bptt train`` with every estimator, sb3-contrib, TorchRL."""

import copy
import dataclasses
import io
import json
import warnings

import pytest
import torch
from torch import nn

import bptt
from bptt.cli import main
from bptt.models import LanguageModel
from bptt.report import write_run_report
from bptt.training import RunFolder, train
from small_runs import small

TEXT = "a guard that is quiet, and one that is not.\n" * 60


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def findings(run):
    return [r["finding"]["code"] for r in RunFolder(run).read_metrics() if "finding" in r]


WAYS = {
    "truncated": {},
    "full": {"gradient": "full", "k": 16},
    "windowed": {"gradient": "windowed"},
    "checkpointed": {"gradient": "checkpointed", "k": 16},
    "adaptive": {"gradient": "adaptive"},
    "randomized": {"gradient": "randomized"},
    "forward": {"gradient": "forward", "cell": "rnn", "hidden": 6},
    "random chunks": {"partition": "random"},
    "lstm": {"cell": "lstm", "layers": 2},
    "lru": {"cell": "lru", "clip": 20.0},  # its gradient is longer: 1 would cut every update
    "sgd": {"optimizer": "sgd", "lr": 0.5},
    "clip by value": {"clip": "value:0.01"},
    "rescale": {"clip": "rescale:1"},
    "auto": {"clip": "auto:10"},
    "not clipped": {"clip": "none"},
    "penalty": {"regularise": "omega:1"},
    "a model without a recurrence": {"model": "window"},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_healthy_run_of_every_kind_is_quiet(way, text, tmp_path) -> None:
    options = {"steps": 130, "horizon_every": 40} | WAYS[way]
    with warnings.catch_warnings():
        warnings.simplefilter("error", bptt.LoopWarning)
        done = train(small(text, tmp_path, **options))
    assert findings(done.run) == []
    assert all(
        0 <= r["norm_clipped"] <= r["norm"] * 1.0001 or way == "rescale"
        for r in RunFolder(done.run).read_metrics()
        if "norm" in r
    )


def test_a_faulty_run_is_told_in_the_log_and_on_the_page(text, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    words = [text, "--out", str(out), "--hidden", "8", "--k", "8", "--batch", "4", "--sample", "0"]
    assert main(["train", *words, "--steps", "110", "--clip", "1e-6"]) == 0
    assert "docs/mistakes.md#always-clipped" in capsys.readouterr().out
    assert findings(out) == ["always-clipped"]
    (line,) = [r for r in RunFolder(out).read_metrics() if "finding" in r]
    assert "1e-06" in line["finding"]["seen"]
    assert "always-clipped, update" in write_run_report(out).read_text("utf-8")
    again = tmp_path / "quiet"
    words[2] = str(again)
    assert main(["train", *words, "--steps", "110", "--clip", "1e-6", "--no-guard"]) == 0
    assert findings(again) == []
    assert "guard = false" in (again / "config.toml").read_text()
    assert main(["train", "--resume", str(again), "--steps", "230", "--guard"]) == 0
    assert findings(again) == ["always-clipped"]


def lines(run):
    left_out = ("seconds", "tokens_per_second")
    return [
        {k: v for k, v in record.items() if k not in left_out}
        for record in RunFolder(run).read_metrics()
        if "finding" not in record
    ]


@pytest.mark.parametrize("cell", ["gru", "lru"])
def test_no_bit_of_a_run_changes_and_none_where_it_goes_on(cell, text, tmp_path) -> None:
    settings = small(text, tmp_path, "whole", cell=cell, dropout=0.2, eval_every=30)
    whole = train(settings)
    without = train(dataclasses.replace(settings, out=str(tmp_path / "without"), guard=False))
    half = dataclasses.replace(settings, out=str(tmp_path / "half"), decay="none", warmup=0.0)
    steady = dataclasses.replace(half, out=str(tmp_path / "steady"))
    train(dataclasses.replace(half, steps=30))
    train(half, resume=half.out)
    train(steady)
    assert lines(whole.run) == lines(without.run)
    assert lines(half.out) == lines(steady.out)
    names = [f"step-60/{name}.safetensors" for name in ("model", "training")]
    for one, other in (("whole", "without"), ("half", "steady")):
        for name in names:
            here, there = (tmp_path / run / "checkpoints" / name for run in (one, other))
            assert here.read_bytes() == there.read_bytes(), (one, name)


def test_a_checkpoint_without_the_clipped_norms_goes_on(text, tmp_path) -> None:
    done = train(small(text, tmp_path, steps=31, log_every=10))
    file = RunFolder(done.run).checkpoints / "step-31" / "state.json"
    state = json.loads(file.read_text())
    found = state if "tally" in state else state["state"]
    assert found["tally"].pop("norms_clipped") > 0
    from bptt.training.session import _as_now

    assert _as_now(found)["tally"]["norms_clipped"] == found["tally"]["norms"]


def test_layers_that_take_tokens_are_seen_and_given_back() -> None:
    torch.manual_seed(0)
    model = LanguageModel(11, hidden=8)
    optimizer, text = torch.optim.SGD(model.parameters(), 0.1), torch.randint(11, (401, 2))

    def run():
        h = None
        for i in range(0, 400, 20):
            optimizer.zero_grad()
            logits, h = model(text[i : i + 20], h)
            nn.functional.cross_entropy(
                logits.flatten(0, 1), text[i + 1 : i + 21].flatten()
            ).backward()
            optimizer.step()

    with pytest.raises(bptt.LoopError, match="recurrent"), bptt.guard(model, optimizer):
        run()
    assert "forward_tokens" not in model.recurrent.__dict__


def test_copies_and_files_made_within_are_free_of_it() -> None:
    model = LanguageModel(11, hidden=8)
    tokens, kept = torch.randint(11, (9, 2)), io.BytesIO()
    with bptt.guard(model, torch.optim.SGD(model.parameters(), 0.1)) as guard:
        twin = copy.deepcopy(model)
        torch.save(model, kept)
        kept.seek(0)
        loaded = torch.load(kept, weights_only=False)
        calls = guard.loop.calls
        with torch.no_grad():
            twin.output.bias.fill_(1.0)
            for other in (twin, loaded):
                other(tokens)
        assert guard.loop.calls == calls
        assert not torch.equal(twin(tokens)[0], model(tokens)[0])  # with weights of its own
    assert torch.equal(loaded(tokens)[0], model(tokens)[0])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_watch_and_a_guard_come_off_in_any_order(order) -> None:
    model = LanguageModel(11, hidden=8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    both = [bptt.guard(model, optimizer, measure_every=None), bptt.watch(model)]
    for one in both:
        one.__enter__()
    tokens = torch.randint(11, (9, 2))
    model(tokens)[0].square().mean().backward()
    optimizer.step()
    for place in order:
        both[place].__exit__(None, None, None)
    assert "forward_tokens" not in model.recurrent.__dict__
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def quiet(model, optimizer, run, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", bptt.LoopWarning)
        with bptt.guard(model, optimizer, **options) as guard:
            run()
    assert guard.findings == []
    assert guard.loop.updates >= 20
    return guard


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("converted", [False, True])
def test_recurrent_ppo(converted) -> None:
    import gymnasium
    import numpy as np
    import sb3_contrib

    from bptt.integrations import sb3

    class Echo(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.time = 0
            return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

        def step(self, action):
            self.time += 1
            seen = self.np_random.uniform(-1, 1, 3).astype(np.float32)
            return seen, float(action), self.time == 5, False, {}

    # Its own limit of 0.5 would cut every update of this task, and the guard would say so.
    agent = sb3_contrib.RecurrentPPO(
        "MlpLstmPolicy", Echo(), n_steps=64, batch_size=16, n_epochs=4, seed=0, device="cpu",
        policy_kwargs={"lstm_hidden_size": 8}, max_grad_norm=5.0,
    )  # fmt: skip
    if converted:
        sb3.convert(agent)
    quiet(agent.policy, agent.policy.optimizer, lambda: agent.learn(640))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize("kind", ["GRUModule", "LSTMModule"])
def test_torchrl(kind, converted) -> None:
    import tensordict
    from torchrl import modules

    from bptt.integrations import torchrl

    torch.manual_seed(0)
    core = getattr(modules, kind)(4, 5, in_key="seen", out_key="features")
    core = torchrl.convert(core) if converted else core
    head = nn.Linear(5, 2)
    whole = nn.ModuleList([core, head])
    optimizer = torch.optim.Adam(whole.parameters(), 1e-3)

    def run():
        for i in range(60):
            data = tensordict.TensorDict(
                {"seen": torch.randn(3, 7, 4), "is_init": torch.rand(3, 7, 1) < 0.3}, (3, 7)
            )
            with torch.no_grad():  # a collector's steps
                core(data[:, i % 7].clone())
            with modules.set_recurrent_mode(True):
                value = head(core(data)["features"])
            optimizer.zero_grad()
            (value - 1).square().mean().backward()
            nn.utils.clip_grad_norm_(whole.parameters(), 1.0)
            optimizer.step()

    quiet(whole, optimizer, run)
