"""How many bytes autograd holds for a backward pass to come: counted, not guessed from the process."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor


class _Kept:
    """What autograd holds in place of a tensor; gone when the graph lets go of it."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Held:
    """Inside the block, count the bytes of tensors saved for backward.

    Every saved tensor counts by its storage, once however often it is saved. Freed with the graph.

    Args:
        besides: tensors that are there anyway, parameters or the input; they do not count.

    Attributes:
        bytes: held now.
        peak: the most so far.

    Example:
        >>> x = torch.ones(1000, requires_grad=True)
        >>> with Held() as held:
        ...     y = x.exp().exp()
        >>> held.bytes >= 8000
        True
        >>> y.sum().backward()
        >>> held.bytes
        0
    """

    def __init__(self, *besides: Tensor) -> None:
        self.bytes = self.peak = 0
        self._besides = {t.untyped_storage().data_ptr() for t in besides}
        self._users: dict[int, int] = {}

    def __enter__(self) -> Held:
        self._hooks: Any = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda k: k.tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> _Kept:
        # A detached view: the tensor itself would hold the graph that holds it.
        kept = _Kept(tensor.detach())
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if key in self._besides:
            return kept
        self._users[key] = self._users.get(key, 0) + 1
        if self._users[key] == 1:
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
        weakref.finalize(kept, self._release, key, size)
        return kept

    def _release(self, key: int, size: int) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            self.bytes -= size
