"""A list of files with size and SHA-256 each, which shows any change of any of them, or of itself.

::

    {"files": {"state.json": {"bytes": 812, "sha256": "…"}, …}, "format": 1, "sha256": "…"}

The last entry is the SHA-256 of the others. A manifest has one spelling only: one that reads the same
but is spelt otherwise is refused, so that a single changed byte anywhere is seen.

It shows damage, not malice: whoever can write the files can write a manifest that fits them. What is
read after it has passed is therefore still read with care, and never run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "manifest.json"
FORMAT = 1
LARGEST = 1 << 20  # bytes of a manifest; ours have a few hundred
_PIECE = 1 << 20


def seal(files: Mapping[str, bytes], **facts: Any) -> bytes:
    """The manifest of files that are about to be written.

    Taken from what is meant to be written, not from what the disk gives back, so that it shows too
    what went wrong on the way there.

    Example:
        >>> len(seal({"a.txt": b"hello"})) == len(seal({"a.txt": b"there"}))
        True
    """
    entries = {name: _entry(len(data), hashlib.sha256(data)) for name, data in files.items()}
    return _spell({"files": entries, "format": FORMAT, **facts})


def read(folder: Path) -> dict[str, Any]:
    """The manifest in a folder.

    Raises:
        ValueError: it is missing or not as it was written; the message begins with its name.
    """
    path = folder / NAME
    try:
        if not path.is_file():
            raise ValueError(f"{NAME} is missing")
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
        content = json.loads(data.decode("utf-8"))
        content.pop("sha256")
        if len(data) > LARGEST or _spell(content) != data:
            raise ValueError(f"{NAME} does not fit its own checksum")
        if content["format"] != FORMAT:
            raise ValueError(f"{NAME} has format {content['format']!r:.20}, known is {FORMAT}")
        return content
    except OSError as error:
        raise ValueError(f"{NAME} cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError, LookupError, AttributeError, TypeError) as error:
        if str(error).startswith(NAME):
            raise ValueError(str(error)) from None
        raise ValueError(f"{NAME} is not what was written there") from None


def check(folder: Path, content: Mapping[str, Any], name: str) -> None:
    """Compare one file with its line in the manifest.

    Raises:
        ValueError: it differs, is missing or cannot be read; the message begins with its name.

    Cost: one pass over the file, in pieces; memory does not grow with it.
    """
    try:
        size, digest = content["files"][name]["bytes"], content["files"][name]["sha256"]
    except (LookupError, TypeError):
        raise ValueError(f"{name} is not in {NAME}") from None
    path = folder / name
    try:
        if not path.is_file():  # nothing, a folder, or a pipe that would be waited for for ever
            raise ValueError(f"{name} is missing")
        found = path.stat().st_size
        if found != size:
            raise ValueError(f"{name} has {found} bytes where {size} were written")
        hashed = hashlib.sha256()
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                hashed.update(piece)
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error.strerror or error})") from None
    if hashed.hexdigest() != digest:
        raise ValueError(f"{name} does not fit its checksum")


def _entry(size: int, hashed: Any) -> dict[str, Any]:
    return {"bytes": size, "sha256": hashed.hexdigest()}


def _spell(content: Mapping[str, Any]) -> bytes:
    own = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, "sha256": own}, indent=1, sort_keys=True) + "\n").encode()
