"""Commands that read a run's own text again, from anywhere; escapes, line ends and unknown characters."""

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

from bptt.cli import main
from bptt.cli.parse import unescape
from bptt.training import RunFolder

TEXT = "".join(f"she sells {n} sea shells.\n" for n in range(150))
SMALL = ["--hidden", "6", "--batch", "3", "--k", "8", "--steps", "4", "--sample", "0"]
# Every command that reads the text of a run again.
READERS = {
    "eval": ["eval", "RUN", "--json"],
    "diagnose": ["diagnose", "RUN", "--try-for", "0", "--steps", "16", "--lanes", "2", "--json"],
    "export": ["export", "RUN", "--to", "c", "--precision", "int8", "--calibration", "1000", "--json"],
    "train": ["train", "--resume", "RUN", "--steps", "6", "--json"],
}  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A directory with a text and a run in it, begun there by relative names."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("its_text.txt").write_text(TEXT)
    assert main(["train", "its_text.txt", *SMALL, "--out", "r", "--json"]) == 0
    return folder


def words_of(name, run):
    return [str(run) if word == "RUN" else word for word in READERS[name]]


def answered(capsys, *words):
    """Run a command that must end well; what it printed to stdout and to stderr."""
    capsys.readouterr()
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return captured.out, captured.err


