"""Any recurrent module, ours, torch's or the user's own cell, as one step function over its states."""

from bptt.recurrence.linear import Linear, States, Step, add_gradients
from bptt.recurrence.recurrence import Recurrence, flat, merge, total_gradient
from bptt.recurrence.replay import ReplayError, check_replay
from bptt.recurrence.stack import layer_gates
from bptt.recurrence.trace import trace
from bptt.recurrence.userstep import FunctionStep

__all__ = [
    "FunctionStep",
    "Linear",
    "Recurrence",
    "ReplayError",
    "States",
    "Step",
    "add_gradients",
    "check_replay",
    "flat",
    "layer_gates",
    "merge",
    "total_gradient",
    "trace",
]
