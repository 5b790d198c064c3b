"""Train recurrent networks through time, fast, and see exactly how far back they learn.

The package loads its parts when they are first used, so that the command line answers at once
and a program pays only for what it touches.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bptt import (
        carry,
        claims,
        data,
        errors,
        gradients,
        models,
        nn,
        ops,
        probes,
        recurrence,
        reference,
        remedies,
        streaming,
        tasks,
        training,
    )
    from bptt.nn import convert
    from bptt.streaming import Stream
    from bptt.watching import Flow, watch

_NAMES = {
    "Flow": "bptt.watching",
    "Stream": "bptt.streaming",
    "convert": "bptt.nn",
    "watch": "bptt.watching",
}

__all__ = [
    "Flow",
    "Stream",
    "carry",
    "claims",
    "convert",
    "data",
    "errors",
    "gradients",
    "models",
    "nn",
    "ops",
    "probes",
    "recurrence",
    "reference",
    "remedies",
    "streaming",
    "tasks",
    "training",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    if name in __all__:
        return import_module(f"bptt.{name}")
    raise AttributeError(f"module 'bptt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
