"""Runs whose numbers are no numbers any more: one line says so, and no document says NaN."""

import json
import math
import shutil
from pathlib import Path

import pytest

from bptt.cli import main
from bptt.training import RunFolder
from bptt.training import checkpoint as checkpoints
from bptt.training.build import open_corpus
from bptt.training.loop import Outcome
from bptt.training.progress import fixed, line
from bptt.training.restore import load_model

TEXT = "the cat sat on the mat\n" * 100
SMALL = ["--steps", "2", "--hidden", "8", "--batch", "4", "--k", "8", "--sample", "0"]
CELLS = {
    "rnn": [], "rnn-relu": [], "gru": [], "lstm": ["--layers", "2"], "mingru": [], "lru": [],
    "window": ["--model", "window"], "attention": ["--model", "attention"],
}  # fmt: skip
READING = [
    ["sample", "--length", "5"], ["sample", "--length", "5", "--temperature", "0"],
    ["sample", "--length", "5", "--json"], ["eval"], ["eval", "--json"],
    ["diagnose", "--try-for", "0", "--steps", "16"],
    ["diagnose", "--try-for", "0", "--steps", "16", "--json"],
    ["export", "--to", "c"], ["export", "--to", "c", "--precision", "int8"], ["export", "--to", "onnx"],
]  # fmt: skip
LOOKING = [words for words in READING if words[0] != "export"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A sound run of each kind of model, made when it is asked for."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT)

    def made(kind):
        if not (folder / kind).exists():
            more = CELLS[kind] if "--model" in CELLS[kind] else ["--cell", kind, *CELLS[kind]]
            out = ["--out", str(folder / kind)]
            assert main(["train", str(folder / "text.txt"), *SMALL, *more, *out]) == 0
        return folder / kind

    return made


def spoiled(run: Path, where: Path, change) -> Path:
    """A copy of a run whose weights were changed, as a training that went wrong would leave them."""
    shutil.copytree(run, where)
    folder = RunFolder(where).checkpoints
    saved = checkpoints.best(folder)
    for step in checkpoints.steps(folder):
        shutil.rmtree(folder / f"step-{step}")
    for name, tensor in saved.model.items():
        change(name, tensor)
    checkpoints.save(folder, saved)
    return where


def refused(capsys, words):
    assert main([str(word) for word in words]) == 2, words
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    assert err.startswith(f"bptt {words[0]}: expected ")
    return out, err


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["gru", "lru", "attention"])
def test_a_weight_that_is_no_number_is_named(kind, value, runs, tmp_path, capsys):
    sound = RunFolder(runs(kind)).checkpoints
    weight = list(checkpoints.best(sound).model)[-1]  # the last: it is not met by chance

    def change(name, tensor):
        if name == weight:
            tensor.view(-1)[-1] = value

    run = spoiled(runs(kind), tmp_path / "run", change)
    capsys.readouterr()
    for name, *options in READING:
        words = [*options, "--out", tmp_path / "new"] if name == "export" else options
        out, err = refused(capsys, [name, run, *words])
        assert out == ""
        assert f"received {'nan' if math.isnan(value) else 'inf'} in {weight}" in err
        assert "--lr" in err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", CELLS)
def test_weights_that_overflow_end_every_command_in_a_line_or_in_sense(
    kind, runs, tmp_path, capsys
):
    run = spoiled(runs(kind), tmp_path / "run", lambda name, tensor: tensor.mul_(1e30))
    capsys.readouterr()
    for name, *options in LOOKING:
        status = main([name, str(run), *options])
        out, err = capsys.readouterr()
        assert status in (0, 2)
        assert "nan" not in out.lower()
        assert (err.count("\n"), "expected" in err) == ((1, True) if status else (0, False)), err
        if "--json" in options and status == 0:
            json.loads(out, parse_constant=pytest.fail)


