"""Converted layers left in place, in the hands of torch's own tools; and the way back."""

import copy
import io
import pickle
import subprocess

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.flop_counter import FlopCounterMode

import bptt
import torch_tools
from bptt.errors import ArgumentError
from compare import assert_close
from processes import interpreter
from torch_tools import KINDS, TOOLS, Net

# Torch's tools warn of each other, and of their age; ours has nothing to say of it.
pytestmark = [
    pytest.mark.filterwarnings("error::bptt.errors.ConvertWarning"),
    pytest.mark.filterwarnings("ignore"),
]
X = (2, 4, 3)
OURS = [getattr(bptt.nn, kind) for kind in KINDS]


def rows():
    for tool in TOOLS:
        for kind in tool.kinds:
            marks = [pytest.mark.slow] if kind in tool.slow else []
            yield pytest.param(tool, kind, marks=marks)


@pytest.mark.parametrize(("tool", "kind"), list(rows()), ids=lambda v: getattr(v, "name", v))
def test_every_row_of_the_table(tool, kind):
    assert tool.missing() == []
    assert torch_tools.outcome(tool, kind) == tool.verdict


def test_the_page_has_the_table():
    page = torch_tools.PAGE.read_text("utf-8")
    for tool in TOOLS:
        assert f"| {tool.name} | {tool.verdict} | {tool.holds} |\n" in page
    made = page.split("<!-- table -->")[1].split("<!-- end of the table -->")[0]
    assert len(made.strip().splitlines()) == len(TOOLS) + 2


def test_a_tool_that_fails_is_no_row_that_works():
    def broken(net, x):
        return lambda x: net(x) + isinstance(net.layer, bptt.nn.GRU)

    with pytest.raises(AssertionError):
        torch_tools.outcome(torch_tools.Tool("broken", broken, ""), "GRU")


MARKS = {
    "lengths": torch.tensor([4, 2]),
    "reset": torch.tensor([[False, True, False, False]] * 2),
    "cut": torch.tensor([[False, True, False, False]] * 2),
}


class Marked(nn.Module):
    def __init__(self, kind, mark):
        super().__init__()
        self.layer, self.mark = getattr(bptt.nn, kind)(3, 5, batch_first=True), mark

    def forward(self, x, given):
        return self.layer(x, **{self.mark: given})[0]


def traced(net, arguments):
    return torch.jit.trace(net, arguments)


