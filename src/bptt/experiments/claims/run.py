"""Running claims: each from the same random state, timed, on every core; a failure is a result too.

What was measured can be kept in a folder as it comes: a run that was stopped goes on there. Results in
one folder are of one version of the code.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch

import bptt
from bptt.errors import DataError, RunError, optional
from bptt.experiments import count_cores, run_in_processes
from bptt.experiments.claims.registry import (
    HOLDS,
    NOT_RUN,
    VERDICTS,
    Claim,
    Measurement,
    NotRun,
    find,
    ledger,
)
from bptt.files.read import read_plain
from bptt.files.write import write_file
from bptt.shown.text import as_json


@dataclass(frozen=True)
class Result:
    """What became of one claim.

    Attributes:
        id: of the claim.
        verdict: "holds", "holds in part", "does not hold", "not judged" or "not run".
        measured: the figures in words; for "not run" the reason.
        where: which parts hold.
        instead: what is true instead.
        seconds: it took, steps of an earlier run included.
        figures: the numbers behind the words.
        failed: it was not run because its code broke, and not because something is missing here.
        share: of the published budget that was spent.
        date: on which it was measured, as 2026-01-31; "" where it was not.
    """

    id: str
    verdict: str
    measured: str
    where: str = ""
    instead: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    failed: bool = False
    share: float = 1.0
    date: str = ""


# Set by `bptt claims --threads N`; a verdict must not hang on it.
THREADS = "BPTT_CLAIMS_THREADS"


def run_claim(claim: Claim) -> Result:
    """Re-make one claim, on one thread, from seed 0; the caller's random states stay as they were.

    Whatever goes wrong inside becomes "not run" with the reason: one claim must not take the others
    with it, and must not be dropped.
    """
    states = random.getstate(), np.random.get_state()
    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get(THREADS, "1")))
    _earlier.clear()
    began = time.perf_counter()
    try:
        with torch.random.fork_rng():
            random.seed(0)
            np.random.seed(0)
            torch.manual_seed(0)
            found = claim.measure()
            return _result(claim, found, time.perf_counter() - began + sum(_earlier))
    except NotRun as reason:
        return Result(claim.id, NOT_RUN, str(reason), seconds=time.perf_counter() - began)
    except Exception as error:
        why = f"it failed with {type(error).__name__}: {error}"
        return Result(claim.id, NOT_RUN, why, seconds=time.perf_counter() - began, failed=True)
    finally:
        torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])


def _result(claim: Claim, measured: Measurement, seconds: float) -> Result:
    share = claim.share if measured.share is None else measured.share
    judged = measured.after(share)
    instead = "" if judged.verdict == HOLDS else judged.instead
    today = datetime.now(timezone.utc).date().isoformat()
    return Result(
        claim.id, judged.verdict, judged.text, judged.where, instead, seconds, judged.figures,
        share=share, date=today,
    )  # fmt: skip


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
    jobs = min(optional("jobs", jobs) or count_cores(), len(claims))
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
    for id, outcome in run_in_processes(work, [c.id for c in order], jobs):
        if isinstance(outcome, Result):
            yield outcome
        else:
            broken.append(id)
    # A process that dies takes all claims of its pool with it: each again, alone, to find which it was.
    for id in broken:
        for _, outcome in run_in_processes(work, [id], 1):
            if isinstance(outcome, Result):
                yield outcome
            else:
                why = f"its process ended with {type(outcome).__name__}: {outcome}"
                yield Result(id, NOT_RUN, why, failed=True)


# Results that outlive the run: a folder with one file a claim, and one for each step of a long claim.

# Set by `bptt claims --resume FOLDER`; the environment reaches the processes that claims run in.
FOLDER = "BPTT_CLAIMS_FOLDER"
_HEAD = "ledger.json"
# Seconds of the steps that the claim being made here did not have to make again.
_earlier: list[float] = []
T = TypeVar("T")


@lru_cache(maxsize=1)
def code_version() -> str:
    """What tells this version of the package from another: a hash of its files of Python.

    Example:
        >>> len(code_version())
        16
    """
    root, found = Path(bptt.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def open_folder(folder: Path) -> dict[str, Result]:
    """The results that a folder holds, by id; a folder that is not there is made.

    Steps of long claims are looked for there from now on, in processes that are started too.

    Raises:
        RunError: the folder was begun by another version of the code, or cannot be written.
        DataError: a file in it is none of ours.
    """
    head = folder / _HEAD
    if head.exists():
        begun = _document(head)
        if not isinstance(begun, dict) or begun.get("code") != code_version():
            raise RunError(
                f"results of this version of the code in {folder}",
                "those of another",
                "name a new folder: one ledger is of one version",
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(head, as_json({"code": code_version()}))
    os.environ[FOLDER] = str(folder.resolve())
    found = {}
    for path in sorted(folder.glob("*.json")):
        if path.name != _HEAD:
            result = read_result(_document(path), path)
            found[result.id] = result
    return {id: result for id, result in found.items() if id in ledger()}


def keep(folder: Path, result: Result) -> None:
    """Write one result into the folder; one whose code broke, or that was not run, is not kept."""
    if result.verdict != NOT_RUN:
        write_file(folder / f"{result.id}.json", as_json(asdict(result)))


def kept(name: str, make: Callable[[], T]) -> T:
    """A step of a long claim: out of the folder where it was done before, or made and put there.

    Args:
        name: of the step, its own in the whole ledger: "P2 K=5 seed 0".
        make: gives a value that JSON can take.

    Raises:
        DataError: what lies there is no step.
    """
    folder = os.environ.get(FOLDER)
    if folder is None:
        return make()
    path = Path(folder) / "steps" / f"{name.replace(' ', '_')}.json"
    if path.exists():
        step = _document(path)
        if not (isinstance(step, dict) and {"seconds", "value"} <= step.keys()):
            raise _foreign(path, f"{step!r:.40}")
        if not isinstance(step["seconds"], (int, float)):
            raise _foreign(path, f"seconds is {step['seconds']!r:.40}")
        _earlier.append(step["seconds"])
        return cast(T, step["value"])
    began = time.perf_counter()
    value = make()
    step = {"seconds": time.perf_counter() - began, "value": value}
    path.parent.mkdir(exist_ok=True)
    write_file(path, json.dumps(step))  # with Infinity and NaN: a step may have diverged
    return value


def read_result(row: Any, path: Path) -> Result:
    """One result out of a document.

    Raises:
        DataError: it is none.
    """
    kinds: dict[str, type | tuple[type, ...]] = {
        "id": str, "verdict": str, "measured": str, "where": str, "instead": str,
        "seconds": (int, float), "figures": dict, "share": (int, float), "date": str,
    }  # fmt: skip
    received = None if isinstance(row, dict) else f"{row!r:.40}"
    for name, kind in kinds.items():
        if received is None and not isinstance(row.get(name), kind):
            received = f"{name} is {row.get(name)!r:.40}"
    if received is None and row["verdict"] not in VERDICTS:
        received = f"verdict is {row['verdict']!r:.40}"
    if received is not None:
        raise _foreign(path, received)
    return Result(**{name: row[name] for name in kinds})


def read_results(path: Path) -> dict[str, Result]:
    """Results out of a document that ``bptt claims --json`` printed, by id.

    Raises:
        DataError: it is none.
    """
    rows = _document(path)
    if not isinstance(rows, list):
        raise _foreign(path, f"{rows!r:.40}")
    found = [read_result(row, path) for row in rows]
    return {result.id: result for result in found if result.id in ledger()}


def _document(path: Path) -> Any:
    try:
        return json.loads(read_plain(path))
    except (OSError, ValueError, RecursionError) as error:
        raise _foreign(path, f"{error!s:.200}") from None


def _foreign(path: Path, received: str) -> DataError:
    expected = "a document printed by bptt claims --json"
    return DataError(expected, f"{str(path)[:200]!r}: {received}", "name another file")
