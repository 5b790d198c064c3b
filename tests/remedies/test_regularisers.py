"""Ω and flossing: their values and gradients by slow computation, what they do, and NaN."""

import pytest
import torch
from torch import nn

import bptt
from bptt.errors import ArgumentError
from bptt.probes import lyapunov_spectrum
from bptt.recurrence import trace
from bptt.remedies import Floss, Omega, hold_orthogonal
from compare import assert_close

T, B, I, H = 6, 3, 2, 4
MAKERS = {
    "rnn": lambda: nn.RNN(I, H),
    "relu": lambda: nn.RNN(I, H, nonlinearity="relu"),
    "gru": lambda: nn.GRU(I, H, num_layers=2),
    "lstm": lambda: bptt.nn.LSTM(I, H),
}


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters()}


def slow_omega(model, x):
    """By definition: every Jacobian and every ∂L/∂h_t by autograd, one step and lane at a time."""
    cell = nn.RNNCell(I, H).double()
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(cell, name, getattr(model, name + "_l0"))
    terms = []
    for b in range(B):
        h, line = torch.zeros(H).double(), []
        for t in range(T):
            h = cell(x[t, b], h)
            h.retain_grad()
            line.append(h)
        torch.stack(line)[2:].square().sum().backward()
        deltas, states = [s.grad for s in line], [s.detach() for s in line]
        for t in range(1, T):
            J = torch.autograd.functional.jacobian(
                lambda s, t=t, b=b: cell(x[t, b], s), states[t - 1], create_graph=True
            )
            terms.append(((J.T @ deltas[t]).norm() / deltas[t].norm() - 1) ** 2)
    model.zero_grad()
    value = torch.stack(terms).mean()
    value.backward()
    return value.item(), gradients(model)


def test_omega_is_what_the_paper_defines():
    model, x = nn.RNN(I, H).double(), torch.randn(T, B, I).double()
    expected, wanted = slow_omega(model, x)
    model.zero_grad()
    model(x)[0][2:].square().sum().backward()
    plain = gradients(model)
    model.zero_grad()
    with Omega(0.5).on(model) as done:
        model(x)[0][2:].square().sum().backward()
    assert done.value == pytest.approx(expected, rel=1e-10)
    for name, gradient in gradients(model).items():
        assert_close(gradient, plain[name] + 0.5 * wanted[name], 1e-10, name)
    assert wanted["weight_hh_l0"].abs().max() > 1e-3


def test_omega_of_an_orthogonal_linear_recurrence_is_zero():
    """ReLU held open: J is W itself, and an orthogonal one keeps every length."""
    model = nn.RNN(I, H, nonlinearity="relu").double()
    nn.init.orthogonal_(model.weight_hh_l0)
    nn.init.constant_(model.bias_ih_l0, 100.0)
    h0 = torch.full((1, B, H), 1e6).double()
    with torch.no_grad():
        model.weight_hh_l0.copy_(torch.eye(H)[torch.tensor([1, 2, 3, 0])])
    with Omega().on(model) as done:
        model(torch.randn(T, B, I).double(), h0)[0].sum().backward()
    assert done.value < 1e-20
    with torch.no_grad():
        model.weight_hh_l0.mul_(1.5)
    with Omega().on(model) as done:
        model(torch.randn(T, B, I).double(), h0)[0][-1].sum().backward()
    assert done.value == pytest.approx(0.25, rel=1e-9)  # (1.5 - 1)²


def test_flossing_measures_the_exponents_of_the_probe():
    model, x = nn.GRU(I, H).double(), torch.randn(20, 1, I).double()
    (recurrence,) = trace(model, x)
    for count in (1, 3, H):
        found = lyapunov_spectrum(recurrence, count=count).exponents
        with Floss(count=count).on(model) as done:
            model(x)[0].sum().backward()
        assert done.value == pytest.approx(float(found.square().mean()), rel=1e-9)


def test_the_gradient_of_flossing_by_finite_differences():
    model, x = nn.RNN(I, H).double(), torch.randn(T, 1, I).double()

    def value():
        with Floss(count=2).on(model) as done:
            model(x)[0].sum().backward()
        return done.value

    model(x)[0].sum().backward()
    plain = model.weight_hh_l0.grad.clone()
    model.zero_grad()
    value()
    gradient = model.weight_hh_l0.grad - plain
    step = 1e-6
    for place in ((0, 0), (1, 3), (3, 2)):
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                model.weight_hh_l0[place] += sign * step
            sides.append(value())
            with torch.no_grad():
                model.weight_hh_l0[place] -= sign * step
        # Central differences err by step² and by 2⁻⁵³/step, each about 1e-10 here.
        assert float(gradient[place]) == pytest.approx(
            (sides[0] - sides[1]) / (2 * step), rel=1e-5, abs=1e-7
        )


DESCENTS = [(name, Omega()) for name in MAKERS]
# Not ReLU: units that are shut all along the sequence have an exponent of minus infinity.
DESCENTS += [(name, Floss(count=2)) for name in MAKERS if name != "relu"]


