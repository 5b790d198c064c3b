"""One job: a model, trained on a task until it is solved or the budget is spent."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from bptt import gradients, tasks
from bptt.data import Corpus
from bptt.errors import ArgumentError, BpttError, DataError, DependencyError, RunError
from bptt.experiments import count_cores, run_in_processes, use_one_thread
from bptt.experiments.compare.grid import TEXT, TEXT_LENGTH, Job, text_task
from bptt.gradients import Estimator
from bptt.models import CELLS, Attention, Classifier, Forecaster, Highway, Residual
from bptt.ops.device import device_of
from bptt.remedies import Clip, Regulariser, build_clip, build_regulariser, start_recurrent
from bptt.tasks import Batch, ClassTask, Task
from bptt.tasks.task import check_answer, symbols
from bptt.training.fit import Update, fit_step

# The length a curriculum begins with: every task has it, and next to nothing vanishes over it.
FIRST = 10
# This many updates in a row that had to be skipped, because the gradient was not finite, end a job.
PATIENCE = 20


def build_task(name: str, length: int | None, folder: str | None = None) -> Task:
    """A task by its name, of a length where it has one."""
    if name.startswith(TEXT):
        return OwnText(name, length or TEXT_LENGTH)
    if name == "digits":
        return tasks.Digits("row" if length == 8 else "pixel", folder)
    if name == "japanese-vowels":
        return tasks.JapaneseVowels(folder=folder)
    if length is None:
        raise ArgumentError(f"a length for {name}", "none", "give one: --lengths 50")
    if name == "co2":
        return tasks.CO2(length, folder=folder)
    kinds: dict[str, Any] = {
        "remember-first": tasks.RememberFirst,
        "copy": tasks.Copy,
        "adding": tasks.Adding,
        "temporal-order": tasks.TemporalOrder,
        "agreement": tasks.Agreement,
        "recall": tasks.Recall,
    }
    return kinds[name](length)


SHORT: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "residual": (Residual, {}),
    "highway": (Highway, {}),
    "attention": (Attention, {}),
}


def build_model(task: Task, cell: str, hidden: int, start: str) -> nn.Module:
    """A layer of the cell under a classifier or forecaster that answers at every step."""
    kind, options = CELLS[cell] if cell in CELLS else SHORT[cell]
    if kind is Attention:  # it sees all of a sequence, as a recurrence does
        options = {"context": len(task.held_out().inputs)}
    layer = kind(task.inputs, hidden, **options)
    if start != "default":
        start_recurrent(layer, start)
    if isinstance(task, tasks.CO2):
        return Forecaster(layer, task.outputs)
    if isinstance(task, tasks.ValueTask):
        return Forecaster(layer, task.outputs, residual=False)
    return Classifier(layer, task.outputs, pool="none")


def build_gradient(form: str, task: Task) -> Estimator:
    """An estimator from its form: :func:`bptt.gradients.build`; the loss says how it adds up."""
    return gradients.build(form, reduction=getattr(task.loss, "reduction", None))


def run_job(job: Job, device: str = "cpu") -> dict[str, Any]:
    """Train and score.

    Args:
        job: what to train.
        device: where, as torch names it. Batches, the start and the cuts are drawn on the CPU, so they
            are the same on every device.

    Returns:
        a record as JSON takes it: ``job``; ``score``, on what is held out, after the last update (the
        solving one, unless the budget says to go on); ``curve`` of (updates, score);
        ``losses`` of (updates, mean training loss since the point before); ``solved``;
        ``updates``; ``skipped`` updates whose gradient was not finite; ``clipped``, the share of updates
        in which the clip acted; ``seconds``; ``error``: None, or why the job could not be run.

    Cost: at most the budget's updates; one thread.
    """
    clock = time.perf_counter()
    record: dict[str, Any] = {
        "job": job.as_dict(), "score": None, "curve": [], "losses": [], "solved": False, "updates": 0,
        "skipped": 0, "clipped": 0.0, "error": None,
    }  # fmt: skip
    try:
        _train(job, record, torch.device(device))
    except BpttError as error:
        record["error"] = str(error)
    record["seconds"] = round(time.perf_counter() - clock, 3)
    return record


def _train(job: Job, record: dict[str, Any], device: torch.device) -> None:
    budget = job.budget
    torch.manual_seed(job.seed)
    task = whole = build_task(job.task, job.length, budget.folder)
    if job.curriculum == "double" and job.length is not None:
        task = build_task(job.task, min(FIRST, job.length), budget.folder)
    model = build_model(whole, job.cell, budget.hidden, job.start).to(device)
    estimator = build_gradient(job.gradient, task)
    clip, regulariser = build_clip(job.clip), build_regulariser(job.regularise)
    optimizer = torch.optim.Adam(model.parameters(), lr=budget.lr)
    drawn = _source(task, job)
    run = train(
        model, lambda: drawn, optimizer, estimator, clip=clip, seed=job.seed, batch=budget.batch,
        updates=budget.updates, penalties=() if regulariser is None else (regulariser,),
    )  # fmt: skip
    held_out, acted, scored_at = task.held_out(), 0, 0
    losses: list[float] = []
    for update, done in enumerate(run, 1):
        record["updates"] = update
        record["skipped"] += not done.finite
        acted += done.clipped
        losses.append(done.loss)
        if update % budget.every == 0:
            _look(record, model, whole, held_out, losses)
            scored_at = update
            before, task = task, _grown(task, whole, model, job)
            drawn = drawn if task is before else _source(task, job)
            if record["solved"] and not budget.to_the_end:
                break
    if scored_at != record["updates"]:
        _look(record, model, whole, held_out, losses)
    record["clipped"] = acted / record["updates"]


class Source(Protocol):
    """Whatever batches are drawn from, with the loss that they ask for: a task, or a part of one."""

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """``loss(output, targets) -> scalar``."""

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """The next sequences."""


class FixedSet:
    """Sequences of a task that were drawn once, read in another order at every pass.

    Args:
        task: drawn from.
        size: N sequences.
        generator: of the draw.

    Example:
        >>> few = FixedSet(tasks.RememberFirst(5), 10, torch.Generator().manual_seed(0))
        >>> order = torch.Generator().manual_seed(1)
        >>> [few.batch(order, 4).inputs.shape[1] for _ in range(4)]
        [4, 4, 2, 4]
    """

    def __init__(self, task: Task, size: int, generator: torch.Generator) -> None:
        self.loss = task.loss
        self._kept = task.batch(generator, size)
        self._order = torch.empty(0, dtype=torch.int64)

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """The next ones of this pass, fewer at its end; of the next pass where there are none left."""
        if not len(self._order):
            self._order = torch.randperm(self._kept.inputs.shape[1], generator=generator)
        now, self._order = self._order[:size], self._order[size:]
        inputs, targets, lengths, reset = self._kept
        return Batch(
            inputs[:, now],
            targets[:, now],
            None if lengths is None else lengths[now],
            None if reset is None else reset[:, now],
        )


FIXED_SEED = 2**39 + 3  # far from the seeds that batches are drawn with, and from what is held out


def _source(task: Task, job: Job) -> Source:
    if not job.fixed:
        return task
    return FixedSet(task, job.fixed, torch.Generator().manual_seed(FIXED_SEED + job.seed))


def train(
    model: nn.Module,
    task: Callable[[], Source],
    optimizer: torch.optim.Optimizer,
    estimator: Estimator,
    *,
    clip: Clip,
    seed: int,
    batch: int,
    updates: int,
    penalties: Sequence[Regulariser] = (),
) -> Iterator[Update]:
    """Updates on batches of a task, one after another, as every job makes them.

    Args:
        model, optimizer, estimator, clip, penalties: as :func:`bptt.training.fit_step` takes them.
        task: asked before each update, so that it may grow.
        seed: of the batches.
        batch: sequences in each.
        updates: how many at most; ``PATIENCE`` in a row that could not be made end it too.
    """
    generator, in_a_row = torch.Generator("cpu").manual_seed(seed), 0
    device = device_of(model)
    for _ in range(updates):
        now = task()
        given = now.batch(generator, batch).to(device)
        done = fit_step(
            model, optimizer, given, estimator, now.loss,
            penalties=penalties, clip=clip,
        )  # fmt: skip
        in_a_row = 0 if done.finite else in_a_row + 1
        yield done
        if in_a_row == PATIENCE:
            return


def _look(
    record: dict[str, Any], model: nn.Module, whole: Task, held_out: Batch, losses: list[float]
) -> None:
    score, loss = _score(model, whole, held_out), sum(losses) / len(losses)
    record["losses"].append([record["updates"], loss if math.isfinite(loss) else None])
    losses.clear()
    record["score"] = score if math.isfinite(score) else None
    record["curve"].append([record["updates"], record["score"]])
    record["solved"] = whole.solved(score)


def _score(model: nn.Module, task: Task, batch: Batch) -> float:
    given = batch.to(device_of(model))
    with torch.no_grad():
        output, _ = model(given.inputs, lengths=given.lengths)
        return task.score(output.cpu(), batch.targets)


def _grown(task: Task, whole: Task, model: nn.Module, job: Job) -> Task:
    """The task to go on with: one twice as long where the present one is solved, the whole at most."""
    if task is whole or not task.solved(_score(model, task, task.held_out())):
        return task
    present: Any = task
    longer = 2 * present.steps
    return (
        whole
        if longer >= cast(int, job.length)
        else build_task(job.task, longer, job.budget.folder)
    )


# The jobs of a grid over all cores, or over a Ray cluster.


def on_processes(
    jobs: list[Job], workers: int | None = None, device: str = "cpu"
) -> Iterator[dict[str, Any]]:
    """Run jobs in processes of their own, one torch thread each; records as they finish.

    Args:
        jobs: what to train.
        workers: processes; None: one a core, and one on another device than the CPU.
        device: where they train, as torch names it.

    Raises:
        RunError: a process died, for want of memory most likely. What was done stays done.
    """
    if workers is None:
        workers = count_cores() if device == "cpu" else 1
    if workers < 1:
        raise ArgumentError("--workers >= 1", f"{workers}", "leave it out for all cores")
    with closing(run_in_processes(partial(run_job, device=device), jobs, workers)) as outcomes:
        for job, outcome in outcomes:
            if isinstance(outcome, BrokenProcessPool):
                raise RunError(
                    "every job to end by itself", "a process that died, perhaps for want of memory",
                    "run again with fewer --workers; finished jobs are kept",
                )  # fmt: skip
            if isinstance(outcome, BaseException):
                outcome.add_note(f"The job was {job.as_dict()}.")
                raise outcome
            yield outcome


def on_ray(jobs: list[Job], address: str = "local") -> Iterator[dict[str, Any]]:
    """Run jobs on a Ray cluster, one core each; records as they finish.

    Args:
        address: of the cluster (``"auto"``, ``"ray://host:port"``), or ``"local"`` to start one here.

    Raises:
        DependencyError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise DependencyError("the package ray", "none", "install it: pip install 'bptt[ray]'")
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False, include_dashboard=False)
    try:
        remote: Any = ray.remote(num_cpus=1)(_run_alone)
        waiting = [remote.remote(job.as_dict()) for job in jobs]
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1)
            yield from ray.get(ready)
    finally:
        if started:
            ray.shutdown()


