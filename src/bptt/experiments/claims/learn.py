"""What several claims share: a training loop, tasks' settings, counted bytes, a user's files."""

from __future__ import annotations

import os
import statistics
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt import nn as layers
from bptt import training
from bptt.experiments.claims.registry import NotRun
from bptt.remedies import Clip, ClipNorm
from bptt.tasks import Batch, Task
from bptt.training import Update

# The small training loop and the tasks' settings that several claims share.
#
# Published settings are part of a claim: generators here make exactly what the claim's source made.

SEEDS = (0, 1, 2)
SYMBOLS = 8
Optimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


class Last(nn.Module):
    """A recurrent layer and one linear map of its last output."""

    def __init__(self, layer: nn.RNNBase, hidden: int, classes: int) -> None:
        super().__init__()
        self.layer, self.linear = layer, nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """From ``(T, B, I)`` to ``(B, classes)``."""
        return self.linear(self.layer(x)[0][-1])


def tanh_rnn(inputs: int = SYMBOLS, hidden: int = 32, classes: int = SYMBOLS) -> Last:
    """The network most of the lessons train."""
    return Last(layers.RNN(inputs, hidden), hidden, classes)


def weight(layer: nn.Module, name: str = "weight_hh_l0") -> Tensor:
    """A layer's parameter by its name."""
    return dict(layer.named_parameters())[name]


def one_hot(symbols: np.ndarray, size: int = SYMBOLS) -> Tensor:
    """``(N, T)`` integers to ``(T, N, size)``."""
    return F.one_hot(torch.from_numpy(symbols).t().long(), size).float().contiguous()


