"""Train recurrent networks through time, fast, and see exactly how far back they learn.

The package loads its parts when they are first used, so that the command line answers at once
and a program pays only for what it touches.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bptt.errors import ConvertWarning
    from bptt.experiments import claims
    from bptt.export import export_c, export_onnx
    from bptt.models import stream as streaming
    from bptt.models.stream import Stream
    from bptt.nn import carry, convert
    from bptt.probes.diagnose import Diagnosis, diagnose
    from bptt.probes.watch import Flow, watch
    from bptt.recurrence import tick
    from bptt.report import plot

_NAMES = {
    "ConvertWarning": "bptt.errors",
    "Diagnosis": "bptt.probes.diagnose",
    "Flow": "bptt.probes.watch",
    "Stream": "bptt.streaming",
    "convert": "bptt.nn",
    "export_c": "bptt.export",
    "export_onnx": "bptt.export",
    "diagnose": "bptt.probes.diagnose",
    "plot": "bptt.report",
    "tick": "bptt.recurrence",
    "watch": "bptt.probes.watch",
}

__all__ = [
    "ConvertWarning",
    "Diagnosis",
    "Flow",
    "Stream",
    "callbacks",
    "carry",
    "claims",
    "convert",
    "data",
    "diagnose",
    "errors",
    "export",
    "export_c",
    "export_onnx",
    "gradients",
    "models",
    "nn",
    "ops",
    "plot",
    "probes",
    "recurrence",
    "reference",
    "remedies",
    "report",
    "streaming",
    "tasks",
    "tick",
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
