"""Sizes beside the text: what is not given fits, what is given and does not is refused all at once."""

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptt import report
from bptt.cli import main
from bptt.data import Corpus
from bptt.errors import ArgumentError
from bptt.training import RunFolder, Settings
from bptt.training.build import build_data
from bptt.training.settings import WHOLE
from bptt.training.sizes import CONTEXT, LEAST_HELD_OUT, LONGEST, SIZES, chosen, fitted

GRADIENTS = ("truncated", "full", "windowed", "checkpointed", "adaptive", "randomized", "forward")
MODELS = ("recurrent", "bigram", "ngram", "window", "attention")
TEXT = "To be, or not to be, that is the question:\nwhether 'tis nobler in the mind. " * 40
SOME = st.integers(1, 80)
MAYBE = st.none() | SOME


@st.composite
def asked(draw):
    """Settings that some sizes are given in."""
    sizes = {name: draw(MAYBE) for name in ("batch", "k", "chunk", "window")}
    share = draw(st.sampled_from([None, 0.0, 0.1, 0.5, 0.95]))
    gradient = draw(st.sampled_from(GRADIENTS))
    partition = draw(st.sampled_from(["lanes", "random"]))
    values = {**sizes, "valid_fraction": share, "gradient": gradient, "partition": partition}
    try:
        return Settings(**values, model=draw(st.sampled_from(MODELS)))
    except ArgumentError:  # a chunk under k: refused without a text
        return Settings(**{**values, "k": None})


def fits(settings, tokens):
    """Whether the data can be made, by making it."""
    corpus = Corpus.from_text(TEXT[:tokens], valid_fraction=settings.valid_fraction)
    return build_data(settings, corpus.train).take() is not None


def _fitted_or_mended(settings, tokens, processes):
    """What is made of the settings; where they are refused, with the changes that the line names."""
    try:
        return fitted(settings, tokens, processes), {}
    except ArgumentError as error:
        refused = error
    found = re.findall(r"--(\S+) ([\d.]+)", refused.remedy)
    changes = {n.replace("-", "_"): float(v) if "." in v else int(v) for n, v in found}
    assert changes
    for name in changes:
        assert getattr(settings, name) is not None, "only what was given is to be changed"
        assert f"--{name.replace('_', '-')} " in refused.received
    processes = 1 if "batch" in changes else processes
    return fitted(replace(settings, **changes), tokens, processes), changes


@given(settings=asked(), tokens=st.integers(2, 1500), processes=st.integers(1, 3))
def test_sizes_fit_or_one_line_says_what_would(settings, tokens, processes):
    made, changes = _fitted_or_mended(settings, tokens, processes)
    assert all(getattr(made, n) is not None for n in ("batch", "chunk", "k", "valid_fraction"))
    for name in SIZES:
        if getattr(settings, name) is not None and name not in changes:
            assert getattr(made, name) == getattr(settings, name)
    assert made.steps_per_update == made.chunk
    assert fitted(made, tokens, processes) == made, "a resumed run has the same"
    assert fits(made, tokens)


@given(tokens=st.integers(2, 10**7), gradient=st.sampled_from(GRADIENTS))
def test_with_nothing_given_any_text_has_sizes(tokens, gradient):
    made = fitted(Settings(gradient=gradient), tokens)
    train = int((1 - made.valid_fraction) * tokens)
    assert 1 <= made.batch <= 16
    assert made.batch * made.chunk < train
    assert 1 <= made.k <= made.chunk
    held = tokens - train
    assert held == 0 or held >= LEAST_HELD_OUT
    lane = (train - 1) // made.batch
    if gradient in WHOLE and lane < 2 * LONGEST:
        assert made.chunk == lane, "nothing is cut"
    if tokens > 100_000:
        whole = LONGEST if gradient in WHOLE else None
        usual = {"windowed": 256, "adaptive": 256, "randomized": 256}.get(gradient, 64)
        assert (made.batch, made.chunk) == (16, whole or usual)
        assert made.valid_fraction == 0.1


def test_k_that_is_given_cuts_a_full_gradient_too():
    assert fitted(Settings(gradient="full", k=64), 5000).chunk == 64
    assert fitted(Settings(gradient="full"), 1000).chunk == 899
    assert fitted(Settings(gradient="full", batch=4), 1000).chunk == 899 // 4


@pytest.mark.parametrize("model", CONTEXT)
def test_a_context_is_no_longer_than_the_text(model):
    assert fitted(Settings(model=model), 6).context == 5
    assert fitted(Settings(model=model), 6000).context is None
    assert fitted(Settings(model=model, context=7), 6).context == 7


