"""Arguments from the command line: dataclasses through tyro, and its complaints in one line."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import tyro

from bptt.errors import ArgumentError
from bptt.shown.text import unescaped

T = TypeVar("T")
ESCAPED = ("--documents", "--prompt")  # what is typed after these may hold \n, \t, \r and \\
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
_FRAME = "│╭╮╰╯─ \n"
_OURS = re.compile(r"expected (.*), received (.*): (.*)")


def parse(kind: type[T], name: str, arguments: list[str], default: T | None = None) -> T:
    """Read arguments into a dataclass.

    Args:
        kind: its fields and their comments become options and help.
        name: of the subcommand.
        arguments: the words after it.
        default: an instance whose values stand where no option is given.

    Raises:
        ArgumentError: the arguments do not fit.
        SystemExit: status 0, after ``--help``.
    """
    options: dict[str, Any] = {} if default is None else {"default": default}
    read = partial(
        tyro.cli,
        kind,
        prog=f"bptt {name}",
        args=_unescaped(arguments),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands),
        **options,
    )
    # tyro draws a box of several lines; a terminal full of frames hides the one that matters. It looks
    # at stdout to choose the frame and its colours, also for stderr, so it is shown a plain one.
    complaint, stdout = io.StringIO(), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(stdout):
            return read()
    except SystemExit as stop:
        if stop.code in (
            0,
            None,
        ):  # help, all of it our own words: once more, as the terminal likes it
            with contextlib.redirect_stdout(unescaped(sys.stdout)):
                read()
            raise
        sentence = _first_line(complaint.getvalue())
        ours = _OURS.search(sentence)
        if ours:  # raised by the dataclass itself; tyro put its own words in front
            raise ArgumentError(*ours.groups()) from None
        raise ArgumentError(
            f"options of bptt {name}", sentence, f"see bptt {name} --help"
        ) from None


def unescape(text: str) -> str:
    r"""Read ``\n``, ``\t``, ``\r`` and ``\\`` as a shell's user means them; all else stays as it is.

    Example:
        >>> unescape(r"one\ntwo\\n \d")
        'one\ntwo\\n \\d'
    """
    return re.sub(r"\\([ntr\\])", lambda match: _ESCAPES[match[1]], text)


def _unescaped(arguments: list[str]) -> list[str]:
    """The words, those that are a text with their escapes read."""
    words: list[str] = []
    for number, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if number and arguments[number - 1] in ESCAPED:
            word = unescape(word)
        elif equals and flag in ESCAPED:
            word = f"{flag}={unescape(value)}"
        words.append(word)
    return words


def typed(text: str) -> str:
    """A text from the command line as it was typed: UTF-8, whatever the locale says.

    In a locale without UTF-8 Python hands on each byte of a letter that it lacks by itself. Names of
    files must stay so; texts are put together again.

    Example:
        >>> typed("caf\\udcc3\\udca9"), typed("caf\\udce9 ") == "caf\\udce9 "
        ('café', True)
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a letter, and only a program can pass that
        return text


def check_place(path: str | None, endings: tuple[str, ...] = ()) -> None:
    """Raise ArgumentError where no file can be written: known now, or only when all work is done.

    Args:
        path: the file; None for none.
        endings: those its name may have, with their dots; empty for any.
    """
    if path is None:
        return
    place = Path(path)
    if place.is_dir() or not place.absolute().parent.is_dir():
        found = "a folder" if place.is_dir() else "no such folder"
        raise ArgumentError(f"a file that can be written at {path}", found, "choose another place")
    if endings and place.suffix not in endings:
        raise ArgumentError(
            f"a name that ends in {' or '.join(endings)}", path, "name the file by its format"
        )


def _first_line(box: str) -> str:
    """The sentence inside tyro's frame, without the frame."""
    words: list[str] = []
    for line in box.splitlines()[1:]:
        text = line.strip(_FRAME)
        if not text:  # the rule under the message, or the frame's end
            break
        words.append(text)
    return " ".join(words).rstrip(".") or "something else"
