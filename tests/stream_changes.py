"""Every change of a model that a stream of it may meet, and what becomes of the stream.

Run by tests/test_streaming.py as it is, and by csrc/sanitize.sh with the kernels under
AddressSanitizer, where reading or writing one element too many is an error:
``python stream_changes.py EXTENSION`` loads the extension of that path, ``--overrun`` has it write past
the end of a tensor, to see that this would be noticed.
"""

from __future__ import annotations

import copy
import io
import pickle
import sys
from importlib import util
from multiprocessing.reduction import ForkingPickler

import torch
from torch import nn
from torch.nn.utils import parametrize

if __name__ == "__main__":  # before the package loads its own
    spec = util.spec_from_file_location("bptt._native", sys.argv[1])
    sys.modules["bptt._native"] = util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["bptt._native"])

import bptt
from bptt.errors import BpttError
from bptt.models import LanguageModel
from bptt.models.language import CELLS
from bptt.ops.native.check import extension, isa

I, H, L, V, B, T = 3, 20, 2, 11, 2, 4
LAYERS = {
    "rnn": (bptt.nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
    "gru": (nn.GRU, {}),
    "lstm": (bptt.nn.LSTM, {}),
}
MODELS = {"rnn lm": "rnn", "gru lm": "gru", "lstm lm": "lstm"}
KINDS = [*LAYERS, *MODELS]
TOL = {torch.float32: 2e-6, torch.float64: 1e-13}


def layer_of(kind, inputs=I, hidden=H, layers=L, **options):
    cell, own = LAYERS[kind] if kind in LAYERS else (CELLS[MODELS[kind]][0], {})
    return cell(inputs, hidden, layers, **own, **options)


def made(kind):
    if kind in LAYERS:
        return layer_of(kind)
    model = LanguageModel(V, cell=MODELS[kind], hidden=H, layers=L, embedding=I)
    for parameter in model.output.parameters():  # they start as zeros, which would hide an error
        nn.init.normal_(parameter)
    return model


def layer_in(model):
    return model.recurrent if isinstance(model, LanguageModel) else model


def become(layer, other):
    """What replaces a layer where it stands: pruning, growing and converting libraries do this."""
    other = other.to(layer.weight_hh_l0.dtype)
    layer.__class__, layer.__dict__ = type(other), other.__dict__


def replaced(name, change):
    def do(model, _):
        layer = layer_in(model)
        weight = change(getattr(layer, name).detach())
        delattr(layer, name)
        if isinstance(weight, torch.Tensor):
            weight = nn.Parameter(weight, requires_grad=weight.is_floating_point())
        setattr(layer, name, weight)

    return do


def attributes(**values):
    def do(model, _):
        for name, value in values.items():
            setattr(layer_in(model), name, value)

    return do


def other_layer(kind=None, **sizes):
    return lambda model, own: become(layer_in(model), layer_of(kind or own, **sizes))


def in_place(model, _):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)


def emptied(model, _):
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.2, 0.2)


def freed(model, _):
    layer_in(model).weight_hh_l1.untyped_storage().resize_(0)


def halved_memory(model, _):
    storage = layer_in(model).weight_ih_l0.untyped_storage()
    storage.resize_(storage.nbytes() // 2)


def made_for_inference(model, _):
    with torch.inference_mode():
        model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)


class Scaled(nn.Module):
    def forward(self, weight):
        return weight * 0.7


def parametrized(model, _):
    parametrize.register_parametrization(layer_in(model), "weight_hh_l1", Scaled())


def data_of_another_kind(model, _):
    for parameter in model.parameters():
        parameter.data = parameter.data.to(
            torch.float64 if parameter.dtype == torch.float32 else torch.float32
        )


def wider_memory(model, _):
    """The same numbers, every other column of a wider matrix."""
    for parameter in model.parameters():
        wide = torch.full((*parameter.shape, 2), torch.nan, dtype=parameter.dtype)
        wide[..., 0] = parameter.detach()
        parameter.data = wide[..., 0]


