"""The command line as its users meet it: what it prints, what it returns, what it refuses."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from bptt.cli import COMMANDS, main
from bptt.data import Corpus
from sealing import sealed_anew

TEXT = "she sells sea shells by the sea shore.\n" * 60


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "shells.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    """A finished run."""
    path = str(tmp_path_factory.mktemp("runs") / "shells")
    small = ["--hidden", "12", "--batch", "4", "--k", "8", "--lr", "0.01"]
    assert main(["train", text, *small, "--steps", "60", "--out", path, "--sample", "0"]) == 0
    return path


def only_json(capsys):
    out = capsys.readouterr().out
    assert out.count("\n") == 1, "one document on stdout and nothing else"
    return json.loads(out)


def refuse(capsys, *words):
    """Run a command that must fail; return its one line."""
    assert main(list(words)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith(f"bptt {words[0]}: expected ")
    assert "Traceback" not in captured.err
    return captured.err


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)
    assert main(["--version"]) == 0
    assert main([]) == 2
    assert main(["fly"]) == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"Example: bptt {name}" in " ".join(capsys.readouterr().out.split())


def test_help_does_not_load_torch():
    code = (
        "import sys; from bptt.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_train_says_what_came_out_and_samples(text, tmp_path, capsys):
    out = str(tmp_path / "run")
    words = ["--hidden", "8", "--batch", "2", "--k", "8", "--steps", "20", "--sample", "30"]
    assert main(["train", text, *words, "--out", out]) == 0
    printed = capsys.readouterr().out
    assert "held out:" in printed
    assert "bits per character" in printed
    sample, rest = printed.split("sample:\n")[1].split("\nreport: ")
    assert len(sample) == 31
    assert rest.splitlines()[0] == f"{out}/report.html"
    assert (tmp_path / "run" / "report.html").exists()
    commands = [line.strip() for line in rest.splitlines() if line.startswith("    bptt ")]
    assert commands == [f"bptt sample {out}", f"bptt diagnose {out}"]
    # The verdict's own, one and no other.
    commands += re.findall(r"^next: (bptt .+)$", rest, re.M)
    assert [words.split()[1] for words in commands] == ["sample", "diagnose", "train"]
    quick = {
        "sample": [],
        "diagnose": ["--try-for", "0", "--steps", "16"],
        "train": ["--sample", "0"],
    }
    for words in map(shlex.split, commands):  # each works as it is typed
        assert main([*words[1:], *quick[words[1]]]) == 0


def test_train_json(text, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", text, "--batch", "2", "--steps", "5", "--out", out, "--json"]) == 0
    document = only_json(capsys)
    assert set(document) >= {"run", "steps", "seconds", "tokens_per_second", "valid"}
    assert set(document["valid"]) >= {"tokens", "nats", "bits", "perplexity"}
    assert document["steps"] == 5


def test_eval_agrees_with_train_and_scores_another_text(run, tmp_path, capsys):
    assert main(["eval", run, "--json"]) == 0
    score = only_json(capsys)
    result = json.loads(Path(run, "result.json").read_text())
    assert score == result["final"]
    other = tmp_path / "other.txt"
    other.write_text("sea shells?", encoding="utf-8")
    assert main(["eval", run, str(other), "--json"]) == 0
    assert only_json(capsys)["tokens"] == 10
    assert main(["eval", run, str(other)]) == 0
    assert "1 of them are unknown" in capsys.readouterr().out


def test_eval_counts_what_is_unknown_in_the_held_out_part(tmp_path, capsys):
    text, out = tmp_path / "text.txt", str(tmp_path / "run")
    text.write_text("a rose is a rose. " * 50 + "ßü" * 3, encoding="utf-8")
    small = ["--hidden", "4", "--batch", "2", "--k", "8", "--steps", "1", "--out", out, "--json"]
    assert main(["train", str(text), *small]) == 0
    capsys.readouterr()
    assert main(["eval", out]) == 0
    assert "\n6 of them are unknown" in capsys.readouterr().out


def test_bytes_that_are_not_utf_8_are_printed_as_they_came(run, tmp_path, monkeypatch):
    text, out = tmp_path / os.fsdecode(b"b\xe9.txt"), str(tmp_path / "run")
    text.write_text(TEXT)
    small = ["--hidden", "4", "--batch", "2", "--k", "8", "--steps", "1", "--sample", "0"]
    assert main(["train", "--bytes", *small, "--out", out]) == 0

    def printed(*words):
        stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(list(words)) == 0
        stdout.flush()
        return stdout.buffer.getvalue()

    prompt = os.fsdecode(b"caf\xe9 ")
    assert printed("sample", out, "--prompt", prompt, "--length", "1").startswith(b"caf\xe9 ")
    assert printed("eval", run, str(text)).startswith(os.fsencode(text))


def test_a_text_whose_name_is_not_utf_8_is_refused_before_it_is_read(tmp_path, capsys):
    name = str(tmp_path / os.fsdecode(b"b\xe9.txt"))
    Path(name).write_text(TEXT)
    out = tmp_path / "run"
    assert "--out in UTF-8" in refuse(capsys, "train", name, "--out", str(out))
    assert not out.exists()


def test_sample(run, capsys):
    words = ["sample", run, "--prompt", "she ", "--length", "25", "--seed", "3"]
    assert main([*words, "--json"]) == 0
    document = only_json(capsys)
    assert len(document["text"]) == 25
    assert main(words) == 0
    assert capsys.readouterr().out == "she " + document["text"] + "\n"


def test_resume_from_the_command_line(run, text, capsys):
    assert main(["train", "--resume", run, "--steps", "70", "--json"]) == 0
    assert only_json(capsys)["steps"] == 70
    assert "the run's own --hidden" in refuse(capsys, "train", "--resume", run, "--hidden", "16")


def test_resume_refuses_another_folder(run, tmp_path, capsys):
    other = str(tmp_path / "other")
    assert "the run's own --out" in refuse(capsys, "train", "--resume", run, "--out", other)
    shutil.copytree(run, other)
    assert main(["train", "--resume", other, "--out", other, "--json"]) == 0
    assert only_json(capsys)["run"] == other


def test_what_was_changed_on_resume_is_named_when_it_is_interrupted(
    run, tmp_path, capsys, monkeypatch
):
    from bptt.training import loop

    mine = tmp_path / "my run"
    shutil.copytree(run, mine)
    whole = loop.train
    stop = partial(whole, on_step=lambda session: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(loop, "train", stop)
    changed = ["--lr", "0.0001", "--on-nonfinite", "skip", "--minutes", "10.0"]
    assert main(["train", "--resume", str(mine), "--log-every", "10", *changed]) == 130
    said = capsys.readouterr().out.split("go on: ")[1]
    words = shlex.split(said)
    assert words[:4] == ["bptt", "train", "--resume", str(mine)]
    # The budget by steps is gone, and --log-every is the run's own.
    assert sorted(words[4:]) == sorted(changed)
    assert main(words[1:]) == 130  # and it is a command
    assert capsys.readouterr().out.split("go on: ")[1] == said


def test_data_list_and_fetch(tmp_path, capsys):
    assert main(["data", "list"]) == 0
    assert "topics" in capsys.readouterr().out
    out = str(tmp_path / "topics")
    assert main(["data", "fetch", "topics", "--out", out, "--json"]) == 0
    (path,) = only_json(capsys)["files"]
    assert os.path.getsize(path) > 100_000
    refuse(capsys, "data", "fetch", "topics", "--out", out)
    refuse(capsys, "data", "fetch", "nothing")
    refuse(capsys, "data", "fetch")


def texts(folder):
    """Texts that cannot be trained on, and what the complaint must name."""
    made = {
        "missing.txt": None,
        "empty.txt": b"",
        "one.txt": b"a",
        "latin.txt": b"caf\xe9 " * 100,
    }
    for name, content in made.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return {
        "missing.txt": "does not exist",
        "empty.txt": "empty",
        "one.txt": "1 character",
        "latin.txt": "offset 3",
        ".": "a directory",
    }


def test_texts_that_cannot_be_trained_on(tmp_path, capsys):
    for name, words in texts(tmp_path).items():
        out = tmp_path / "run"
        line = refuse(capsys, "train", str(tmp_path / name), "--out", str(out))
        assert words in line, (name, line)
        assert not out.exists(), "nothing half-written"
    assert "--bytes" in refuse(capsys, "train", str(tmp_path / "latin.txt"), "--out", str(out))


def test_folders_that_are_not_what_they_should_be(run, text, tmp_path, capsys):
    assert "--resume" in refuse(capsys, "train", text, "--out", run)
    assert "nothing there" in refuse(capsys, "eval", str(tmp_path / "no"))
    assert "without config.toml" in refuse(capsys, "sample", str(tmp_path))
    assert "a file" in refuse(capsys, "sample", text)
    assert "nothing there" in refuse(capsys, "train", "--resume", str(tmp_path / "no"))


def test_prompts_the_model_cannot_read(run, capsys):
    assert "'ß' (U+00DF) at 2" in refuse(capsys, "sample", run, "--prompt", "sh\u00df")
    refuse(capsys, "sample", run, "--prompt", "")
    refuse(capsys, "sample", run, "--temperature", "-1")
    refuse(capsys, "sample", run, "--top-k", "0")
    refuse(capsys, "sample", run, "--length", "-1")
    assert "seed < 2^64" in refuse(capsys, "sample", run, "--seed", str(2**64))


@pytest.mark.parametrize(
    "words",
    [
        ["--hidden", "0"],
        ["--hidden", "many"],
        ["--lr", "-1"],
        ["--dropout", "1.5"],
        ["--k", "0"],
        ["--batch", "0"],
        ["--minutes", "0"],
        ["--steps", "5", "--epochs", "1"],
        ["--cell", "transformer"],
        ["--colour", "red"],
        ["--clip", "0"],
        ["--model", "attention", "--hidden", "6"],
    ],
    ids=" ".join,
)
def test_settings_out_of_range(words, text, tmp_path, capsys):
    out = tmp_path / "run"
    refuse(capsys, "train", text, "--out", str(out), *words)
    assert not out.exists()


def test_damaged_runs(run, tmp_path, capsys):
    damaged = tmp_path / "run"
    shutil.copytree(run, damaged)
    config = (damaged / "config.toml").read_text()
    (damaged / "config.toml").write_text(config.replace("hidden = 12", "hidden = 13"))
    assert "config.toml does not fit its checksum" in refuse(capsys, "eval", str(damaged))
    sealed_anew(damaged, "config.toml", config.replace("hidden = 12", "hidden = 13"))
    assert "weights that fit" in refuse(capsys, "eval", str(damaged))
    sealed_anew(damaged, "config.toml", "hidden = ")
    assert "TOML" in refuse(capsys, "eval", str(damaged))
    sealed_anew(damaged, "vocabulary.json", '{"kind": "characters", "symbols": 3}')
    sealed_anew(damaged, "config.toml", config)
    assert "vocabulary" in refuse(capsys, "eval", str(damaged))
    shutil.rmtree(damaged / "checkpoints")
    sealed_anew(damaged, "vocabulary.json", '{"kind": "bytes"}')
    assert "a checkpoint in" in refuse(capsys, "eval", str(damaged))


def test_ctrl_c_ends_cleanly_with_a_checkpoint(text, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "bptt", "train", text, "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--hidden", "8", "--batch", "2", "--k", "8", "--steps", "1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    metrics = out / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size > 0):
        assert time.monotonic() < deadline, "training never began"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == ""
    assert f"--resume {out}" in stdout
    assert len(list((out / "checkpoints").glob("step-*"))) >= 1


def test_export_to_c_runs_and_int8_says_what_it_costs(run, tmp_path, capsys):
    from c_code import call

    out = str(tmp_path / "c")
    assert main(["export", run, "--to", "c", "--out", out, "--name", "shells"]) == 0
    assert "shells.c" in capsys.readouterr().out
    assert call("make", "-s", "-C", out, "run").startswith("ok:")
    header = (tmp_path / "c" / "shells.h").read_text()
    assert '#define SHELLS_SYMBOLS { \\\n    "\\357\\277\\275", "\\012", " ",' in header

    out = str(tmp_path / "int8")
    words = ["--precision", "int8", "--measure", "100", "--json"]
    assert main(["export", run, "--to", "c", "--out", out, *words]) == 0
    document = only_json(capsys)
    assert document["files"] == ["Makefile", "example.c", "model.c", "model.h"]
    assert document["cost"]["steps"] == 100
    assert abs(document["cost"]["more_bits"]) < 0.02
    assert call("make", "-s", "-C", out, "run").startswith("ok:")


@pytest.mark.parametrize("cell", ["mingru", "lru"])
def test_export_of_linear_recurrences(cell, text, tmp_path, capsys):
    from c_code import call

    run, out = str(tmp_path / "run"), str(tmp_path / "c")
    words = [
        "--cell",
        cell,
        "--layers",
        "2",
        "--hidden",
        "6",
        "--steps",
        "3",
        "--batch",
        "2",
        "--k",
        "8",
    ]
    assert main(["train", text, "--out", run, *words, "--json"]) == 0
    assert main(["export", run, "--to", "c", "--out", out]) == 0
    assert call("make", "-s", "-C", out, "run").startswith("ok:")
    capsys.readouterr()
    said = refuse(
        capsys,
        "export",
        run,
        "--to",
        "c",
        "--precision",
        "int8",
        "--measure",
        "0",
        "--calibration",
        "1000",
    )
    assert f"{'MinGRU' if cell == 'mingru' else 'LRU'} at recurrent" in said
    assert "layers that ONNX has" in refuse(capsys, "export", run, "--to", "onnx")
    assert not (tmp_path / "run-int8").exists()


def test_export_to_onnx(run, tmp_path, capsys):
    out = tmp_path / "model.onnx"
    assert main(["export", run, "--to", "onnx", "--out", str(out), "--json"]) == 0
    assert only_json(capsys)["bytes"] == out.stat().st_size > 0


def test_export_refuses(run, tmp_path, capsys):
    assert "holds" in refuse(capsys, "export", run, "--to", "c", "--out", run)
    assert "C identifier" in refuse(capsys, "export", run, "--to", "c", "--name", "2fast")
    assert "--to onnx" in refuse(capsys, "export", run, "--to", "onnx", "--precision", "int8")
    few = ["--precision", "int8", "--calibration", "10", "--out", str(tmp_path / "new")]
    assert "1000 steps" in refuse(capsys, "export", run, "--to", "c", *few)
    assert list(tmp_path.iterdir()) == []


def test_a_large_text_is_read_with_a_word_and_encoded_beside_the_run(tmp_path, capsys, monkeypatch):
    from bptt.cli import text as cli_text

    path, out = tmp_path / "text.txt", tmp_path / "runs" / "one"
    path.write_text("a rose is a rose is a rose\n" * 40)
    opened = Corpus.open
    monkeypatch.setattr(cli_text, "LARGE", 1)  # so that a small text is a large one
    monkeypatch.setattr(Corpus, "open", partial(opened, in_memory_below=0))
    small = ["--hidden", "4", "--batch", "2", "--k", "8", "--steps", "1", "--sample", "0"]
    assert main(["train", str(path), "--out", str(out), *small, "--json"]) == 0
    captured = capsys.readouterr()
    assert "reading the text" in captured.err
    assert json.loads(captured.out)["steps"] == 1  # stdout holds the document and nothing else
    (folder,) = (tmp_path / "runs" / ".texts").iterdir()
    assert (folder / "tokens.bin").stat().st_size == path.stat().st_size
    assert main(["eval", str(out), "--json"]) == 0
    assert "reading the text" not in capsys.readouterr().err  # found where it was left


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--hidden", "1000000000"],
        ["train", "--layers", "1000000000"],
        ["train", "--batch", "1000000000", "--partition", "random"],
        ["train", "--k", "1000000000", "--partition", "random"],
        ["train", "--threads", "100000000"],
        ["train", "--model", "attention", "--context", "1000000000000"],
        ["train", "--out", "x" * 5000],
        ["compare", "copy", "--seeds", "1000000000"],
        ["compare", "copy", "--lengths", "10000000000"],
        ["compare", "copy", "--out", "/dev/zero"],
        ["bench", "--hidden", "10000000"],
        ["bench", "--threads", "100000000"],
        ["claims", "--known", "/dev/zero"],
        ["eval", "a\0b"],
    ],
)
def test_absurd_sizes_and_names_end_in_a_line(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "expected" in said
    assert list(tmp_path.iterdir()) == []  # nothing was begun
