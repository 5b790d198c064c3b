"""Torch operators over the compiled kernels."""

from bptt.ops.native.check import isa, isas, missing, multiplies_bf16
from bptt.ops.native.kernels import cross_entropy, dropout
from bptt.ops.native.seam import (
    covers,
    forward_mode,
    precision,
    recur,
    recur_tokens,
    step,
    steps,
    transformed,
)

__all__ = [
    "covers",
    "cross_entropy",
    "dropout",
    "forward_mode",
    "isa",
    "isas",
    "missing",
    "multiplies_bf16",
    "precision",
    "recur",
    "recur_tokens",
    "step",
    "steps",
    "transformed",
]
