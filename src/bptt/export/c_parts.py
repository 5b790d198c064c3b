"""C in float32 of what stands around and beside the gated cells: activations, LayerNorm, MinGRU, LRU.

And the reasons why the integer network has some of them not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bptt.errors import ArgumentError
from bptt.export.ctext import fill, float_text
from bptt.export.network import (
    LRU,
    Activation,
    Both,
    Floats,
    Layer,
    MinGRU,
    Norm,
    Recurrent,
)

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
