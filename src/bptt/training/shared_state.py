"""A checkpoint of all processes out of each one's own state, and the other way round.

Model, optimiser, clip and numbers are the same in all of them. The carry is put together by global
lane number, so that a run saved by N processes is resumed by M. Random states are kept one a process;
a process that had none when the run was saved begins a sequence of its own.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from bptt.training.checkpoint import TRAINING, Checkpoint
from bptt.training.contents import refuse
from bptt.training.distributed import Group


def gathered(group: Group, own: Checkpoint) -> Checkpoint:
    """The checkpoint of all processes, in each of them.

    Raises:
        RunError: their parameters have come apart, as they may on machines that compute differently.
    """
    if group.size == 1:
        return own
    checksum = 0
    for tensor in own.model.values():
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        checksum = zlib.crc32(raw.numpy().tobytes(), checksum)
    group.require_same("parameters", checksum)
    training = dict(own.training)
    for name, tensor in own.training.items():
        if name.startswith("carry."):
            training[name] = group.lanes_of_all(tensor)
    states = group.lanes_of_all(own.training["random"][None, None])[0]
    training |= {_random(rank): states[rank] for rank in range(group.size)}
    return Checkpoint(own.model, training, own.state)


def own_part(group: Group, saved: Checkpoint, batch: int, seed: int) -> Checkpoint:
    """What of a checkpoint is this process's: the carry of its lanes, its random state.

    Args:
        group: the processes now; there may have been more or fewer when it was saved.
        saved: of all processes.
        batch: B, lanes of all processes.
        seed: of the run; a process that is new to it derives its random numbers from it.
    """
    low, high = group.lanes(batch)
    training: dict[str, Tensor] = {}
    for name, tensor in saved.training.items():
        if name.startswith("carry."):
            if tensor.dim() < 2 or tensor.shape[1] != batch:
                came = f"shape {tuple(tensor.shape)}"
                refuse(saved, TRAINING, f"{batch} lanes on axis 1 of {name!r:.40}", came)
            tensor = tensor[:, low:high].contiguous()
        training[name] = tensor
    mine = _random(group.rank)
    if mine in training:
        training["random"] = training[mine]
    elif group.rank:
        training["random"] = fresh_random_state(seed, group.rank, saved.state["step"])
    return replace(saved, training=training)


def shared(group: Group, load: Callable[[], Checkpoint]) -> Checkpoint:
    """What ``load`` returns in process 0, in all of them: only that one reads the run folder."""
    if group.size == 1:
        return load()
    read: list[Checkpoint] = []

    def state() -> dict[str, object]:
        read.append(load())
        return read[0].state

    numbers = group.first(state)
    model, training = (read[0].model, read[0].training) if read else ({}, {})
    path = read[0].path if read else None
    model, training = group.tensors_of_first(model), group.tensors_of_first(training)
    return Checkpoint(model, training, numbers, path)


def fresh_random_state(seed: int, rank: int, step: int = 0) -> Tensor:
    """Of torch's generator, another for each process and step.

    Example:
        >>> a, b = fresh_random_state(0, 1), fresh_random_state(0, 2)
        >>> bool((a == b).all()), bool((a == fresh_random_state(0, 1)).all())
        (False, True)
    """
    digest = hashlib.sha256(f"bptt {seed} {rank} {step}".encode()).digest()
    source = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return source.get_state()


def _random(rank: int) -> str:
    return "random" if rank == 0 else f"random.{rank}"
