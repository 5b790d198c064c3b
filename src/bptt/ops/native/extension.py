"""The compiled extension ``bptt._native``: loaded if it is there, and if not, why not."""

from __future__ import annotations

import importlib
from typing import Any

# torch first: the extension then shares torch's OpenMP runtime and its pool of threads.
import torch  # noqa: F401

_MODULE = "bptt._native"


def _load() -> tuple[Any, str | None]:
    try:
        return importlib.import_module(_MODULE), None
    except ImportError as error:
        return None, f"the compiled extension {_MODULE} cannot be loaded ({error})"


extension, missing = _load()


def isa() -> str | None:
    """The instruction set in use ("avx512", "avx2", "neon", "baseline"), None without the extension."""
    return None if extension is None else extension.isa


def isas() -> tuple[str, ...]:
    """The instruction sets this machine runs, best first; ``BPTT_ISA`` picks one when loaded."""
    return () if extension is None else tuple(extension.isas.split())
