"""reset and cut, as laws."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bptt
import over_triton
from bptt.errors import DtypeError, ShapeError
from bptt.ops import native
from compare import assert_close

LAYERS = {"rnn": bptt.nn.RNN, "gru": bptt.nn.GRU, "lstm": bptt.nn.LSTM}
# Two splits of the same sums differ by rounding alone: a few units in the last place of float64.
TOL = 1e-13


def make(kind, **options):
    return LAYERS[kind](3, 4, dtype=torch.float64, **options)


def gradients(layer, x, outputs):
    total = sum((y.square() + y).sum() for y in outputs)
    return torch.autograd.grad(total, [x, *layer.parameters()])


@given(
    kind=st.sampled_from(sorted(LAYERS)),
    steps=st.integers(2, 9),
    lanes=st.integers(1, 4),
    layers=st.integers(1, 3),
    both=st.booleans(),
    data=st.data(),
)
def test_reset_equals_two_sequences(kind, steps, lanes, layers, both, data):
    at = data.draw(st.integers(1, steps - 1))
    layer = make(kind, num_layers=layers, bidirectional=both)
    x = torch.randn(steps, lanes, 3, dtype=torch.float64, requires_grad=True)
    reset = torch.zeros(steps, lanes, dtype=torch.bool)
    reset[at] = True
    y, final = layer(x, reset=reset)
    first, first_final = layer(x[:at])
    second, second_final = layer(x[at:])
    assert_close(y, torch.cat([first, second]), TOL, "output")
    # Forward rows end with the second part, reversed rows with the first.
    for got, early, late in zip(*map(parts, (final, first_final, second_final)), strict=True):
        expected = late.clone()
        if both:
            expected[1::2] = early[1::2]
        assert_close(got, expected, TOL, "final state")
    assert_close(gradients(layer, x, [y]), gradients(layer, x, [first, second]), TOL, "gradient")


def parts(state):
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("mark", ["reset", "cut"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_mark_in_the_padding_marks_nothing_in_either_direction(kind, mark):
    layer = make(kind, bidirectional=True)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    state = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    hx = (state, state) if kind == "lstm" else state
    lengths = torch.tensor([5, 3])
    marks = torch.zeros(5, 2, dtype=torch.bool)
    marks[3:, 1] = True
    results = []
    for options in ({}, {mark: marks}):
        y, _ = layer(x, hx, lengths=lengths, **options)
        results.append((y, torch.autograd.grad(y.square().sum(), state)[0]))
    assert_close(results[1], results[0], TOL)


@pytest.mark.parametrize("kind", LAYERS)
def test_reset_at_the_first_step_ignores_the_initial_state(kind):
    layer = make(kind)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    h = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    hx = (h, h) if kind == "lstm" else h
    reset = torch.zeros(4, 2, dtype=torch.bool)
    reset[0, 1] = True
    y, _ = layer(x, hx, reset=reset)
    assert_close(y[:, 1], layer(x)[0][:, 1], TOL)
    assert_close(y[:, 0], layer(x, hx)[0][:, 0], TOL)
    (grad,) = torch.autograd.grad(y.sum(), h)
    assert torch.count_nonzero(grad[0, 1]) == 0
    assert torch.count_nonzero(grad[0, 0]) == 4


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("which", ["none", "some", "all"])
def test_one_step_with_resets_is_a_step_of_the_kernels(
    kind, layers, batch_first, dtype, which, monkeypatch, backend
):
    """Lanes that start anew do not see their state, NaN or not, nor send a gradient there."""
    layer = LAYERS[kind](3, 4, layers, batch_first=batch_first, dtype=dtype)
    first = torch.tensor({"none": [0, 0, 0], "some": [0, 1, 0], "all": [1, 1, 1]}[which]).bool()
    x = torch.randn(1, 3, 3, dtype=dtype)
    given = torch.randn(2, layers, 3, 4, dtype=dtype)
    clean = given.masked_fill(first[:, None], 0.0)
    given[:, :, first] = float("nan")
    if batch_first:
        x = x.transpose(0, 1)

    def run(state, **marks):
        layer.zero_grad()
        h = state.requires_grad_()
        y, final = layer(x, (h[0], h[1]) if kind == "lstm" else h[0], **marks)
        (y.square().sum() + sum(part.sum() for part in parts(final))).backward()
        return [y, *parts(final), h.grad, *(p.grad for p in layer.parameters())]

    expected = run(clean.clone())
    expected[-1 - len(list(layer.parameters()))][:, :, first] = 0.0
    taken = []
    step = native.step
    monkeypatch.setattr(native, "step", lambda *given: taken.append(1) or step(*given))
    reset = first[:, None] if batch_first else first[None]
    found = run(given.clone(), reset=reset)
    assert bool(taken) == (backend == "auto" and not over_triton.ASKED)
    assert len(found) == len(expected)
    tol = 1e-6 if dtype == torch.float32 else TOL
    for mine, other in zip(found, expected, strict=True):
        assert_close(mine, other, tol)
    with torch.no_grad():  # a state left out is zeros, whatever is marked
        assert_close(layer(x, reset=reset)[0], layer(x)[0], tol)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    ("reset", "error", "said"),
    [
        (torch.zeros(1, 3), DtypeError, "reset as a bool tensor"),
        (torch.zeros(3, dtype=torch.bool), ShapeError, "reset of the input's leading axes"),
        (torch.zeros(1, 2, dtype=torch.bool), ShapeError, "reset of the input's leading axes"),
    ],
)
def test_a_step_with_marks_that_do_not_fit_is_refused(kind, reset, error, said):
    layer = make(kind)
    state = torch.zeros(1, 3, 4, dtype=torch.float64)
    with pytest.raises(error, match=said):
        layer(
            torch.zeros(1, 3, 3).double(), (state, state) if kind == "lstm" else state, reset=reset
        )


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("at", [1, 3, 5])
def test_cut_equals_detaching_the_state(kind, at):
    layer = make(kind, num_layers=2)
    x = torch.randn(6, 3, 3, dtype=torch.float64, requires_grad=True)
    cut = torch.zeros(6, 3, dtype=torch.bool)
    cut[at] = True
    y, _ = layer(x, cut=cut)
    first, state = layer(x[:at])
    state = tuple(s.detach() for s in state) if kind == "lstm" else state.detach()
    second, _ = layer(x[at:], state)
    assert_close(y, torch.cat([first, second]), TOL)
    assert_close(gradients(layer, x, [y]), gradients(layer, x, [first, second]), TOL)


@pytest.mark.parametrize("kind", LAYERS)
def test_reset_with_lengths_in_both_directions(kind):
    """Each lane alone, cut to its length and at its mark, is the answer."""
    layer = make(kind, num_layers=2, bidirectional=True)
    lengths, at = torch.tensor([5, 3]), [2, 1]
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    reset = torch.zeros(6, 2, dtype=torch.bool)
    for lane, step in enumerate(at):
        reset[step, lane] = True
    y, _ = layer(x, lengths=lengths, reset=reset)
    for lane, step in enumerate(at):
        end = int(lengths[lane])
        expected = [layer(x[a:b, lane])[0] for a, b in ((0, step), (step, end))]
        assert_close(y[:end, lane], torch.cat(expected), TOL)
        assert torch.count_nonzero(y[end:, lane]) == 0


def test_batch_first_marks_are_lane_first():
    layer = make("gru", batch_first=True)
    plain = make("gru")
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    reset = torch.rand(2, 5) < 0.4
    expected = plain(x.transpose(0, 1), reset=reset.T)[0].transpose(0, 1)
    assert_close(layer(x, reset=reset)[0], expected, 0.0)


@given(
    kind=st.sampled_from(sorted(LAYERS)),
    steps=st.integers(1, 6),
    lanes=st.integers(1, 4),
    layers=st.integers(1, 2),
    both=st.booleans(),
    data=st.data(),
)
def test_an_empty_lane_hands_its_state_on(kind, steps, lanes, layers, both, data):
    """Empty lanes put out zeros, keep their state and its gradient, and touch no other."""
    ends = data.draw(st.lists(st.integers(0, steps), min_size=lanes, max_size=lanes))
    lengths = torch.tensor(ends)
    layer = make(kind, num_layers=layers, bidirectional=both)
    # Padding, and so all of an empty lane, may hold anything.
    x = torch.randn(steps, lanes, 3, dtype=torch.float64)
    x.masked_fill_((torch.arange(steps)[:, None] >= lengths)[..., None], torch.nan)
    rows = layers * (1 + both)
    start = [torch.randn(rows, lanes, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    used = start if kind == "lstm" else start[:1]
    y, final = layer(x, tuple(used) if kind == "lstm" else used[0], lengths=lengths)
    leaves = [*used, *layer.parameters()]
    weigh = [torch.randn_like(f) for f in parts(final)]
    total = y.sum() + sum((f * w).sum() for f, w in zip(parts(final), weigh, strict=True))
    got = torch.autograd.grad(total, leaves)

    full, empty = lengths > 0, lengths == 0
    assert torch.count_nonzero(y[:, empty]) == 0
    for f, s, g, w in zip(parts(final), used, got, weigh, strict=False):
        assert_close(f[:, empty], s[:, empty], 0.0, "state of an empty lane")
        assert_close(g[:, empty], w[:, empty], 0.0, "its gradient")
    if full.any():  # and the others as if the empty ones had not been there
        others = [s[:, full] for s in used]
        y2, final2 = layer(
            x[:, full], tuple(others) if kind == "lstm" else others[0], lengths=lengths[full]
        )
        total = y2.sum() + sum(
            (f * w[:, full]).sum() for f, w in zip(parts(final2), weigh, strict=True)
        )
        expected = torch.autograd.grad(total, list(layer.parameters()))
        assert_close(y[:, full], y2, TOL)
        assert_close(got[len(used) :], expected, TOL, "gradient", floor=1.0)  # terms are about 1
    else:
        for g in got[len(used) :]:
            assert torch.count_nonzero(g) == 0
