"""Every command's help and complaints: words a person can read, at any width, before torch is loaded."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module

import pytest

from bptt.choices import STARTS
from bptt.cli import COMMANDS, main
from bptt.cli.help import find_fault, help_lines, options_of, overview_lines
from bptt.cli.parse import parse
from bptt.errors import ArgumentError
from processes import interpreter

WIDTHS = [60, 80, 140]
# What tyro and Python would say, and no person.
FOREIGN = re.compile(
    r"None|\{|\}|\[\[|STR|INT\b|FLOAT|Literal|argument|invalid|Unrecognized|_|tuple|Expected|MISSING"
)


def kind_of(name):
    return getattr(import_module(f"bptt.cli.{name}"), name.capitalize())


def helped(name, columns):
    return [line for line, _ in help_lines(kind_of(name), name, columns)]


@pytest.fixture(scope="module", params=COMMANDS)
def command(request):
    return request.param


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_help_keeps_its_width_and_its_tongue(command, columns):
    lines = helped(command, columns)
    assert max(map(len, lines)) <= columns
    text = " ".join(" ".join(lines).split()).replace("BPTT_HIDDEN", "").replace("ledger", "")
    known = [o.told for o in options_of(kind_of(command))]  # names that a person types are words
    foreign = [w for w in FOREIGN.findall(text) if not any(f"`{w}`" in told for told in known)]
    assert foreign == [] or set(foreign) <= {"_"}, foreign
    assert "(default: None)" not in text
    assert "…," not in text


def test_every_option_is_told_with_its_default(command):
    for option in options_of(kind_of(command)):
        assert option.text, option.name
        assert option.text[-1] == "."
        assert "default" in option.told or "required" in option.told or not option.flag, option.told
        assert "(default: default)" not in option.told
        assert option.metavar.strip("|") == option.metavar != ""
        for choice in option.choices:
            assert re.search(
                rf"(?<![\w-]){re.escape(choice)}(?![\w-])", f"{option.usage} {option.told}"
            )


def test_every_option_stands_in_the_help_once(command):
    lines = helped(command, 140)
    heads = [line.split()[0] for line in lines if re.match(r"  --", line)]
    assert heads == [option.flag for option in options_of(kind_of(command)) if option.flag]
    assert "-h, --help" in lines[-1]


def test_groups_begin_at_fields_that_there_are(command):
    kind = kind_of(command)
    groups = getattr(kind, "groups", {})
    assert set(groups) <= {field.name for field in dataclasses.fields(kind)}
    titles = [line for line, style in help_lines(kind, command, 80) if style == "bold"]
    assert titles == [f"{title}:" for title in groups.values()] or titles == ["options:"]


def test_a_field_that_is_added_falls_into_the_group_in_which_it_stands():
    from bptt.training.settings import Settings

    @dataclasses.dataclass(frozen=True)
    class More(Settings):
        """A command of tomorrow."""

        groups = {"model": "first", "added": "second"}  # noqa: RUF012 - as a class variable is written
        added: int | None = None
        """Something new."""
        beside: str = "a"
        """Something else."""

    by_name = {option.name: option for option in options_of(More)}
    assert by_name["hidden"].group == "first"
    assert by_name["added"].group == by_name["beside"].group == "second"
    assert by_name["added"].usage == "--added N"
    assert by_name["added"].told == "Something new (default: none)."


@pytest.mark.parametrize("columns", WIDTHS)
def test_an_example_is_a_command_that_works_as_it_is_copied(command, columns):
    lines = helped(command, columns)
    begin = next(n for n, line in enumerate(lines) if line.startswith("Example: "))
    end = lines.index("", begin)
    typed = "\n".join(lines[begin:end]).removeprefix("Example: ")
    words = shlex.split(typed.replace("\\\n", ""))  # as a shell reads it
    assert words[:2] == ["bptt", command]
    parse(kind_of(command), command, words[2:])


def test_help_is_asked_for_in_any_way(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    printed = []
    for words in ([command, "--help"], [command, "-h"], ["help", command]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 0
        printed.append(capsys.readouterr().out)
    assert len(set(printed)) == 1
    assert printed[0].splitlines() == helped(command, 80)


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_overview_keeps_its_width_and_names_all(columns, capsys, monkeypatch):
    lines = [line for line, _ in overview_lines(COMMANDS, columns)]
    assert max(map(len, lines)) <= columns
    assert [line.split()[0] for line in lines if re.match(r"  [a-z]", line)][: len(COMMANDS)] == [
        *COMMANDS
    ]
    monkeypatch.setenv("COLUMNS", str(columns))
    for words in (["help"], ["--help"], ["-h"]):
        assert main(words) == 0
        assert capsys.readouterr().out.splitlines() == lines


def slips(word):
    """The word with a slip: a letter left out, two in the wrong order, one twice; its beginning."""
    yield word[:-2] + word[-1]
    yield word[:-2] + word[-1] + word[-2]
    yield word + word[-1]
    yield word[0] + word[2:]
    yield word[: len(word) // 2 + 1]


def test_a_misspelt_option_is_found(command):
    kind = kind_of(command)
    flags = [option.flag for option in options_of(kind) if option.flag]
    for flag in (flag for flag in flags if len(flag) > 5):
        for slip in (f"--{word}" for word in slips(flag[2:])):
            if slip in flags:
                continue
            fault = find_fault(kind, command, [slip, "1"])
            assert fault is not None
            assert fault.received == slip
            meant = re.fullmatch(r"did you mean (--[a-z0-9-]+)\?", fault.remedy)
            assert meant, (slip, fault)
            # Where two options are as near, either will do; the one that was cut off begins like it.
            assert meant[1] == flag or len(flag) < 8 or meant[1].startswith(slip[:4]), (slip, fault)


@pytest.mark.parametrize(
    ("command", "typed", "meant"),
    [
        ("train", "--cel", "--cell"),
        ("train", "--learning-rate", "--lr"),
        ("train", "--batch-size", "--batch"),
        ("train", "--hidden-size", "--hidden"),
        ("train", "--num-layers", "--layers"),
        ("train", "--output", "--out"),
        ("train", "--hidden_sise", "--hidden"),
        ("sample", "--topk", "--top-k"),
        ("sample", "--temp", "--temperature"),
        ("bench", "--cell", "--cells"),
        ("lab", "--open", "--no-open"),
        ("train", "--hepl", "--help"),
    ],
)
def test_an_option_of_another_name_is_found(command, typed, meant, capsys):
    assert main([command, typed, "1"]) == 2
    shown = typed.replace("_", "-")
    said = f"bptt {command}: expected an option of bptt {command}, received {shown}: "
    assert capsys.readouterr().err == f"{said}did you mean {meant}?\n"


@pytest.mark.parametrize("typed", ["--colour", "-x", "--zzz=3"])
def test_an_option_that_nobody_meant_names_the_list(command, typed, capsys):
    needed = {"export": ["r", "--to", "c"], "data": ["list"], "lab": []}.get(command, ["r"])
    assert main([command, *needed, typed]) == 2
    err = capsys.readouterr().err
    if "did you mean" not in err:
        assert err.endswith(f"bptt help {command} lists them\n")
    assert f"an option of bptt {command}, received {typed.partition('=')[0]}: " in err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_misspelt_command_is_found(name, capsys):
    for slip in slips(name):
        for words in ([slip, "a.txt"], ["help", slip]):
            if slip in COMMANDS or len(slip) < 3:
                continue
            assert main(words) == 2
            err = capsys.readouterr().err
            assert re.fullmatch(
                rf"bptt: expected a command, received '{slip}': did you mean bptt [a-z]+\?\n", err
            )
            assert f"bptt {name}?" in err or len(slip) < 5, err


def test_a_command_that_nobody_meant(capsys):
    assert main(["fly"]) == 2
    err = capsys.readouterr().err
    assert err == "bptt: expected a command, received 'fly': bptt help lists them\n"


def refused(kind, name, words):
    with pytest.raises(ArgumentError) as caught:
        parse(kind, name, words)
    return caught.value


def test_every_option_refuses_what_it_cannot_take_in_plain_words(command):
    """tyro's own sentence is never what is left."""
    kind = kind_of(command)
    needed = [f"r{n}" for n, o in enumerate(options_of(kind)) if not o.flag and o.required]
    needed = ["list"] if command == "data" else needed
    to = ["--to", "c"] if command == "export" else []
    for option in options_of(kind):
        if not option.flag:
            continue
        more = [] if option.flag == "--to" else to
        wrong = []
        if option.switch:
            wrong = [[f"{option.flag}=1"]]
        elif not option.many:
            wrong = [[option.flag], [option.flag, "--json"]]
        if option.choices or (option.kinds and str not in option.kinds and not option.switch):
            wrong.append([option.flag, "what-is-none"])
            wrong.append([f"{option.flag}=what-is-none"])
        for words in wrong:
            error = refused(kind, command, [*needed, *more, *words])
            assert option.flag in f"{error.expected} {error.remedy}", (words, str(error))
            assert not FOREIGN.search(str(error)), str(error)
            assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample"], "expected RUN, received nothing: write bptt sample RUN"),
        (["export", "r"], "expected --to with one of c, onnx, received none: add --to c|onnx"),
        (["export", "r", "--to", "onyx"], "one of c, onnx for --to, received 'onyx': did you mean onnx?"),
        (["data", "fetsh"], "one of list, fetch as list|fetch, received 'fetsh': did you mean fetch?"),
        (["sample", "a", "b"], "expected RUN for bptt sample, received 'b' as well: leave that out"),
        (["train", "--cell", "x"], "gru, lstm, mingru, lru for --cell, received 'x': change --cell"),
        (["train", "--cell", "lstn"], "received 'lstn': did you mean lstm?"),
        (["train", "--hidden", "many"], "a whole number for --hidden, received 'many': change --hidden"),
        (["train", "--hidden", "1.5"], "a whole number for --hidden, received '1.5': change --hidden"),
        (["train", "--lr", "fast"], "expected a number for --lr, received 'fast': change --lr"),
        (["train", "--lr"], "expected NUMBER after --lr, received nothing: write --lr NUMBER"),
        (["train", "--out", "--json"], "FOLDER after --out, received --json: write --out FOLDER"),
        (["train", "--json=yes"], "expected --json by itself, received '--json=yes': write --json"),
        (["train", "--init", "orthogonl"], "received 'orthogonl': did you mean orthogonal?"),
        (["compare", "copy", "--clips", "atuo:10"], "did you mean auto?"),
        (["bench", "--hidden", "8", "x"], "expected a whole number for --hidden, received 'x'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_is_said_of_a_wrong_word(words, said, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"bptt {words[0]}: expected ")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["a", "--cells", "gru", "lstm"], ("gru", "lstm")),
        (["--cells", "gru", "lstm", "a"], ("gru", "lstm")),
        (["--cells=gru", "lstm", "a"], ("gru", "lstm")),
    ],
)
def test_what_is_right_is_left_alone(words, found):
    """The search for a fault is for words that were not understood; these are."""
    asked = parse(kind_of("compare"), "compare", words)
    assert (asked.task, asked.cells) == ("a", found)
    assert parse(kind_of("sample"), "sample", ["r", "--temperature", "1e-3"]).temperature == 0.001
    assert parse(kind_of("sample"), "sample", ["r", "--top_k", "3"]).top_k == 3


