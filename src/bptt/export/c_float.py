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

from bptt.export.ctext import fill, float_array, shape
from bptt.export.network import (
    Embedding,
    Floats,
    Linear,
    Network,
    OneHot,
    Recurrent,
    looks_up,
    multiply_adds,
)
from bptt.ops.cells import BY_KEY


def float_files(name: str, network: Network, version: str, *, libm: bool = False) -> dict[str, str]:
    """The header and the source.

    Args:
        name: checked by :func:`~bptt.export.ctext.check_name`.
        network: what to write.
        version: of this package, for the comment.
        libm: ``tanhf`` and ``expf`` of ``<math.h>`` in place of the own tanh and sigmoid.

    Returns:
        Texts by file name.

    Cost: the size of the text, 14 characters a weight.
    """
    writer = _Writer(name, network)
    writer.chain()
    tokens = network.tokens
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
        "constants": "" if tokens is None else f"#define {name.upper()}_TOKENS {tokens}\n",
        "state_note": "State of one stream: h and c of each recurrent layer.",
        "members": "\n".join(f"    float {m}[{size}];" for m, size in writer.members),
        "element": "float",
        "weights": "\n".join(writer.arrays),
        "activations": writer.functions_used("libm" if libm else "own"),
        "products": writer.products_used(),
        "layers": "\n".join(writer.functions),
        "clear": "".join(_clear(m, size) for m, size in writer.members),
        "body": "".join(f"    {line}\n" for line in writer.body),
    }
    words |= interface(name, network, "float")
    words["many"] = fill("many.c", **words)
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
        else:
            words.append(f"{layer.cell.replace('_', ' ')} {layer.hidden}")
    front = "" if network.tokens else f"input {network.input_size} - "
    return f"{front}{' - '.join(words)}, {kind}"


def interface(name: str, network: Network, element: str) -> dict[str, str]:
    """How input comes in, for tokens and for vectors."""
    guard = name.upper()
    if network.tokens:
        return {
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
    arrays: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    members: list[tuple[str, int]] = field(default_factory=list)
    weights_count: int = 0
    widest: int = 0

    def functions_used(self, kind: str) -> str:
        """tanh and sigmoid, where a cell calls them: an unused function is a warning."""
        cells = {layer.cell for layer in self.network.recurrent}
        gated = bool(cells & {"gru", "lstm"})
        # The own sigmoid is made from tanh; that of the library stands alone.
        return (fill(f"{kind}_tanh.c") if gated or "rnn_tanh" in cells else "") + (
            fill(f"{kind}_sigmoid.c") if gated else ""
        )

    def products_used(self) -> str:
        """The matrix products that some layer calls."""
        called = "".join(self.functions + self.body)
        files = {"add_columns(": "product.c", "add_column(": "column.c"}
        return "".join(fill(file) for call, file in files.items() if call in called)

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
        """Write every layer, and the step that calls them."""
        layers = list(self.network.layers)
        source, width = "input", self.network.input_size
        row: Floats | None = None  # W E of the layer that follows, one row a token
        if self.network.tokens:
            self.body += [f"if (token >= {self.network.tokens}U) {{", "    return 1;", "}"]
        for number, layer in enumerate(layers):
            last = number == len(layers) - 1
            if isinstance(layer, Embedding):
                if looks_up(self.network):
                    row = layer.weight
                else:
                    self.array("embedding", layer.weight, "row by token")
                    source, width = (
                        f"&embedding[(size_t)token * {layer.output_size}U]",
                        layer.output_size,
                    )
            elif isinstance(layer, OneHot):
                row = np.eye(layer.size)
            elif isinstance(layer, Linear):
                y = "output" if last else self.local(number, layer.output_size)
                self.linear(number, layer, source, width, y, row)
                source, width, row = y, layer.output_size, None
            else:
                h = self.recurrent(number, layer, source, row)
                source, width, row = h, layer.hidden, None
        if isinstance(layers[-1], Recurrent):
            self.body += [
                f"for (size_t j = 0U; j < {width}U; j++) {{",
                f"    output[j] = {source}[j];",
                "}",
            ]
        if self.network.tokens:
            self.body.append("return 0;")

    def local(self, number: int, size: int) -> str:
        """A buffer of the step."""
        self.body.insert(0, f"float y{number}[{size}];")
        self.widest += size
        return f"y{number}"

    def array(self, name: str, values: Floats, comment: str) -> None:
        self.arrays.append(float_array(name, values, f"{shape(*values.shape)}: {comment}"))
        self.weights_count += values.size

    def linear(
        self, number: int, layer: Linear, source: str, width: int, y: str, row: Floats | None
    ) -> None:
        size = layer.output_size
        self.array(f"bias{number}", layer.bias, f"{layer.name or 'linear'}: bias")
        if row is not None:
            self.array(f"rows{number}", row @ layer.weight.T, "row by token")
            value = f"bias{number}[j] + rows{number}[(size_t)token * {size}U + j]"
        else:
            self.array(f"w{number}", layer.weight.T, f"{layer.name or 'linear'}: column by input")
            value = f"bias{number}[j]"
        self.body += [f"for (size_t j = 0U; j < {size}U; j++) {{", f"    {y}[j] = {value};", "}"]
        if row is None:
            self.body += self.product(f"w{number}", source, y, size, width)

    def recurrent(self, number: int, layer: Recurrent, source: str, row: Floats | None) -> str:
        """The layer's arrays and function; returns where its output lies."""
        H, G = layer.hidden, BY_KEY[layer.cell].gates
        w_ih, w_hh, start = reorder(layer)
        where = f"{layer.name or layer.cell} layer {layer.layer}"
        self.array(f"start{number}", start, f"{where}: biases")
        if row is not None:
            self.array(f"rows{number}", row @ w_ih.T, f"{where}: W_ih x, row by token")
            first = f"start{number}[j] + row[j]"
            parameter, argument = "const float *row", f"&rows{number}[(size_t)token * {G * H}U]"
        else:
            self.array(f"wx{number}", w_ih.T, f"{where}: W_ih, column by input")
            first = f"start{number}[j]"
            parameter, argument = "const float *x", source
        self.array(f"wh{number}", w_hh.T, f"{where}: W_hh, column by unit")
        states = ["h", "c"] if layer.cell == "lstm" else ["h"]
        self.members += [(f"{s}{number}", H) for s in states]
        size = len(start)
        self.widest = max(self.widest, size)
        lines = [f"float a[{size}];", f"for (size_t j = 0U; j < {G * H}U; j++) {{"]
        lines += [f"    a[j] = {first};", "}"]
        if size > G * H:
            lines += [f"for (size_t j = {G * H}U; j < {size}U; j++) {{"]
            lines += [f"    a[j] = start{number}[j];", "}"]
        if row is None:
            columns = w_ih.shape[1]
            lines += self.product(f"wx{number}", "x", "a", G * H, columns)
        lines += self.product(f"wh{number}", "h", _at("a", size - G * H), G * H, H)
        lines += [f"for (size_t j = 0U; j < {H}U; j++) {{", *_CELL[layer.cell](H), "}"]
        arguments = ", ".join(f"float *ONLY {s}" for s in states)
        text = "".join(f"    {line}\n" for line in lines)
        self.functions.append(
            f"/* {where} */\nstatic void layer{number}({parameter}, {arguments})\n{{\n{text}}}\n"
        )
        actual = ", ".join(f"state->{s}{number}" for s in states)
        self.body.append(f"layer{number}({argument}, {actual});")
        return f"state->h{number}"


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
