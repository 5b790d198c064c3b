"""What happens when a number is not finite: the update is not made, and one of three things follows.

Loss, state, gradient and its norm are looked at before the update, the parameters after it; where
they went out of range, the update is taken back. So no update with a number in it that is not finite
is ever kept, whatever the policy, and no checkpoint holds one.

``stop``: end with what and where (:mod:`bptt.training.locate`) and a checkpoint from before the update,
which resumes with the very chunk that did it, or with another rate where all was well
(:mod:`bptt.training.diverged`). ``skip``: leave this chunk out. ``rollback``: go back to
the last sound checkpoint, and on with the data that comes next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from bptt import carry as carries
from bptt.data import Chunk
from bptt.errors import RunError
from bptt.models import token_loss
from bptt.training.checkpoint import Checkpoint
from bptt.training.locate import Origin, locate

if TYPE_CHECKING:
    from bptt.training.session import Session

SKIPS = 10  # in a row, then the run stops: it is not the data that is at fault
ROLLBACKS = 5  # in a run


class NonFiniteError(RunError):
    """A loss, state, gradient or parameter left the float range, and the run stops.

    Attributes:
        origin: what and where; None where the chunk, run again, stayed finite.
    """

    origin: Origin | None = None


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


class Guard:
    """Keeps what an update changes, so that it can be taken back.

    Cost: a copy of parameters and optimiser state an update, small beside a chunk's gradient.
    """

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._numbers: dict[str, Any] = {}
        self._random: dict[str, Tensor] = {}
        self._carry: carries.Carry = None
        self._sound: Checkpoint | None = None
        self.metrics = 0

    def mark(self, session: Session) -> None:
        """Before a chunk is taken: all that this update may change."""
        live = written_to(session)
        if len(live) == len(self._kept):
            torch._foreach_copy_(self._kept, live)
        else:  # the first update gives the optimiser its state
            self._kept = [t.clone() for t in live]
        self._carry = session.carry  # replaced by an update, never written to
        self._random = session.random_states()
        self._numbers = {
            "data": session.data.state(),
            "estimator": session.estimator.state_dict(),
            "clip": session.clip.state_dict(),
        }

    def undo(self, session: Session) -> None:
        """Put everything back as it was marked."""
        live = written_to(session)
        torch._foreach_copy_(live[: len(self._kept)], self._kept)
        if len(live) > len(self._kept) and session.optimizer is not None:
            session.optimizer.state.clear()  # it had none
        session.model.zero_grad()
        session.carry = self._carry
        session.estimator.load_state_dict(self._numbers["estimator"])
        session.clip.load_state_dict(self._numbers["clip"])
        session.data.seek(self._numbers["data"])
        session.set_random_states(self._random)

    def remember(self, session: Session, metrics: int) -> None:
        """A state to roll back to, and how many bytes of the metrics belong to it: the one a run begins
        with, and that of every checkpoint."""
        if session.settings.on_nonfinite != "rollback":
            return
        self.metrics = metrics
        saved = session.checkpoint(metrics)
        model, training = (
            {name: tensor.detach().clone() for name, tensor in part.items()}
            for part in (saved.model, saved.training)
        )
        self._sound = Checkpoint(model, training, saved.state)

    def roll_back(self, session: Session) -> None:
        """To the last sound state; the clock and the count of rollbacks go on."""
        seconds, rollbacks = session.progress.seconds, session.progress.rollbacks
        session.restore(cast(Checkpoint, self._sound))  # remembered before the first update
        session.progress.seconds, session.progress.rollbacks = seconds, rollbacks + 1
        session.progress.tally.seconds = seconds


def written_to(session: Session) -> list[Tensor]:
    """What the optimiser writes to: parameters first, then its own state."""
    found = [p.detach() for p in session.model.parameters()]
    if session.optimizer is not None:
        for state in session.optimizer.state.values():
            found += [v for v in state.values() if isinstance(v, Tensor)]
    return found


def finite(carry: carries.Carry) -> bool:
    """Whether every number in it is."""
    return all(bool(t.isfinite().all()) for t in carries.tensors(carry))


def overflowed(session: Session) -> Origin | None:
    """The first parameter that an update has taken out of the float range."""
    with torch.no_grad():
        for name, parameter in session.model.named_parameters():
            # A finite sum has finite terms, and is quicker to come by than a look at each.
            if not bool(parameter.sum().isfinite()) and not bool(parameter.isfinite().all()):
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
        "predicts better than a guess), or try --on-nonfinite skip",
    )
    error.origin = origin
    raise error


def _agreed_origin(session: Session, broken: Broken) -> Origin | None:
    """The first cause; each process looks at its own lanes, all agree on one."""
    origin = broken.origin
    if origin is None:
        origin = locate(session.model, broken.chunk, session.chunk_carry(broken.chunk), token_loss)
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
