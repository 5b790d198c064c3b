"""How far back a run learns, measured on the way: every so many updates, on that update's own batch."""

from __future__ import annotations

import math
import sys
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from bptt.errors import BpttError
from bptt.gradients import Adaptive, ForwardMode
from bptt.training.session import Session
from bptt.watching import watch

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
    return any(isinstance(module, nn.RNNBase) for module in session.model.modules())


def _number(value: float) -> Any:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