# Nothing that is wrong waits for torch. Each line is one mistake; all of them in one process.
WRONG = [
    ["trian"], ["help", "trian"], ["train", "--cel", "x"], ["train", "--cell", "x"],
    ["train", "--hidden", "many"], ["train", "--hidden", "0"], ["train", "--hidden"],
    ["train", "--steps", "3", "--epochs", "1"], ["train", "--forget-bias", "1"],
    ["train", "missing.txt"], ["train", "empty.txt"], ["train", "."],
    ["train", "--resume", "missing"], ["train", "--resume", "."], ["train", "--config", "missing.toml"],
    ["train", "--clip", "atuo:10"], ["train", "--k", "8", "--chunk", "4"],
    ["sample", "missing"], ["sample", "."], ["sample", "missing", "--length", "-1"],
    ["sample", "r", "--raw", "--json"], ["eval", "missing"], ["eval"], ["diagnose", "missing"],
    ["export", "missing", "--to", "c"], ["export", "missing", "--to", "onnx", "--precision", "int8"],
    ["runs", "missing"], ["runs", "--json", "--csv"], ["compare", "nothing"],
    ["compare", "copy", "--cells", "what"], ["compare", "copy", "--figure", "a.doc"],
    ["compare", "copy", "--html", "no/such/folder.html"], ["ladder", "missing.txt"],
    ["ladder", "--rungs", "what"], ["bench", "--cells", "what"], ["bench", "--seconds", "0"],
    ["claims", "--jobs", "0"], ["claims", "--markdown", "no/such/page.md"], ["remake"],
    ["remake", "--jobs", "0"],
    ["remake", "clipping", "--all"], ["lab", "what"], ["lab", "--port", "x"], ["data"],
    ["data", "fetch"], ["data", "fetch", "nothing"], ["data", "list", "topics"],
    *([name, "--colour"] for name in COMMANDS),
    *(["train", "--device", "gpu"], ["sample", ".", "--device", "cuda:x"]),
    *([name, ".", "--device", "gpu"] for name in ("eval", "diagnose", "ladder", "forecast")),
    ["compare", "copy", "--device", "gpu"],
]  # fmt: skip
WITHOUT_TORCH = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from bptt.cli import main
loaded = []
for words in json.loads(sys.argv[1]):
    err = io.StringIO()
    with redirect_stderr(err), redirect_stdout(io.StringIO()):
        try:
            status = main(words)
        except SystemExit as stop:
            status = stop.code
    right = 0 if words[-1] == "--help" else 2
    said = (err.getvalue().count("\\n"), "expected" in err.getvalue())
    if status != right or (status and said != (1, True)):
        loaded.append([words, status, err.getvalue()])
    if "torch" in sys.modules:
        loaded.append([words, "torch"])
        break
