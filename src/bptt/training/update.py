"""One update of a run: the next chunk, the training step on it, and what the run remembers of it."""

from __future__ import annotations

import logging
import math
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bptt.data import Chunk, Stream
from bptt.data.encode import part
from bptt.errors import BpttError, DataError, NonFiniteError
from bptt.gradients import Adaptive, ForwardMode
from bptt.models import token_loss
from bptt.nn import carry as carries
from bptt.ops import device as devices
from bptt.probes.watch import watch
from bptt.recurrence.loops import LAYERS
from bptt.training import checkpoint as checkpoints
from bptt.training.build import build_model
from bptt.training.checkpoint import Checkpoint, load_weights
from bptt.training.evaluate import evaluate
from bptt.training.fit import fit_step
from bptt.training.locate import Origin, locate
from bptt.training.run_folder import RunFolder
from bptt.training.session import Session
from bptt.training.settings import Settings

# What happens when a number is not finite: the update is not made, and one of three things follows.
#
# Loss, state, gradient and its norm are looked at before the update, the parameters after it; where
# they went out of range, the update is taken back. So no update with a number in it that is not finite
# is ever kept, whatever the policy, and no checkpoint holds one.
#
# ``stop``: end with what and where (:mod:`bptt.training.locate`) and a checkpoint from before the update,
# which resumes with the very chunk that did it, or with another rate where all was well
# (:mod:`bptt.training.update`). ``skip``: leave this chunk out. ``rollback``: go back to
# the last sound checkpoint, and on with the data that comes next.

if TYPE_CHECKING:
    from bptt.training.session import Session

SKIPS = 10  # in a row, then the run stops: it is not the data that is at fault
ROLLBACKS = 5  # in a run


@dataclass(frozen=True, eq=False)
class Broken:
    """An update that was not made.

    Attributes:
        values: the numbers that told, in words.
        chunk: what it was computed on.
        carry: the state it ended with.
        origin: where that is known already; otherwise the chunk is run again to find it.
    """

    values: str
    chunk: Chunk
    carry: carries.Carry
    origin: Origin | None = None


def overflowed(session: Session) -> Origin | None:
    """The first parameter that an update has taken out of the float range."""
    with torch.no_grad():
        held: list[Tensor] = list(session.model.parameters())
        # Finite norms have finite terms, and are quicker to come by than a look at each.
        if not held or math.isfinite(torch.stack(torch._foreach_norm(held)).sum()):
            return None
        for name, parameter in session.model.named_parameters():
            if not bool(parameter.isfinite().all()):
                return Origin("parameter", name)
    return None


def meet(session: Session, broken: Broken, save: Callable[[], Path]) -> dict[str, Any]:
    """Do what ``settings.on_nonfinite`` says about an update that was not made.

    Args:
        session: as the update left it.
        broken: the update.
        save: writes a checkpoint of the session and says where.

    Returns:
        what to tell: ``action``, ``values``, ``origin`` and ``text``; the session is ready for the
        next chunk.

    Raises:
        NonFiniteError: the policy is to stop, or has come to its limit.
    """
    guard, progress, policy = session.guard, session.progress, session.settings.on_nonfinite
    following = session.data.state()
    guard.undo(session)
    origin = _agreed_origin(session, broken)
    guard.undo(session)  # looking drew random numbers and left gradients
    said = broken.values if origin is None else f"{broken.values}; {origin}"
    where = {} if origin is None else {"origin": origin.as_dict()}
    if policy == "skip" and progress.skips < SKIPS:
        progress.skips += 1
        progress.tally.skipped += 1
        session.data.seek(following)
        session.carry = _mended(broken.carry)
        text = f"step {progress.step + 1}: {said}: skipped"
        return {"action": "skip", "values": broken.values, **where, "text": text}
    if policy == "rollback" and progress.rollbacks < ROLLBACKS:
        failed = progress.step + 1
        guard.roll_back(session)
        session.data.seek(following)  # not the same chunk again for ever
        session.carry = None
        text = f"step {failed}: {said}: back to step {session.progress.step}"
        return {"action": "rollback", "values": broken.values, **where, "text": text}
    limits = {"skip": f" ({SKIPS} in a row were skipped)", "rollback": f" ({ROLLBACKS} rollbacks)"}
    progress.stopped = "gradient" if broken.origin is None else "update"
    sound = overflowed(session) is None
    place = f"it stands before that update in {save()}" if sound else "the checkpoint is older"
    error = NonFiniteError(
        f"a finite loss and gradient at step {progress.step + 1}",
        said + limits.get(policy, ""),
        f"{place}; go on with --resume and a lower --lr or --clip (from the newest checkpoint that "
        "predicts better than a guess), or try --on-nonfinite skip (docs/mistakes.md#not-finite)",
    )
    error.origin = origin
    raise error


def _agreed_origin(session: Session, broken: Broken) -> Origin | None:
    """The first cause; each process looks at its own lanes, all agree on one."""
    origin = broken.origin
    if origin is None:
        carry = session.chunk_carry(broken.chunk)
        with precision(session):
            origin = locate(session.model, broken.chunk, carry, token_loss)
    if origin is not None and origin.lane is not None:
        origin = replace(origin, lane=origin.lane + session.data.lane_range[0])
    documents = session.group.all(None if origin is None else asdict(origin))
    origins = [Origin(**document) for document in documents if document is not None]
    return min(origins, key=lambda o: o.rank, default=None)


