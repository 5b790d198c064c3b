"""Hostile input for everything that reads: files, settings, results, arguments.

Each input is a sound one, changed at random, so that it gets past the first check; it is made from
the reader's name and a number, and ``one(name, number)`` makes it again. The contract: success, or a
BpttError of one line; from the command line exit status 0 or 2. Another exception, a message of
several lines, or more than ``PATIENCE`` seconds fail.

The mutation is our own. Hypothesis, which tests the laws elsewhere, makes a thousand examples a second
at best and a million are wanted; a coverage-guided fuzzer (atheris) sees the Python that it instruments,
and what parses here is ``json``, ``tomllib``, ``safetensors`` and NumPy.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from torch import nn

from bptt import cli, export_c, tasks
from bptt.cli.claims import read_results as read_claims
from bptt.compare import read_results
from bptt.data import CharVocabulary, Corpus, Vocabulary
from bptt.errors import BpttError
from bptt.models import LanguageModel
from bptt.report.course import series, spectra
from bptt.report.health import health
from bptt.training import checkpoint as checkpoints
from bptt.training import manifest
from bptt.training.checkpoint import Checkpoint
from bptt.training.loop import train
from bptt.training.run_folder import RunFolder
from bptt.training.settings import Settings
from torture.mutations import VALUES, mutate, mutate_document, mutate_words, written

PATIENCE = 30.0  # seconds of computing for an input that takes milliseconds
WAIT = (
    600.0  # seconds of waiting: a pipe without a writer; a frozen process waits too, so be lenient
)
TEXT = "Größe ☃ is not\r\nthe size of memory.\n\nA second document 😀 follows.\n"
READERS: dict[str, Reader] = {}


class Reader(NamedTuple):
    """How one kind of input is made and read, and its share; cheap ones get the larger."""

    read: Callable[[Random, Path], None]
    share: int


class Hung(BaseException):
    """An input took longer than PATIENCE; not an Exception, so that no reader can swallow it."""


def reader(
    share: int,
) -> Callable[[Callable[[Random, Path], None]], Callable[[Random, Path], None]]:
    """Enter a reader."""

    def enter(function: Callable[[Random, Path], None]) -> Callable[[Random, Path], None]:
        READERS[function.__name__] = Reader(function, share)
        return function

    return enter


@reader(40)
def text_file(random: Random, folder: Path) -> None:
    """A file as characters or bytes, small or through the cache, in blocks of any size."""
    path = folder / "text.txt"
    path.write_bytes(mutate(random, TEXT.encode()))
    corpus = Corpus.open(
        path,
        bytes_mode=random.random() < 0.4,
        valid_fraction=random.choice((0, 0.1, 0.5)),
        document_separator=random.choice((None, None, "\n\n", "☃", "\r")),
        block=random.choice((3, 17, 1 << 18, 1 << 18)),
    )
    assert len(corpus.train.tokens) >= 2


@reader(2)
def text_cache(random: Random, folder: Path) -> None:
    """A large text whose cache was changed: the tokens are those of the text all the same."""
    path, cache = folder / "large.txt", folder / "cache"
    if not path.exists():
        path.write_text(TEXT, encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        good = Corpus.open(path, cache=cache, in_memory_below=0).fingerprint()
        (stored,) = cache.iterdir()
        file = stored / random.choice(("tokens.bin", "starts.bin", "corpus.json"))
        content = file.read_bytes()
        if file.suffix == ".json" and random.random() < 0.6:
            file.write_bytes(written(mutate_document(random, json.loads(content))))
        else:
            file.write_bytes(mutate(random, content))
        found = Corpus.open(path, cache=cache, in_memory_below=0)
    assert found.fingerprint() == good, f"{file.name} gave another text"


@reader(80)
def text_in_memory(random: Random, folder: Path) -> None:
    """A text given as a string, surrogates and all."""
    text = mutate(random, TEXT.encode()).decode(
        "utf-8", random.choice(("replace", "surrogateescape"))
    )
    corpus = Corpus.from_text(text, bytes_mode=random.random() < 0.5, document_separator="\n\n")
    corpus.vocabulary.decode(corpus.train.tokens)


@reader(450)
def vocabulary(random: Random, folder: Path) -> None:
    """A vocabulary as JSON reads it."""
    document = mutate_document(random, CharVocabulary.from_text(TEXT).to_dict())
    found = Vocabulary.from_dict(document)
    assert Vocabulary.from_dict(found.to_dict()) == found


@reader(330)
def configuration(random: Random, folder: Path) -> None:
    """``config.toml``: bytes changed, or values of another kind or size."""
    if random.random() < 0.5:
        text = mutate(random, CONFIG.encode()).decode("utf-8", "replace")
    else:
        lines = CONFIG.splitlines()
        place = random.randrange(len(lines))
        value = random.choice(random.choice((VALUES, SETTINGS_VALUES)))
        with contextlib.suppress(ValueError):
            lines[place] = f"{lines[place].split('=')[0]}= {json.dumps(value)}"
        text = "\n".join(lines)
    found = Settings.from_toml(text, "config.toml")
    assert Settings.from_toml(found.to_toml(), "its own") == found or found != found


@reader(8)
def run_folder(random: Random, folder: Path) -> None:
    """The small files of a run, each through the folder's own reader."""
    run = folder / "run"
    run.mkdir(exist_ok=True)
    (run / "config.toml").write_bytes(mutate(random, CONFIG.encode()))
    (run / "vocabulary.json").write_bytes(
        mutate(random, written(CharVocabulary.from_text(TEXT).to_dict()))
    )
    # Behind the checksums, as a file would be that somebody wrote by hand and sealed.
    names = ("config.toml", "vocabulary.json")
    (run / manifest.NAME).write_bytes(manifest.seal({n: (run / n).read_bytes() for n in names}))
    opened = RunFolder.open(run)
    with contextlib.suppress(BpttError):
        opened.read_settings()
    opened.read_vocabulary()


