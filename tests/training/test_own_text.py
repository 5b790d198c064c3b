"""The text of a run, found again and proven; runs of earlier versions too."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bptt.errors import DataError, RunError
from bptt.files import manifest
from bptt.training import RunFolder, train
from bptt.training import checkpoint as checkpoints
from bptt.training.build import open_corpus
from bptt.training.restore import open_own_text
from small_runs import small

TEXT = "".join(f"the {n} of {n * n} is not the {n % 7}.\n" for n in range(120))


@pytest.fixture
def made(tmp_path):
    """A project with a text and a run."""
    text = tmp_path / "project" / "data" / "text.txt"
    text.parent.mkdir(parents=True)
    text.write_text(TEXT)
    done = train(small(str(text), tmp_path / "project", steps=4, eval_every=2))
    return text, done


def opened(run, files=()):
    folder = RunFolder.open(run)
    return open_own_text(
        run, folder.read_settings(), folder.read_vocabulary(), "do something", files
    )


def state_of(run, step):
    return Path(run, "checkpoints", f"step-{step}", "state.json")


def with_state(run, **changes):
    """Change every checkpoint's state, its checksum with it; None takes an entry away."""
    for step in checkpoints.steps(RunFolder(run).checkpoints):
        path = state_of(run, step)
        state = {**json.loads(path.read_text()), **changes}
        gone = {name for name, value in changes.items() if value is None}
        path.write_text(json.dumps({k: v for k, v in state.items() if k not in gone}))
        names = ("model.safetensors", "training.safetensors", "state.json")
        files = {name: (path.parent / name).read_bytes() for name in names}
        (path.parent / manifest.NAME).write_bytes(manifest.seal(files, step=step))


def older(run, corpus):
    """Make a run what the first version left: the training part hashed, no place of the files."""
    tokens, starts = corpus.train
    said = f"{len(tokens)} {len(starts)} {tokens.dtype}".encode()
    hashed = hashlib.sha256(said + tokens.tobytes() + starts.astype(np.int64).tobytes())
    with_state(run, text=hashed.hexdigest(), files=None)


def test_a_checkpoint_says_where_the_text_was_and_what_it_was(made):
    text, done = made
    state = json.loads(state_of(done.run, 4).read_text())
    assert state["files"] == [str(text)]
    assert state["text"] == done.corpus.fingerprint()


CHANGES = {
    "in the training part": TEXT.replace("is not", "is now", 1),
    "in the held-out part": TEXT[:-20] + "x" + TEXT[-19:],
    "the last letter": TEXT[:-2] + "!\n",
    "longer": TEXT + "e",
    "shorter": TEXT[:-1],
    "another order": TEXT[1000:] + TEXT[:1000],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_text_is_refused_and_the_remedy_is_the_callers(made, change):
    text, done = made
    text.write_text(CHANGES[change])
    with pytest.raises(RunError, match=r"text\.txt', received another text: do something"):
        opened(done.run)
    with pytest.raises(RunError, match="received another text: resume with the text"):
        train(RunFolder(done.run).read_settings(), resume=done.run)
    text.write_text(TEXT)  # another file, another time, the same text
    assert opened(done.run).fingerprint() == done.corpus.fingerprint()


def test_what_is_unknown_either_way_is_the_same_text(made):
    text, done = made
    run = done.run.with_name("other")
    text.write_text(TEXT[:-2] + "ß\n")
    train(replace(RunFolder(done.run).read_settings(), out=str(run)))
    text.write_text(TEXT[:-2] + "ü\n")  # the model sees, and is scored on, one and the same symbol
    assert opened(run).valid.tokens[-2] == 0


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (b"", "an empty file"),
        (b"a", "received 1 character,"),
        (b"\xff" * 4000, "byte 0xff at offset 0"),
    ],
)
def test_a_text_that_cannot_be_read_any_more_is_named_with_the_reason(made, broken, said):
    text, done = made
    text.write_bytes(broken)
    with pytest.raises(RunError, match=f"was trained on, .*{said}.*: do something"):
        opened(done.run)
    text.unlink()
    with pytest.raises(RunError, match=r"received no such file in .* or at '.*text\.txt'"):
        opened(done.run)


def test_a_file_that_was_named_is_taken_or_refused_and_no_other_is_looked_for(made, tmp_path):
    text, done = made
    other = tmp_path / "under another name"
    with pytest.raises(DataError, match="does not exist"):
        opened(done.run, [str(other)])
    other.write_text(TEXT + "e")
    with pytest.raises(RunError, match="under another name', received another text"):
        opened(done.run, [str(other)])
    shutil.move(text, other)
    assert opened(done.run, [str(other)]).names == (str(other),)
    assert opened(done.run, [str(other)]).fingerprint() == done.corpus.fingerprint()


