"""Forward mode: real-time recurrent learning is Full, UORO is Full on average."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import bptt
from bptt.errors import ArgumentError
from bptt.gradients import ForwardMode, Full, LiveCarry
from bptt.gradients.forward.rules import RankOne
from compare import assert_close

# The bound is 1e-10; both ways multiply the same few Jacobians, in another order.
TOL = 1e-12


class Predictor(nn.Module):
    """A recurrent layer, with an encoder before it if asked for, and a readout; float64."""

    def __init__(self, layer=nn.GRU, encoder=False, **options):
        super().__init__()
        self.encoder = nn.Linear(3, 3, dtype=torch.float64) if encoder else nn.Identity()
        self.layer = layer(3, 4, dtype=torch.float64, **options)
        self.out = nn.Linear(4, 5, dtype=torch.float64)

    def forward(self, x, carry=None, **marks):
        h, carry = self.layer(self.encoder(x), carry, **marks)
        return self.out(h), carry


class Feedback(nn.Module):
    """A linear recurrence that is not element-wise as a whole: it reads its own last state."""

    def __init__(self):
        super().__init__()
        self.layer = bptt.nn.MinGRU(3, 3, dtype=torch.float64)

    def forward(self, x, carry=None):
        outputs = []
        for x_t in x:
            x_t = x_t if carry is None else x_t + carry[0].tanh()
            y, carry = self.layer(x_t[None], carry)
            outputs.append(y)
        return torch.cat(outputs), carry


class TwiceUsed(nn.Module):
    """A layer whose weight also acts through its own input."""

    def __init__(self):
        super().__init__()
        self.layer = bptt.nn.MinGRU(3, 3, dtype=torch.float64)

    def forward(self, x, carry=None):
        return self.layer(x @ self.layer.weight_ih_l0[:3], carry)


class UserCell(nn.Module):
    """Its own carry, a dict with the lane in front, and a state it learns to start from."""

    def __init__(self):
        super().__init__()
        self.start = nn.Parameter(torch.randn(4, dtype=torch.float64))
        self.cell = nn.GRUCell(3, 4, dtype=torch.float64)
        self.slow = nn.Linear(4, 2, dtype=torch.float64)

    def forward(self, x, carry=None):
        if carry is None:
            h = self.start.expand(x.shape[1], -1)
            carry = {"h": h, "slow": (x.new_zeros(x.shape[1], 2),)}
        outputs = []
        for x_t in x:
            h = self.cell(x_t, carry["h"])
            slow = 0.9 * carry["slow"][0] + self.slow(h).tanh()
            carry = {"h": h, "slow": (slow,)}
            outputs.append(torch.cat([h, slow], -1))
        return torch.stack(outputs), carry


LAYERS = [
    nn.RNN, nn.GRU, nn.LSTM, bptt.nn.RNN, bptt.nn.GRU, bptt.nn.LSTM, bptt.nn.MinGRU, bptt.nn.LRU,
]  # fmt: skip


def batch(steps, lanes, features=5):
    x = torch.randn(steps, lanes, 3, dtype=torch.float64)
    return x, torch.randn(steps, lanes, features, dtype=torch.float64)


def gradient(estimator, model, x, target, loss=F.mse_loss, **call):
    model.zero_grad()
    step = estimator.backward(model, x, target, loss=loss, **call)
    return step, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def check_equal(estimator, model, x, target, loss=F.mse_loss, **call):
    full, exact = gradient(Full(estimator.batch_first), model, x, target, loss, **call)
    step, found = gradient(estimator, model, x, target, loss, **call)
    assert_close(found, exact, TOL)
    assert_close([step.loss, step.carry], [full.loss, full.carry], TOL)
    assert_close([step.terms, step.depth], [full.terms, full.depth], 0)


@given(
    layer=st.sampled_from(LAYERS),
    steps=st.integers(1, 6),
    lanes=st.integers(1, 3),
    layers=st.integers(1, 2),
    encoder=st.booleans(),
    vectorize=st.booleans(),
    lane_axis=st.sampled_from([1, None]),
    carried=st.booleans(),
)
def test_rtrl_is_full(layer, steps, lanes, layers, encoder, vectorize, lane_axis, carried):
    model = Predictor(layer, encoder, num_layers=layers)
    before = type(model.layer)
    x, target = batch(steps, lanes)
    carry = bptt.carry.detach(model(torch.randn_like(x))[1]) if carried else None
    estimator = ForwardMode(vectorize=vectorize, lane_axis=lane_axis)
    check_equal(estimator, model, x, target, carry=carry)
    assert type(model.layer) is before


@pytest.mark.parametrize("layer", [bptt.nn.LSTM, bptt.nn.LRU])
def test_resets_lengths_and_batch_first(layer):
    model = Predictor(layer, batch_first=True)
    x, target = (v.transpose(0, 1) for v in batch(6, 3))
    check_equal(ForwardMode(batch_first=True), model, x, target, reset=torch.rand(3, 6) < 0.4)
    lengths = torch.tensor([6, 1, 4])
    model.zero_grad()
    y, carry = model(x, lengths=lengths)
    F.mse_loss(y, target).backward()
    exact = {n: p.grad.clone() for n, p in model.named_parameters()}
    step, found = gradient(ForwardMode(batch_first=True), model, x, target, lengths=lengths)
    assert_close([found, step.carry], [exact, bptt.carry.detach(carry)], TOL)


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_users_cell_with_its_own_carry(vectorize):
    model, (x, target) = UserCell(), batch(5, 3, features=6)
    check_equal(ForwardMode(lane_axis=0, vectorize=vectorize), model, x, target)
    check_equal(ForwardMode(lane_axis=None), model, x, target)
    carry = bptt.carry.detach(model(x)[1])
    # From a carry the learned start has no part in anything, and gets no gradient.
    check_equal(ForwardMode(lane_axis=0), model, x, target, carry=carry)


class Cells(nn.Module):
    """Each of torch's cells, one after the other, from no state at all."""

    def __init__(self):
        super().__init__()
        self.a = nn.RNNCell(3, 4, nonlinearity="relu", bias=False, dtype=torch.float64)
        self.b = nn.GRUCell(4, 4, dtype=torch.float64)
        self.c = nn.LSTMCell(4, 5, dtype=torch.float64)

    def forward(self, x, carry=None):
        a, b, c = (None, None, None) if carry is None else carry
        outputs = []
        for x_t in x:
            a = self.a(x_t, a)
            b = self.b(a, b)
            c = self.c(b, c)
            outputs.append(c[0])
        return torch.stack(outputs), (a, b, c)


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("lane_axis", [0, None])
def test_torchs_cells(vectorize, lane_axis):
    model, (x, target) = Cells(), batch(4, 3)
    check_equal(ForwardMode(lane_axis=lane_axis, vectorize=vectorize), model, x, target)
    if lane_axis is None:
        check_equal(ForwardMode(lane_axis=None, vectorize=vectorize), model, x[:, 0], target[:, 0])
    assert type(model.b) is nn.GRUCell


