"""Whether a recurrence, computed again from what was recorded, gives what was recorded."""

from __future__ import annotations

import torch

from bptt.errors import BpttError
from bptt.recurrence.recurrence import Recurrence, flat

# One step from recorded states errs by rounding alone, whatever the length: a mask that was not
# recovered, a state that was missed or a random number is wrong by whole units.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


class ReplayError(BpttError, RuntimeError):
    """What was recorded does not determine what was computed; no figure would be exact."""


def check_replay(recurrence: Recurrence, remedy: str | None = None) -> Recurrence:
    """Run every step once more, all at once, and compare with the recorded states.

    Returns:
        the recurrence itself.

    Raises:
        ReplayError: they differ.

    Cost: one forward pass, parallel over time.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        found = recurrence.step(flat(recurrence.inputs), flat(recurrence.before))
    for label, new, old in zip(recurrence.labels, found, flat(recurrence.after), strict=True):
        tolerance = TOLERANCE.get(old.dtype, 3e-2)
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
