"""Files read back with care: ordinary ones, values of the right kinds, arrays that stay in their file."""

from __future__ import annotations

import dataclasses
import math
import mmap
import os
import stat
import types
from collections.abc import Mapping
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    BinaryIO,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from bptt.errors import ArgumentError, DataError
from bptt.files.folder import LARGEST, WrongKindError, kind

if TYPE_CHECKING:  # the command line reads small files of this kind before it needs an array
    import numpy as np
    from numpy.typing import NDArray

# Small files that a program wrote and reads back by a name that somebody typed: results, metrics.
#
# What stands under such a name need not be that file any more. A pipe would be waited for, a device
# never ends, and a file of gigabytes would be read into memory: all three are refused unread. A link is
# followed here: whoever typed the name may have made it.


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


# Texts that somebody named. They are looked at before anybody waits for an array.


def look_at_text(path: str | os.PathLike[str]) -> os.stat_result:
    """The status of a file that may be a text; it is opened, and not read.

    Raises:
        DataError: it cannot be one: missing, a folder, a pipe, empty, not readable.
    """
    name = os.fspath(path)
    try:
        status = os.stat(name)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise unusable_text(name, error) from None
    if not stat.S_ISREG(status.st_mode):
        folder = stat.S_ISDIR(status.st_mode)
        raise DataError(
            "a text file",
            f"{name!r}, " + ("a directory" if folder else "not an ordinary file"),
            "name the files in it one by one" if folder else "write it to a file first",
        )
    if status.st_size == 0:
        raise DataError("a text", f"{name!r}, an empty file", "give a file with text in it")
    try:
        with open(name, "rb"):
            pass
    except OSError as error:
        raise unusable_text(name, error) from None
    return status


def unusable_text(name: str, error: OSError | ValueError) -> DataError:
    """What is said of a text that the system does not give."""
    if isinstance(error, FileNotFoundError):
        return DataError("a text file", f"{name!r}, which does not exist", "check the path")
    if isinstance(error, PermissionError):
        return DataError(
            "a text file that can be read", f"{name!r}, permission denied", "change its permissions"
        )
    reason = getattr(error, "strerror", None) or str(error)
    return DataError("a text file", f"{name!r:.200}: {reason}", "check the path")


# Values out of a JSON file, compared with the types they should have before any of them is used.
#
# JSON as Python reads it has NaN, infinities, whole numbers of thousands of digits and nests a thousand
# deep; and True is a number to Python. What is compared here counts or measures something, so that
# numbers are finite and not negative.

MOST = 2**63  # whole numbers are below it, as those of the arrays that they become


def fit(value: Any, hint: Any, name: str, remedy: str = "pass what state_dict() returned") -> None:
    """Compare a value with a type.

    Args:
        value: as ``json.loads`` returns it.
        hint: ``bool``, ``int`` (0 and above), ``float`` (finite, 0 and above; a whole number will do),
            ``str``, ``None``, ``Any``, a union, ``Literal``, ``list[...]``, ``dict[str, ...]``, a
            TypedDict, a dataclass, or a mapping of names to such types. Of the last three every name has
            to be there, and no other.
        name: of the value, for the message.
        remedy: what to do about it.

    Raises:
        ArgumentError: it does not fit; the message names the innermost entry that does not.

    Example:
        >>> fit({"calls": 3, "norms": [0.5]}, {"calls": int, "norms": list[float]}, "state")
        >>> fit({"calls": True}, {"calls": int}, "state")
        Traceback (most recent call last):
        bptt.errors.ArgumentError: expected a whole number from 0 as state.calls, received True: pass \
what state_dict() returned
    """
    entries = _entries(hint)
    if entries is not None:
        _fit_entries(value, entries, name, remedy)
    elif get_origin(hint) is list:
        if not isinstance(value, list):
            raise ArgumentError(f"a list as {name}", shown(value), remedy)
        for index, each in enumerate(value):
            fit(each, get_args(hint)[0], f"{name}[{index}]", remedy)
    elif get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise ArgumentError(f"names and values as {name}", shown(value), remedy)
        for key, each in value.items():
            fit(each, get_args(hint)[1], f"{name}.{key!r:.40}", remedy)
    elif get_origin(hint) in (Union, types.UnionType):
        _fit_one_of(value, get_args(hint), name, remedy)
    elif not _fits(value, hint):
        raise ArgumentError(f"{_words(hint)} as {name}", shown(value), remedy)


