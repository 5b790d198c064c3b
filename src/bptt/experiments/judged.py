"""A run judged by its own text: the same places, in the same batches, whoever asks.

The end of ``bptt train``, the run's report, ``bptt diagnose`` and the lab's *Your run* all measure here,
or read what was measured here, and so come to one verdict with the same numbers.

The batches are not those that a run measures on its way: there each is one update's own, of two lanes
and as long as a chunk, and costs next to nothing. Here they are places of the held-out text, longer than
k, so that what k cuts off is seen too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bptt.data import RandomChunks, Stream
from bptt.models import token_loss
from bptt.ops import device as devices
from bptt.ops.device import CPU, device_of
from bptt.probes.diagnose import Diagnosis, diagnose, spectra_of
from bptt.probes.verdict import Verdict, judge
from bptt.training.loop import Outcome
from bptt.training.run_folder import RunFolder
from bptt.training.settings import Settings
from bptt.training.sizes import own_k

# Places of the text, and in how many batches they are measured: how far batches differ is to be seen, and
# one of 4 places has about as many predictions as an update.
PLACES, BATCHES = 16, 4
# So many times k: what is cut off is within it, and each step more costs as much as all before it.
TIMES, LEAST, MOST = 3, 64, 256
ALONE = 256  # units


def steps_for(settings: Settings, tokens: int) -> int:
    """How long a measured sequence is: three times k, from 64 to 256 steps, less in a shorter text."""
    k = own_k(settings)
    wanted = MOST if k is None else min(MOST, max(LEAST, TIMES * k))
    return max(1, min(wanted, tokens - 1))


def places(
    stream: Stream,
    steps: int,
    *,
    lanes: int = PLACES,
    seed: int = 0,
    device: torch.device = CPU,
) -> list[tuple[Tensor, Tensor]]:
    """Places of a text at random, in four batches, or as many as there are places.

    Args:
        stream: the text.
        steps: of each sequence.
        lanes: places in all.
        seed: which.
        device: where the model lies.

    Returns:
        ``(inputs, targets)`` of each batch, time first.
    """
    chunk = RandomChunks(*stream, batch=lanes, chunk=steps, seed=seed).take().to(device)
    parts = min(BATCHES, lanes)
    return list(
        zip(chunk.inputs.tensor_split(parts, 1), chunk.targets.tensor_split(parts, 1), strict=True)
    )


def diagnose_run(
    model: nn.Module,
    settings: Settings,
    stream: Stream,
    records: Iterable[Mapping[str, Any]],
    *,
    steps: int | None = None,
    lanes: int = PLACES,
    seed: int = 0,
) -> Diagnosis:
    """Measure everything about a run's model that runs through time.

    Args:
        model: of the run, with the weights that are judged.
        settings: of the run.
        stream: the text that is measured.
        records: the lines of its metrics.
        steps: of each sequence; default :func:`steps_for`.
        lanes, seed: as :func:`places` takes them.

    Raises:
        ArgumentError: the text is too short.

    Cost: seconds; see :func:`bptt.probes.diagnose.diagnose`.
    """
    steps = steps_for(settings, len(stream.tokens)) if steps is None else steps
    first, *others = places(stream, steps, lanes=lanes, seed=seed, device=device_of(model))
    with _few_threads(settings):
        found = diagnose(model.eval(), first, token_loss, k=own_k(settings), others=others)
    return replace(found, trained=last_loss(records), guess=guess(model))


@contextmanager
def _few_threads(settings: Settings) -> Iterator[None]:
    """Small matrices are measured by one thread: several wait for each other longer than they work."""
    before = torch.get_num_threads()
    if (settings.hidden or 0) <= ALONE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def judge_outcome(outcome: Outcome) -> Verdict | None:
    """Judge a run that has just ended, and leave the verdict among its metrics.

    Returns:
        The verdict; None where the run measures no horizons (``--horizon-every 0``), was interrupted, or
        has no recurrence.

    Raises:
        BpttError: it cannot be measured, a text that is too short, say. The run is worth more than that.

    Cost: the gradient by lag on four batches; of the default run about two seconds.
    """
    if outcome.interrupted or outcome.rank:
        return None
    corpus, run = outcome.corpus, RunFolder.open(outcome.run)
    settings = run.read_settings()  # with every size that was chosen for the text
    if settings.horizon_every == 0 or settings.model != "recurrent":
        return None
    stream = corpus.train if corpus.valid is None else corpus.valid
    model = outcome.model
    if device_of(model).type in devices.SHORT:
        model = copy.deepcopy(model).to(CPU)
    batches = places(stream, steps_for(settings, len(stream.tokens)), device=device_of(model))
    with _few_threads(settings):
        spectra = spectra_of(model.eval(), batches, token_loss, k=own_k(settings))
    found = judge(
        spectra, k=own_k(settings), loss=last_loss(run.read_metrics()),
        guess=guess(model),
    )  # fmt: skip
    with run.held():
        run.append_metrics({"step": outcome.steps, "judged": found.as_dict()})
    return found


def read_verdict(records: Iterable[Mapping[str, Any]]) -> Verdict | None:
    """The verdict that a run ended with, out of its metrics; None where it has none, or went on since.

    A run that was stopped by a number that is not finite has one without a measurement: diverged.
    """
    found: Verdict | None = None
    for record in records:
        if "judged" in record:
            found = Verdict.read(record["judged"])
        elif "loss" in record or "nonfinite" in record:
            found = None
            if _stopped(record):
                step = record.get("step")
                reason = f"A number that was not finite stopped the training at step {step}."
                found = Verdict("diverged", reason, 0, 0, 0, 0, 0, None, None, 0, 0)
    return found


def last_loss(records: Iterable[Mapping[str, Any]]) -> float | None:
    """The training loss of the last line that has one; NaN where the run was stopped after it."""
    found: float | None = None
    for record in records:
        loss = record.get("loss")
        if isinstance(loss, (int, float)) and not isinstance(loss, bool):
            found = float(loss)
        elif _stopped(record):
            found = math.nan
    return found


def trained_on(records: Iterable[Mapping[str, Any]]) -> int | None:
    """How many tokens the run's text has to train on, out of its metrics; None where none say so."""
    for record in records:
        tokens, epoch = record.get("tokens"), record.get("epoch")
        if isinstance(tokens, int) and isinstance(epoch, float) and 0 < epoch < math.inf:
            return int(tokens / epoch)
    return None


def whole_text(records: Iterable[Mapping[str, Any]], settings: Settings) -> int | None:
    """How many tokens the text has, what is held out included; None where that is not known."""
    tokens = trained_on(records)
    return None if tokens is None else int(tokens / (1 - (settings.valid_fraction or 0.0)))


def guess(model: nn.Module) -> float | None:
    """The loss of a language model that has learned nothing: log V."""
    size = getattr(model, "vocabulary_size", None)
    return math.log(size) if isinstance(size, int) and size > 1 else None


def _stopped(record: Mapping[str, Any]) -> bool:
    told = record.get("nonfinite")
    return isinstance(told, Mapping) and told.get("action") == "stop"
