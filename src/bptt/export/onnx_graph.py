"""A network as an ONNX graph: RNN, GRU and LSTM nodes with their states as inputs and outputs.

The nodes are built by hand. PyTorch's exporters take a recurrent layer apart or lose its state, and a
GRU needs ``linear_before_reset = 1``: without it the reset gate is applied before the matrix product,
which is another network with the same weights.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from bptt.errors import ArgumentError, DependencyError
from bptt.export.extract import read_network
from bptt.export.network import (
    Activation,
    Embedding,
    Floats,
    Layer,
    Linear,
    Network,
    Norm,
    OneHot,
    Recurrent,
)
from bptt.files.write import refused, write_file

if TYPE_CHECKING:
    import onnx

OPSET = 17
_NODE = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "gru": "GRU", "lstm": "LSTM"}
# PyTorch's gates r z n and i f g o, in ONNX's order z r h and i o f c.
_ORDER = {"GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2), "RNN": (0,)}
_FUNCTION = {
    "tanh": "Tanh", "sigmoid": "Sigmoid", "relu": "Relu", "leaky_relu": "LeakyRelu", "softmax": "Softmax",
}  # fmt: skip


def export_onnx(
    module: nn.Module,
    example_input: Tensor,
    out: str | os.PathLike[str] | None = None,
    *,
    name: str = "model",
) -> onnx.ModelProto:
    """Write a recurrent module as an ONNX model that keeps its state outside.

    Inputs: ``input`` (T, B, I) float32 or tokens (T, B) int64, T and B free; and for each recurrent
    module ``h`` (L, B, H), for an LSTM also ``c``; with several recurrent modules ``h_0``, ``h_1`` and
    so on. Outputs: ``output`` (T, B, O), and the states after the last step, ``h_next`` and so on. Time
    is the first axis whatever ``batch_first`` the module has. Feed zeros to begin, and hand the states
    on to go on.

    Args:
        module: as for :func:`~bptt.export.export_c`.
        example_input: what the module takes, to check the export against it.
        out: a file to write, which must not exist yet; None writes nothing.
        name: of the graph.

    Returns:
        The model, checked by ``onnx.checker``.

    Raises:
        ArgumentError: an unsupported module, named by its path; bad weights; a file that exists.
        DependencyError: the package ``onnx`` is not installed.
        RunError: the file cannot be written; nothing is left behind.

    Cost: one pass over the example input; the file holds the weights once.

    Example:
        >>> import torch
        >>> model = export_onnx(torch.nn.LSTM(3, 5), torch.randn(4, 1, 3))
        >>> [i.name for i in model.graph.input], [o.name for o in model.graph.output]
        (['input', 'h', 'c'], ['output', 'h_next', 'c_next'])

    Source: ONNX operators, version 17: RNN, GRU, LSTM.
    """
    onnx = _onnx()
    target = None if out is None else Path(out)
    if target is not None and (target.exists() or target.is_symlink()):
        raise ArgumentError("a file that does not exist yet", str(target), "choose another --out")
    model = build(read_network(module, example_input), name)
    onnx.checker.check_model(model, full_check=True)
    if target is not None:
        remedy = "choose another one with --out"
        with refused(f"a file that can be written at {target}", remedy):
            target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, model.SerializeToString(), remedy)
    return model


def build(network: Network, name: str = "model") -> onnx.ModelProto:
    """The graph of a network; see :func:`export_onnx` for its inputs and outputs."""
    onnx = _onnx()
    graph = _Graph(onnx)
    kind = onnx.TensorProto.INT64 if network.tokens else onnx.TensorProto.FLOAT
    axes = ["T", "B"] if network.tokens else ["T", "B", network.input_size]
    inputs, outputs = [onnx.helper.make_tensor_value_info("input", kind, axes)], []
    value = "input"
    groups = _grouped(network)
    several = sum(isinstance(group[0], Recurrent) for group in groups) > 1
    for index, group in enumerate(groups):
        layer = group[0]
        if isinstance(layer, Embedding | OneHot):
            weight = layer.weight if isinstance(layer, Embedding) else np.eye(layer.size)
            value = graph.node("Gather", [graph.constant(f"embedding_{index}", weight), value])
        elif isinstance(layer, Activation) and layer.kind in _FUNCTION:
            value = graph.node(_FUNCTION[layer.kind], [value], **_options(layer))
        elif isinstance(layer, Norm):
            scale = graph.constant(f"scale_{index}", layer.weight)
            offset = graph.constant(f"offset_{index}", layer.bias)
            value = graph.node(
                "LayerNormalization", [value, scale, offset], axis=-1, epsilon=layer.eps
            )
        elif not isinstance(layer, Linear | Recurrent) or getattr(layer, "w_hr", None) is not None:
            raise ArgumentError(
                "layers that ONNX has: RNN, GRU, LSTM without proj_size, Linear, Embedding, Tanh, "
                "Sigmoid, ReLU, LeakyReLU, Softmax, LayerNorm, BatchNorm1d",
                f"{_kind(layer)} at {layer.name or 'the top of the model'}",
                "use torch.onnx.export, or export it as C",
            )
        elif isinstance(layer, Linear):
            matrix = graph.constant(f"weight_{index}", layer.weight.T)
            value = graph.node("MatMul", [value, matrix])
            value = graph.node("Add", [value, graph.constant(f"bias_{index}", layer.bias)])
        else:
            cells = [cell for cell in group if isinstance(cell, Recurrent)]
            suffix = f"_{sum(1 for i in inputs if i.name[0] == 'h')}" if several else ""
            letters = ["h", "c"] if layer.cell == "lstm" else ["h"]
            names = [letter + suffix for letter in letters]
            shape = [len(cells), "B", layer.hidden]
            for state in names:
                info = onnx.helper.make_tensor_value_info
                inputs.append(info(state, onnx.TensorProto.FLOAT, shape))
                outputs.append(info(f"{state}_next", onnx.TensorProto.FLOAT, shape))
            value = graph.stack(cells, value, names, index)
    graph.node("Identity", [value], output="output")
    info = onnx.helper.make_tensor_value_info
    outputs.insert(0, info("output", onnx.TensorProto.FLOAT, ["T", "B", network.output_size]))
    made = onnx.helper.make_graph(graph.nodes, name, inputs, outputs, graph.constants)
    # IR 8 is what opset 17 came with; a newer number would keep older runtimes from loading it.
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    return onnx.helper.make_model(made, opset_imports=opsets, ir_version=8, producer_name="bptt")


def add_linear(model: onnx.ModelProto, linear: Floats) -> onnx.ModelProto:
    """A linear model beside a network: its output is added, in each of as many places as fit.

    Args:
        model: of :func:`export_onnx`, with an output ``(T, B, n O)``.
        linear: ``(I, O)``; the model gets one more input, ``window (T, B, I)``.

    Returns:
        The same model, checked.
    """
    onnx, graph = _onnx(), model.graph
    size = graph.output[0].type.tensor_type.shape.dim[2].dim_value
    each = np.repeat(linear, size // linear.shape[1], axis=1).astype(np.float32)
    last = graph.node[-1]  # the Identity that names the output
    graph.initializer.append(onnx.numpy_helper.from_array(each, "window_weight"))
    graph.node.insert(
        len(graph.node) - 1,
        onnx.helper.make_node("MatMul", ["window", "window_weight"], ["window_said"]),
    )
    made = onnx.helper.make_node("Add", [last.input[0], "window_said"], ["output"])
    graph.node.remove(graph.node[-1])
    graph.node.append(made)
    info = onnx.helper.make_tensor_value_info
    graph.input.append(info("window", onnx.TensorProto.FLOAT, ["T", "B", len(linear)]))
    onnx.checker.check_model(model, full_check=True)
    return model


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise DependencyError(
            "the package onnx", "none", "install it: pip install 'bptt[onnx]'"
        ) from None
    return onnx


def _options(layer: Activation) -> dict[str, Any]:
    """Attributes of an activation's node."""
    if layer.kind == "softmax":
        return {"axis": -1}
    return {"alpha": layer.slope} if layer.kind == "leaky_relu" else {}


