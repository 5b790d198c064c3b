"""Links, second names and pipes under the names of a run: refused by name, nothing outside touched."""

import os
import shutil
from pathlib import Path

import pytest

from bptt.cli import main
from bptt.data import Corpus
from bptt.errors import RunError
from bptt.files import manifest
from bptt.training import RunFolder, Settings, train
from bptt.training import checkpoint as checkpoints
from bptt.training.build import texts_beside
from bptt.training.restore import load_model
from bptt.training.run_folder import NAMES

TEXT = "the lazy dog sleeps; the quick fox does not.\n" * 20


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    size = {"hidden": 4, "batch": 2, "k": 8, "steps": 6, "eval_every": 2, "keep": 2, "log_every": 2}
    return train(Settings(files=(str(folder / "text.txt"),), out=str(folder / "run"), **size)).run


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    shutil.copytree(trained, tmp_path / "outside")
    before = contents(tmp_path / "outside")
    yield tmp_path / "run"
    assert contents(tmp_path / "outside") == before


def contents(folder):
    return {p: (p.lstat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in folder.rglob("*")}


def go_on(run, steps=10):
    return train(
        Settings(**{**vars(RunFolder.open(run).read_settings()), "steps": steps}), resume=run
    )


def instead(path, put):
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    put(path)


def twin(path):
    return Path(str(path).replace("/run", "/outside"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["a symbolic link", "a pipe"])
def test_every_name_of_a_run_is_looked_at_before_anything_is_done(run, kind, name):
    if kind == "a pipe":
        instead(run / name, os.mkfifo)
    else:
        instead(run / name, lambda path: path.symlink_to(twin(path)))
    for act in (go_on, load_model):
        with pytest.raises(
            RunError, match=rf" of its own at .*{name}, received {kind}: put a copy"
        ):
            act(run)


@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock"])
def test_a_second_name_is_not_written_to_and_may_be_read(run, name):
    instead(run / name, lambda path: path.hardlink_to(twin(path)))
    load_model(run)
    with pytest.raises(RunError, match=r"a file with a second name \(a hard link\): (put|move)"):
        go_on(run)
    instead(run / name, lambda path: shutil.copy(twin(path), path))
    assert go_on(run).steps == 10


@pytest.mark.parametrize("name", ["result.json", "report.html", ".holder.json", "config.toml"])
def test_a_second_name_of_what_is_replaced_is_left_to_the_other(run, name):
    if name == "report.html":
        twin(run / name).write_text("theirs")
        os.utime(twin(run / name), ns=(0, 0))
    instead(run / name, lambda path: path.hardlink_to(twin(path)))
    before = contents(twin(run))
    assert main(["train", "--resume", str(run), "--steps", "8", "--sample", "0", "--json"]) == 0
    assert contents(twin(run)) == before
    twin(run / "report.html").unlink(missing_ok=True)


def test_a_run_whose_own_name_is_a_link_is_that_run(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    assert go_on(tmp_path / "link").steps == 10
    assert checkpoints.steps(run / "checkpoints")[-1] == 10


def test_a_checkpoint_that_is_a_link_is_set_aside_and_pruned_as_a_link(run):
    instead(run / "checkpoints/step-6", lambda path: path.symlink_to(twin(path)))
    (run / "checkpoints/.step-8.tmp").symlink_to(twin(run / "checkpoints"))
    (run / "checkpoints/step-8").symlink_to(twin(run / "checkpoints/step-6"))
    (run / "checkpoints/step-1").symlink_to(twin(run / "checkpoints/step-6"))
    with pytest.raises(
        RunError, match=r"step-8, received it is a symbolic link: .* step-4, which is sound"
    ):
        load_model(run)
    checkpoints.prune(run / "checkpoints", 9, None)
    assert go_on(run).steps == 10
    assert (run / "checkpoints/damaged-step-6").is_symlink()
    assert (run / "checkpoints/damaged-step-8").is_symlink()
    (run / "checkpoints/step-3").symlink_to(twin(run / "checkpoints/step-6"))
    checkpoints.prune(run / "checkpoints", 1, None)
    assert checkpoints.steps(run / "checkpoints") == [10]


def test_the_files_of_a_checkpoint_are_its_own(run):
    for name in (checkpoints.MODEL, checkpoints.TRAINING, checkpoints.STATE, manifest.NAME):
        for step in (4, 6):
            path = run / f"checkpoints/step-{step}/{name}"
            instead(path, lambda path: path.symlink_to(twin(path)))
        assert checkpoints.damage(run / "checkpoints", 6) == f"{name} is a symbolic link"
        shutil.rmtree(run / "checkpoints")
        shutil.copytree(twin(run / "checkpoints"), run / "checkpoints")


def test_the_folder_of_encoded_texts_is_no_link(run, tmp_path):
    settings = RunFolder.open(run).read_settings()
    settings = Settings(**{**vars(settings), "out": str(tmp_path / "another")})
    assert texts_beside(Path(settings.out)) == tmp_path / ".texts"
    (tmp_path / ".texts").symlink_to(tmp_path / "outside")
    with pytest.raises(RunError, match=r"texts at .*\.texts, received a symbolic link"):
        train(settings)


@pytest.mark.parametrize("kind", ["a symbolic link", "a pipe", "a second name"])
@pytest.mark.parametrize("name", ["", "tokens.bin", "starts.bin", "corpus.json"])
def test_an_encoded_text_is_its_own(run, tmp_path, name, kind):
    text = tmp_path / "large.txt"
    text.write_text(TEXT, encoding="utf-8")

    def read(cache):
        return Corpus.open(text, cache=cache, in_memory_below=0).fingerprint()

    good = read(tmp_path / "outside" / "texts")
    before = contents(tmp_path / "outside")
    shutil.copytree(tmp_path / "outside" / "texts", tmp_path / "texts")
    (stored,) = (tmp_path / "texts").iterdir()
    theirs = tmp_path / "outside" / "texts" / stored.name / name
    if kind == "a pipe":
        instead(stored / name, os.mkfifo)
    elif kind == "a symbolic link":
        instead(stored / name, lambda path: path.symlink_to(theirs))
    elif name:
        instead(stored / name, lambda path: path.hardlink_to(theirs))  # read, and never changed
    # What killed writers left, as somebody would have it.
    left = tmp_path / "texts" / f".{stored.name}.{'0' * 16}.tmp"
    left.symlink_to(tmp_path / "outside" / "texts")
    if kind == "a second name":
        assert read(tmp_path / "texts") == good
    else:
        with pytest.warns(UserWarning, match=f"is damaged.*{kind}.*made anew"):
            assert read(tmp_path / "texts") == good
    assert not (stored / name).is_symlink()
    assert contents(tmp_path / "outside") == before
    shutil.rmtree(tmp_path / "outside" / "texts")
