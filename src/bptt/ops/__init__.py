"""The recurrence as one operation: what a layer calls, whoever computes it.

Everything above this folder sees :func:`recur` alone, so a faster way to compute it can be put in
without moving a line elsewhere.
"""

from bptt.ops.eager import State, recur

__all__ = ["State", "recur"]
