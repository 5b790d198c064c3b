"""Looks at the text while a model trains: what they show, and that they change no number of the run."""

import pytest
import torch

from bptt.cli import main
from bptt.data import Corpus
from bptt.models import AttentionModel, LanguageModel, WindowModel
from bptt.training import RunFolder, train
from bptt.training.evaluate import look
from small_runs import small

TEXT = "the quick brown fox jumps over the lazy dog; the lazy dog sleeps on.\n" * 20


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def lines(run, *names):
    return [r for r in RunFolder(run).read_metrics() if any(name in r for name in names)]


@pytest.mark.parametrize("options", [{"dropout": 0.3}, {"gradient": "randomized", "k": 4}])
def test_looks_change_no_number_of_a_run(options, text, tmp_path):
    plain = train(small(text, tmp_path, "plain", **options))
    seen = train(small(text, tmp_path, "seen", sample_every=7, **options))
    keys = ("step", "loss", "norm", "valid")
    assert [[r.get(k) for k in keys] for r in lines(seen.run, "loss", "valid")] == [
        [r.get(k) for k in keys] for r in lines(plain.run, "loss", "valid")
    ]
    assert plain.valid == seen.valid
    looks = lines(seen.run, "look")
    assert [r["step"] for r in looks] == [7, 14, 21, 28, 35, 42, 49, 56]
    assert not lines(plain.run, "look")
    held_out = TEXT[int(0.9 * len(TEXT)) :]
    for record in looks:
        assert record["look"]["target"] == held_out[1:61]
        assert len(record["look"]["predicted"]) == len(record["look"]["sample"]) == 60


def test_a_run_that_goes_on_looks_as_one_that_was_not_interrupted(text, tmp_path):
    whole = train(small(text, tmp_path, "whole", sample_every=4))

    def stop(session):
        if session.progress.step == 30:
            raise KeyboardInterrupt

    first = small(text, tmp_path, "parts", sample_every=4, eval_every=6)
    with pytest.raises(KeyboardInterrupt):
        train(first, on_step=stop)
    parts = train(first, resume=first.out)
    assert lines(parts.run, "look") == lines(whole.run, "look")


def test_looks_may_begin_with_a_resume(text, tmp_path, capsys):
    run = train(small(text, tmp_path, steps=4)).run
    words = ["--resume", str(run), "--steps", "8", "--sample-every", "2", "--sample", "0"]
    assert main(["train", *words]) == 0
    assert [r["step"] for r in lines(run, "look")] == [6, 8]
    out = capsys.readouterr().out
    assert out.count("target    |") == out.count("predicted |") == out.count("sample    |") == 2


@pytest.mark.parametrize("kind", [LanguageModel, WindowModel, AttentionModel])
def test_what_is_predicted_is_the_likeliest_token_given_the_text_so_far(kind):
    corpus = Corpus.from_text("ab;cab;ba", valid_fraction=0, document_separator=";")
    torch.manual_seed(3)
    model = kind(corpus.vocabulary.size)
    torch.nn.init.normal_(model.output.weight)
    model.train()
    before = torch.get_rng_state()
    found = look(model, corpus.vocabulary, corpus.train, length=99)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert found.target == "b;ab;a"  # where a document begins, nothing is predicted
    model.eval()
    wanted = []
    for document in ("ab;", "cab;", "ba"):
        tokens = torch.from_numpy(corpus.vocabulary.encode(document).astype("int64"))[:, None]
        wanted.append(corpus.vocabulary.decode(model(tokens)[0][:-1, 0].argmax(-1).numpy()))
    assert found.predicted == "".join(wanted)


def test_a_model_out_of_range_does_not_end_a_run_that_is_looked_at():
    corpus = Corpus.from_text("hello world!", valid_fraction=0)
    model = LanguageModel(corpus.vocabulary.size, hidden=4)
    with torch.no_grad():
        model.output.bias.fill_(float("nan"))
    assert look(model, corpus.vocabulary, corpus.train).sample == ""


@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_twelve_characters_train_in_one_command(cell, tmp_path, capsys):
    text = tmp_path / "hello.txt"
    text.write_text("hello world!")
    words = ["--cell", cell, "--steps", "60", "--sample-every", "60", "--sample", "0"]
    assert main(["train", str(text), *words, "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "for this text --batch 1 --chunk 11 --k 11 --valid-fraction 0" in out
    assert "predicted |ello world!|" in out
    # Ten lines on the way, each with the numbers of the steps since the last one.
    progress = [line for line in out.splitlines() if line.startswith("step") and "loss" in line]
    assert len(progress) == 10
    assert len({line.partition("|")[2] for line in progress}) == 10
