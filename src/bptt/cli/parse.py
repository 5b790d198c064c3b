"""Arguments from the command line: dataclasses through tyro, and its complaints in one line."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any, TypeVar

import tyro

from bptt.errors import ArgumentError

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
    complaint = io.StringIO()
    options: dict[str, Any] = {} if default is None else {"default": default}
    try:
        # tyro draws a box of several lines; a terminal full of frames hides the one that matters.
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                prog=f"bptt {name}",
                args=_unescaped(arguments),
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands),
                **options,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
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


def _first_line(box: str) -> str:
    """The sentence inside tyro's frame, without the frame."""
    words: list[str] = []
    for line in box.splitlines()[1:]:
        text = line.strip(_FRAME)
        if not text:  # the rule under the message, or the frame's end
            break
        words.append(text)
    return " ".join(words).rstrip(".") or "something else"
