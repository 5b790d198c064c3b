"""Settings from a file, the environment and the command line: which holds, and what is refused."""

from __future__ import annotations

import json

import pytest

from bptt.cli import main
from bptt.cli.train import BUDGETS, Train, gather
from bptt.training.run_folder import RunFolder
from bptt.training.settings import Settings, nearest, read_word

SMALL = ["--hidden", "4", "--batch", "2", "--k", "8", "--steps", "2", "--sample", "0"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("a rose is a rose is a rose\n" * 40)
    (tmp_path / "run.toml").write_text('files = ["text.txt"]\nhidden = 5\nlr = 0.01\nsteps = 3\n')
    return tmp_path


def settings(*words):
    return gather(list(words)).parse()


@pytest.mark.parametrize(
    ("environment", "words", "hidden", "layers"),
    [
        ({}, [], 5, None),
        ({"BPTT_HIDDEN": "6"}, [], 6, None),
        ({"BPTT_HIDDEN": "6", "BPTT_LAYERS": "2"}, ["--hidden", "7"], 7, 2),
        ({"BPTT_HIDDEN": ""}, ["--layers=3"], 5, 3),
    ],
)
def test_the_stronger_one_holds(place, monkeypatch, environment, words, hidden, layers) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = settings("--config", "run.toml", *words)
    assert (found.hidden, found.layers, found.lr, found.steps) == (hidden, layers, 0.01, 3)
    assert found.files == ("text.txt",)
    assert settings("--config=run.toml", "other.txt").files == ("other.txt",)


@pytest.mark.parametrize("weak", BUDGETS)
@pytest.mark.parametrize("strong", BUDGETS)
@pytest.mark.parametrize("where", ["environment", "command line"])
def test_a_budget_takes_the_place_of_a_weaker_one(place, monkeypatch, weak, strong, where) -> None:
    (place / "run.toml").write_text(f"{weak} = 3\n")
    words = [f"--{strong}", "4"] if where == "command line" else []
    if not words:
        monkeypatch.setenv(f"BPTT_{strong.upper()}", "4")
    found = settings("--config", "run.toml", *words)
    budgets = {name: getattr(found, name) for name in BUDGETS}
    assert budgets == dict.fromkeys(BUDGETS) | {strong: 4}


EVERY = Settings(
    files=("a b.txt",), cell="lstm", hidden=8, layers=2, embedding=4, dropout=0.2, batch=3,
    gradient="windowed", k=8, window=16, cut=0.25, chunk=32, partition="random", init="chrono:9",
    orthogonal=True, forget_bias=1.5, optimizer="sgd", lr=0.5, warmup=0.1, decay="linear",
    momentum=0.9, clip="auto:10", regularise="omega:1", on_nonfinite="skip", epochs=2.5, patience=3,
    eval_every=7, log_every=2, horizon_every=0, sample_every=5, keep=2, bytes=True, documents="\\n\n'=- ",
    line_ends="unix", valid_fraction=0.2, seed=11, threads=1, out="some folder",
)  # fmt: skip


@pytest.mark.parametrize("settings_of_a_run", [Settings(), EVERY], ids=["defaults", "everything"])
def test_every_setting_that_is_written_is_read(place, settings_of_a_run) -> None:
    (place / "run.toml").write_text(settings_of_a_run.to_toml(), encoding="utf-8")
    found = settings("--config", "run.toml")
    for name in (field for field in Settings.__dataclass_fields__):
        assert getattr(found, name) == getattr(settings_of_a_run, name), name


def test_every_setting_has_a_variable(place, monkeypatch) -> None:
    for name in Settings.__dataclass_fields__:
        value = getattr(EVERY, name)
        if name != "files" and value is not None:
            monkeypatch.setenv(f"BPTT_{name.upper()}", "yes" if value is True else str(value))
    found = settings("a b.txt")
    for name in Settings.__dataclass_fields__:
        assert getattr(found, name) == getattr(EVERY, name), name


def test_a_switch_of_the_file_is_taken_back(place, monkeypatch) -> None:
    (place / "run.toml").write_text("bytes = true\n")
    assert settings("--config", "run.toml").bytes
    monkeypatch.setenv("BPTT_BYTES", "0")
    assert not settings("--config", "run.toml").bytes


def test_a_run_is_made_again_from_its_own_file(place, capsys) -> None:
    assert main(["train", "text.txt", *SMALL, "--out", "first", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(["train", "--config", "first/config.toml", "--out", "second", "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert first["valid"] == second["valid"]
    assert (
        main(["train", "--config", "first/config.toml", "--sample", "0"]) == 0
    )  # not into "first"
    assert len([p for p in place.iterdir() if p.is_dir()]) == 3


REFUSED = [
    ("hiden = 3", [], {}, "received 'hiden': did you mean hidden?"),
    ("learning-rate = 3", [], {}, "known settings in run.toml, received 'learning-rate': remove"),
    ("eval-every = 3", [], {}, "did you mean eval_every?"),
    ("hidden = 'x'", [], {}, "hidden in run.toml"),
    ("hidden = 0", [], {}, "received 0, from run.toml: change --hidden"),
    ("hidden = 0", ["--hidden", "-1"], {}, "received -1: change --hidden"),
    ("cell = 'grue'", [], {}, "cell in run.toml as one of"),
    ("[train]\nhidden = 3", [], {}, "known settings in run.toml, received 'train'"),
    ("hidden = ", [], {}, "expected TOML in run.toml"),
    ("forget_bias = 1.0", [], {}, "received --cell gru, from run.toml: leave the bias out"),
    ("", ["--resume", "run"], {}, "expected --config or --resume, received both"),
    ("", [], {"BPTT_HIDEN": "3"}, "received BPTT_HIDEN: did you mean BPTT_HIDDEN?"),
    ("", [], {"BPTT_HIDDEN": "3.5"}, "a whole number in BPTT_HIDDEN, received '3.5'"),
    ("", [], {"BPTT_LR": "fast"}, "a number in BPTT_LR"),
    ("", [], {"BPTT_BYTES": "maybe"}, "1 or 0 in BPTT_BYTES"),
    ("", [], {"BPTT_CELL": "grue"}, "one of rnn, rnn-relu"),
    ("", [], {"BPTT_HIDDEN": "0"}, "received 0, from BPTT_HIDDEN: change --hidden"),
]


@pytest.mark.parametrize(("text", "words", "environment", "said"), REFUSED)
def test_refusals_are_one_line(place, monkeypatch, capsys, text, words, environment, said) -> None:
    (place / "run.toml").write_text(text)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = sorted(place.iterdir())
    assert main(["train", "--config", "run.toml", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize("name", ["nothing.toml", ".", "nul\0"])
def test_a_file_that_cannot_be_read(place, capsys, name) -> None:
    assert main(["train", "--config", name]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_run_goes_on_with_the_environment(place, monkeypatch, capsys) -> None:
    assert main(["train", "text.txt", *SMALL, "--out", "run"]) == 0
    monkeypatch.setenv("BPTT_STEPS", "4")
    assert main(["train", "--resume", "run", "--json"]) == 0
    capsys.readouterr()
    monkeypatch.setenv("BPTT_HIDDEN", "9")
    assert main(["train", "--resume", "run"]) == 2
    assert "another one, from BPTT_HIDDEN" in capsys.readouterr().err
    assert RunFolder.open("run").read_settings().hidden == 4


def test_variables_of_somebody_else_are_passed_over(place, monkeypatch) -> None:
    for name in ("BPTT_BACKEND", "BPTT_REQUIRE_NATIVE", "BPTT_SOUNDS", "BPTT_PYTHON", "BPTT_ISA"):
        monkeypatch.setenv(name, "1")
    assert settings() == Train()


@pytest.mark.parametrize("name", Settings.__dataclass_fields__)
def test_a_slip_of_the_pen_is_found(name) -> None:
    if len(name) > 3:  # of three letters a wrong one is a third
        slip = name[:-2] + name[-1]
        assert nearest(slip, Settings.__dataclass_fields__) in (name, slip)


def test_numbers_where_words_are_allowed_too() -> None:
    assert read_word("clip", "0.5") == 0.5
    assert read_word("clip", "none") == "none"
    assert read_word("lr", "1e-3") == 0.001
