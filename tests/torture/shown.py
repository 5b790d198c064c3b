"""Control characters in every text that a command shows: names, symbols, prompts, entries of files.

Each round is a run of a user who names everything as badly as can be, and then a folder from somebody
who has put such texts into its files, checksums and all. Every command that reads it must end with
status 0 or 2 and without a traceback, and what it leaves on a pipe or on a terminal, in whatever
encoding, holds no control character but those of our own styles.
"""

import json
import os
import pty
import random
import re
import shutil
import sys
import traceback
from importlib import import_module
from itertools import chain
from pathlib import Path

from bptt.cli import COMMANDS, main
from bptt.shown.text import printable
from bptt.training import RunFolder
from bptt.training import checkpoint as checkpoints
from sealing import sealed_anew

PIECES = (
    "\x1b]0;owned\x07", "\x1b]52;c;cm0gLXJm\x07", "\x1b]8;;file:///etc\x1b\\", "\x1b[31m", "\x1b[2J",
    "\x1b[6n", "\x1bc", "\x9b31m", "\x9d0;x\x9c", "\x90q\x9c", "\x07", "\b", "\r", "\x0e", "\x7f",
    "\u202e", "\u2066", "\u2069", "\n", "\t", "[bold]", "[/]", "[/red]", ":smile:", "ß", "日", "😀", "'",
    '"', "%s", "{0}", "\\", "<b>",
)  # fmt: skip
ENCODINGS = ("utf-8", "utf-8", "ascii", "latin-1", "cp1252")
# What rich writes to a terminal: styles, the cursor up and shown, lines erased; a terminal's line ends.
OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[\d*[AK]|\r")
IMPORTED = (
    *(f"bptt.cli.{name}" for name in COMMANDS), "bptt.claims", "bptt.experiments.compare.job",
    "bptt.probes.diagnose", "bptt.export", "bptt.models.language", "bptt.lab", "bptt.report",
    "bptt.report.advice",
    "bptt.training.loop", "bptt.training.progress", "bptt.training.restore", "jinja2",
    "matplotlib.backends.backend_svg", "matplotlib.figure", "torch.optim",
)  # fmt: skip
SMALL = [
    "--steps",
    "2",
    "--hidden",
    "4",
    "--batch",
    "2",
    "--k",
    "4",
    "--threads",
    "1",
    "--sample",
    "9",
]
MEASURE = ["--try-for", "0", "--steps", "6", "--lanes", "2"]


def torture(folder: Path, *, rounds: int, seed: int) -> str:
    """Make and read so many runs; return what was done."""
    for module in IMPORTED:  # once, and not in every child
        import_module(module)
    chance = random.Random(seed)
    count = {"commands": 0, "refused": 0, "terminals": 0, "escaped": 0}
    for number in range(rounds):
        here = folder / str(number)
        here.mkdir()
        for words in chain(_named_badly(here, chance), _made_badly(here, chance)):
            _run(words, here / "log", chance, count)
        for page in here.rglob("*.html"):
            text = page.read_text("utf-8")
            assert printable(text) == text, page
        shutil.rmtree(here)
    counted = ", ".join(f"{number} {name}" for name, number in count.items())
    return f"{rounds} rounds: {counted}"


def hostile(chance, pieces=PIECES):
    """A text of a few pieces, letters between them."""
    return "".join(chance.choice((*pieces, "a", "b c")) for _ in range(chance.randint(1, 6)))


def _name(chance):
    """One that a file can have."""
    return "n" + hostile(chance).replace("/", "")


def _named_badly(here, chance):
    """What a user can name: files, folders, prompts, options."""
    text, out = here / f"{_name(chance)}.txt", here / _name(chance)
    alphabet = hostile(chance) + hostile(chance) + "ab"
    text.write_text(
        "".join(chance.choice(alphabet) for _ in range(400)), encoding="utf-8", newline=""
    )
    yield ["train", text, *SMALL, "--out", out]
    yield ["sample", out, "--length", "40"]
    yield ["sample", out, "--prompt", hostile(chance), "--length", "9"]
    yield ["eval", out, text]
    yield ["diagnose", out, text, *MEASURE, "--html", here / f"{_name(chance)}.html"]
    yield ["train", "--resume", out, "--steps", "3"]
    yield ["export", out, "--to", "c", "--out", here / _name(chance), "--name", hostile(chance)]
    yield ["train", here / _name(chance)]
    yield ["eval", out, here / _name(chance)]
    yield [hostile(chance)]
    name, option = chance.choice(
        [("train", "--cell"), ("train", "--clip"), ("train", "--init"), ("sample", "--seed"),
         ("compare", "--cells"), ("compare", "--starts"), ("bench", "--peer"), ("lab", "--port"),
         ("claims", "--jobs"), ("data", "--out"), ("export", "--to"), ("diagnose", "--lanes")]
    )  # fmt: skip
    yield [name, hostile(chance), option, hostile(chance)]
    yield [name, f"--{hostile(chance)}={hostile(chance)}"]


def _made_badly(here, chance):
    """What somebody can put into a run folder and other files; each with the checksums that fit."""
    text = here / "sound.txt"
    text.write_text("a rose is a rose is a rose\n" * 20)
    run = RunFolder(here / "made")
    yield ["train", text, *SMALL, "--out", run.path]
    kind = chance.choice(("weight", "state key", "config", "config key", "vocabulary", "metrics"))
    bad = hostile(chance)
    if kind in ("weight", "state key"):
        _checkpoint(run, kind, bad, chance)
    elif kind == "metrics":
        with run.metrics.open("a") as file:
            file.write(json.dumps({"step": 3, "verdict": bad, "horizon": 3, bad: bad}) + "\n")
    elif kind == "vocabulary":
        document = chance.choice(
            [{"kind": bad, "symbols": bad}, {"kind": "characters", "symbols": bad + bad}, [bad]]
        )
        sealed_anew(run.path, "vocabulary.json", json.dumps(document))
    else:
        lines = run.config.read_text().splitlines()
        place = chance.randrange(len(lines))
        name = lines[place].split(" = ")[0]
        # JSON's escapes of the pieces are TOML's as well, but for letters beyond 16 bits.
        word = json.dumps(bad.replace("😀", ""))
        lines[place] = f"{name} = {word}" if kind == "config" else f"{word} = 1"
        sealed_anew(run.path, "config.toml", "\n".join(lines) + "\n")
    yield ["sample", run.path, "--length", "9"]
    yield ["eval", run.path]
    yield ["diagnose", run.path, *MEASURE, "--html", here / "p.html"]
    yield ["export", run.path, "--to", "c", "--out", here / "c"]
    yield ["train", "--resume", run.path, "--steps", "3"]
    known = here / "known.json"
    row = {"id": "A1", "verdict": "holds", "measured": bad, "where": bad, "instead": bad,
           "seconds": 1, "figures": {bad: bad}}  # fmt: skip
    row[chance.choice(list(row))] = bad
    known.write_text(json.dumps([row]))
    yield ["claims", "A1", "--known", known, "--markdown", here / "ledger.md"]
    jobs = here / "jobs.jsonl"
    jobs.write_text(json.dumps({"job": {bad: bad}, "error": bad, bad: 1}) + "\n")
    yield ["compare", "copy", "--out", jobs]


def _checkpoint(run, kind, bad, chance):
    """An entry of the best checkpoint named or filled badly."""
    saved = checkpoints.best(run.checkpoints)
    for step in checkpoints.steps(run.checkpoints):
        shutil.rmtree(run.checkpoints / f"step-{step}")
    if kind == "weight":
        name = chance.choice(list(saved.model))
        saved.model[bad] = saved.model.pop(name)
    else:
        saved.state[bad] = bad
    checkpoints.save(run.checkpoints, saved)


def _run(words, log, chance, count):
    """One command in a process of its own, on a pipe or on a terminal."""
    words, encoding, terminal = (
        [str(w) for w in words],
        chance.choice(ENCODINGS),
        chance.random() < 0.3,
    )
    read, write = pty.openpty() if terminal else os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _child(words, read, write, encoding)
    os.close(write)
    data = b"".join(_pieces(read))
    os.close(read)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    text = data.decode(encoding)
    log.write_text(f"{words!r}\n{status}\n{text!r}\n", encoding="utf-8")
    what = f"{words!r}: {status}, {text[-2000:]!r}"
    assert status in (0, 2), what
    assert "Traceback" not in text, what
    left = OWN.sub("", text) if terminal else text
    assert printable(left) == left, what
    count["commands"] += 1
    count["refused"] += status == 2
    count["terminals"] += terminal
    count["escaped"] += "\\x" in left


def _pieces(handle):
    while True:
        try:
            piece = os.read(handle, 1 << 16)
        except OSError:  # the end of a terminal, on Linux
            return
        if not piece:
            return
        yield piece


def _child(words, read, write, encoding):
    status = 70
    try:
        os.close(read)
        for handle in (1, 2):
            os.dup2(write, handle)
        os.close(write)
        os.environ["TERM"] = "xterm-256color"
        errors = {1: "strict", 2: "backslashreplace"}
        sys.stdout, sys.stderr = (
            os.fdopen(h, "w", 1, encoding, errors[h], closefd=False) for h in (1, 2)
        )
        status = main(words)
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
