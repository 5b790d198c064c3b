"""Checkpoints on disk: the order they are written in, what is kept, what is taken when one is broken."""

import json
import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from bptt.errors import RunError
from bptt.files import manifest
from bptt.files.folder import Folder
from bptt.training import checkpoint as checkpoints
from bptt.training.checkpoint import Checkpoint
from bptt.training.randomness import random_states, restore_random_states


def at(step, best=None):
    weights = torch.full((3,), float(step))
    return Checkpoint(
        {"weight": weights, "tied": weights},
        {"carry.0": torch.ones(1).expand(2, 3)},
        {"step": step, "best_step": best},
    )


def saved(folder, *steps, best=None):
    for step in steps:
        checkpoints.save(folder, at(step, best))
    return folder


def test_what_is_loaded_is_what_was_saved(tmp_path):
    saved(tmp_path, 4)
    got = checkpoints.load(tmp_path, 4)
    assert got.state == {"step": 4, "best_step": None}
    assert got.model["tied"].tolist() == [4.0, 4.0, 4.0]
    assert got.training["carry.0"].shape == (2, 3)


def test_every_file_is_flushed_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    events, folder = [], tmp_path / "checkpoints"
    folder.mkdir()

    def fsync(handle, original=os.fsync):
        events.append(("flush", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        original(handle)

    def replace(old, new, original=os.replace, **where):
        events.append(("rename", Path(new).name))
        original(old, new, **where)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    saved(folder, 2)
    renamed = events.index(("rename", "step-2"))
    before, after = events[:renamed], events[renamed + 1 :]
    files = {"model.safetensors", "training.safetensors", "state.json", "manifest.json"}
    temporary = before[-1][1]  # the names last, when what they name is there
    assert re.fullmatch(r"\.step-2\.[0-9a-f]{16}\.tmp", temporary)
    assert before[-1][0] == "flush"
    assert {name for _, name in before} == {*files, temporary}
    assert after == [("flush", "checkpoints")]


@pytest.mark.parametrize("call", ["open", "fsync", "replace", "mkdir"])
def test_a_refused_write_leaves_the_earlier_ones_and_nothing_else(call, tmp_path, monkeypatch):
    saved(tmp_path, 1, 2)

    def refuse(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        if call == "open":
            patched.setattr(Folder, "write", refuse)
        else:
            patched.setattr(os, call, refuse)
        with pytest.raises(RunError, match=r"No space left on device: free the disk.*--resume"):
            checkpoints.save(tmp_path, at(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-1", "step-2"]
    assert checkpoints.recover(tmp_path).state["step"] == 2


def test_the_newest_and_the_best_are_kept(tmp_path):
    saved(tmp_path, 0, 5, 10, 15, 20)
    checkpoints.prune(tmp_path, 2, best_step=5)
    assert checkpoints.steps(tmp_path) == [5, 15, 20]
    saved(tmp_path, 25, best=5)
    assert checkpoints.best(tmp_path).state["step"] == 5
    assert checkpoints.newest(tmp_path).state["step"] == 25


def test_what_a_crash_left_behind_goes_with_the_next_write(tmp_path):
    saved(tmp_path, 1)
    for name in (".step-2.tmp", ".step-0.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    assert checkpoints.newest(tmp_path).state["step"] == 1
    saved(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-1", "step-2"]


def test_names_that_are_no_checkpoint_do_not_count(tmp_path):
    saved(tmp_path, 3)
    for name in ("step-", "step-04", "step-4.bak", "step-٥", "step--6", "xstep-7"):
        (tmp_path / name).mkdir()
    assert checkpoints.steps(tmp_path) == [3]


def test_a_link_loop_a_pipe_and_a_file_in_its_place_are_refused(tmp_path):
    saved(tmp_path, 1, 2, 3, 4)
    (tmp_path / "step-5").write_bytes(b"a file")
    for step, name in ((2, "state.json"), (3, "manifest.json"), (4, "model.safetensors")):
        (tmp_path / f"step-{step}" / name).unlink()
    os.mkfifo(tmp_path / "step-2" / "state.json")  # reading it would wait for ever
    (tmp_path / "step-3" / "manifest.json").symlink_to("manifest.json")
    os.mkfifo(tmp_path / "step-4" / "model.safetensors")
    assert checkpoints.recover(tmp_path).state["step"] == 1


def test_the_newest_sound_one_is_taken_and_the_log_says_so(tmp_path, caplog):
    saved(tmp_path, 1, 2, 3)
    (tmp_path / "step-3" / "state.json").unlink()
    file = tmp_path / "step-2" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"step-3, received state.json is missing: move .* step-1"):
        checkpoints.newest(tmp_path)
    assert checkpoints.recover(tmp_path).state["step"] == 1
    said = [record.getMessage() for record in caplog.records]
    assert "step-2 is damaged: model.safetensors has" in said[0]
    assert "step-3 is damaged: state.json is missing; set aside as" in said[1]
    assert said[2] == "going on from step-1, the newest sound checkpoint"
    assert checkpoints.steps(tmp_path) == [1]
    assert (tmp_path / "damaged-step-3").is_dir()
    # A second one of the same step does not take the place of the first.
    saved(tmp_path, 3)
    (tmp_path / "step-3" / "manifest.json").unlink()
    checkpoints.recover(tmp_path)
    assert (tmp_path / "damaged-step-3-2").is_dir()


def test_without_a_sound_one_nothing_is_touched(tmp_path):
    saved(tmp_path, 1, 2)
    for step in (1, 2):
        (tmp_path / f"step-{step}" / "state.json").write_text("{}")
    with pytest.raises(RunError, match=r"step-2, received state.json has 2 bytes.*no other"):
        checkpoints.recover(tmp_path)
    assert checkpoints.steps(tmp_path) == [1, 2]


def test_a_checkpoint_under_another_name_is_not_that_checkpoint(tmp_path):
    saved(tmp_path, 1, 2)
    os.rename(tmp_path / "step-2", tmp_path / "step-7")
    with pytest.raises(RunError, match=r"manifest\.json is that of step 2"):
        checkpoints.load(tmp_path, 7)


def test_a_reader_looks_again_when_the_run_goes_on(tmp_path, monkeypatch):
    saved(tmp_path, 1)
    original, moved = manifest.read, []

    def overtaken(folder):
        if not moved:
            moved.append(saved(tmp_path, 2))
            checkpoints.prune(tmp_path, 1, None)
        return original(folder)

    monkeypatch.setattr(manifest, "read", overtaken)
    assert checkpoints.newest(tmp_path).state["step"] == 2


def test_where_the_best_one_is_gone_the_newest_is_taken_and_the_log_says_so(tmp_path, caplog):
    saved(tmp_path, 4, 8, best=2)
    assert checkpoints.best(tmp_path).state["step"] == 8
    assert "step-2, the best" in caplog.text


def spelt(content):
    """A manifest with another spelling that reads the same."""
    return json.dumps(json.loads(content)).encode()


def read_manifest(path):
    with Folder.open(path) as folder:
        return manifest.read(folder)


def test_a_manifest_has_one_spelling():
    content = manifest.seal({"a": b"x"}, step=3)
    assert json.loads(content)["files"]["a"]["bytes"] == 1
    assert spelt(content) != content


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"3", b"\xff", b"[" * 100_000, b'{"sha256": 1}', b'{"sha256": "a", "b": NaN}',
     b" " * (2 << 20)],
    ids=lambda content: repr(content[:12]),
)  # fmt: skip
def test_what_is_no_manifest(content, tmp_path):
    (tmp_path / manifest.NAME).write_bytes(content)
    with pytest.raises(ValueError, match=r"^manifest\.json "):
        read_manifest(tmp_path)


def test_a_manifest_spelt_otherwise_is_refused(tmp_path):
    content = manifest.seal({"a": b"x"})
    (tmp_path / manifest.NAME).write_bytes(content)
    assert read_manifest(tmp_path)["files"]["a"]["bytes"] == 1
    (tmp_path / manifest.NAME).write_bytes(spelt(content))
    with pytest.raises(ValueError, match="own checksum"):
        read_manifest(tmp_path)


def test_every_source_of_random_numbers_goes_on():
    for source in (random.gauss, np.random.normal):
        source(0, 1)  # the second of a pair waits
    states = random_states()

    def draw():
        return random.gauss(0, 1), random.random(), np.random.normal(), torch.rand(2).tolist()

    first = draw()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    assert draw() != first
    restore_random_states(states)
    assert draw() == first