def _mended(carry: carries.Carry) -> carries.Carry:
    """The carry with those lanes started afresh that hold a number which is not finite."""
    wrong: Tensor | None = None
    for state in carries.tensors(carry):
        rows = ~state.isfinite().movedim(1, 0).flatten(1).all(1)
        wrong = rows if wrong is None else wrong | rows
    return carry if wrong is None or not bool(wrong.any()) else carries.zero_lanes(carry, wrong)


# Where a run goes on that diverged: not with the weights that no rate can mend.
#
# What stops a run with a number that is not finite has often begun many updates earlier, and the
# checkpoint from just before holds weights as large as the last ones. So a run that goes on with
# another ``--lr`` or ``--clip`` begins at its newest checkpoint that predicts the text it is
# trained on better than a guess among its symbols, or anew. With the same rate and clip it goes on
# exactly where it was.

logger = logging.getLogger(__name__)
PIECES, LOOKED_AT = 64, 1 << 14  # tokens
ROUNDING = 0.01  # nats: a model that has hardly begun predicts as a guess does


def sound_start(saved: Checkpoint, session: Session, run: RunFolder) -> Checkpoint:
    """The checkpoint that a run goes on from: the newest one, or an older one where that is past help.

    Checkpoints that are passed over are renamed to ``diverged-step-N``, and the log names them.

    Args:
        saved: the newest checkpoint.
        session: of the run, with the settings it goes on with. It is not changed; random states are.
        run: its folder, held.

    Cost: nothing where ``--lr`` and ``--clip`` are what they were; else a forward pass over 16,384 tokens
    for each checkpoint that is looked at.
    """
    if not _changed(saved, session.settings):
        return saved
    folder = run.checkpoints
    passed: list[int] = []
    found: Checkpoint | None = None
    for step in reversed(checkpoints.steps(folder)):
        found = saved if step == saved.state["step"] else checkpoints.load(folder, step)
        if _is_sound(found, session):
            break
        passed.insert(0, step)
    else:
        # The start is a function of the settings; it may have been removed long ago.
        found = Session(session.settings, session.corpus).checkpoint()
        checkpoints.save(folder, found)
    here = found.state["step"]
    for step in passed:  # the newest last: until then, whoever is stopped here does all this again
        if step != here:
            aside = checkpoints.set_aside(folder, step, "diverged")
            logger.warning("step-%d has diverged: set aside as %s", step, aside)
    if passed:
        logger.warning("going on from step-%d", here)
    return found


def _changed(saved: Checkpoint, settings: Settings) -> bool:
    """Whether it goes on with another rate or clip, and so may fare better than it did."""
    state = saved.state
    if "lr" not in state:  # written before runs kept it
        return False
    return state["lr"] != settings.learning_rate or state["clip"]["form"] != settings.clip


def _is_sound(found: Checkpoint, session: Session) -> bool:
    if found.state["step"] == 0:
        return True
    if found.state.get("stopped") == "gradient":
        return False  # by these weights: no rate and no clip would change that
    tokens, starts = session.corpus.train
    size = min(len(tokens), LOOKED_AT)
    text = Stream(tokens[:size], part(starts, 0, size))
    if len(text.starts) >= size:
        return True  # nothing in it is predicted
    model = build_model(session.settings, session.corpus.vocabulary.size).to(session.device)
    load_weights(model, found)
    score = evaluate(model, text, lanes=max(1, min(PIECES, size // 256)))
    return score.nats <= math.log(session.corpus.vocabulary.size) + ROUNDING


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
    if session.watched is not None:
        session.watched.measured(flow)
    session.progress.horizon = {
        "horizon": flow.horizon,
        "decay": _number(flow.decay),
        "verdict": flow.verdict,  # of this update's two lanes alone; that of the run is under "judged"
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
    if session.device.type in devices.SHORT:
        return False  # the norms are taken in float64, which it has not
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
        optimiser's state are then to be put back by :func:`bptt.training.update.meet`.
    """
    progress, tally = session.progress, session.progress.tally
    session.guard.mark(session)
    chunk = _next_chunk(session)
    session.carry = session.chunk_carry(chunk)
    for held in optimizer.param_groups:
        held["lr"] = lr
    regulariser = session.regulariser
    with measured(session), precision(session):
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
    tally.norms_clipped += done.norm_after
    tally.clipped += done.clipped
    for seen in done.penalties:
        value = (seen.value or 0.0) if seen.acted else 0.0
        penalty, acted = session.group.total([value, float(seen.acted)])
        tally.penalty += penalty / session.group.size
        tally.unregularised += acted < session.group.size
    return None


def precision(session: Session) -> AbstractContextManager[object]:
    """What ``--amp`` asks for: products in bfloat16, whose range is float32's, so no loss is scaled.

    The context holds for one update. Autocast keeps a rounded copy of each weight until it is left, and
    an update changes the weights.
    """
    if not session.settings.amp:
        return nullcontext()
    return torch.autocast(session.device.type, torch.bfloat16)


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
            return chunk.to(session.device)
    raise DataError("a token to predict", "documents of one token each", "give longer documents")
