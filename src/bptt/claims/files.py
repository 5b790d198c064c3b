"""Data that no package carries: read from a folder the user names, never fetched, never assumed."""

from __future__ import annotations

import os
from pathlib import Path

from bptt.claims.registry import NotRun

# Set by `bptt claims --data FOLDER`; the environment reaches the processes that claims run in.
VARIABLE = "BPTT_CLAIMS_DATA"


def beside(name: str, remedy: str) -> Path:
    """The path of a file in the folder named.

    Raises:
        NotRun: no folder was named, or the file is not in it.
    """
    folder = os.environ.get(VARIABLE)
    if folder is None:
        raise NotRun(name, "no folder to look in", remedy)
    path = Path(folder) / name
    if not path.is_file():
        raise NotRun(name, f"no such file in {folder}", remedy)
    return path
