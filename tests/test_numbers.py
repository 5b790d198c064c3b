"""Numbers out of NumPy and torch are taken by everything public, others refused by their type."""

import dataclasses
import inspect
import types

import numpy as np
import pytest
import torch
from torch import nn

import bptt
from bptt.data import Lanes, RandomChunks
from bptt.errors import ArgumentError, BpttError, NumberError, optional, plain, real, whole
from bptt.gradients import Checkpointed, ForwardMode, Full, Truncated
from calls_with_numbers import (
    FLOATS,
    INTEGERS,
    REAL,
    SIZES,
    WHOLE,
    arguments,
    call,
    spectrum,
)


def told_apart(value, depth=3):
    """A value as plain data, by which two can be compared; NumPy's scalars show."""
    if isinstance(value, torch.Tensor):
        return [*value.shape], str(value.dtype), repr(value.detach().flatten().tolist())
    if isinstance(value, np.ndarray):
        return value.shape, repr(value.tolist())
    if isinstance(value, nn.Module):
        weights = {n: told_apart(w) for n, w in value.state_dict().items()}
        return [(repr(type(x)), extra(x)) for x in value.modules()], weights
    if dataclasses.is_dataclass(value):
        fields = [getattr(value, f.name) for f in dataclasses.fields(value) if f.compare]
        return type(value), [told_apart(f, depth - 1) for f in fields]
    if isinstance(value, (list, tuple)):
        return [told_apart(v, depth) for v in value]
    if isinstance(value, dict):
        return {n: told_apart(v, depth - 1) for n, v in value.items()} if depth else None
    if isinstance(value, (Lanes, RandomChunks, bptt.Stream)):
        return told_apart({n: v for n, v in vars(value).items() if n[:1] != "_"}, 1)
    if isinstance(value, (str, int, float, np.generic, types.NoneType)):
        return type(value), repr(value)
    return type(value).__name__


def extra(module):
    """What a module keeps besides its weights."""
    return {n: (type(v), repr(v)) for n, v in vars(module).items() if np.isscalar(v)}


@pytest.mark.parametrize(("name", "argument"), arguments(WHOLE))
def test_a_whole_number_is_taken_as_an_int(name, argument):
    value = WHOLE[name][1][argument]
    want = told_apart(call(WHOLE, name, argument, value))
    for kind in INTEGERS:
        assert told_apart(call(WHOLE, name, argument, kind(value))) == want, kind


