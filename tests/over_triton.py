"""Other tests over Triton's kernels, in the interpreter on the CPU.

    BPTT_TESTS_OVER=triton OMP_NUM_THREADS=1 python -m pytest -n auto --dist worksteal tests/ops tests/nn

Every call of a layer that the kernels cover runs on them, but where a test asked for the loop by name or
is marked ``own_backend``; others run as they do. The interpreter takes milliseconds a step, so laws that
Hypothesis tries are tried on two examples, and a grid within a test at some of its places. At the end it
is said how many tests and calls ran on them.
"""

import importlib
import os

import numpy as np

from bptt import ops
from bptt.ops import triton

# By name: the package hands on functions that are called as these files are.
recur, backend = (importlib.import_module(f"bptt.ops.{name}") for name in ("recur", "backend"))
ASKED = os.environ.get("BPTT_TESTS_OVER") == "triton"
KERNELS = "triton" if ASKED else "native"  # what runs where nothing was asked for by name
ran = {"calls": 0, "tests": set()}
_replaced = set()


def some(grid, count=8):
    """The grid as a list; over Triton's kernels about so many of its places, spread over all of it."""
    grid = list(grid)
    # Steps of a golden section meet every value of every axis, whatever the axes' lengths.
    return [grid[int(i * 0.6180339887 % 1 * len(grid))] for i in range(count)] if ASKED else grid


def install(monkeypatch, test):
    """Let the kernels take what they cover while a test runs."""

    def takes(cell, x, state, weights, marked, splits):
        if backend.is_eager() or triton.covers(cell, x, state, weights) is not None:
            return False
        ran["calls"] += 1
        ran["tests"].add(test)
        backend._last = ("triton", "asked for")
        return True

    def leaves(cell, x, state, weights, batch_sizes=None):
        if not backend.is_eager() and triton.covers(cell, x, state, weights) is None:
            return False
        return original(cell, x, state, weights, batch_sizes)

    original = recur.leaves_to_torch
    monkeypatch.setattr(recur, "takes_triton", takes)
    if triton.missing is None:
        lighten(monkeypatch)
    monkeypatch.setattr(ops, "leaves_to_torch", leaves)
    monkeypatch.setattr(ops, "step", lambda *call, **marks: None)


def lighten(monkeypatch):
    """The interpreter in half the time, and as silent as a GPU.

    At every call of a function it looks for names to replace in Triton's language, and leaves them
    replaced: once for each module is enough. NumPy warns where a number overflows, which is what some
    tests are about.
    """
    from triton.runtime import interpreter

    launch = interpreter.GridExecutor.__call__

    def quietly(*call, **options):
        with np.errstate(all="ignore"):
            return launch(*call, **options)

    def called(function, *call, **options):
        module = function.fn.__module__
        if module not in _replaced:
            interpreter._patch_lang(function.fn)
            _replaced.add(module)
        return function.rewrite()(*call, **options)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", quietly)
    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", called)
