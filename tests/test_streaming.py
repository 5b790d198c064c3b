"""A stream is the whole-sequence call, step by step."""

import copy
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch import nn

import bptt
from bptt import ops
from bptt.errors import ArgumentError, BpttError, DtypeError, ShapeError
from bptt.models import LanguageModel
from bptt.ops import native
from bptt.ops.native.check import extension
from compare import assert_close
from stream_changes import KINDS as CHANGED
from stream_changes import TAKEN, changes_of, check_change, check_taken, inputs_of, made, steps
from stream_changes import TOL as DTYPES

KINDS = {
    "rnn": (nn.RNN, {}),
    "relu": (bptt.nn.RNN, {"nonlinearity": "relu"}),
    "gru": (bptt.nn.GRU, {}),
    "lstm": (nn.LSTM, {}),
    "no bias": (bptt.nn.GRU, {"bias": False}),
}
# A step sums its products in another order than the whole sequence's matrix product does.
TOL = {torch.float32: 2e-6, torch.float64: 1e-13}


@pytest.fixture(params=["compiled", "plain torch"])
def way(request, monkeypatch):
    before = ops.backend().setting
    if request.param == "plain torch":
        monkeypatch.setattr(native, "missing", "for this test")
        ops.set_backend("eager")
    yield
    ops.set_backend(before)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_equal_the_sequence(kind, batch, dtype):
    layer, options = KINDS[kind]
    for hidden, layers in ((1, 1), (7, 2), (33, 3)):
        model = layer(4, hidden, layers, dtype=dtype, **options)
        stream = bptt.Stream(model, batch=batch)
        x = torch.randn(9, batch, 4, dtype=dtype)
        steps = torch.stack([stream.step(x[t]).clone() for t in range(9)])
        whole, final = model(x)
        assert_close(steps, whole.detach(), TOL[dtype])
        final = tuple(s.detach() for s in final) if isinstance(final, tuple) else final.detach()
        assert_close(stream.state, final, TOL[dtype])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_language_model(cell):
    model = LanguageModel(11, cell=cell, hidden=9, layers=2, dropout=0.5).train()
    nn.init.normal_(model.output.weight)
    nn.init.normal_(model.output.bias)
    stream = bptt.Stream(model, batch=2)
    tokens = torch.randint(11, (12, 2))
    assert_close(stream.warm_up(tokens[:5]), model.eval()(tokens[:5])[0][-1].detach(), 2e-6)
    model.train()
    steps = torch.stack([stream.step(tokens[t]).clone() for t in range(5, 12)])
    assert model.training
    assert_close(steps, model.eval()(tokens)[0][5:].detach(), 2e-6)


@pytest.mark.usefixtures("way")
def test_reset_and_state():
    gru = bptt.nn.GRU(4, 5)
    stream = bptt.Stream(gru, batch=2)
    x = torch.randn(6, 2, 4)
    for t in range(3):
        stream.step(x[t])
    kept = stream.state
    stream.reset(torch.tensor([False, True]))
    y = stream.step(x[3]).clone()
    assert_close(y[0], gru(x[:4])[0][-1, 0].detach(), 2e-6)
    assert_close(y[1], gru(x[3:4])[0][-1, 1].detach(), 2e-6)
    stream.state = kept
    assert_close(stream.step(x[3]), gru(x[:4])[0][-1].detach(), 2e-6)
    stream.reset()
    assert not stream.state.any()


def test_weights_are_taken_when_asked():
    gru = bptt.nn.GRU(4, 5)
    stream = bptt.Stream(gru)
    x = torch.randn(1, 4)
    before = stream.step(x).clone()
    with torch.no_grad():
        for parameter in gru.parameters():
            parameter.mul_(2)
    stream.reset()
    assert_close(stream.step(x), before, 0.0)
    stream.reset()
    stream.refresh()
    assert_close(stream.step(x), gru(x[None])[0][0].detach(), 2e-6)