def remember_first(count: int, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """T random symbols out of 8; the first is the answer. ``(T, N, 8)`` and ``(N,)``."""
    symbols = np.random.default_rng(seed).integers(0, SYMBOLS, size=(count, steps))
    return one_hot(symbols), torch.from_numpy(symbols[:, 0].copy())


def adam(rate: float) -> Optimizer:
    """Adam with this rate."""
    return lambda parameters: torch.optim.Adam(parameters, lr=rate)


def sgd(rate: float) -> Optimizer:
    """Plain gradient descent with this rate."""
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


@dataclass
class Fit:
    """What a training run leaves: mean loss of the last epoch, gradient norms before clipping."""

    loss: float
    norms: list[float]
    acted: int


def fit(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    optimizer: Optimizer,
    epochs: int,
    *,
    batch: int | None = None,
    clip: Clip | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
) -> Fit:
    """Train; one pass over the sequences in a new order an epoch. ``loss`` takes a model and a "
    "batch."""
    run, norms, acted = optimizer(model.parameters()), [], 0
    made: list[Update] = []
    for _ in range(epochs):
        order = torch.randperm(x.shape[1])
        batches = ((x[:, rows], target[rows]) for rows in order.split(batch or len(order)))
        made = list(training.fit(model, run, batches, loss or ordinary, clip=clip))
        norms += [done.norm for done in made]
        acted += sum(done.clipped for done in made)
    return Fit(statistics.fmean(done.loss for done in made), norms, acted)


def practise(model: nn.Module, task: Task, updates: int, seed: int, every: int = 50) -> float:
    """The held-out score after fresh batches of 64, Adam 3e-3, clipped at 1; ends once it is solved."""
    generator, held_out = torch.Generator().manual_seed(seed), task.held_out()
    score = float("nan")

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return task.loss(net(batch.inputs)[0], batch.targets)

    batches = (task.batch(generator, 64) for _ in range(updates))
    run = training.fit(model, adam(3e-3)(model.parameters()), batches, loss, clip=ClipNorm(1.0))
    for update, _ in enumerate(run, 1):
        if update == updates or update % every == 0:
            with torch.no_grad():
                score = task.score(model(held_out.inputs)[0], held_out.targets)
            if task.solved(score):
                break
    return score


def ordinary(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss of a classifier, to be differentiated through all steps."""
    x, target = batch
    return F.cross_entropy(model(x), target)


def accuracy(model: nn.Module, x: Tensor, target: Tensor) -> float:
    """Share of right answers."""
    with torch.no_grad():
        return float((model(x).argmax(-1) == target).double().mean())


def best_accuracy(
    model: nn.Module,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    optimizer: Optimizer,
    epochs: int,
    *,
    batch: int | None = 64,
    clip: Clip | None = None,
) -> float:
    """The best share of right answers on the test sequences after any epoch; ends once all are "
    "right."""
    run, (x, target), best = optimizer(model.parameters()), train, 0.0
    for _ in range(epochs):
        order = torch.randperm(x.shape[1])
        batches = ((x[:, rows], target[rows]) for rows in order.split(batch or len(order)))
        for _ in training.fit(model, run, batches, ordinary, clip=clip):
            pass
        best = max(best, accuracy(model, *test))
        if best == 1.0:
            break
    return best


def near(shares: Sequence[float], published: float) -> bool:
    """Whether every seed's share of right answers is within 10 points of a published one.

    Both are counted on 128 test sequences: at 20 % the difference of two such shares has a standard
    error of 5 points.

    Example:
        >>> near([1.0, 0.91], 1.0), near([1.0, 0.68], 1.0)
        (True, False)
    """
    return all(abs(share - published) <= 0.1 for share in shares)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and the range.

    Example:
        >>> spread([0.25, 0.5, 0.75])
        '0.5 (0.25 to 0.75)'
    """
    mean = statistics.fmean(values)
    return f"{mean:.{digits}g} ({min(values):.{digits}g} to {max(values):.{digits}g})"


def percents(values: Sequence[float]) -> str:
    """Every seed's share, in percent.

    Example:
        >>> percents([1.0, 0.125, 0.25])
        '100 / 12.5 / 25 %'
    """
    return " / ".join(f"{100 * v:.3g}" for v in values) + " %"


# How many bytes autograd holds for a backward pass to come: counted, not guessed from the process.


class _Kept:
    """What autograd holds in place of a tensor; gone when the graph lets go of it."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Held:
    """Inside the block, count the bytes of tensors saved for backward.

    Every saved tensor counts by its storage, once however often it is saved. Freed with the graph.

    Args:
        besides: tensors that are there anyway, parameters or the input; they do not count.

    Attributes:
        bytes: held now.
        peak: the most so far.

    Example:
        >>> x = torch.ones(1000, requires_grad=True)
        >>> with Held() as held:
        ...     y = x.exp().exp()
        >>> held.bytes >= 8000
        True
        >>> y.sum().backward()
        >>> held.bytes
        0
    """

    def __init__(self, *besides: Tensor) -> None:
        self.bytes = self.peak = 0
        self._besides = {t.untyped_storage().data_ptr() for t in besides}
        self._users: dict[int, int] = {}

    def __enter__(self) -> Held:
        self._hooks: Any = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda k: k.tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> _Kept:
        # A detached view: the tensor itself would hold the graph that holds it.
        kept = _Kept(tensor.detach())
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if key in self._besides:
            return kept
        self._users[key] = self._users.get(key, 0) + 1
        if self._users[key] == 1:
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
        weakref.finalize(kept, self._release, key, size)
        return kept

    def _release(self, key: int, size: int) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            self.bytes -= size


# Data that no package carries: read from a folder the user names, never fetched, never assumed.

# Set by `bptt claims --data FOLDER`; the environment reaches the processes that claims run in.
VARIABLE = "BPTT_CLAIMS_DATA"


def beside(name: str, remedy: str) -> Path:
    """The path of a file in the folder named.

    Raises:
        NotRun: no folder was named, or the file is not in it.
    """
    folder = os.environ.get(VARIABLE)
    if folder is None:
        raise NotRun(name, "no folder to look in", remedy)
    path = Path(folder) / name
    if not path.is_file():
        raise NotRun(name, f"no such file in {folder}", remedy)
    return path