def test_what_is_chosen_is_only_what_is_used():
    for model in ("bigram", "ngram"):
        words = chosen(Settings(model=model), fitted(Settings(model=model), 4))
        assert words == ["--order 4"] * (model == "ngram") + ["--valid-fraction 0"]
    assert chosen(Settings(), fitted(Settings(), 400_000)) == []
    assert chosen(Settings(k=8), fitted(Settings(k=8), 400_000)) == []
    full = Settings(gradient="full")
    assert chosen(full, fitted(full, 400_000)) == ["--chunk 1024"]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(report, "write_run_report", lambda run: None)


EVERY = [("recurrent", gradient) for gradient in GRADIENTS]
EVERY += [(model, "truncated") for model in MODELS if model != "recurrent"]


@pytest.mark.parametrize("length", [2, 3, 10, 38, 250])
@pytest.mark.parametrize(("model", "gradient"), EVERY, ids="-".join)
def test_any_text_trains_with_no_flag_and_goes_on_with_the_same_sizes(
    model, gradient, length, tmp_path, capsys
):
    text, run = tmp_path / "text.txt", str(tmp_path / "run")
    text.write_text(TEXT[:length], encoding="utf-8")
    small = ["--hidden", "8", "--layers", "1", "--sample", "3", "--horizon-every", "0"]
    words = ["--model", model, "--gradient", gradient, *small, "--steps", "3", "--out", run]
    assert main(["train", str(text), *words]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    settings = RunFolder(run).read_settings()
    said = dict(re.findall(r"--([a-z-]+) ([\d.]+)", first))
    for name, value in said.items():
        assert getattr(settings, name.replace("-", "_")) == float(value)
    assert said.get("valid-fraction", "0.1") == f"{settings.valid_fraction:g}"
    assert settings == fitted(Settings.from_toml(settings.to_toml(), "config.toml"), length)
    assert main(["train", "--resume", run, "--steps", "5", "--json"]) == 0
    assert RunFolder(run).read_settings() == settings
    assert main(["sample", run, "--prompt", TEXT[0], "--length", "3"]) == 0


@pytest.mark.parametrize(
    ("words", "pass_"),
    [
        (["--batch", "16", "--chunk", "64", "--k", "64"], "--batch 1 --chunk 37 --k 37"),
        (["--batch", "64", "--valid-fraction", "0.99"], "--batch 37 --valid-fraction 0"),
        (["--k", "38"], "--k 37"),
        (["--k", "12", "--batch", "5"], "--batch 3"),
        (["--gradient", "windowed", "--k", "50", "--window", "60"], "--k 37 --window 37"),
        (["--partition", "random", "--chunk", "38", "--batch", "99"], "--chunk 37"),
    ],
    ids=lambda w: " ".join(w) if isinstance(w, list) else "",
)
def test_sizes_that_do_not_fit_are_all_refused_in_one_line(words, pass_, tmp_path, capsys):
    text, out = tmp_path / "text.txt", tmp_path / "run"
    text.write_text(TEXT[:38], encoding="utf-8")
    command = ["train", str(text), "--out", str(out), "--steps", "1", "--hidden", "4"]
    assert main([*command, *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"pass {pass_} (a size that is left out" in err
    assert not out.exists()
    better = dict(zip(words[::2], words[1::2], strict=True))
    better |= dict(zip(pass_.split()[::2], pass_.split()[1::2], strict=True))
    assert main([*command, *[w for pair in better.items() for w in pair], "--json"]) == 0


def test_a_text_with_nothing_to_predict_is_refused(tmp_path, capsys):
    for name in "ab":
        (tmp_path / name).write_text(name)
    out = tmp_path / "run"
    words = [str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out), "--steps", "1"]
    assert main(["train", *words]) == 2
    assert "documents of one token each" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_chunks_that_predict_nothing_are_passed_over(gradient, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("ab;cd;e;f;gh;" * 3)  # of two characters one is predicted
    words = ["--documents", ";", "--batch", "1", "--chunk", "1", "--hidden", "4", "--epochs", "1.9"]
    words += ["--gradient", gradient, "--valid-fraction", "0", "--out", str(tmp_path / "run")]
    assert main(["train", str(text), *words, "--json", "--log-every", "1"]) == 0
    records = [r for r in RunFolder(tmp_path / "run").read_metrics() if "judged" not in r]
    assert len(records) > 20
    assert all(math.isfinite(r["loss"]) for r in records)
    assert [r["tokens"] for r in records] == list(range(1, len(records) + 1)), "one each"


def test_a_shorter_text_on_resume_is_another_text_not_a_wrong_size(tmp_path, capsys):
    text, run = tmp_path / "text.txt", str(tmp_path / "run")
    text.write_text(TEXT, encoding="utf-8")
    words = ["--hidden", "4", "--steps", "1", "--out", run, "--json"]
    assert main(["train", str(text), *words]) == 0
    text.write_text(TEXT[:50], encoding="utf-8")
    assert main(["train", "--resume", run]) == 2
    assert "received another text" in capsys.readouterr().err
