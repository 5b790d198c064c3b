"""The gradient split by lag, of any loop, against brute force: each loss by itself, the older cut off."""

from __future__ import annotations

import gc
import warnings

import pytest
import torch
from torch import Tensor, nn

import bptt
from bptt.integrations import WatchWarning, told
from bptt.nn import carry
from bptt.probes.watch import WatchError
from bptt.recurrence import GradedError
from compare import assert_close
from loops_to_watch import LOOPS, B, I, T

LIMIT = 1e-10  # of float64, over some hundred operations

LOSSES = {
    "all": lambda y, w: (y * w).sum(),
    "last": lambda y, w: (y[-1] * w[-1]).sum(),
    "some": lambda y, w: (y[1::2] * w[1::2]).square().sum(),
    "mean": lambda y, w: (y * w).mean().square(),
}


def run(model, x: Tensor, mark=None) -> Tensor:
    torch.manual_seed(7)  # the same masks each time
    return model(x) if mark is None else model(x, mark)


def connections(model, x: Tensor, loss) -> Tensor:
    """(T, T, B): the norm of the gradient of what the loss asks of step t by the states of step s."""
    leaves: list[tuple[int, Tensor]] = []
    states: list[tuple[int, Tensor, Tensor]] = []

    def leaf(state, time):
        def one(value):
            leaves.append((time, value.detach().requires_grad_()))
            return leaves[-1][1].clone()

        return carry.apply(one, state)

    def keep(state, time):
        def one(value):
            out = value.clone()
            states.append((time, value, out))
            return out.clone()

        return carry.apply(one, state)

    loss(run(model, x, leaf)).backward()
    run(model, x, keep)
    last = max(time for time, _ in leaves) + 1
    table = torch.zeros(last, last, B, dtype=torch.float64)
    for t in range(last):
        asked = [
            (raw, own.grad) for (time, raw, _), (_, own) in zip(states, leaves, strict=True)
            if time == t and own.grad is not None and raw.requires_grad
        ]  # fmt: skip
        if not asked:
            continue
        found = torch.autograd.grad(
            [raw for raw, _ in asked], [out for _, _, out in states], [g for _, g in asked],
            allow_unused=True, retain_graph=True,
        )  # fmt: skip
        for (time, _, _), (_, own), g in zip(states, leaves, found, strict=True):
            if time == t and own.grad is not None:
                g = own.grad if g is None else g + own.grad
            if g is not None and time <= t:
                table[t, time] += g.reshape(B, -1).square().sum(1)
    return table.sqrt()


@pytest.mark.parametrize(
    "name", ["dropout", "lstm with dropout", "free running", "encoder and decoder", "stacked",
             "exchange", "three arguments", "layer to cell", "hand", "lengths"],
)  # fmt: skip
def test_which_states_a_loss_depends_on(name: str) -> None:
    torch.manual_seed(3)
    model, x = LOOPS[name]().double(), torch.randn(T, B, I, dtype=torch.float64)
    weight = torch.randn_like(run(model, x))

    def loss(y: Tensor) -> Tensor:
        return (y * weight).square().sum()

    with bptt.watch(model) as flow:
        loss(run(model, x)).backward()
    found = flow._connected
    assert_close(found.sqrt(), connections(model, x, loss), LIMIT, floor=1.0)
    by_lag = [found.diagonal(-lag).sum() for lag in range(len(found))]
    assert_close(torch.stack(by_lag).sqrt(), flow.joint.norms, LIMIT, floor=1.0)


