"""Going on with a run whose files are not as they were left: metrics, text, checkpoints, folder."""

import os
from pathlib import Path

import pytest
import torch

from bptt.data import CharVocabulary
from bptt.errors import RunError
from bptt.training import RunFolder, Settings, train
from bptt.training import checkpoint as checkpoints
from compare import assert_close

TEXT = "the lazy dog sleeps on, and on it sleeps.\n" * 30


@pytest.fixture
def settings(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    size = {"hidden": 6, "batch": 2, "k": 8, "steps": 30, "eval_every": 10, "log_every": 4}
    return Settings(files=(str(text),), out=str(tmp_path / "run"), **size)


def lines(run):
    return [
        {key: value for key, value in record.items() if key not in ("seconds", "tokens_per_second")}
        for record in RunFolder(run).read_metrics()
    ]


def test_a_damaged_newest_checkpoint_is_passed_over_and_trained_again(settings, caplog):
    done = train(settings)
    run, before = RunFolder(done.run), lines(done.run)
    weights = checkpoints.load(run.checkpoints, 30).model
    file = run.checkpoints / "step-30" / "training.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    again = train(settings, resume=done.run)
    said = [record.getMessage() for record in caplog.records]
    assert "step-30 is damaged: training.safetensors does not fit its checksum" in said[0]
    assert said[1] == "going on from step-20, the newest sound checkpoint"
    assert lines(done.run) == before
    assert_close(checkpoints.load(run.checkpoints, 30).model, weights, 0.0)  # bit for bit
    assert again.valid == done.valid


def test_another_text_of_the_same_length_is_refused_before_anything_is_changed(settings):
    done = train(settings)
    metrics = RunFolder(done.run).metrics
    metrics.write_bytes(metrics.read_bytes() + b'{"step": 31}\n')
    before = metrics.read_bytes()
    Path(settings.files[0]).write_text(TEXT[:600] + "?" + TEXT[601:], encoding="utf-8")
    with pytest.raises(RunError, match="received another text: resume with the text"):
        train(settings, resume=done.run)
    assert metrics.read_bytes() == before


def test_a_run_killed_before_its_first_score_goes_on_from_its_first_moment(settings):
    class Killed(BaseException):
        pass

    def kill(session):
        if session.progress.step == 7:
            raise Killed

    with pytest.raises(Killed):
        train(settings, on_step=kill)
    run = RunFolder(settings.out)
    assert checkpoints.steps(run.checkpoints) == [0]
    assert [record["step"] for record in lines(run.path)] == [4]
    torch.manual_seed(77)
    resumed = train(settings, resume=run.path)
    whole = train(Settings(**{**vars(settings), "out": settings.out + "-whole"}))
    assert lines(resumed.run) == lines(whole.run)
    assert resumed.valid == whole.valid


def test_metrics_are_cut_by_position_whatever_a_line_holds(settings, caplog):
    run = RunFolder.create(Path(settings.out), settings, CharVocabulary.from_text("abc"))
    run.append_metrics({"step": 1})
    with run.metrics.open("ab") as file:
        file.write(b"\xff not a line of ours\n")
    run.append_metrics({"step": 2})
    at = run.flush_metrics()
    kept = run.metrics.read_bytes()
    assert at == len(kept)
    run.append_metrics({"step": 3})
    with run.metrics.open("ab") as file:
        file.write(b'{"step": 4, "lo')
    run.rewind_metrics(at)
    assert run.metrics.read_bytes() == kept
    assert caplog.text == ""


@pytest.mark.parametrize("lost", [1, 5, 13, 24])
def test_metrics_that_lost_their_end_keep_whole_lines_and_the_log_says_so(settings, lost, caplog):
    run = RunFolder.create(Path(settings.out), settings, CharVocabulary.from_text("abc"))
    run.append_metrics({"step": 1})
    run.append_metrics({"step": 2})
    at = run.flush_metrics()
    assert at == 24  # two lines of twelve bytes
    os.truncate(run.metrics, at - lost)
    run.rewind_metrics(at)
    left = (at - lost) // 12
    assert [record["step"] for record in run.read_metrics()] == list(range(1, left + 1))
    assert f"{at - 12 * left} bytes of it are gone" in caplog.text
    run.metrics.unlink()
    run.rewind_metrics(at)
    assert run.metrics.read_bytes() == b""


def test_a_folder_that_cannot_be_made_leaves_nothing(settings, tmp_path, monkeypatch):
    def refuse(old, new, original=os.replace, **where):
        if new == "run":
            raise OSError(28, "No space left on device")
        original(old, new, **where)

    monkeypatch.setattr(os, "replace", refuse)
    before = set(tmp_path.iterdir())
    with pytest.raises(RunError, match="No space left on device: choose another one with --out"):
        train(settings)
    assert set(tmp_path.iterdir()) == before


def test_the_result_and_the_metrics_say_when_the_disk_refuses(settings, monkeypatch):
    run = RunFolder.create(Path(settings.out), settings, CharVocabulary.from_text("abc"))
    for act in (run.flush_metrics, lambda: run.write_result({}), lambda: run.rewind_metrics(0)):
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", lambda handle: os.stat("/nowhere"))
            with pytest.raises(RunError, match="No such file or directory: free the disk"):
                act()
