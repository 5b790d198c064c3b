"""The whole path on a small text: training, stopping, going on, scoring, generating."""

import importlib
import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bptt.data import CharVocabulary, Stream
from bptt.errors import ArgumentError, RunError
from bptt.experiments.trials import run_variants
from bptt.models import LanguageModel
from bptt.models.language import generate
from bptt.training import RunFolder, evaluate, train
from bptt.training import checkpoint as checkpoints
from bptt.training.restore import load_model
from bptt.training.sizes import fitted
from compare import assert_close
from small_runs import small

TEXT = "the quick brown fox jumps over the lazy dog; the lazy dog sleeps on.\n" * 40


def curve(run):
    """The metrics without what depends on the clock."""
    timed = {"seconds", "tokens_per_second"}
    return [
        {key: value for key, value in record.items() if key not in timed}
        for record in RunFolder(run).read_metrics()
    ]


def timeless(state):
    """What a checkpoint's JSON holds without what depends on the clock (the length of a line does)."""
    kept = {key: value for key, value in state.items() if key not in ("seconds", "metrics")}
    timed = {name: {**state[name], "seconds": None} for name in ("tally", "scored")}
    return {**kept, **timed}


class Interrupt:
    """Ctrl-C at a given step."""

    def __init__(self, step):
        self.step = step

    def __call__(self, session):
        if session.progress.step == self.step:
            import signal

            signal.raise_signal(signal.SIGINT)