def oracle(model, x: Tensor, loss) -> tuple[Tensor, Tensor, Tensor]:
    """bias (T,), cosine (T,), norms (T,) by brute force."""
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    named = dict(model.named_parameters())
    parameters = [named[n] for n in names if n.split(".")[0] in model.recurrent]
    leaves: list[tuple[int, Tensor]] = []

    def leaf(state, time):
        def one(value):
            leaves.append((time, value.detach().requires_grad_()))
            return leaves[-1][1].clone()

        return carry.apply(one, state)

    loss(run(model, x, leaf)).backward()
    direct = [(time, v.grad) for time, v in leaves]
    last = max(time for time, _ in direct) + 1
    full, parts, norms = None, [], torch.zeros(last, dtype=torch.float64)
    for k in range(1, last + 1):
        total = [torch.zeros_like(p) for p in parameters]
        for t in range(last):
            passed: list[tuple[int, Tensor, Tensor]] = []

            def cut(state, time, t=t, k=k, passed=passed):
                def one(value):
                    out = value.detach() if time <= t - k else value.clone()
                    passed.append((time, value, out))
                    return out.clone()  # it may be written to

                return carry.apply(one, state)

            run(model, x, cut)
            pairs = [
                (raw, g) for (time, raw, _), (_, g) in zip(passed, direct, strict=True)
                if time == t and g is not None and raw.requires_grad
            ]  # fmt: skip
            if not pairs:
                continue
            outs = [out for _, _, out in passed if out.requires_grad]
            found = torch.autograd.grad(
                [r for r, _ in pairs], [*parameters, *outs], [g for _, g in pairs],
                allow_unused=True,
            )  # fmt: skip
            for place, g in enumerate(found[: len(parameters)]):
                if g is not None:
                    total[place] += g
            if k == last:
                reached = iter(found[len(parameters) :])
                for (time, _, out), (_, own) in zip(passed, direct, strict=True):
                    g = next(reached) if out.requires_grad else None
                    if time == t and own is not None:
                        g = own if g is None else g + own
                    if g is not None and time <= t:
                        norms[t - time] += g.square().sum()
        parts.append(torch.cat([g.flatten() for g in total]))
    full = parts[-1]
    bias = torch.stack([(p - full).norm() / full.norm() for p in parts])
    cosine = torch.stack([torch.nan_to_num(p @ full / p.norm() / full.norm()) for p in parts])
    return bias, cosine, norms.sqrt()


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("name", LOOPS)
def test_bias_cosine_and_norms_are_those_of_brute_force(name: str, kind: str) -> None:
    torch.manual_seed(3)
    model = LOOPS[name]().double()
    x = torch.randn(T, B, I, dtype=torch.float64)
    y = run(model, x).detach()
    weight = torch.randn_like(y)

    def loss(y: Tensor) -> Tensor:
        return LOSSES[kind](y, weight)

    torch.manual_seed(3)
    twin = LOOPS[name]().double()
    loss(run(twin, x)).backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with bptt.watch(model, at="every") as flow:
            loss(run(model, x)).backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        assert p.grad is None or torch.equal(p.grad, q.grad)
    bias, cosine, norms = oracle(twin, x, loss)
    spectrum = flow.joint
    assert flow.method == ("layers" if name in ("nothing", "skipping") else "graded")
    assert spectrum.steps == len(bias)
    assert_close(spectrum.measured_bias, bias, LIMIT, floor=1.0)
    assert_close(spectrum.measured_cosine, cosine, LIMIT, floor=1.0)
    # The state that a loop ends with is seen where a tick stands behind the loop.
    first = 1 if name == "hand, no tick behind" else 0
    assert_close(spectrum.norms[first:], norms[first:], LIMIT, floor=float(norms.max()))
    assert flow.horizon == spectrum.horizon()


@pytest.mark.parametrize("name", ["layernorm", "products", "weight norm", "layer to cell"])
@pytest.mark.parametrize("waiting", [1, 100])
def test_products_may_be_multiplied_out_at_any_time(name, waiting, monkeypatch) -> None:
    torch.manual_seed(3)
    model, x = LOOPS[name]().double(), torch.randn(T, B, I, dtype=torch.float64)
    found = []
    for most in (None, waiting):
        if most is not None:
            monkeypatch.setattr("bptt.recurrence.graded.WAITING", most)
        with bptt.watch(model, at=[1, 4, T]) as flow:
            run(model, x).square().sum().backward()
        found.append(flow.joint)
    assert_close(found[1].measured_bias, found[0].measured_bias, 1e-12, floor=1.0)
    assert_close(found[1].gradient_norm, found[0].gradient_norm, 1e-12)