def test_inputs_that_lie_oddly():
    gru = bptt.nn.GRU(4, 5)
    wide = torch.randn(1, 8)
    stream = bptt.Stream(gru)
    assert_close(stream.step(wide[:, ::2]), gru(wide[None, :, ::2])[0][0].detach(), 2e-6)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.GRU(2, 3, bidirectional=True), "one direction"),
        (nn.Sequential(nn.GRU(2, 3), nn.Conv1d(3, 3, 1)), "Conv1d at 1"),
        (nn.Linear(2, 3), "LanguageModel over one"),
        (nn.GRU(2, 3).half(), "float32 or float64"),
    ],
)
def test_what_cannot_be_streamed(model, words):
    with pytest.raises(ArgumentError, match=words):
        bptt.Stream(model)


@pytest.mark.usefixtures("way")
def test_a_layer_that_takes_lanes_first_is_warmed_up_time_first_too():
    gru = nn.GRU(3, 5, batch_first=True)
    x = torch.randn(4, 4, 3)  # as many steps as lanes, so that no shape tells them apart
    stream = bptt.Stream(gru, batch=4)
    whole = gru(x.transpose(0, 1))[0].detach()
    assert_close(stream.warm_up(x[:2]), whole[:, 1], 2e-6)
    assert_close(stream.step(x[2]), whole[:, 2], 2e-6)


def test_a_warm_up_that_fails_leaves_the_model_in_training():
    model = nn.GRU(3, 5, num_layers=2, dropout=0.5).train()
    with pytest.raises((RuntimeError, ValueError)):
        bptt.Stream(model).warm_up(torch.randn(4, 1, 2))
    assert model.training


def test_bad_steps():
    stream = bptt.Stream(nn.GRU(2, 3))
    with pytest.raises(ShapeError, match=r"\(B=1, I=2\)"):
        stream.step(torch.zeros(2))
    with pytest.raises(DtypeError, match="float32"):
        stream.step(torch.zeros(1, 2).double())
    with pytest.raises(ShapeError, match="state"):
        stream.state = torch.zeros(1, 2, 3)
    with pytest.raises(ShapeError, match="mark each stream once"):
        stream.reset(torch.tensor([True, False]))
    with pytest.raises(ArgumentError, match="batch >= 1"):
        bptt.Stream(nn.GRU(2, 3), batch=0)
    tokens = bptt.Stream(LanguageModel(5, hidden=3))
    for wrong in (torch.tensor([5]), torch.tensor([-1])):
        with pytest.raises(ArgumentError, match="tokens from 0 to V-1=4"):
            tokens.step(wrong)
    with pytest.raises(DtypeError, match=r"\.long"):
        tokens.step(torch.tensor([1.0]))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("kind", "change"), [(kind, change) for kind in CHANGED for change in changes_of(kind)]
)
def test_every_change_of_the_model_is_taken_or_refused(kind, change):
    for dtype in DTYPES:
        check_change(kind, change, dtype)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("half", r"float32 or float64, received weight_ih_l0 of torch.float16 on cpu: convert it"),
        ("meta", r"weight_ih_l0 of torch.float32 on meta"),
        (
            "wider",
            r"GRU with L=2 and H=20, for which the state was made, received .* H=200: make a",
        ),
        ("a layer more", r"received GRU with L=3 and H=20"),
        ("another cell", r"received RNN_TANH with L=2"),
        ("said wider", r"weight_ih_l0 \(600, 3\), as the model's sizes say, received \(60, 3\)"),
        ("said deeper", r"the weights weight_ih_l0, .*bias_hh_l2, received .*bias_hh_l1: build"),
        (
            "one weight of another dtype",
            r"weight_hh_l1 of torch.float32, like .* received torch.fl",
        ),
        ("one weight None", r"weight_hh_l0 as a tensor, received NoneType"),
        ("freed", r"weight_hh_l1 in memory, received one whose storage was freed"),
    ],
)
def test_a_refusal_names_what_changed(change, words):
    model = made("gru" if change != "another cell" else "lstm")
    stream = bptt.Stream(model)
    changes_of("gru")[change][0](model, "gru" if change != "another cell" else "rnn")
    if change == "another cell":
        model.__class__, model.__dict__ = nn.RNN, nn.RNN(3, 20, 2).__dict__
    with pytest.raises(BpttError, match=words):
        stream.refresh()
    if change not in ("wider", "a layer more", "another cell"):  # a new stream takes these
        with pytest.raises(BpttError, match=words):
            bptt.Stream(model)