@reader(36)
def metrics(random: Random, folder: Path) -> None:
    """``metrics.jsonl``, and what the report and the advice make of it."""
    lines = [written(line) for line in METRICS]
    if random.random() < 0.6:
        place = random.randrange(len(lines))
        lines[place] = written(mutate_document(random, METRICS[place]))
        data = b"\n".join(lines) + b"\n"
    else:
        data = mutate(random, b"\n".join(lines) + b"\n")
    run = RunFolder(folder)
    run.metrics.write_bytes(data)
    records = list(run.read_metrics())
    for name in ("bits", "horizon", "loss"):
        series(records, name)
    spectra(records)
    health(records, SETTINGS)


@reader(6)
def checkpoint(random: Random, folder: Path) -> None:
    """A checkpoint, one of its files changed: read as it was, or refused."""
    place = folder / "checkpoints"
    if not place.exists():
        place.mkdir()
        checkpoints.save(place, SAVED)
    files = sorted(path for path in (place / "step-3").iterdir() if path.is_file())
    kept = {path: path.read_bytes() for path in files}
    file = random.choice(files)
    content = kept[file]
    try:
        if file.suffix == ".json" and random.random() < 0.5:
            file.write_bytes(written(mutate_document(random, json.loads(content))))
        else:
            file.write_bytes(mutate(random, content))
        if file.name != manifest.NAME and random.random() < 0.7:  # past the checksums
            inside = {p.name: p.read_bytes() for p in files if p.name != manifest.NAME}
            (place / "step-3" / manifest.NAME).write_bytes(manifest.seal(inside, step=3))
        random.choice((checkpoints.newest, checkpoints.best))(place)
    finally:
        for path, data in kept.items():
            path.write_bytes(data)