@pytest.mark.parametrize("layer", [n for n in LAYERS if n not in (bptt.nn.MinGRU, bptt.nn.LRU)])
def test_a_recurrence_held_orthogonal(layer):
    model = Predictor(layer)
    bptt.remedies.hold_orthogonal(model.layer)
    kind = type(model.layer)
    check_equal(ForwardMode(), model, *batch(6, 2))
    assert type(model.layer) is kind


def test_unbatched_inputs_are_one_state():
    model, (x, target) = Predictor(bptt.nn.GRU), batch(5, 1)
    check_equal(ForwardMode(lane_axis=None), model, x[:, 0], target[:, 0])


@pytest.mark.parametrize("model", [Feedback, TwiceUsed])
def test_what_is_not_elementwise_is_noticed(model):
    model, (x, target) = model(), batch(5, 2, features=3)
    check_equal(ForwardMode(), model, x, target)
    with pytest.raises(ArgumentError, match="method='rtrl'"):
        gradient(ForwardMode("elementwise"), model, x, target)
    with pytest.raises(ArgumentError, match="method='rtrl'"):
        gradient(ForwardMode("elementwise"), Predictor(nn.GRU), *batch(2, 1))


@pytest.mark.parametrize(("layer", "parts", "n"), [(bptt.nn.MinGRU, 1, 4), (bptt.nn.LRU, 2, 8)])
def test_elementwise_influence_is_one_or_two_numbers_a_parameter(layer, parts, n):
    model, (x, target) = Predictor(layer, encoder=True), batch(3, 2)
    step, _ = gradient(ForwardMode("elementwise", online=True), model, x, target)
    for name, influence in step.carry.influence.items():
        size = model.get_parameter(name).numel()
        rows = parts if name.startswith("layer") else n
        assert influence.shape == (rows, 2, size), name
    acting = {name for name in step.carry.influence if name.startswith("layer")}
    assert acting == {f"layer.{name}" for name in model.layer.units()}