def onnx_traced(net, arguments):
    return torch.onnx.export(net, arguments, io.BytesIO(), dynamo=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize(
    ("take", "tool"), [(traced, "torch.jit.trace"), (onnx_traced, "torch.onnx.export")]
)
def test_a_mark_that_torchs_operators_lack_is_refused_by_name(kind, mark, take, tool):
    net = Marked(kind, mark).eval()
    with pytest.raises(
        ArgumentError, match=rf"inside {tool}, received {mark}=.*bptt\.revert"
    ) as said:
        take(net, (torch.randn(X), MARKS[mark]))
    assert "\n" not in str(said.value)


def test_onnx_by_way_of_export_says_the_same():
    net, x = Marked("GRU", "reset").eval(), torch.randn(X)
    ours = r"torch\.onnx\.export, received reset=.*bptt\.revert"
    # torch 2.7 does not tell an operator that it is exported this way, and refuses it in its own words.
    own = torch.__version__.startswith("2.7.")
    with pytest.raises(RuntimeError, match=r"No ONNX function .*bptt\.recur" if own else ours):
        torch.onnx.export(net, (x, MARKS["reset"]), dynamo=True, verbose=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mark", MARKS)
def test_export_and_fx_keep_marks(kind, mark):
    net, x = Marked(kind, mark).eval(), torch.randn(X)
    expected = net(x, MARKS[mark])
    graph = torch.fx.symbolic_trace(net)
    assert_close(graph(x, MARKS[mark]), expected, 1e-6)
    program = torch.export.export(net, (x, MARKS[mark]), strict=False)
    assert_close(program.module()(x, MARKS[mark]), expected, 1e-6)
    assert any("bptt.recur" in str(node.target) for node in program.graph.nodes)


def test_scripting_names_a_mark():
    with pytest.raises(RuntimeError, match="reset"):
        torch.jit.script(Scripted())


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = bptt.nn.GRU(3, 5)

    def forward(self, x: torch.Tensor, reset: torch.Tensor):
        return self.layer(x, reset=reset)[0]


def call_shapes(kind):
    """Inputs and states of every form a layer takes: batched, unbatched, packed; with a state or not."""
    both = kind == "LSTM"
    for packed, dims in ((False, 3), (False, 2), (True, 3)):
        for given in (False, True):
            x = torch.randn(5, 2, 3) if dims == 3 else torch.randn(5, 3)
            if packed:
                x = pack_padded_sequence(x, torch.tensor([3, 5]), enforce_sorted=False)
            shape = (4, 2, 5) if dims == 3 else (4, 5)
            h = torch.randn(shape)
            yield x, (((h, torch.randn(shape)) if both else h) if given else None)


class Handed(nn.Module):
    """Hands everything to the layer and back; TorchScript knows the types of an input from a class."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer


class HandedTensor(Handed):
    def forward(self, x: torch.Tensor, h: torch.Tensor | None = None):
        return self.layer(x, h)


class HandedPair(Handed):
    def forward(self, x: torch.Tensor, h: tuple[torch.Tensor, torch.Tensor] | None = None):
        return self.layer(x, h)


class HandedPacked(Handed):
    def forward(self, x: nn.utils.rnn.PackedSequence, h: torch.Tensor | None = None):
        return self.layer(x, h)


class HandedPackedPair(Handed):
    def forward(
        self,
        x: nn.utils.rnn.PackedSequence,
        h: tuple[torch.Tensor, torch.Tensor] | None = None,
    ):
        return self.layer(x, h)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("RNN", {}), ("RNN", {"nonlinearity": "relu"}), ("GRU", {"bias": False}), ("LSTM", {})],
)
def test_scripts_take_every_form_of_a_call(kind, options, first):
    theirs = getattr(nn, kind)(3, 5, 2, bidirectional=True, batch_first=first, **options)
    ours = bptt.convert(copy.deepcopy(theirs))
    wrapped = (HandedPair, HandedPackedPair) if kind == "LSTM" else (HandedTensor, HandedPacked)
    scripts = [torch.jit.script(wrapper(ours)) for wrapper in wrapped]
    for x, state in call_shapes(kind):
        packed = isinstance(x, nn.utils.rnn.PackedSequence)
        if first and not packed and x.dim() == 3:
            x = x.transpose(0, 1)
        assert_close(scripts[packed](x, state), theirs(x, state), 1e-6)


def test_a_projected_lstm_is_scripted():
    lstm = bptt.nn.LSTM(3, 5, proj_size=2)
    x = torch.randn(4, 2, 3)
    assert_close(torch.jit.script(HandedPair(lstm))(x), lstm(x), 1e-6)


def test_a_forward_of_ones_own_is_never_passed_over():
    class Mine(bptt.nn.GRU):
        def forward(self, x: torch.Tensor):
            return x + 1

    class Further(Mine):
        pass

    for kind in (Mine, Further):
        x = torch.randn(4, 2, 3)
        assert_close(torch.jit.script(nn.Sequential(kind(3, 3)))(x), x + 1, 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_of_torchs_layer_before_leaves_nothing_behind(kind):
    net = Net(kind).eval()
    x = torch.randn(X)
    torch.jit.script(net)
    bptt.convert(net)
    assert_close(torch.jit.script(net)(x), net(x), 1e-6)
    bptt.revert(net)
    assert_close(torch.jit.script(net)(x), net(x), 1e-6)
    assert type(net.layer) is getattr(nn, kind)


def test_fx_refuses_what_it_would_run_twice_and_a_layer_alone():
    net = bptt.convert(Net("GRU"))
    handle = net.layer.register_forward_hook(lambda module, given, found: None)
    with pytest.raises(ArgumentError, match=r"with forward_hooks.*bptt\.revert"):
        torch.fx.symbolic_trace(net)
    handle.remove()
    torch.fx.symbolic_trace(net)
    with pytest.raises(ArgumentError, match=r"put it into a torch\.nn\.Sequential"):
        torch.fx.symbolic_trace(net.layer)


def test_quantizing_leaves_the_model_as_it_was():
    net = bptt.convert(Net("LSTM").eval())
    torch.ao.quantization.quantize_dynamic(net, {nn.LSTM})
    assert type(net.layer) is bptt.nn.LSTM
    torch.ao.quantization.quantize_dynamic(net, {nn.LSTM}, inplace=True)
    assert "quantized" in type(net.layer).__module__


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("needs", [False, True])
@pytest.mark.parametrize("form", ["padded", "packed", "batch first"])
@pytest.mark.parametrize("kind", ["RNN", "GRU"])
def test_flops_are_torchs(kind, form, needs, backward):
    counts = []
    for library in (nn, bptt.nn):
        layer = getattr(library, kind)(
            3, 4, 2, bidirectional=True, batch_first=form == "batch first"
        )
        x = torch.randn(5, 4, 3, requires_grad=needs)
        h = torch.zeros(4, 5 if form == "batch first" else 4, 4, requires_grad=needs)
        given = pack_padded_sequence(x, torch.tensor([5, 4, 2, 1])) if form == "packed" else x
        with FlopCounterMode(display=False) as counter:
            y = layer(given, h)[0]
            if backward:
                (y.data if form == "packed" else y).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[1] == counts[0] > 0


def test_repr_says_whose_a_layer_is():
    model = nn.Sequential(nn.GRU(3, 5), Extended(5, 4))
    before = repr(model)
    bptt.convert(model)
    assert "(0): bptt.nn.GRU(3, 5)" in repr(model)
    assert "(1): Extended[bptt.nn.LSTM](5, 4)" in repr(model)
    assert repr(bptt.revert(model)) == before


class Extended(nn.LSTM):
    """Its forward is torch's own."""


def test_revert_keeps_everything_but_the_class():
    model = nn.Sequential(nn.GRU(3, 5), nn.ModuleList([Extended(5, 4)]), nn.Linear(3, 3))
    kinds = [type(module) for module in model.modules()]
    parameters, seen = list(model.parameters()), []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    model.eval()
    model[0].train()
    before = [vars(module).keys() for module in model.modules()]
    bptt.convert(model)
    assert isinstance(model[1][0], (Extended, bptt.nn.LSTM))
    x = torch.randn(4, 2, 3)
    expected = model[0](x)
    assert bptt.revert(model) is model
    assert [type(module) for module in model.modules()] == kinds
    assert [vars(module).keys() for module in model.modules()] == before
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert_close(model[0](x), expected, 1e-6)
    assert len(seen) == 2
    assert (model.training, model[0].training) == (False, True)
    with pytest.raises(TypeError, match="reset"):
        model[0](x, reset=torch.zeros(4, 2, dtype=torch.bool))


@pytest.mark.parametrize("kind", OURS)
def test_a_layer_made_as_ours_reverts_too_and_its_pickle_needs_no_bptt(kind):
    layer = kind(3, 4)
    assert b"bptt" in pickle.dumps(layer)
    bptt.revert(layer)
    assert type(layer) is getattr(nn, kind.__name__)
    assert b"bptt" not in pickle.dumps(layer)


@pytest.mark.parametrize("make", [lambda: nn.GRU(3, 4), lambda: Extended(3, 4)])
def test_revert_keeps_parametrizations(make):
    layer = make()
    kind = type(layer)
    bptt.convert(layer)
    nn.utils.parametrizations.orthogonal(layer, "weight_hh_l0")
    x = torch.randn(5, 2, 3)
    expected = layer(x)
    bptt.revert(layer)
    assert isinstance(layer, kind)
    assert not isinstance(layer, (bptt.nn.GRU, bptt.nn.LSTM))
    assert_close(copy.deepcopy(layer)(x), expected, 1e-6)
    assert_close(layer(x), expected, 1e-6)
    nn.utils.parametrize.remove_parametrizations(layer, "weight_hh_l0")
    assert type(layer) is kind


def test_what_cannot_go_back_is_named():
    class Mine(bptt.nn.GRU):
        pass

    model = nn.ModuleDict(
        {
            "mine": Mine(3, 4),
            "text": bptt.models.LanguageModel(9, hidden=4),
            "good": bptt.nn.RNN(3, 4),
        }
    )
    with pytest.warns(bptt.ConvertWarning) as said:
        bptt.revert(model)
    assert len(said) == 1
    message = str(said[0].message)
    assert "mine (Mine is derived from bptt.nn's class)" in message
    assert "text.recurrent (LanguageModel calls it as torch's cannot be called)" in message
    assert "good" not in message
    assert type(model["good"]) is nn.RNN
    model["text"](torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ArgumentError, match="pass the model itself"):
        bptt.revert("gru")


def test_a_language_model_is_traced():
    model = bptt.models.LanguageModel(9, hidden=4, layers=2).eval()
    tokens = torch.randint(9, (5, 2))
    script = torch.jit.trace(model, tokens)
    assert_close(script(tokens)[0], model(tokens)[0], 1e-6)


class Twice(nn.Module):
    """As a scikit-learn estimator holds a module: as a parameter that clone copies, or builds anew."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer


def test_what_a_clone_does_keeps_the_conversion():
    layer = bptt.convert(Extended(3, 4))
    for twin in (
        copy.deepcopy(Twice(layer)).layer,
        type(layer)(3, 4),
        type(layer)(input_size=3, hidden_size=4),
    ):
        assert type(twin) is type(layer)
        twin.load_state_dict(layer.state_dict())
        x = torch.randn(5, 2, 3)
        assert_close(twin(x), layer(x), 0.0)


LOADED = """
import sys, torch
for name, home in (("ours", "bptt"), ("theirs", "torch")):
    layer, y = torch.load(f"{sys.argv[1]}/{name}", weights_only=False)
    assert type(layer).__name__ == "GRU" and type(layer).__module__.split(".")[0] == home
    torch.testing.assert_close(layer(torch.ones(4, 2, 3))[0], y)
"""


def test_saved_layers_are_loaded_by_another_process(tmp_path):
    layer = bptt.convert(nn.GRU(3, 4))
    y = layer(torch.ones(4, 2, 3))[0].detach()
    torch.save((layer, y), tmp_path / "ours")
    torch.save((bptt.revert(layer), y), tmp_path / "theirs")
    done = subprocess.run(
        [*interpreter(), "-c", LOADED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
