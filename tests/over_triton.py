"""Other tests over Triton's kernels, in the interpreter on the CPU.

    BPTT_TESTS_OVER=triton python -m pytest tests/nn tests/ops/test_not_finite.py

Every call of a layer that the kernels cover runs on them, whatever the test set; others run as they do.
Laws that Hypothesis tries are tried on two examples, for the interpreter takes milliseconds a step. At
the end it is said how many tests and calls ran on them.
"""

import importlib
import os

from bptt import ops
from bptt.ops import triton

# By name: the package hands on functions that are called as these files are.
recur, backend = (importlib.import_module(f"bptt.ops.{name}") for name in ("recur", "backend"))
ASKED = os.environ.get("BPTT_TESTS_OVER") == "triton"
EXAMPLES = 2
ran = {"calls": 0, "tests": set()}


def install(monkeypatch, test):
    """Let the kernels take what they cover while a test runs."""

    def takes(cell, x, state, weights, marked, splits):
        if triton.covers(cell, x, state, weights) is not None:
            return False
        ran["calls"] += 1
        ran["tests"].add(test)
        backend._last = ("triton", "asked for")
        return True

    def leaves(cell, x, state, weights, batch_sizes=None):
        if triton.covers(cell, x, state, weights) is None:
            return False
        return original(cell, x, state, weights, batch_sizes)

    original = recur.leaves_to_torch
    monkeypatch.setattr(recur, "takes_triton", takes)
    monkeypatch.setattr(ops, "leaves_to_torch", leaves)
    monkeypatch.setattr(ops, "step", lambda *call, **marks: None)
