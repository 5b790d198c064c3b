"""An estimator from one word: ``"full"``, ``"truncated:20"``, ``"windowed:32:64"``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bptt.choices import GRADIENTS, parse_numbers
from bptt.gradients.adaptive import Adaptive
from bptt.gradients.checkpointed import Checkpointed
from bptt.gradients.forward.estimator import ForwardMode
from bptt.gradients.randomized import Randomized
from bptt.gradients.step import Estimator
from bptt.gradients.truncated import Full, Truncated, Windowed


def build(
    form: str,
    *,
    reduction: str | None = None,
    cut: float | None = None,
    generator: torch.Generator | None = None,
    agree: Callable[[int], int] | None = None,
) -> Estimator:
    """An estimator from its form, as the command line, a comparison and a file of settings name it.

    Args:
        form: ``"full"``, ``"truncated:K"``, ``"windowed:K1"`` (every K1 steps through the last 2·K1) or
            ``"windowed:K1:K2"``, ``"checkpointed"`` or ``"checkpointed:STATES"``, ``"adaptive:BIAS"``,
            ``"randomized:K"``, ``"forward"``.
        reduction: ``"mean"`` or ``"sum"`` of the loss, where it does not say so itself.
        cut: probability of a cut, of ``randomized``; default: its own.
        generator: what ``randomized`` draws from; default: torch's.
        agree: one k for all processes, of ``adaptive``.

    Raises:
        ArgumentError: an unknown form, or a number out of range.

    Example:
        >>> build("windowed:32"), build("truncated:20").k
        (Windowed(k1=32, k2=64, batch_first=False, reduction=None), 20)
    """
    name, numbers = parse_numbers(form, GRADIENTS)
    sizes = [int(n) for n in numbers]  # whole, where they count steps or states
    drawn: dict[str, Any] = {"generator": generator} | ({} if cut is None else {"cut": cut})
    made: dict[str, Callable[[], Estimator]] = {
        "full": lambda: Full(reduction=reduction),
        "truncated": lambda: Truncated(sizes[0], reduction=reduction),
        "windowed": lambda: Windowed(sizes[0], sizes[-1] * (3 - len(sizes)), reduction=reduction),
        "checkpointed": lambda: Checkpointed(
            states=sizes[0] if sizes else None, reduction=reduction
        ),
        "adaptive": lambda: Adaptive(numbers[0], agree=agree, reduction=reduction),
        "randomized": lambda: Randomized(sizes[0], reduction=reduction, **drawn),
        "forward": lambda: ForwardMode(reduction=reduction),
    }
    return made[name]()
