"""Run folders from somebody else: links where files belong, and sealed files that say something else.

Two kinds of rounds. In the first, a link, a second name, a pipe, a socket or a folder is put under a name
that a run writes or reads, hidden and temporary ones among them, or under one that somebody typed for an
output; then a command works with it. In the second, one entry of one file is changed in type, shape or
size and the checksums are made anew. After every round: a file tree outside is what it was, to the byte;
the command ended by itself, with status 0 or with status 2 and one line; no signal, no traceback, no
wait, and no control character in what it printed.
"""

import copy
import json
import os
import random
import shutil
import signal
import socket
import warnings
from collections import Counter
from pathlib import Path

import safetensors.torch
import torch

from bptt import report
from bptt.cli import main
from bptt.data import Corpus
from bptt.files import manifest
from bptt.files.folder import Folder
from bptt.training import RunFolder, train
from bptt.training import checkpoint as checkpoints
from sealing import SEALED, sealed_anew
from torture.runs import child, settings

PATIENCE = 60  # seconds for a command that takes less than one
KINDS = (
    "to a file", "to a folder", "to the same of another run", "to nothing", "to itself", "second name",
    "pipe", "socket", "folder",
)  # fmt: skip
VARIANTS = (
    {"gradient": "adaptive", "k": 4, "chunk": 12, "clip": "auto:20"},
    {"cell": "lstm", "layers": 2, "clip": "z:1", "optimizer": "sgd", "lr": 0.1, "momentum": 0.9},
    {"model": "window", "context": 3, "partition": "random"},
    {"model": "attention", "hidden": 8, "layers": 1, "context": 4},
    {"model": "ngram", "order": 3},
    {"cell": "rnn", "orthogonal": True},
)
ESCAPE = "\x1b]0;hello\x07"
VALUES = (
    None, True, -1, 2, 0.5, -0.5, 1e308, float("nan"), float("inf"), 10**18, 2**63, 10**400, "", "7",
    "x" * 5000, ESCAPE, [], [1], {}, {"a": 1}, {ESCAPE: ESCAPE},
)  # fmt: skip


def torture(folder: Path, *, rounds: int, seed: int) -> str:
    """So many rounds, half of each kind; return what was done."""
    chance = random.Random(seed)
    (folder / "outside").mkdir()
    runs = [_a_run(folder, number) for number in range(len(VARIANTS))]
    _outside(folder, runs[0])
    before, count = _contents(folder / "outside"), Counter()
    for number in range(rounds):
        place = folder / f"round-{number}"
        place.mkdir()
        shutil.copy(folder / "text.txt", place)
        links = number % 2 == 0
        shutil.copytree(chance.choice(runs[:2] if links else runs), place / "run")
        what, words = (_link if links else _changed)(place, folder / "outside", chance)
        status = _command(place, words, f"round {number}: {what}, then {words[0]}")
        after = _contents(folder / "outside")
        different = [p for p in before.keys() | after.keys() if before.get(p) != after.get(p)]
        assert not different, f"round {number}: {what}, then {words}: {different}"
        count[f"{'links' if links else 'changes'} {'refused' if status else 'harmless'}"] += 1
        shutil.rmtree(place)
    counted = ", ".join(f"{count[name]} {name}" for name in sorted(count))
    return f"{rounds} rounds: {counted}; nothing outside was touched"


def _a_run(folder, number):
    chosen = settings(folder, f"whole-{number}", steps=12, keep=2, eval_every=4, **VARIANTS[number])
    return train(chosen).run


def _outside(folder, run):
    """What must not change: files, a folder, another run."""
    outside = folder / "outside"
    (outside / "precious.txt").write_text("years of work\n" * 9)
    (outside / "folder").mkdir()
    (outside / "folder" / "inner.txt").write_text("more of it")
    shutil.copytree(run, outside / "run")


