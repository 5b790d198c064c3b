"""Several processes train one model: each has lanes of its own, what they learn is added up.

A batch of B lanes is split by global lane number: process r of N has lanes ⌊rB/N⌋ to ⌊(r+1)B/N⌋ - 1
and their carry, which no other process ever sees. After the estimator's backward pass the gradients
are added up, each weighed by its share of the scored targets: the gradient of one process that has
all lanes. Everything that is decided is decided on numbers that were added up, and so alike.

``torch.distributed`` does the work: gloo on the CPU, nccl on CUDA. Why not its
``DistributedDataParallel``: docs/design/0005-distributed.

Nothing is pickled: numbers travel as float64, documents as JSON, tensors as bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bptt.errors import ArgumentError, BpttError, RunError

T = TypeVar("T")
TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Group:
    """The processes of a run; alone unless said otherwise, and then every method is the identity.

    Attributes:
        rank: of this process, from 0. Process 0 writes; no other does.
        size: N.
        device: where tensors travel from: the CPU with gloo, the process's own device with nccl.

    Example:
        >>> Group().lanes(16), [Group(r, 3).lanes(16) for r in range(3)]
        ((0, 16), [(0, 5), (5, 10), (10, 16)])
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    def lanes(self, batch: int) -> tuple[int, int]:
        """The lanes of this process, ``low`` to ``high - 1``, of a batch of all processes together.

        Raises:
            ArgumentError: there are more processes than lanes.
        """
        if batch < self.size:
            raise ArgumentError(
                f"at least one lane a process: --batch {self.size}",
                f"--batch {batch} for {self.size} processes",
                "raise --batch, or start fewer processes",
            )
        return self.rank * batch // self.size, (self.rank + 1) * batch // self.size

    def total(self, values: list[float]) -> list[float]:
        """Each of the numbers added up over the processes, in double precision."""
        if self.size == 1:
            return values
        numbers = torch.tensor(values, dtype=torch.float64, device=self.device)
        with _together():
            dist.all_reduce(numbers)
        return [float(n) for n in numbers]

    def any(self, flag: bool) -> bool:
        """Whether it is set in any of them."""
        return self.total([float(flag)])[0] > 0

    def of_first(self, number: float) -> float:
        """The number that process 0 has, a reading of its clock for one."""
        return self.total([number if self.rank == 0 else 0.0])[0]

    def largest(self, value: int) -> int:
        """The largest of a whole number."""
        if self.size == 1:
            return value
        number = torch.tensor(value, device=self.device)
        with _together():
            dist.all_reduce(number, dist.ReduceOp.MAX)
        return int(number)

    def add_gradients(self, parameters: Iterable[Tensor], share: float) -> None:
        """``.grad`` ← the sum over processes of share · ``.grad``; the shares add up to 1.

        A parameter without a gradient in this process counts as zero, and stays without one where no
        process has one.

        Cost: one all-reduce a dtype, of the size of the parameters.
        """
        if self.size == 1:
            return
        wanted = [p for p in parameters if p.requires_grad]
        holders = self.total([float(p.grad is not None) for p in wanted])
        held = [p for p, n in zip(wanted, holders, strict=True) if n]
        for dtype in sorted({p.dtype for p in held}, key=str):
            same = [p for p in held if p.dtype == dtype]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in same]
            flat = torch.cat([g.reshape(-1) for g in gradients]).mul_(share)
            with _together():
                dist.all_reduce(flat)
            pieces = flat.split([g.numel() for g in gradients])
            for parameter, piece in zip(same, pieces, strict=True):
                parameter.grad = piece.view_as(parameter)

    def first(self, function: Callable[[], Any]) -> Any:
        """What ``function`` returns in process 0, in all of them; JSON, or None.

        Raises:
            BpttError: in every process, where process 0 raised it.
        """
        if self.size == 1:
            return function()
        document, failed = None, None
        if self.rank == 0:
            try:
                document = {"value": function()}
            except BpttError as error:
                failed = error
                document = {"error": [error.expected, error.received, error.remedy]}
        document = json.loads(self._bytes_of_first(json.dumps(document).encode()))
        if failed is not None:
            raise failed
        if "error" in document:
            raise RunError(*document["error"])
        return document["value"]

    def all(self, value: Any) -> list[Any]:
        """A JSON value of each process, by rank, in all of them."""
        if self.size == 1:
            return [value]
        return [json.loads(p) for p in self._bytes_of_all(json.dumps(value).encode())]

    def require_same(self, what: str, value: Any) -> None:
        """Raise RunError, in all processes, where one of them has another value."""
        values = self.all(value)
        if any(v != values[0] for v in values):
            other = next(r for r, v in enumerate(values) if v != values[0])
            raise RunError(
                f"the same {what} in every process",
                f"{values[0]!s:.60} in process 0, {values[other]!s:.60} in process {other}",
                "start all of them with the same command, text and version",
            )

    def tensors_of_first(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The named tensors of process 0, in all of them; the others' argument does not count."""
        if self.size == 1:
            return tensors
        forms = self.first(
            lambda: [
                (n, str(t.dtype).removeprefix("torch."), list(t.shape)) for n, t in tensors.items()
            ]
        )
        found = {}
        for name, dtype, shape in forms:
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            if self.rank == 0:
                tensor.copy_(tensors[name])
            raw = _raw(tensor).to(self.device)
            with _together():
                dist.broadcast(raw, 0)
            found[name] = raw.cpu().view(tensor.dtype).view(shape)
        return found

    def lanes_of_all(self, state: Tensor) -> Tensor:
        """A state with the lanes of every process on axis 1, in their global order."""
        if self.size == 1:
            return state
        rows = state.detach().movedim(1, 0).contiguous().cpu()
        parts = self._bytes_of_all(bytes(_raw(rows).numpy()))
        # bytearray: torch reads from memory that it may write to.
        each = [torch.frombuffer(bytearray(p), dtype=state.dtype) for p in parts]
        return torch.cat([e.view(-1, *rows.shape[1:]) for e in each]).movedim(0, 1)

    def wait(self) -> None:
        """Until every process is here."""
        self.total([0.0])

    def _bytes_of_first(self, data: bytes) -> bytes:
        size = torch.tensor(len(data), device=self.device)
        with _together():
            dist.broadcast(size, 0)
            raw = torch.empty(int(size), dtype=torch.uint8, device=self.device)
            if self.rank == 0:
                raw.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
            dist.broadcast(raw, 0)
        return bytes(raw.cpu().numpy())

    def _bytes_of_all(self, data: bytes) -> list[bytes]:
        sizes = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.size)]
        with _together():
            dist.all_gather(sizes, torch.tensor([len(data)], device=self.device))
            longest = max(int(s) for s in sizes)
            padded = torch.zeros(longest, dtype=torch.uint8, device=self.device)
            if data:
                padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            parts = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(parts, padded)
        return [bytes(p[: int(s)].cpu().numpy()) for p, s in zip(parts, sizes, strict=True)]


