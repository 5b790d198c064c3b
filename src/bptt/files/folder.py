"""A folder held open. What stands in it is looked up there, and no link in it is followed.

A run folder may come from somebody else. Under any name in it may stand a symbolic link, a second name
of a file that lies elsewhere, or a pipe; under the name of a folder may stand a link to another one.
So a name is never opened as a path: it is looked up in the open folder, a link is refused, and what was
opened has to be an ordinary file. A file that is changed in place must have no other name. A new file is
created, never opened, and under a name that nobody can guess; the rename that gives it its own takes the
place of a link and does not follow it.

Bytes are on the disk when a call returns, and files and folders are whole or not there.

Limits: Windows opens no folders. There names are compared first and opened as paths then, so that
somebody who changes the folder at that very moment is not met.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

LARGEST = 1 << 30  # bytes that are read at once; a line a step of a run of weeks is a tenth of it
DEPTH = 16  # folders within folders that are removed; ours have one
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_PLAIN = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | _NOFOLLOW
_BY_HANDLE = os.open in os.supports_dir_fd and hasattr(os, "O_DIRECTORY")
_KINDS = (
    (stat.S_ISREG, "an ordinary file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


class WrongKindError(OSError):
    """What stands under a name is not what belongs there; ``strerror`` says what it is."""


def kind(mode: int) -> str:
    """What a file's mode says it is, in words."""
    return next((words for fits, words in _KINDS if fits(mode)), "a device")


