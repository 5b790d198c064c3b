"""What is tried with the library, never needed by it: trials, comparisons, claims, lessons, benchmarks.

Here stands the one pool of processes that they share: independent pieces of work on all cores, one torch
thread each.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def count_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_processes(
    work: Callable[[Item], Outcome], items: Sequence[Item], workers: int
) -> Generator[tuple[Item, Outcome | BaseException]]:
    """Do the same work on every item, several at a time, in fresh processes.

    A process that dies breaks the pool: every item that is not done yet then has a
    ``BrokenProcessPool`` as its outcome. Who stops listening, by an interrupt too, cancels what has not
    begun.

    Args:
        work: a function of a module, which a fresh process can import.
        items: what it is called with, in the order in which they begin.
        workers: processes, at least 1.

    Yields:
        An item and what came of it, a result or an exception, as they end.

    Cost: some seconds for each process to import torch.
    """
    # Not fork: a forked process would inherit torch's pool of threads without the threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(items)), context, initializer=use_one_thread)
    waiting = {pool.submit(work, item): item for item in items}
    try:
        for future in as_completed(waiting):
            yield waiting[future], future.exception() or future.result()
    finally:
        # Each by itself: shutdown(cancel_futures=True) cancels nothing if the pool is let go right after.
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=False)


def use_one_thread() -> None:
    """Leave the other cores to the other processes."""
    import torch

    torch.set_num_threads(1)
