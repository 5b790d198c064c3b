"""The machine: its name, and the rate its matrix product reaches."""

from __future__ import annotations

import os
import platform
import statistics
import time
from pathlib import Path

import torch

SIZE = 1024


def machine_name() -> str:
    """Processor, cores this process may use, operating system and torch, in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.machine()}"
    return f"{_processor()}, {cores} cores, {system}, torch {torch.__version__}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text("utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or "unknown processor"


def matmul_rate(seconds: float) -> float:
    """float32 operations a second of torch's 1024³ matrix product, on the threads that are set.

    Args:
        seconds: to spend on it; the median is taken of three products at least.
    """
    a, b = torch.ones(SIZE, SIZE), torch.ones(SIZE, SIZE)
    out = torch.empty(SIZE, SIZE)
    torch.mm(a, b, out=out)
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < seconds:
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        taken.append(time.perf_counter() - began)
    return 2 * SIZE**3 / statistics.median(taken)
