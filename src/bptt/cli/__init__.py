"""The command ``bptt``: one file a subcommand, each loaded only when it is called."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from bptt.errors import BpttError
from bptt.shown.text import shown_output

COMMANDS = {
    "train": "train a language model on texts and leave a run folder",
    "sample": "continue a prompt with a trained model",
    "runs": "list run folders, and compare them",
    "eval": "score a trained model on a text",
    "diagnose": "see how far back a trained model learns, and what would help",
    "compare": "put remedies side by side on a long-memory task",
    "forecast": "forecast a series from a CSV file, beside what is simpler",
    "ladder": "put language models side by side on a text, from counting to attention",
    "bench": "measure our layers beside torch's, equal results checked first",
    "export": "write a trained model as C99 or ONNX, with its state",
    "claims": "re-make published claims and say which hold",
    "remake": "make the lessons' programs, figures and exercises again",
    "lab": "open the interactive pages in a browser",
    "data": "list the data sets, or fetch one",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; default those of the process.

    Returns:
        The exit status: 0 done, 2 wrong input (one line on stderr says what to do), 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with shown_output():
        name = words[0] if words else ""
        try:
            try:
                return _run(words)
            finally:
                sys.stdout.flush()  # now, or only at exit, when nobody can say what went wrong
        except BpttError as error:
            print(f"bptt {name}: {one_line(error)}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"bptt {name}: interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:  # the reader of our output went away (| head)
            _let_go()
            return 141
        except OSError as error:  # a name too long, no right to write, a full disk
            what = str(error.strerror or error)
            what += f": {error.filename!r:.200}" if error.filename else ""
            print(
                f"bptt {name}: expected a usable file, received {one_line(what)}", file=sys.stderr
            )
            try:
                sys.stdout.flush()
            except OSError:
                _let_go()
            return 2
        except MemoryError as error:
            print(
                f"bptt {name}: expected sizes that fit into memory, received {one_line(error)}: "
                "lower them",
                file=sys.stderr,
            )
            return 2


def _run(words: list[str]) -> int:
    if words and words[0] == "help":  # bptt help train is bptt train --help
        words = [*words[1:2], "--help"]
    if not words or words[0] in ("-h", "--help"):
        from bptt.cli.help import overview_lines, print_help

        print_help(partial(overview_lines, COMMANDS))
        return 0 if words else 2
    if words[0] == "--version":
        from bptt import __version__

        print(f"bptt {__version__}")
        return 0
    name, *rest = words
    if name.partition("=")[0] == "--completion":
        from bptt.cli.parse import completion

        shell = name.partition("=")[2] if "=" in name else next(iter(rest), "")
        print(completion(shell, COMMANDS), end="")
        return 0
    if any("\0" in word for word in words):  # only a program can pass one, and no file has it
        print("bptt: expected words, received one with a NUL: leave it out", file=sys.stderr)
        return 2
    if name not in COMMANDS:
        from bptt.cli.help import meant_by

        others = [*COMMANDS, "help", "--help", "--version", "--completion"]
        meant = meant_by(name, others)
        remedy = "bptt help lists them" if meant is None else f"did you mean bptt {meant}?"
        print(f"bptt: expected a command, received {name!r:.80}: {remedy}", file=sys.stderr)
        return 2
    if name in ("train", "forecast"):
        _wait_asleep()
    return import_module(f"bptt.cli.{name}").run(rest)


def _wait_asleep() -> None:
    """Let threads sleep while they wait for work, where nobody else does and the user has not said how.

    By default they spin for some milliseconds, which takes the processor from whoever would work there:
    from another program, or in a container with a quota from the run itself. Kernels on GCC's OpenMP
    notice that, and end it (csrc/crowd.cpp). OpenMP reads this when torch is loaded, so a process that
    has loaded it already keeps its ways.
    """
    said = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys()
    if "torch" not in sys.modules and not said and not _kernels_notice():
        os.environ["OMP_WAIT_POLICY"] = "passive"


def _kernels_notice() -> bool:
    """Whether the kernels are here, on Linux, and run on GCC's OpenMP.

    Their file is read and not loaded: OpenMP would be loaded with it, and read the environment.
    """
    kernels = find_spec("bptt._native") if sys.platform == "linux" else None
    return kernels is not None and b"libgomp" in Path(str(kernels.origin)).read_bytes()


def _let_go() -> None:
    """Stdout takes nothing more. Python flushes it once more at exit and must not find it so."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def one_line(message: object) -> str:
    """A message on one line, whatever a file name or a value in it brought along."""
    return " ".join(str(message).split()) or "nothing more"