print(json.dumps(loaded))
"""


def test_no_help_and_no_mistake_waits_for_torch(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    helps = [[name, "--help"] for name in COMMANDS]
    done = subprocess.run(
        [*interpreter(), "-c", WITHOUT_TORCH, json.dumps(helps + WRONG)],
        capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert json.loads(done.stdout) == []


@pytest.mark.timing
@pytest.mark.parametrize(
    "words",
    [["train", "--cell", "x"], ["train", "--cel", "x"], ["train", "missing.txt"], ["trian"],
     ["sample", "missing"], ["train", "--steps", "3", "--epochs", "1"], ["train", "--help"]],
    ids=" ".join,
)  # fmt: skip
def test_an_answer_takes_less_than_half_a_second(words, tmp_path):
    """The processor's time: what another process takes away is not ours. The best of three."""
    taken = []
    for _ in range(3):
        child = subprocess.Popen(
            [*interpreter(), "-m", "bptt", *words], cwd=tmp_path,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == (0 if words[-1] == "--help" else 2)
        taken.append(used.ru_utime + used.ru_stime)
    assert min(taken) < 0.5


CELLS = ("rnn", "rnn-relu", "gru", "lstm", "mingru", "lru")
WAYS = [
    *(["--init", f"{name}:9" if name in ("forget", "chrono") else name] for name in STARTS),
    ["--orthogonal"], ["--regularise", "omega"], ["--regularise", "floss"],
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_a_cell_that_a_way_is_not_for_is_refused_in_flags_and_no_other(way):
    """What the settings refuse is what building and training the model refuse, in the words typed."""
    import torch

    from bptt.remedies.penalties import build_regulariser
    from bptt.training.build import build_model
    from bptt.training.settings import Settings

    def fails(settings):
        try:
            model = build_model(settings, 5)
            if settings.regularise:
                with build_regulariser(settings.regularise).on(model):
                    model(torch.zeros(4, 2, dtype=torch.long))[0].sum().backward()
        except ArgumentError:
            return True
        return False

    for cell in CELLS:
        error = None
        try:
            parse(kind_of("train"), "train", ["--cell", cell, *way])
        except ArgumentError as raised:
            error = raised
        if error is not None:
            said = " ".join(way).partition(":")[0]
            assert error.expected.startswith(f"{said} with --cell "), error
            assert error.received == f"--cell {cell}"
            assert "LanguageModel" not in str(error)
        name, value = (way[0][2:], way[1] if len(way) > 1 else True)
        settings = Settings(hidden=4, layers=1, embedding=3)
        for field, changed in ((name, value), ("cell", cell)):
            object.__setattr__(settings, field, changed)
        assert fails(settings) == (error is not None), (cell, way)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--model", "attention", "--hidden", "6"], "a multiple of 8, with --model attention,"),
        (["train", "--model", "ngram", "--order", "9"], "at most 8 tokens for --order, received 9"),
        (["train", "--threads", "x"], "a whole number or auto for --threads, received 'x': change"),
        (["compare", "copy", "--cells", "gruu"], "received 'gruu': did you mean gru?"),
        (["compare", "remmeber-first"], "did you mean remember-first?"),
        (["compare", "copy", "--curricula", "doubel"], "did you mean double?"),
        (["ladder", "--rungs", "bigrams"], "did you mean bigram?"),
        (["ladder", "--minutes", "1", "--steps", "2"], "expected --minutes or --steps, received both"),
        (["lab", "contractions"], "did you mean contraction?"),
        (["data", "fetch", "shakespere"], "did you mean shakespeare?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_is_said_of_a_wrong_name_or_size(words, said, capsys):
    assert main(words) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
