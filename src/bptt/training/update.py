"""One update: a chunk, its gradient, the clip, the step of the optimiser."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch

from bptt.data import Chunk
from bptt.errors import DataError
from bptt.gradients import Step
from bptt.models import token_loss
from bptt.remedies import Regularised
from bptt.training.horizon import measured
from bptt.training.nonfinite import Broken, finite, overflowed
from bptt.training.session import Session


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
