"""Pieces of C that both C backends are made of: identifiers, arrays, the files around the step."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt.errors import ArgumentError
from bptt.export.network import (
    LRU,
    Activation,
    Both,
    Floats,
    Layer,
    MinGRU,
    Network,
    Norm,
    Recurrent,
)

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


# C in float32 of what stands around and beside the gated cells: activations, LayerNorm, MinGRU, LRU.
#
# And the reasons why the integer network has some of them not.

Product = Callable[[str, str, str, int, int], list[str]]


@dataclass(frozen=True)
class Written:
    """One layer as C.

    Attributes:
        arrays: name, values and comment of each. function: its text. call: the line of the step.
        members: of the state, with their sizes. place: where the output is.
        stack: numbers in the function's own buffer.
    """

    arrays: list[tuple[str, Floats, str]]
    function: str
    call: str
    members: list[tuple[str, int]]
    place: str
    stack: int


def called(code: str) -> set[str]:
    """The names of what the code calls.

    Example:
        >>> sorted(called("y[j] = tanh_of(a[j]);copy(y, x, 3U);"))
        ['copy', 'tanh_of']
    """
    return set(re.findall(r"\b(\w+)\(", code))


def functions_used(code: str, kind: str) -> str:
    """The functions that the code calls, each after those it calls itself: an unused one is a warning.

    Args:
        code: of layers and step.
        kind: ``"own"`` or ``"libm"``.
    """
    own, used = kind == "own", called(code)
    softmax, gelu, sigmoid = (f"{f}_of" in used for f in ("softmax", "gelu", "sigmoid"))
    wanted = {
        # The own sigmoid is made from tanh, the own GELU from exp; those of the library stand alone.
        f"{kind}_tanh.c": "tanh_of" in used or (own and sigmoid),
        f"{kind}_sigmoid.c": sigmoid,
        f"{kind}_exp.c": softmax or (own and gelu),
        f"{kind}_gelu.c": gelu,
        "softmax.c": softmax,
        "layer_norm.c": "normalise" in used,
    }
    return "".join(fill(file) for file, needed in wanted.items() if needed)


def element(x: str, j: str = "j") -> str:
    """One number of what a pointer expression points at."""
    return f"{x[1:-1]} + {j}]" if x.startswith("&") else f"{x}[{j}]"


def activation(layer: Activation, x: str, y: str) -> list[str]:
    """y = f(x)."""
    if layer.kind == "softmax":
        return [f"softmax_of({x}, {y}, {layer.size}U);"]
    v = element(x)
    below = f"{float_text(layer.slope)} * {v}" if layer.slope else "0.0f"
    value = {
        "relu": f"({v} > 0.0f) ? {v} : 0.0f",
        "leaky_relu": f"({v} > 0.0f) ? {v} : {below}",
    }.get(layer.kind, f"{layer.kind}_of({v})")
    return [f"for (size_t j = 0U; j < {layer.size}U; j++) {{", f"    {y}[j] = {value};", "}"]


def norm(layer: Norm, tag: str, x: str, y: str) -> list[str]:
    """y = LayerNorm(x)."""
    eps, size = float_text(layer.eps), layer.output_size
    return [f"normalise({x}, w{tag}, bias{tag}, {eps}, {y}, {size}U);"]


def linear_recurrence(tag: str, layer: MinGRU | LRU, x: str, y: str, product: Product) -> Written:
    """A recurrence whose coefficients do not look at the state."""
    return (
        _min_gru(tag, layer, x, product)
        if isinstance(layer, MinGRU)
        else _lru(tag, layer, x, y, product)
    )


def _min_gru(tag: str, layer: MinGRU, x: str, product: Product) -> Written:
    H, I = layer.output_size, layer.input_size
    where = f"{layer.name or 'mingru'} layer {layer.layer}"
    arrays = [
        (f"start{tag}", layer.bias, f"{where}: biases of z and n"),
        (f"wx{tag}", layer.weight.T, f"{where}: W, column by input"),
    ]
    n = f"a[{H}U + j]"
    value = f"({n} >= 0.0f) ? {n} + 0.5f : sigmoid_of({n})" if layer.positive else n
    lines = [
        f"float a[{2 * H}];",
        *_each(2 * H, f"a[j] = start{tag}[j];"),
        *product(f"wx{tag}", "x", "a", 2 * H, I),
        *_each(H, f"const float n = {value};", "h[j] += sigmoid_of(a[j]) * (n - h[j]);"),
    ]
    function = _function(where, tag, "const float *x, float *ONLY h", lines)
    call = f"layer{tag}({x}, state->h{tag});"
    return Written(arrays, function, call, [(f"h{tag}", H)], f"state->h{tag}", 2 * H)


def _lru(tag: str, layer: LRU, x: str, y: str, product: Product) -> Written:
    N, I, H = len(layer.decay), layer.input_size, layer.output_size
    where = f"{layer.name or 'lru'} layer {layer.layer}"
    decay, into = (np.concatenate([v.real, v.imag]) for v in (layer.decay, layer.b_in))
    # Re(C s) = Re(C) Re(s) - Im(C) Im(s): one matrix on both parts of the state.
    out = np.concatenate([layer.c_out.real, -layer.c_out.imag], axis=1)
    arrays = [
        (f"decay{tag}", decay, f"{where}: eigenvalues, real parts, then imaginary ones"),
        (f"wx{tag}", into.T, f"{where}: B, column by input"),
        (f"wh{tag}", out.T, f"{where}: C, column by part of the state"),
        (f"ws{tag}", layer.skip.T, f"{where}: D, column by input"),
        (f"bias{tag}", layer.bias, f"{where}: bias"),
    ]
    lines = [
        f"float a[{2 * N}];",
        *_each(2 * N, "a[j] = 0.0f;"),
        *product(f"wx{tag}", "x", "a", 2 * N, I),
        *_each(
            N,
            f"const float real = decay{tag}[j] * s[j] - decay{tag}[{N}U + j] * s[{N}U + j];",
            f"const float imaginary = decay{tag}[j] * s[{N}U + j] + decay{tag}[{N}U + j] * s[j];",
            "s[j] = real + a[j];",
            f"s[{N}U + j] = imaginary + a[{N}U + j];",
        ),
        *_each(H, f"y[j] = bias{tag}[j];"),
        *product(f"wh{tag}", "s", "y", H, 2 * N),
        *product(f"ws{tag}", "x", "y", H, I),
    ]
    function = _function(where, tag, "const float *x, float *ONLY s, float *ONLY y", lines)
    call = f"layer{tag}({x}, state->s{tag}, {y});"
    return Written(arrays, function, call, [(f"s{tag}", 2 * N)], y, 2 * N)


def _each(size: int, *lines: str) -> list[str]:
    return [f"for (size_t j = 0U; j < {size}U; j++) {{", *(f"    {line}" for line in lines), "}"]


def _function(where: str, tag: str, parameters: str, lines: list[str]) -> str:
    text = "".join(f"    {line}\n" for line in lines)
    return f"/* {where} */\nstatic void layer{tag}({parameters})\n{{\n{text}}}\n"


_WHY = {
    Norm: "LayerNorm divides by a root of its own input",
    MinGRU: "MinGRU's state has no bound that calibration could promise",
    LRU: "an LRU's state, complex and with eigenvalues near 1, adds up roundings",
    Both: "a window holds the outputs of all its steps",
}


def check_integers(layer: Layer) -> None:
    """Refuse what has no integer form here, with the reason."""
    why = _WHY.get(type(layer))
    if isinstance(layer, Recurrent) and layer.w_hr is not None:
        why = "a projected h has no bound that calibration could promise"
    if isinstance(layer, Activation) and layer.kind in ("softmax", "gelu"):
        why = f"{layer.kind} needs exponentials; the largest input stays the largest without it"
    if isinstance(layer, Activation) and abs(layer.slope) > 1:
        why = f"a slope of {layer.slope:g} below zero leaves 16 bits"
    if why:
        raise ArgumentError(
            "layers that int8 has: RNN, GRU, LSTM, Linear, Embedding, Tanh, Sigmoid, ReLU, LeakyReLU, "
            "BatchNorm1d",
            f"{getattr(layer, 'kind', type(layer).__name__)} at {layer.name or 'the top'} ({why})",
            "export in float32, or export the part of the model without it",
        )