def refused(capsys, *words):
    """Run a command that must fail; return its one line."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize("name", READERS)
def test_from_another_directory(name, home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "its_text.txt").write_text(TEXT.replace("sea", "hat"))  # another one of that name
    answered(capsys, *words_of(name, os.path.join("home", "r")))


@pytest.mark.parametrize("text", [TEXT.replace("shells", "snails", 1), TEXT + "e", None])
@pytest.mark.parametrize("name", READERS)
def test_a_changed_text_is_refused_and_the_remedy_works_as_it_is_printed(name, text, home, capsys):
    os.rename("its_text.txt", "as it was.txt")
    if text is not None:
        Path("its_text.txt").write_text(text)
    before = {p: p.read_bytes() for p in Path("r").rglob("*.json*")}
    line = refused(capsys, *words_of(name, "r"))
    assert (
        f"bptt {name}: expected the text that r was trained on, 'its_text.txt', received " in line
    )
    assert ("no such file in" if text is None else "another text: ") in line
    assert {p: p.read_bytes() for p in Path("r").rglob("*.json*") if p.name[0] != "."} == {
        p: data for p, data in before.items() if p.name[0] != "."
    }
    command = shlex.split(line[line.rindex("bptt ") :])
    command[command.index("FILE")] = "as it was.txt"
    assert command[:2] == ["bptt", name]
    more = {"train": ["--steps", "6", "--sample", "0"], "diagnose": ["--try-for", "0"]}
    answered(capsys, *command[1:], *more.get(name, []))


@pytest.mark.parametrize("name", READERS)
def test_another_file_as_the_runs_own_text_is_refused(name, home, capsys):
    Path("other.txt").write_text(TEXT + "e")
    given = ["other.txt"] if name == "train" else ["--text", "other.txt"]
    assert "received another text" in refused(capsys, *words_of(name, "r"), *given)
    given[-1] = "nothing.txt"
    assert "does not exist" in refused(capsys, *words_of(name, "r"), *given)


def test_a_resume_names_its_text_by_place_and_the_words_to_go_on_hold_it(
    home, tmp_path, monkeypatch
):
    from bptt.cli.train import _settings, gather

    shutil.move("its_text.txt", "moved.txt")
    words = ["moved.txt", "--resume", "r", "--steps", "9"]
    settings, resume, changed = _settings(gather(words).parse(), gather(words))
    assert settings.files == (str(home / "moved.txt"),)
    assert (resume, changed) == ("r", [str(home / "moved.txt"), "--steps", "9"])
    # A name that was the text's, typed where it is that of another one, is not taken for it.
    os.rename("moved.txt", "its_text.txt")
    monkeypatch.chdir(tmp_path)
    Path("its_text.txt").write_text(TEXT + "e")
    assert main(["train", "its_text.txt", "--resume", "home/r", "--steps", "9"]) == 2


def test_options_that_do_not_go_together(home, capsys):
    assert "one of them out" in refused(
        capsys, "eval", "r", "its_text.txt", "--text", "its_text.txt"
    )
    for name in ("eval", "diagnose"):
        assert "--line-ends with a FILE" in refused(capsys, name, "r", "--line-ends", "unix")
    words = ["export", "r", "--to", "c", "--text", "its_text.txt"]
    assert "--text with --precision int8" in refused(capsys, *words)
    line = refused(capsys, "train", "--resume", "r", "--line-ends", "unix")
    assert "the run's own --line-ends" in line


def test_the_encoding_of_a_large_text_lies_beside_the_run_wherever_the_command_is_started(
    home, tmp_path, monkeypatch, capsys
):
    from functools import partial

    from bptt.data import Corpus

    monkeypatch.setattr(Corpus, "open", partial(Corpus.open, in_memory_below=0))
    monkeypatch.chdir(tmp_path)
    answered(capsys, "eval", "home/r")
    answered(capsys, "eval", "home/r", "home/its_text.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert len(list((home / ".texts").iterdir())) == 2


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (r"\n\n", "\n\n"),
        (r"a\tb\rc", "a\tb\rc"),
        (r"\\n", r"\n"),
        (r"\\\n", "\\\n"),
        (r"\d\x41\u00e9", r"\d\x41\u00e9"),
        ("\n", "\n"),
        ("ends with \\", "ends with \\"),
        ("", ""),
    ],
)
def test_escapes(typed, meant):
    assert unescape(typed) == meant


@pytest.mark.parametrize("form", [["--documents", r"\n\n"], [r"--documents=\n\n"]])
def test_documents_as_a_shell_hands_them_over(form, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("its_text.txt").write_text("one cat\n\ntwo dogs\n\n" * 60)
    out, _ = answered(capsys, "train", "its_text.txt", *SMALL, *form, "--out", "r")
    assert "120 documents" in out.splitlines()[0]
    assert RunFolder("r").read_settings().documents == "\n\n"
    out, _ = answered(capsys, "train", "--resume", "r", "--steps", "6", "--sample", "0")
    assert "120 documents" in out.splitlines()[0]
    out, _ = answered(capsys, "sample", "r", "--prompt", r"cat\ntwo", "--length", "3", "--json")
    assert json.loads(out)["prompt"] == "cat\ntwo"
    out, _ = answered(capsys, "sample", "r", r"--prompt=cat\ntwo", "--length", "3")
    assert out.startswith("cat\ntwo")


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize("separator", ["nowhere", r"\t", r"end.\n"])
def test_a_separator_that_begins_no_document_is_refused(
    separator, files, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    names = [f"{n}.txt" for n in range(files)]
    for name in names:
        Path(name).write_text("one cat two dogs\n" * 60 + "the end.\n")
    line = refused(capsys, "train", *names, *SMALL, "--documents", separator, "--out", "r")
    assert f"the separator of --documents, {unescape(separator)!r}" in line
    assert not Path("r").exists()


def test_files_are_documents_and_one_file_is_not_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt"):
        Path(name).write_text(TEXT)
    out, _ = answered(capsys, "train", "a.txt", "b.txt", *SMALL, "--out", "two")
    assert "2 documents" in out.splitlines()[0]
    out, _ = answered(capsys, "train", "a.txt", *SMALL, "--out", "one")
    assert "document" not in out.splitlines()[0]


ENDS = {"windows": "\r\n", "mac": "\r"}


@pytest.mark.parametrize("as_bytes", [[], ["--bytes"]])
@pytest.mark.parametrize("end", ENDS)
def test_line_ends_are_told_when_a_text_is_trained_on(end, as_bytes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("its_text.txt").write_text(TEXT.replace("\n", ENDS[end]), newline="")
    Path("unix.txt").write_text(TEXT)
    out, _ = answered(capsys, "train", "its_text.txt", *SMALL, *as_bytes, "--out", "kept")
    said = {"windows": r"135 of its lines end with \r\n", "mac": r"135 \r stand alone"}[end]
    assert said in out.splitlines()[1]
    assert "--line-ends unix" in out.splitlines()[1]
    out, _ = answered(capsys, "train", "--resume", "kept", "--steps", "6", "--sample", "0")
    assert "--line-ends" not in out, "a run that goes on cannot change it any more"
    words = [*SMALL, *as_bytes, "--json"]
    more = [*words, "--line-ends", "unix", "--out", "made-unix"]
    _, err = answered(capsys, "train", "its_text.txt", *more)
    assert "--line-ends" not in err
    answered(capsys, "train", "unix.txt", *words, "--out", "was-unix")
    for run in ("made-unix", "was-unix"):  # the same text, the same run
        out, _ = answered(capsys, "eval", run, "--json")
        assert json.loads(out) == json.loads(Path("was-unix/result.json").read_text())["final"]
    # Its own reading holds for other texts too, unless it is told otherwise.
    scores = [
        json.loads(answered(capsys, "eval", "made-unix", *more, "--json")[0])
        for more in (["its_text.txt"], ["unix.txt"], ["its_text.txt", "--line-ends", "keep"])
    ]
    assert scores[0] == scores[1]
    assert (scores[0] == scores[2]) is False


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", ["eval", "diagnose"])
def test_line_ends_that_a_model_does_not_know_are_named_with_what_to_do(name, end, home, capsys):
    Path("other.txt").write_text(TEXT.replace("\n", ENDS[end]), newline="")
    words = [name, "r", "other.txt", *READERS[name][2:-1]]
    out, _ = answered(capsys, *words)
    assert r"150 of them are unknown to the model and scored as one symbol: '\r' 150" in out
    (line,) = [line for line in out.splitlines() if "--line-ends unix" in line]
    command = shlex.split(line[line.index(f"bptt {name}") :])
    out, _ = answered(capsys, *command[1:], *READERS[name][2:])
    plain, _ = answered(capsys, name, "r", "its_text.txt", *READERS[name][2:])
    assert json.loads(out) == json.loads(plain)
    out, err = answered(capsys, *words, "--json")
    assert json.loads(out), "one document on stdout and nothing else"
    assert "'\\r' 150" in err


def test_unknown_symbols_are_named_the_most_frequent_first(home, capsys):
    Path("other.txt").write_text("ß" * 3 + "é" * 5 + "\x1b" * 4 + "QWXYZ" + "she sells")
    out, _ = answered(capsys, "eval", "r", "other.txt")
    assert r"17 of them are unknown to the model" in out
    assert r"'é' 5, '\x1b' 4, 'ß' 3, 'Q' 1, 'W' 1 and 3 more symbols" in out
    assert "--line-ends" not in out
    assert "\x1b" not in out
    out, _ = answered(capsys, "eval", "r", "other.txt", "--json")
    assert json.loads(out)["unknown"] == {"é": 5, "\x1b": 4, "ß": 3} | dict.fromkeys("QWXYZ", 1)


def test_unknown_symbols_of_the_held_out_part_alone_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("its_text.txt").write_text(TEXT + "é\r\n", newline="")
    answered(capsys, "train", "its_text.txt", *SMALL, "--out", "r", "--json")
    out, _ = answered(capsys, "eval", "r")
    assert out.splitlines()[1].endswith(r"as one symbol: '\r' 1, 'é' 1")
    assert "--line-ends" not in out, "it is the run's own text, and is scored as it was"