def shown(value: Any, most: int = 40) -> str:
    """A value that came from a file, as a message shows it: escaped, cut, whatever it is.

    Example:
        >>> shown("a\\x1b[2Jb"), shown(2**100_000)
        ("'a\\\\x1b[2Jb'", 'an int too long to be shown')
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of too many digits; nested too deep
        article = "an" if type(value).__name__[0] in "aeiou" else "a"
        return f"{article} {type(value).__name__} too long to be shown"
    return text if len(text) <= most else text[:most] + "…"


def _entries(hint: Any) -> Mapping[str, Any] | None:
    if isinstance(hint, Mapping):
        return hint
    if dataclasses.is_dataclass(hint) or is_typeddict(hint):
        return get_type_hints(hint)
    return None


def _fit_entries(value: Any, entries: Mapping[str, Any], name: str, remedy: str) -> None:
    if not isinstance(value, dict):
        raise ArgumentError(f"names and values as {name}", shown(value), remedy)
    for key in entries:
        if key not in value:
            raise ArgumentError(f"an entry {_under(name, key)}", "none", remedy)
    for key, each in value.items():
        if key not in entries:
            raise ArgumentError(f"no entry but those of {name}", shown(key), remedy)
        fit(each, entries[key], _under(name, key), remedy)


def _fit_one_of(value: Any, hints: tuple[Any, ...], name: str, remedy: str) -> None:
    if value is None and type(None) in hints:
        return
    left = [hint for hint in hints if hint is not type(None)]
    if len(left) == 1:
        fit(value, left[0], name, remedy)
    elif not any(_fits(value, hint) for hint in left):
        raise ArgumentError(f"{' or '.join(map(_words, left))} as {name}", shown(value), remedy)


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) is Literal:
        return any(type(value) is type(each) and value == each for each in get_args(hint))
    if hint is int:
        return type(value) is int and 0 <= value < MOST
    if hint is float:
        if type(value) is int:
            return 0 <= value < MOST * MOST  # no float is as large as some whole numbers
        return type(value) is float and 0 <= value < math.inf
    return type(value) is hint


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    words = {
        int: "a whole number from 0", float: "a finite number from 0", str: "a text",
        bool: "true or false", type(None): "null",
    }  # fmt: skip
    return words[hint]


def _under(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


# Arrays that stay in their file, and how little of the file they keep in memory.
#
# A page of a mapped file that was read counts as this process's memory until somebody lets go of it.
# On a machine with room to spare nobody does, and a run that has gone once through a text of 40 GB
# holds 40 GB. So whoever reads in a mapped stream hands the pages back soon after: the system keeps
# them in its cache and gives them again at the price of a page fault.
#
# Limits: pages are handed back where the system knows ``madvise`` (Linux, macOS); elsewhere it
# decides alone.

RESIDENT = 32 << 20  # bytes that may be touched before they are handed back
AROUND = 4 << 20  # a fault may map the whole folio of the cache, up to 2 MB; a window may cross two


def open_map(file: BinaryIO, dtype: np.dtype[Any]) -> NDArray[Any]:
    """An open file as a read-only array (N,), which stays when it is closed; ValueError where it is
    empty."""
    import numpy as np

    return np.asarray(np.memmap(file, dtype=dtype, mode="r"))


def release(array: NDArray[Any]) -> None:
    """Hand the pages of a mapped array back to the system; nothing for an array in memory.

    The array is afterwards what it was. Cost: a system call, and a fault for each page read again.
    """
    mapping = _mapping(array)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def windows(stream: NDArray[Any], begins: NDArray[np.int64], span: int) -> NDArray[Any]:
    """Read ``span`` tokens from each of several places.

    Args:
        stream: tokens (N,), in memory or mapped.
        begins: the first token of each window (B,); no window passes the stream's end.
        span: tokens of a window.

    Returns:
        (span, B), a copy: ``stream[begins[b] + t]`` at ``[t, b]``. Of a mapped stream not more than
        about 32 MB are held meanwhile, and none afterwards.

    Cost: O(span B); for a mapped stream a system call for every few windows and a fault for each.

    Example:
        >>> import numpy as np
        >>> windows(np.arange(10) * 10, np.array([0, 6]), 3).tolist()
        [[0, 60], [10, 70], [20, 80]]
    """
    import numpy as np

    steps = np.arange(span)[:, None]
    if _mapping(stream) is None:
        return np.asarray(stream[begins + steps])
    read = np.empty((span, len(begins)), dtype=stream.dtype)
    group = max(RESIDENT // (span * stream.itemsize + AROUND), 1)
    for low in range(0, len(begins), group):
        read[:, low : low + group] = stream[begins[low : low + group] + steps]
        release(stream)
    return read


def _mapping(array: Any) -> mmap.mmap | None:
    """The map that an array is a view of, however often it was cut; None where there is none."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return array
