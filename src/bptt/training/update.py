"""One update of a run: the next chunk, the training step on it, and what the run remembers of it."""

from __future__ import annotations

import math
import sys
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bptt.data import Chunk
from bptt.errors import BpttError, DataError
from bptt.gradients import Adaptive, ForwardMode
from bptt.models import token_loss
from bptt.probes.watch import watch
from bptt.recurrence.loops import LAYERS
from bptt.training.fit import fit_step
from bptt.training.nonfinite import Broken, overflowed
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
    for held in optimizer.param_groups:
        held["lr"] = lr
    regulariser = session.regulariser
    with measured(session):
        done = fit_step(
            session.model,
            optimizer,
            (chunk.inputs, chunk.targets, None, None if chunk.fresh else chunk.reset),
            session.estimator,
            token_loss,
            penalties=() if regulariser is None else (regulariser,),
            clip=session.clip,
            carry=session.carry,
            group=session.group,
        )
    if not (math.isfinite(done.loss) and done.sound):
        what = f"loss {done.loss:.4g}" + ("" if done.sound else ", a state out of range")
        return Broken(what, chunk, done.carry)
    values = f"loss {done.loss:.4g}, gradient norm {done.norm:.4g}"
    if not done.finite:
        return Broken(values, chunk, done.carry)
    origin = overflowed(session)
    if origin is not None:
        return Broken(f"{values}, an update too large", chunk, done.carry, origin)
    session.carry = done.carry
    progress.step += 1
    progress.skips = 0
    progress.tokens += done.terms
    tally.steps += 1
    tally.tokens += done.terms
    tally.nats += done.loss
    tally.norms += done.norm
    tally.clipped += done.clipped
    for seen in done.penalties:
        value = (seen.value or 0.0) if seen.acted else 0.0
        penalty, acted = session.group.total([value, float(seen.acted)])
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