def _raw(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


@contextmanager
def _together() -> Iterator[None]:
    """What torch says when another process is gone, in one line."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise RunError(
            "all processes of the run",
            f"one that is gone ({str(error).splitlines()[0]:.120})",
            "see what that one said; torchrun --max-restarts, or --resume, goes on from the last "
            "checkpoint",
        ) from None


@contextmanager
def joined() -> Iterator[Group]:
    """The processes this one was started with: those of a group that is there already, of torchrun,
    or none."""
    if dist.is_available() and dist.is_initialized():
        yield _present()
        return
    if not dist.is_available() or not all(os.environ.get(name) for name in TORCHRUN):
        yield Group()
        return
    with _together():
        _join()
    try:
        yield _present()
    finally:
        dist.destroy_process_group()


def _join() -> None:
    """Into the group that torchrun names in the environment.

    On one machine all starts share one store, and addresses of an earlier start are still in it: a
    process that is quick would call one that is dead. So each start has a part of the store to itself.
    On several machines the count is each agent's own, and says nothing to the others.
    """
    if os.environ.get("GROUP_WORLD_SIZE") != "1":
        dist.init_process_group("gloo")
        return
    store, rank, size = next(iter(dist.rendezvous("env://")))
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own = dist.PrefixStore(f"bptt start {start}", store)
    dist.init_process_group("gloo", store=own, rank=rank, world_size=size)


def _present() -> Group:
    device = "cpu"
    if dist.get_backend() == "nccl":
        device = f"cuda:{os.environ.get('LOCAL_RANK', torch.cuda.current_device())}"
    return Group(dist.get_rank(), dist.get_world_size(), device)
