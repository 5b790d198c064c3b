"""Remedies as words, ``name`` or ``name:number``: the same on the command line, in a file and in Python.

The tables stand here, and not beside the remedies, because the command line checks a word before it
waits for torch. This file must not import it.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bptt.errors import ArgumentError, real

# A target that is not scored: what torch.nn.functional.cross_entropy leaves out by default.
IGNORED = -100
BEGUN = 3  # letters of a word from which on it is taken for the beginning of another


@dataclass(frozen=True)
class Word:
    """What may follow a name.

    Attributes:
        default: the number that stands when none is given.
        takes: ``"no"``, ``"maybe"`` or ``"must"``: whether a number follows.
        above: the number is greater than this.
        most: the number is at most this.
        below: the number is less than this.
        whole: whether it counts something.
        more: how many further numbers may follow, of the same kind.
    """

    default: float | None = None
    takes: str = "maybe"
    above: float = 0.0
    most: float = math.inf
    below: float = math.inf
    whole: bool = False
    more: int = 0


STARTS: dict[str, Word] = {
    "default": Word(takes="no"),
    "small": Word(0.01),
    "gaussian": Word(1.0),
    "identity": Word(1.0),
    "irnn": Word(1.0),
    "orthogonal": Word(1.0),
    "np": Word(takes="no"),
    "radius": Word(1.0),
    "norm": Word(1.0),
    "forget": Word(takes="must", above=-math.inf),
    "chrono": Word(takes="must", above=2.0),
    "hold": Word(takes="no"),
}

# The cells that a start, a penalty or a held matrix is for; where it is not here, those with a matrix.
MATRIX = ("rnn", "rnn-relu", "gru", "lstm")
FOR_CELLS: dict[str, tuple[str, ...]] = {
    "irnn": ("rnn", "rnn-relu"),
    "forget": ("lstm",),
    "chrono": ("gru", "lstm", "mingru"),
    "default": (*MATRIX, "mingru", "lru"),
    "floss": (*MATRIX, "mingru", "lru"),
    "none": (*MATRIX, "mingru", "lru"),
}

CLIPS: dict[str, Word] = {
    "none": Word(takes="no"),
    "norm": Word(1.0),
    "value": Word(1.0),
    "rescale": Word(1.0),
    "auto": Word(10.0, most=100.0),
    "z": Word(2.5),
    "unit": Word(0.01),
}

REGULARISERS: dict[str, Word] = {
    "none": Word(takes="no"),
    "omega": Word(1.0),
    "floss": Word(1.0),
}

GRADIENTS: dict[str, Word] = {
    "full": Word(takes="no"),
    "truncated": Word(takes="must", whole=True),
    "windowed": Word(takes="must", whole=True, more=1),
    "checkpointed": Word(whole=True),
    "adaptive": Word(0.05, below=1.0),
    "randomized": Word(takes="must", whole=True),
    "forward": Word(takes="no"),
}


TOKENS: dict[str, Word] = {
    "char": Word(takes="no"),
    "byte": Word(takes="no"),
    "word": Word(above=1.0, whole=True),  # at most so many, the unknown one among them
    "bpe": Word(takes="must", above=255.0, whole=True),
}


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was meant, if one is close: the shortest that it begins, or the most like it.

    Example:
        >>> nearest("hiden", ("hidden", "layers")), nearest("colour", ("hidden", "layers"))
        ('hidden', None)
    """
    words = list(known)
    begun = [w for w in words if w.startswith(word)] if len(word.strip("-")) >= BEGUN else []
    return min(begun, key=len, default=None) or next(
        iter(difflib.get_close_matches(word, words, 1, 0.75)), None
    )


def suggest(word: str, known: Iterable[str], otherwise: str) -> str:
    """The remedy for a word that is not known: the one that was meant, or what to do where none is close.

    Example:
        >>> suggest("gruu", ("gru", "lstm"), "pick one"), suggest("x", ("gru", "lstm"), "pick one")
        ('did you mean gru?', 'pick one')
    """
    meant = nearest(word, known)
    return otherwise if meant is None else f"did you mean {meant}?"


def parse_form(text: str, words: Mapping[str, Word]) -> tuple[str, float | None]:
    """Take a form apart.

    Args:
        text: ``"name"`` or ``"name:number"``.
        words: the names there are.

    Returns:
        the name, and its number: the one given, its default, or None where it takes none.

    Raises:
        ArgumentError: an unknown name, a number where none belongs, none where one must be, or one
            that is out of range.

    Example:
        >>> parse_form("radius:0.9", STARTS), parse_form("radius", STARTS), parse_form("np", STARTS)
        (('radius', 0.9), ('radius', 1.0), ('np', None))
    """
    name, numbers = parse_numbers(text, words)
    return name, numbers[0] if numbers else None


