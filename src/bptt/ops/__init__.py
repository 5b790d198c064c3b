"""The recurrence as one operation: what a layer calls, whoever computes it.

Layers call :func:`recur` alone, so a faster way to compute it can be put in without moving a line
elsewhere. Beside it :mod:`bptt.ops.cells` says which cells there are, and :mod:`bptt.ops.scan` runs
linear recurrences. Streams call the kernels themselves, one step at a time.
"""

from bptt.ops.backend import Backend, backend, set_backend
from bptt.ops.dropout import dropout
from bptt.ops.eager import State
from bptt.ops.loss import cross_entropy, summed_nats
from bptt.ops.recur import leaves_to_torch, recur, recur_tokens, step

__all__ = [
    "Backend", "State", "backend", "cross_entropy", "dropout", "leaves_to_torch", "recur", "recur_tokens",
    "set_backend", "step", "summed_nats",
]  # fmt: skip
