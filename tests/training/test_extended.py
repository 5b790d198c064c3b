"""A run that is given more is scored on the way and at its end, whatever ended it before."""

import itertools
import json
import math
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from bptt import report
from bptt.cli import main
from bptt.data import Corpus
from bptt.models import LanguageModel
from bptt.training import RunFolder, loop, train
from bptt.training import checkpoint as checkpoints
from bptt.training.build import open_corpus
from compare import assert_close
from small_runs import small

TEXT = "the quick brown fox jumps over the lazy dog; the lazy dog sleeps on.\n" * 40
SIZE = [
    "--hidden",
    "8",
    "--batch",
    "4",
    "--k",
    "8",
    "--sample",
    "0",
    "--log-every",
    "3",
    "--horizon-every",
    "0",
]
FIRST = {"steps": 23, "epochs": 0.45, "minutes": 0.002}
LONG = {"steps": "100000", "epochs": "500", "minutes": "5"}
KINDS = list(FIRST)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """They take longer than all the rest."""
    monkeypatch.setattr(report, "write_run_report", lambda run: None)


def score_by_hand(weights, run):
    """Mean nats a token of the held-out tenth: one token after the other, in Python's own sum."""
    vocabulary = RunFolder(run).read_vocabulary()
    tokens = vocabulary.encode(TEXT[int(0.9 * len(TEXT)) :]).tolist()
    model = LanguageModel(vocabulary.size, cell="gru", hidden=8).eval()
    model.load_state_dict(weights)
    total, state = 0.0, None
    with torch.no_grad():
        for now, following in itertools.pairwise(tokens):
            logits, state = model(torch.tensor([[now]]), state)
            total -= torch.log_softmax(logits.double(), -1)[0, 0, following].item()
    return total / (len(tokens) - 1)


def scores(run):
    return [r for r in RunFolder(run).read_metrics() if "valid" in r]


def newest(run):
    return checkpoints.newest(RunFolder(run).checkpoints)


def check(run):
    """What holds of every run that came to its end."""
    run, told = Path(run), scores(run)
    last = newest(run)
    assert told[-1]["step"] == last.state["step"]
    # Float32 states; the sums run in another order.
    assert_close(told[-1]["valid"]["nats"], score_by_hand(last.model, run), 1e-5)
    best = min(told, key=lambda r: r["valid"]["nats"])
    kept = checkpoints.best(RunFolder(run).checkpoints)
    assert kept.state["step"] == best["step"]
    result = json.loads((run / "result.json").read_text())
    assert_close(result["final"]["nats"], score_by_hand(kept.model, run), 1e-5)


def more(kind, run):
    """A larger budget of a kind, in words."""
    state, size = newest(run).state, (int(0.9 * len(TEXT)) - 1) // 4
    now = {
        "steps": state["step"],
        "epochs": state["data"]["epoch"] + state["data"]["offset"] / size,
        "minutes": state["seconds"] / 60,
    }
    return [f"--{kind}", str(now[kind] + FIRST[kind])]


def begin(how, kind, text, run, monkeypatch):
    """A run of a budget, at the point where it will be extended."""
    words = ["train", str(text), *SIZE, "--out", run, f"--{kind}", str(FIRST[kind])]
    if how == "finished":
        assert main(words) == 0
    elif how == "interrupted":
        with monkeypatch.context() as patched:
            stop = partial(loop.train, on_step=lambda s: _interrupt_at(s, 7))
            patched.setattr(loop, "train", stop)
            assert main([*words[:-1], LONG[kind]]) == 130
    else:  # stopped by patience, far from the end
        words[-1] = LONG[kind]
        wild = ["--lr", "3", "--clip", "none", "--patience", "1", "--eval-every", "4"]
        assert main([*words, *wild]) == 0


def _interrupt_at(session, step):
    if session.progress.step == step:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("then", KINDS)
