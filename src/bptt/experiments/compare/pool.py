"""The jobs of a grid over all cores, or over a Ray cluster; what is done already is skipped."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from bptt.errors import ArgumentError, DependencyError, RunError
from bptt.experiments.compare.grid import Job, Record, append_result, read_results

Runner = Callable[[list[Job]], Iterator[Record]]


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_grid(
    jobs: list[Job],
    path: Path,
    runner: Runner,
    finished: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Run the jobs that the file does not hold yet, and append each as it finishes.

    Args:
        jobs: of a grid.
        path: one JSON line a finished job; made where it is missing. Other jobs in it stay.
        runner: :func:`on_processes` or :func:`on_ray`, with its options bound.
        finished: told of every job, first of those that were done before.

    Returns:
        a record for every job, in the order of the jobs.
    """
    done: dict[Job, Record] = {}
    wanted = set(jobs)
    for record in read_results(path):
        job = Job.from_dict(record["job"])
        if job in wanted:
            done[job] = record
    for record in done.values():
        if finished is not None:
            finished(record)
    left = [job for job in jobs if job not in done]
    for record in runner(left) if left else ():
        append_result(path, record)
        done[Job.from_dict(record["job"])] = record
        if finished is not None:
            finished(record)
    return [done[job] for job in jobs]


def on_processes(jobs: list[Job], workers: int | None = None) -> Iterator[Record]:
    """Run jobs in processes of their own, one torch thread each; records as they finish.

    Raises:
        RunError: a process died, for want of memory most likely. What was done stays done.
    """
    workers = cores() if workers is None else workers
    if workers < 1:
        raise ArgumentError("--workers >= 1", f"{workers}", "leave it out for all cores")
    # Not fork: torch's threads do not survive it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=_one_thread)
    try:
        for future in as_completed([pool.submit(_work, job.as_dict()) for job in jobs]):
            yield future.result()
    except BrokenProcessPool:
        raise RunError(
            "every job to end by itself", "a process that died, perhaps for want of memory",
            "run again with fewer --workers; finished jobs are kept",
        ) from None  # fmt: skip
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def on_ray(jobs: list[Job], address: str = "local") -> Iterator[Record]:
    """Run jobs on a Ray cluster, one core each; records as they finish.

    Args:
        address: of the cluster (``"auto"``, ``"ray://host:port"``), or ``"local"`` to start one here.

    Raises:
        DependencyError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise DependencyError("the package ray", "none", "install it: pip install 'bptt[ray]'")
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False, include_dashboard=False)
    try:
        remote: Any = ray.remote(num_cpus=1)(_work_alone)
        waiting = [remote.remote(job.as_dict()) for job in jobs]
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1)
            yield from ray.get(ready)
    finally:
        if started:
            ray.shutdown()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _work(job: dict[str, Any]) -> Record:
    from bptt.experiments.compare.job import run_job

    return run_job(Job.from_dict(job))


def _work_alone(job: dict[str, Any]) -> Record:
    _one_thread()
    return _work(job)