def norm(model) -> float:
    gradients = [p.grad.double() for p in model.parameters() if p.grad is not None]
    return sum(float(g.square().sum()) for g in gradients) ** 0.5


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_two_layers_one_above_the_other_are_what_one_of_two_is(kind: str) -> None:
    """The graded pass over unrolled layers against the closed form of the stack."""
    stack = getattr(nn, kind)(I, 5, 2).double()
    low, high = getattr(nn, kind)(I, 5).double(), getattr(nn, kind)(5, 5).double()
    for one, layer in ((low, 0), (high, 1)):
        one.load_state_dict(
            {n: getattr(stack, n.replace("l0", f"l{layer}")).detach() for n in one.state_dict()}
        )
    x = torch.randn(9, B, I, dtype=torch.float64)
    weight = torch.randn(9, B, 5, dtype=torch.float64)
    two = nn.ModuleList([low, high])
    with bptt.watch(two, at="every") as flow:
        (high(low(x)[0])[0] * weight).sum().backward()
    with bptt.watch(stack, at="every") as whole:
        (stack(x)[0] * weight).sum().backward()
    assert (flow.method, whole.method) == ("graded", "layers")
    assert_close(flow.joint.measured_bias, whole.spectrum.measured_bias, LIMIT, floor=1.0)
    assert_close(flow.joint.measured_cosine, whole.spectrum.measured_cosine, LIMIT, floor=1.0)
    assert flow.horizon == whole.horizon
    assert [m.name for m in flow.modules] == ["0", "1"]


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("owner", [nn, bptt.nn])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_an_encoder_of_two_directions_and_a_decoder(kind, owner, first, packed) -> None:
    """Whatever the layer was given, its steps sum to the gradient that was left."""
    torch.manual_seed(2)
    encoder = getattr(owner, kind)(
        I, 4, 2, bidirectional=True, dropout=0.3, batch_first=first
    ).double()
    decoder = getattr(owner, kind)(I, 8).double()
    x = torch.randn(7, 3, I, dtype=torch.float64)
    given = x.transpose(0, 1) if first else x
    if packed:
        given = nn.utils.rnn.pack_padded_sequence(
            given, torch.tensor([4, 7, 2]), batch_first=first, enforce_sorted=False
        )
    both = nn.ModuleList([encoder, decoder])
    with bptt.watch(both, at="every") as flow:
        _, state = encoder(given)
        h = state[0] if isinstance(state, tuple) else state
        h = torch.tanh(torch.cat([h[-2], h[-1]], -1)).unsqueeze(0)
        y, _ = decoder(x, (h, h) if kind == "LSTM" else h)
        y.square().sum().backward()
    assert flow.method == "graded"
    assert flow.joint.steps == 14
    assert_close(flow.joint.gradient_norm, norm(both), 1e-9)
    assert flow.joint.bias_of(7) > 0


class ByHand(torch.autograd.Function):
    """What no batching rule covers."""

    @staticmethod
    def forward(ctx, h):
        return h * 0.9

    @staticmethod
    def backward(ctx, g):
        return torch.from_numpy(0.9 * g.numpy())


def test_an_operator_without_a_batching_rule() -> None:
    class Numpy(LOOPS["decay"]().__class__):
        def forward(self, x, mark=None):
            h, found = x.new_zeros(B, 4), []
            for value in x:
                h = self.cell(value, h)
                found.append(h)
                h = ByHand.apply(h)
            return torch.stack(found)

    torch.manual_seed(3)
    slow = Numpy("decay").double()
    plain = LOOPS["decay"]().double()
    plain.load_state_dict(slow.state_dict())
    x = torch.randn(T, B, I, dtype=torch.float64)
    found = []
    for model in (slow, plain):
        with bptt.watch(model, at="every") as flow:
            model(x).square().sum().backward()
        found.append(flow.spectrum)
    assert_close(found[0].measured_bias, found[1].measured_bias, LIMIT)


@pytest.mark.parametrize("how", ["nothing", "decay"])
def test_frozen_parameters_are_not_counted(how: str) -> None:
    model = LOOPS[how]().double()
    model.cell.weight_ih.requires_grad_(False)
    with bptt.watch(model, at="every") as flow:
        model(torch.randn(T, B, I, dtype=torch.float64)).square().sum().backward()
    assert set(flow.spectrum.parameters) == {"weight_hh", "bias_ih", "bias_hh"}
    own = [p.grad for p in model.cell.parameters() if p.grad is not None]
    size = sum(float(g.square().sum()) for g in own) ** 0.5
    assert_close(flow.spectrum.gradient_norm, size, 1e-12)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_a_layer_with_parametrized_weights(kind: str) -> None:
    """Measured in the parameters that are trained; a stateful one is not computed once more."""
    layer = getattr(nn, kind)(I, 4).double()
    nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    with bptt.watch(layer, at="every") as flow:
        layer(torch.randn(T, B, I, dtype=torch.float64))[0].square().sum().backward()
    assert flow.method == "graded"
    assert_close(flow.spectrum.gradient_norm, norm(layer), 1e-9)


