"""Torch's tools on a model whose layers were converted: what each makes of it.

Each row of ``TOOLS`` takes a model to somewhere and gives back what computes its outputs there.
``python tests/torch_tools.py`` tries every row whose packages are there, installs nothing, and writes the
table of ``docs/torch_tools.md``.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import pickle
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import bptt

PAGE = Path(__file__).parents[1] / "docs" / "torch_tools.md"
WORKS, REVERT = "works", "use `bptt.revert`"
KINDS = ("RNN", "GRU", "LSTM")


class Net(nn.Module):
    """A layer between two others, as in most models."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.before = nn.Linear(3, 3)
        self.layer = getattr(nn, kind)(3, 5, num_layers=2, batch_first=True, bidirectional=True)
        self.after = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.layer(torch.relu(self.before(x)))
        return self.after(y)


Runs = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tool:
    """One row: how a model gets there, what stands there in the layer's place, and what it needs."""

    name: str
    take: Callable[[Any, Tensor], Runs]
    holds: str
    verdict: str = WORKS
    kinds: tuple[str, ...] = KINDS
    needs: tuple[str, ...] = ()
    one_shape: bool = False  # torch's result is for the shape that it was made with
    torch_too: bool = True  # torch's own layers can be taken there
    slow: tuple[str, ...] = ()  # kinds that the quick tests leave out

    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def _script(net: Any, x: Tensor) -> Runs:
    return _reloaded(torch.jit.script(net))


def _trace(net: Any, x: Tensor) -> Runs:
    return _reloaded(torch.jit.trace(net, x))


def _reloaded(module: Any) -> Runs:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def _frozen(net: Any, x: Tensor) -> Runs:
    return torch.jit.optimize_for_inference(torch.jit.script(net))


def _onnx_traced(net: Any, x: Tensor) -> Runs:
    buffer = io.BytesIO()
    names = {"input_names": ["x"], "output_names": ["y"]}
    torch.onnx.export(net, (x,), buffer, dynamo=False, dynamic_axes={"x": [0, 1]}, **names)
    return _session(buffer.getvalue())


def _onnx_exported(net: Any, x: Tensor) -> Runs:
    with contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(net, (x,), dynamo=True, verbose=False)
    return _session(program.model_proto.SerializeToString())


def _session(model: bytes) -> Runs:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def _export(strict: bool) -> Callable[[Any, Tensor], Runs]:
    def take(net: Any, x: Tensor) -> Runs:
        free = {"x": {0: torch.export.Dim("lanes", min=2, max=9)}}
        program = torch.export.export(net, (x,), dynamic_shapes=free, strict=strict)
        assert not any("bptt" in str(node.target) for node in program.graph.nodes)
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        buffer.seek(0)
        return torch.export.load(buffer).module()

    return take


def _fx(net: Any, x: Tensor) -> Runs:
    graph = torch.fx.symbolic_trace(net)
    assert [n.target for n in graph.graph.nodes if n.op == "call_module"] == [
        "before", "layer", "after",
    ]  # fmt: skip
    return graph


def _make_fx(net: Any, x: Tensor) -> Runs:
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(net)(x)


def _compile(net: Any, x: Tensor) -> Runs:
    return torch.compile(net, backend="aot_eager")


def _quantize_dynamic(net: Any, x: Tensor) -> Runs:
    small = torch.ao.quantization.quantize_dynamic(net, {nn.LSTM, nn.GRU, nn.Linear})
    assert "quantized" in type(small.layer).__module__
    return small


def _prepare(net: Any, x: Tensor) -> Runs:
    from torch.ao.quantization import default_dynamic_qconfig, prepare

    net = copy.deepcopy(net)
    net.qconfig = default_dynamic_qconfig
    return prepare(net)


def _prepare_fx(net: Any, x: Tensor) -> Runs:
    from torch.ao.quantization import QConfigMapping, default_dynamic_qconfig
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    setting = QConfigMapping().set_object_type(nn.LSTM, default_dynamic_qconfig)
    return convert_fx(prepare_fx(net, setting, (x,)))


def _flops(net: Any, x: Tensor) -> Runs:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x)
    lanes, steps, _ = x.shape
    gates = {"RNN_TANH": 1, "GRU": 3, "LSTM": 4}[net.layer.mode]
    macs = 2 * gates * 5 * (3 + 5) + 2 * gates * 5 * (10 + 5) + 3 * 3 + 10 * 2
    # torch's own LSTM runs in an operator that its counter does not know.
    if isinstance(net.layer, bptt.nn.RNN | bptt.nn.GRU | bptt.nn.LSTM):
        assert counter.get_total_flops() == 2 * lanes * steps * macs
    return net


def _profile(net: Any, x: Tensor) -> Runs:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        net(x)
    return net


def _functional(net: Any, x: Tensor) -> Runs:
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    return lambda x: torch.func.functional_call(net, weights, (x,))


def _vmap(net: Any, x: Tensor) -> Runs:
    return lambda x: torch.func.vmap(net)(x[None])[0]


def _checkpoint(net: Any, x: Tensor) -> Runs:
    from torch.utils.checkpoint import checkpoint

    return lambda x: checkpoint(net, x, use_reentrant=False)


def _prune(net: Any, x: Tensor) -> Runs:
    from torch.nn.utils import prune

    prune.random_unstructured(net.layer, "weight_hh_l1", 0.0)
    return net


def _weight_norm(net: Any, x: Tensor) -> Runs:
    nn.utils.weight_norm(net.layer, "weight_hh_l0")
    return net


def _parametrized(net: Any, x: Tensor) -> Runs:
    nn.utils.parametrizations.weight_norm(net.layer, "weight_hh_l0")
    return net


