"""The recurrence as one operation: what a layer calls, whoever computes it.

Everything above this folder sees :func:`recur` alone, so a faster way to compute it can be put in
without moving a line elsewhere.
"""

from bptt.ops.backend import Backend, backend, set_backend
from bptt.ops.eager import State
from bptt.ops.recur import leaves_to_torch, recur, recur_tokens

__all__ = ["Backend", "State", "backend", "leaves_to_torch", "recur", "recur_tokens", "set_backend"]