@pytest.mark.usefixtures("way")
def test_the_state_is_converted_with_the_model():
    gru = nn.GRU(3, 5)
    stream = bptt.Stream(gru)
    stream.step(torch.randn(1, 3))
    single = stream.state
    gru.double()
    stream.refresh()
    assert_close(stream.state, single.double(), 0.0)
    with pytest.raises(
        DtypeError, match=r"torch.float64, .*refresh\(\) if the model was converted"
    ):
        stream.step(torch.randn(1, 3))
    gru.float()
    stream.refresh()
    assert_close(stream.state, single, 0.0)


@pytest.mark.parametrize("kind", CHANGED)
@pytest.mark.parametrize("how", TAKEN)
def test_an_output_whose_memory_is_taken_away_is_made_anew(kind, how):
    check_taken(kind, how)


def test_an_output_outlives_its_stream():
    stream = bptt.Stream(nn.GRU(3, 5))
    y = stream.step(torch.randn(1, 3))
    kept = y.clone()
    stream.refresh()
    stream.step(torch.randn(1, 3))
    assert_close(y, kept, 0.0)
    del stream
    assert_close(y, kept, 0.0)


def freed(x):
    x.untyped_storage().resize_(0)
    return x


def test_a_step_of_freed_memory_is_refused():
    stream = bptt.Stream(nn.GRU(3, 5))
    tokens = bptt.Stream(LanguageModel(5, hidden=3))
    before = stream.state, tokens.state
    for call, x in ((stream, torch.randn(1, 3)), (tokens, torch.tensor([2]))):
        with pytest.raises(ArgumentError, match="lies in memory"):
            call.step(freed(x))
    assert_close((stream.state, tokens.state), before, 0.0)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", CHANGED)
def test_a_stream_sent_to_another_process_leaves_the_senders_alone(kind):
    """Pickling for a process moves tensors into shared memory, away from where they were."""
    model = made(kind)
    xs = inputs_of(model)
    stream, witness = bptt.Stream(model, 2), bptt.Stream(model, 2)
    steps(stream, xs)
    steps(witness, xs)
    sent = pickle.loads(ForkingPickler.dumps(stream))
    start = witness.state
    assert_close(steps(sent, xs), steps(witness, xs), 0.0)
    assert_close(stream.state, start, 0.0)
    witness.state = start
    assert_close(steps(stream, xs), steps(witness, xs), 0.0)


def test_a_copied_policy_has_a_stream_of_its_own():
    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.memory = bptt.nn.GRU(3, 5)
            self.stream = bptt.Stream(self.memory)

    policy = Policy()
    other = copy.deepcopy(policy)
    assert other.stream.model is other.memory
    with torch.no_grad():
        other.memory.weight_hh_l0.zero_()
    other.stream.refresh()
    x = torch.randn(3, 1, 3)
    want = policy.memory(x)[0].detach()
    theirs = other.memory(x)[0].detach()
    for t in range(3):  # in turn
        assert_close(policy.stream.step(x[t]), want[t], 2e-6)
        assert_close(other.stream.step(x[t]), theirs[t], 2e-6)


