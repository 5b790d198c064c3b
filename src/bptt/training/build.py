"""From settings to the parts of a run: model, optimiser, estimator, data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bptt.data import Corpus, Lanes, RandomChunks, Stream
from bptt.gradients import (
    Adaptive,
    Checkpointed,
    Estimator,
    ForwardMode,
    Full,
    Randomized,
    Truncated,
    Windowed,
)
from bptt.models import AttentionModel, CountModel, LanguageModel, WindowModel
from bptt.remedies import hold_orthogonal, start_forget_bias, start_recurrent
from bptt.training.distributed import Group
from bptt.training.settings import Settings


def build_model(settings: Settings, vocabulary_size: int) -> nn.Module:
    """The model that the settings name, freshly started from ``settings.seed``."""
    torch.manual_seed(settings.seed)
    if settings.model in ("bigram", "ngram"):
        return CountModel(
            vocabulary_size, order=2 if settings.model == "bigram" else settings.order
        )
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
    """AdamW, its update of all parameters fused into one call, or SGD; None for a model that counts."""
    if isinstance(model, CountModel):
        return None
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            model.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    return torch.optim.SGD(
        model.parameters(), lr=settings.learning_rate, momentum=settings.momentum
    )


def build_estimator(
    settings: Settings, generator: torch.Generator | None = None, group: Group | None = None
) -> Estimator:
    """How the gradient is taken through a chunk; one that draws does it from ``generator``,
    one that decides does it for the whole ``group``."""
    made: dict[str, Callable[[], Estimator]] = {
        "truncated": lambda: Truncated(settings.k),
        "full": Full,
        "windowed": lambda: Windowed(settings.k, settings.k2),
        "checkpointed": lambda: Checkpointed(states=settings.states),
        "adaptive": lambda: Adaptive(settings.bias, agree=None if group is None else group.largest),
        "randomized": lambda: Randomized(settings.k, cut=settings.cut, generator=generator),
        "forward": ForwardMode,
    }
    return made[settings.gradient]()


def build_data(
    settings: Settings, stream: Stream, group: Group | None = None
) -> Lanes | RandomChunks:
    """The chunks that training sees: those of the lanes of this process."""
    batch, chunk = settings.batch, settings.steps_per_update
    lanes = None if group is None else group.lanes(batch)
    if settings.partition == "random":
        return RandomChunks(*stream, batch=batch, chunk=chunk, seed=settings.seed, lane_range=lanes)
    return Lanes(*stream, batch=batch, chunk=chunk, lane_range=lanes)


def open_corpus(settings: Settings, vocabulary=None) -> Corpus:
    """Read the texts that the settings name."""
    return Corpus.open(
        settings.files,
        bytes_mode=settings.bytes,
        vocabulary=vocabulary,
        valid_fraction=settings.valid_fraction,
        document_separator=settings.documents,
    )


def _given(settings: Settings, *same: str, **renamed: str) -> dict[str, Any]:
    """The settings that were given a value, under the names that a model's constructor has."""
    names = {**{name: name for name in same}, **renamed}
    values = {new: getattr(settings, old) for old, new in names.items()}
    return {name: value for name, value in values.items() if value is not None}
