"""Pieces of C that both C backends are made of: identifiers, arrays, the files around the step."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt.errors import ArgumentError
from bptt.export.network import Network

# Of C99, of C++ (the code compiles as both), and main; and example.c is a file that every export has.
_WORDS = """
auto break case char const continue default do double else enum extern
float for goto if inline int long register restrict return short signed
sizeof static struct switch typedef union unsigned void volatile while bool class
delete new private protected public template this throw try catch virtual namespace
using operator friend explicit export typename true false and or not xor
main asm
example
"""
_C_WORDS = frozenset(_WORDS.split())


def check_name(name: str) -> str:
    """Return ``name`` if it can begin every identifier of the generated code.

    Raises:
        ArgumentError: not a C identifier, a reserved one, or longer than compilers must tell apart.

    Example:
        >>> check_name("keyword_gru")
        'keyword_gru'
    """
    plain = isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9_]*", name, re.ASCII | re.I)
    # C99 compilers need only tell 31 characters of an external name apart; the suffix takes 10.
    if (
        not plain
        or name.lower() in _C_WORDS
        or keyword.iskeyword(name)
        or "__" in name
        or len(name) > 21
    ):
        raise ArgumentError(
            "a name that is a C identifier: a letter, then letters, digits and single _, at most 21",
            repr(name),
            "pass for example --name model",
        )
    return name


def fill(template: str, **values: Any) -> str:
    """A file of ``templates/`` with ``$name`` filled in.

    Raises:
        KeyError: the template asks for a value that was not given.
    """
    text = files("bptt.export").joinpath("templates", template).read_text(encoding="utf-8")
    return Template(text).substitute({key: str(value) for key, value in values.items()})


def float_array(name: str, values: NDArray[Any], comment: str) -> str:
    """A constant float32 array; every number reads back as exactly the float it was."""
    flat = np.asarray(values, dtype=np.float32).ravel()
    return _array("float", name, [float_text(float(v)) for v in flat], comment)


def float_text(value: float) -> str:
    """A literal that reads back as exactly this float32."""
    return np.format_float_scientific(np.float32(value), unique=True, trim="0") + "f"


def int_array(kind: str, name: str, values: NDArray[Any], comment: str) -> str:
    """A constant array of ``int8_t``, ``int16_t`` or ``int32_t``."""
    # The most negative int32 has no literal in C: -2147483648 is minus a number that does not fit.
    words = ["(-2147483647 - 1)" if v == -(2**31) else str(v) for v in np.asarray(values).ravel()]
    return _array(kind, name, words, comment)


def _array(kind: str, name: str, words: list[str], comment: str) -> str:
    lines, line = [], "   "
    for word in words:
        if len(line) + len(word) + 2 > 98:
            lines.append(line)
            line = "   "
        line += f" {word},"
    lines.append(line)
    lines[-1] = lines[-1].rstrip(",")
    body = "\n".join(lines)
    return f"/* {comment} */\nstatic const {kind} {name}[{len(words)}] = {{\n{body}\n}};\n"


def symbol_table(guard: str, symbols: Sequence[str]) -> str:
    """The vocabulary as an initialiser: what a program does not use, takes no flash.

    Args:
        guard: the prefix in capitals.
        symbols: the text of each token.
    """
    words = [
        '"'
        + "".join(f"\\{byte:03o}" if _escaped(byte) else chr(byte) for byte in s.encode())
        + '",'
        for s in symbols
    ]
    lines, line = [], "   "
    for word in words:
        if len(line) + len(word) + 3 > 98:
            lines.append(line)
            line = "   "
        line += f" {word}"
    body = "".join(f"{text} \\\n" for text in [*lines, line])
    return (
        "/* The text of every token in UTF-8 (a zero byte is an empty string):\n"
        f" * static const char *const symbols[{guard}_TOKENS] = {guard}_SYMBOLS; */\n"
        f"#define {guard}_SYMBOLS {{ \\\n{body}}}\n"
    )


def _escaped(byte: int) -> bool:
    """Whether a byte cannot stand in a C string as it is; ? would begin a trigraph."""
    return not 32 <= byte < 127 or chr(byte) in '"\\?'


def shape(*sizes: int) -> str:
    """Sizes as a comment writes them."""
    return " x ".join(str(size) for size in sizes)


# The example beside an exported network: a program that checks itself against Python.

STEPS = 16


def example_files(
    name: str,
    network: Network,
    inputs: NDArray[np.generic],
    *,
    quantised: tuple[NDArray[np.generic], NDArray[np.generic]] | None = None,
    window: int | None = None,
) -> dict[str, str]:
    """``example.c`` and ``Makefile``.

    Args:
        name: of the network.
        network: computes what is expected.
        inputs: (T, B, I) or tokens (T, B); the first lane's first steps are used.
        quantised: inputs (T, I) and expected outputs (T, O) of the int8 network, which must be met
            exactly.
        window: the most steps of a network that runs over windows.
    """
    x = inputs[: min(STEPS, window or STEPS), :1]
    if quantised is not None:
        x, y = quantised[0][:STEPS], quantised[1][:STEPS]
        tolerance = "0.0"
    else:
        y = network.run(x).output[:, 0]
        tolerance = f"{1e-5 * max(float(np.abs(y).max()), 1e-3):.1e}"
    if network.tokens:
        lines = int_array("uint32_t", "input", x.reshape(-1), "tokens, step after step")
        step = f"wrong |= {name}_step(&state, input[t], output);"
    else:
        comment = "step after step"
        if quantised is None:
            lines = float_array("input", x, comment)
        else:
            lines = int_array("int8_t", "input", x, comment)
        step = f"{name}_step(&state, &input[t * (size_t){name.upper()}_INPUT_SIZE], output);"
    comment = "what Python gave, step after step"
    if quantised is None:
        wanted, element = float_array("expected", y, comment), "float"
    else:
        element = f"int{8 * y.dtype.itemsize}_t"
        wanted = int_array(element, "expected", y, comment)
    at, outputs, whole = "j", f"{name.upper()}_OUTPUT_SIZE", ""
    step = f"        {step}\n"
    if window is not None:
        at, outputs = f"t * (size_t){outputs} + j", f"{len(x)}U * {outputs}"
        whole, step = f"    wrong |= {name}_window(&state, {len(x)}U, input, output);\n", ""
    words = {
        "name": name, "guard": name.upper(), "steps": len(x), "tolerance": tolerance,
        "at": at, "outputs": outputs, "whole": whole,
        "inputs": lines, "expected": wanted, "element": element, "step": step,
        "link_note": "" if quantised is not None else " but <math.h>",
    }  # fmt: skip
    return {"example.c": fill("example.c", **words), "Makefile": fill("Makefile", **words)}