@pytest.mark.parametrize("layer", [nn.LSTM, bptt.nn.MinGRU])
def test_online_goes_on_as_if_never_interrupted(layer):
    """Two calls give the gradient of one; with a plain carry they do not."""
    model, (x, target) = Predictor(layer), batch(7, 2)
    _, exact = gradient(Full(), model, x, target, F.mse_loss)
    for online in (True, False):
        estimator = ForwardMode(online=online)
        first, one = gradient(estimator, model, x[:3], target[:3])
        second, two = gradient(estimator, model, x[3:], target[3:], carry=first.carry)
        both = {name: (3 * one[name] + 4 * two[name]) / 7 for name in one}
        if online:
            assert_close(both, exact, TOL)
            assert second.depth.tolist() == [3, 4, 5, 6]
            assert isinstance(second.carry, LiveCarry)
            assert second.carry.age == 7
        else:
            with pytest.raises(AssertionError):
                assert_close(both, exact, 1e-3)
    with pytest.raises(ArgumentError, match="online=True"):
        gradient(ForwardMode(), model, x, target, carry=LiveCarry(*estimator_carry(model, x)))


def estimator_carry(model, x):
    return bptt.carry.detach(model(x)[1]), {}, 1


def test_zeroed_lanes_forget_their_influence_too():
    model, (x, target) = Predictor(nn.GRU), batch(6, 2)
    first, _ = gradient(ForwardMode(online=True), model, x[:3], target[:3])
    fresh = bptt.carry.zero_lanes(first.carry, torch.tensor([True, True]))
    _, found = gradient(ForwardMode(online=True), model, x[3:], target[3:], carry=fresh)
    assert_close(found, gradient(Full(), model, x[3:], target[3:])[1], TOL)


def test_steps_give_each_loss_its_gradient_and_follow_updates():
    """Independent: the chain rule with every step's own parameters, one tensor a step."""
    model, (x, target) = Predictor(nn.RNN), batch(5, 2)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    used, received = [], []
    for step in ForwardMode().steps(model, x, target, loss=F.mse_loss):
        received.append((step.loss, {n: p.grad.clone() for n, p in model.named_parameters()}))
        used.append({n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()})
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
        model.zero_grad()
    assert_close({n: p.detach() for n, p in used[0].items()}, start, 0)
    carry = None
    for t, (value, grads) in enumerate(received):
        output, carry = torch.func.functional_call(model, used[t], (x[t : t + 1], carry))
        loss = F.mse_loss(output, target[t : t + 1])
        assert_close(value, loss.detach(), TOL)
        leaves = [p for u in used[: t + 1] for p in u.values()]
        parts = iter(torch.autograd.grad(loss, leaves, retain_graph=True, materialize_grads=True))
        total = {n: torch.zeros_like(p) for n, p in start.items()}
        for u in used[: t + 1]:
            for name in u:
                total[name] += next(parts)
        assert_close(grads, total, TOL)


def test_tokens_and_ignored_targets():
    model = bptt.models.LanguageModel(7, hidden=4).double()
    nn.init.normal_(model.output.weight)
    tokens, target = torch.randint(7, (6, 2)), torch.randint(7, (6, 2))
    target[2:4] = -100
    check_equal(ForwardMode(), model, tokens, target, bptt.models.token_loss)


@pytest.mark.parametrize("vectorize", [True, False])
def test_dropout_and_gradient_share_their_masks(vectorize):
    """With the random state given, the loss is a function; its slope is the gradient."""
    model = Predictor(bptt.nn.GRU, num_layers=2, dropout=0.5)
    x, target = batch(4, 3)

    def run():
        torch.manual_seed(5)
        return gradient(ForwardMode(vectorize=vectorize), model, x, target)

    step, grads = run()
    torch.manual_seed(6)
    other = gradient(ForwardMode(vectorize=vectorize), model, x, target)[0]
    assert float((other.loss - step.loss).abs()) > 1e-6
    directions = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    values = []
    for sign in (1e-5, -2e-5):
        with torch.no_grad():
            for name, p in model.named_parameters():
                p += sign * directions[name]
        values.append(float(run()[0].loss))
    slope = (values[0] - values[1]) / 2e-5
    expected = float(sum((grads[n] * directions[n]).sum() for n in grads))
    # Central differences: h²·third derivative + rounding/h, both about 1e-10.
    assert slope == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("layer", [nn.RNN, bptt.nn.MinGRU])
