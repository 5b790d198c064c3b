"""One update: a chunk, its gradient, the clip, the step of the optimiser."""

from __future__ import annotations

import math
import sys
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from bptt.data import Chunk
from bptt.errors import BpttError, DataError
from bptt.gradients import Adaptive, ForwardMode, Step
from bptt.models import token_loss
from bptt.probes.watch import watch
from bptt.recurrence.loops import LAYERS
from bptt.remedies import Regularised
from bptt.training.nonfinite import Broken, finite, overflowed
from bptt.training.session import Session

# How far back a run learns, measured on the way: every so many updates, on that update's own batch.

FIRST = 10  # the update of the first measurement: at the very first, nothing reaches the state yet

# Runs that were told why their horizon could not be measured: once each.
_SAID: weakref.WeakSet[Session] = weakref.WeakSet()


@contextmanager
def measured(session: Session) -> Iterator[None]:
    """Around an update: if one is due, its gradient is split by lag into ``progress.horizon``.

    Parameters, gradients and random numbers stay as they would have been.
    """
    if not _due(session):
        yield
        return
    # Two lanes and a coarse grid, as for a whole watched run; of several backward passes the first.
    observer = watch(session.model, every=sys.maxsize)
    flow = observer.__enter__()
    try:
        yield
    except BaseException:
        observer.__exit__(RuntimeError, None, None)
        raise
    try:
        observer.__exit__(None, None, None)
        spectrum = flow.spectrum
    except BpttError as error:  # what is observed goes on
        if session not in _SAID:
            _SAID.add(session)
            warnings.warn(f"the horizon was not measured: {error}", UserWarning, stacklevel=1)
        return
    session.progress.horizon = {
        "horizon": flow.horizon,
        "decay": _number(flow.decay),
        "verdict": flow.verdict,
        "spectrum": {
            "truncations": spectrum.truncations.tolist(),
            "bias": [_number(b) for b in spectrum.measured_bias.tolist()],
        },
    }


def _due(session: Session) -> bool:
    if session.group.rank:
        return False  # the first process writes the metrics, and measures on its own lanes
    every, step = session.settings.horizon_every, session.progress.step + 1
    if not every or (step % every and step != FIRST):
        return False
    if isinstance(session.estimator, (Adaptive, ForwardMode)):
        return False  # one measures for itself, the other takes no gradient back through time
    return any(isinstance(module, LAYERS) for module in session.model.modules())


def _number(value: float) -> Any:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def update(session: Session, optimizer: torch.optim.Optimizer, lr: float) -> Broken | None:
    """Take the next chunk and train on it.

    Returns:
        None; or, where a number was not finite, the update that was not made. Parameters and the
        optimiser's state are then to be put back by :func:`bptt.training.nonfinite.meet`.
    """
    progress, tally = session.progress, session.progress.tally
    session.guard.mark(session)
    chunk = _next_chunk(session)
    session.carry = session.chunk_carry(chunk)
    regulariser, regularised = session.regulariser, Regularised()
    with (
        measured(session),
        nullcontext(regularised)
        if regulariser is None
        else regulariser.on(session.model) as regularised,
    ):
        step = session.estimator.backward(
            session.model,
            chunk.inputs,
            chunk.targets,
            session.carry,
            loss=token_loss,
            reset=None if chunk.fresh else chunk.reset,
        )
    loss, terms, sound = _of_all(session, step)
    if not (math.isfinite(loss) and sound):
        what = f"loss {loss:.4g}" + ("" if sound else ", a state out of range")
        return Broken(what, chunk, step.carry)
    session.group.add_gradients(session.model.parameters(), step.terms / max(terms, 1))
    clipped = session.clip(session.model.parameters())
    norm = clipped.norm.item()
    if not math.isfinite(norm):
        return Broken(f"loss {loss:.4g}, gradient norm {norm:.4g}", chunk, step.carry)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()
    origin = overflowed(session)
    if origin is not None:
        values = f"loss {loss:.4g}, gradient norm {norm:.4g}, an update too large"
        return Broken(values, chunk, step.carry, origin)
    session.carry = step.carry
    progress.step += 1
    progress.skips = 0
    progress.tokens += terms
    tally.steps += 1
    tally.tokens += terms
    tally.nats += loss
    tally.norms += norm
    tally.clipped += clipped.acted
    if regulariser is not None:
        value = (regularised.value or 0.0) if regularised.acted else 0.0
        penalty, acted = session.group.total([value, float(regularised.acted)])
        tally.penalty += penalty / session.group.size
        tally.unregularised += acted < session.group.size
    return None


def _next_chunk(session: Session) -> Chunk:
    """The next chunk that predicts something.

    Where every target of a chunk begins a document, nothing is learned from it, and no lane hands on a
    state: it may as well not be there.
    """
    documents = len(session.corpus.train.starts) > 1
    for _ in range(len(session.data) + 1):
        chunk = session.data.take()
        scored = chunk.scored
        if documents:  # else every target counts, in all processes
            scored = int(session.group.total([float(scored)])[0])
        if scored:
            return chunk
    raise DataError("a token to predict", "documents of one token each", "give longer documents")


def _of_all(session: Session, step: Step) -> tuple[float, int, bool]:
    """The loss over the lanes of all processes, its terms, and whether every state is finite."""
    loss, terms, sound = step.loss.item(), step.terms, finite(step.carry)
    if session.group.size == 1:
        return loss, terms, sound
    nats, scored, broken = session.group.total([loss * terms, terms, float(not sound)])
    return nats / max(scored, 1), int(scored), broken == 0