@pytest.mark.parametrize(("name", "regulariser"), DESCENTS, ids=str)
def test_descending_on_the_penalty_lowers_it(name, regulariser):
    model, x = MAKERS[name](), torch.randn(T, B, I)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    values = []
    for _ in range(15):
        optimizer.zero_grad()
        with regulariser.on(model) as done:
            (0.0 * model(x)[0].square().sum() + model(x)[0][-1].sum()).backward()
            for p in model.parameters():  # the penalty's gradient alone
                p.grad.zero_()
        values.append(done.value)
        optimizer.step()
    assert values[-1] < values[0]


class Own(nn.Module):
    """A cell of the user's, which returns an output beside its state."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(I + H, H)

    def forward(self, x, h):
        h = torch.tanh(self.inner(torch.cat([x, h], -1)))
        return h.square(), h


@pytest.mark.parametrize("regulariser", [Omega(), Floss(count=2)], ids=["omega", "floss"])
def test_cells_and_both_directions(regulariser):
    cell = Own()
    both = nn.GRU(I, H, bidirectional=True, num_layers=2)
    plain = nn.GRUCell(I, H)
    for model in (cell, both, plain):
        with regulariser.on(model) as done:
            x = torch.randn(T, B, I)
            if model is both:
                model(x)[0].sum().backward()
            else:
                h, total = torch.zeros(B, H), 0.0
                for step in x:
                    out = model(step, h)
                    y, h = out if isinstance(out, tuple) else (out, out)
                    total = total + y.sum()
                total.backward()
        assert done.acted
        assert done.recurrences == (4 if model is both else 1)
        assert all(p.grad is not None for p in model.parameters())


def test_a_parametrized_weight_is_regularised_through_what_it_is_made_of():
    model = hold_orthogonal(nn.RNN(I, H))
    x = torch.randn(T, B, I)
    model(x)[0].sum().backward()
    plain = model.parametrizations.weight_hh_l0.original.grad.clone()
    model.zero_grad()
    with Omega().on(model) as done:
        model(x)[0].sum().backward()
    assert done.acted
    assert not torch.equal(model.parametrizations.weight_hh_l0.original.grad, plain)


@pytest.mark.parametrize("regulariser", [Omega(), Floss()], ids=["omega", "floss"])
@pytest.mark.parametrize("kind", ["nan weight", "infinite loss", "singular"])
def test_what_is_not_finite_leaves_everything_as_it_was(regulariser, kind):
    model, x = nn.RNN(I, H, nonlinearity="relu"), torch.randn(T, B, I)
    weight = 1.0
    with torch.no_grad():
        if kind == "nan weight":
            model.weight_hh_l0[0, 0] = torch.nan
        elif kind == "infinite loss":
            weight = torch.inf
        else:
            model.weight_hh_l0.zero_()  # log 0
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    (weight * model(x)[0].sum()).backward()
    plain = gradients(model)
    model.zero_grad()
    with regulariser.on(model) as done:
        (weight * model(x)[0].sum()).backward()
    if not (kind == "singular" and isinstance(regulariser, Omega)) and not (
        kind == "infinite loss" and isinstance(regulariser, Floss)
    ):
        assert (done.finite, done.acted, done.verdict) == (False, False, "left: not finite")
        for name, gradient in gradients(model).items():
            assert torch.equal(gradient.nan_to_num(7.0), plain[name].nan_to_num(7.0)), name
    else:
        assert all(p.grad.isfinite().all() or weight == torch.inf for p in model.parameters())
    for name, p in model.named_parameters():
        assert torch.equal(p.detach().nan_to_num(7.0), before[name].nan_to_num(7.0))


def test_flossing_finds_the_whole_lanes_among_all():
    model, x = bptt.nn.GRU(I, H), torch.randn(T, 6, I)
    reset = torch.zeros(T, 6, dtype=torch.bool)
    reset[3, [0, 3]] = True  # where two lanes of six, evenly spaced, would be
    with Floss(count=2).on(model) as done:
        model(x, reset=reset)[0].sum().backward()
    assert done.acted
    with pytest.raises(ArgumentError, match="a lane without reset"), Floss(count=2).on(model):
        model(x, reset=reset | (torch.arange(T) == 2)[:, None])[0].sum().backward()


@pytest.mark.parametrize("layer", [bptt.nn.MinGRU, bptt.nn.LRU])
def test_omega_of_a_linear_recurrence_is_refused(layer):
    # Their output is computed beside the state, and its gradient is no part of the state's.
    model = layer(I, H)
    with pytest.raises(ArgumentError, match=layer.__name__), Omega().on(model):
        model(torch.randn(T, B, I))[0].sum().backward()


def test_nothing_recurrent_in_the_block():
    with pytest.raises(ArgumentError, match="inside the block"), Omega().on(nn.GRU(I, H)):
        pass
    linear = nn.Linear(I, H)
    with pytest.raises(ArgumentError, match="inside the block"), Omega().on(linear):
        linear(torch.randn(T, B, I)).sum().backward()
    with pytest.raises(ArgumentError, match="weight"):
        Omega(0.0)
    with pytest.raises(ArgumentError, match="count"):
        Floss(count=0)


def test_an_error_inside_the_block_comes_out_as_it_is():
    model = nn.GRU(I, H)
    with pytest.raises(ZeroDivisionError), Omega().on(model):
        1 / 0
    assert not model._forward_hooks
