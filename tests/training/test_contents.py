"""Checkpoints whose checksums are right and whose contents are not: named, refused, nothing changed."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from bptt.errors import RunError
from bptt.training import RunFolder, Settings, train
from bptt.training import checkpoint as checkpoints
from bptt.training.build import open_corpus
from bptt.training.distributed import Group, own_part
from bptt.training.restore import load_model
from bptt.training.session import Session
from torture.hostile import seal_checkpoint
from torture.runs import assert_same_run

TEXT = "the lazy dog sleeps; the quick fox does not.\n" * 20
VARIANTS = {
    "adamw": {"gradient": "adaptive", "k": 4, "chunk": 12, "clip": "auto:20", "horizon_every": 3},
    "sgd": {
        "cell": "lstm",
        "layers": 2,
        "clip": "z:1",
        "optimizer": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
    },
    "plain sgd": {"optimizer": "sgd", "lr": 0.1, "cell": "lru"},
    "random chunks": {"model": "window", "context": 3, "partition": "random"},
    "attention": {"model": "attention", "hidden": 8, "layers": 1, "context": 4},
    "orthogonal": {"orthogonal": True, "cell": "rnn"},
}
# What the first releases did not write: a checkpoint without it is one of theirs.
OLDER = {("files",), ("ends",), ("lr",), ("stopped",), ("tally", "norms_clipped")}
WRONG = (True, -1, "7", [], {"\x1b": 1}, float("nan"), float("-inf"), 10**400)


@pytest.fixture(scope="module", params=VARIANTS)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    size = {
        "hidden": 6,
        "batch": 3,
        "k": 8,
        "steps": 9,
        "eval_every": 9,
        "log_every": 4,
        "threads": 1,
    }
    options = {**size, **VARIANTS[request.param]}
    return train(
        Settings(files=(str(folder / "text.txt"),), out=str(folder / "run"), **options)
    ).run


def session_of(run):
    """A session to restore into, as a resume makes it."""
    folder = RunFolder.open(run)
    settings = folder.read_settings()
    return Session(settings, open_corpus(settings, folder.read_vocabulary()))


def held(session):
    """All that a refused checkpoint must leave as it was."""
    saved = session.checkpoint()
    tensors = {**saved.model, **saved.training}
    return {name: t.clone() for name, t in tensors.items()}, json.dumps(saved.state)


def refused(session, saved, *words):
    before = held(session)
    with pytest.raises(RunError) as info:
        session.restore(saved)
    said = str(info.value)
    assert said.isprintable()
    assert len(said) < 500
    for word in (*words, str(saved.path)):
        assert word in said
    after = held(session)
    assert before[1] == after[1]
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])


def places(document, above=()):
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        yield (*above, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*above, key))


def put(document, place, value):
    changed = copy.deepcopy(document)
    part = changed
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return changed


def test_what_was_saved_is_taken_as_it_is(run):
    session = session_of(run)
    saved = checkpoints.newest(run / "checkpoints")
    session.restore(saved)
    again = session.checkpoint(saved.state["metrics"])
    assert again.state == saved.state
    assert again.training.keys() == saved.training.keys()
    assert all(torch.equal(t, saved.training[name]) for name, t in again.training.items())


def test_every_value_is_compared_before_anything_is_used(run):
    session, saved = session_of(run), checkpoints.newest(run / "checkpoints")
    for place in places(saved.state):
        for value in WRONG:
            if place in (("text",), ("files", 0)) and value == "7":
                continue  # another text: see below; a file of that name
            if place[-1] in ("decisions", "norms", "files") and value == []:
                continue  # as at the beginning; no file is known
            changed = checkpoints.Checkpoint(
                saved.model, saved.training, put(saved.state, place, value), saved.path
            )
            if place == ("clip", "form") and value == "7":
                session.restore(changed)  # another clip starts afresh
                session = session_of(run)
                continue
            refused(session, changed, "state.json", str(place[0]))


def test_a_checkpoint_of_an_older_release_is_taken(run):
    session, saved = session_of(run), checkpoints.newest(run / "checkpoints")
    state = {name: value for name, value in saved.state.items() if (name,) not in OLDER}
    del state["scored"]
    state["scored_at"] = 1.0
    older = checkpoints.Checkpoint(saved.model, saved.training, state, saved.path)
    assert session.restore(older) == saved.state["metrics"]
    assert session.progress.step == saved.state["step"]
    assert session.progress.scored.steps == saved.state["step"]


def test_missing_and_surplus_values_are_named(run):
    session, saved = session_of(run), checkpoints.newest(run / "checkpoints")
    for place in places(saved.state):
        if isinstance(place[-1], int) or place in OLDER:
            continue
        changed = copy.deepcopy(saved.state)
        part = changed
        for key in place[:-1]:
            part = part[key]
        del part[place[-1]]
        refused(
            session,
            checkpoints.Checkpoint(saved.model, saved.training, changed, saved.path),
            "state.json",
        )
        part["\x1b]0;x\x07"] = 1
        refused(
            session,
            checkpoints.Checkpoint(saved.model, saved.training, changed, saved.path),
            "state.json",
        )
    more = {**saved.state, "\x1b]0;x\x07": 1}
    refused(
        session,
        checkpoints.Checkpoint(saved.model, saved.training, more, saved.path),
        r"\x1b]0;x\x07",
    )
    text = {**saved.state, "text": "another"}
    with pytest.raises(RunError, match="another text"):
        session.restore(checkpoints.Checkpoint(saved.model, saved.training, text, saved.path))


CHANGES = {
    "lost": lambda t: None,
    "one axis more": lambda t: t[None],
    "longer": lambda t: torch.cat([t.reshape(-1)] * 2 + [t.new_ones(2)]),
    "shorter": lambda t: t.reshape(-1)[:-1] if t.dim() and len(t) != 1 else t.new_ones(3),
    "float16": lambda t: t.to(torch.float16),
    "int32": lambda t: t.to(torch.int32),
    "not a number": lambda t: t * float("nan"),
    "infinite": lambda t: t * 0 + float("inf"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_tensor_is_compared_before_anything_is_used(run, change):
    session, saved = session_of(run), checkpoints.newest(run / "checkpoints")
    for part, file in (("model", checkpoints.MODEL), ("training", checkpoints.TRAINING)):
        for name, tensor in getattr(saved, part).items():
            tensors = {**getattr(saved, part), name: CHANGES[change](tensor)}
            if change == "lost":
                del tensors[name]
                if name == "carry.0" and "carry.1" not in tensors:
                    continue  # a run that rolled back has no carry
            elif tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor):
                continue  # nothing is nothing, however often
            changed = checkpoints.Checkpoint(
                **{"model": saved.model, "training": saved.training, part: tensors},
                state=saved.state, path=saved.path,
            )  # fmt: skip
            refused(session, changed, file, name)


def test_names_of_tensors_are_compared(run):
    session, saved = session_of(run), checkpoints.newest(run / "checkpoints")
    odd = ("\x1b]0;x\x07", "carry.9", "carry.x", "optimizer.0", "optimizer.999.step", "optimizer.0.a.b",
           "random.x", "random.-1")  # fmt: skip
    for name in odd:
        training = {**saved.training, name: torch.zeros(2)}
        changed = checkpoints.Checkpoint(saved.model, training, saved.state, saved.path)
        refused(session, changed, checkpoints.TRAINING)
        model = {**saved.model, name: torch.zeros(2)}
        refused(
            session,
            checkpoints.Checkpoint(model, saved.training, saved.state, saved.path),
            checkpoints.MODEL,
        )


def test_values_that_a_shape_does_not_tell(run):
    session, saved = session_of(run), checkpoints.newest(run / "checkpoints")
    random = {
        "random": torch.zeros_like, "random.estimator": lambda t: t * 0 + 255,
        "random.python": lambda t: t * 0 - 1, "random.numpy": lambda t: t * 0 + 2**40,
    }  # fmt: skip
    made = {name: change(saved.training[name]) for name, change in random.items()}
    for name in (
        "random.python",
        "random.numpy",
    ):  # a place beside the table: NumPy would read there
        made[name + " place"] = torch.cat([saved.training[name][:-1], torch.tensor([10**9])])
    for name, tensor in saved.training.items():
        if name.endswith(".step"):
            made[name] = torch.tensor(-3.0)
        if name.startswith("carry.") and tensor.dtype == torch.int64:
            made[name] = tensor + 10**6
    for name, tensor in made.items():
        training = {**saved.training, name.split()[0]: tensor}
        changed = checkpoints.Checkpoint(saved.model, training, saved.state, saved.path)
        refused(session, changed, checkpoints.TRAINING, name.split(".")[0])


def test_a_change_on_disk_is_refused_by_the_run_and_a_whole_one_goes_on(run, tmp_path):
    copy_, whole = tmp_path / "copy", tmp_path / "whole"
    for place in (copy_, whole):
        shutil.copytree(run, place)
    settings = Settings(**{**vars(RunFolder.open(run).read_settings()), "steps": 12})
    newest = copy_ / "checkpoints" / "step-9"
    kept = {path: path.read_bytes() for path in newest.iterdir()}
    tensors = safetensors.torch.load_file(newest / checkpoints.TRAINING)
    tensors["random"] = tensors["random"][:7].clone()
    (newest / checkpoints.TRAINING).write_bytes(safetensors.torch.save(tensors))
    seal_checkpoint(newest)
    with pytest.raises(RunError, match=r"uint8 \(\d+,\) as random in .*training\.safetensors"):
        train(settings, resume=copy_)
    for path, data in kept.items():
        path.write_bytes(data)
    train(settings, resume=copy_)
    train(settings, resume=whole)
    assert_same_run(copy_, whole)


def test_weights_of_another_shape_are_refused_by_whoever_reads(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    for folder in (tmp_path / "copy" / "checkpoints").iterdir():
        tensors = safetensors.torch.load_file(folder / checkpoints.MODEL)
        name = sorted(tensors)[0]
        (folder / checkpoints.MODEL).write_bytes(
            safetensors.torch.save({**tensors, name: tensors[name][None].clone()})
        )
        seal_checkpoint(folder)
    with pytest.raises(
        RunError, match="weights that fit the settings, .* as " + name.replace(".", r"\.")
    ):
        load_model(tmp_path / "copy")


def test_a_best_step_that_is_no_step(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    folder = Path(tmp_path / "copy" / "checkpoints" / "step-9")
    for value in ("\x1b]0;x\x07", [9], 9.0, True, 10**400, -9):
        document = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps({**document, "best_step": value}))
        seal_checkpoint(folder)
        with pytest.raises(RunError, match=r"as best_step in .*state\.json") as info:
            load_model(tmp_path / "copy")
        assert str(info.value).isprintable()


@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 6), (1, 4, 6)])
def test_lanes_are_counted_before_they_are_shared_out(run, shape):
    saved = checkpoints.newest(run / "checkpoints")
    training = {**saved.training, "carry.0": torch.zeros(shape)}
    changed = checkpoints.Checkpoint(saved.model, training, saved.state, saved.path)
    with pytest.raises(
        RunError, match=r"3 lanes on axis 1 of 'carry\.0' in .*training\.safetensors"
    ):
        own_part(Group(), changed, 3, 0)
