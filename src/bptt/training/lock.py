"""One training a run folder: a lock that the kernel takes back when its process ends, however it ends."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bptt.errors import RunError
from bptt.training import disk

LOCK, HOLDER = ".lock", ".holder.json"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder; reading it needs no lock.

    ``.lock`` is locked by the kernel (``flock``) and stays behind empty; ``.holder.json`` says who has
    it, for the message only.

    Raises:
        RunError: another process holds it (nothing was touched), or it cannot be written.
    """
    lock = FileLock(folder / LOCK, blocking=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"a run folder that no other process trains in, {folder}",
            f"one held by {_holder(folder)}",
            "wait until that process ends, or stop it",
        ) from None
    except (OSError, RuntimeError) as error:  # the second where a file system has no locks
        raise _unwritable(folder, error) from None
    try:
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        who = {"pid": os.getpid(), "host": platform.node(), "since": now}
        try:
            disk.replace(folder / HOLDER, (json.dumps(who) + "\n").encode())
        except OSError as error:
            raise _unwritable(folder, error) from None
        yield
    finally:
        lock.release()


def _holder(folder: Path) -> str:
    try:
        who = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return "another process"  # it has the lock and has not yet said who it is


def _unwritable(folder: Path, error: Exception) -> RunError:
    reason = getattr(error, "strerror", None) or str(error)
    return RunError(
        f"a run folder that can be written, {folder}",
        reason,
        "free the disk or the folder's rights",
    )
