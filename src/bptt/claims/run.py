"""Running claims: each from the same random state, timed, on every core; a failure is a result too."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bptt.claims.registry import NOT_RUN, Claim, Measurement, NotRun, find
from bptt.numbers import optional


@dataclass(frozen=True)
class Result:
    """What became of one claim.

    Attributes:
        id: of the claim.
        verdict: "holds", "holds in part", "does not hold" or "not run".
        measured: the figures in words; for "not run" the reason.
        where: which parts hold.
        instead: what is true instead.
        seconds: it took.
        figures: the numbers behind the words.
        failed: it was not run because its code broke, and not because something is missing here.
    """

    id: str
    verdict: str
    measured: str
    where: str = ""
    instead: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    failed: bool = False


def run_claim(claim: Claim) -> Result:
    """Re-make one claim, on one thread, from seed 0; the caller's random states stay as they were.

    Whatever goes wrong inside becomes "not run" with the reason: one claim must not take the others
    with it, and must not be dropped.
    """
    states = random.getstate(), np.random.get_state()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    began = time.perf_counter()
    try:
        with torch.random.fork_rng():
            random.seed(0)
            np.random.seed(0)
            torch.manual_seed(0)
            found = claim.measure()
            return _result(claim, found, time.perf_counter() - began)
    except NotRun as reason:
        return Result(claim.id, NOT_RUN, str(reason), seconds=time.perf_counter() - began)
    except Exception as error:
        why = f"it failed with {type(error).__name__}: {error}"
        return Result(claim.id, NOT_RUN, why, seconds=time.perf_counter() - began, failed=True)
    finally:
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])


def _result(claim: Claim, found: Measurement, seconds: float) -> Result:
    instead = "" if found.verdict == "holds" else found.instead
    return Result(claim.id, found.verdict, found.text, found.where, instead, seconds, found.figures)


def not_asked(claim: Claim) -> Result:
    """The line of a claim that this run leaves out."""
    return Result(claim.id, NOT_RUN, f"not asked for: `bptt claims {claim.id}` runs it")


def run_claims(
    claims: Sequence[Claim],
    *,
    jobs: int | None = None,
    done: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Re-make claims, several at a time.

    Args:
        claims: which.
        jobs: processes; default one a core. 1 runs them here.
        done: called with each result as it comes.

    Returns:
        The results in the order of the claims.

    Cost: the sum of theirs over the cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jobs = min(optional("jobs", jobs) or cores or 1, len(claims))
    found: dict[str, Result] = {}
    for result in _each(claims, jobs):
        found[result.id] = result
        if done is not None:
            done(result)
    return [found[claim.id] for claim in claims]


def _by_id(id: str) -> Result:
    (claim,) = find([id])
    return run_claim(claim)


def _each(
    claims: Sequence[Claim], jobs: int, work: Callable[[str], Result] = _by_id
) -> Iterator[Result]:
    if jobs <= 1:
        yield from map(run_claim, claims)
        return
    # Long ones first, so that no core waits for one at the end.
    order = sorted(claims, key=lambda claim: claim.quick)
    broken = []
    for id, outcome in _pool([c.id for c in order], jobs, work):
        if isinstance(outcome, Result):
            yield outcome
        else:
            broken.append(id)
    # A process that dies takes all claims of its pool with it: each again, alone, to find which it was.
    for id in broken:
        for _, outcome in _pool([id], 1, work):
            if isinstance(outcome, Result):
                yield outcome
            else:
                why = f"its process ended with {type(outcome).__name__}: {outcome}"
                yield Result(id, NOT_RUN, why, failed=True)


def _pool(
    ids: Sequence[str], jobs: int, work: Callable[[str], Result]
) -> Iterator[tuple[str, Result | BaseException]]:
    # Fresh processes: a forked one would inherit torch's thread pool without its threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting: dict[Future[Result], str] = {pool.submit(work, id): id for id in ids}
        for future in as_completed(waiting):
            yield waiting[future], future.exception() or future.result()
