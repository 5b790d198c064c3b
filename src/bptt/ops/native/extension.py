"""The compiled extension ``bptt._native``: loaded if it is there, and if not, why not.

Limits: a process that was forked runs torch and the kernels in one thread. GNU OpenMP, which both
use, keeps its threads in a pool that a fork does not copy, and the first parallel loop of the child
would wait for them for ever. torch's own data workers are set to one thread for the same reason. A
program whose parent never computed may call ``torch.set_num_threads`` in the child.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# torch first: the extension then shares torch's OpenMP runtime and its pool of threads.
import torch

_MODULE = "bptt._native"


def _load() -> tuple[Any, str | None]:
    try:
        return importlib.import_module(_MODULE), None
    except ImportError as error:
        return None, f"the compiled extension {_MODULE} cannot be loaded ({error})"


extension, missing = _load()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def isa() -> str | None:
    """The instruction set in use ("avx512", "avx2", "neon", "baseline"), None without the extension."""
    return None if extension is None else extension.isa


def isas() -> tuple[str, ...]:
    """The instruction sets this machine runs, best first; ``BPTT_ISA`` picks one when loaded."""
    return () if extension is None else tuple(extension.isas.split())
