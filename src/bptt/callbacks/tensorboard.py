"""Horizon and decay as curves in TensorBoard."""

from __future__ import annotations

import math
import os
from typing import Any

from bptt.callbacks.plain import Numbers, Tell
from bptt.errors import DependencyError


def for_tensorboard(writer: Any, prefix: str = "bptt") -> Tell:
    """A function for :func:`told` that writes to TensorBoard.

    Args:
        writer: a ``torch.utils.tensorboard.SummaryWriter``, or a folder to make one in.
        prefix: stands before every name: ``bptt/horizon``, ``bptt/decay``; verdicts become text,
            written when they change.

    Raises:
        DependencyError: a folder was given, and tensorboard is not installed.

    Cost: three scalars a measured step.
    """
    if isinstance(writer, (str, os.PathLike)):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise DependencyError(
                "tensorboard", "none installed", "pip install tensorboard"
            ) from None
        writer = SummaryWriter(os.fspath(writer))
    before: dict[str, str] = {}

    def tell(step: int, numbers: Numbers) -> None:
        for name, value in numbers.items():
            if isinstance(value, str):
                if before.get(name) != value:
                    writer.add_text(f"{prefix}/{name}", value, step)
                    before[name] = value
            elif math.isfinite(value):
                writer.add_scalar(f"{prefix}/{name}", value, step)

    return tell
