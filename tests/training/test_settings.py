"""Settings: ranges, and the file they are kept in."""

import dataclasses
import inspect

import pytest

from bptt.errors import ArgumentError, RunError
from bptt.training import Settings
from bptt.training.schedule import Budget, rate

OUT_OF_RANGE = [
    ({"hidden": 0}, "--hidden, received 0"),
    ({"batch": -1}, "--batch"),
    ({"k": 0}, "--k"),
    ({"lr": 0.0}, "--lr"),
    ({"lr": float("nan")}, "--lr, received nan"),
    ({"lr": float("inf")}, "--lr"),
    ({"clip": -1.0}, "--clip"),
    ({"clip": "auto:101"}, "at most 100 for --clip"),
    ({"init": "radius:0"}, "above 0 for --init"),
    ({"init": "lucky"}, "one of default, small"),
    ({"regularise": "omega:-1"}, "for --regularise"),
    ({"model": "window", "orthogonal": True}, "--orthogonal with --model recurrent"),
    ({"dropout": 1.0}, "--dropout"),
    ({"valid_fraction": 1.0}, "--valid-fraction"),
    ({"minutes": 0.0}, "--minutes"),
    ({"steps": 0}, "--steps"),
    ({"weight_decay": -0.1}, "--weight-decay"),
    ({"eval_every": 0}, "--eval-every"),
    ({"seed": -1}, "--seed"),
    ({"steps": 3, "epochs": 1.0}, "one of --minutes"),
    ({"forget_bias": 1.0}, "--cell lstm"),
    ({"chunk": 8, "k": 64}, "--chunk at least --k, received --chunk 8 --k 64: pass --k 8"),
    ({"window": 8, "k": 9}, "--window at least --k, received --window 8 --k 9: pass --k 8"),
    (
        {"gradient": "windowed", "chunk": 8, "window": 7, "k": 9},
        "--chunk at least --k and --window at least --k, .*pass --k 7",
    ),
    ({"optimizer": "adam"}, "one of adamw, sgd for --optimizer, received 'adam'"),
    ({"model": "Attention"}, "one of recurrent, bigram, .* for --model"),
    ({"cell": "GRU"}, "--cell"),
    ({"partition": "Random"}, "--partition"),
    ({"decay": "linar"}, "--decay"),
    ({"on_nonfinite": "ignore"}, "one of stop, skip, rollback for --on-nonfinite"),
    ({"gradient": "x"}, "--gradient"),
    ({"files": ("b\udce9.txt",)}, r"--out in UTF-8, received 'b\\udce9.txt'"),
    ({"documents": "\udce9"}, "--out in UTF-8"),
    ({"out": "runs/b\udce9"}, "--out in UTF-8"),
]


@pytest.mark.parametrize(("values", "words"), OUT_OF_RANGE, ids=[str(c[0]) for c in OUT_OF_RANGE])
def test_out_of_range(values, words):
    with pytest.raises(ArgumentError, match=words):
        Settings(**values)


def test_toml_round_trip():
    odd = 'a "quoted"\\path\twith ünïcode\n.txt'
    settings = Settings(files=(odd, "b"), lr=1e-5, documents="\n\n", bytes=True, steps=7)
    assert Settings.from_toml(settings.to_toml(), "config.toml") == settings


BROKEN = [
    ("hidden = ", "TOML in"),
    ('hidden = "big"', "hidden in config.toml as int"),
    ("hidden = true", "hidden in config.toml"),
    ("bytes = 1", "bytes in config.toml as bool"),
    ("files = 3", "files in config.toml"),
    ('cell = "gruu"', "cell in config.toml as one of rnn, rnn-relu, gru, lstm"),
    ("colour = 1", "known settings in config.toml, received 'colour'"),
]


@pytest.mark.parametrize(("text", "words"), BROKEN, ids=[b[0] for b in BROKEN])
def test_broken_toml(text, words):
    with pytest.raises(RunError, match=words):
        Settings.from_toml(text, "config.toml")


def test_whole_numbers_may_stand_for_shares():
    assert Settings.from_toml("epochs = 2", "config.toml").epochs == 2


def test_every_setting_is_explained():
    source = inspect.getsource(Settings)
    for field in dataclasses.fields(Settings):
        line = source.index(f"    {field.name}: ")
        assert source[line:].splitlines()[1].strip().startswith('"""'), field.name


def test_rate_and_budget():
    assert rate(0.0, 1.0, 0.0, "cosine") == 1.0
    assert rate(0.5, 1.0, 0.0, "cosine") == pytest.approx(0.5)
    assert rate(0.9, 1.0, 0.1, "none") == 1.0
    assert Budget(None, 2.0, None).progress(10, 0.5, 9.0) == 0.25
    assert Budget(None, None, 1.0).progress(10, 0.5, 90.0) == 1.0