@reader(30)
def compare_results(random: Random, folder: Path) -> None:
    """The file of finished jobs of ``bptt compare``."""
    lines = [written(RECORD), written(RECORD)]
    if random.random() < 0.6:
        lines[random.randrange(2)] = written(mutate_document(random, RECORD))
        data = b"\n".join(lines) + b"\n"
    else:
        data = mutate(random, b"\n".join(lines) + b"\n")
    path = folder / "results.jsonl"
    path.write_bytes(data)
    from bptt.compare import summarise
    from bptt.compare.results import cells_of, varying

    rows = summarise(read_results(path))
    for row in rows:
        cells_of(row, varying(rows))


@reader(10)
def claims_results(random: Random, folder: Path) -> None:
    """A document of ``bptt claims --json``, given back as ``--known``."""
    path = folder / "claims.json"
    if random.random() < 0.6:
        path.write_bytes(written(mutate_document(random, CLAIMS)))
    else:
        path.write_bytes(mutate(random, written(CLAIMS)))
    from bptt.claims import ledger
    from bptt.claims.render import document

    document(ledger(), list(read_claims(path).values()))


@reader(5)
def task_files(random: Random, folder: Path) -> None:
    """The tables of the tasks on real data."""
    kind = random.randrange(3)
    if kind == 0:
        (folder / "digits.csv").write_bytes(mutate(random, DIGITS))
        tasks.Digits("row", folder).held_out()
    elif kind == 1:
        (folder / "co2.csv").write_bytes(mutate(random, CO2))
        tasks.CO2(4, 1, folder).held_out()
    else:
        (folder / "train.ts").write_bytes(mutate(random, VOWELS))
        (folder / "test.ts").write_bytes(VOWELS)
        tasks.JapaneseVowels(folder).held_out()


@reader(1)
def export_inputs(random: Random, folder: Path) -> None:
    """Models and data as they should not be, quantised and written as C."""
    torch.manual_seed(random.randrange(2**31))
    hidden = random.choice((1, 2, 5))
    model = nn.Sequential(nn.GRU(3, hidden), nn.Linear(hidden, 2))
    x = torch.randn(random.choice((0, 1, 4)), 1, 3)
    # Few calls of ``quantise`` succeed on so little data; what is wanted here are the refusals.
    calibration = torch.randn(random.choice((10, 1000)), 1, random.choice((3, 3, 3, 2)))
    odd = random.choice((0.0, float("nan"), float("inf"), 1e30, -1e-30))
    for tensor in random.sample([x, calibration, *model.parameters()], random.randrange(3)):
        with torch.no_grad():
            tensor.view(-1)[: random.choice((1, 10**6))] = odd
    export_c(
        random.choice(
            (model, model[0], nn.LSTM(3, 2), nn.Linear(3, 2), LanguageModel(5, hidden=3))
        ),
        random.choice((x, x.double(), x.long(), x[..., :2], x[0] if len(x) else x)),
        name=random.choice(("model", "", "1a", "a b", "int", "_x", "ü", "x" * 500, "a\n#error")),
        precision=random.choice(("float32", "int8", "int8", "int4")),
        calibration=random.choice((calibration, None)),
        output_bits=random.choice((8, 16, 7)),
    )