class Folder:
    """An open folder; a context that closes it. Names in it hold no separator.

    Attributes:
        path: under which it was opened, for messages.
    """

    def __init__(self, path: Path, handle: int | None) -> None:
        self.path = path
        self._handle = handle

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, follow: bool = False) -> Folder:
        """Open a folder.

        Args:
            path: of it. The folders above are taken as they are.
            follow: whether the folder itself may be a link, as one whose name somebody typed.

        Raises:
            WrongKindError: it is no folder; OSError: it cannot be opened.
        """
        path = Path(path)
        mode = (os.stat(path) if follow else os.lstat(path)).st_mode
        if not stat.S_ISDIR(mode):
            raise WrongKindError(0, kind(mode), str(path))
        if not _BY_HANDLE:
            return cls(path, None)
        flags = os.O_RDONLY | os.O_DIRECTORY | (0 if follow else _NOFOLLOW)
        return cls(path, os.open(path, flags))

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def names(self) -> list[str]:
        """Of everything in it, sorted."""
        return sorted(os.listdir(self.path if self._handle is None else self._handle))

    def status(self, name: str) -> os.stat_result | None:
        """Of what stands under a name, a link not followed; None where nothing does."""
        place, where = self._at(name)
        with suppress(FileNotFoundError):
            return os.stat(place, follow_symlinks=False, **where)
        return None

    def folder(self, name: str) -> Folder:
        """Open a folder in it.

        Raises:
            WrongKindError: it is no folder; FileNotFoundError: nothing is there.
        """
        place, where = self._at(name)
        mode = os.stat(place, follow_symlinks=False, **where).st_mode
        if not stat.S_ISDIR(mode):
            raise WrongKindError(0, kind(mode), name)
        handle = None
        if self._handle is not None:
            handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | _NOFOLLOW, **where)
        return Folder(self.path / name, handle)

    def make(self, name: str) -> Folder:
        """Make a folder and open it; FileExistsError where something is there."""
        place, where = self._at(name)
        os.mkdir(place, **where)
        return self.folder(name)

    def reader(self, name: str) -> BinaryIO:
        """A file opened for reading.

        Raises:
            WrongKindError: it is not an ordinary file; FileNotFoundError: nothing is there.
        """
        return self._opened(name, os.O_RDONLY, "rb")

    def read(self, name: str, largest: int = LARGEST) -> bytes:
        """All of a file; OSError where it is not an ordinary one, or longer than ``largest``."""
        with self.reader(name) as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(largest + 1) if size <= largest else b""
        if size > largest or len(data) > largest:
            raise WrongKindError(0, f"a file of {size} bytes", name)
        return data

    def changer(self, name: str) -> BinaryIO:
        """A file opened to be read, cut and added to; made where it is missing.

        Raises:
            WrongKindError: it is not an ordinary file, or has another name elsewhere: what is written
                to it would be written there.
        """
        file = self._opened(name, os.O_RDWR | os.O_APPEND | os.O_CREAT, "r+b")
        if os.fstat(file.fileno()).st_nlink > 1:
            file.close()
            raise WrongKindError(0, "a file with a second name (a hard link)", name)
        return file

    def append(self, name: str, data: bytes) -> None:
        """Add to the end of a file; refused as by :meth:`changer`."""
        with self.changer(name) as file:
            file.write(data)

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """A new file to be written; the disk has it when the block ends.

        Raises:
            FileExistsError: something is there. OSError: no room, no right, or a disk that fails; some
                say so only when flushed, which is why nothing counts as written before.
        """
        place, where = self._at(name)
        handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PLAIN, 0o666, **where)
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def write(self, name: str, data: bytes) -> None:
        """A new file, whole; see :meth:`create`."""
        with self.create(name) as file:
            file.write(data)

    def replace(self, name: str, data: bytes) -> None:
        """Give a file new contents: whoever reads it, or comes after a crash, finds the old or the new.

        A link under that name is replaced by the file, not followed.

        Raises:
            WrongKindError: a folder, a pipe or a device is there, whose place it would take.
        """
        there = self.status(name)
        if there is not None and not (stat.S_ISREG(there.st_mode) or stat.S_ISLNK(there.st_mode)):
            raise WrongKindError(0, kind(there.st_mode), name)
        temporary = temporary_name(name)
        try:
            self.write(temporary, data)
            self.rename(temporary, name)
        except BaseException:
            with suppress(OSError):
                self.remove(temporary)
            raise
        self.flush()

    @contextmanager
    def new_folder(self, name: str, *, instead: bool = False) -> Iterator[Folder]:
        """A folder that appears under its name, whole, when the block ends; if it fails, not at all.

        Args:
            name: of the folder.
            instead: whether it takes the place of one that is there.

        Raises:
            OSError: it cannot be written, or something is there that is not to be replaced. An empty
                folder is, as renaming does.
        """
        temporary = temporary_name(name)
        try:
            with self.make(temporary) as fresh:
                yield fresh
                fresh.flush()
            going = None
            if instead and self.status(name) is not None:
                going = self.set_aside(name)
            self.rename(temporary, name)
            if going is not None:
                self.remove(going)
        except BaseException:
            with suppress(OSError):
                self.remove(temporary)
            raise
        self.flush()

    def rename(self, old: str, new: str) -> None:
        """Give what stands under a name another one; a link is renamed itself."""
        (source, _), (target, _) = self._at(old), self._at(new)
        if self._handle is None:
            os.replace(source, target)
        else:
            os.replace(source, target, src_dir_fd=self._handle, dst_dir_fd=self._handle)

    def remove(self, name: str, depth: int = DEPTH) -> None:
        """Remove what stands under a name, a folder with all in it; a link goes, its target stays.

        Raises:
            OSError: it cannot be removed; FileNotFoundError: nothing is there.
        """
        place, where = self._at(name)
        mode = os.stat(place, follow_symlinks=False, **where).st_mode
        if not stat.S_ISDIR(mode):
            os.unlink(place, **where)
            return
        if depth == 0:
            raise WrongKindError(0, f"more than {DEPTH} folders within each other", name)
        with self.folder(name) as inner:
            for each in inner.names():
                inner.remove(each, depth - 1)
        os.rmdir(place, **where)

    def set_aside(self, name: str) -> str:
        """Rename something to a hidden name, to be removed there bit by bit; return that name."""
        going = temporary_name(name, "old")
        self.rename(name, going)
        return going

    def flush(self) -> None:
        """Wait until the disk has the names: a rename is in the folder, not in the file."""
        if self._handle is not None:  # NTFS writes a rename to its own journal
            os.fsync(self._handle)

    def _opened(self, name: str, flags: int, mode: str) -> BinaryIO:
        there = self.status(name)
        if there is not None and not stat.S_ISREG(there.st_mode):
            raise WrongKindError(0, kind(there.st_mode), name)
        place, where = self._at(name)
        handle = os.open(place, flags | _PLAIN, 0o666, **where)
        found = os.fstat(handle).st_mode
        if not stat.S_ISREG(found):  # it was changed a moment ago
            os.close(handle)
            raise WrongKindError(0, kind(found), name)
        return cast(BinaryIO, os.fdopen(handle, mode))

    def _at(self, name: str) -> tuple[str | Path, dict[str, Any]]:
        if self._handle is None:
            return self.path / name, {}
        return name, {"dir_fd": self._handle}


def temporary_name(name: str, ending: str = "tmp") -> str:
    """A hidden name beside ``name`` that nobody can guess, so that nobody can have put a link there."""
    return f".{name[:40]}.{secrets.token_hex(8)}.{ending}"


def reason(error: OSError) -> str:
    """Why the system refused, in words."""
    return error.strerror or str(error)


def unread(error: OSError) -> str:
    """Why something could not be read, as what follows its name."""
    if isinstance(error, FileNotFoundError):
        return "is missing"
    if isinstance(error, WrongKindError):
        return f"is {reason(error)}"
    return f"cannot be read ({reason(error)})"
