"""Small files that a program wrote and reads back by a name that somebody typed: results, metrics.

What stands under such a name need not be that file any more. A pipe would be waited for, a device
never ends, and a file of gigabytes would be read into memory: all three are refused unread. A link is
followed here: whoever typed the name may have made it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bptt.files.folder import LARGEST, WrongKindError, kind


def read_plain(path: Path, largest: int = LARGEST) -> str:
    """The text of a small UTF-8 file.

    Raises:
        OSError: it is not there, not an ordinary file, or too large; ``strerror`` says which.
        ValueError: no file can have this name, or the file is not UTF-8.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise WrongKindError(0, kind(status.st_mode), str(path))
    if status.st_size > largest:
        raise WrongKindError(0, f"a file of {status.st_size} bytes", str(path))
    return path.read_text(encoding="utf-8")