@reader(2)
def command_line(random: Random, folder: Path) -> None:
    """Arguments of every subcommand; nothing is trained, measured or fetched."""
    if not (folder / "run").exists():
        train(
            Settings(
                (str(folder / "text.txt"),),
                hidden=3,
                batch=2,
                k=4,
                steps=1,
                out=str(folder / "run"),
            )
        )
    name = random.choice(tuple(COMMANDS))
    words = mutate_words(random, [str(folder / w[1:]) if w[:1] == "@" else w for w in COMMANDS[name]],
                         OPTIONS)  # fmt: skip
    words = [name, *words] if random.random() < 0.98 else words
    out, err = io.StringIO(), io.StringIO()
    before = Path.cwd()
    os.chdir(folder)
    try:
        with _nothing_runs(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(words)
    except SystemExit as stop:
        status = stop.code or 0
    finally:
        os.chdir(before)
    said = err.getvalue().strip().splitlines()
    assert status in (0, 2), f"{words!r:.300}: status {status}, {said!r:.300}"
    assert status == 0 or said, f"{words!r:.300}: status 2 without a word"
    assert "Traceback" not in err.getvalue(), f"{words!r:.300}: {said!r:.300}"


class Stopped(BpttError):
    """Where a command would begin to work."""


@contextlib.contextmanager
def _nothing_runs() -> Any:
    """Commands get as far as their work, and no farther."""
    from unittest import mock

    def stop(*arguments: Any, **options: Any) -> Any:
        raise Stopped("nothing", "work", "be content")

    def begin(settings: Settings, **options: Any) -> Any:
        """All that training does before the first step."""
        from bptt.training import loop

        loop.Session(settings, loop.open_corpus(settings))
        stop()

    with contextlib.ExitStack() as stack:
        for place in (
            "bptt.compare.pool.run_grid",
            "bptt.compare.job.build_task",
            "bptt.claims.run_claims",
            "bptt.generation._draw",
            "bptt.diagnosis.diagnose",
            "bptt.data.fetch.fetch",
            "bptt.cli.bench._measure",
        ):
            stack.enter_context(mock.patch(place, stop))
        stack.enter_context(mock.patch("bptt.training.loop.train", begin))
        stack.enter_context(mock.patch.object(torch, "set_num_threads"))
        yield


CONFIG = Settings(
    files=("a.txt", "b.txt"), steps=3, hidden=4, window=128, regularise="omega:1"
).to_toml()
SETTINGS = Settings()
SETTINGS_VALUES = (
    0,
    1,
    2,
    64,
    256,
    0.5,
    1.0,
    True,
    False,
    "gru",
    "lstm",
    "none",
    "norm:1",
    "np",
    [],
)
METRICS: list[dict[str, Any]] = [
    {
        "step": n, "epoch": n / 9, "seconds": 0.5 * n, "loss": 3.0 / n, "bits": 4.0 / n,
        "perplexity": 9.0,
        "norm": 2.0, "clipped": 1.0, "lr": 0.003, "tokens": 64 * n, "tokens_per_second": 128.0,
        "horizon": 7, "decay": 0.8, "verdict": "vanishing", "bias": 0.2,
        "spectrum": {"truncations": [1, 2, 4], "bias": [0.5, 0.2, 0.1]},
    }
    for n in range(1, 5)
] + [{"step": 4, "valid": {"tokens": 9, "nats": 1.0, "bits": 1.4, "perplexity": 2.7}}]  # fmt: skip
SAVED = Checkpoint(
    {"weight": torch.arange(6.0).view(2, 3)},
    {"random": torch.get_rng_state()[:64], "carry.0": torch.zeros(1, 2)},
    {"step": 3, "best_step": 3, "best_nats": 1.0, "data": {"tokens": 9}, "tally": {"steps": 1}},
)
RECORD: dict[str, Any] = {
    "job": {
        "task": "copy", "length": 10, "cell": "gru", "start": "default", "clip": "norm:1",
        "regularise": "none", "gradient": "full", "curriculum": "none", "seed": 0,
        "budget": {"hidden": 8, "batch": 4, "updates": 20, "lr": 0.01, "every": 5,
                   "to_the_end": False, "folder": None},
    },
    "score": 0.5, "curve": [[5, 0.4], [10, 0.5]], "solved": False, "updates": 20, "skipped": 0,
    "clipped": 0.1, "error": None, "seconds": 1.5,
}  # fmt: skip
CLAIMS = [
    {"id": id, "source": "a book", "statement": "so it is", "published": "1", "measured": "2",
     "where": "here", "verdict": "holds", "instead": "", "seconds": 1.0, "figures": {"a": [1, 2.5]}}
    for id in ("A1", "A3")
]  # fmt: skip
DIGITS = b"".join(b"%d," % (n % 17) * 64 + b"%d\n" % (n % 10) for n in range(20))
CO2 = b"date,co2\n" + b"".join(b"%d,%d.5\n" % (n, 300 + n % 7) for n in range(60))
VOWELS = b"@problem made\n@data\n" + b"1,2,3:4,5,7:a\n2,3:1,4:b\n5,6,7,8:1,2,0,4:a\n"
COMMANDS = {
    "train": [
        "@text.txt",
        "--steps",
        "1",
        "--hidden",
        "3",
        "--batch",
        "2",
        "--k",
        "4",
        "--out",
        "@new",
    ],
    "sample": ["@run", "--prompt", "a", "--length", "3"],
    "eval": ["@run", "@text.txt"],
    "diagnose": ["@run", "@text.txt", "--steps", "4", "--lanes", "2"],
    "compare": [
        "copy",
        "--cells",
        "gru",
        "--lengths",
        "5",
        "--seeds",
        "1",
        "--out",
        "@results.jsonl",
    ],
    "bench": ["--cells", "gru", "--hidden", "4", "--modes", "train", "--seconds", "0.01"],
    "export": ["@run", "--to", "c", "--out", "@c"],
    "claims": ["A1", "--known", "@claims.json", "--list"],
    "data": ["fetch", "shakespeare", "--out", "@data"],
}
OPTIONS = (
    "--hidden", "--batch", "--k", "--layers", "--steps", "--minutes", "--epochs", "--lr",
    "--clip", "--init", "--regularise", "--gradient", "--window", "--states", "--chunk",
    "--threads", "--seed", "--out", "--cell", "--model", "--context", "--order", "--embedding",
    "--dropout", "--valid-fraction", "--documents", "--bytes", "--partition", "--resume",
    "--json", "--prompt", "--length", "--temperature", "--top-k", "--lanes", "--html", "--cells",
    "--lengths", "--seeds", "--workers", "--figure", "--to", "--name", "--precision",
    "--calibration", "--measure", "--known", "--jobs", "--markdown", "--data", "--help", "--keep",
    "--bias",
)  # fmt: skip


def one(name: str, number: int, folder: Path) -> None:
    """Make input ``number`` of a reader and read it; AssertionError where the contract is broken."""
    random = Random(f"{name} {number}")
    _alarms(PATIENCE, WAIT)
    try:
        READERS[name].read(random, folder)
    except BpttError as error:
        broken = "\n" in str(error) or not str(error)
        if broken:
            raise AssertionError(f"{name} {number}: {error!s:.500}") from error
    except (AssertionError, Hung, Exception) as error:
        raise AssertionError(f"{name} {number}: {type(error).__name__}: {error!s:.500}") from error
    finally:
        _alarms(0, 0)


def _alarms(computing: float, waiting: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, computing)
        signal.setitimer(signal.ITIMER_REAL, waiting)


@contextlib.contextmanager
def prepared() -> Any:
    """A folder with what the commands want to find, and an alarm for what never ends."""

    def hung(number: int, frame: object) -> None:
        raise Hung(f"more than {PATIENCE} seconds of computing, or {WAIT} of waiting")

    names = [name for name in ("SIGALRM", "SIGPROF") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), hung) for name in names}
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name, np.errstate(all="ignore"):
        folder = Path(name)
        (folder / "text.txt").write_text(TEXT, encoding="utf-8")
        try:
            yield folder
        finally:
            logging.disable(logging.NOTSET)
            for signal_name, handler in before.items():
                signal.signal(getattr(signal, signal_name), handler)


def torture(inputs: int = 1_000_000, seed: int = 0, only: str | None = None) -> str:
    """So many inputs over all readers by their shares, each reader in a folder of its own."""
    total, lines = sum(r.share for r in READERS.values()), []
    for name, (_, share) in READERS.items():
        if only not in (None, name):
            continue
        count = -(-inputs * share // total)
        begin = time.monotonic()
        with prepared() as folder:
            for number in range(seed, seed + count):
                one(name, number, folder)
        lines.append(f"{name} {count:,} in {time.monotonic() - begin:.0f} s")
        print(lines[-1], flush=True)
    return "; ".join(lines)


if __name__ == "__main__":
    sys.exit(print(tyro.cli(torture)))