def test_a_floor_and_a_cap() -> None:
    torch.manual_seed(3)
    model = LOOPS["layernorm"]().double()
    x = torch.randn(T, B, I, dtype=torch.float64)
    found = []
    for options in ({"at": "every"}, {"cap": 3}, {"every": 2}):
        with bptt.watch(model, **options) as flow:
            model(x).square().sum().backward()
        found.append(flow.spectrum)
    assert_close(found[1].measured_bias, found[0].measured_bias[:3], LIMIT)
    assert abs(found[2].bias_of(2) - found[0].bias_of(2)) < 0.02


def test_what_it_says_of_itself() -> None:
    model = LOOPS["encoder and decoder"]()
    with bptt.watch(model) as flow:
        assert repr(flow) == "Flow(nothing measured yet)"
        model(torch.randn(T, B, I)).square().sum().backward()
    assert repr(flow).startswith("Flow(horizon ")
    assert "\n" not in repr(flow)
    assert "together" in flow._repr_html_()
    assert "<script" not in flow._repr_html_()
    assert bptt.plot(flow).axes


class TestNeverHarms:
    @pytest.mark.parametrize("enabled", [True, False])
    def test_garbage_is_collected_as_it_was(self, enabled: bool) -> None:
        before = gc.isenabled()
        (gc.enable if enabled else gc.disable)()
        try:
            with bptt.watch(model := LOOPS["decay"]()):
                model(torch.randn(T, B, I)).square().sum().backward()
            assert gc.isenabled() == enabled
        finally:
            (gc.enable if before else gc.disable)()

    def test_an_error_of_the_measurement_is_raised_at_the_end_of_the_block(
        self, monkeypatch
    ) -> None:
        def broken(*_, **__):
            raise ZeroDivisionError("by the observer")

        monkeypatch.setattr("bptt.probes.watch.begin", broken)
        model = LOOPS["decay"]()
        reached = False
        with pytest.raises(WatchError, match="ZeroDivisionError"), bptt.watch(model):  # noqa: PT012
            model(torch.randn(T, B, I)).sum().backward()
            reached = model.cell.weight_hh.grad is not None
        assert reached

    def test_a_hook_that_changes_the_gradient_is_found_out_and_called_once(self) -> None:
        model, called = LOOPS["decay"](), []

        class Clipped(type(model)):
            def forward(self, x, mark=None):
                y = super().forward(x)
                y.register_hook(lambda g: called.append(1) or g.clamp(-0.1, 0.1))
                return y

        model = Clipped("decay")
        with pytest.raises(GradedError, match="hooks on tensors"), bptt.watch(model):
            model(torch.randn(T, B, I)).square().sum().backward()
        assert called == [1]

    def test_callbacks_say_it_once_and_training_goes_on(self) -> None:
        class Own(nn.GRU):
            """What it returns is written to before it is differentiated."""

            def forward(self, x, h=None):
                y, h = super().forward(x, h)
                return y.add_(1.0), h

        model, done = Own(I, 4), 0
        with warnings.catch_warnings(record=True) as said, told(model, print, 2) as after:
            warnings.simplefilter("always")
            for _ in range(5):
                model(torch.randn(T, B, I))[0].square().mean().backward()
                after()
                done += 1
        assert done == 5
        assert len([w for w in said if w.category is WatchWarning]) == 1


class TestReasons:
    """Each where it applies."""

    def test_a_subclass_with_a_forward_of_its_own(self) -> None:
        class Own(nn.GRU):
            def forward(self, x, h=None):
                return x @ self.weight_ih_l0.T, h

        model = Own(I, 4)
        with pytest.raises(WatchError, match="super"), bptt.watch(model):
            model(torch.randn(T, B, I))[0].sum().backward()

    def test_a_recurrence_inside_one_call(self) -> None:
        class Scan(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Linear(I, I)

            def forward(self, x, h=None):
                return torch.cumsum(self.inner(x), 0), h

        model = Scan()
        with pytest.raises(WatchError, match=r"bptt\.tick"), bptt.watch(model):
            model(torch.randn(T, B, I))[0].sum().backward()