# (what is done, whether the stream takes the model as it then is)
ANY = {
    "nothing": (lambda model, _: None, True),
    "in place": (in_place, True),
    "double": (lambda model, _: model.double(), True),
    "float": (lambda model, _: model.float(), True),
    "data of another dtype": (data_of_another_kind, True),
    "half": (lambda model, _: model.half(), False),
    "bfloat16": (lambda model, _: model.bfloat16(), False),
    "meta": (lambda model, _: model.to("meta"), False),
    "to_empty": (emptied, True),
    "strided": (wider_memory, True),
    "freed": (freed, False),
    "half of it freed": (halved_memory, False),
    "inference": (made_for_inference, True),
    "parametrized": (parametrized, True),
    "wider": (other_layer(hidden=200), False),
    "narrower": (other_layer(hidden=5), False),
    "a layer more": (other_layer(layers=L + 1), False),
    "a layer less": (other_layer(layers=L - 1), False),
    "no bias": (other_layer(bias=False), True),
    "batch first": (other_layer(batch_first=True, dropout=0.5), True),
    "both directions": (other_layer(bidirectional=True), False),
    "said wider": (attributes(hidden_size=200), False),
    "said deeper": (attributes(num_layers=L + 1), False),
    "said shallower": (attributes(num_layers=L - 1), False),
    "said without bias": (attributes(bias=False), False),
    "said both directions": (attributes(bidirectional=True), False),
    "said projected": (attributes(proj_size=4), False),
    "said of more inputs": (attributes(input_size=200), False),
    "one weight wider": (replaced("weight_hh_l1", lambda w: torch.cat([w, w], 1)), False),
    "one weight higher": (replaced("weight_ih_l1", lambda w: torch.cat([w, w])), False),
    "one weight shorter": (replaced("weight_hh_l0", lambda w: w[:-1].clone()), False),
    "one weight of another dtype": (
        replaced("weight_hh_l1", lambda w: w.double() if w.dtype == torch.float32 else w.float()),
        False,
    ),
    "one weight half": (replaced("weight_ih_l1", torch.Tensor.half), False),
    "one weight on meta": (replaced("weight_hh_l1", lambda w: w.to("meta")), False),
    "one weight sparse": (replaced("weight_hh_l1", torch.Tensor.to_sparse), False),
    "one weight None": (replaced("weight_hh_l0", lambda w: None), False),
    "one bias shorter": (replaced("bias_hh_l1", lambda b: b[:-1].clone()), False),
    "one bias a matrix": (replaced("bias_ih_l0", lambda b: b[:, None].clone()), False),
    "one bias None": (replaced("bias_ih_l1", lambda b: None), False),
}
LAYERS_ONLY = {
    "more inputs": (other_layer(inputs=100), True),
    "fewer inputs": (other_layer(inputs=1), True),
    "another cell": (lambda model, own: become(model, layer_of("gru" if own != "gru" else "rnn")), False),
}  # fmt: skip


def vocabulary(size):
    def do(model, _):
        like = model.output.weight
        model.vocabulary_size = size
        model.embedding = nn.Embedding(size, I, dtype=like.dtype)
        model.output = nn.Linear(H, size, dtype=like.dtype)

    return do


def part(name, value):
    def do(model, _):
        made = value()
        setattr(model, name, made.to(layer_in(model).weight_hh_l0.dtype))

    return do


MODELS_ONLY = {
    "more symbols": (vocabulary(300), True),
    "fewer symbols": (vocabulary(2), True),
    "more symbols in the embedding": (part("embedding", lambda: nn.Embedding(300, I)), False),
    "wider vectors": (part("embedding", lambda: nn.Embedding(V, 50)), False),
    "embedding half": (lambda model, _: model.embedding.half(), False),
    "no embedding": (lambda model, _: setattr(model, "embedding", None), False),
    "more logits": (part("output", lambda: nn.Linear(H, 100)), True),
    "fewer logits": (part("output", lambda: nn.Linear(H, 1)), True),
    "logits without bias": (part("output", lambda: nn.Linear(H, V, bias=False)), True),
    "logits of another size": (part("output", lambda: nn.Linear(50, V)), False),
    "two output layers": (part("output", lambda: nn.Sequential(nn.Linear(H, V))), False),
    "said of more logits": (lambda model, _: setattr(model.output, "out_features", 100), False),
    "output half": (lambda model, _: model.output.half(), False),
    "output bias shorter": (
        lambda model, _: setattr(model.output, "bias", nn.Parameter(model.output.bias[1:])),
        False,
    ),
    "said of more symbols": (lambda model, _: setattr(model, "vocabulary_size", 300), False),
    "another layer": (
        lambda model, own: setattr(model, "recurrent", layer_of(own).to(model.output.weight.dtype)),
        True,
    ),
    "a cell without a kernel": (part("recurrent", lambda: bptt.nn.MinGRU(I, H, L)), False),
    "another cell": (
        part("recurrent", lambda: bptt.nn.RNN(I, H, L, nonlinearity="relu")),
        False,
    ),
}  # fmt: skip


# torch's own deepcopy reads freed memory, and cannot copy a sparse parameter.
NOT_COPIED_BY_TORCH = ("freed", "half of it freed", "one weight sparse")


def changes_of(kind):
    return {**ANY, **(MODELS_ONLY if kind in MODELS else LAYERS_ONLY)}


def inputs_of(model):
    """A step for each time, as the model is now."""
    if isinstance(model, LanguageModel):
        return torch.randint(model.vocabulary_size, (T, B))
    return torch.randn(T, B, model.input_size, dtype=model.weight_hh_l0.dtype)


def steps(stream, xs):
    return torch.stack([stream.step(x).clone() for x in xs])


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def same(one, other):
    return torch.equal(steps(one[0], one[1]), steps(*other)) and all(
        torch.equal(a, b) for a, b in zip(parts(one[0].state), parts(other[0].state), strict=True)
    )


