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

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bptt.errors import ArgumentError, BpttError, RunError
from bptt.files.folder import Folder
from bptt.ops.device import CPU
from bptt.training import checkpoint as checkpoints
from bptt.training.checkpoint import TRAINING, Checkpoint, refuse
from bptt.training.randomness import DEVICE
from bptt.training.run_folder import RunFolder
from bptt.training.settings import Settings
from bptt.training.sizes import SIZES

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
            tensor = torch.empty(shape, dtype=getattr(torch, dtype), device="cpu")
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
def joined(device: torch.device = CPU) -> Iterator[Group]:
    """The processes this one was started with: those of a group that is there already, of torchrun,
    or none.

    Args:
        device: that this process trains on. The processes of torchrun meet by nccl on CUDA, each on
            its own GPU, and by gloo elsewhere.
    """
    if dist.is_available() and dist.is_initialized():
        yield _present()
        return
    if not dist.is_available() or not all(os.environ.get(name) for name in TORCHRUN):
        yield Group()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)  # nccl takes the current one
    with _together():
        _join("nccl" if device.type == "cuda" else "gloo")
    try:
        yield _present()
    finally:
        dist.destroy_process_group()


def _join(backend: str) -> None:
    """Into the group that torchrun names in the environment.

    On one machine all starts share one store, and addresses of an earlier start are still in it: a
    process that is quick would call one that is dead. So each start has a part of the store to itself.
    On several machines the count is each agent's own, and says nothing to the others.
    """
    if os.environ.get("GROUP_WORLD_SIZE") != "1":
        dist.init_process_group(backend)
        return
    store, rank, size = next(iter(dist.rendezvous("env://")))
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own = dist.PrefixStore(f"bptt start {start}", store)
    dist.init_process_group(backend, store=own, rank=rank, world_size=size)


def _present() -> Group:
    device = "cpu"
    if dist.get_backend() == "nccl":
        device = f"cuda:{os.environ.get('LOCAL_RANK', torch.cuda.current_device())}"
    return Group(dist.get_rank(), dist.get_world_size(), device)


# A checkpoint of all processes out of each one's own state, and the other way round.
#
# Model, optimiser, clip and numbers are the same in all of them. The carry is put together by global
# lane number, so that a run saved by N processes is resumed by M. Random states are kept one a process;
# a process that had none when the run was saved begins a sequence of its own.


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
        if name == "random" or name.startswith(DEVICE):
            states = group.lanes_of_all(tensor[None, None])[0]
            training |= {_of(name, rank): states[rank] for rank in range(group.size)}
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
    mine = _of("random", group.rank)
    if mine in training:
        training["random"] = training[mine]
    elif group.rank:
        training["random"] = fresh_random_state(seed, group.rank, saved.state["step"])
    for name in {".".join(name.split(".")[:3]) for name in training if name.startswith(DEVICE)}:
        state = training.get(_of(name, group.rank))
        if state is None:  # new to the run: the session begins a sequence of its own
            del training[name]
        else:
            training[name] = state
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
    return torch.Generator("cpu").manual_seed(fresh_seed(seed, rank, step)).get_state()


def fresh_seed(seed: int, rank: int, step: int = 0) -> int:
    """A seed, another for each process and step.

    Example:
        >>> fresh_seed(0, 1) == fresh_seed(0, 1), fresh_seed(0, 1) == fresh_seed(0, 2)
        (True, False)
    """
    digest = hashlib.sha256(f"bptt {seed} {rank} {step}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _of(name: str, rank: int) -> str:
    return name if rank == 0 else f"{name}.{rank}"


# torchrun starts the processes of a run again when one of them was lost: then the run goes on.
#
# A restarted run is told by ``TORCHELASTIC_RESTART_COUNT``. It goes on from the last checkpoint in its
# own folder; where it had none yet it begins again. It has to know the folder: with restarts allowed,
# ``--out`` must name it.


def restarts() -> int:
    """How often torchrun has started this run again."""
    return _number("TORCHELASTIC_RESTART_COUNT")


def folder_to_go_on_with(settings: Settings, group: Group) -> Path | None:
    """The run folder that an earlier start of this same run left behind; None for a first start.

    Raises:
        ArgumentError: torchrun may restart the run, and nothing says where it would be found.
    """
    if settings.out is None:
        if _number("TORCHELASTIC_MAX_RESTARTS") > 0:
            raise ArgumentError(
                "--out RUN with torchrun --max-restarts",
                "no --out",
                "name the run folder, so that a restart finds it again",
            )
        return None
    # The agents of other machines do not count a restart that this one asked for.
    if not group.any(restarts() > 0):
        return None
    path = Path(settings.out)
    return path if group.first(lambda: _left_behind(path, settings)) else None


def _left_behind(path: Path, settings: Settings) -> bool:
    """Whether there is something to go on with; what was begun without a checkpoint is removed."""
    if not path.is_dir() or not (path / "config.toml").is_file():
        return False  # nothing, or something else: creating the run will say so
    run = RunFolder(path)
    # Sizes that were not given were chosen when the text was read.
    left_open: dict[str, Any] = {name: None for name in SIZES if getattr(settings, name) is None}
    if replace(run.read_settings(), **left_open) != settings:
        return False
    if checkpoints.steps(run.checkpoints):
        return True
    with Folder.open(path.parent, follow=True) as folder:
        folder.remove(path.name)
    return False


def _number(name: str) -> int:
    value = os.environ.get(name, "0")
    return int(value) if value.isdigit() else 0
