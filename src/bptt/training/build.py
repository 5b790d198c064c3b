"""From settings to the parts of a run: model, optimiser, estimator, data."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bptt import gradients
from bptt.data import Corpus, Lanes, RandomChunks, Stream, Vocabulary
from bptt.errors import DataError, RunError
from bptt.files import memory
from bptt.gradients import Estimator
from bptt.models import AttentionModel, CountModel, LanguageModel, WindowModel
from bptt.ops.device import device_of
from bptt.remedies import hold_orthogonal, start_forget_bias, start_recurrent
from bptt.training.distributed import Group
from bptt.training.settings import Settings
from bptt.training.sizes import CONTEXT, ORDER, SHARE, fitted

_FLOAT, _TOKEN = 4, 8  # bytes of a weight, of a token in a chunk
_LAYER = 4096  # bytes of Python that a layer takes at the least, however small its matrices


def build_model(settings: Settings, vocabulary_size: int) -> nn.Module:
    """The model that the settings name, freshly started from ``settings.seed``.

    Raises:
        ArgumentError: its weights do not fit into memory.
    """
    memory.require(
        _FLOAT * weights(settings, vocabulary_size) + _LAYER * (settings.layers or 1),
        _named(settings, "hidden", "layers", "embedding", "context"),
        "lower them",
    )
    torch.manual_seed(settings.seed)
    if settings.model in ("bigram", "ngram"):
        order = ORDER if settings.order is None else settings.order
        return CountModel(vocabulary_size, order=2 if settings.model == "bigram" else order)
    if settings.model == "window":
        sizes = _given(settings, "hidden", "layers", "embedding", "dropout", context="window")
        return WindowModel(vocabulary_size, **sizes)
    if settings.model == "attention":
        sizes = _given(settings, "layers", "dropout", "context", hidden="width")
        return AttentionModel(vocabulary_size, **sizes)
    sizes = {"dropout": 0.1, **_given(settings, "hidden", "layers", "embedding", "dropout")}
    model = LanguageModel(vocabulary_size, cell=settings.cell, **sizes)
    if settings.init != "default":
        start_recurrent(model, settings.init)
    if settings.forget_bias is not None:
        start_forget_bias(model, settings.forget_bias)
    return hold_orthogonal(model) if settings.orthogonal else model


def build_optimizer(settings: Settings, model: nn.Module) -> torch.optim.Optimizer | None:
    """AdamW, its update of all parameters fused into one call, or SGD; None for a model that counts.

    The parameters lie where they will be trained: the optimiser's state is made beside them.
    """
    if isinstance(model, CountModel):
        return None
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            model.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=device_of(model).type in ("cpu", "cuda"),
        )
    return torch.optim.SGD(
        model.parameters(), lr=settings.learning_rate, momentum=settings.momentum
    )


def build_estimator(
    settings: Settings, generator: torch.Generator | None = None, group: Group | None = None
) -> Estimator:
    """How the gradient is taken through a chunk; one that draws does it from ``generator``,
    one that decides does it for the whole ``group``."""
    numbers: dict[str, list[float]] = {
        "truncated": [settings.k1],
        "windowed": [settings.k1, settings.k2],
        "checkpointed": [] if settings.states is None else [settings.states],
        "adaptive": [settings.bias],
        "randomized": [settings.k1],
    }
    form = ":".join(map(str, [settings.gradient, *numbers.get(settings.gradient, [])]))
    agree = None if group is None else group.largest
    return gradients.build(form, cut=settings.cut, generator=generator, agree=agree)


def build_data(
    settings: Settings, stream: Stream, group: Group | None = None
) -> Lanes | RandomChunks:
    """The chunks that training sees: those of the lanes of this process.

    Raises:
        ArgumentError: one does not fit into memory: B K numbers of input, target and every unit.
        DataError: the text is too short for one.
    """
    batch, chunk = settings.lanes, settings.steps_per_update
    memory.require(
        batch * chunk * (2 * _TOKEN + _FLOAT * (settings.hidden or 1)),
        _named(settings, "batch", "k", "chunk", "window", "hidden"),
        "lower --batch, --k or --chunk",
    )
    lanes = None if group is None else group.lanes(batch)
    if settings.partition == "random":
        return RandomChunks(*stream, batch=batch, chunk=chunk, seed=settings.seed, lane_range=lanes)
    return Lanes(*stream, batch=batch, chunk=chunk, lane_range=lanes)


# Who is told, as (bytes done, bytes in all), while a text is read; the command line sets it.
reading: ContextVar[Callable[[int, int], None] | None] = ContextVar("reading", default=None)


def open_corpus(
    settings: Settings,
    vocabulary: Vocabulary | None = None,
    *,
    files: Sequence[str] | None = None,
    run: Path | None = None,
) -> Corpus:
    """Read the texts that the settings name.

    Args:
        settings: the names, and how they are read.
        vocabulary: to use; None makes one of the training part.
        files: where the texts are, if not where the settings say.
        run: the run folder, if not where the settings say: a large text is encoded beside it.
    """
    files = settings.files if files is None else tuple(files)
    share = settings.valid_fraction
    return Corpus.open(
        files,
        bytes_mode=settings.bytes and vocabulary is None,
        tokens=settings.tokens if vocabulary is None else "char",  # else it says so itself
        vocabulary=vocabulary,
        valid_fraction=held_out_share(settings, files=files) if share is None else share,
        document_separator=settings.documents,
        line_ends=settings.line_ends,
        cache=texts_beside(Path(settings.out or "runs/run") if run is None else run),
        progress=reading.get(),
    )


SMALL = 1 << 16  # bytes: in a longer text a tenth can be held out, whatever its characters are


def held_out_share(
    settings: Settings, processes: int = 1, files: Sequence[str] | None = None
) -> float:
    """The share of the text to hold out, which must be known before the text is parted.

    Raises:
        ArgumentError: sizes that were given do not fit a small text.
        DataError: it cannot be read, or has fewer than two tokens.

    Cost: reads a small text.
    """
    files = settings.files if files is None else files
    if files and _small(files):
        whole = Corpus.open(
            files,
            tokens=settings.tokens,
            valid_fraction=0.0,
            document_separator=settings.documents,
            line_ends=settings.line_ends,
        )
        settings = fitted(settings, len(whole.train.tokens), processes)
    return SHARE if settings.valid_fraction is None else settings.valid_fraction


def _small(files: Sequence[str]) -> bool:
    try:
        return sum(os.path.getsize(file) for file in files) < SMALL
    except OSError:
        return False  # opening it will say what is wrong


def texts_beside(run: Path) -> Path:
    """Where large texts lie encoded: beside the run, on the disk that was chosen for large files.

    Raises:
        RunError: a link is there. Nobody typed that name, so it may have come with somebody's runs.
    """
    folder = run.absolute().parent / ".texts"
    if folder.is_symlink():
        raise RunError(
            f"a folder for encoded texts at {folder}", "a symbolic link", "move the link away"
        )
    return folder


def require_documents(settings: Settings, corpus: Corpus) -> None:
    """Raise DataError where a separator of documents was given and begins none."""
    if settings.documents is not None and corpus.documents <= len(corpus.names):
        raise DataError(
            f"the separator of --documents, {settings.documents!r:.80}, between two documents",
            "a text in which it begins none",
            r"give one that is there (\n is a line break, \t a tab), or leave --documents out",
        )


def weights(settings: Settings, vocabulary_size: int) -> int:
    """At least so many numbers has the model: those of its largest matrices, in every layer."""
    V, L = vocabulary_size, settings.layers or 1
    if settings.model == "recurrent":
        H = settings.hidden or 192
        E = settings.embedding or H
        if settings.cell in ("mingru", "lru"):  # the state meets no matrix, the input does
            return V * (E + H) + E * H + (L - 1) * H * H
        return V * (E + H) + E * H + (2 * L - 1) * H * H
    if settings.model == "window":
        H, C = settings.hidden or 256, settings.context or CONTEXT["window"]
        return V * (settings.embedding or 32) + C * (settings.embedding or 32) * H + (L - 1) * H * H
    if settings.model == "attention":
        W = settings.hidden or 96
        return V * W + 4 * L * W * W + (settings.context or CONTEXT["attention"])
    return V


def _named(settings: Settings, *names: str) -> str:
    """The options among these that have a value, as they are typed."""
    given = ((name, getattr(settings, name)) for name in names)
    return " ".join(f"--{name} {value}" for name, value in given if value is not None) or "a model"


def _given(settings: Settings, *same: str, **renamed: str) -> dict[str, Any]:
    """The settings that were given a value, under the names that a model's constructor has."""
    names = {**{name: name for name in same}, **renamed}
    values = {new: getattr(settings, old) for old, new in names.items()}
    return {name: value for name, value in values.items() if value is not None}
