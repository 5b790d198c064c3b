"""A guard around the loops of Lightning and Hugging Face, healthy and faulty, in short real runs."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bptt
from bptt.errors import DependencyError
from bptt.integrations import for_lightning, guard_hugging_face, guard_lightning
from models_to_watch import Classifier

SECOND_TIME = r"backward through the graph a second time|modified by an inplace operation"


class Keeping(nn.Module):
    """Keeps its state from batch to batch, and detaches it or not."""

    def __init__(self, detached: bool) -> None:
        super().__init__()
        self.rnn, self.out, self.detached = (
            nn.GRU(3, 6, batch_first=True),
            nn.Linear(6, 4),
            detached,
        )
        self.h = None

    def forward(self, x):
        y, h = self.rnn(x, self.h)
        self.h = h.detach() if self.detached else h
        return self.out(y[:, -1])


def data(batches=30):
    torch.manual_seed(0)
    return torch.randn(4 * batches, 6, 3), torch.randint(4, (4 * batches,))


@pytest.mark.parametrize(
    ("module", "make"), [("lightning", guard_lightning), ("transformers", guard_hugging_face)]
)
def test_without_the_library(module, make, monkeypatch) -> None:
    for name in (module, f"{module}.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DependencyError, match="pip install"):
        make()


def lightning_run(tmp_path, model, callbacks, batches=30, train_mode=True, **options):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch, index):
            if not train_mode:
                self.eval()
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def validation_step(self, batch, index):
            self.log("valid", F.cross_entropy(self.model(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-3)

    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, callbacks=callbacks, log_every_n_steps=1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, **options,
    )  # fmt: skip
    rows = TensorDataset(*data(batches))
    trainer.fit(Module(), DataLoader(rows, 4), DataLoader(rows, 4))
    return trainer


def quiet(run, *args, **options):
    """Only our own warnings count."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            done = run(*args, **options)
        finally:
            codes = [
                str(w.message).partition(",")[0] for w in told if w.category is bptt.LoopWarning
            ]
    return done, codes


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 3}, {}]
)
def test_a_healthy_lightning_loop(options, tmp_path) -> None:
    callback = guard_lightning()
    model = Classifier()
    # Beside the callback that watches, whose norms have the same names.
    trainer, codes = quiet(lightning_run, tmp_path, model, [callback, for_lightning(9)], **options)
    assert codes == []
    assert callback.guard.findings == []
    assert callback.guard.loop.updates == 60 // options.get("accumulate_grad_batches", 1)
    logged = trainer.logged_metrics
    assert float(logged["bptt/findings"]) == 0
    assert 0 < float(logged["bptt/norm_clipped"]) <= float(logged["bptt/norm"]) * 1.00001
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.slow
def test_faulty_lightning_loops(tmp_path) -> None:
    callback = guard_lightning()
    _, codes = quiet(lightning_run, tmp_path, Classifier(), [callback], train_mode=False)
    assert codes == ["eval-mode"]
    callback = guard_lightning()
    trainer, codes = quiet(
        lightning_run, tmp_path, Classifier(), [callback], batches=60, gradient_clip_val=1e-4
    )
    assert codes == ["always-clipped"]
    assert float(trainer.logged_metrics["bptt/findings"]) == 1


@pytest.mark.slow
def test_lightnings_own_error_comes_through_and_is_explained(tmp_path) -> None:
    callback = guard_lightning()
    model = Keeping(detached=False)
    with pytest.raises(RuntimeError, match=SECOND_TIME) as raised:
        quiet(lightning_run, tmp_path, model, [callback], num_sanity_val_steps=0)
    (found,) = callback.guard.findings
    assert (found.code, found.module) == ("missing-detach", "model.rnn")
    if sys.version_info >= (3, 11):
        assert "h.detach()" in raised.value.__notes__[0]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.autograd.backward.__module__ == "torch.autograd"


class Scored(nn.Module):
    """As Hugging Face's trainer wants it."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x, labels):
        logits = self.model(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def hugging_face_run(tmp_path, model, callback, **options):
    from transformers import Trainer, TrainingArguments

    x, labels = data(60)
    rows = [{"x": a, "labels": int(b)} for a, b in zip(x, labels, strict=True)]
    given = {"max_grad_norm": 1.0, "max_steps": 110, "eval_strategy": "steps", "eval_steps": 40}
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=4, logging_steps=5, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True, **(given | options),
    )  # fmt: skip
    trainer = Trainer(
        Scored(model), arguments, train_dataset=rows, eval_dataset=rows[:16], callbacks=[callback]
    )
    trainer.train()
    return trainer


@pytest.fixture
def no_notebook(monkeypatch):
    # Where marimo was imported, transformers takes itself to be in a notebook and asks for IPython.
    monkeypatch.delitem(sys.modules, "marimo", raising=False)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2, "max_steps": 40}])
def test_a_healthy_hugging_face_loop(options, tmp_path, no_notebook) -> None:
    callback, model = guard_hugging_face(), Classifier()
    trainer, codes = quiet(hugging_face_run, tmp_path, model, callback, **options)
    assert codes == []
    assert callback.guard.loop.updates == options.get("max_steps", 110)
    lines = [r for r in trainer.state.log_history if "bptt/norm" in r]
    assert len(lines) >= 8
    for line in lines[:-1]:
        assert 0 < line["bptt/norm_clipped"] <= line["bptt/norm"] * 1.00001
        if "grad_norm" in line:
            assert line["bptt/norm"] == pytest.approx(line["grad_norm"], rel=1e-5)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.slow
def test_faulty_hugging_face_loops(tmp_path, no_notebook) -> None:
    callback = guard_hugging_face()
    trainer, codes = quiet(hugging_face_run, tmp_path, Classifier(), callback, max_grad_norm=1e-4)
    assert codes == ["always-clipped"]
    (line,) = [r for r in trainer.state.log_history if "bptt/finding" in r]
    assert line["bptt/finding"] == "always-clipped"
    callback, model = guard_hugging_face(), Keeping(detached=False)
    with pytest.raises(RuntimeError, match=SECOND_TIME):
        quiet(hugging_face_run, tmp_path, model, callback)
    (found,) = callback.guard.findings
    assert (found.code, found.module) == ("missing-detach", "model.rnn")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.autograd.backward.__module__ == "torch.autograd"
