"""Sound inputs made hostile: bytes, JSON documents and arguments, changed at random from a seed."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

# What breaks readers: byte order marks, line ends, NULs, broken UTF-8, surrogates, long or deep things.
PIECES = (
    b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\r\n", b"\r", b"\n", b"\n\n\n", b"\0", b"\0" * 9,
    b"\xff", b"\xc3", b"\xe2\x98", b"\xf0\x9f", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5", b"\x80",
    "☃".encode(), "é".encode(), "😀".encode(), "\ufffd".encode(), "\u2028".encode(),
    "\U0010ffff".encode(), b"\\ud800", b"\\u0000", b"[" * 3000, b'{"a":' * 3000, b"9" * 5000,
    b"1e999", b"-1e999", b"NaN", b"Infinity", b"-Infinity", b"null", b"true", b'""', b"[]", b"{}",
    b"0x10", b"1_000", b"=", b'"', b"'", b"'''", b"#", b"\t", b" ", b",", b":", b"@data", b"?",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**53 + 1, 2**63, 10**400, -(10**20), 0.5, -0.0, 1e308,
    float("nan"), float("inf"), -float("inf"), "", "a", "\0", "\ud800", "\ufffd", "\ufffdab", "☃" * 9,
    "x" * 5000, "../../etc/passwd", "a\nb", "bytes", "characters", [], [[]], {}, {"": 0}, [1, 2, 3],
    [None], ["a"] * 50, {"kind": "bytes"}, {"step": "1"},
)  # fmt: skip
WORDS = (
    "", "-", "--", "---", "=", "--=", "-h1", "--help=1", "0", "1", "2", "3", "-1", "1000000000",
    "-1000000000", str(2**63), str(2**64), "1" * 400, "1e9", "1e308", "1e999", "nan", "inf", "-inf",
    "0.5", "1.0", "None", "none", "null", "True", "false", "\0", "a\nb", "a\tb", "\udcff", "☃", "😀" * 9,
    "x" * 300, "x" * 5000, "../..", "/", ".", "..", "/dev/zero", "/dev/null", "/proc/self/mem", "~",
    "$HOME", "*", "a:b:c", "norm:", ":1", "auto:nan", "z:-1", "radius:inf", "np+hold+hold", "gru", "lstm",
    "recurrent", "[1", "{}", "1,2", "'", '"', "\\", "%s", "\x1b[31m",
)  # fmt: skip


def mutate(random: Random, data: bytes) -> bytes:
    """The bytes with one to four changes, now and then something else altogether."""
    if random.random() < 0.02:
        return random.choice((b"", random.randbytes(random.randrange(200)), random.choice(PIECES)))
    for _ in range(random.choice((1, 1, 2, 4))):
        place = random.randrange(len(data) + 1)
        end = min(len(data), place + random.choice((1, 2, 8, 100)))
        how = random.randrange(7)
        if how == 0 and data:  # flip a bit
            place = min(place, len(data) - 1)
            data = (
                data[:place] + bytes([data[place] ^ 1 << random.randrange(8)]) + data[place + 1 :]
            )
        elif how == 1:
            data = data[:place]
        elif how == 2:
            data = data[:place] + data[end:]
        elif how == 3:
            data = data[:place] + data[place:end] * 2 + data[end:]
        elif how == 4:
            data = data[:place] + random.randbytes(random.randrange(1, 9)) + data[end:]
        else:
            data = data[:place] + random.choice(PIECES) + data[random.choice((place, end)) :]
    return data


def mutate_document(random: Random, document: Any) -> Any:
    """A JSON document with one to three values replaced, removed, renamed or swapped."""
    document = copy.deepcopy(document)
    for _ in range(random.choice((1, 1, 2, 3))):
        places = list(_places(document))
        if not places:
            return random.choice(VALUES)
        holder, key = random.choice(places)
        how = random.randrange(6)
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            holder[random.choice(("", "step", "job", "kind", "x"))] = holder.pop(key)
        elif how == 2:
            other, there = random.choice(places)
            holder[key] = copy.deepcopy(other[there])
        else:
            holder[key] = copy.deepcopy(random.choice(VALUES))
    return document


def written(document: Any) -> bytes:
    """The document as JSON, lone surrogates escaped."""
    return json.dumps(document).encode("ascii")


def mutate_words(random: Random, words: list[str], options: tuple[str, ...]) -> list[str]:
    """Arguments with some replaced, removed, doubled or added."""
    words = list(words)
    for _ in range(random.choice((1, 1, 2, 3))):
        place = random.randrange(len(words) + 1)
        how = random.randrange(5)
        if how == 0 and words:
            del words[min(place, len(words) - 1)]
        elif how == 1:
            words[place : place + 1] = [random.choice(WORDS)]
        elif how == 2:
            words[place:place] = words[place : place + 1]
        elif how == 3:
            words[place:place] = [random.choice(options), random.choice(WORDS)]
        else:
            words[place:place] = [f"{random.choice(options)}={random.choice(WORDS)}"]
    return words


def _places(document: Any) -> Any:
    """Every (container, key) in a document."""
    pairs: Any = ()
    if isinstance(document, dict):
        pairs = list(document.items())
    elif isinstance(document, list):
        pairs = list(enumerate(document))
    for key, value in pairs:
        yield document, key
        yield from _places(value)
