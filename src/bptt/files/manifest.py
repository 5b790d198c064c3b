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
import os
from collections.abc import Iterator, Mapping
from typing import Any

from bptt.files import memory
from bptt.files.folder import Folder, unread

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


def read(folder: Folder) -> dict[str, Any]:
    """The manifest in a folder.

    Raises:
        ValueError: it is missing or not as it was written; the message begins with its name.
    """
    try:
        data = folder.read(NAME, LARGEST)
        content = json.loads(data.decode("utf-8"))
        content.pop("sha256")
        if _spell(content) != data:
            raise ValueError(f"{NAME} does not fit its own checksum")
        if content["format"] != FORMAT:
            raise ValueError(f"{NAME} has format {content['format']!r:.20}, known is {FORMAT}")
        return content
    except OSError as error:
        raise ValueError(f"{NAME} {unread(error)}") from None
    except (ValueError, RecursionError, LookupError, AttributeError, TypeError) as error:
        if str(error).startswith(NAME):
            raise ValueError(str(error)) from None
        raise ValueError(f"{NAME} is not what was written there") from None


def check(folder: Folder, content: Mapping[str, Any], name: str) -> None:
    """Compare one file with its line in the manifest.

    Raises:
        ValueError: it differs, is missing or cannot be read; the message begins with its name.

    Cost: one pass over the file, in pieces; memory does not grow with it.
    """
    for _ in _checked(folder, content, name):
        pass


def read_checked(folder: Folder, content: Mapping[str, Any], name: str) -> bytes:
    """A file's bytes, the very ones that were compared with its line in the manifest.

    Raises:
        ValueError: as :func:`check`, or the machine has no memory for a file of that size.
    """
    return b"".join(_checked(folder, content, name, whole=True))


def _checked(
    folder: Folder, content: Mapping[str, Any], name: str, *, whole: bool = False
) -> Iterator[bytes]:
    """The pieces of a file; an error after the last one where they are not what was written."""
    try:
        size, digest = content["files"][name]["bytes"], content["files"][name]["sha256"]
    except (LookupError, TypeError):
        raise ValueError(f"{name} is not in {NAME}") from None
    hashed = hashlib.sha256()
    try:
        with folder.reader(name) as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                raise ValueError(f"{name} has {found} bytes where {size!r:.20} were written")
            if whole:
                memory.require(found, name, "restore the file from a copy")
            while piece := file.read(_PIECE):
                hashed.update(piece)
                yield piece
    except OSError as error:
        raise ValueError(f"{name} {unread(error)}") from None
    if hashed.hexdigest() != digest:
        raise ValueError(f"{name} does not fit its checksum")


def _entry(size: int, hashed: Any) -> dict[str, Any]:
    return {"bytes": size, "sha256": hashed.hexdigest()}


def _spell(content: Mapping[str, Any]) -> bytes:
    own = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, "sha256": own}, indent=1, sort_keys=True) + "\n").encode()
