"""A network as C99 in float32: one header, one source, no heap, nothing of libc but ``<math.h>``.

Matrices are stored column after column, so that the step's inner loop runs over units: a desktop
compiler turns it into vectors by itself, and every unit adds up its terms in the same order on every
machine. Gates are reordered so that each matrix adds to one contiguous stretch of one buffer::

    GRU    buffer (4 H)  = n(x) | r | z | n(h)     W_ih adds to the first 3 H, W_hh to the last 3 H
    LSTM   buffer (4 H)  = i | f | o | g           both add to all of it
    RNN    buffer (H)

Limits: float32 weights; a network's sizes below 2^31 elements.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bptt.export import ctext
from bptt.export.ctext import fill, float_array, shape
from bptt.export.network import (
    LRU,
    Activation,
    Both,
    Embedding,
    Floats,
    Layer,
    Linear,
    MinGRU,
    Network,
    Norm,
    OneHot,
    Recurrent,
    looks_up,
    multiply_adds,
)
from bptt.ops.cells import BY_KEY


def float_files(
    name: str,
    network: Network,
    version: str,
    *,
    libm: bool = False,
    window: int | None = None,
    symbols: str = "",
) -> dict[str, str]:
    """The header and the source.

    Args:
        name: checked by :func:`~bptt.export.ctext.check_name`.
        network: what to write.
        version: of this package, for the comment.
        libm: ``tanhf``, ``expf`` and ``erff`` of ``<math.h>`` in place of the own functions.
        window: the most steps of a network with bidirectional layers.
        symbols: lines of the header with the vocabulary, by :func:`~bptt.export.ctext.symbol_table`.

    Returns:
        Texts by file name.

    Cost: the size of the text, 14 characters a weight.
    """
    writer = _Writer(name, network, window)
    writer.chain()
    tokens = network.tokens
    constants = "" if tokens is None else f"#define {name.upper()}_TOKENS {tokens}\n"
    if window is not None:
        constants += f"#define {name.upper()}_WINDOW {window}U\n"
    words = {
        "name": name,
        "guard": name.upper(),
        "title": summary(network, "float32"),
        "version": version,
        "flash": 4 * writer.weights_count,
        "flash_note": "",
        "state": 4 * sum(size for _, size in writer.members),
        "stack": 4 * writer.widest + 96,
        "multiply_adds": f"{multiply_adds(network):,}",
        "input_size": network.input_size,
        "output_size": network.output_size,
        "constants": constants + symbols,
        "state_note": "State of one stream: h and c of each recurrent layer."
        if window is None
        else "What a window is computed in: states, and the outputs of two layers.",
        "members": "\n".join(f"    float {m}[{size}];" for m, size in writer.members),
        "element": "float",
        "weights": "\n".join(writer.arrays),
        "activations": ctext.functions_used(writer.code(), "libm" if libm else "own"),
        "products": writer.products_used(),
        "layers": "\n".join(writer.functions),
        "clear": "".join(_clear(m, size) for m, size in writer.members if m not in ("a", "b")),
        "body": "".join(f"    {line}\n" for line in writer.body),
    }
    words |= interface(name, network, "float", window is not None)
    way = "step" if window is None else "window"
    words["run"] = fill(f"run_{way}.c", **words)
    words["calls"] = fill(f"calls_{way}.h", **words).rstrip("\n")
    return {f"{name}.h": fill("header.h", **words), f"{name}.c": fill("float.c", **words)}


def summary(network: Network, kind: str) -> str:
    """The chain in one line, e.g. ``tokens 27 - gru 16 - linear 27, float32``."""
    words = []
    for layer in network.layers:
        if isinstance(layer, Embedding):
            words.append(f"tokens {layer.weight.shape[0]} - embedding {layer.weight.shape[1]}")
        elif isinstance(layer, OneHot):
            words.append(f"tokens {layer.size}")
        elif isinstance(layer, Linear):
            words.append(f"linear {layer.output_size}")
        elif isinstance(layer, Recurrent):
            projected = "" if layer.w_hr is None else f" to {layer.output_size}"
            words.append(f"{layer.cell.replace('_', ' ')} {layer.hidden}{projected}")
        elif isinstance(layer, Both):
            cell = layer.ahead.cell.replace("_", " ")
            words.append(f"{cell} both ways {layer.output_size}")
        elif isinstance(layer, Activation):
            words.append(layer.kind.replace("_", " "))
        else:
            words.append(f"{type(layer).__name__.lower()} {layer.output_size}")
    front = "" if network.tokens else f"input {network.input_size} - "
    return f"{front}{' - '.join(words)}, {kind}"


def interface(name: str, network: Network, element: str, whole: bool = False) -> dict[str, str]:
    """How input comes in, for tokens and for vectors; ``whole`` for a window at once."""
    guard = name.upper()
    usage = (
        f"one {name}_state a stream, zeroed by {name}_init; then {name}_step for every time step."
        if not whole
        else f"one {name}_state in every thread; then {name}_window for every window."
    )
    if network.tokens:
        return {
            "usage": usage,
            "token_note": " or a wrong token",
            "checks": "    for (size_t t = 0U; t < steps; t++) {\n"
            f"        if (tokens[t] >= {network.tokens}U) {{\n            return 1;\n        }}\n"
            "    }\n",
            "step_type": "int",
            "step_comment": "/* One time step. Returns 0; or 1, and changes nothing, for a token that is "
            f"not below\n * {guard}_TOKENS. output[{guard}_OUTPUT_SIZE]. */",
            "input_parameter": "uint32_t token",
            "inputs_parameter": "const uint32_t *tokens",
            "input_of_stream": "tokens[s]",
            "before": "    int wrong = 0;\n",
            "call": "wrong |= ",
            "after": "    return wrong;\n",
        }
    return {
        "usage": usage,
        "token_note": "",
        "checks": "",
        "step_type": "void",
        "step_comment": f"/* One time step: input[{guard}_INPUT_SIZE] to output[{guard}_OUTPUT_SIZE]. */",
        "input_parameter": f"const {element} *input",
        "inputs_parameter": f"const {element} *inputs",
        "input_of_stream": f"&inputs[s * {network.input_size}U]",
        "before": "",
        "call": "",
        "after": "",
    }


def reorder(layer: Recurrent) -> tuple[Floats, Floats, Floats]:
    """W_ih, W_hh and the buffer's start, in the order of gates of the buffer above."""
    if layer.cell == "gru":
        r, z, n = (slice(k * layer.hidden, (k + 1) * layer.hidden) for k in range(3))
        both = layer.b_ih + layer.b_hh
        start = np.concatenate([layer.b_ih[n], both[r], both[z], layer.b_hh[n]])
        return (
            np.concatenate([layer.w_ih[n], layer.w_ih[r], layer.w_ih[z]]),
            layer.w_hh,
            start,
        )
    if layer.cell == "lstm":
        i, f, g, o = (slice(k * layer.hidden, (k + 1) * layer.hidden) for k in range(4))
        order = (i, f, o, g)

        def turned(a: Floats) -> Floats:
            return np.concatenate([a[part] for part in order])

        return turned(layer.w_ih), turned(layer.w_hh), turned(layer.b_ih + layer.b_hh)
    return layer.w_ih, layer.w_hh, layer.b_ih + layer.b_hh


