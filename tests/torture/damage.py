"""Files of a run cut, emptied, changed by a bit, lengthened, lost or swapped, as bad disks and people do.

After each one, what reads a run must either refuse in one line that names the file, or give exactly what
was written; and a resume must go on from the newest checkpoint that is still sound, saying which one it
passed over.
"""

import logging
import random
import shutil
from pathlib import Path

import torch

from bptt.errors import BpttError
from bptt.files import manifest
from bptt.training import RunFolder, train
from bptt.training import checkpoint as checkpoints
from bptt.training.restore import load_model
from torture.runs import settings

CHECKPOINT = ("model.safetensors", "training.safetensors", "state.json", manifest.NAME)
FIXED = ("config.toml", "vocabulary.json", manifest.NAME)
KINDS = ("cut", "flip", "flip", "flip", "longer", "empty", "lost", "swapped")


def torture(folder: Path, *, damages: int, seed: int) -> str:
    """Damage so many files, one or two at a time; return what was done."""
    chance = random.Random(seed)
    run = _a_run(folder)
    steps = checkpoints.steps(run.checkpoints)
    whole = {step: checkpoints.load(run.checkpoints, step) for step in steps}
    model = load_model(run.path)[0].state_dict()
    copy, count = RunFolder(folder / "copy"), {"refused": 0, "as written": 0, "fallbacks": 0}
    with _Log() as log:
        for _ in range(damages):
            shutil.copytree(run.path, copy.path)
            path, kind = _place(copy, steps, chance), chance.choice(KINDS)
            _damage(path, kind, chance)
            what = f"{path.relative_to(copy.path)} {kind}"
            log.lines.clear()
            count["refused" if _read(copy, path, model, what) else "as written"] += 1
            count["fallbacks"] += _recover(copy, path, whole, log, what)
            shutil.rmtree(copy.path)
    counted = ", ".join(f"{number} {name}" for name, number in count.items())
    return f"{damages} damages: {counted}"


def _a_run(folder):
    chosen = settings(folder, "run", steps=24, keep=3, eval_every=6, clip="auto:20")
    return RunFolder(train(chosen).run)


def _place(run, steps, chance):
    if chance.random() < 0.1:
        return run.path / chance.choice(FIXED)
    return run.checkpoints / f"step-{chance.choice(steps)}" / chance.choice(CHECKPOINT)


def _damage(path, kind, chance):
    data = bytearray(path.read_bytes())
    if kind == "cut":
        del data[chance.randrange(len(data)) :]
    elif kind == "flip":
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == "longer":
        data += bytes(chance.randrange(256) for _ in range(chance.randint(1, 9)))
    elif kind == "empty":
        data.clear()
    elif kind == "swapped":  # with the same file of another checkpoint, whole in itself
        others = [p for p in path.parent.parent.glob(f"step-*/{path.name}") if p != path]
        data = bytearray(
            others[0].read_bytes() if others and "step-" in path.parent.name else b"{}"
        )
    path.unlink()
    if kind != "lost":
        path.write_bytes(data)


def _read(run, path, model, what):
    """Load as sample, eval, diagnose and export do; return whether it was refused."""
    refused = None
    try:
        loaded, _, _ = load_model(run.path)
    except BpttError as error:
        refused = str(error)
    if refused is not None:
        assert path.name in refused, f"{what}: {refused}"
        assert "\n" not in refused, what
        return True
    assert path.parent != run.path, f"{what}: read in silence"
    state = loaded.state_dict()
    assert state.keys() == model.keys(), what
    assert all(torch.equal(state[name], model[name]) for name in model), what
    return False


def _recover(run, path, whole, log, what):
    """Take what a resume would go on from; return whether it was not the newest."""
    newest, there = max(whole), checkpoints.steps(run.checkpoints)
    log.lines.clear()
    got = checkpoints.recover(run.checkpoints)
    step, told = got.state["step"], "\n".join(log.lines)
    if path.parent == run.path:
        assert not log.lines, what
    else:
        hit = int(path.parent.name.removeprefix("step-"))
        assert step == max(s for s in there if s != hit), what
        assert f"step-{hit} is damaged" in told, what
        assert path.name in told, f"{what}: {told}"
        assert (step != newest) == (f"going on from step-{step}" in told), what
        assert hit not in checkpoints.steps(run.checkpoints), what
    assert got.state == whole[step].state, what
    for mine, other in ((got.model, whole[step].model), (got.training, whole[step].training)):
        assert mine.keys() == other.keys(), what
        assert all(torch.equal(mine[name], other[name]) for name in mine), what
    return step != newest


class _Log(logging.Handler):
    """What the package says while it reads."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())

    def __enter__(self):
        self._logger = logging.getLogger("bptt.training")
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_):
        self._logger.removeHandler(self)
