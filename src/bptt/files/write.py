"""Files and folders whose name somebody typed: whole or not there, a link replaced and not followed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bptt.errors import ArgumentError, RunError
from bptt.files.folder import Folder, WrongKindError, reason


def write_file(
    path: str | os.PathLike[str], content: str | bytes, remedy: str = "choose another place"
) -> Path:
    """Write a file, whole or not at all, in place of one that is there.

    Args:
        path: of the file; a link there is replaced by the file, and what it leads to stays as it is.
        content: a text, which is written in UTF-8, or bytes.
        remedy: what to do where it cannot be written.

    Returns:
        The path.

    Raises:
        RunError: it cannot be written, or a folder, a pipe or a device is there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as base:
        ...     write_file(base + "/a.txt", "hello").read_text()
        'hello'
    """
    target = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    expected = f"a file that can be written at {target}"
    with refused(expected, remedy), Folder.open(target.parent, follow=True) as folder:
        folder.replace(target.name, data)
    return target


def append_line(path: str | os.PathLike[str], line: str, remedy: str) -> None:
    """Add a line to a file; it is made, with the folders above, where it is missing.

    Raises:
        RunError: it cannot be written, or is a link, or has another name elsewhere.
    """
    target = Path(path)
    with refused(f"an ordinary file that can be written at {target}", remedy):
        target.parent.mkdir(parents=True, exist_ok=True)
        with Folder.open(target.parent, follow=True) as folder:
            folder.append(target.name, line.encode("utf-8") + b"\n")


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Folder]:
    """A folder that appears at a path, whole, when the block ends; if it fails, not at all.

    The folders above are made where they are missing.

    Raises:
        OSError: it cannot be written, or something is there; an empty folder is replaced.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with Folder.open(target.parent, follow=True) as parent, parent.new_folder(target.name) as fresh:
        yield fresh


def write_folder(path: str | os.PathLike[str], files: Mapping[str, str | bytes]) -> Path:
    """Write the files into a folder that does not exist yet, or is empty: all or none.

    Args:
        path: of the folder.
        files: texts or bytes by file name.

    Returns:
        The folder.

    Raises:
        ArgumentError: there is something at the path already.
        RunError: it cannot be written; nothing is left behind.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as base:
        ...     folder = write_folder(base + "/new", {"a.txt": "hello"})
        ...     (folder / "a.txt").read_text()
        'hello'
    """
    target = Path(path)
    check_free(target)
    expected = f"a folder that can be written at {target}"
    with refused(expected, "choose another one with --out"), new_folder(target) as fresh:
        for name, content in files.items():
            fresh.write(name, content.encode("utf-8") if isinstance(content, str) else content)
    return target


def check_free(path: str | os.PathLike[str]) -> None:
    """Raise ArgumentError unless nothing, or an empty folder, is at the path."""
    target = Path(path)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        what = "a link" if target.is_symlink() else "a file"
        raise ArgumentError("a new folder", f"{target}, which is {what}", "choose another --out")
    if target.is_dir() and any(target.iterdir()):
        first = sorted(p.name for p in target.iterdir())[0]
        raise ArgumentError(
            "a new or empty folder", f"{target}, which holds {first}", "choose another --out"
        )


@contextmanager
def refused(expected: str, remedy: str) -> Iterator[None]:
    """Around writing: what the system says becomes a RunError of one line."""
    try:
        yield
    except WrongKindError as error:
        raise RunError(expected, reason(error), "move it away, or choose another place") from None
    except (OSError, ValueError) as error:  # the second for a name that no file can have
        what = reason(error) if isinstance(error, OSError) else str(error)
        raise RunError(expected, what, remedy) from None
