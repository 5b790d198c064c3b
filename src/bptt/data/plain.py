"""Small files that a program wrote and reads back: results, metrics, settings.

What stands under such a name need not be that file any more. A pipe would be waited for, a device
never ends, and a file of gigabytes would be read into memory: all three are refused unread.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

LARGEST = 1 << 30  # bytes; a line a step of a run of weeks is a tenth of it


def check_plain(path: str | os.PathLike[str], largest: int = LARGEST) -> None:
    """Raise where a path is not an ordinary file of a size to be read at once.

    Raises:
        OSError: it is not there, not an ordinary file, or too large; ``strerror`` says which.
        ValueError: no file can have this name.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not an ordinary file"
        raise OSError(0, kind, str(path))
    if status.st_size > largest:
        raise OSError(0, f"a file of {status.st_size} bytes", str(path))


def read_plain(path: Path, largest: int = LARGEST) -> str:
    """The text of a small UTF-8 file.

    Raises:
        OSError, ValueError: as :func:`check_plain`, and UnicodeDecodeError where it is not UTF-8.
    """
    check_plain(path, largest)
    return path.read_text(encoding="utf-8")
