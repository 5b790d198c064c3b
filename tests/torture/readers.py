"""Everything that reads files and values: each makes one hostile input and reads it."""

from __future__ import annotations

import contextlib
import json
import warnings
from pathlib import Path
from random import Random

import torch
from torch import nn

from bptt import export_c, tasks
from bptt.data import CharVocabulary, Corpus, Vocabulary
from bptt.errors import BpttError
from bptt.experiments.claims.run import read_results as read_claims
from bptt.experiments.compare import read_results
from bptt.files import manifest
from bptt.models import LanguageModel
from bptt.report.advice import health
from bptt.report.figures import series, spectra
from bptt.training import checkpoint as checkpoints
from bptt.training.run_folder import RunFolder
from bptt.training.settings import Settings
from torture.mutations import VALUES, mutate, mutate_document, written
from torture.registry import reader
from torture.samples import (
    CLAIMS,
    CO2,
    CONFIG,
    DIGITS,
    METRICS,
    RECORD,
    SAVED,
    SETTINGS,
    SETTINGS_VALUES,
    TEXT,
    VOWELS,
)


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
        if random.random() < 0.2 and lines[place].split("=")[-1].strip().isdigit():
            value = random.randrange(1, 9)  # one that may stand there
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
    from bptt.experiments.compare import summarise
    from bptt.experiments.compare.results import cells_of, varying

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
    from bptt.experiments.claims import ledger
    from bptt.experiments.claims.page import document

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
