"""A run read again: its model, and the text it was trained on, found and proven."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from bptt.data import Corpus, Vocabulary
from bptt.data.calendar import calendar_features
from bptt.data.series import Series, read_series
from bptt.data.source import Source
from bptt.errors import ArgumentError, DataError, NonFiniteError, RunError
from bptt.files.read import fit, release
from bptt.models import CountModel
from bptt.ops.device import choose
from bptt.training import checkpoint as checkpoints
from bptt.training.build import build_model, open_corpus
from bptt.training.checkpoint import load_weights
from bptt.training.forecast import Plan, SeriesForecaster
from bptt.training.run_folder import ForecastFolder, RunFolder
from bptt.training.settings import Settings, read_toml_document

# The text that a run was trained on, found again and proven.
#
# A run keeps no copy of its text. Each checkpoint names the files, by their place on this machine, and
# holds the fingerprint of what was read from them. So whoever reads a run's text again finds it from any
# directory, and also where it was moved or given another name; and never takes another text for it.

Files = tuple[str, ...]
_OLDER = 64  # digits of a fingerprint of the first runs, which covers the training part alone
_SAMPLES, _SAMPLE = 256, 1 << 16


class Record(NamedTuple):
    """What a checkpoint says of the text: its fingerprint, and where its files were."""

    fingerprint: str
    files: Files


def record(corpus: Corpus, settings: Settings) -> dict[str, Any]:
    """What a checkpoint keeps of a text, JSON-safe.

    Cost: one pass over the tokens.
    """
    files = [os.path.abspath(name) for name in corpus.names] if settings.files else []
    return {"text": corpus.fingerprint(), "files": files}


def is_same(fingerprint: str, corpus: Corpus) -> bool:
    """Whether a text has this fingerprint; of the first runs, whether its training part has."""
    if len(fingerprint) == _OLDER:
        return _older_fingerprint(corpus) == fingerprint
    return corpus.fingerprint() == fingerprint


def open_own_text(
    path: str | Path,
    settings: Settings,
    vocabulary: Vocabulary,
    remedy: str,
    files: Sequence[str] = (),
) -> Corpus:
    """Read the text that a run was trained on.

    Without ``files`` it is looked for under the names it had: from here, at the place it had, and at the
    same place relative to the run folder or to a folder above it. The first that is the text is taken.

    Args:
        path: the run folder.
        settings: of the run.
        vocabulary: of the run.
        remedy: what to do where it is not found, or is another text.
        files: where it is now.

    Returns:
        The text, equal to what the run was trained on, the held-out part included.

    Raises:
        RunError: it is not there, or another text is.
        DataError: ``files`` cannot be read.

    Cost: one pass over the text to read it and one to compare it; more where other texts have its name.
    """
    run = RunFolder(path)
    found = _recorded(run)
    faults: list[tuple[Files, str]] = []
    for names in [tuple(files)] if files else _places(run.path, settings.files, found):
        try:
            corpus = open_corpus(settings, vocabulary, files=names, run=run.path)
        except DataError as error:
            if files:
                raise
            faults.append((names, error.received))
            continue
        if found is None or is_same(found.fingerprint, corpus):
            return corpus
        faults.append((names, "another text"))
    expected = f"the text that {path} was trained on"
    if faults:
        names, received = faults[0]
        raise RunError(f"{expected}, {_shown(names)}", received, remedy)
    places = [] if found is None else [f"at {_shown(found.files)}"] if found.files else []
    received = " or ".join([f"no such file in {os.getcwd()!r}", *places])
    raise RunError(f"{expected}, {_shown(settings.files)}", received, remedy)


def names_from_here(path: str | Path, settings: Settings) -> Files:
    """What to call the files of a run's text in a command typed here, where its own names are not theirs.

    Returns:
        Nothing where they are, or where the places that the run recorded hold nothing any more.
    """
    if all(os.path.isfile(name) for name in settings.files):
        return ()
    found = _recorded(RunFolder(path))
    files = () if found is None else found.files
    return files if all(os.path.isfile(name) for name in files) else ()


def resumed_text(run: RunFolder, settings: Settings) -> Corpus:
    """The text of a run that goes on; settings with other files say where it is now.

    Raises:
        RunError: it is not there, or is another text.
    """
    again = shlex.join(["bptt", "train", "FILE", "--resume", str(run.path)])
    remedy = f"resume with the text it was begun on: restore it, or name its file: {again}"
    files = () if settings.files == run.read_settings().files else settings.files
    return open_own_text(run.path, settings, run.read_vocabulary(), remedy, files)


def _recorded(run: RunFolder) -> Record | None:
    """What the newest checkpoint that can be read says of the text; None where there is none."""
    state = checkpoints.read_state(run.checkpoints)
    if state is None:
        return None
    fingerprint, files = state.get("text"), state.get("files", [])
    if not isinstance(fingerprint, str):
        raise _broken(run, "text", "a fingerprint", fingerprint)
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise _broken(run, "files", "names of files", files)
    return Record(fingerprint, tuple(files))


def _broken(run: RunFolder, entry: str, expected: str, received: object) -> RunError:
    return RunError(
        f"{expected} as {entry} in the newest state.json of {run.checkpoints}",
        f"{received!r:.80}",
        "restore the checkpoint from a copy",
    )


def _places(run: Path, typed: Files, found: Record | None) -> Iterator[Files]:
    """Where the files of a run may be, the likeliest first; only places where all of them are."""
    if not typed:
        yield ()  # the default text, which is no file
        return
    recorded = () if found is None or len(found.files) != len(typed) else found.files
    seen: set[Files] = set()
    for names in _candidates(run, typed, recorded):
        place = tuple(os.path.abspath(name) for name in names)
        if place not in seen and all(os.path.isfile(name) for name in place):
            seen.add(place)
            yield names


def _candidates(run: Path, typed: Files, recorded: Files) -> Iterator[Files]:
    yield typed
    if recorded:
        yield recorded
    # A folder that was moved as a whole: below one that holds the run, the last parts of the names.
    real = Path(os.path.realpath(run))
    for folder in (real, *real.parents):
        for names in (recorded, typed):
            below = [_below(folder, name) for name in names]
            if names and all(below):
                yield tuple(str(place) for place in below)


def _below(folder: Path, name: str) -> Path | None:
    """The file in a folder that a name ends with, as much of the name as possible."""
    parts = [part for part in Path(name).parts if part not in (os.sep, os.pardir)]
    places = (folder.joinpath(*parts[i:]) for i in range(len(parts)))
    return next((place for place in places if place.is_file()), None)


def _shown(names: Files) -> str:
    """Names in a message, the first few."""
    if not names:
        return "the default text of its Python, which its environment.json names"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more


def _older_fingerprint(corpus: Corpus) -> str:
    """The fingerprint of the first runs: of the tokens to train on, all of the first 16 million, or as
    many evenly spread over a longer text, and of where documents begin."""
    tokens, starts = corpus.train
    hashed = hashlib.sha256(f"{len(tokens)} {len(starts)} {tokens.dtype}".encode())
    begins = np.unique(np.linspace(0, max(len(tokens) - _SAMPLE, 0), _SAMPLES).astype(np.int64))
    if len(tokens) <= _SAMPLES * _SAMPLE:
        begins = np.arange(0, len(tokens), _SAMPLE)
    for begin in begins:
        hashed.update(np.ascontiguousarray(tokens[begin : begin + _SAMPLE]).data)
        release(tokens)
    hashed.update(np.ascontiguousarray(starts[:_SAMPLE]).data)
    return hashed.hexdigest()


# A trained model out of a run folder.


def load_model(
    path: str | Path, device: str | torch.device = "cpu"
) -> tuple[nn.Module, Vocabulary, Settings]:
    """The model with the best held-out score of a run, in evaluation mode.

    Args:
        path: a run folder, trained on whichever device.
        device: where the model is wanted, by a word of ``bptt.ops.device.choose``, or a device; a
            count table stays on the CPU.

    Returns:
        The model, its vocabulary, and the settings it was trained with.

    Raises:
        ArgumentError: there is no such device here.
        RunError: not a run, or its files do not fit together.
        NonFiniteError: a weight is not a finite number.

    Cost: reads the weights once.
    """
    place = choose(device) if isinstance(device, str) else device
    run = RunFolder.open(path)
    settings, vocabulary = run.read_settings(), run.read_vocabulary()
    model = build_model(settings, vocabulary.size)
    load_weights(model, checkpoints.best(run.checkpoints))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            kind = "nan" if bool(tensor.isnan().any()) else "inf"
            raise NonFiniteError(
                f"weights that are finite numbers in {run.path}",
                f"{kind} in {name}",
                "train a new run with a lower --lr or another --clip",
            )
    if not isinstance(model, CountModel):
        model = model.to(place)
    return model.eval(), vocabulary, settings


# A forecaster out of the run folder of a forecast.

_WHOLE, _MOST = {"horizon", "season", "hidden", "k", "lags"}, 1 << 16
_PLAN: dict[str, Any] = {
    "horizon": int, "season": int, "coverage": float, "onto": Literal["linear", "alone"],
    "cell": Literal["gru", "lstm", "rnn"], "hidden": int, "k": int, "lr": float, "steps": int | None,
    "minutes": float | None, "seed": int, "parts": list[Literal["day", "week", "year"]], "lags": int,
}  # fmt: skip


def load_forecaster(path: str | Path, device: str = "cpu") -> tuple[SeriesForecaster, Series]:
    """The forecaster of a run of ``bptt forecast``, and its series.

    Args:
        path: the run folder. device: a word for where its network is to lie, see :func:`choose`.

    Raises:
        RunError: not such a run, or its files do not fit together.

    Cost: reads the weights and the series once.
    """
    place, run = choose(device), ForecastFolder.open(path)
    plan = read_plan(run)
    series = read_series(Source.of_text(run.read_series(), f"{run.path / 'series.csv'}"), fill=True)
    features = calendar_features(series.calendar, [0], plan.parts).shape[1]
    if len(series.values) <= (plan.horizon or 1):
        raise _unplanned(run, "a series longer than the horizon", str(len(series.values)))
    model = SeriesForecaster(plan, features)
    saved = checkpoints.newest(run.checkpoints)
    checkpoints.compare_tensors(
        saved, checkpoints.MODEL, saved.model, model.state_dict(), finite=True
    )
    load_weights(model, saved)
    model.network.to(place)
    return model.eval(), series


def read_plan(run: ForecastFolder) -> Plan:
    """The plan of a run, every entry compared with what it may be."""
    values = read_toml_document(run.read_config(), str(run.config))
    try:
        fit({"steps": None, "minutes": None, **values}, _PLAN, "plan")
    except ArgumentError as error:
        raise _unplanned(run, error.expected, error.received) from None
    sizes = {name: values[name] for name in _WHOLE}
    wrong = next((name for name, size in sizes.items() if not 1 <= size <= _MOST), None)
    if wrong is not None or not values["coverage"] < 1:
        name = wrong or "coverage"
        most = "1" if wrong is None else str(_MOST)
        raise _unplanned(run, f"{name} up to {most}, above 0", f"{values[name]!r:.40}")
    return Plan(**{**values, "parts": tuple(values["parts"])})


def _unplanned(run: ForecastFolder, expected: str, received: str) -> RunError:
    return RunError(f"{expected} in {run.path}", received, "restore the run folder from a copy")
