"""Who writes in a folder: a lock that the kernel takes back when its process ends, however it ends."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from bptt.errors import RunError
from bptt.files.folder import Folder, WrongKindError, reason

LOCK, HOLDER = ".lock", ".holder.json"
LARGEST = 1 << 16  # bytes of the second


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder; reading it needs no lock.

    ``.lock`` is locked by the kernel (``flock``) and stays behind empty; ``.holder.json`` says who has
    it, for the message only.

    Raises:
        RunError: another process holds it (nothing was touched), or it cannot be written.
    """
    try:
        with Folder.open(folder, follow=True) as opened:
            lock = taken(opened, LOCK)
            if lock is None:
                raise RunError(
                    f"a run folder that no other process trains in, {folder}",
                    f"one held by {_holder(opened)}",
                    "wait until that process ends, or stop it",
                )
            try:
                now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
                who = {"pid": os.getpid(), "host": platform.node(), "since": now}
                opened.replace(HOLDER, (json.dumps(who) + "\n").encode())
            except BaseException:
                lock.release()
                raise
    except (OSError, RuntimeError) as error:  # the second where a file system has no locks
        if isinstance(error, RunError):
            raise
        raise _unwritable(folder, error) from None
    try:
        yield
    finally:
        lock.release()


def taken(folder: Folder, name: str) -> BaseFileLock | None:
    """The lock of a file in an open folder, which is made where it is missing; None if another has it.

    Raises:
        WrongKindError: it is not an ordinary file, or has another name elsewhere; OSError,
        RuntimeError: it cannot be made, or the file system has no locks.
    """
    folder.changer(name).close()  # filelock opens by path, some versions of it through a link
    lock = FileLock(folder.path / name, blocking=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def _holder(folder: Folder) -> str:
    try:
        who = json.loads(folder.read(HOLDER, LARGEST).decode("utf-8"))
        said = f"process {who['pid']} on {who['host']} since {who['since']}"
        return said if said.isprintable() and len(said) < 400 else "another process"
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return "another process"  # it has the lock and has not yet said who it is


def _unwritable(folder: Path, error: Exception) -> RunError:
    what = reason(error) if isinstance(error, OSError) else str(error)
    if isinstance(error, WrongKindError):
        return RunError(
            f"ordinary files {LOCK} and {HOLDER} in {folder}", what, "move what is there away"
        )
    return RunError(
        f"a run folder that can be written, {folder}",
        what,
        "free the disk or the folder's rights",
    )
