"""Each callback with the real library, on a training run of a few steps."""

from __future__ import annotations

import csv
import math
import sys

import pytest
import torch
from torch import nn

import bptt
from bptt.errors import DependencyError
from bptt.integrations import Watcher, for_hugging_face, for_lightning, for_tensorboard, told
from bptt.probes.watch import WatchError
from models_to_watch import Classifier, Tagger


def train(model: nn.Module, steps: int, after) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 6, 3)).square().mean().backward()
        optimizer.step()
        after()


def test_a_model_that_never_runs_is_an_error() -> None:
    with (
        pytest.raises(WatchError, match="forward and backward"),
        told(Classifier(), print) as after,
    ):
        train(Classifier(), 2, after)  # another one


def test_what_is_told() -> None:
    seen: list[tuple[int, dict]] = []
    model = Tagger()
    with told(model, lambda *news: seen.append(news), every=3) as after_step:
        train(model, 7, after_step)
    assert [step for step, _ in seen] == [1, 4, 7]
    numbers = seen[-1][1]
    # Two layers and two directions: each under its own name, and the one that carries most.
    assert {f"gru.l{n}{way}/horizon" for n in (0, 1) for way in ("", "_reverse")} < set(numbers)
    assert 1 <= numbers["horizon"] <= 4
    assert 0 < numbers["decay"] < 10
    assert numbers["verdict"] in ("vanishing", "healthy", "exploding")
    assert not any(m._forward_hooks for m in model.modules())


def test_an_error_of_the_users_own_is_passed_on() -> None:
    model = Classifier()
    with pytest.raises(KeyError), told(model, print):
        raise KeyError("theirs")
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("parts", [1, 3])
def test_norms_before_and_after_clipping(parts) -> None:
    """Of the whole gradient, accumulated over its parts, at the steps that were measured."""
    model = Classifier()
    watcher = Watcher(model, every=2 * parts)
    seen, norms = [], []
    for _ in range(4):
        model.zero_grad()
        for _ in range(parts):
            model(torch.randn(4, 6, 3)).square().mean().backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1e-3)))
        watcher.clipped()
        seen.append(list(watcher.news()))
    watcher.stop()
    assert [len(news) for news in seen] == [1, 0, 1, 0]
    for news, norm in ((seen[0][0], norms[0]), (seen[2][0], norms[2])):
        assert math.isclose(news["norm"], norm, rel_tol=1e-6)
        assert math.isclose(news["norm_clipped"], 1e-3, rel_tol=1e-3)
    assert not any(p.grad is None for p in model.parameters())


def test_stopping_twice() -> None:
    watcher = Watcher(nn.GRU(3, 4))
    with pytest.raises(WatchError, match="forward and backward"):
        watcher.stop()
    watcher.stop()