@pytest.mark.parametrize(("name", "argument"), arguments(WHOLE))
@pytest.mark.parametrize(
    "wrong",
    [4.0, 2.5, "4", True, [4], 4j, np.float64(4.0), np.bool_(True), np.array([4, 4]), torch.tensor(4.0)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_no_whole_number_is_refused_by_its_type(name, argument, wrong):
    with pytest.raises(ArgumentError, match=r"whole number") as caught:
        call(WHOLE, name, argument, wrong)
    assert f"{type(wrong).__name__}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "argument"), arguments(REAL))
def test_a_number_is_taken_as_a_float(name, argument):
    value = REAL[name][1][argument]
    want = told_apart(call(REAL, name, argument, value))
    for kind in FLOATS if name != "diagnose" else FLOATS[:2]:  # trains for a moment each time
        same = kind(value) if value != 0.01 else np.float64(value)
        assert told_apart(call(REAL, name, argument, same)) == want, kind


@pytest.mark.parametrize(("name", "argument"), arguments(REAL))
@pytest.mark.parametrize(
    "wrong", ["0.5", True, [0.5], 1j, np.bool_(True), np.array([0.5]), np.array("0.5")],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_no_number_is_refused_by_its_type(name, argument, wrong):
    if name == "training.Settings":
        expected = "a number"
    else:
        expected = rf"a number {argument}"
    with pytest.raises(ArgumentError, match=expected) as caught:
        call(REAL, name, argument, wrong)
    assert f"{type(plain(wrong)).__name__}" in str(caught.value) or type(wrong).__name__ in str(
        caught.value
    )


@pytest.mark.parametrize("kind", [bptt.nn.RNN, bptt.nn.GRU, bptt.nn.LSTM])
def test_torchs_constructors_take_numpys_numbers(kind):
    want = kind(3, 4, 2, dropout=0.25, batch_first=True)
    for integer in INTEGERS:
        sizes = {name: integer(n) for name, n in SIZES.items()}
        for got in (
            kind(*sizes.values(), dropout=np.float32(0.25), batch_first=np.bool_(True)),
            kind(**sizes, dropout=torch.tensor(0.25), batch_first=True),
        ):
            assert repr(got) == repr(want)
            assert extra(got) == extra(want)
            assert all(
                a.shape == b.shape for a, b in zip(got.parameters(), want.parameters(), strict=True)
            )
    for wrong in (4.0, "4", [4]):  # as torch refuses them
        with pytest.raises(TypeError):
            kind(3, wrong)


# Classes whose instances are handed out, and never made by a caller.
RESULTS = {
    "Diagnosis", "claims.Claim", "claims.Result", "data.Chunk", "data.Corpus", "export.Cost",
    "export.QNetwork",
    "gradients.Decision", "gradients.Step", "probes.Capacity", "probes.Gate", "probes.JacobianProducts",
    "probes.LagSpectrum", "probes.Lyapunov", "probes.Saturation", "probes.Unit", "probes.Verdict",
    "recurrence.Found", "recurrence.Graded",
    "reference.LanguageTrace", "reference.LossTrace", "remedies.Clipped", "remedies.Regularised",
    "tasks.SquaredError", "training.Outcome", "training.Score", "training.Update",
}  # fmt: skip
# Arithmetic that serves any number, what hands its numbers on to `watch` or is handed them by it or by a
# command, and a task with a download.
OTHERS = {
    "data.count_unknown", "recurrence.split_by_lag",
    "recurrence.padded", "reference.bits", "reference.perplexity", "remedies.build_clip",
    "callbacks.for_hugging_face", "callbacks.for_lightning", "tasks.CO2",
}  # fmt: skip


def public():
    """Every public function and class that takes a number, and the names of those arguments."""
    seen = []
    for room in bptt.__all__:
        value = getattr(bptt, room)
        names = getattr(value, "__all__", ()) if isinstance(value, types.ModuleType) else ()
        found = {f"{room}.{n}": getattr(value, n) for n in names} if names else {room: value}
        for name, thing in found.items():
            if thing in seen or not (inspect.isfunction(thing) or inspect.isclass(thing)):
                continue
            if inspect.isclass(thing) and issubclass(thing, Warning):
                continue  # made by whoever warns, of a message
            seen.append(thing)
            for parameter in inspect.signature(thing).parameters.values():
                kinds = {part.strip() for part in str(parameter.annotation).split("|")}
                if kinds & {"int", "float"}:
                    yield name, parameter.name


def test_every_public_call_that_takes_a_number_is_tried_here():
    tried_here = {*arguments(WHOLE), *arguments(REAL)}
    also = {("training.Settings", "clip"), ("training.Settings", "forget_bias")}  # with others
    # One check serves a stream of both directions and its export.
    also |= {("Stream", "window"), ("export.export_c", "window")}
    missing = {
        (name, argument)
        for name, argument in public()
        if name not in RESULTS | OTHERS and (name, argument) not in tried_here | also
    }
    assert not missing
    assert len(list(public())) > 100


def test_a_setting_that_needs_another():
    made = bptt.training.Settings(cell="lstm", forget_bias=np.float32(0.5), clip=np.int64(2))
    assert type(made.forget_bias) is float
    assert type(made.clip) is int
    assert bptt.training.Settings.from_toml(made.to_toml(), "here") == made


def test_forms_take_numbers():
    for two in (2, np.int64(2), np.float32(2), torch.tensor(2)):
        assert bptt.remedies.build_clip(two) == bptt.remedies.ClipNorm(2.0)
    with pytest.raises(NumberError, match="of type bool"):
        bptt.remedies.build_clip(True)


def test_truncations_that_are_listed():
    for at in ([3, 9], np.array([3, 9]), (np.int64(3), np.uint8(9)), torch.tensor([3, 9])):
        assert spectrum(at=at).truncations.tolist() == [3, 9, 40]
    with pytest.raises(ArgumentError, match=r"whole number K >= 1, received K=3.5 of type float"):
        spectrum(at=[3.5])


ARRAYS = {
    "array": np.array, "list": lambda v: v, "tuple": tuple, "int32": lambda v: np.array(v, np.int32),
    "uint16": lambda v: np.array(v, np.uint16), "tensor": torch.tensor,
}  # fmt: skip
MARKS = [[False, True], [False, False], [True, False], [False, False]]


@pytest.mark.parametrize("how", ARRAYS)
def test_lengths_and_marks_come_as_arrays_and_lists(how):
    x, lengths = torch.randn(4, 2, 3), ARRAYS[how]([4, 2])
    marks = ARRAYS[how if how in ("array", "list", "tensor") else "array"](MARKS)
    tokens, gru = torch.randint(5, (4, 2)), bptt.nn.GRU(3, 4)
    language = bptt.models.LanguageModel(5, hidden=4)
    calls = [
        (gru, (x,), "reset", "cut", "lengths"),
        (bptt.nn.MinGRU(3, 4), (x,), "reset", "lengths"),
        (language, (tokens,), "reset", "lengths"),
        (bptt.models.WindowModel(5), (tokens,), "reset"),
        (bptt.models.Classifier(gru, 2), (x,), "reset", "lengths"),
        (bptt.models.Classifier(gru, 2, pool="mean"), (x,), "lengths"),
    ]
    known = {"reset": (marks, torch.tensor(MARKS)), "cut": (marks, torch.tensor(MARKS)),
             "lengths": (lengths, torch.tensor([4, 2]))}  # fmt: skip
    for model, inputs, *names in calls:
        got = model.eval()(*inputs, **{name: known[name][0] for name in names})
        want = model(*inputs, **{name: known[name][1] for name in names})
        assert told_apart(got) == told_apart(want)
    with bptt.watch(gru) as flow:
        gru(x, reset=marks, lengths=lengths)[0].sum().backward()
    with bptt.watch(gru) as other:
        gru(x, reset=torch.tensor(MARKS), lengths=torch.tensor([4, 2]))[0].sum().backward()
    assert told_apart(flow.spectrum.norms) == told_apart(other.spectrum.norms)
    for estimator in (Truncated(2), Full(), Checkpointed(2), ForwardMode()):
        losses = [
            estimator.backward(gru, x, torch.zeros(4, 2, 4), loss=nn.functional.mse_loss,
                               lengths=known["lengths"][way], reset=known["reset"][way]).loss
            for way in (0, 1)
        ]  # fmt: skip
        assert torch.equal(*losses)


@pytest.mark.parametrize("name", ["lengths", "reset", "cut"])
@pytest.mark.parametrize(
    "wrong", ["abc", [[1], [1, 2]], {1, 2}, 4j, np.array(["a"]), [1.5, 2.5]], ids=str
)  # fmt: skip
def test_marks_that_are_none_are_refused_in_words(name, wrong):
    with pytest.raises(BpttError, match=f"{name}|integer lengths") as caught:
        bptt.nn.GRU(3, 4)(torch.randn(4, 2, 3), **{name: wrong})
    assert "\n" not in str(caught.value)


def test_what_the_helpers_say():
    with pytest.raises(
        NumberError, match=r"^expected a whole number k >= 1, received k=2.5 of type float: do"
    ):
        whole("k", 2.5, remedy="do")
    with pytest.raises(NumberError, match=r"received k=np.float64\(4.0\) of type numpy.float64:"):
        whole("k", np.float64(4.0))
    with pytest.raises(
        ArgumentError, match=r"^expected k >= 1, received k=0: give a whole number$"
    ) as low:
        whole("k", np.int64(0))
    assert not isinstance(low.value, NumberError)
    with pytest.raises(TypeError):  # as torch's, and as Python's
        whole("k", None)
    assert optional("k", None) is None
    assert [type(real("x", v)) for v in (1, np.float32(1), torch.tensor(1.0), np.inf)] == [
        float
    ] * 4
    assert whole("k", 10**30) == 10**30
