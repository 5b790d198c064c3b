"""The integer network as C99: int8 weights, int16 state, no floating point and no libc at all.

The arithmetic is that of :class:`bptt.export.quantise.Simulator`, operation by operation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bptt.export.c_float import interface, summary
from bptt.export.ctext import fill, int_array, shape
from bptt.export.network import multiply_adds
from bptt.export.quantise import (
    GATE_BITS,
    LARGEST,
    LOGIT_BITS,
    TABLE_STEP,
    UNIT_BITS,
    Product,
    QActivation,
    QEmbedding,
    QLinear,
    QNetwork,
    QRecurrent,
    table,
)


def int8_files(name: str, q: QNetwork, version: str, symbols: str = "") -> dict[str, str]:
    """The header and the source.

    Args:
        name: checked by :func:`~bptt.export.ctext.check_name`.
        q: what to write.
        version: of this package, for the comment.
        symbols: lines of the header with the vocabulary, by :func:`~bptt.export.ctext.symbol_table`.

    Returns:
        Texts by file name.

    Cost: the size of the text, 5 characters a weight.
    """
    writer = _Writer(q)
    writer.chain()
    network, guard, element = q.network, name.upper(), f"int{q.output_bits}_t"
    scales = [("OUTPUT", q.output_shift)]
    lines = [] if network.tokens is None else [f"#define {guard}_TOKENS {network.tokens}"]
    if network.tokens is None:
        scales.insert(0, ("INPUT", q.input_shift))
    for what, shift in scales:
        lines.append(f"/* {what.lower()}: real value = integer / 2^{guard}_{what}_SHIFT */")
        lines.append(f"#define {guard}_{what}_SHIFT {f'({shift})' if shift < 0 else shift}")
    final = q.layers[-1]
    if isinstance(final, QLinear) and final.relative:
        lines.append(
            "/* Outputs are logits less the largest of the step: the most likely token alone has 127. */"
        )
    words = {
        "name": name,
        "guard": guard,
        "title": summary(network, "int8"),
        "version": version,
        "flash": writer.flash,
        "flash_note": ", scales and tables",
        "state": 2 * sum(size for _, size in writer.members),
        "stack": writer.stack + 128,
        "multiply_adds": f"{multiply_adds(network):,}",
        "input_size": network.input_size,
        "output_size": network.output_size,
        "constants": "\n".join(lines) + "\n" + symbols,
        "state_note": "State of one stream: h and c of each recurrent layer, 16 bits each.",
        "members": "\n".join(f"    int16_t {m}[{size}];" for m, size in writer.members),
        "element": element,
        "weights": "\n".join(writer.arrays),
        "helpers": writer.helpers(),
        "layers": "\n".join(writer.functions),
        "clear": "".join(
            f"    for (size_t j = 0U; j < {size}U; j++) {{\n        state->{m}[j] = 0;\n    }}\n"
            for m, size in writer.members
        ),
        "body": "".join(f"    {line}\n" for line in writer.body),
    }
    words |= interface(name, network, "int8_t")
    words["run"] = fill("run_step.c", **words)
    words["calls"] = fill("calls_step.h", **words).rstrip("\n")
    return {f"{name}.h": fill("header.h", **words), f"{name}.c": fill("int8.c", **words)}


@dataclass
class _Writer:
    """Collects the parts of the source while it walks the chain."""

    q: QNetwork
    arrays: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    members: list[tuple[str, int]] = field(default_factory=list)
    flash: int = 0
    stack: int = 0

    def chain(self) -> None:
        """Write every layer, and the step that calls them."""
        tokens = self.q.network.tokens
        source = "x"
        if tokens:
            self.body += [f"if (token >= {tokens}U) {{", "    return 1;", "}"]
        else:
            self.widened("input", self.q.network.input_size)
        for number, layer in enumerate(self.q.layers):
            last = number == len(self.q.layers) - 1
            if isinstance(layer, QEmbedding):
                self.array("int8_t", "embedding", layer.weight, "row by token")
                size = layer.weight.shape[1]
                self.widened(f"&embedding[(size_t)token * {size}U]", size)
            elif isinstance(layer, QLinear):
                source = self.linear(number, layer, source, last)
            elif isinstance(layer, QActivation):
                source = self.activation(number, layer, source)
            else:
                source = self.recurrent(number, layer, source)
        final = self.q.layers[-1]
        if isinstance(final, QRecurrent | QActivation):
            value = f"{source}[j]"
            if self.q.output_bits == 8:
                value = f"(int8_t)clip(({value} + 128) >> 8, -128, 127)"
            size = final.hidden if isinstance(final, QRecurrent) else final.size
            self.body += [f"for (size_t j = 0U; j < {size}U; j++) {{", f"    output[j] = {value};"]
            self.body.append("}")
        if tokens:
            self.body.append("return 0;")

    def widened(self, source: str, size: int) -> None:
        """int8 input as the int16 that every matrix product takes."""
        self.body.insert(0, f"int16_t x[{size}];")
        self.body.append(f"widen({source}, x, {size}U);")
        self.stack += 2 * size

    def array(self, kind: str, name: str, values, comment: str) -> None:
        text = f"{shape(*values.shape)}: {comment}"
        self.arrays.append(int_array(kind, name, values, text))
        self.flash += int(kind[3:-2]) // 8 * values.size

    def product(self, name: str, p: Product, rows: bool, comment: str) -> None:
        """Weights, row by output; for tokens column by column, one a token."""
        weight = p.weight.T if rows else p.weight
        self.array("int8_t", name, weight, f"{comment}, {'one row a token' if rows else 'by row'}")
        self.array("int32_t", f"{name}_factor", p.multiplier, "multiplier of each output")
        self.array("int8_t", f"{name}_shift", p.shift, "shift of each output")

    def scaled(self, name: str, p: Product, rows: bool, x: str) -> str:
        """z_j of this product, as an expression in j."""
        size, columns = p.weight.shape
        if rows:
            total = f"{name}[(size_t)token * {size}U + j]"
        else:
            total = f"dot(&{name}[j * {columns}U], {x}, {columns}U)"
        return f"scale({total}, {name}_factor[j], {name}_shift[j])"

    def linear(self, number: int, layer: QLinear, x: str, last: bool) -> str:
        where = layer.name or "linear"
        self.product(f"w{number}", layer.product, layer.rows, where)
        self.array("int32_t", f"bias{number}", layer.bias, f"{where}: bias")
        size, high = len(layer.bias), 2 ** (layer.bits - 1) - 1
        kind, y = f"int{layer.bits}_t", "output" if last else f"y{number}"
        if not last:
            self.body.insert(0, f"int16_t {y}[{size}];")
            self.stack += 2 * size
        if layer.relative:
            self.relative(number, layer, x)
            return y
        value = f"bias{number}[j] + {self.scaled(f'w{number}', layer.product, layer.rows, x)}"
        self.body += [
            f"for (size_t j = 0U; j < {size}U; j++) {{",
            f"    {y}[j] = ({kind})clip({value}, {-high - 1}, {high});",
            "}",
        ]
        return y

    def activation(self, number: int, layer: QActivation, x: str) -> str:
        """The function of each number, into a buffer of its own."""
        y, value = f"y{number}", f"{x}[j]"
        self.body.insert(0, f"int16_t {y}[{layer.size}];")
        self.stack += 2 * layer.size
        if layer.kind in ("tanh", "sigmoid"):
            up = GATE_BITS - layer.in_shift
            wide = f"(int64_t){value}"
            wide = f"{wide} * {1 << min(up, 24)}" if up >= 0 else _down(wide, -up)
            z = f"limit({wide}, {LARGEST})"
            value = (
                f"curve(2 * {z})" if layer.kind == "tanh" else f"clip(sigmoid_of({z}), 0, 32767)"
            )
        else:
            below = _down(f"{value} * {layer.slope}", UNIT_BITS) if layer.slope else "0"
            value = f"({value} > 0) ? {value} : ({below})"
        self.body += [
            f"for (size_t j = 0U; j < {layer.size}U; j++) {{",
            f"    {y}[j] = (int16_t)({value});",
            "}",
        ]
        return y

    def relative(self, number: int, layer: QLinear, x: str) -> None:
        """Logits less the largest: see :class:`~bptt.export.quantise.QLinear`."""
        size = len(layer.bias)
        value = f"bias{number}[j] + {self.scaled(f'w{number}', layer.product, layer.rows, x)}"
        self.body[0:0] = [f"int32_t z[{size}];", "size_t best = 0U;"]
        self.stack += 4 * size
        reduced = _down("z[j] - z[best]", GATE_BITS - LOGIT_BITS)
        self.body += [
            f"for (size_t j = 0U; j < {size}U; j++) {{",
            f"    z[j] = {value};",
            "    best = (z[j] > z[best]) ? j : best;",
            "}",
            f"for (size_t j = 0U; j < {size}U; j++) {{",
            f"    output[j] = (int8_t)clip(127 + ({reduced}), -128, 126);",
            "}",
            "output[best] = 127;",
        ]

    def recurrent(self, number: int, r: QRecurrent, source: str) -> str:
        """The layer's arrays and function; returns where its output lies."""
        H, N = r.hidden, len(r.x.shift)
        where = f"{r.name or r.cell} layer {r.layer}"
        self.product(f"wx{number}", r.x, r.rows, f"{where}: W_ih")
        self.product(f"wh{number}", r.h, False, f"{where}: W_hh")
        self.array("int32_t", f"start{number}", r.start, f"{where}: biases")
        states = ["h", "c"] if r.cell == "lstm" else ["h"]
        self.members += [(f"{s}{number}", H) for s in states]
        self.stack = max(self.stack, 4 * len(r.start))
        offset = len(r.start) - N
        before = f"a[{offset}U + j]" if offset else "a[j]"
        lines = [f"int32_t a[{len(r.start)}];", f"for (size_t j = 0U; j < {N}U; j++) {{"]
        lines += [
            f"    a[j] = start{number}[j] + {self.scaled(f'wx{number}', r.x, r.rows, 'x')};",
            "}",
        ]
        if offset:
            lines += [f"for (size_t j = {N}U; j < {len(r.start)}U; j++) {{"]
            lines += [f"    a[j] = start{number}[j];", "}"]
        lines += [
            f"for (size_t j = 0U; j < {N}U; j++) {{",
            f"    {before} += {self.scaled(f'wh{number}', r.h, False, 'h')};",
            "}",
            f"for (size_t j = 0U; j < {H}U; j++) {{",
            *_CELL[r.cell](H, r.cell_shift),
            "}",
        ]
        parameter, argument = (
            ("uint32_t token", "token") if r.rows else ("const int16_t *x", source)
        )
        arguments = ", ".join(f"int16_t *{s}" for s in states)
        text = "".join(f"    {line}\n" for line in lines)
        self.functions.append(
            f"/* {where} */\nstatic void layer{number}({parameter}, {arguments})\n{{\n{text}}}\n"
        )
        actual = ", ".join(f"state->{s}{number}" for s in states)
        self.body.append(f"layer{number}({argument}, {actual});")
        return f"state->h{number}"

    def helpers(self) -> str:
        """The functions that some layer calls, and the table."""
        called = "".join(self.functions + self.body)
        mask = (1 << TABLE_STEP) - 1
        words = {
            "largest": LARGEST, "step": TABLE_STEP, "mask": mask, "half": 1 << TABLE_STEP - 1,
            "end": (len(table()) - 1 << TABLE_STEP) - 1,
        }  # fmt: skip
        text = fill("int8_scale.c", **words)
        if "dot(" in called:
            text += fill("int8_dot.c")
        if "curve(" in called or "sigmoid_of(" in called:
            self.flash += 2 * len(table())
            comment = "tanh(i / 32) in units of 2^-15"
            text += int_array("int16_t", "table", table(), comment) + "\n"
            text += fill("int8_curve.c", **words)
        for name in ("sigmoid_of", "clip", "limit", "widen"):
            if f"{name}(" in called:
                text += fill(f"int8_{name.split('_')[0]}.c")
        return text


