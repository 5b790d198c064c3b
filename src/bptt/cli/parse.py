"""Arguments from the command line: dataclasses through tyro, and every complaint in one line of ours."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from bptt.choices import device_word
from bptt.cli.help import Option, find_fault, help_lines, options_of, print_help, refuse_value
from bptt.errors import ArgumentError, BpttError

T = TypeVar("T")
ESCAPED = ("--documents", "--prompt")  # what is typed after these may hold \n, \t, \r and \\
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
_FRAME = "│╭╮╰╯─ \n"
# What a path on the command line is: the help shows the word.
File = Annotated[str | None, tyro.conf.arg(metavar="FILE")]
Files = Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE")]
Folder = Annotated[str | None, tyro.conf.arg(metavar="FOLDER")]
Run = Annotated[str | None, tyro.conf.arg(metavar="RUN")]
Device = Annotated[str, tyro.conf.arg(metavar="DEVICE")]  # parse looks whether the word is one


def parse(kind: type[T], name: str, arguments: list[str], default: T | None = None) -> T:
    """Read arguments into a dataclass.

    Args:
        kind: its fields and the strings under them become options and help; ``groups``, a class variable,
            titles for the options by the first field of each (see :mod:`bptt.cli.help`).
        name: of the subcommand.
        arguments: the words after it.
        default: an instance whose values stand where no option is given.

    Raises:
        ArgumentError: the arguments do not fit.
        SystemExit: status 0, after ``--help``.
    """
    if "--help" in arguments or "-h" in arguments:
        print_help(partial(help_lines, kind, name))
        raise SystemExit(0)
    options: dict[str, Any] = {} if default is None else {"default": default}
    words = _unescaped(arguments)
    refuse_value(kind, words)
    # tyro draws a box of several lines; a terminal full of frames hides the one that matters.
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            asked: T = tyro.cli(
                kind,
                prog=f"bptt {name}",
                args=words,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands),
                **options,
            )
    except SystemExit as stop:
        own = _own_error(stop)
        if own is not None:  # of the dataclass itself, which tyro told in its own words
            received = own.received.removesuffix(" of type str")  # as every word is that was typed
            raise type(own)(own.expected, received, own.remedy) from None
        fault = find_fault(kind, name, words)
        if fault is None:  # nothing that we know; tyro's sentence then
            sentence = _first_line(complaint.getvalue())
            fault = ArgumentError(f"options of bptt {name}", sentence, f"see bptt help {name}")
        raise fault from None
    device_word(getattr(asked, "device", "auto"))
    return asked


def _own_error(stop: BaseException) -> BpttError | None:
    """The error of ours on whose account tyro ended the program."""
    found: BaseException | None = stop
    while found is not None and not isinstance(found, BpttError):
        found = found.__context__
    return found


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


def check_run(run: str | None) -> None:
    """Raise RunError where there is no run folder: said at once, before anybody waits for torch."""
    from bptt.training.run_folder import RunFolder

    if run is not None:
        RunFolder.open(run)


def check_texts(files: Iterable[str | None]) -> None:
    """Raise DataError where a file cannot be a text: said before anybody waits for NumPy or torch."""
    from bptt.files.read import look_at_text

    for file in files:
        if file is not None:
            look_at_text(file)


def _first_line(box: str) -> str:
    """The sentence inside tyro's frame, without the frame."""
    words: list[str] = []
    for line in box.splitlines()[1:]:
        text = line.strip(_FRAME)
        if not text:  # the rule under the message, or the frame's end
            break
        words.append(text)
    return " ".join(words).rstrip(".") or "something else"


# Completion: the commands, their options, and the words that an option takes; file names elsewhere.

_BASH = """\
_bptt() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$word"))
        return
    fi
    case "${{COMP_WORDS[1]}} $before" in
{words}
    esac
    case "$word" in
        -*) case "${{COMP_WORDS[1]}}" in
{options}
            esac ;;
        *) COMPREPLY=($(compgen -f -- "$word")) ;;
    esac
}}
complete -o filenames -F _bptt bptt
"""
SHELLS = ("bash", "zsh", "fish")


def completion(shell: str, commands: Mapping[str, str]) -> str:
    """The script that completes ``bptt`` in a shell, made of the options that there are.

    Args:
        shell: ``"bash"``, ``"zsh"`` or ``"fish"``.
        commands: what each is for, by name.

    Raises:
        ArgumentError: another shell.
    """
    if shell not in SHELLS:
        raise ArgumentError(
            f"--completion with one of {', '.join(SHELLS)}",
            repr(shell) if shell else "nothing",
            "name your shell",
        )
    options = {name: _options(name) for name in commands}
    if shell == "fish":
        return "".join(_fish(commands, options))
    words = [
        f'        "{name} {option}") '
        f'COMPREPLY=($(compgen -W "{" ".join(choices)}" -- "$word")); return ;;'
        for name, known in options.items()
        for option, choices in known.items()
        if choices
    ]
    lines = [
        f'                {name}) COMPREPLY=($(compgen -W "{" ".join(known)}" -- "$word")) ;;'
        for name, known in options.items()
    ]
    script = _BASH.format(
        commands=" ".join(commands), words="\n".join(words), options="\n".join(lines)
    )
    # zsh runs a completion written for bash, once it has been told to.
    return script if shell == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{script}"


def _fish(commands: Mapping[str, str], options: Mapping[str, Mapping[str, Any]]) -> Any:
    for name, what in commands.items():
        said = what.replace("'", r"\'")
        yield f"complete -c bptt -n __fish_use_subcommand -f -a {name} -d '{said}'\n"
    for name, known in options.items():
        for option, choices in known.items():
            takes = (
                f" -x -a '{' '.join(choices)}'" if choices else " -r" if choices is not None else ""
            )
            within = f"-n '__fish_seen_subcommand_from {name}'"
            yield f"complete -c bptt {within} -l {option.removeprefix('--')}{takes}\n"


def _options(command: str) -> dict[str, tuple[str, ...] | None]:
    """By option: the words it takes, empty where it takes any; None for a switch."""
    kind = getattr(import_module(f"bptt.cli.{command}"), command.capitalize())
    known: list[Option] = [option for option in options_of(kind) if option.flag]
    return {"--help": None} | {o.flag: None if o.switch else o.choices for o in known}
