"""Which run folders the lab may open: those below the directory it was started in, and the one given.

A page never sends a path: it chooses a name among those listed here.
"""

from __future__ import annotations

import os
from pathlib import Path

from bptt.errors import RunError

DEPTH = 4  # folders below the directory
MOST = 60  # runs listed, the newest
PATIENCE = 4000  # folders looked into
SKIPPED = {"node_modules", "site-packages", "checkpoints", "__pycache__"}


def list_runs(root: str | os.PathLike[str], given: str | None = None) -> dict[str, Path]:
    """Run folders by name, the given one first, then the newest.

    Args:
        root: look below this directory, at most 4 folders deep; links are not followed.
        given: another folder, allowed wherever it is.

    Returns:
        name → folder; the name is the path below ``root``, and "…/NAME" of one that is not below it.

    Cost: lists at most 4000 folders.

    Example:
        >>> import tempfile
        >>> list_runs(tempfile.mkdtemp())
        {}
    """
    top = Path(root).resolve()
    found = []
    for looked, (place, folders, files) in enumerate(os.walk(top)):
        here = Path(place)
        if is_run(here, files):
            found.append(here)
            folders.clear()  # no run within a run
        deep = len(here.relative_to(top).parts) >= DEPTH
        folders[:] = (
            []
            if deep or looked >= PATIENCE
            else [f for f in sorted(folders) if not f.startswith(".") and f not in SKIPPED]
        )
    found.sort(key=_changed, reverse=True)
    first = [] if given is None else [Path(given).resolve()]
    runs = first + [run for run in found[:MOST] if run not in first]
    return {_name(run, top): run for run in runs}


def _name(run: Path, top: Path) -> str:
    below = run.is_relative_to(top) and run != top
    # Short, for a phone; "…" is no folder's name below the directory.
    return str(run.relative_to(top)) if below else f"…/{run.name}"


def is_run(folder: Path, files: list[str] | None = None) -> bool:
    """Whether it looks like a run folder; the files themselves may still be broken."""
    names = set(os.listdir(folder)) if files is None else set(files)
    return {"config.toml", "metrics.jsonl"} <= names


def choose(runs: dict[str, Path], name: str | None) -> Path:
    """The folder of a listed name.

    Raises:
        RunError: it is not listed.
    """
    if name is None or name not in runs:
        raise RunError(
            "the name of a listed run",
            repr(name),
            "start bptt lab where your runs are, or with --run",
        )
    return runs[name]


def _changed(run: Path) -> float:
    try:
        return (run / "metrics.jsonl").stat().st_mtime
    except OSError:
        return 0.0
