"""What a command takes, read from its dataclass; its help, and what is wrong with the words it got."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from bptt.choices import nearest, suggest
from bptt.errors import ArgumentError
from bptt.shown.text import unescaped

(_POSITIONAL,) = tyro.conf.Positional[str].__metadata__  # type: ignore[attr-defined]
_METAVARS: tuple[tuple[type, str], ...] = ((int, "N"), (float, "NUMBER"))
_SAID = re.compile(r"\bdefault:? ")  # of a text that has its default in it
_KINDS = {int: "a whole number", float: "a number"}
WIDEST = 100  # columns of a help: longer lines are hard to read
FEWEST = 40
SHORT = 18  # letters of all choices together that stand for the value themselves


@dataclass(frozen=True)
class Option:
    """An option of a command, or a word that it takes by its place.

    Attributes:
        name: of the dataclass's field.
        flag: as it is typed; empty for a word that is taken by its place.
        metavar: what stands for its value.
        text: what it is for.
        default: its value where it is not given; ``dataclasses.MISSING`` for one that must be.
        choices: the words it takes; empty where it takes others.
        kinds: the types that its value may have.
        many: it takes several values.
        switch: it takes none.
        group: the title it stands under.
    """

    name: str
    flag: str
    metavar: str
    text: str
    default: Any
    choices: tuple[str, ...]
    kinds: tuple[type, ...]
    many: bool
    switch: bool
    group: str

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is dataclasses.MISSING

    @property
    def usage(self) -> str:
        """The option with its value, as a help shows it."""
        many = f"{self.metavar} ..." if self.many else self.metavar
        if self.flag:
            return self.flag if self.switch else f"{self.flag} {many}"
        return many if self.required else f"[{many}]"

    @property
    def told(self) -> str:
        """What it is for, with the words it takes and its default."""
        text = self.text.rstrip(".")
        known = {*re.findall(r"[\w-]+", text), *self.metavar.split("|")}
        if not set(self.choices) <= known:
            text += (". " if text else "") + "One of " + ", ".join(self.choices)
        if _SAID.search(self.text) or not self.flag:
            return f"{text}."
        return f"{text} ({'required' if self.required else f'default: {in_words(self.default)}'})."


def in_words(value: object) -> str:
    """A default as a person would say it.

    Example:
        >>> [in_words(value) for value in (None, False, ("rnn", "gru"), 0.003, "keep")]
        ['none', 'off', 'rnn gru', '0.003', 'keep']
    """
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None or value == "" else str(value)


@cache
def options_of(kind: type) -> tuple[Option, ...]:
    """The options of a command, in the order of its dataclass's fields.

    A field's text is the string under it. ``groups`` of the class names the first field of each group and
    the group's title; whoever adds a field adds it to the group in which it stands.
    """
    hints = get_type_hints(kind, include_extras=True)
    texts = _texts(kind)
    groups: Mapping[str, str] = getattr(kind, "groups", {})
    group, found = "options", []
    for field in dataclasses.fields(kind):
        group = groups.get(field.name, group)
        found.append(_option(field, hints[field.name], texts.get(field.name, ""), group))
    return tuple(found)


def _option(field: dataclasses.Field[Any], hint: Any, text: str, group: str) -> Option:
    extras = getattr(hint, "__metadata__", ())
    taken = _POSITIONAL in extras
    given = next((m for e in extras if (m := getattr(e, "metavar", None)) is not None), None)
    parts = [part for part in _parts(hint) if part is not type(None)]
    many = any(get_origin(part) is tuple for part in parts)
    parts = [inner for part in parts for inner in (_parts(get_args(part)[0]) if many else [part])]
    literal = [part for part in parts if get_origin(part) is Literal]
    choices = tuple(str(word) for part in literal for word in get_args(part))
    kinds = tuple(part for part in parts if isinstance(part, type))
    switch = kinds == (bool,)
    word = field.name.replace("_", "-")
    name = word.upper().rpartition("-")[2]
    number = next((m for k, m in _METAVARS if k in kinds and str not in kinds), None)
    short = "|".join(choices) if not many and len("|".join(choices)) <= SHORT else None
    return Option(
        name=field.name,
        flag="" if taken else f"--no-{word}" if switch and field.default is True else f"--{word}",
        metavar=given or number or short or (name.removesuffix("S") if many else name),
        text=text,
        default=field.default,
        choices=choices,
        kinds=kinds,
        many=many,
        switch=switch,
        group="" if taken else group,
    )


def _parts(hint: Any) -> list[Any]:
    """The members of a union, or the type itself; without what is annotated."""
    while hasattr(hint, "__metadata__"):
        hint = hint.__origin__
    if get_origin(hint) in (Union, UnionType):
        return [part for member in get_args(hint) for part in _parts(member)]
    return [hint]


def _texts(kind: type) -> dict[str, str]:
    """By field: the string under it, in the class or one that it is made of, on one line."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(each):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        before: ast.stmt | None = None
        for node in getattr(tree, "body", []):
            said = node.value if isinstance(node, ast.Expr) else None
            if isinstance(before, ast.AnnAssign) and isinstance(said, ast.Constant):
                found[ast.unparse(before.target)] = " ".join(str(said.value).split())
            before = node
    return found


