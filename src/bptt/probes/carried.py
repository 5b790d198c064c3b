"""What a recurrence carries on from step to step, without what its cell returns beside its states."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from bptt.recurrence import Recurrence
from bptt.recurrence.linear import States
from bptt.recurrence.userstep import FunctionStep


def carried(recurrence: Recurrence) -> Recurrence:
    """The same recurrence with its states alone.

    A cell's outputs are recorded behind its states, because a loss may stand at them; they are never
    fed back, so they have no part in what the recurrence itself does or holds.
    """
    kept = sum(not label.startswith("output") for label in recurrence.labels)
    step = recurrence.step
    if kept == len(recurrence.labels) or not isinstance(step, FunctionStep):
        return recurrence

    def states_alone(inputs: tuple[Tensor, ...], states: States, parameters) -> States:
        return step.function(inputs, states, parameters)[:kept]

    return replace(
        recurrence, step=replace(step, function=states_alone), before=recurrence.before[:kept],
        after=recurrence.after[:kept], labels=recurrence.labels[:kept],
    )  # fmt: skip