def _down(expression: str, bits: int) -> str:
    return f"(({expression}) + {1 << bits - 1}) >> {bits}" if bits else expression


def _gru(H: int, _: int) -> list[str]:
    return [
        f"    const int32_t r = sigmoid_of(a[{H}U + j]);",
        f"    const int32_t z = sigmoid_of(a[{2 * H}U + j]);",
        f"    const int64_t rn = {_down(f'(int64_t)r * a[{3 * H}U + j]', UNIT_BITS)};",
        "    const int32_t n = curve(2 * (a[j] + (int32_t)rn));",
        f"    h[j] = (int16_t)(n + ({_down('z * (h[j] - n)', UNIT_BITS)}));",
    ]


def _lstm(H: int, cell_shift: int) -> list[str]:
    return [
        "    const int32_t i = sigmoid_of(a[j]);",
        f"    const int32_t f = sigmoid_of(a[{H}U + j]);",
        f"    const int32_t o = sigmoid_of(a[{2 * H}U + j]);",
        f"    const int32_t g = curve(2 * a[{3 * H}U + j]);",
        f"    const int32_t s = (f * c[j]) + ({_down('i * g', UNIT_BITS - cell_shift)});",
        f"    c[j] = (int16_t)clip({_down('s', UNIT_BITS)}, -32768, 32767);",
        f"    h[j] = (int16_t)({_down(f'o * curve(c[j] * {1 << 15 - cell_shift})', UNIT_BITS)});",
    ]


_CELL = {
    "gru": _gru,
    "lstm": _lstm,
    "rnn_tanh": lambda H, _: ["    h[j] = (int16_t)curve(2 * a[j]);"],
    "rnn_relu": lambda H, _: ["    h[j] = (int16_t)clip(a[j], 0, 32767);"],
}