# The help of a command, and of all of them.


def overview_lines(commands: Mapping[str, str], columns: int) -> Iterator[tuple[str, str]]:
    """What ``bptt --help`` says, line by line, each with its style; none is longer than ``columns``.

    Args:
        commands: what each is for, by name.
        columns: of the terminal.
    """
    width = max(FEWEST, min(columns, WIDEST))
    yield "usage: bptt COMMAND [ARGUMENT ...]", ""
    yield "", ""
    text = "Train recurrent networks through time, fast, and see exactly how far back they learn."
    yield from _plain(textwrap.wrap(text, width))
    yield "", ""
    for name, what in commands.items():
        yield from _entry(name, what, 12, width)
    yield "", ""
    for usage, what in (
        ("bptt help COMMAND", "its options, and an example"),
        ("bptt --version", "which one this is"),
        ("bptt --completion bash|zsh|fish", "what completes all this in that shell"),
    ):
        yield from _entry(usage, what, min(36, width // 2), width)


def print_help(lines: Callable[[int], Iterable[tuple[str, str]]]) -> None:
    """Print the lines of a help, made for the terminal's width, in their styles.

    All of it is our own words, so it goes to the stream itself. An option is in colour up to what is said
    of it.
    """
    from rich.text import Text

    from bptt.shown.console import Console

    out = unescaped(sys.stdout)
    console = Console(file=out)
    with (
        console.capture() as shown
    ):  # rich ends the program in a way of its own where a reader went away
        for line, style in lines(console.width):
            text = Text(line, style="" if style == "option" else style)
            if style == "option":
                text.stylize("cyan", 0, len(re.split(r"(?<=\S)  ", line)[0]))
            console.print(text, soft_wrap=True)
    out.write(shown.get())


def help_lines(kind: type, name: str, columns: int) -> Iterator[tuple[str, str]]:
    """The help of one command, line by line, each with its style; none is longer than ``columns``.

    Args:
        kind: its dataclass.
        name: of the command.
        columns: of the terminal.
    """
    options, width = options_of(kind), max(FEWEST, min(columns, WIDEST))
    taken = [option for option in options if not option.flag]
    needed = [option.usage for option in options if option.flag and option.required]
    words = ["bptt", name, *(option.usage for option in taken), *needed, "[OPTION ...]"]
    yield from _plain(textwrap.wrap("usage: " + " ".join(words), width, subsequent_indent="    "))
    for block in inspect.cleandoc(kind.__doc__ or "").split("\n\n"):
        text = " ".join(block.split())
        command = text.startswith("Example: ")
        yield "", ""
        yield from _plain(_command(text, width) if command else textwrap.wrap(text, width))
    column = min(26, width // 3)
    for title in dict.fromkeys(option.group for option in options if option.group or option.text):
        yield "", ""
        if title:
            yield f"{title}:", "bold"
        for option in options:
            if option.group == title:
                yield from _entry(option.usage, option.told, column, width)
    yield from _entry("-h, --help", "Show this.", column, width)


def _plain(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    return ((line, "") for line in lines)


def _entry(usage: str, text: str, column: int, width: int) -> Iterator[tuple[str, str]]:
    """An option and what it is for, side by side where they fit."""
    lines = textwrap.wrap(text, width - column, break_long_words=False, break_on_hyphens=False)
    heads = [f"  {usage}"]
    if len(heads[0]) > width:
        heads = textwrap.wrap(
            usage, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        )
    if len(heads[-1]) + 2 > column:
        lines.insert(0, "")
    for head in heads[:-1]:
        yield head, "cyan"
    yield f"{heads[-1]:<{column}}{lines[0]}".rstrip(), "option"
    for line in lines[1:]:
        yield " " * column + line, ""


def _command(text: str, width: int) -> list[str]:
    """A command on as many lines as it needs; a shell reads them as one, if they are copied."""
    words = re.findall(r"(?:[^\s\"]|\"[^\"]*\")+", text)
    lines = [words[0]]
    for before, word in pairwise(words):
        # A flag and its value stay together where that is possible.
        after = "" if not word.startswith("-") else _value(words, word)
        if len(f"{lines[-1]} {word}{after} \\") > width and not before.startswith("-"):
            lines[-1] += " \\"
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {word}"
    return lines


def _value(words: Sequence[str], flag: str) -> str:
    place = words.index(flag) + 1
    return f" {words[place]}" if place < len(words) and words[place][0] != "-" else ""


# What is wrong with the words of a command, where it did not understand them.


def refuse_value(kind: type, words: Sequence[str]) -> None:
    """Raise ArgumentError for ``--json=1``: tyro takes the 1 for a word by its place."""
    switches = {option.flag for option in options_of(kind) if option.switch}
    for word in words:
        flag, equals, _ = word.partition("=")
        if word == "--":
            break
        if equals and flag.replace("_", "-") in switches:
            raise ArgumentError(f"{flag} by itself", f"{word!r:.80}", f"write {flag}")


def find_fault(kind: type, name: str, words: Sequence[str]) -> ArgumentError | None:
    """Why a command does not understand its words, in those words; None where nothing is seen.

    Args:
        kind: its dataclass.
        name: of the command.
        words: after it.
    """
    options = options_of(kind)
    known = {option.flag: option for option in options if option.flag}
    taken: list[str] = []
    given: set[str] = set()
    place, end = 0, False
    while place < len(words):
        word = words[place]
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        place += 1
        if end or not is_flag(word):
            taken.append(word)
        elif word == "--":
            end = True
        elif flag not in known:
            return _unknown(flag, known, name)
        else:
            option = known[flag]
            given.add(flag)
            values = [value] if equals else []
            most = 0 if option.switch else len(words) if option.many else 1
            while len(values) < most and place < len(words) and not is_flag(words[place]):
                values.append(words[place])
                place += 1
            if not option.switch and not option.many and not values:
                what = "nothing" if place == len(words) else words[place]
                return ArgumentError(
                    f"{option.metavar} after {flag}", what, f"write {option.usage}"
                )
            for each in values:
                if (fault := _value_fault(option, each)) is not None:
                    return fault
    return _place_fault(options, taken, given, name)


def is_flag(word: str) -> bool:
    """Whether a word is taken for an option: a dash and a letter, or ``--``. ``-1`` is a number."""
    body = word.lstrip("-")
    if word.startswith("-") and not word.startswith("--") and body.lower() in ("inf", "nan"):
        return False
    return word == "--" or (word.startswith("-") and body[:1].isalpha())


def _unknown(flag: str, known: Mapping[str, Option], name: str) -> ArgumentError:
    meant = meant_by(flag, [*known, "--help"])
    remedy = f"bptt help {name} lists them" if meant is None else f"did you mean {meant}?"
    return ArgumentError(f"an option of bptt {name}", f"{flag:.80}", remedy)


def meant_by(flag: str, known: Iterable[str]) -> str | None:
    """The option that was meant: one spelt like it, begun with it, a part of it, or its initials.

    Example:
        >>> known = ["--batch", "--lr", "--hidden", "--layers"]
        >>> [meant_by(flag, known) for flag in ("--hiden", "--hid", "--batch-size", "--learning-rate")]
        ['--hidden', '--hidden', '--batch', '--lr']
    """
    bare = {word.lstrip("-").removeprefix("no-"): word for word in known}
    word = flag.strip("-").removeprefix("no-")
    parts = word.split("-")
    ways: tuple[Callable[[str], bool], ...] = (
        lambda k: k == word or sorted(k) == sorted(word),
        lambda k: k == nearest(word, bare),
        lambda k: len(flag) > 3 and k.startswith(word),
        lambda k: k in parts or k.rstrip("s") in parts,
        lambda k: k == "".join(part[:1] for part in parts),
        lambda k: len(k) > 2 and word.startswith(k),
        lambda k: any(len(part) > 3 and k == nearest(part, bare) for part in parts),
    )
    return next((bare[k] for way in ways for k in bare if way(k)), None)


def _value_fault(option: Option, value: str) -> ArgumentError | None:
    """What is wrong with one value, if it is no word of this option, or no number."""
    what = f"for {option.flag}" if option.flag else f"as {option.metavar}"
    kinds = [kind for kind in option.kinds if kind is not type(None)]
    remedy = f"change {option.flag or option.metavar}"
    if option.choices and not kinds:
        if value in option.choices:
            return None
        remedy = suggest(value, option.choices, remedy)
        expected = f"one of {', '.join(option.choices)} {what}"
    elif kinds and set(kinds) <= set(_KINDS):
        for kind in kinds:
            try:
                kind(value)
            except ValueError:
                continue
            return None
        expected = f"{_KINDS[float if float in kinds else int]} {what}"
    else:
        return None
    return ArgumentError(expected, f"{value!r:.80}", remedy)


def _place_fault(
    options: Sequence[Option], taken: Sequence[str], given: set[str], name: str
) -> ArgumentError | None:
    """What is wrong with the words that are taken by their place, or not there at all."""
    places = [option for option in options if not option.flag]
    for option in places:
        if option.required and len(taken) <= places.index(option):
            return ArgumentError(option.metavar, "nothing", f"write bptt {name} {option.usage}")
    for option, word in zip(places, taken, strict=False):
        if (fault := _value_fault(option, word)) is not None:
            return fault
    if len(taken) > len(places) and not any(option.many for option in places):
        expected = " and ".join(option.metavar for option in places) or "options alone"
        extra = taken[len(places)]
        return ArgumentError(
            f"{expected} for bptt {name}", f"{extra!r:.80} as well", "leave that out"
        )
    missing = [option for option in options if option.required and option.flag]
    missing = [option for option in missing if option.flag not in given]
    if missing:
        option = missing[0]
        words = f" with one of {', '.join(option.choices)}" if option.choices else ""
        return ArgumentError(f"{option.flag}{words}", "none", f"add {option.usage}")
    return None