def copies_of(stream):
    """The ways to copy an object; a parametrized module cannot be pickled, torch says."""
    yield copy.copy(stream)
    yield copy.deepcopy(stream)
    yield copy.deepcopy(nn.ModuleDict({"a": Holder(stream)}))["a"].parts["stream"][0]
    if any(parametrize.is_parametrized(module) for module in stream.model.modules()):
        return
    yield pickle.loads(pickle.dumps(stream))
    file = io.BytesIO()
    torch.save(Holder(stream), file)
    file.seek(0)
    yield torch.load(file, weights_only=False).parts["stream"][0]


class Holder(nn.Module):
    """A policy with a stream inside a list inside a dict."""

    def __init__(self, stream):
        super().__init__()
        self.model = stream.model
        self.parts = {"stream": [stream]}


def check_own(stream, xs):
    """Copies step as the stream does, and neither moves the other."""
    before = stream.state
    for twin in copies_of(stream):
        assert twin.model is stream.model or type(twin.model) is type(stream.model)
        steps(twin, xs)
        assert all(
            torch.equal(a, b) for a, b in zip(parts(stream.state), parts(before), strict=True)
        )
        twin.state = before
        expected = steps(stream, xs)
        stream.state = before
        assert torch.equal(steps(twin, xs), expected)
        twin.reset()
        assert all(
            torch.equal(a, b) for a, b in zip(parts(stream.state), parts(before), strict=True)
        )


def check_change(kind, name, dtype):
    """Make a stream, change its model, and see what it does before, at and after a refresh."""
    change, taken = changes_of(kind)[name]
    torch.manual_seed(1)
    model = made(kind).to(dtype)
    xs = inputs_of(model)
    stream, witness = bptt.Stream(model, B), bptt.Stream(copy.deepcopy(model), B)
    assert same((stream, xs), (witness, xs))

    change(model, kind)
    assert same((stream, xs), (witness, xs))  # no refresh: the weights are the copied ones
    check_copied_before(stream, witness, xs, deeply=name not in NOT_COPIED_BY_TORCH)
    state = stream.state
    if not taken:
        try:
            stream.refresh()
        except BpttError:
            pass
        else:
            raise AssertionError(f"{kind}, {name}: taken")
        assert same((stream, xs), (witness, xs))  # refused: as it was
        return

    stream.refresh()
    xs = inputs_of(model)
    now = layer_in(model).weight_hh_l0.dtype
    start = tuple(s.to(now) for s in parts(state))
    assert all(torch.equal(a, b) for a, b in zip(parts(stream.state), start, strict=True))
    got = steps(stream, xs)
    model.eval()
    start = start if len(start) > 1 else start[0]
    with torch.no_grad():
        turned = layer_in(model).batch_first
        want = model(xs.transpose(0, 1) if turned else xs, start)[0]
    want = want.transpose(0, 1) if turned else want
    assert got.shape == want.shape
    assert torch.allclose(got, want, rtol=TOL[now] * 5, atol=TOL[now] * 5)
    check_own(stream, xs)
    for wrong in (xs[0].to(torch.complex64), xs[0][:1], xs[0].to("meta")):
        try:
            stream.step(wrong)
        except BpttError:
            continue
        raise AssertionError(f"{kind}, {name}: a step of {wrong.dtype}, {wrong.shape} was taken")


def check_copied_before(stream, witness, xs, deeply):
    """A copy made between the change and the refresh has the weights that the stream has."""
    for make in (copy.copy, copy.deepcopy) if deeply else (copy.copy,):
        twin = make(stream)
        before = witness.state
        assert same((twin, xs), (witness, xs))
        witness.state = before


# What a caller may do to the tensor that a step returned: after each of them its memory is elsewhere.
TAKEN = {
    "shared": lambda y: y.share_memory_(),
    "a view of it shared": lambda y: y[0].share_memory_(),
    "queued": lambda y: ForkingPickler.dumps(y),
    "set": lambda y: y.set_(torch.zeros(3)),
    "data": lambda y: setattr(y, "data", torch.zeros(1, 2)),
}


def check_taken(kind, how):
    """Take each step's output away, and see that the next is where it is returned."""
    torch.manual_seed(1)
    model = made(kind)
    xs = inputs_of(model)
    want = steps(bptt.Stream(model, B), xs)
    stream = bptt.Stream(model, B)
    for x, expected in zip(xs, want, strict=True):
        y = stream.step(x)
        assert torch.equal(y, expected)
        TAKEN[how](y)


def overrun():
    """What a sanitizer must see: a write past the end of a tensor of torch's."""
    counts, lengths, starts = torch.tensor([2, 1, 1]), torch.empty(2).long(), torch.empty(2).long()
    sys.modules["bptt._native"].unpack_sizes(
        3, 2, counts.data_ptr(), lengths.data_ptr(), starts.data_ptr()
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--overrun" in sys.argv:
        overrun()
        sys.exit(0)
    assert extension.__file__ == sys.argv[1], "another extension was loaded"
    done = 0
    for kind in KINDS:
        for name in changes_of(kind):
            for dtype in TOL:
                check_change(kind, name, dtype)
                done += 1
        for how in TAKEN:
            check_taken(kind, how)
            done += 1
    print(f"{done} changes of a stream's model, instruction set {isa()}")