@pytest.mark.parametrize("kind", ["rnn-relu", "mingru", "lru", "attention"])
def test_predictions_that_are_no_numbers_are_told_and_not_written(kind, runs, tmp_path, capsys):
    """Each weight is finite, what comes out is not."""

    def change(name, tensor):
        tensor.mul_(1e38).clamp_(-3e38, 3e38)

    run = spoiled(runs(kind), tmp_path / "run", change)
    capsys.readouterr()
    for name, *options in LOOKING:
        if name != "diagnose":
            out, err = refused(capsys, [name, run, *options])
            assert out.strip() == ""
            assert "expected predictions that are finite numbers, received " in err
            assert "train a new run with a lower --lr or another --clip" in err


def test_a_score_without_end_is_a_power_of_ten_and_null(runs, tmp_path, capsys):
    def change(name, tensor):
        if name == "output.weight":
            tensor.mul_(1e30)

    run = spoiled(runs("gru"), tmp_path / "run", change)
    capsys.readouterr()
    assert main(["eval", str(run)]) == 0
    out = capsys.readouterr().out
    assert len(out) < 120 + len(str(run)), out
    assert "e+" in out
    assert main(["eval", str(run), "--json"]) == 0
    score = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert score["perplexity"] is None  # beyond every float
    assert score["nats"] > 1e20


def test_a_document_and_the_files_of_a_run_that_diverges_are_json(tmp_path, capsys):
    """The rate is such that updates are skipped, and what is logged between them is without end."""
    text, out = tmp_path / "text.txt", tmp_path / "run"
    text.write_text(TEXT)
    words = ["--cell", "gru", "--optimizer", "sgd", "--lr", "1e38", "--on-nonfinite", "rollback"]
    words += ["--clip", "none", "--warmup", "0", "--log-every", "1", "--eval-every", "1", "--json"]
    main(["train", str(text), *SMALL, *words, "--out", str(out)])
    printed = capsys.readouterr().out
    if printed:
        json.loads(printed, parse_constant=pytest.fail)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert lines
    for each in lines:
        json.loads(each, parse_constant=pytest.fail)


def test_a_result_that_is_not_finite_is_null_wherever_it_is_kept(
    runs, tmp_path, capsys, monkeypatch
):
    from bptt.training import loop
    from bptt.training.evaluate import Score

    folder = RunFolder(tmp_path)
    record = {"step": 1, "loss": math.inf, "bits": math.nan, "valid": {"nats": -math.inf}}
    folder.append_metrics(record)
    folder.write_result({"final": Score(3, math.nan).as_dict(), "step": 1})
    read = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert read == {"step": 1, "loss": None, "bits": None, "valid": {"nats": None}}
    assert list(folder.read_metrics()) == [read]
    result = json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)
    assert result["final"] == {"tokens": 3, "nats": None, "bits": None, "perplexity": None}

    run = runs("gru")
    model, vocabulary, settings = load_model(run)
    corpus = open_corpus(settings, vocabulary)
    outcome = Outcome(run, model, corpus, Score(3, math.inf), 1, 1.0, 3, False)
    monkeypatch.setattr(loop, "train", lambda *a, **o: outcome)
    capsys.readouterr()
    assert main(["train", str(run.parent / "text.txt"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert document["valid"] == {"tokens": 3, "nats": None, "bits": None, "perplexity": None}


def test_a_report_is_drawn_of_lines_with_nulls(runs, tmp_path):
    from bptt.report import write_run_report

    run = tmp_path / "run"
    shutil.copytree(runs("gru"), run)
    for step in range(3, 6):
        bits = math.inf if step == 4 else 2.0
        RunFolder(run).append_metrics(
            {"step": step, "bits": bits, "norm": math.nan, "clipped": 0.0}
        )
    assert "nan" not in write_run_report(run).read_text("utf-8").lower()


@pytest.mark.parametrize(
    ("value", "shown"),
    [(3187584325180122103545856.0, "3.188e+24"), (1.23456, "1.235"), (-2e9, "-2.000e+09"),
     (999999.0, "999999.000"), (math.inf, "inf"), (math.nan, "nan")],
)  # fmt: skip
def test_a_number_is_never_longer_than_can_be_read(value, shown):
    assert fixed(value, 3) == shown
    told = line(
        {"loss": value, "bits": value, "perplexity": value, "norm": value, "clipped": 0.0,
         "tokens_per_second": 1.0}
    )  # fmt: skip
    assert len(told) < 120
