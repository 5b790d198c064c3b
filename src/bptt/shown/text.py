r"""What people and programs are shown: text without control characters, and JSON that is JSON.

A file name, a symbol of a text or an entry of somebody else's file may hold characters that a terminal
obeys: they rename its window, fill its clipboard, overwrite the line before, or turn the order of the
letters. They are shown as escapes, ``\x1b``, everywhere but where the characters themselves were asked
for. Within :func:`shown_output` that holds for every write to ``sys.stdout`` and ``sys.stderr``, whoever
makes it; letters that the stream's encoding lacks become escapes as well, so that none ends a command.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

# C0 but tab and line feed, DEL, C1; embeddings, overrides and isolates of writing direction; surrogates,
# which are no characters.
_CONTROL = "\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069"
_UNSHOWN = re.compile(f"[{_CONTROL}\ud800-\udfff]")
# A byte that is no UTF-8 is a surrogate to Python and goes to stdout as that byte. Not those from 0x80
# to 0x9f: in an 8-bit terminal they are controls, and behind another byte they complete one.
_UNWRITTEN = re.compile(f"[{_CONTROL}\ud800-\udc9f\udd00-\udfff]")
_ESCAPING = "bptt-escape"  # the name of our error handler
# Handlers under which a letter that the encoding lacks is an error, and stderr's own.
_OURS_TO_CHANGE = ("strict", "surrogateescape", "surrogatepass", "backslashreplace")


def printable(text: object) -> str:
    r"""A text as it can be shown anywhere: what a terminal would obey stands there as an escape.

    Args:
        text: anything; its ``str`` is taken.

    Returns:
        the text, with every control character (C0, DEL, C1), control of writing direction
        (U+202A-202E, U+2066-2069) and lone surrogate as Python writes it. Line feeds and tabs stay.

    Cost: one pass.

    Example:
        >>> print(printable("a\x1b]0;title\x07b\r\nc"))
        a\x1b]0;title\x07b\r
        c
    """
    return _UNSHOWN.sub(_escape, str(text))


def inline(text: object) -> str:
    r"""A name that must not end its line: line feeds and tabs as escapes, the rest as it is.

    Example:
        >>> print(inline("two\nlines"))
        two\nlines
    """
    return str(text).replace("\n", r"\n").replace("\t", r"\t")


def as_json(document: Any, **options: Any) -> str:
    """A document as the JSON standard has it: a number that is not finite is null.

    Args:
        document: of dicts, lists, tuples, strings, numbers, booleans, None.
        options: of ``json.dumps``.

    Example:
        >>> as_json({"nats": 7.5, "perplexity": float("inf")})
        '{"nats": 7.5, "perplexity": null}'
    """
    try:
        return json.dumps(document, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(document), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Shown:
    """A text stream that escapes what its reader's terminal would obey; all else is the stream's own.

    Args:
        stream: where it goes.
        unshown: the characters to escape.
    """

    def __init__(self, stream: TextIO, unshown: re.Pattern[str] = _UNSHOWN) -> None:
        self.unescaped = stream
        self._unshown = unshown

    def write(self, text: str) -> int:
        """Write a text."""
        self.unescaped.write(self._unshown.sub(_escape, text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unescaped, name)


def unescaped(stream: TextIO) -> TextIO:
    """The stream itself, for characters that were asked for and for styles of our own."""
    while hasattr(stream, "unescaped"):  # rich puts streams of its own between
        stream = stream.unescaped
    return stream


@contextmanager
def shown_output() -> Iterator[None]:
    """Escape what goes to ``sys.stdout`` and ``sys.stderr`` for as long as the block runs.

    Control characters first (see :func:`printable`; bytes of a name that is not UTF-8 go to stdout as
    they came), then letters that the stream's encoding lacks. At the end a line on stderr tells of those.
    """
    if isinstance(sys.stdout, Shown):
        yield
        return
    before = sys.stdout, sys.stderr
    nowhere = Path(os.devnull)
    streams = [stream or nowhere.open("w", encoding="utf-8") for stream in before]  # closed: >&-
    _lacking.clear()
    encodings = {str(stream.encoding) for stream in streams}
    for stream in streams:
        # Another handler than Python's own was chosen by whoever started us, and none of them raises.
        if hasattr(stream, "reconfigure") and stream.errors in _OURS_TO_CHANGE:
            stream.reconfigure(errors=_ESCAPING)
    sys.stdout = cast(TextIO, Shown(streams[0], _UNWRITTEN))
    sys.stderr = cast(TextIO, Shown(streams[1]))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        if _lacking:
            with suppress(OSError, ValueError):  # nobody is left who could read it
                print(
                    f"bptt: letters that are not in {' or '.join(sorted(encodings))} are shown as "
                    "escapes; PYTHONIOENCODING=utf-8 shows them, and what --json prints is exact",
                    file=streams[1],
                    flush=True,
                )
        for stream, own in zip(streams, before, strict=True):
            if own is None:
                stream.close()


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


_lacking: set[str] = set()  # the letters, since the block began


def _escape_lacking(error: UnicodeError) -> tuple[str | bytes, int]:
    """The error handler: one letter at a time, because a byte and an escape cannot be given together."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter, following = error.object[error.start], error.start + 1
    if "\udca0" <= letter <= "\udcff" and not error.encoding.startswith(("utf-16", "utf-32")):
        return bytes([ord(letter) - 0xDC00]), following
    _lacking.add(letter)
    return letter.encode("ascii", "backslashreplace").decode("ascii"), following


codecs.register_error(_ESCAPING, _escape_lacking)
