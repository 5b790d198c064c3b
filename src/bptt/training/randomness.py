"""The state of every source of random numbers a run may draw from, as tensors.

The package itself draws from torch alone while it trains (dropout, random cuts, UORO's signs); what
runs beside it, an ``on_step`` or a layer of the user's own, may draw from Python's ``random`` or from
NumPy's global generator. They are kept too.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

_CUDA = "random.cuda."


def random_states() -> dict[str, Tensor]:
    """The states, by name.

    Example:
        >>> saved = random_states()
        >>> first = random.random(), np.random.rand(), torch.rand(()).item()
        >>> restore_random_states(saved)
        >>> first == (random.random(), np.random.rand(), torch.rand(()).item())
        True
    """
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    states = {
        "random": torch.get_rng_state(),
        "random.python": torch.tensor([version, *words]),
        "random.python.gauss": _maybe(gauss),
        "random.numpy": torch.tensor([*map(int, keys), position]),
        "random.numpy.gauss": _maybe(cached if has_gauss else None),
    }
    if torch.cuda.is_initialized():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            states[f"{_CUDA}{index}"] = state
    return states


def seed_others(seed: int) -> None:
    """Begin Python's and NumPy's anew, as the model's start does torch's: two runs of one seed draw the
    same, whatever draws beside them."""
    random.seed(seed)
    np.random.seed(seed % 2**32)


def restore_random_states(states: dict[str, Tensor]) -> None:
    """Put every source where :func:`random_states` found it."""
    version, *words = states["random.python"].tolist()
    random.setstate((version, tuple(words), _known(states["random.python.gauss"])))
    *keys, position = states["random.numpy"].tolist()
    cached = _known(states["random.numpy.gauss"])
    given = (np.array(keys, np.uint32), position, int(cached is not None), cached or 0.0)
    np.random.set_state(("MT19937", *given))
    for index in range(torch.cuda.device_count()):
        if f"{_CUDA}{index}" in states:
            torch.cuda.set_rng_state(states[f"{_CUDA}{index}"], index)
    torch.set_rng_state(states["random"])


def _maybe(value: Any) -> Tensor:
    # A second normal number is made with every first, and waits; or none waits.
    return torch.tensor([] if value is None else [value], dtype=torch.float64)


def _known(value: Tensor) -> float | None:
    return value.item() if value.numel() else None
