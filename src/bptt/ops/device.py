"""Devices: one named by a word, where a model lies, and the random numbers that are drawn there.

A tensor is made where those that it meets lie, and a number that Python needs is read in one transfer.
What is small and for people, a table of norms by lag, lies on the CPU, and says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from bptt.choices import device_word
from bptt.errors import ArgumentError

CPU = torch.device("cpu")
SHORT = {"mps"}  # kinds of devices that have no float64, in which gradients by lag are measured


def choose(word: str) -> torch.device:
    """The device that a word names, if it is here.

    Args:
        word: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:N"`` or ``"mps"``. ``"auto"`` is CUDA where there
            is a GPU for every process of this machine, and the CPU elsewhere. Apple's GPU has to be asked
            for: it has no float64, so less can be measured on it.

    Returns:
        with its number, for CUDA: that of this process among those that torchrun started on this machine,
        else torch's current one.

    Raises:
        ArgumentError: no such word, or no such device here; the message says what was found.

    Example:
        >>> choose("cpu")
        device(type='cpu')
    """
    kind, _, number = device_word(word).partition(":")
    together = _number("WORLD_SIZE", 1) > 1
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() and not _missing_gpus() else "cpu"
    if kind == "cpu":
        return CPU
    if kind == "mps":
        if together:
            raise ArgumentError(
                "--device cpu or cuda for several processes",
                f"--device mps, and {os.environ['WORLD_SIZE']} of them in WORLD_SIZE", "start one alone",
            )  # fmt: skip
        if not torch.backends.mps.is_available():
            raise _absent("mps", "an Apple GPU", _about_mps())
        return torch.device("mps")
    if not torch.cuda.is_available():
        raise _absent(word, "a GPU that CUDA runs on", _about_cuda())
    if not number and (missing := _missing_gpus()):
        raise ArgumentError(
            "a GPU for each process of --device cuda", missing, "start fewer, or use --device cpu"
        )
    if number and together:
        raise ArgumentError(
            "--device cuda with several processes, each on a GPU of its own", f"--device {word}",
            "leave the number out",
        )  # fmt: skip
    index = int(number) if number else torch.cuda.current_device()
    if together:
        index = _number("LOCAL_RANK", index)
    count = torch.cuda.device_count()
    if index >= count:
        raise ArgumentError(
            f"a GPU with the number {index} for --device {word}",
            "one GPU, number 0" if count == 1 else f"{count} GPUs, from number 0 on",
            "name one that is there",
        )
    return torch.device("cuda", index)


def _number(variable: str, otherwise: int) -> int:
    """A number that torchrun puts into the environment; an empty one says nothing.

    Raises:
        ArgumentError: it is none.
    """
    said = os.environ.get(variable)
    if not said:
        return otherwise
    if not (said.isascii() and said.isdigit()):
        raise ArgumentError(
            f"a whole number in the variable {variable}", f"{said!r:.40}",
            "unset it, or start with torchrun",
        )  # fmt: skip
    return int(said)


def _missing_gpus() -> str:
    """What keeps every process of this machine from having a GPU of its own; empty where nothing does."""
    local, there = _number("LOCAL_WORLD_SIZE", 1), torch.cuda.device_count()
    return f"{local} processes and {there} GPUs" if local > there else ""


def _absent(word: str, what: str, found: str) -> ArgumentError:
    return ArgumentError(
        f"{what} for --device {word}", found, "use --device cpu, or auto for what is there"
    )


def _about_cuda() -> str:
    """What this torch says of CUDA."""
    build = torch.version.cuda
    kind = f"built for CUDA {build}" if build else "a build without CUDA"
    if torch.version.hip:
        kind = f"built for ROCm {torch.version.hip}"
    return f"torch {torch.__version__}, {kind}; torch.cuda.is_available() is False"


def _about_mps() -> str:
    kind = "built" if torch.backends.mps.is_built() else "a build without it"
    return f"torch {torch.__version__}, {kind}; torch.backends.mps.is_available() is False"


def device_of(module: nn.Module) -> torch.device:
    """Where a module lies: its first parameter or buffer, or the CPU where it has none."""
    held = chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in held), CPU)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The short dtype that autocast computes in on a device now; None where it does not."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


# Random numbers. Every device has a generator of its own: dropout on a GPU draws from the GPU's, and the
# same seed gives another mask there than on the CPU.


def _source(device: torch.device) -> Any:
    # Some devices have none: "meta" draws nothing, and others draw on the CPU.
    module = getattr(torch, device.type, None)
    return module if hasattr(module, "get_rng_state") else torch.random


def random_state(device: torch.device) -> Tensor:
    """The state of the generator that a device draws from, as a tensor on the CPU."""
    source = _source(device)
    return source.get_rng_state() if source is torch.random else source.get_rng_state(device)


def set_random_state(state: Tensor, device: torch.device) -> None:
    """Put it back."""
    source = _source(device)
    # A copy: torch 2.13 crashes on a state that is a view into a larger tensor.
    if source is torch.random:
        source.set_rng_state(state.clone())
    else:
        source.set_rng_state(state.clone(), device)


def seed_device(device: torch.device, seed: int) -> None:
    """Begin the generator of a device anew; those of other devices are left alone."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    elif device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def random_kept(*tensors: Tensor | torch.device) -> Iterator[None]:
    """The generators of the CPU and of these tensors' devices are afterwards what they were."""
    found: Iterable[torch.device] = (t.device if isinstance(t, Tensor) else t for t in tensors)
    states = [(device, random_state(device)) for device in dict.fromkeys([CPU, *found])]
    try:
        yield
    finally:
        for device, state in states:
            set_random_state(state, device)


__all__ = [
    "CPU",
    "autocast_dtype",
    "choose",
    "device_of",
    "random_kept",
    "random_state",
    "seed_device",
    "set_random_state",
]