def test_uoro_over_all_signs_is_exactly_full(layer, monkeypatch):
    """The mean over every sign that could be drawn, not a sample: 2⁶ draws of n = 2, T = 4."""
    model = layer(3, 2, dtype=torch.float64)
    x, target = batch(4, 1, features=2)
    _, exact = gradient(Full(), model, x, target)
    mean = {name: torch.zeros_like(g) for name, g in exact.items()}
    spread = 0.0
    signs = list(product([1.0, -1.0], repeat=6))
    for drawn in signs:
        rest = iter([*drawn, 1.0, 1.0])  # the last step's signs serve no loss

        def fixed(self, like, rest=rest):
            return torch.tensor([[next(rest), next(rest)]], dtype=like.dtype)

        monkeypatch.setattr(RankOne, "_signs", fixed)
        _, found = gradient(ForwardMode("uoro"), model, x, target)
        for name in mean:
            mean[name] += found[name] / len(signs)
            spread = max(spread, float((found[name] - exact[name]).abs().max()))
    assert_close(mean, exact, TOL)
    assert spread > 1e-3, "a single draw is off, or there was nothing to average"


@pytest.mark.parametrize("lane_axis", [1, None])
def test_the_mean_of_uoro_is_full(lane_axis):
    model, (x, target) = Predictor(nn.LSTM), batch(5, 2)
    _, exact = gradient(Full(), model, x, target)
    directions = {n: torch.randn(8, g.numel(), dtype=torch.float64) for n, g in exact.items()}
    generator = torch.Generator().manual_seed(0)
    estimator = ForwardMode("uoro", generator=generator, lane_axis=lane_axis)
    before, draws = torch.get_rng_state(), 120
    seen = []
    for _ in range(draws):
        _, found = gradient(estimator, model, x, target)
        seen.append(torch.cat([directions[n] @ (found[n] - exact[n]).flatten() for n in exact]))
    assert torch.equal(torch.get_rng_state(), before), "its own generator, and no other"
    values = torch.stack(seen)
    spread = values.std(0) / draws**0.5
    drawn = spread > 1e-12  # the readout's gradient depends on no sign
    off = (values.mean(0) / spread)[drawn]
    # 32 directions and 119 degrees of freedom: beyond 4 with probability 3e-3, and the seed is fixed.
    assert float(off.abs().max()) < 4
    assert 0.1 < float(off.square().mean()) < 3
    assert float(values.mean(0)[~drawn].abs().max()) < 1e-12


def test_uoro_forgets_at_a_reset_and_goes_on_online():
    model, (x, target) = Predictor(bptt.nn.RNN), batch(4, 1)
    reset = torch.tensor([[False], [False], [False], [True]])
    # After the reset nothing of the past reaches the last loss: exact, whatever was drawn.
    weight = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)[:, None, None]
    last = []
    for method in ("uoro", "rtrl"):
        model.zero_grad()
        steps = list(ForwardMode(method).steps(model, x, target, loss=F.mse_loss, reset=reset))
        assert len(steps) == len(weight)
        model.zero_grad()
        carry = steps[2].carry
        _, found = gradient(
            ForwardMode(method), model, x[3:], target[3:], carry=carry, reset=reset[3:]
        )
        last.append(found)
    assert_close(*last, TOL)
    estimator = ForwardMode("uoro", online=True)
    first, _ = gradient(estimator, model, x[:2], target[:2])
    second, _ = gradient(estimator, model, x[2:], target[2:], carry=first.carry)
    assert second.carry.age == 4
    with pytest.raises(ArgumentError, match="the method that made it"):
        gradient(ForwardMode(online=True), model, x, target, carry=first.carry)


@pytest.mark.parametrize("method", ["rtrl", "uoro"])
@pytest.mark.parametrize("layer", [bptt.nn.GRU, bptt.nn.LRU])
def test_nothing_is_kept_of_the_steps_behind(method, layer):
    """What goes on to the next step holds no graph and does not grow."""
    model, (x, target) = Predictor(layer), batch(8, 1)
    sizes = []
    for step in ForwardMode(method, online=True).steps(model, x, target, loss=F.mse_loss):
        handed = list(bptt.carry.tensors(step.carry))
        assert not any(t.requires_grad for t in handed)
        assert not step.loss.requires_grad
        sizes.append(sum(t.untyped_storage().nbytes() for t in handed))
    assert len(set(sizes[1:])) == 1