def _deepcopy(net: Any, x: Tensor) -> Runs:
    return _kept(net, copy.deepcopy(net))


def _pickle(net: Any, x: Tensor) -> Runs:
    return _kept(net, pickle.loads(pickle.dumps(net)))


def _save(net: Any, x: Tensor) -> Runs:
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    return _kept(net, torch.load(buffer, weights_only=False))


def _state_dict(net: Any, x: Tensor) -> Runs:
    plain = Net({"RNN_TANH": "RNN"}.get(net.layer.mode, net.layer.mode))
    plain.load_state_dict(net.state_dict())
    net.load_state_dict(plain.state_dict())
    return net


def _kept(net: Any, twin: Any) -> Runs:
    assert type(twin.layer) is type(net.layer)
    return twin


TORCHS, OURS, LEAF = "torch's operators", "our operator", "our layer"
TOOLS = [
    Tool("`torch.jit.trace`", _trace, TORCHS),
    Tool("`torch.jit.script`", _script, TORCHS),
    Tool("`torch.jit.optimize_for_inference`", _frozen, TORCHS),
    Tool("`torch.onnx.export(dynamo=False)`", _onnx_traced, TORCHS, needs=("onnx", "onnxruntime")),
    Tool(
        "`torch.onnx.export(dynamo=True)`", _onnx_exported, TORCHS,
        needs=("onnx", "onnxruntime", "onnxscript"), one_shape=True, slow=("RNN", "LSTM"),
    ),
    Tool("`torch.export.export`", _export(False), TORCHS, slow=("RNN", "LSTM")),
    Tool("`torch.export.export(strict=True)`", _export(True), TORCHS, slow=KINDS),
    Tool("`torch.fx.symbolic_trace`", _fx, f"{LEAF}, one node of the graph"),
    Tool("`torch.fx.experimental.proxy_tensor.make_fx`", _make_fx, OURS, one_shape=True),
    Tool("`torch.compile`", _compile, OURS),
    Tool(
        "`torch.ao.quantization.quantize_dynamic`", _quantize_dynamic, "torch's int8 layer",
        kinds=("GRU", "LSTM"),
    ),
    Tool("`torch.ao.quantization.prepare`", _prepare, "torch's layer, in the copy"),
    Tool(
        "`torch.ao.quantization.quantize_fx.prepare_fx`", _prepare_fx, "torch's int8 layer",
        REVERT, ("LSTM",),
    ),
    Tool("`torch.utils.flop_counter.FlopCounterMode`", _flops, OURS),
    Tool("`torch.profiler.profile`", _profile, LEAF),
    Tool("`torch.func.functional_call`", _functional, LEAF),
    Tool("`torch.func.vmap`", _vmap, "our recurrence in plain torch", torch_too=False),
    Tool("`torch.utils.checkpoint.checkpoint`", _checkpoint, LEAF),
    Tool("`torch.nn.utils.prune`", _prune, LEAF),
    Tool("`torch.nn.utils.weight_norm`", _weight_norm, LEAF),
    Tool("`torch.nn.utils.parametrizations`", _parametrized, LEAF),
    Tool("`state_dict`, `load_state_dict`", _state_dict, LEAF),
    Tool("`copy.deepcopy`", _deepcopy, LEAF),
    Tool("`pickle`", _pickle, LEAF),
    Tool("`torch.save`, `torch.load`", _save, LEAF),
]  # fmt: skip


def outcome(tool: Tool, kind: str) -> str:
    """What becomes of a converted model: works, use revert, or what went wrong. Equality is checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's tools warn of each other; ours has nothing to say
        warnings.simplefilter("error", bptt.ConvertWarning)
        return _outcome(tool, kind)


def _outcome(tool: Tool, kind: str) -> str:
    net = Net(kind).eval()
    mine = bptt.convert(copy.deepcopy(net))
    x, other = torch.randn(2, 4, 3), torch.randn(3, 4, 3)
    expected = tool.take(net, x) if tool.torch_too else net
    try:
        found = tool.take(mine, x)
    except bptt.errors.BpttError as error:
        if "bptt.revert" not in str(error) or "\n" in str(error):
            raise
        verdict = REVERT
        assert bptt.revert(mine) is mine
        found = tool.take(mine, x)
    else:
        verdict = WORKS
        if "layer" in vars(mine)["_modules"]:  # still there, still ours
            assert type(mine.layer).__mro__[0].__module__.startswith(("bptt", "torch.nn.utils"))
    for value in (x,) if tool.one_shape else (x, other):
        torch.testing.assert_close(found(value), expected(value), atol=1e-5, rtol=1e-5)
    return verdict


def table() -> str:
    """The table of the page; a row whose packages are not there says so."""
    lines = [
        "| torch's tool | a converted model | what stands there for the layer |",
        "|---|---|---|",
    ]
    for tool in TOOLS:
        if missing := tool.missing():
            said = f"not tried: needs {', '.join(missing)}"
        else:
            said = "; ".join(sorted({outcome(tool, kind) for kind in tool.kinds}))
        lines.append(f"| {tool.name} | {said} | {tool.holds} |")
    return "\n".join(lines)


def put(page: str, made: str) -> str:
    """The page with its table replaced."""
    before, rest = page.split("<!-- table -->\n", 1)
    _, after = rest.split("<!-- end of the table -->", 1)
    return f"{before}<!-- table -->\n{made}\n<!-- end of the table -->{after}"


if __name__ == "__main__":
    made = table()
    print(made)
    with tempfile.NamedTemporaryFile("w", dir=PAGE.parent, delete=False, encoding="utf-8") as new:
        new.write(put(PAGE.read_text("utf-8"), made))
    Path(new.name).replace(PAGE)
