"""Any recurrent module, ours, torch's or the user's own cell, as one step function over its states."""

from bptt.recurrence.assemble import Found, assemble, trace
from bptt.recurrence.cells import layer_gates
from bptt.recurrence.clock import Clock, choose
from bptt.recurrence.divided import Graph
from bptt.recurrence.graded import Graded, check_sum, split_by_lag
from bptt.recurrence.nodes import GradedError
from bptt.recurrence.record import Call, Recorder
from bptt.recurrence.step import FunctionStep, Linear, Rows, States, Step, add_gradients
from bptt.recurrence.tape import off_backward, on_backward, tick
from bptt.recurrence.trajectory import (
    Recurrence,
    ReplayError,
    check_replay,
    direct_gradient,
    flat,
    merge,
    padded,
    total_gradient,
)
from bptt.recurrence.unrolled import unroll

__all__ = [
    "Call",
    "Clock",
    "Found",
    "FunctionStep",
    "Graded",
    "GradedError",
    "Graph",
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
    "check_sum",
    "choose",
    "direct_gradient",
    "flat",
    "layer_gates",
    "merge",
    "off_backward",
    "on_backward",
    "padded",
    "split_by_lag",
    "tick",
    "total_gradient",
    "trace",
    "unroll",
]
