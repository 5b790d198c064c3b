"""What the command prints, on every kind of stdout: encodings, pipes that close, terminals."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bptt.cli import COMMANDS, main
from bptt.shown.text import printable
from processes import interpreter

TEXT = "größe “quoted” 日本語 😀 \n" * 200
SMALL = ["--steps", "2", "--hidden", "8", "--batch", "4", "--k", "8"]
ENCODINGS = ["ascii", "cp1252", "latin-1", "koi8-r", "utf-8"]
ATTACK = "\x1b]0;owned\x07\x1b[31m\x9b1m\r\b\u202e\u2066\x7f\x00"
# What rich writes to a terminal: styles, the cursor up and shown, lines erased.
OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[\d*[AK]|\r")


def train(folder: Path, text: str, *words: str) -> Path:
    (folder / "größe.txt").write_text(text, encoding="utf-8", newline="")
    command = ["train", str(folder / "größe.txt"), *SMALL, "--out", str(folder / "run")]
    assert main([*command, "--sample", "0", *words]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def letters(tmp_path_factory) -> Path:
    """A run on a text of many scripts."""
    return train(tmp_path_factory.mktemp("letters"), TEXT)


@pytest.fixture(scope="module")
def controls(tmp_path_factory) -> Path:
    """A run whose symbols are mostly what a terminal obeys."""
    return train(tmp_path_factory.mktemp("controls"), (ATTACK[:-1] + "ab") * 200)


def run(encoding, *words, errors="strict"):
    """The status of a command, and what stands on its stdout and stderr."""
    streams = [
        io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=each, newline="")
        for each in (errors, "backslashreplace")
    ]
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = streams
    try:
        status = main([str(word) for word in words])
    except SystemExit as stop:
        status = stop.code or 0
    finally:
        sys.stdout, sys.stderr = before
    for stream in streams:
        stream.flush()
    return status, *(stream.buffer.getvalue().decode(encoding) for stream in streams)


def commands(letters, folder):
    """Every command whose work is short, those that say no, and their helps."""
    text = str(letters.parent / "größe.txt")
    yield ["sample", letters, "--length", "100", "--seed", "1"]
    yield ["sample", letters, "--prompt", "größe", "--length", "30", "--seed", "1"]
    yield ["sample", letters, "--prompt", "ß\u0431"]
    yield ["eval", letters, text]
    yield ["diagnose", letters, "--try-for", "0", "--steps", "16", "--lanes", "2"]
    yield ["train", text, *SMALL, "--out", folder / "größe", "--sample", "50"]
    yield ["train", folder / "größe-ß.txt"]
    yield ["train", "--resume", folder / "日本"]
    yield ["export", letters, "--to", "c", "--out", folder / "größe-c"]
    yield ["data", "list"]
    yield ["claims", "--list"]
    yield ["claims", "Ω"]
    yield ["compare", "größe"]
    yield ["bench", "--cells", "größe"]
    yield ["lab", "größe"]
    yield ["größe"]
    yield ["--help"]
    yield from ([name, "--help"] for name in COMMANDS)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_letter_ends_a_command(letters, tmp_path, encoding):
    for words in commands(letters, tmp_path):
        status, out, err = run(encoding, *words)
        assert status in (0, 2), words
        assert "Traceback" not in err
        lines = err.splitlines()
        told = [line for line in lines if "are shown as escapes" in line]
        if encoding == "utf-8":
            assert told == []
            assert "\\u" not in out + err
        assert len(told) <= 1
        assert told == lines[-1:] or not told  # at the end, when all was written
        if status == 0 and re.search(r"\\[xuU][0-9a-f]", out):
            assert told, words


@pytest.mark.slow
def test_measuring_commands_end_with_their_tables_in_ascii(tmp_path):
    small = [
        "--cells",
        "gru",
        "--hidden",
        "8",
        "--modes",
        "train",
        "--seconds",
        "0.05",
        "--steps",
        "4",
    ]
    status, out, _ = run("ascii", "bench", *small)
    assert (status, "gru" in out) == (0, True)
    small = ["--cells", "gru", "--lengths", "5", "--seeds", "1", "--updates", "5", "--hidden", "4"]
    status, out, _ = run("ascii", "compare", "copy", *small, "--out", tmp_path / "c.jsonl")
    assert (status, "gru" in out) == (0, True)
    status, out, _ = run("ascii", "claims", "A1")
    assert (status, "holds" in out) == (0, True)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_sample_is_the_same_in_every_encoding_but_for_escapes(letters, encoding):
    words = ["sample", letters, "--length", "200", "--seed", "1"]
    status, out, err = run(encoding, *words, "--json")
    assert (status, err) == (0, "")  # JSON writes letters in a way of its own
    text = json.loads(out)["text"]
    assert len(text) == 200
    _, shown, _ = run(encoding, *words)
    assert shown == text.encode(encoding, "backslashreplace").decode(encoding) + "\n"


def test_bars_are_drawn_with_what_the_encoding_has(letters):
    words = ["diagnose", letters, "--try-for", "0", "--steps", "16", "--lanes", "2"]
    assert "###" in run("ascii", *words)[1]
    assert "\\u2588" not in run("cp1252", *words)[1]
    assert "███" in run("utf-8", *words)[1]


# The encodings of a process of its own: the locale decides how Python reads its arguments as well.
LOCALES = [
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "POSIX"},
    {"PYTHONIOENCODING": "cp1252:strict"},
]


@pytest.mark.parametrize(
    "more",
    [LOCALES[0], *(pytest.param(more, marks=pytest.mark.slow) for more in LOCALES[1:])],
    ids=str,
)
def test_a_prompt_is_read_and_shown_in_every_locale(letters, more):
    done = process(more, "sample", letters, "--prompt", "größe", "--length", "9", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    encoding = "utf-8" if more == {"LC_ALL": "POSIX"} else "ascii"
    encoding = "cp1252" if "cp1252" in str(more) else encoding
    text = done.stdout.decode(encoding)
    assert text.startswith("größe".encode(encoding, "backslashreplace").decode(encoding))


def process(more, *words, **options):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    command = [*interpreter(), "-m", "bptt", *map(str, words)]
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        command, env={**kept, "PYTHONPATH": path, **more}, capture_output=not options, **options
    )


PIPES = [["data", "list"], ["compare", "--help"], ["claims", "--list"]]


@pytest.mark.parametrize(
    "words", [PIPES[0], *(pytest.param(w, marks=pytest.mark.slow) for w in PIPES[1:])], ids=" ".join
)
def test_a_reader_that_goes_away_ends_a_command_in_silence(words):
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as file:
        done = process({}, *words, stdout=file, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.slow
def test_a_sample_is_cut_by_its_reader(letters):
    read, write = os.pipe()
    with open(write, "wb") as file, open(read, "rb") as head:
        command = [*interpreter(), "-m", "bptt", "sample", str(letters), "--length", "10000000"]
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE)
        file.close()
        assert head.read(10)
        head.close()
        assert child.communicate(timeout=60)[1] == b""
    assert child.returncode == 141


@pytest.mark.parametrize("words", [["data", "list"], ["eval", "--help"]], ids=" ".join)
def test_a_full_disk_behind_stdout_is_a_line(words):
    code = "import sys; from bptt.cli import main; sys.exit(main(sys.argv[1:]))"
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*interpreter(), "-c", code, *words], stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"received No space left on device" in done.stderr


def test_symbols_that_a_terminal_obeys_are_escapes_unless_they_are_asked_for(controls):
    words = ["sample", controls, "--length", "300", "--seed", "1", "--temperature", "9"]
    status, out, _ = run("utf-8", *words, "--json")
    text = json.loads(out)["text"]
    assert (status, printable(out)) == (0, out)
    assert {"\x1b", "\x9b", "\u202e"} <= set(text)
    assert run("utf-8", *words)[:2] == (0, printable(text) + "\n")
    assert run("utf-8", *words, "--raw")[:2] == (0, text + "\n")


def test_raw_is_for_a_text_and_not_for_a_document(controls):
    status, out, err = run("utf-8", "sample", controls, "--raw", "--json")
    assert (status, out) == (2, "")
    assert "expected --raw or --json, received both" in err


def test_lines_and_tabs_of_a_sample_stay(tmp_path):
    run_folder = train(tmp_path, "a\tb\n" * 300)
    text = run("utf-8", "sample", run_folder, "--length", "100", "--seed", "1")[1]
    assert {"\t", "\n"} <= set(text)
    assert "\\" not in text


def named(controls, folder):
    """Commands that show a name given by the user, by a file or by a run."""
    hostile = folder / f"a{ATTACK[:-1]}[bold]\n.txt"
    hostile.write_text("ab" * 500)
    out = folder / f"run{ATTACK[:-1]}\n[/]"
    yield ["train", hostile, *SMALL, "--out", out, "--sample", "20"]
    yield ["sample", out, "--length", "5"]
    yield ["eval", out]
    yield ["eval", controls, hostile]
    yield ["diagnose", out, "--try-for", "0", "--steps", "8", "--lanes", "2"]
    yield ["diagnose", controls, hostile, "--try-for", "0", "--steps", "8", "--lanes", "2"]
    yield [
        "diagnose",
        out,
        "--try-for",
        "0",
        "--steps",
        "8",
        "--lanes",
        "2",
        "--html",
        folder / "p.html",
    ]
    yield ["export", out, "--to", "c", "--out", folder / f"c{ATTACK[:-1]}"]
    yield ["train", "--resume", out, "--steps", "3", "--sample", "0"]
    yield ["train", hostile, "--out", out]
    yield ["train", folder / ATTACK[:-1]]
    yield ["sample", folder / ATTACK[:-1]]
    yield ["sample", out, "--prompt", ATTACK[:-1]]
    yield ["claims", ATTACK[:-1]]
    yield ["compare", ATTACK[:-1]]
    yield ["compare", "copy", "--starts", ATTACK[:-1]]
    yield ["data", "fetch", ATTACK[:-1]]
    yield ["lab", ATTACK[:-1]]
    yield ["bench", "--cells", ATTACK[:-1]]
    yield ["train", f"--{ATTACK[:-1]}", "x"]
    yield [ATTACK[:-1]]
    yield ["eval", ATTACK]


def test_no_name_reaches_a_terminal_as_it_is(controls, tmp_path):
    for words in named(controls, tmp_path):
        status, out, err = run("utf-8", *words)
        assert status in (0, 2), words
        assert printable(out + err) == out + err, words
        assert "Traceback" not in err
        if status == 2:
            assert err.count("\n") == 1, err
    for page in [tmp_path / "p.html", *tmp_path.glob("run*/report.html")]:
        text = page.read_text("utf-8")
        assert printable(text) == text
    for path in tmp_path.glob("c*/*"):
        text = path.read_text("utf-8")
        assert printable(text) == text


def on_a_terminal(*words):
    """Run a command on a terminal of its own; what it leaves there."""
    pid, handle = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        command = [*interpreter(), "-W", "ignore", "-m", "bptt", *map(str, words)]
        os.execv(command[0], command)
    out = b""
    while True:
        try:
            piece = os.read(handle, 1 << 16)
        except OSError:  # Linux says so at the end of a terminal
            break
        if not piece:
            break
        out += piece
    os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out.decode("utf-8")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_terminal_gets_our_own_controls_and_no_others(tmp_path):
    text = tmp_path / f"a{ATTACK[:-1]}\n.txt"
    text.write_text((ATTACK[:-1] + "ab") * 100, newline="")
    out = tmp_path / f"run{ATTACK[:-1]}"
    status, shown = on_a_terminal("train", text, *SMALL, "--out", out, "--sample", "100")
    assert status == 0, shown
    assert "\x1b[?25l" in shown  # a bar was there
    left = OWN.sub("", shown)
    assert printable(left) == left
    assert "\\x1b]0;owned\\x07\\x1b[31m" in left


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.slow
def test_a_wrong_option_is_one_plain_line_on_a_terminal_too():
    assert on_a_terminal("train", "--colour", "red") == (
        2,
        "bptt train: expected an option of bptt train, received --colour: "
        "bptt help train lists them\r\n",
    )
    status, shown = on_a_terminal("train", "--help")
    assert status == 0
    assert "\x1b[1m" in shown  # help has its styles
    assert printable(OWN.sub("", shown)) == OWN.sub("", shown)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_wrong_option_is_the_same_line_in_every_encoding(encoding):
    assert run(encoding, "train", "--colour", "red") == (
        2,
        "",
        "bptt train: expected an option of bptt train, received --colour: "
        "bptt help train lists them\n",
    )


RECORD = {
    "step": 120, "loss": 1.2, "bits": 1.73, "perplexity": 3.32, "norm": 0.41, "clipped": 0.1,
    "horizon": 14, "skipped": 3, "tokens_per_second": 81234.0,
}  # fmt: skip


@pytest.mark.parametrize("room", [10, 24, 36, 60, 75, 200])
def test_what_tells_least_is_left_out_where_there_is_no_room(room):
    from bptt.training.progress import line

    shown, whole = line(RECORD, room), line(RECORD)
    assert len(shown) <= room
    assert all(part in whole.split("  ") for part in shown.split("  "))
    assert "1.730 bits" in shown
    assert ("horizon 14" in shown) == (room >= 24)
    assert (shown == whole) == (room >= len(whole))


def reporting(file, monkeypatch, **options):
    """A reporter that has begun, on a console of one's own, and its clock."""
    from types import SimpleNamespace

    from bptt.shown import console
    from bptt.training import progress
    from bptt.training.settings import Settings

    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    reporter = progress.TerminalReporter()
    reporter._console = console.Console(file=file, **options)
    corpus = SimpleNamespace(
        valid=None, documents=1, names=("a.txt",), train=SimpleNamespace(tokens=[1] * 9),
        vocabulary=SimpleNamespace(size=3),
    )  # fmt: skip
    model = SimpleNamespace(parameters=list)
    of = SimpleNamespace(
        corpus=corpus, settings=Settings(line_ends="unix"), model=model, chosen=(),
        progress=SimpleNamespace(step=0),
    )  # fmt: skip
    reporter.begin(Path("runs/one"), of)
    return reporter, now


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_bar_has_the_time_left_and_keeps_its_line(width, monkeypatch):
    file = io.StringIO()
    reporter, now = reporting(file, monkeypatch, force_terminal=True, width=width)
    with reporter:
        for share in (0.0, 0.1, 0.2, 0.25):
            reporter.step(share, RECORD)
            now[0] += 30.0
    lines = [OWN.sub("", line) for line in re.split(r"[\r\n]", file.getvalue())]
    bars = [line for line in lines if "bits" in line]
    assert any("4:30 left" in line for line in bars)
    assert max(map(len, bars)) <= width
    assert "…" not in file.getvalue()


def test_a_log_is_given_a_line_now_and_then_without_control_characters(monkeypatch):
    file = io.StringIO()
    reporter, now = reporting(file, monkeypatch)
    with reporter:
        for number in range(10):
            reporter.step(number / 10, RECORD | {"step": number})
            now[0] += 12.0
    first, *lines = file.getvalue().splitlines()
    assert "runs/one" in first
    assert printable(file.getvalue()) == file.getvalue()
    assert lines == [
        f"step {n:>6}  {left} left  |  {_rest()}"
        for n, left in ((3, "1:24"), (6, "0:48"), (9, "0:12"))
    ]


def _rest():
    from bptt.training.progress import line

    return line(RECORD)
