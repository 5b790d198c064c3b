"""The state of every source of random numbers a run may draw from, as tensors.

The package itself draws from torch alone while it trains (dropout, random cuts, UORO's signs); what
runs beside it, an ``on_step`` or a layer of the user's own, may draw from Python's ``random`` or from
NumPy's global generator. They are kept too, and so is what each GPU draws from.

Dropout of a model on a GPU draws from that GPU's own generator, which the session keeps by the kind of
device. A run that goes on on another kind begins a sequence there that the seed and the step determine.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

_CUDA = "random.cuda."
DEVICE = "random.device."  # and the kind: the generator of the device that a run trains on


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
        "random.python": torch.tensor([version, *words], device="cpu"),
        "random.python.gauss": _maybe(gauss),
        "random.numpy": torch.tensor([*map(int, keys), position], device="cpu"),
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


def check_random_states(states: dict[str, Tensor]) -> None:
    """Try the states on sources of their own; ValueError, which begins with the name of one that no
    source can be in. NumPy would take any, and read beside its table then."""
    for name, state in states.items():
        if name.startswith(("random.python", "random.numpy")):
            continue
        device = "cpu"
        if name.startswith(_CUDA):
            device = f"cuda:{name.removeprefix(_CUDA)}"
            if int(name.removeprefix(_CUDA)) >= torch.cuda.device_count():
                continue  # not restored either
        elif name.startswith(DEVICE):
            device = name.removeprefix(DEVICE).partition(".")[0]
            if device != "cuda" or not torch.cuda.is_available():
                continue  # of a device that is not here, or takes what it is given
        try:
            torch.Generator(device).set_state(state)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{name}: {str(error).splitlines()[0]}") from None
    for name, first in (("random.python", 1), ("random.numpy", 0)):
        words = states[name][first:].tolist()
        if not all(0 <= word < 2**32 for word in words[:-1]) or not 0 <= words[-1] <= 624:
            raise ValueError(f"{name}: words of 32 bits and a place among 624 were expected")
    if states["random.python"][0] != random.getstate()[0]:
        raise ValueError(f"random.python: version {int(states['random.python'][0])}")


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
    return torch.tensor([] if value is None else [value], dtype=torch.float64, device="cpu")


def _known(value: Tensor) -> float | None:
    return value.item() if value.numel() else None