def _by_name(words: Mapping[str, Word]) -> str:
    """How to name one, with a number where one of these takes any."""
    numbered = next((name for name, word in words.items() if word.takes != "no"), None)
    return "pick one by its name" + (f", e.g. {numbered}:NUMBER" if numbered else "")


def parse_numbers(text: str, words: Mapping[str, Word]) -> tuple[str, tuple[float, ...]]:
    """:func:`parse_form` with all the numbers that follow a name.

    Example:
        >>> parse_numbers("windowed:32:64", GRADIENTS), parse_numbers("full", GRADIENTS)
        (('windowed', (32.0, 64.0)), ('full', ()))
    """
    name, colon, rest = text.partition(":")
    word = words.get(name)
    if word is None:
        remedy = suggest(name, words, _by_name(words))
        raise ArgumentError(f"one of {', '.join(words)}", repr(text), remedy)
    if not colon:
        if word.takes == "must":
            raise ArgumentError(f"a number after {name}", repr(text), f"write {name}:NUMBER")
        return name, () if word.default is None else (word.default,)
    if word.takes == "no":
        raise ArgumentError(f"{name} alone", repr(text), "leave the number out")
    parts = rest.split(":")
    numbers = tuple(map(_number, parts))
    if len(parts) > 1 + word.more or not all(_fits(number, word) for number in numbers):
        kind = "a whole number" if word.whole else "a number"
        bounds = "" if word.above == -math.inf else f" above {word.above:g}"
        bounds += "" if word.most == math.inf else f", at most {word.most:g}"
        bounds += "" if word.below == math.inf else f", below {word.below:g}"
        form = f"{name}:NUMBER" + " or NAME:NUMBER:NUMBER".replace("NAME", name) * word.more
        raise ArgumentError(f"{form} with {kind}{bounds}", repr(text), "change the number")
    return name, numbers


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _fits(number: float, word: Word) -> bool:
    inside = math.isfinite(number) and word.above < number <= word.most and number < word.below
    return inside and (not word.whole or number == int(number))


def parse_forms(text: str, words: Mapping[str, Word]) -> list[tuple[str, float | None]]:
    """Several forms joined by ``+``, in the order they are applied.

    Example:
        >>> parse_forms("orthogonal+chrono:200", STARTS)
        [('orthogonal', 1.0), ('chrono', 200.0)]
    """
    return [parse_form(part, words) for part in text.split("+")]


def check_cell(cell: str, init: str, regularise: str, orthogonal: bool) -> None:
    """Raise ArgumentError where a cell cannot be started, held or regularised in this way.

    Args:
        cell: as ``--cell`` names it.
        init: forms of ``--init``.
        regularise: a form of ``--regularise``.
        orthogonal: whether ``--orthogonal`` was given.

    Example:
        >>> check_cell("lstm", "orthogonal+chrono:9", "omega:1", False)
    """
    asked = {f"--init {name}": name for name, _ in parse_forms(init, STARTS)}
    asked |= {f"--regularise {name}": name for name, _ in [parse_form(regularise, REGULARISERS)]}
    asked |= {"--orthogonal": "hold"} if orthogonal else {}
    for said, name in asked.items():
        cells = FOR_CELLS.get(name, MATRIX)
        if cell not in cells:
            *others, last = cells
            named = f"{', '.join(others)} or {last}" if others else last
            remedy = f"leave {said} out, or choose another cell"
            raise ArgumentError(f"{said} with --cell {named}", f"--cell {cell}", remedy)


def clip_form(clip: str | float | None) -> str:
    """A clip as a form; a bare number is a norm, as ``--clip 1`` always was.

    Example:
        >>> clip_form(0.5), clip_form("2"), clip_form("auto:10"), clip_form(None)
        ('norm:0.5', 'norm:2', 'auto:10', 'none')
    """
    if clip is None:
        return "none"
    text = clip if isinstance(clip, str) else f"{real('clip', clip):g}"
    try:
        float(text)
    except ValueError:
        return text
    return f"norm:{text}"


def device_word(word: str) -> str:
    """The word of a device, unless it is none; whether the device is here is asked later, of torch.

    Raises:
        ArgumentError: another word.

    Example:
        >>> device_word("cuda:1")
        'cuda:1'
    """
    if not isinstance(word, str) or not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", word):
        raise ArgumentError(
            "auto, cpu, cuda, cuda:N or mps for --device", f"{word!r:.80}", "name one of these"
        )
    return word