@pytest.mark.usefixtures("way")
def test_a_warm_up_runs_on_the_copied_weights_and_leaves_the_model_alone():
    model = nn.GRU(3, 5, num_layers=2, dropout=0.9).train()
    stream, witness = bptt.Stream(model), bptt.Stream(copy.deepcopy(model))
    x = torch.randn(6, 1, 3)
    with torch.no_grad():
        model.weight_hh_l0.zero_()
    assert_close(stream.warm_up(x), steps(witness, x)[-1], 2e-6)
    assert_close(stream.state, witness.state, 2e-6)
    assert model.training


def test_making_a_stream_draws_no_random_numbers():
    model, x = made("lstm lm"), torch.randint(11, (2,))
    before = torch.random.get_rng_state()
    bptt.Stream(model, 2).step(x)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.usefixtures("way")
def test_inference_mode_and_default_devices_make_no_difference():
    model = made("lstm")
    xs = inputs_of(model)
    want = steps(bptt.Stream(model, 2), xs)
    with torch.inference_mode():
        stream = bptt.Stream(model, 2)
    assert_close(steps(stream, xs), want, 0.0)
    stream.reset()
    with torch.device("meta"):
        other = bptt.Stream(model, 2)
        other.refresh()
        other.reset()
        first = [other.step(x).clone() for x in xs]
    assert_close(torch.stack(first), want, 0.0)
    head = nn.Linear(20, 1)
    head(stream.step(xs[0]).clone()).sum().backward()
    assert head.weight.grad is not None


def test_the_engine_compares_every_size_with_what_it_is_given():
    """Nothing above it has to be trusted: each matrix is looked at where it is read."""
    engine = extension.Stream_f32(2, 2, 2, 5)
    w, u, b = torch.randn(15, 3), torch.randn(15, 5), torch.randn(15)
    for wrong in (
        (w[:14], u, b, b), (w.t().contiguous(), u, b, b), (w, u[:, :4].contiguous(), b, b),
        (w, u, b[:14], b), (w, u, b, b[:0]), (None, u, b, b), (w, None, b, b), (w, u, w, b),
        (w[None], u, b, b),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="expected"):
            engine.add(*wrong)
    for wrong in ((w.double(), u, b, b), (w.t(), u, b, b), (w, u.to("meta"), b, b), (w, 5, b, b)):
        with pytest.raises(TypeError):
            engine.add(*wrong)
    x = torch.randn(2, 3)
    with pytest.raises(ValueError, match="a stream with layers"):
        engine.output()
    assert not engine.step(x.data_ptr())  # no layer yet
    engine.add(w, u, b, b)
    assert not engine.step(x.data_ptr())  # one of two
    with pytest.raises(ValueError, match=r"expected w_ih \(15, 5\), received \(15, 3\)"):
        engine.add(w, u, b, b)
    with pytest.raises(RuntimeError, match="last"):
        engine.finish(torch.randn(4, 5), None)
    engine.add(u, u, None, b)
    with pytest.raises(RuntimeError, match="as many layers"):
        engine.add(u, u, b, b)
    with pytest.raises(ValueError, match=r"expected w \(4, 5\)"):
        engine.finish(torch.randn(4, 6), None)
    with pytest.raises(RuntimeError, match="first"):
        engine.read_tokens(torch.randn(4, 15))
    y = engine.output()
    assert y.shape == (2, 5)
    assert engine.step(x.data_ptr())
    assert not engine.step(0)
    assert not engine.step_tokens(torch.tensor([0, 0]).data_ptr())
    for sizes in ((4, 1, 1, 1), (-1, 1, 1, 1), (2, 0, 1, 1), (2, 1, 1, -3), (2, 2**40, 1, 1)):
        with pytest.raises(ValueError, match="expected"):
            extension.Stream_f32(*sizes)
    with pytest.raises(MemoryError):
        extension.Stream_f32(2, 2**31 - 1, 2**31 - 1, 2**31 - 1)