def test_a_resume_under_another_name_is_the_same_run_and_is_remembered(made, tmp_path):
    text, done = made
    settings = RunFolder(done.run).read_settings()
    straight = train(replace(settings, steps=8, out=str(tmp_path / "straight")))
    other = tmp_path / "other.txt"
    shutil.move(text, other)
    more = replace(settings, steps=8)
    with pytest.raises(RunError, match=r"name its file: bptt train FILE --resume"):
        train(more, resume=done.run)
    again = train(replace(more, files=(str(other),)), resume=done.run)
    assert again.steps == 8
    assert opened(done.run).names == (str(other),)
    assert again.corpus.fingerprint() == straight.corpus.fingerprint()


def test_the_default_text_is_no_file_and_is_proven_all_the_same(tmp_path, monkeypatch):
    settings = replace(small("", tmp_path, steps=2), files=())
    done = train(settings)
    monkeypatch.chdir(tmp_path)
    assert json.loads(state_of(done.run, 2).read_text())["files"] == []
    assert opened(done.run).fingerprint() == done.corpus.fingerprint()
    whole = open_corpus(settings)
    text = whole.vocabulary.decode(np.concatenate([whole.train.tokens, whole.valid.tokens]))
    monkeypatch.setattr("bptt.data.corpus.default_text", lambda: text.replace("assert", "insert"))
    with pytest.raises(RunError, match=r"the default text of its Python.*another text"):
        opened(done.run)
    (tmp_path / "topics.txt").write_text(text, encoding="utf-8")  # carried over from that Python
    assert opened(done.run, ["topics.txt"]).fingerprint() == done.corpus.fingerprint()


def test_runs_of_the_first_version_are_read_and_proven_by_their_training_part(
    made, tmp_path, monkeypatch
):
    text, done = made
    older(done.run, done.corpus)
    assert opened(done.run).fingerprint() == done.corpus.fingerprint()
    more = replace(RunFolder(done.run).read_settings(), steps=6)
    copy = shutil.copytree(done.run, tmp_path / "copy")
    assert train(more, resume=copy).steps == 6
    assert json.loads(state_of(copy, 6).read_text())["text"] == done.corpus.fingerprint()
    text.write_text(CHANGES["in the training part"])
    with pytest.raises(RunError, match="another text"):
        opened(done.run)
    other = tmp_path / "other"
    other.write_text(TEXT)
    assert opened(done.run, [str(other)]).fingerprint() == done.corpus.fingerprint()


@pytest.mark.parametrize("value", [7, ["a"], {"a": 1}, True])
@pytest.mark.parametrize("entry", ["text", "files"])
def test_entries_of_the_wrong_kind_are_named(made, entry, value):
    _, done = made
    if entry == "files" and value == ["a"]:
        value = [3]
    with_state(done.run, **{entry: value})
    with pytest.raises(RunError, match=f"as {entry} in the newest state.json"):
        opened(done.run)


def test_a_damaged_state_is_passed_over_for_an_older_one(made):
    text, done = made
    state_of(done.run, 4).write_text("{}")
    text.write_text(CHANGES["longer"])
    with pytest.raises(RunError, match="another text"):
        opened(done.run)


@pytest.mark.parametrize("model", ["bigram", "window"])
def test_every_model_proves_its_text(tmp_path, model):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    settings = replace(small(str(text), tmp_path, steps=2), model=model)
    done = train(settings)
    text.write_text(CHANGES["in the held-out part"])
    with pytest.raises(RunError, match="received another text: resume with the text"):
        train(settings, resume=done.run)
    with pytest.raises(RunError, match="another text"):
        opened(done.run)


def test_a_project_moved_as_a_whole_keeps_its_text_and_its_encoding_beside_it(made, tmp_path):
    text, done = made
    project, elsewhere = tmp_path / "project", tmp_path / "else" / "where"
    shutil.copytree(project, elsewhere)
    text.write_text(CHANGES["longer"])  # the place that is remembered holds another text now
    found = opened(elsewhere / done.run.relative_to(project))
    assert found.names == (str(elsewhere / "data" / "text.txt"),)
    shutil.rmtree(project)
    link = tmp_path / "link"
    os.symlink(elsewhere / done.run.relative_to(project), link)
    assert opened(link).names == (str(elsewhere / "data" / "text.txt"),)