def _clear(member: str, size: int) -> str:
    return f"    for (size_t j = 0U; j < {size}U; j++) {{\n        state->{member}[j] = 0.0f;\n    }}\n"


@dataclass
class _Writer:
    """Collects the parts of the source while it walks the chain."""

    name: str
    network: Network
    window: int | None = None
    arrays: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    members: list[tuple[str, int]] = field(default_factory=list)
    weights_count: int = 0
    widest: int = 0

    def code(self) -> str:
        """All that calls a function."""
        return "".join(self.functions + self.body)

    def products_used(self) -> str:
        """The matrix products that some layer calls."""
        files = {"add_columns": "product.c", "add_column": "column.c", "copy": "copy.c"}
        used = ctext.called(self.code())
        return "".join(fill(file) for name, file in files.items() if name in used)

    @staticmethod
    def product(w: str, x: str, y: str, rows: int, columns: int) -> list[str]:
        """y += W x: whole groups of four columns, then the rest one by one."""
        whole = columns - columns % 4
        lines = [f"add_columns({w}, {x}, {y}, {rows}U, {whole}U);"] if whole else []
        for k in range(whole, columns):
            entry = f"{x[1:-1]} + {k}U]" if x.startswith("&") else f"{x}[{k}]"
            lines.append(f"add_column({_at(w, k * rows)}, {entry}, {y}, {rows}U);")
        return lines

    def chain(self) -> None:
        """Write every layer, and what calls them: a step, or all steps layer by layer."""
        layers = list(self.network.layers)
        source = "input" if self.window is None else "x"
        row: Floats | None = None  # W E of the layer that follows, one row a token
        if self.network.tokens and self.window is None:
            self.body += [f"if (token >= {self.network.tokens}U) {{", "    return 1;", "}"]
        if looks_up(self.network):
            first = layers[0]
            row = first.weight if isinstance(first, Embedding) else np.eye(first.output_size)
        elif isinstance(layers[0], Embedding):
            first = layers[0]
            self.array("embedding", first.weight, "row by token")
            source = f"&embedding[(size_t)token * {first.output_size}U]"
        begin = 1 if self.network.tokens else 0
        if self.window is not None:
            self.windowed(layers[begin:], source, row)
            return
        for number, layer in enumerate(layers[begin:], begin):
            last = number == len(layers) - 1
            target = "output" if last else f"y{number}"
            lines, place = self.layer(str(number), layer, source, row, target)
            if place == f"y{number}":
                self.local(number, layer.output_size)
            self.body += lines
            if last and place != "output":
                self.body.append(f"copy({place}, output, {layer.output_size}U);")
            source, row = place, None
        if self.network.tokens:
            self.body.append("return 0;")

    def windowed(self, layers: list[Layer], source: str, row: Floats | None) -> None:
        """All steps of one layer, then all of the next, between two buffers."""
        before, width = "inputs", self.network.input_size
        for number, layer in enumerate(layers):
            last = number == len(layers) - 1
            after, size = "outputs" if last else f"state->{'ab'[number % 2]}", layer.output_size
            takes = [f"const float *x = &{before}[t * {width}U];"]
            if number == 0 and self.network.tokens:
                takes = ["const uint32_t token = tokens[t];"]
            parts = (layer.ahead, layer.back) if isinstance(layer, Both) else (layer,)
            offset = 0
            for tag, part in zip((str(number), f"{number}_back"), parts, strict=False):
                y = f"{after}[t * {size}U{f' + {offset}U' if offset else ''}]"
                lines, place = self.layer(tag, part, source, row, "y")
                if place != "y":
                    lines.append(f"copy({place}, y, {part.output_size}U);")
                back = offset > 0
                self.body += [
                    f"for (size_t {'s = steps; s > 0U; s--' if back else 't = 0U; t < steps; t++'}) {{",
                    *(["    const size_t t = s - 1U;"] if back else []),
                    *(f"    {line}" for line in [*takes, f"float *y = &{y};", *lines]),
                    "}",
                ]
                offset = part.output_size
            before, width, source, row = after, size, "x", None
        widest = max((layer.output_size for layer in layers[:-1]), default=0)
        buffers = min(len(layers) - 1, 2)
        self.members += [(name, (self.window or 0) * widest) for name in "ab"[:buffers]]

    def layer(
        self, tag: str, layer: Layer, x: str, row: Floats | None, y: str
    ) -> tuple[list[str], str]:
        """A step of one layer from ``x``, and where its output is: in ``y``, or in the state."""
        if isinstance(layer, Linear):
            return self.linear(tag, layer, x, y, row), y
        if isinstance(layer, Activation):
            return ctext.activation(layer, x, y), y
        if isinstance(layer, Norm):
            self.array(f"w{tag}", layer.weight, f"{layer.name}: weight")
            self.array(f"bias{tag}", layer.bias, f"{layer.name}: bias")
            return ctext.norm(layer, tag, x, y), y
        if isinstance(layer, MinGRU | LRU):
            part = ctext.linear_recurrence(tag, layer, x, y, self.product)
            for name, values, comment in part.arrays:
                self.array(name, values, comment)
            self.functions.append(part.function)
            self.members += part.members
            self.widest = max(self.widest, part.stack)
            return [part.call], part.place
        if not isinstance(layer, Recurrent):
            raise TypeError(f"{type(layer).__name__} has no step")
        line, place = self.recurrent(tag, layer, x, row)
        return [line], place

    def local(self, number: int, size: int) -> None:
        """A buffer of the step."""
        self.body.insert(0, f"float y{number}[{size}];")
        self.widest += size

    def array(self, name: str, values: Floats, comment: str) -> None:
        self.arrays.append(float_array(name, values, f"{shape(*values.shape)}: {comment}"))
        self.weights_count += values.size

    def linear(self, tag: str, layer: Linear, x: str, y: str, row: Floats | None) -> list[str]:
        """y = W x + b."""
        size, width = layer.weight.shape
        self.array(f"bias{tag}", layer.bias, f"{layer.name or 'linear'}: bias")
        if row is not None:
            self.array(f"rows{tag}", row @ layer.weight.T, "row by token")
            value = f"bias{tag}[j] + rows{tag}[(size_t)token * {size}U + j]"
        else:
            self.array(f"w{tag}", layer.weight.T, f"{layer.name or 'linear'}: column by input")
            value = f"bias{tag}[j]"
        lines = [f"for (size_t j = 0U; j < {size}U; j++) {{", f"    {y}[j] = {value};", "}"]
        return lines if row is not None else lines + self.product(f"w{tag}", x, y, size, width)

    def recurrent(
        self, tag: str, layer: Recurrent, source: str, row: Floats | None
    ) -> tuple[str, str]:
        """The layer's arrays and function; the call, and where its output lies."""
        H, G, P = layer.hidden, BY_KEY[layer.cell].gates, layer.output_size
        w_ih, w_hh, start = reorder(layer)
        where = f"{layer.name or layer.cell} layer {layer.layer}"
        self.array(f"start{tag}", start, f"{where}: biases")
        if row is not None:
            self.array(f"rows{tag}", row @ w_ih.T, f"{where}: W_ih x, row by token")
            first = f"start{tag}[j] + row[j]"
            parameter, argument = "const float *row", f"&rows{tag}[(size_t)token * {G * H}U]"
        else:
            self.array(f"wx{tag}", w_ih.T, f"{where}: W_ih, column by input")
            first = f"start{tag}[j]"
            parameter, argument = "const float *x", source
        self.array(f"wh{tag}", w_hh.T, f"{where}: W_hh, column by unit")
        states = {"h": P, "c": H} if layer.cell == "lstm" else {"h": P}
        self.members += [(f"{s}{tag}", size) for s, size in states.items()]
        size = len(start)
        self.widest = max(self.widest, size)
        lines = [f"float a[{size}];", f"for (size_t j = 0U; j < {G * H}U; j++) {{"]
        lines += [f"    a[j] = {first};", "}"]
        if size > G * H:
            lines += [f"for (size_t j = {G * H}U; j < {size}U; j++) {{"]
            lines += [f"    a[j] = start{tag}[j];", "}"]
        if row is None:
            columns = w_ih.shape[1]
            lines += self.product(f"wx{tag}", "x", "a", G * H, columns)
        lines += self.product(f"wh{tag}", "h", _at("a", size - G * H), G * H, P)
        lines += [f"for (size_t j = 0U; j < {H}U; j++) {{", *_CELL[layer.cell](H), "}"]
        if layer.w_hr is not None:
            # The cell's output stands where its input gate stood; h is its projection.
            lines = [line.replace("h[j] = ", "a[j] = ") for line in lines]
            self.array(f"wr{tag}", layer.w_hr.T, f"{where}: W_hr, column by unit")
            lines += [f"for (size_t j = 0U; j < {P}U; j++) {{", "    h[j] = 0.0f;", "}"]
            lines += self.product(f"wr{tag}", "a", "h", P, H)
        arguments = ", ".join(f"float *ONLY {s}" for s in states)
        text = "".join(f"    {line}\n" for line in lines)
        self.functions.append(
            f"/* {where} */\nstatic void layer{tag}({parameter}, {arguments})\n{{\n{text}}}\n"
        )
        actual = ", ".join(f"state->{s}{tag}" for s in states)
        return f"layer{tag}({argument}, {actual});", f"state->h{tag}"


def _at(name: str, offset: int) -> str:
    return name if offset == 0 else f"&{name}[{offset}]"


def _gru(H: int) -> list[str]:
    return [
        f"    const float r = sigmoid_of(a[{H}U + j]);",
        f"    const float z = sigmoid_of(a[{2 * H}U + j]);",
        f"    const float n = tanh_of(a[j] + r * a[{3 * H}U + j]);",
        "    h[j] = n + z * (h[j] - n);",
    ]


def _lstm(H: int) -> list[str]:
    return [
        "    const float i = sigmoid_of(a[j]);",
        f"    const float f = sigmoid_of(a[{H}U + j]);",
        f"    const float o = sigmoid_of(a[{2 * H}U + j]);",
        f"    const float g = tanh_of(a[{3 * H}U + j]);",
        "    const float s = f * c[j] + i * g;",
        "    c[j] = s;",
        "    h[j] = o * tanh_of(s);",
    ]


_CELL = {
    "gru": _gru,
    "lstm": _lstm,
    "rnn_tanh": lambda H: ["    h[j] = tanh_of(a[j]);"],
    "rnn_relu": lambda H: ["    h[j] = (a[j] > 0.0f) ? a[j] : 0.0f;"],
}
