"""Any recurrent module, ours, torch's or the user's own cell, as one step function over its states."""

from bptt.recurrence.assemble import Found, assemble
from bptt.recurrence.linear import Linear, Rows, States, Step, add_gradients
from bptt.recurrence.recorder import Call, Recorder
from bptt.recurrence.recurrence import (
    Recurrence,
    direct_gradient,
    flat,
    merge,
    padded,
    total_gradient,
)
from bptt.recurrence.replay import ReplayError, check_replay
from bptt.recurrence.stack import layer_gates
from bptt.recurrence.trace import trace
from bptt.recurrence.userstep import FunctionStep

__all__ = [
    "Call",
    "Found",
    "FunctionStep",
    "Linear",
    "Recorder",
    "Recurrence",
    "ReplayError",
    "Rows",
    "States",
    "Step",
    "add_gradients",
    "assemble",
    "check_replay",
    "direct_gradient",
    "flat",
    "layer_gates",
    "merge",
    "padded",
    "total_gradient",
    "trace",
]
