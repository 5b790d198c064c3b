"""Torch operators over the compiled kernels."""

from bptt.ops.native.check import isa, isas, missing
from bptt.ops.native.seam import covers, forward_mode, recur, recur_tokens, step, transformed

__all__ = [
    "covers",
    "forward_mode",
    "isa",
    "isas",
    "missing",
    "recur",
    "recur_tokens",
    "step",
    "transformed",
]