def _run_alone(job: dict[str, Any]) -> dict[str, Any]:
    use_one_thread()
    return run_job(Job.from_dict(job))


@dataclass(frozen=True, eq=False)
class OwnText(ClassTask):
    """A text of one's own: chunks of it from anywhere, each begun with an empty state.

    Attributes:
        task: as :func:`bptt.experiments.compare.grid.text_task` names it.
        steps: T, characters of a chunk. The last tenth of the text is held out; a score is its mean
            over up to 512 chunks of that, in bits per character.

    Raises:
        DataError: the text has changed, or is shorter than a chunk of each part.
    """

    task: str
    steps: int
    name: ClassVar[str] = "text"
    metric: ClassVar[str] = "bits per character"
    rises: ClassVar[bool] = False
    _train: Tensor = field(init=False, repr=False)
    _valid: Tensor = field(init=False, repr=False)
    _symbols: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        path = self.task.split(":", 2)[2]
        if text_task(path) != self.task:
            raise DataError(f"{path} as it was when the grid began", "another text", "start again")
        corpus = Corpus.open([path], valid_fraction=0)
        whole = torch.from_numpy(np.array(corpus.train.tokens, np.int64))
        parts = whole.split([len(whole) - len(whole) // 10, len(whole) // 10])
        for kept, tokens in zip(("_train", "_valid"), parts, strict=True):
            if len(tokens) <= self.steps:
                raise DataError(
                    f"more than {10 * (self.steps + 1)} characters in {path}, for chunks of {self.steps}",
                    f"{len(whole)}",
                    "give a smaller --lengths, or a longer text",
                )
            object.__setattr__(self, kept, tokens)
        object.__setattr__(self, "_symbols", corpus.vocabulary.size)

    @property
    def inputs(self) -> int:
        """V, one-hot."""
        return self._symbols

    @property
    def outputs(self) -> int:
        """V."""
        return self._symbols

    @property
    def chance(self) -> float:
        """Bits of whoever knows how often each character stands in what is trained on, and no more."""
        known = self._train.bincount(minlength=self._symbols).double() + 1
        return float(-(known / known.sum()).log2()[self._valid].mean())

    @property
    def best(self) -> float:
        """Nobody knows; none is less."""
        return 0.0

    @property
    def goal(self) -> float:
        """Never reached: jobs go on to the end of their updates."""
        return 0.0

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """Chunks of the training part."""
        first = torch.randint(len(self._train) - self.steps, (size,), generator=generator)
        return self._chunks(self._train, first)

    def held_out(self) -> Batch:
        """Chunks of the held-out part, evenly apart."""
        room = len(self._valid) - self.steps
        count = min(512, max(1, len(self._valid) // self.steps))
        return self._chunks(self._valid, torch.linspace(0, room - 1, count).long())

    def score(self, output: Tensor, targets: Tensor) -> float:
        """Mean bits per character of ``(T, B, V)`` logits."""
        check_answer(output, targets, targets.dim() + 1)
        return float(self.loss(output, targets)) / math.log(2)

    def _chunks(self, tokens: Tensor, first: Tensor) -> Batch:
        chunk = tokens[first + torch.arange(self.steps + 1)[:, None]]
        return Batch(symbols(chunk[:-1], self._symbols), chunk[1:])
