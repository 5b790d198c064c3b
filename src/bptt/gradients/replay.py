"""Running a piece of the model again, exactly as it ran the first time.

A call of a model depends on its input and carry, and also on the random generators (dropout) and on
buffers (running statistics). A :class:`Snapshot` holds all three as they were before a piece, so that
running from it again draws the same dropout masks and leaves the buffers as they were left before.

Limits: generators of the CPU and of the inputs' device; a model that draws from a generator of its
own is not replayed. The loss must draw nothing. Forward hooks run at every replay.
"""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bptt.gradients.chunks import hidden_state
from bptt.nn import carry as carries
from bptt.nn.carry import Carry

# Two runs of the same piece are equal bit by bit on the CPU. Atomic additions on a GPU may differ by
# rounding; another state or another dropout mask differs by far more than this share.
SAME = 1e-3

# Without a graph torch runs these on another path, which rounds otherwise: oneDNN's LSTM, attention in
# evaluation mode. They make their graph and drop it again, so that a replay is one bit by bit.
_OTHER_PATH = (nn.LSTM, nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What a call depends on besides its input; tensors in it are shared with no one who writes.

    Attributes:
        carry: a copy; what the model returned may be a view of a whole chunk's output.
        generators: states of the random generators.
        buffers: copies by name.
    """

    carry: Carry
    generators: list[Tensor]
    buffers: dict[str, Tensor]


class Replay:
    """Takes and restores snapshots of one model, and checks that a replay was one.

    Args:
        device: of the inputs.
        places: about how many snapshots are kept at a time.
    """

    def __init__(self, model: nn.Module, device: torch.device, places: int) -> None:
        self._model = model
        self._sources: list[tuple[Any, tuple[Any, ...]]] = [(torch.random, ())]
        if device.type != "cpu":
            self._sources.append((torch.get_device_module(device.type), (device,)))
        self._last: Snapshot | None = None
        self._seen: dict[int, list[float]] = {}
        self._places = places
        self._free: dict[Any, list[Tensor]] = {}

    def without_graph(self) -> AbstractContextManager[Any]:
        """The mode for a run whose graph nobody needs, with the results of one with a graph."""
        other = any(isinstance(module, _OTHER_PATH) for module in self._model.modules())
        return nullcontext() if other else torch.no_grad()

    def take(self, carry: Carry) -> Snapshot:
        """A snapshot of now, with this carry."""
        last = self._last
        generators = [source.get_rng_state(*where) for source, where in self._sources]
        if last is not None:  # what has not changed since is not stored twice
            generators = [
                old if torch.equal(new, old) else self._keep(new)
                for new, old in zip(generators, last.generators, strict=True)
            ]
        buffers: dict[str, Tensor] = {}
        for name, buffer in self._model.named_buffers():
            if buffer.requires_grad:
                raise hidden_state(f"the buffer {name} holds a graph")
            # By value: batch norm writes its statistics without raising the buffer's version.
            old = None if last is None else last.buffers.get(name)
            if old is None:  # most never change: no places for them until they do
                old = buffer.detach().clone()
            elif not _equal(old, buffer):
                old = self._keep(buffer)
            buffers[name] = old
        self._last = Snapshot(carries.apply(self._keep, carry), generators, buffers)
        return self._last

    def restore(self, snapshot: Snapshot) -> Carry:
        """Set generators and buffers as they were; return the carry, as a copy to write on."""
        self.restore_generators(snapshot)
        for name, buffer in self._model.named_buffers():
            value = snapshot.buffers.get(name)  # None: made by a forward pass after this snapshot
            if value is not None and not _equal(value, buffer):
                with torch.no_grad():
                    buffer.copy_(value)
        return copied(snapshot.carry)

    def restore_generators(self, snapshot: Snapshot) -> None:
        """Set the generators alone."""
        for (source, where), state in zip(self._sources, snapshot.generators, strict=True):
            # A copy: torch 2.13 crashes on a state that is a view into a larger tensor.
            source.set_rng_state(state.clone(), *where)

    def witness(self, piece: int, output: Any, carry: Carry) -> None:
        """Note how this piece ended, or raise unless it ended as it did when it ran before.

        Compared are norms of output and carry: one pass over them, and a few numbers to keep.
        """
        with torch.no_grad():
            now = [
                float(torch.linalg.vector_norm(t.detach()))
                for t in carries.tensors((output, carry))
                if t.is_floating_point() or t.is_complex()
            ]
        before = self._seen.setdefault(piece, now)
        for a, b in zip(now, before, strict=True):
            # Written so that NaN and infinity, which a diverging model has in both runs, are equal.
            if a != b and abs(a - b) > SAME * max(abs(a), abs(b)):
                raise hidden_state("run again from the same carry it gives another result")

    def forget(self, piece: int) -> None:
        """Drop the note of a piece that will not run again."""
        self._seen.pop(piece, None)

    def _keep(self, tensor: Tensor) -> Tensor:
        """A copy, in one of the places that were set aside in one piece.

        A few kilobytes kept here and there between one segment's large blocks and the next's would
        keep the allocator from using the room again: at 300 segments that was 700 MB.
        """
        key = (tensor.shape, tensor.dtype, tensor.device)
        free = self._free.get(key, [])
        if not free:
            first = key not in self._free
            self._free[key] = free
            shape = (self._places if first else 1, *tensor.shape)
            free += torch.empty(shape, dtype=tensor.dtype, device=tensor.device).unbind()
        place = free.pop()
        with torch.no_grad():
            place.copy_(tensor)
        handle = place.view_as(place)
        weakref.finalize(handle, free.append, place).atexit = False
        return handle


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def copied(carry: Carry) -> Carry:
    """Detached, and sharing memory with nothing that a model might write on."""
    return carries.apply(lambda t: t.detach().clone(), carry)
