"""What the package computed for a page, kept by the hash of all that it was made from.

A figure, or what a program of the course prints, is made from its own text, from what it says it reads,
from every file of the package and its kernels, and from the versions of what these stand on. As long as
all of that is the same, so is the result, and it is read from ``docs/_build/kept`` in place of being
made again. Anything else makes it anew: a file that is missing, damaged, or of another hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bptt

DOCS = Path(__file__).parents[1]
FOLDER = DOCS / "_build" / "kept"
# The package as it is imported, its kernels' source; and what draws and runs.
SOURCES = (Path(bptt.__file__).parent, DOCS.parent / "csrc")
MAKERS = ("drawn.py", "panels.py", "course.py", "notebook.py")
STANDS_ON = ("torch", "numpy", "matplotlib")


@cache
def common() -> str:
    """The hash of what every result is made from."""
    made_from = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted(folder.rglob("*")):
            # What is compiled from these says nothing that they do not.
            if path.is_file() and path.suffix not in (".pyc", ".so"):
                made_from.update(path.relative_to(folder).as_posix().encode() + b"\0")
                made_from.update(path.read_bytes())
    for name in MAKERS:
        made_from.update(Path(__file__).with_name(name).read_bytes())
    stands_on = [f"{name} {version(name)}" for name in STANDS_ON]
    made_from.update(
        repr([platform.python_version(), str(bptt.ops.backend()), *stands_on]).encode()
    )
    return made_from.hexdigest()


def kept(name: str, own: Iterable[str | Path], make: Callable[[], Any]) -> Any:
    """The result of that name, made anew where what it is made from has changed.

    Args:
        name: of the file it is kept in.
        own: texts, and files by their path, that it is made from beside the package.
        make: computes it; a value that JSON holds.
    """
    made_from = hashlib.sha256(common().encode())
    for part in own:
        made_from.update(part.read_bytes() if isinstance(part, Path) else part.encode())
        made_from.update(b"\0")
    mark, path = made_from.hexdigest(), FOLDER / f"{name}.json"
    try:
        found = json.loads(path.read_text("utf-8"))
        if found["made_from"] == mark:
            return found["result"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or not whole: it is made
    result = make()
    FOLDER.mkdir(parents=True, exist_ok=True)
    # Two builds may write at once: each file is whole before it has its name.
    draft = path.with_name(f".{name}.{os.getpid()}")
    draft.write_text(json.dumps({"made_from": mark, "result": result}), "utf-8")
    draft.replace(path)
    return result