@pytest.mark.parametrize(
    ("module", "make"),
    [
        ("lightning", lambda: for_lightning()),
        ("transformers", lambda: for_hugging_face()),
        ("torch.utils.tensorboard", lambda: for_tensorboard("folder")),
    ],
)
def test_without_the_library(module, make, monkeypatch) -> None:
    import sys

    for name in (module, f"{module}.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DependencyError, match="pip install"):
        make()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
def test_tensorboard(tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    model = Classifier()
    writer = SummaryWriter(str(tmp_path))
    with told(model, for_tensorboard(writer), every=2) as after_step:
        train(model, 5, after_step)
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    horizons = events.Scalars("bptt/horizon")
    assert [e.step for e in horizons] == [1, 3, 5]
    assert all(1 <= e.value <= 6 for e in horizons)
    assert len(events.Scalars("bptt/decay")) == 3
    assert "bptt/verdict/text_summary" in events.Tags()["tensors"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
def test_lightning(tmp_path) -> None:
    import lightning
    from lightning.pytorch.loggers import CSVLogger

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Classifier()

        def training_step(self, batch, index):
            return self.model(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    data = torch.utils.data.TensorDataset(torch.randn(20, 6, 3))
    callback = for_lightning(every=2)
    logger = CSVLogger(tmp_path)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=logger, callbacks=[callback], log_every_n_steps=1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        gradient_clip_val=1e-3,
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=4))
    assert [m.step for m in callback.flow.history] == [0, 2, 4]
    assert callback.flow.modules[0].name == "model.lstm"
    logged = trainer.logged_metrics
    assert float(logged["bptt/horizon"]) == callback.flow.horizon
    assert math.isclose(float(logged["bptt/decay"]), callback.flow.decay, rel_tol=1e-6)  # float32
    verdict = {"vanishing": -1, "healthy": 0, "exploding": 1}[callback.flow.verdict]
    assert float(logged["bptt/verdict"]) == verdict
    norm, clipped = float(logged["bptt/norm"]), float(logged["bptt/norm_clipped"])
    assert norm > 1e-3
    assert math.isclose(clipped, 1e-3, rel_tol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "every", "steps"), [(1, 3, [0, 3]), (3, 2, [0, 0, 1, 2, 2, 3])])
@pytest.mark.filterwarnings("ignore")  # theirs
def test_lightnings_loggers_are_told_of_measured_steps_and_no_others(
    parts, every, steps, tmp_path
) -> None:
    """Lightning itself writes a row every fifty steps; norms are those of a step's whole gradient."""
    import lightning
    from lightning.pytorch.loggers import CSVLogger

    norms: list[float] = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Classifier()

        def training_step(self, batch, index):
            return self.model(batch[0]).square().mean()

        def on_before_optimizer_step(self, optimizer):
            norms.append(float(nn.utils.get_total_norm([p.grad for p in self.parameters()])))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    data = torch.utils.data.TensorDataset(torch.randn(16 * parts, 6, 3))
    logger = CSVLogger(tmp_path)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=logger, callbacks=[for_lightning(every=every)],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        gradient_clip_val=1e-3, accumulate_grad_batches=parts,
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=4))
    logger.save()
    with open(f"{logger.log_dir}/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == steps
    assert all(1 <= float(row["bptt/horizon"]) <= 6 for row in rows)
    whole = [row for row in rows if row["bptt/norm"]]
    assert [int(row["step"]) for row in whole] == sorted(set(steps))
    for row in whole:
        assert math.isclose(float(row["bptt/norm"]), norms[int(row["step"])], rel_tol=1e-5)
        assert math.isclose(float(row["bptt/norm_clipped"]), 1e-3, rel_tol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
def test_hugging_face(tmp_path, monkeypatch) -> None:
    # Where marimo was imported, by the lab's tests in this process, transformers takes itself to be
    # in a notebook and asks for IPython.
    monkeypatch.delitem(sys.modules, "marimo", raising=False)
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Classifier()

        def forward(self, x, labels):
            logits = self.model(x)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    data = [{"x": torch.randn(6, 3), "labels": i % 4} for i in range(20)]
    callback = for_hugging_face(every=2)
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=4, max_steps=5, logging_steps=5, report_to=[],
        use_cpu=True, save_strategy="no", disable_tqdm=True, max_grad_norm=1e-3,
    )  # fmt: skip
    trainer = Trainer(Model(), arguments, train_dataset=data, callbacks=[callback])
    trainer.train()
    lines = [r for r in trainer.state.log_history if "bptt/horizon" in r]
    assert [r["step"] for r in lines] == [1, 3, 5]
    assert lines[-1]["bptt/horizon"] == callback.flow.horizon
    assert callback.flow.modules[0].name == "model.lstm"
    assert bptt.plot(callback.flow).axes
    assert {r["bptt/verdict"] for r in lines} <= {"vanishing", "healthy", "exploding"}
    assert all(r["bptt/norm"] > 1e-3 for r in lines)
    assert all(math.isclose(r["bptt/norm_clipped"], 1e-3, rel_tol=1e-3) for r in lines)
    # The trainer's own figure, of the last step alone, is the norm before clipping.
    own = next(r["grad_norm"] for r in trainer.state.log_history if "grad_norm" in r)
    assert math.isclose(lines[-1]["bptt/norm"], own, rel_tol=1e-5)