@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("how", ["finished", "interrupted", "patient"])
def test_the_last_score_of_an_extended_run_is_that_of_its_last_weights(
    how, first, then, text, tmp_path, monkeypatch, capsys
):
    run = str(tmp_path / "run")
    begin(how, first, text, run, monkeypatch)
    before, at = len(scores(run)), newest(run).state["step"]
    capsys.readouterr()
    assert main(["train", "--resume", run, *more(then, run), "--lr", "0.01", "--sample", "0"]) == 0
    said = capsys.readouterr().out
    assert "nothing is trained" not in said
    assert newest(run).state["step"] > at
    check(run)
    new = scores(run)[before:]
    # By the clock there may be time for one; patience may end it again at its first score.
    sure = then != "minutes" and how != "patient"
    assert len(new) >= (2 if sure else 1), "scored on the way too"
    assert said.count("  held out ") == len(new)


@pytest.mark.parametrize("kind", ["steps", "epochs"])
def test_again_and_again(kind, text, tmp_path):
    run = str(tmp_path / "run")
    assert main(["train", str(text), *SIZE, "--out", run, f"--{kind}", str(FIRST[kind])]) == 0
    for _ in range(3):
        assert main(["train", "--resume", run, *more(kind, run), "--json"]) == 0
        check(run)


def test_what_a_longer_run_learns_counts(text, tmp_path):
    """Begun with too little, then given as much as a run that had it all along."""
    run, whole = str(tmp_path / "run"), str(tmp_path / "whole")
    fast = [*SIZE, "--lr", "0.01"]
    assert main(["train", str(text), *fast, "--steps", "20", "--out", run]) == 0
    short = newest(run).state["best_nats"]
    assert main(["train", "--resume", run, "--steps", "200", "--sample", "0"]) == 0
    assert main(["train", str(text), *fast, "--steps", "200", "--out", whole]) == 0
    assert newest(run).state["best_nats"] < 0.75 * short
    assert newest(run).state["best_nats"] < 1.1 * newest(whole).state["best_nats"]


@pytest.mark.parametrize("steps", [1, 9, 10, 11, 25])
def test_steps_between_scores_that_do_not_divide_the_budget(steps, text, tmp_path):
    done = train(small(text, tmp_path, steps=steps, eval_every=10, hidden=8))
    check(done.run)
    before = len(scores(done.run))
    again = train(small(text, tmp_path, steps=steps, eval_every=10, hidden=8), resume=done.run)
    assert len(scores(done.run)) == before, "scored once"
    assert again.valid == done.valid


def test_the_rate_rises_again_where_the_schedule_is_longer(text, tmp_path):
    done = train(small(text, tmp_path, steps=30, log_every=1))
    train(small(text, tmp_path, steps=60, log_every=1), resume=done.run)
    rates = {r["step"]: r["lr"] for r in RunFolder(done.run).read_metrics() if "lr" in r}
    assert rates[30] < 0.01 * rates[2]
    assert_close(rates[31], 0.005, 0.05)  # half of the peak, halfway through


def as_of_old(run):
    """The newest checkpoint as it was written before scores were kept in the budget's own units."""
    saved = newest(run)
    state = dict(saved.state)
    for name in ("scored", "ends", "lr", "stopped"):
        del state[name]
    settings = RunFolder(run).read_settings()
    state["scored_at"] = int(10 * state["step"] / settings.steps) / 10
    checkpoints.save(
        RunFolder(run).checkpoints, checkpoints.Checkpoint(saved.model, saved.training, state)
    )


@pytest.mark.parametrize("at", [1, 12, 30, 31])
def test_a_checkpoint_of_old_goes_on_the_same(at, text, tmp_path):
    def curve(run):
        timed = ("seconds", "tokens_per_second")
        lines = RunFolder(run).read_metrics()
        return [{k: v for k, v in line.items() if k not in timed} for line in lines]

    whole = train(small(text, tmp_path, "whole"))
    parts = train(small(text, tmp_path, "parts"), on_step=lambda s: _interrupt_at(s, at))
    as_of_old(parts.run)
    train(small(text, tmp_path, "parts"), resume=parts.run)
    assert curve(parts.run) == curve(whole.run)