def _contents(folder):
    """Names, sizes, modes, times and bytes of all in a folder, and what links lead to."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        kept = [status.st_mode, status.st_mtime_ns, status.st_size]
        found[str(path)] = (*kept, path.read_bytes() if path.is_file() else None)
    return found


def _link(place, outside, chance):
    """Put something under a name; return what, and the command that meets it."""
    run = place / "run"
    names, commands = _names(run), _commands(place)
    if chance.random() < 0.2:
        name, words = chance.choice(_typed(place))
    elif chance.random() < 0.1:
        name, words = chance.choice(_cached(place)), ["cache", "text.txt"]
    else:
        name, words = chance.choice(names), chance.choice(commands)
    path, kind = place / name, chance.choice(KINDS)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    _put(path, kind, outside, Path(name))
    return f"{name} {kind}", words


def _put(path, kind, outside, name):
    twin = outside / name
    if not twin.exists():
        twin = outside / "run" / "metrics.jsonl"
    if kind == "to a file":
        path.symlink_to(outside / "precious.txt")
    elif kind == "to a folder":
        path.symlink_to(outside / "folder")
    elif kind == "to the same of another run":
        path.symlink_to(twin)
    elif kind == "to nothing":
        path.symlink_to(outside / "new.txt")
    elif kind == "to itself":
        path.symlink_to(path.name)
    elif kind == "second name":
        path.hardlink_to(twin if twin.is_file() else outside / "precious.txt")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's name is short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)
    else:
        path.mkdir()
        (path / "inner").mkdir()


def _names(run):
    """Every name that a run writes or has written, and those that were once used on the way there."""
    last = checkpoints.steps(run / "checkpoints")
    files = (checkpoints.MODEL, checkpoints.TRAINING, checkpoints.STATE, manifest.NAME)
    top = (
        *SEALED,
        manifest.NAME,
        "metrics.jsonl",
        "result.json",
        "report.html",
        ".lock",
        ".holder.json",
    )
    names = [*top, "checkpoints", *(f".{name}.tmp" for name in top), "report.html.tmp"]
    names += [f"checkpoints/step-{step}" for step in last] * 2
    names += [f"checkpoints/step-{step}/{name}" for step in last for name in files]
    # The next steps, and what an interrupted write or a damaged one leaves.
    names += [
        f"checkpoints/{name}" for name in ("step-14", "step-16", ".step-14.tmp", ".step-12.old")
    ]
    names += [f"checkpoints/damaged-step-{last[-1]}"]
    return [f"run/{name}" for name in names]


def _commands(place):
    train = ["train", "--resume", "run", "--steps", "16", "--sample", "0"]
    read = [["sample", "run", "--length", "5"], ["eval", "run"]]
    return [train, train, train, *read, ["export", "run", "--to", "c", "--out", "c"]]


def _typed(place):
    """Names that somebody gave for an output, and the commands that write there."""
    train = [
        "train",
        "text.txt",
        "--out",
        "new",
        "--steps",
        "1",
        "--hidden",
        "4",
        "--batch",
        "2",
        "--k",
        "4",
    ]
    grid = ["compare", "remember-first", "--cells", "rnn", "--lengths", "3", "--seeds", "1",
            "--hidden", "2", "--batch", "2", "--updates", "1", "--workers", "1"]  # fmt: skip
    return [
        ("new", [*train, "--sample", "0"]),
        ("c", ["export", "run", "--to", "c", "--out", "c"]),
        ("d.html", ["diagnose", "run", "--steps", "8", "--lanes", "2", "--html", "d.html"]),
        ("jobs.jsonl", [*grid, "--out", "jobs.jsonl"]),
        ("c.html", [*grid, "--html", "c.html"]),
        ("c.svg", [*grid, "--figure", "c.svg"]),
        ("c.png", [*grid, "--figure", "c.png"]),
        ("claims.md", ["claims", "A1", "--markdown", "claims.md"]),
        ("texts", ["data", "fetch", "topics", "--out", "texts"]),
    ]


def _cached(place):
    """Names in the folder of encoded texts."""
    Corpus.open(place / "text.txt", cache=place / "cache", in_memory_below=0)
    (folder,) = (place / "cache").iterdir()
    names = [folder.name, f".{folder.name}.{'0' * 16}.tmp", f".{folder.name}.{'0' * 16}.tmp/lock"]
    return [
        f"cache/{n}" for n in (*names, *(f"{folder.name}/{file.name}" for file in folder.iterdir()))
    ]


def _changed(place, outside, chance):
    """Change one entry of one file and seal it; return which, and the command that meets it."""
    run = place / "run"
    model = RunFolder(run).read_settings().model
    commands = _commands(place)
    # A table of counts does not go on, and only a recurrent model is exported.
    words = chance.choice(commands if model == "recurrent" else commands[:-1])
    if chance.random() < 0.2:
        return f"{model}: {_change_small_file(run, chance)}", words
    there = checkpoints.newest if words[0] == "train" else checkpoints.best  # the one it reads
    step = there(run / "checkpoints").state["step"]
    return f"{model}: {_change_checkpoint(run / f'checkpoints/step-{step}', chance)}", words


def _change_small_file(run, chance):
    name = chance.choice(
        ("config.toml", "vocabulary.json", "metrics.jsonl", ".holder.json", "result.json")
    )
    if name == "config.toml":
        lines = (run / name).read_text().splitlines()
        place = chance.randrange(len(lines))
        value = chance.choice(("true", "-1", "nan", "1979-05-27", '"x"', "[]", "{}", "0x" + "f" * 9000,
                               "1e308", '"\\u001b]0;x\\u0007"', "[" * 200 + "]" * 200))  # fmt: skip
        lines[place] = f"{lines[place].split('=')[0]}= {value}"
        sealed_anew(run, name, "\n".join(lines))
        return f"{name} {lines[place]:.60}"
    text = (run / name).read_text()
    documents = (text.splitlines() or ['{"step": 1}']) if name == "metrics.jsonl" else [text]
    place = chance.randrange(len(documents))
    document = json.loads(documents[place])
    what = _change_document(document, chance)
    documents[place] = json.dumps(document)
    text = "\n".join(documents) + "\n"
    if name == "vocabulary.json":
        sealed_anew(run, name, text)
    else:
        (run / name).write_text(text)
    return f"{name} {what}"


def _change_checkpoint(folder, chance):
    name = chance.choice(
        (checkpoints.STATE, checkpoints.TRAINING, checkpoints.TRAINING, checkpoints.MODEL)
    )
    if name == checkpoints.STATE:
        document = json.loads((folder / name).read_text())
        what = _change_document(document, chance)
        (folder / name).write_text(json.dumps(document))
    else:
        tensors = safetensors.torch.load_file(folder / name)
        what = _change_tensors(tensors, chance)
        data = safetensors.torch.save(tensors)
        if chance.random() < 0.1:  # the header itself
            what, data = "header", data[:8] + data[8:].replace(b'"F32"', b'"F99"', 1)
        (folder / name).write_bytes(data)
    seal_checkpoint(folder)
    return f"{folder.name}/{name} {what}"


def seal_checkpoint(folder):
    """Make the checksums of a checkpoint anew."""
    with Folder.open(folder) as opened:
        step = manifest.read(opened)["step"]
    files = {n: (folder / n).read_bytes() for n in os.listdir(folder) if n != manifest.NAME}
    (folder / manifest.NAME).write_bytes(manifest.seal(files, step=step))


def _change_document(document, chance):
    """Give one place in a document another value, lose it, or add one."""
    places = list(_places(document))
    parent, key = chance.choice(places)
    kind = chance.choice(("value", "value", "value", "value", "lost", "more", "deep"))
    if kind == "value":
        parent[key] = copy.deepcopy(chance.choice(VALUES))
        return f"{key} = {parent[key]!r:.30}"
    if kind == "lost":
        del parent[key]
    elif kind == "more" and isinstance(parent, dict):
        parent[ESCAPE] = 1
    else:
        for _ in range(chance.choice((20, 500))):
            parent[key] = [parent[key]]
    return f"{key} {kind}"


def _places(document):
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(pairs):
        yield document, key
        if isinstance(value, (dict, list)) and value:
            yield from _places(value)


def _change_tensors(tensors, chance):
    name = chance.choice(sorted(tensors))
    tensor = tensors[name]
    made = {
        "lost": lambda: None,
        "renamed": lambda: tensors.update({name + ESCAPE: tensor}),
        "more": lambda: tensors.update({"carry.9": tensor.clone(), name: tensor}),
        "scalar": lambda: (tensor.reshape(-1)[0] if tensor.numel() else torch.zeros(())).clone(),
        "one axis more": lambda: tensor[None].clone(),
        "flat": lambda: tensor.reshape(-1).clone(),
        "half": lambda: tensor.reshape(-1)[: tensor.numel() // 2].clone(),
        "twice": lambda: torch.cat([tensor.reshape(-1)] * 2),
        "double": lambda: tensor.double(),
        "half precision": lambda: tensor.to(torch.bfloat16),
        "whole numbers": lambda: tensor.to(torch.int64),
        "bool": lambda: tensor.bool(),
        "huge": lambda: torch.full_like(tensor, 2**62 if not tensor.is_floating_point() else 1e38)
        if tensor.dtype not in (torch.uint8, torch.bool) else torch.full_like(tensor, 1),
        "negative": lambda: torch.full_like(tensor, -1) if tensor.dtype not in (torch.uint8, torch.bool)
        else torch.zeros_like(tensor),
        "not a number": lambda: tensor * float("nan"),
        "noise": lambda: torch.randint(0, 255, tensor.shape).to(tensor.dtype),
    }  # fmt: skip
    kind = chance.choice(sorted(made))
    new = made[kind]()
    if kind in ("lost", "renamed"):
        del tensors[name]
    elif kind != "more":
        tensors[name] = new.contiguous()
    return f"{name} {kind}"


def _command(place, words, what):
    """Run a command in a process of its own; return its status."""

    def work():
        os.chdir(place)
        signal.alarm(PATIENCE)
        # Pictures take longer than all the rest; how they get into the folder is what counts.
        if words[0] == "train":
            report.write_run_report = lambda run: RunFolder.open(run).write_report("a page")
        if words[0] == "cache":
            warnings.simplefilter("ignore")
            Corpus.open("text.txt", cache="cache", in_memory_below=0)
            return 0
        return main(list(words))

    log = place.with_suffix(".log")
    status = os.waitstatus_to_exitcode(os.waitpid(child(work, log), 0)[1])
    said = log.read_bytes().decode("utf-8", "replace")
    log.unlink()
    assert status in (0, 2), f"{what}: status {status}: {said[-3000:]}"
    assert "Traceback" not in said, f"{what}: {said[-3000:]}"
    control = {c for c in said if not c.isprintable() and c not in "\n\r"}
    assert not control, f"{what}: {control} in {said[-3000:]!r}"
    if status:
        lines = [line for line in said.splitlines() if line.startswith(f"bptt {words[0]}: ")]
        assert len(lines) == 1, f"{what}: {said[-3000:]}"
    return status
