"""A run that diverged goes on with another rate from where all was well."""

import json
import re

import pytest
import torch

from bptt import report
from bptt.cli import main
from bptt.errors import NonFiniteError
from bptt.training import RunFolder, train
from bptt.training import checkpoint as checkpoints
from bptt.training.progress import fixed, line
from compare import assert_close
from small_runs import small

TEXT = "the quick brown fox jumps over the lazy dog; the lazy dog sleeps on.\n" * 40
SIZE = ["--hidden", "8", "--batch", "4", "--k", "8", "--horizon-every", "0", "--sample", "0"]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(report, "write_run_report", lambda run: None)


def newest(run):
    return checkpoints.newest(RunFolder(run).checkpoints)


def names(run):
    return sorted(path.name for path in RunFolder(run).checkpoints.iterdir())


def curve(run):
    timed = ("seconds", "tokens_per_second")
    lines = RunFolder(run).read_metrics()
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


CELLS = ["rnn", "rnn-relu", "gru", "lstm", "mingru", "lru"]


@pytest.mark.parametrize("held_out", ["0.1", "0"])
@pytest.mark.parametrize("cell", CELLS)
def test_what_the_message_advises_mends_it(cell, held_out, text, tmp_path, capsys):
    run, sane = str(tmp_path / "run"), str(tmp_path / "sane")
    words = [str(text), *SIZE, "--cell", cell, "--steps", "60", "--valid-fraction", held_out]
    status = main(["train", *words, "--lr", "1e9", "--out", run])
    captured = capsys.readouterr()
    if status:  # or it came to its end, with weights beyond all sense
        assert status == 2
        assert "--resume and a lower --lr" in captured.err
    assert main(["train", "--resume", run, "--lr", "0.001", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 60
    assert any(name.startswith("diverged-step-") for name in names(run))
    # It is, bit for bit, the run that had that rate from the start.
    assert main(["train", *words, "--lr", "0.001", "--out", sane, "--json"]) == 0
    assert curve(run) == curve(sane)
    assert_close(newest(run).model, newest(sane).model, 0.0)


def spoil(session, at):
    if session.progress.step == at:
        with torch.no_grad():  # finite, and beyond help
            for parameter in session.model.parameters():
                parameter.fill_(1e38)


@pytest.mark.parametrize("policy", ["lr", "clip"])
def test_it_goes_back_no_farther_than_it_must(policy, text, tmp_path, caplog):
    settings = small(text, tmp_path, eval_every=10, keep=9)
    with pytest.raises(NonFiniteError):
        train(settings, on_step=lambda session: spoil(session, 27))
    assert newest(settings.out).state["step"] == 27
    with pytest.raises(NonFiniteError):
        train(settings, resume=settings.out)  # the same again
    other = {"lr": 0.001} if policy == "lr" else {"clip": 0.5}
    train(small(text, tmp_path, eval_every=10, keep=9, **other), resume=settings.out)
    said = [record.getMessage() for record in caplog.records]
    assert said[-2].startswith("step-27 has diverged: set aside as ")
    assert said[-1] == "going on from step-20"
    assert "diverged-step-27" in names(settings.out)
    assert newest(settings.out).state["step"] == 60
    logged = [r["step"] for r in RunFolder(settings.out).read_metrics() if "loss" in r]
    assert logged == sorted(set(logged))


def test_checkpoints_on_the_way_down_are_passed_over_too(text, tmp_path, caplog):
    settings = small(text, tmp_path, eval_every=1, keep=9, optimizer="sgd", lr=1e4, clip=None)
    settings = type(settings)(**{**vars(settings), "steps": 7})
    train(settings)  # it ends, and its checkpoints are worse than a guess
    assert newest(settings.out).state["best_step"] == 1
    train(type(settings)(**{**vars(settings), "lr": 0.1}), resume=settings.out)
    # The rate begins at zero: after one update the model is as it began.
    assert caplog.records[-1].getMessage() == "going on from step-1"
    assert len([n for n in names(settings.out) if n.startswith("diverged-")]) == 6
    assert newest(settings.out).state["best_step"] > 1


def test_a_healthy_run_goes_on_where_it_is_with_any_rate(text, tmp_path, caplog):
    done = train(small(text, tmp_path, steps=30))
    train(small(text, tmp_path, steps=40, lr=0.002), resume=done.run)
    assert caplog.records == []
    assert newest(done.run).state["step"] == 40


def test_another_text_is_refused_before_anything_is_set_aside(text, tmp_path, capsys):
    run = str(tmp_path / "run")
    words = ["train", str(text), *SIZE, "--steps", "60", "--lr", "1e9", "--out", run]
    assert main(words) == 2
    before = names(run)
    text.write_text(TEXT[:700] + "?" + TEXT[701:], encoding="utf-8")
    assert main(["train", "--resume", run, "--lr", "0.001"]) == 2
    assert "received another text" in capsys.readouterr().err
    assert names(run) == before


def test_figures_beyond_sense_are_short_and_json_is_json(text, tmp_path, capsys):
    run = tmp_path / "run"
    words = [str(text), *SIZE, "--steps", "9", "--eval-every", "3", "--log-every", "3"]
    wild = ["--optimizer", "sgd", "--lr", "1e9", "--clip", "1e30", "--out", str(run)]
    assert main(["train", *words, *wild]) == 0
    out = capsys.readouterr().out
    numbers = re.findall(r"(?<= )[\d.,]+(?:e\+\d+)?(?= )", out)
    assert len(numbers) > 20
    assert max(map(len, numbers)) < 10, out
    assert "worse than a guess among 31 symbols (4.954 bits): the training diverged" in out
    for text_of in (
        (run / "metrics.jsonl").read_text().splitlines(),
        [(run / "result.json").read_text()],
    ):
        for document in text_of:
            json.loads(document, parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
    assert main(["train", "--resume", str(run), "--json"]) == 0
    document = capsys.readouterr().out
    json.loads(document, parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))


@pytest.mark.parametrize("value", [0.0, 1.5, 999_999.0, 1e6, 3187584325180122103545856.0, 1e300])
def test_a_figure_says_the_number_in_few_letters(value):
    assert len(fixed(value, 3)) <= 10
    assert_close(float(fixed(value, 3)), value, 0.01)
    record = {"loss": value, "bits": value, "perplexity": value, "norm": value, "clipped": 1.0}
    assert len(line({**record, "tokens_per_second": 1.0})) < 100