def test_a_finished_run_of_old_is_extended(text, tmp_path):
    done = train(small(text, tmp_path, steps=20, hidden=8))
    as_of_old(done.run)
    train(small(text, tmp_path, steps=45, hidden=8), resume=done.run)
    check(done.run)
    assert len([r for r in scores(done.run) if r["step"] > 20]) >= 4


# Nothing left to spend.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [False, True])
def test_a_budget_that_is_spent_is_said_and_the_score_is_shown(kind, given, text, tmp_path, capsys):
    run = str(tmp_path / "run")
    budget = [f"--{kind}", str(FIRST[kind])]
    assert main(["train", str(text), *SIZE, "--out", run, *budget]) == 0
    first = [line for line in capsys.readouterr().out.splitlines() if line.startswith("held out:")]
    smaller = [f"--{kind}", str(1 if kind == "steps" else FIRST[kind] / 2)] if given else []
    assert main(["train", "--resume", run, *smaller, "--sample", "0"]) == 0
    out = capsys.readouterr().out
    said = next(line for line in out.splitlines() if line.startswith("nothing is trained: "))
    assert " ".join(smaller or budget) + " is spent" in said
    assert first[0] in out
    again = said.split("to go on: bptt ")[1].split()
    before = newest(run).state["step"]
    assert main([*again, "--json"]) == 0, "it is a command"
    captured = capsys.readouterr()
    assert json.loads(captured.out)["steps"] > before
    assert captured.out.count("\n") == 1
    assert main(["train", "--resume", run, *smaller, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert json.loads(captured.out)["valid"]["tokens"] > 0
    assert "nothing is trained: " in captured.err


def test_a_spent_patience_is_said(text, tmp_path, capsys, monkeypatch):
    run = str(tmp_path / "run")
    begin("patient", "steps", text, run, monkeypatch)
    at = newest(run).state["step"]
    capsys.readouterr()
    assert main(["train", "--resume", run, "--sample", "0"]) == 0
    said = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("nothing is"))
    assert "1 scores in a row were no new best" in said
    assert newest(run).state["step"] == at
    words = ["--lr", "0.001", "--steps", str(at + 5), "--patience", "0", "--sample", "0"]
    assert main(["train", "--resume", run, *words]) == 0
    assert newest(run).state["step"] == at + 5


def test_the_two_measures_have_two_names(tmp_path, capsys, monkeypatch):
    """A long held-out text is scored in pieces on the way, and in one at the end."""
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text(TEXT, encoding="utf-8")
    assert main(["train", str(text), *SIZE, "--steps", "5", "--out", str(run)]) == 0
    out = capsys.readouterr().out
    corpus = open_corpus(RunFolder(run).read_settings())
    assert len(corpus.valid.tokens) < 2 * loop.PIECE
    told = scores(run)
    assert all("pieces" not in record for record in told)
    line = next(line for line in out.splitlines() if line.startswith("held out: "))
    assert "in one piece" in line
    assert f"held out {told[-1]['valid']['bits']:.3f} bits" in out
    assert f"held out: {told[-1]['valid']['bits']:.3f} bits" in line, "the same measure"
    monkeypatch.setattr(loop, "PIECE", 50)
    assert main(["train", "--resume", str(run), "--steps", "10", "--sample", "0"]) == 0
    assert scores(run)[-1]["pieces"] == len(corpus.valid.tokens) // 50
    assert f"held out in {len(corpus.valid.tokens) // 50} pieces " in capsys.readouterr().out


def test_where_nothing_is_held_out_lines_and_samples_appear_all_the_same(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    words = [*SIZE[:-4], "--steps", "40", "--valid-fraction", "0", "--out", str(tmp_path / "run")]
    assert main(["train", str(text), *words, "--sample", "12"]) == 0
    out = capsys.readouterr().out
    assert sum(line.startswith("step ") for line in out.splitlines()) == 10
    assert "held out" not in out.replace("0 held out", "")
    assert len(out.split("sample:\n")[1].split("\nreport: ")[0]) == 13
    assert math.isfinite(newest(tmp_path / "run").state["tally"]["nats"])


def test_corpus_parts_a_text_as_these_tests_do():
    assert len(Corpus.from_text(TEXT).train.tokens) == int(0.9 * len(TEXT))
