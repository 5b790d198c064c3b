"""Whether a recurrence, computed again from what was recorded, gives what was recorded."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from bptt.errors import BpttError
from bptt.recurrence.recurrence import Recurrence, flat

# One step from recorded states errs by rounding alone, whatever the length: a mask that was not
# recovered, a state that was missed or a random number is wrong by whole units.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


class ReplayError(BpttError, RuntimeError):
    """What was recorded does not determine what was computed; no figure would be exact."""


def lowest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The floating dtype that rounds the most; float64 where there is none."""
    found = (d for d in dtypes if d.is_floating_point)
    return max(found, key=lambda d: torch.finfo(d).eps, default=torch.float64)


def check_replay(
    recurrence: Recurrence, remedy: str | None = None, dtype: torch.dtype = torch.float64
) -> Recurrence:
    """Run every step once more, all at once, and compare with the recorded states.

    Args:
        remedy: what to do where they differ.
        dtype: the lowest that the states were computed in, where that is lower than their own.

    Returns:
        the recurrence itself.

    Raises:
        ReplayError: they differ, or the steps cannot be run all at once.

    Cost: one forward pass, parallel over time.
    """
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = recurrence.step(flat(recurrence.inputs), flat(recurrence.before))
    except (BpttError, torch.OutOfMemoryError):
        raise
    except Exception as reason:  # the user's own code, run on more lanes than it ever was
        raise ReplayError(
            f"the steps of {recurrence.name or 'the module'} to run again, each a lane of one batch",
            f"{type(reason).__name__} ({str(reason).partition(chr(10))[0]})",
            remedy
            or "let the first axis of x, of y and of every state be the lanes, and row n of "
            "what is returned depend on row n of what is given alone",
        ) from reason
    for label, new, old in zip(recurrence.labels, found, flat(recurrence.after), strict=True):
        tolerance = TOLERANCE.get(lowest([old.dtype, dtype]), 3e-2)
        # A state that overflowed is the model's own doing, and for the verdict to tell.
        seen = old.isfinite()
        if recurrence.live is not None:
            seen &= recurrence.live.flatten().unsqueeze(-1)
        error, kept = (new - old).abs()[seen], old[seen].abs()
        unit = max(1.0, float(kept.max())) if kept.numel() else 1.0
        worst = float(error.max()) if error.numel() else 0.0
        if not worst <= tolerance * unit:
            raise ReplayError(
                f"the steps of {recurrence.name or 'the module'}, run again, to give the states "
                f"they gave (within {tolerance:g})",
                f"{label} off by {worst:.3g}",
                remedy
                or "remove what the step's input and state do not determine (random numbers, "
                "batch statistics, hidden attributes), or call model.eval()",
            )
    return recurrence
