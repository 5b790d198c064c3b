"""Several processes on this machine, joined by gloo, for the tests of distributed training."""

import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch


def together(size, function, *arguments):
    """Call ``function(*arguments)`` in ``size`` processes that form a group; what each returns."""
    context = multiprocessing.get_context("forkserver")
    # Optimisers import torch._dynamo at their first step: seconds, in every process.
    context.set_forkserver_preload(
        ["torch", "torch._dynamo", "bptt.training", "bptt.probes.diagnose"]
    )
    with tempfile.TemporaryDirectory() as folder:
        results = context.SimpleQueue()
        workers = [
            context.Process(target=_work, args=(rank, size, folder, results, function, arguments))
            for rank in range(size)
        ]
        for worker in workers:
            worker.start()
        found = {}
        while len(found) < size:
            if not results.empty():
                rank, value = results.get()
                found[rank] = value
            elif not any(worker.is_alive() for worker in workers):
                raise AssertionError(f"only processes {sorted(found)} said anything")
            else:
                time.sleep(0.01)
        for worker in workers:
            worker.join()
    errors = [value for _, (failed, value) in sorted(found.items()) if failed]
    if errors:
        raise AssertionError("\n".join(errors))
    return [found[rank][1] for rank in range(size)]


def _work(rank, size, folder, results, function, arguments):
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        if size > 1:
            store = f"file://{folder}/store"
            dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
        results.put((rank, (False, function(*arguments))))
    except BaseException:
        results.put((rank, (True, f"process {rank}:\n{traceback.format_exc()}")))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


class Recording:
    """A clip that keeps every gradient it is given."""

    def __init__(self, inner):
        self.inner, self.gradients = inner, []

    def __call__(self, parameters):
        parameters = list(parameters)
        self.gradients.append(torch.cat([p.grad.flatten() for p in parameters]).double().numpy())
        return self.inner(parameters)

    def state_dict(self):
        return self.inner.state_dict()

    def load_state_dict(self, state):
        self.inner.load_state_dict(state)


def gradients(options, dtype="float32", fault=None):
    """Train, and return every update's gradient, the scores, and what the outcome says."""
    from bptt.remedies import build_clip
    from bptt.training import RunFolder, Settings, session, train

    clips = []

    def recorded(clip):
        clips.append(Recording(build_clip(clip)))
        return clips[-1]

    before, built = torch.get_default_dtype(), session.build_clip
    torch.set_default_dtype(getattr(torch, dtype))
    session.build_clip = recorded
    try:
        outcome = train(Settings(**options), on_step=fault)
    finally:
        torch.set_default_dtype(before)
        session.build_clip = built
    scores = [r["valid"]["nats"] for r in RunFolder(outcome.run).read_metrics() if "valid" in r]
    return {
        "gradients": clips[0].gradients,
        "scores": scores,
        "final": outcome.valid.nats,
        "tokens": outcome.tokens,
        "rank": outcome.rank,
        "weights": {n: t.double().numpy() for n, t in outcome.model.state_dict().items()},
    }


def train_with(options, resume=None, stop=None, fault=None):
    """Train or go on; what each process ends with. ``stop``: (rank, step) of a Ctrl-C."""
    import signal

    from bptt.errors import BpttError
    from bptt.training import Settings, train

    seen = []

    def on_step(session):
        seen.append(session.progress.step)
        if stop == (session.group.rank, session.progress.step):
            signal.raise_signal(signal.SIGINT)
        if fault is not None:
            fault(session)

    try:
        outcome = train(Settings(**options), resume=resume, on_step=on_step)
    except BpttError as error:
        return {"error": str(error), "steps": seen}
    return {"steps": outcome.steps, "interrupted": outcome.interrupted, "valid": outcome.valid}


class Spoil:
    """After a step, one process's own state is no longer finite."""

    def __init__(self, step, rank, lane):
        self.step, self.rank, self.lane = step, rank, lane

    def __call__(self, session):
        if session.progress.step == self.step and session.group.rank == self.rank:
            session.carry[:, self.lane] = torch.nan
            self.step = -1


def helpers():
    """What the group's own functions give, in this process."""
    from bptt.training.distributed import joined

    with joined() as group:
        low, high = group.lanes(5)
        lanes = torch.arange(5.0)[None, :, None].expand(1, 5, 3)
        marks = torch.tensor([[True, False, True, True, False]])
        weight = torch.nn.Parameter(torch.zeros(2))
        only = torch.nn.Parameter(torch.zeros(1))
        never = torch.nn.Parameter(torch.zeros(1))
        weight.grad = torch.tensor([1.0, 2.0]) * (group.rank + 1)
        if group.rank == 0:
            only.grad = torch.ones(1)
        group.add_gradients([weight, only, never], 0.25 if group.rank == 0 else 0.75)
        return {
            "lanes": group.lanes_of_all(lanes[:, low:high]).tolist(),
            "marks": group.lanes_of_all(marks[:, low:high]).tolist(),
            "complex": group.lanes_of_all(torch.full((1, 1, 1), 1j * group.rank)).tolist(),
            "total": group.total([float(group.rank), 0.5]),
            "any": (group.any(group.rank == 1), group.any(False)),
            "of_first": group.of_first(7.0 + group.rank),
            "largest": group.largest(3 + group.rank),
            "first": group.first(lambda: {"pid": os.getpid()})["pid"],
            "all": group.all("x" * group.rank),
            "weight": weight.grad.tolist(),
            "only": only.grad.tolist(),
            "never": never.grad,
            "same": _raises(lambda: group.require_same("colour", group.rank)),
            "tensors": {
                n: t.tolist()
                for n, t in group.tensors_of_first(
                    {"a": torch.tensor([1.5, -0.0]), "b": torch.tensor(3), "e": torch.zeros(0, 2)}
                    if group.rank == 0
                    else {}
                ).items()
            },
            "error": _raises(lambda: group.first(_refuse)),
        }


def _refuse():
    from bptt.errors import DataError

    raise DataError("a text", "none", "give one")


def _raises(function):
    from bptt.errors import BpttError

    try:
        function()
    except BpttError as error:
        return str(error)
    return None


def python():
    """This interpreter as a command, site packages found the same way."""
    return [sys.executable, *(["-S"] if sys.flags.no_site else [])]


def torchrun(size, words, restarts=0):
    """The command line of a run under torchrun."""
    head = [*python(), "-m", "torch.distributed.run", "--standalone", "--no-python"]
    head += ["--nproc_per_node", str(size), "--max_restarts", str(restarts)]
    head += ["--monitor_interval", "0.1"]
    return [*head, *python(), "-m", "bptt", *words]


def workers_of(pid):
    """The processes that a torchrun started, newest last."""
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").glob("*/children")
        for child in task.read_text().split()
    ]