def _kind(layer: Layer) -> str:
    """What a layer is called in an error."""
    if isinstance(layer, Recurrent):
        return "LSTM with proj_size"
    return layer.kind if isinstance(layer, Activation) else type(layer).__name__


def _grouped(network: Network) -> list[list[Any]]:
    """Layers of one recurrent module together: their states are one tensor."""
    groups: list[list[Any]] = []
    for layer in network.layers:
        if isinstance(layer, Recurrent) and layer.layer > 0:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    return groups


class _Graph:
    """Nodes and constants as they come."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, values: Any, kind: str = "float32") -> str:
        array = np.ascontiguousarray(values, dtype=kind)
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def stack(self, cells: list[Recurrent], value: str, states: list[str], index: int) -> str:
        """The layers of one module, one node each; states split by layer and joined again."""
        helper, count = self.onnx.helper, len(cells)
        parts = {}
        for state in states:
            parts[state] = [f"{state}_layer{k}" for k in range(count)] if count > 1 else [state]
            if count > 1:
                sizes = self.constant(f"{state}_sizes", [1] * count, "int64")
                self.nodes.append(helper.make_node("Split", [state, sizes], parts[state], axis=0))
        axis = self.constant(f"direction_{index}", [1], "int64")
        for k, cell in enumerate(cells):
            kind, tag = _NODE[cell.cell], f"{index}_layer{k}"
            order = _ORDER[kind]
            w = self.constant(f"w_{tag}", _turned(cell.w_ih, order)[None])
            r = self.constant(f"r_{tag}", _turned(cell.w_hh, order)[None])
            both = np.concatenate([_turned(cell.b_ih, order), _turned(cell.b_hh, order)])
            b = self.constant(f"b_{tag}", both[None])
            attributes: dict[str, Any] = {"hidden_size": cell.hidden}
            if kind == "GRU":
                attributes["linear_before_reset"] = 1
            elif cell.cell == "rnn_relu":
                attributes["activations"] = ["Relu"]
            # "" stands for sequence lengths, which are not given: every lane runs all steps.
            inputs = [value, w, r, b, "", *(parts[s][k] for s in states)]
            finals = [f"{s}_next" if count == 1 else f"{s}_next_layer{k}" for s in states]
            y = f"y_{tag}"
            self.nodes.append(helper.make_node(kind, inputs, [y, *finals], **attributes))
            value = self.node("Squeeze", [y, axis])
        if count > 1:
            for state in states:
                finals = [f"{state}_next_layer{k}" for k in range(count)]
                self.node("Concat", finals, output=f"{state}_next", axis=0)
        return value


def _turned(values: Floats, order: tuple[int, ...]) -> Floats:
    """Rows of gates in another order."""
    gates = np.split(values, len(order))
    return np.concatenate([gates[g] for g in order])
