"""What cannot be exported is refused, by name and place, and nothing is left behind."""

import pytest
import torch
from torch import nn

from bptt import export_c
from bptt.errors import ArgumentError, BpttError, DtypeError, ShapeError
from bptt.export.network import Network
from bptt.files.write import write_folder
from bptt.models import LanguageModel, WindowModel

X = torch.randn(5, 1, 3)


def refuse(module, match, x=X, error=ArgumentError, **options):
    with pytest.raises(error, match=match) as raised:
        export_c(module, x, **options)
    assert "\n" not in str(raised.value)


class Model(nn.Module):
    def __init__(self, forward, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)
        self.how = forward

    def forward(self, x):
        return self.how(self, x)


def test_modules_outside_what_is_supported_are_named_with_their_path():
    inner = nn.Sequential(nn.GRU(3, 4), nn.GroupNorm(1, 4))
    refuse(nn.Sequential(inner, nn.Linear(4, 2)), r"GroupNorm at 0\.1")
    refuse(nn.GRU(3, 4, bidirectional=True), r"GRU \(bidirectional\) at the top of the model")
    refuse(nn.Sequential(nn.GRU(3, 4), nn.LayerNorm([4, 4])), "LayerNorm over 2 axes at 1")
    refuse(
        nn.Sequential(nn.GRU(3, 4), nn.BatchNorm1d(4, track_running_stats=False)),
        "BatchNorm1d without running statistics at 1",
    )
    refuse(nn.Sequential(nn.GRU(3, 4), nn.Linear(4, 2), nn.Conv1d(2, 2, 1)), "Conv1d at 2")
    refuse(nn.Linear(3, 4), "at least one recurrent layer")
    refuse(nn.Sequential(nn.GRU(3, 4), nn.Embedding(9, 4)), "Embedding only as the first layer")
    refuse(nn.Sequential(nn.GRU(3, 4), nn.Linear(5, 2)), r"input 5 at 1")
    refuse("a path", "torch.nn.Module")
    refuse(WindowModel(5), "at least one recurrent layer", torch.zeros(4, 1, dtype=torch.long))


def test_a_module_that_runs_twice_is_exported_twice():
    twice = nn.Linear(4, 4)
    network = export_c(nn.Sequential(nn.GRU(3, 4), twice, twice), X).network
    assert [type(layer).__name__ for layer in network.layers] == ["Recurrent", "Linear", "Linear"]


def test_an_option_of_the_other_precision_is_refused():
    refuse(nn.GRU(3, 4), "output_bits for int8", output_bits=16)
    refuse(nn.GRU(3, 4), "activations for float32", precision="int8", activations="libm")


def test_a_subclass_may_compute_anything():
    class Mine(nn.GRU):
        pass

    refuse(Mine(3, 4), "Mine at the top")


def test_hooked_modules():
    hooked = nn.GRU(3, 4)
    hooked.register_forward_hook(lambda m, a, out: out)
    refuse(hooked, "forward hook")


def test_a_parameter_that_would_be_left_behind_is_an_error():
    model = Model(lambda m, x: m.rnn(x)[0] * m.scale, rnn=nn.GRU(3, 4))
    model.scale = nn.Parameter(torch.ones(4))
    refuse(model, "scale, which no layer")


def test_a_forward_that_does_something_else_is_found_out():
    refuse(
        Model(lambda m, x: torch.sin(m.out(m.rnn(x)[0])), rnn=nn.GRU(3, 4), out=nn.Linear(4, 2)),
        "forward that calls its layers one after another.*also computes sin",
    )
    refuse(
        Model(lambda m, x: m.rnn(m.first(x))[0] + x, first=nn.Linear(3, 3), rnn=nn.GRU(3, 3)),
        "first, rnn",
    )


def test_one_hot_tokens_are_checked_too():
    tokens = torch.tensor([[0], [2], [1], [0]])
    good = Model(lambda m, x: m.out(m.rnn(x)[0]), rnn=nn.GRU(3, 4), out=nn.Linear(4, 2))
    assert export_c(good, tokens).network.tokens == 3
    assert export_c(nn.LSTM(3, 4, batch_first=True), tokens).network.tokens == 3
    bad = Model(lambda m, x: m.out(m.rnn(2 * x)[0]), rnn=nn.GRU(3, 4), out=nn.Linear(4, 2))
    refuse(bad, "calls its layers one after another", tokens)


def test_a_forward_in_order_is_taken_whatever_it_returns():
    for how in (
        lambda m, x: m.out(m.rnn(x)[0]),
        lambda m, x: (m.out(m.rnn(x)[0]), None),
        lambda m, x: m.out(m.rnn(x)[0][-1]),
    ):
        export = export_c(Model(how, rnn=nn.GRU(3, 4), out=nn.Linear(4, 2)), X)
        assert isinstance(export.network, Network)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39])
def test_weights_that_are_not_finite(value):
    module = nn.Sequential(nn.GRU(3, 4), nn.Linear(4, 2)).double()
    with torch.no_grad():
        module[1].weight[1, 2] = value
    refuse(module, r"1 NaN or infinite in 1\.weight", X.double())


@pytest.mark.parametrize(
    "name", ["", "2fast", "a-b", "für", "int", "a" * 22, "a__b", "x;", "_x", "Example"]
)
def test_names_that_are_not_c_identifiers(name):
    refuse(nn.GRU(3, 4), "C identifier", name=name)


def test_example_inputs_that_do_not_fit():
    refuse(nn.GRU(3, 4), "I=3", torch.randn(5, 1, 2), ShapeError)
    refuse(nn.GRU(3, 4), "axes T, B, I", torch.randn(5), ShapeError)
    refuse(nn.GRU(3, 4), "axes T, B, I", torch.randn(0, 1, 3), ShapeError)
    refuse(nn.GRU(3, 4), "a tensor", [[1.0]], DtypeError)
    refuse(LanguageModel(5, hidden=3), "tokens from 0 to V-1=4", torch.tensor([[5]]))
    refuse(LanguageModel(5, hidden=3), "integer tokens", torch.randn(4, 1), DtypeError)
    refuse(nn.GRU(3, 4), "float32, int8", precision="int4")
    refuse(nn.GRU(3, 4), "own, libm", activations="fast")
    refuse(nn.GRU(3, 4), "8 or 16", torch.randn(1000, 1, 3), precision="int8", output_bits=4)


def test_nothing_is_written_over_or_half_written(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    (tmp_path / "file").touch()
    for name in ("full", "file"):
        refuse(nn.GRU(3, 4), "precious" if name == "full" else "a file", out=tmp_path / name)
    with pytest.raises(BpttError, match="a folder that can be written"):
        write_folder(tmp_path / "new", {"a": "1", "no/such/folder": "2"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "full"]
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["precious"]

    (tmp_path / "empty").mkdir()
    export_c(nn.GRU(3, 4), X, tmp_path / "empty", name="net")
    written = sorted(p.name for p in (tmp_path / "empty").iterdir())
    assert written == ["Makefile", "example.c", "net.c", "net.h"]


def test_exporting_changes_nothing():
    model = nn.Sequential(nn.GRU(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    export_c(model, X)
    assert all(m.training for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
