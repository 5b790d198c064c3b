"""TorchRL's modules over whole batches, with the library itself: values, states, gradients, runs."""

from __future__ import annotations

import copy
import io
import pickle
import sys

import pytest
import tensordict
import torch
from torch import nn
from torchrl import modules

import bptt
from bptt.errors import ArgumentError, ConvertWarning, DependencyError
from bptt.integrations import torchrl

KINDS = {"gru": modules.GRUModule, "lstm": modules.LSTMModule}


def made(kind, **options):
    return KINDS[kind](4, 5, in_key="seen", out_key="features", **options)


def batch(module, shape, share=0.3, states="none"):
    """Trajectories in rows; with states given, as a collector keeps them or anywhere."""
    found = tensordict.TensorDict(
        {"seen": torch.randn(*shape, 4), "is_init": torch.rand(*shape, 1) < share}, shape
    )
    layers = next(m.num_layers for m in module.modules() if isinstance(m, nn.RNNBase))
    if states != "none":
        for key in module.in_keys[1:-1]:
            found[key] = torch.randn(*shape, layers, 5)
            if states == "zero at is_init":
                found[key][found["is_init"].squeeze(-1)] = 0
    return found


def results(module, data):
    """Outputs, and every gradient."""
    data = data.clone()
    seen = data["seen"].requires_grad_()
    with modules.set_recurrent_mode(True):
        module(data)
    outputs = [data[key] for key in module.out_keys]
    sum(value.square().sum() for value in outputs).backward()
    return [*outputs, seen.grad, *(p.grad for p in module.parameters())]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("python_based", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("shape", [(3, 7), (7,), (2, 2, 5), (4, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_batch_is_theirs_with_its_gradients(kind, python_based, layers, shape, share) -> None:
    theirs = made(kind, python_based=python_based, num_layers=layers)
    ours = torchrl.convert(copy.deepcopy(theirs))
    for states in ("none", "zero at is_init", "anywhere"):
        data = batch(theirs, shape, share, states)
        theirs.zero_grad()
        ours.zero_grad()
        for mine, other in zip(results(ours, data), results(theirs, data), strict=True):
            torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("python_based", [False, True])
@pytest.mark.parametrize("options", [{"bias": False}, {"recurrent_backend": "auto"}], ids=str)
def test_options(kind, python_based, options) -> None:
    theirs = made(kind, python_based=python_based, **options)
    ours = torchrl.convert(copy.deepcopy(theirs))
    data = batch(theirs, (3, 6))
    for mine, other in zip(results(ours, data), results(theirs, data), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_two_directions_and_a_projection(kind) -> None:
    options = [{"bidirectional": True}] + ([{"proj_size": 3}] if kind == "lstm" else [])
    for more in options:
        theirs = made(kind, **more)
        ours = torchrl.convert(copy.deepcopy(theirs))
        data = batch(theirs, (3, 6))
        for mine, other in zip(results(ours, data), results(theirs, data), strict=True):
            torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("python_based", [False, True])
def test_one_step_as_a_collector_takes_it(kind, python_based) -> None:
    theirs = made(kind, python_based=python_based)
    ours = torchrl.convert(copy.deepcopy(theirs))
    for shape in ((), (3,), (2, 3)):
        data = batch(theirs, shape, 0.5, "anywhere")
        one, other = ours(data.clone()), theirs(data.clone())
        for key in theirs.out_keys:
            torch.testing.assert_close(one[key], other[key], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_in_place_of_a_tensordict(kind) -> None:
    ours = torchrl.convert(made(kind, default_recurrent_mode=True))
    data = batch(ours, (3, 7))
    states = [torch.zeros(3, 7, 1, 5) for _ in ours.in_keys[1:-1]]
    features, *_ = ours(data["seen"], *states, data["is_init"])
    torch.testing.assert_close(features, ours(data)["features"])


@pytest.mark.parametrize("kind", KINDS)
def test_one_call_of_the_layer(kind, monkeypatch) -> None:
    ours = torchrl.convert(made(kind))
    layer, calls = getattr(ours, kind), []
    layer.register_forward_hook(lambda *seen: calls.append(1))
    with modules.set_recurrent_mode(True):
        ours(batch(ours, (4, 20), 0.4))
    assert calls == [1]


@pytest.mark.parametrize("kind", KINDS)
def test_many_sets_of_weights_at_once(kind) -> None:
    """vmap over the weights, as TorchRL's losses do with several critics: python_based is for that."""
    theirs = made(kind, python_based=True)
    ours = torchrl.convert(copy.deepcopy(theirs))
    data, found = batch(theirs, (3, 7)), []
    for module in (theirs, ours):
        weights = tensordict.TensorDict.from_module(module).data
        several = torch.stack([weights, weights + 0.1], 0)

        def run(one, module=module):
            with one.to_module(module), modules.set_recurrent_mode(True):
                return module(data.clone())["features"]

        found.append(torch.vmap(run)(several))
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("python_based", [False, True])
def test_copies_pickles_and_state_dicts(kind, python_based) -> None:
    theirs = made(kind, python_based=python_based)
    ours = torchrl.convert(copy.deepcopy(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    data = batch(ours, (3, 7))
    with modules.set_recurrent_mode(True):
        expected = ours(data.clone())["features"]
        for twin in (
            copy.deepcopy(ours),
            pickle.loads(pickle.dumps(ours)),
            torch.load(file, weights_only=False),
        ):
            assert isinstance(getattr(twin, kind), getattr(bptt.nn, kind.upper()))
            assert torch.equal(twin(data.clone())["features"], expected)
        fresh = torchrl.convert(made(kind, python_based=python_based))
        fresh.load_state_dict(theirs.state_dict())
        assert torch.equal(fresh(data.clone())["features"], expected)


def test_inside_a_policy_and_twice() -> None:
    policy = nn.ModuleDict({"memory": made("gru"), "critic": made("lstm"), "head": nn.Linear(5, 2)})
    torchrl.convert(policy)
    kinds = [type(policy["memory"]), type(policy["critic"])]
    assert [k.__name__ for k in kinds] == ["WholeGRUModule", "WholeLSTMModule"]
    assert torchrl.convert(policy) is policy
    assert [type(policy["memory"]), type(policy["critic"])] == kinds


def test_a_subclass_is_left_and_named() -> None:
    class Own(modules.GRUModule):
        pass

    policy = nn.ModuleDict({"memory": Own(4, 5, in_key="seen", out_key="features")})
    with pytest.warns(ConvertWarning, match=r"memory \(Own\)"):
        torchrl.convert(policy)
    assert type(policy["memory"]) is Own


@pytest.mark.parametrize(
    ("wrong", "said"), [(nn.GRU(3, 4), "GRU without one"), ("policy", "received str")]
)
def test_what_holds_no_such_module(wrong, said) -> None:
    with pytest.raises(ArgumentError, match=said):
        torchrl.convert(wrong)


def test_half_of_the_states() -> None:
    ours = torchrl.convert(made("lstm"))
    data = batch(ours, (3, 7))
    data["recurrent_state_h"] = torch.zeros(3, 7, 1, 5)
    with (
        modules.set_recurrent_mode(True),
        pytest.raises(ArgumentError, match="recurrent_state_h and recurrent_state_c"),
    ):
        ours(data)


def test_without_the_library(monkeypatch) -> None:
    torchrl._classes.cache_clear()
    monkeypatch.setitem(sys.modules, "torchrl.modules", None)
    with pytest.raises(DependencyError, match=r"pip install 'bptt\[rl\]'"):
        torchrl.convert(nn.Linear(2, 2))


def test_names_that_it_has_not() -> None:
    with pytest.raises(AttributeError, match="WholeRNNModule"):
        torchrl.WholeRNNModule