VARIANTS = {
    "gru": {},
    "lstm-deep-dropout": {"cell": "lstm", "layers": 2, "dropout": 0.3, "forget_bias": 1.0},
    "rnn-sgd-momentum": {"cell": "rnn", "optimizer": "sgd", "lr": 0.1, "momentum": 0.9},
    "random-chunks": {"partition": "random"},
    "documents": {"documents": ";", "chunk": 16},
    "window": {"model": "window", "embedding": 4, "context": 4},
    "attention": {"model": "attention", "hidden": 16, "layers": 1, "context": 8},
    "epochs": {"steps": None, "epochs": 0.9},
    "auto-clip": {"clip": "auto:20", "init": "np"},
    "z-clip-orthogonal": {"clip": "z:0.5", "orthogonal": True, "cell": "rnn"},
    "adaptive": {"gradient": "adaptive", "k": 4, "chunk": 16},
    "randomized": {"gradient": "randomized", "k": 4},
    "windowed-patient": {"gradient": "windowed", "k": 4, "patience": 50},
    "omega": {"regularise": "omega:0.1", "init": "gaussian:1+chrono:9"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_resume_gives_the_same_curve_bit_for_bit(variant, text, tmp_path):
    changes = VARIANTS[variant]
    whole = train(small(text, tmp_path, "whole", **changes))
    stopped = train(small(text, tmp_path, "parts", **changes), on_step=Interrupt(25))
    assert stopped.interrupted
    assert stopped.steps == 25
    settings = RunFolder.open(stopped.run).read_settings()
    torch.manual_seed(999)  # whatever the random state is now, the run brings its own
    resumed = train(settings, resume=stopped.run)
    assert curve(resumed.run) == curve(whole.run)
    assert len(curve(whole.run)) > 15
    a, b = (checkpoints.newest(RunFolder(r).checkpoints) for r in (whole.run, resumed.run))
    assert_close(b.model, a.model, 0.0)
    assert timeless(b.state) == timeless(a.state)
    assert resumed.valid == whole.valid


def test_resume_after_lines_that_no_checkpoint_covers(text, tmp_path):
    """Killed between checkpoints: the metrics ran ahead, and are rewound."""
    whole = train(small(text, tmp_path, "whole"))
    parts = train(small(text, tmp_path, "parts"))
    folder = RunFolder(parts.run).checkpoints
    shutil.rmtree(folder / "step-60")
    with RunFolder(parts.run).metrics.open("a") as file:
        file.write('{"step": 61, "lo')
    resumed = train(RunFolder(parts.run).read_settings(), resume=parts.run)
    assert curve(resumed.run) == curve(whole.run)


def test_a_finished_run_resumes_to_nothing_and_a_larger_budget_to_more(text, tmp_path):
    done = train(small(text, tmp_path))
    again = train(small(text, tmp_path), resume=done.run)
    assert (again.steps, again.valid) == (60, done.valid)
    more = train(small(text, tmp_path, steps=80), resume=done.run)
    assert more.steps == 80


def test_training_learns_and_leaves_everything_behind(text, tmp_path):
    outcome = train(small(text, tmp_path, steps=601, hidden=32))
    run = RunFolder.open(outcome.run)
    assert outcome.valid.bits < 1.0  # the text repeats itself; a uniform guess is 4.9 bits
    asked = small(text, tmp_path, steps=601, hidden=32)
    assert run.read_settings() == fitted(asked, len(TEXT))
    assert json.loads(run.environment.read_text())["torch"] == torch.__version__
    records = [r for r in run.read_metrics() if "loss" in r]
    assert records[-1]["step"] == 600
    assert_close(records[5]["bits"] * math.log(2), records[5]["loss"], 1e-12)
    kept = checkpoints.steps(run.checkpoints)
    assert len(kept) in (2, 3)
    assert kept[-1] == 601
    assert checkpoints.best(run.checkpoints).state["step"] in kept
    model, vocabulary, _ = load_model(outcome.run)
    continued = "".join(generate(model, vocabulary, "the quick brown", length=30, temperature=0))
    assert "fox jumps over" in continued


def test_early_stop(text, tmp_path):
    outcome = train(small(text, tmp_path, steps=5000, lr=1.0, clip=None, patience=2, eval_every=5))
    assert outcome.steps < 5000


def test_a_gradient_that_is_not_finite_stops_before_the_update(text, tmp_path):
    def poison(session):
        if session.progress.step == 20:
            with torch.no_grad():
                next(session.model.parameters())[:] = torch.inf

    with pytest.raises(RunError, match=r"finite loss and gradient at step 21.*lower --lr"):
        train(small(text, tmp_path), on_step=poison)
    saved = checkpoints.newest(tmp_path / "run" / "checkpoints")
    assert all(t.isfinite().all() for t in saved.model.values())


def test_counting_models_need_no_loop(text, tmp_path):
    bigram = train(small(text, tmp_path, "bigram", model="bigram"))
    ngram = train(small(text, tmp_path, "ngram", model="ngram", order=5))
    assert ngram.valid.nats < bigram.valid.nats
    model, vocabulary, _ = load_model(ngram.run)
    assert len("".join(generate(model, vocabulary, "the ", length=20, seed=1))) == 20


@pytest.mark.parametrize("starts", [[0], [0, 40, 41, 90]])
def test_score_equals_ten_independent_lines(starts):
    model = LanguageModel(7, cell="lstm", hidden=5)
    torch.nn.init.normal_(model.output.weight)
    tokens = np.random.default_rng(1).integers(7, size=150).astype(np.uint8)
    total, count = 0.0, 0
    for begin, end in zip(starts, [*starts[1:], 150], strict=True):
        ids = torch.from_numpy(tokens[begin:end].astype(np.int64))
        state = None
        for now, following in itertools.pairwise(ids):
            logits, state = model(now.reshape(1, 1), state)
            total -= torch.log_softmax(logits.double(), -1)[0, 0, following].item()
            count += 1
    for chunk in (1, 7, 512):
        score = evaluate(model, Stream(tokens, np.array(starts)), chunk=chunk)
        assert score.tokens == count
        assert_close(score.nats, total / count, 1e-6)  # float32 states, another order of sums


def test_a_large_vocabulary_is_scored_in_shorter_pieces_with_the_same_score(monkeypatch):
    model = LanguageModel(50, hidden=6)
    torch.nn.init.normal_(model.output.weight)
    tokens = np.random.default_rng(3).integers(50, size=900)
    text = Stream(tokens, np.array([0, 300, 301]))
    whole = evaluate(model, text, lanes=4)
    sizes = []
    model.register_forward_hook(lambda module, given, output: sizes.append(output[0].numel()))
    scoring = importlib.import_module("bptt.training.evaluate")
    for most, largest in ((2500, 12 * 4 * 50), (1, 4 * 50)):
        sizes.clear()
        monkeypatch.setattr(scoring, "AT_ONCE", most)
        pieces = evaluate(model, text, lanes=4)
        assert max(sizes) == largest
        assert pieces.tokens == whole.tokens
        assert_close(pieces.nats, whole.nats, 1e-6)  # float32 states, another order of sums


def test_uniform_model_has_perplexity_v():
    model = LanguageModel(37, hidden=4)  # its output layer starts at zero
    tokens = np.random.default_rng(0).integers(37, size=500)
    score = evaluate(model, Stream(tokens, np.array([0])))
    assert_close(score.perplexity, 37.0, 1e-12)
    assert_close(score.bits, math.log2(37), 1e-12)


def test_scoring_leaves_the_model_as_it_was():
    model = LanguageModel(7, hidden=5, dropout=0.5).train()
    state = torch.get_rng_state()
    evaluate(model, Stream(np.arange(7), np.array([0])))
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def test_generation_warms_up_and_repeats_with_its_seed():
    vocabulary = CharVocabulary.from_text("abcdefg")
    model = LanguageModel(vocabulary.size, hidden=8)
    torch.nn.init.normal_(model.output.weight)
    one, two = ("".join(generate(model, vocabulary, "abc", length=40, seed=3)) for _ in range(2))
    assert one == two
    assert len(one) == 40
    assert "\ufffd" not in one
    # Greedy continuation is the argmax after the whole prompt, not after its last character.
    ids = torch.from_numpy(vocabulary.encode("abcab").astype(np.int64)).unsqueeze(1)
    logits = model(ids)[0][-1, 0]
    first = next(generate(model, vocabulary, "abcab", length=1, temperature=0))
    assert first == vocabulary.decode([int(logits[1:].argmax()) + 1])
    only = "".join(generate(model, vocabulary, "abcab", length=5, temperature=5.0, top_k=1, seed=1))
    assert only == "".join(generate(model, vocabulary, "abcab", length=5, temperature=0))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_no_generator_takes_is_refused(seed):
    vocabulary = CharVocabulary.from_text("ab")
    model = LanguageModel(vocabulary.size, hidden=2)
    with pytest.raises(ArgumentError, match=r"0 <= seed < 2\^64"):
        generate(model, vocabulary, "a", seed=seed)
    assert "".join(generate(model, vocabulary, "a", length=1, seed=2**64 - 1)) in ("a", "b")


def test_language_model_in_chunks_is_the_language_model():
    for cell in ("rnn", "rnn-relu", "gru", "lstm"):
        model = LanguageModel(9, cell=cell, hidden=6, layers=2).double()
        tokens = torch.randint(9, (12, 3))
        whole, _ = model(tokens)
        first, carry = model(tokens[:5])
        second, _ = model(tokens[5:], carry)
        assert_close(torch.cat([first, second]), whole, 1e-12)
        assert_close(F.softmax(whole, -1), torch.full_like(whole, 1 / 9), 1e-12)


def test_the_horizon_is_measured_on_the_way_and_changes_nothing(text, tmp_path):
    def run(name, **options):
        return train(small(text, tmp_path / name, **options))

    with_it, without = run("a", horizon_every=15), run("b", horizon_every=0)
    records = list(RunFolder(with_it.run).read_metrics())
    measured = [record for record in records if "horizon" in record]
    # Measured in updates 10, 15, 30, 45, 60; a line is written every third.
    assert [record["step"] for record in measured] == [12, 15, 30, 45, 60]
    for record in measured:
        assert 1 <= record["horizon"] <= small(text, tmp_path).steps_per_update
        assert record["verdict"] in ("vanishing", "healthy", "exploding")
        grid, bias = record["spectrum"]["truncations"], record["spectrum"]["bias"]
        assert len(grid) == len(bias)
        assert bias[-1] == 0  # nothing is missing from the whole chunk
    keys = ("loss", "norm")
    assert [[r[k] for k in keys] for r in records if "loss" in r] == [
        [r[k] for k in keys] for r in RunFolder(without.run).read_metrics() if "loss" in r
    ]


def test_a_penalty_is_logged_and_acts(text, tmp_path):
    plain = train(small(text, tmp_path, "plain"))
    held = train(small(text, tmp_path, "held", regularise="floss:0.5"))
    records = [r for r in RunFolder(held.run).read_metrics() if "loss" in r]
    assert all(r["unregularised"] == 0 for r in records)
    assert records[-1]["penalty"] < records[0]["penalty"]  # the exponents move to zero
    assert held.valid != plain.valid


def test_a_clip_may_change_on_resume(text, tmp_path):
    done = train(small(text, tmp_path, clip="auto:20"))
    more = train(small(text, tmp_path, clip="norm:1", steps=70), resume=done.run)
    assert more.steps == 70


def test_no_clip_stays_none_in_the_run_folder(text, tmp_path):
    done = train(small(text, tmp_path, clip=None, steps=3))
    assert RunFolder.open(done.run).read_settings().clip == "none"


@pytest.mark.parametrize("clip", [None, "none", 1.0, "auto:10"])
def test_a_run_is_offered_the_clip_it_did_not_have(clip, text, tmp_path):
    variants = run_variants(small(text, tmp_path, clip=clip), 10, steps=16, k=8)
    offered = {v.name: v.clip for v in variants if v.name in ("no clipping", "clipped to 1")}
    none = clip in (None, "none")
    assert offered == ({"clipped to 1": 1.0} if none else {"no clipping": "none"})
